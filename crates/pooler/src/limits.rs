//! Every bound of the pooler that is not a setting, with its reason.

/// Bytes that may wait to be sent to one client before its server is read no further: a slow
/// reader costs this much memory and no more.
pub(crate) const CLIENT_SEND_BYTES_HIGH: usize = 256 * 1024;
/// Reading goes on below this many bytes, so that a draining client is fed before it runs dry.
pub(crate) const CLIENT_SEND_BYTES_LOW: usize = 64 * 1024;
/// The same for requests on their way to a server.
pub(crate) const SERVER_SEND_BYTES_HIGH: usize = 256 * 1024;
pub(crate) const SERVER_SEND_BYTES_LOW: usize = 64 * 1024;

/// Received pieces that one client's task handles before it lets the others of its core run.
pub(crate) const TURN_PIECES_MAX: usize = 16;

/// Requests of one client that its server has not answered yet. A client that pipelines more is
/// not read until replies come back.
pub(crate) const PENDING_REQUESTS_MAX: usize = 64 * 1024;

/// A request that waits for a server keeps its bytes in the core's receive buffers up to this many
/// clients; beyond, they are copied, so that waiting clients cannot use up the buffers that replies need.
pub(crate) const HELD_CHUNKS_MAX: usize = 512;

/// Bytes that a client may send on while it waits for a server, before it is read no further.
pub(crate) const HELD_BYTES_MAX: usize = 64 * 1024;

/// Longest Parse message: it is kept for as long as the statement lives.
pub(crate) const STATEMENT_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// Longest names of a portal and a prepared statement in Bind, Describe and Close.
pub(crate) const NAMES_BYTES_MAX: usize = 8 * 1024;
/// Prepared statements that one client may hold.
pub(crate) const CLIENT_STATEMENTS_MAX: usize = 16 * 1024;

/// Longest ReadyForQuery, ParameterStatus, CommandComplete (or error of a query of ours) of a server.
pub(crate) const COLLECTED_BYTES_MAX: u32 = 64 * 1024;

/// Parameters that a client may set when it connects.
pub(crate) const STARTUP_PARAMETERS_MAX: usize = 64;
/// Longest value of a parameter that is carried from server to server.
pub(crate) const PARAMETER_BYTES_MAX: usize = 1024;
/// Parameters that a server may report, at login.
pub(crate) const SERVER_PARAMETERS_MAX: usize = 128;

/// Log-ins in progress on one core; more connections wait in the kernel's backlog.
pub(crate) const LOGINS_MAX: usize = 1024;
/// How long no connection is accepted when there are so many.
pub(crate) const LOGINS_FULL_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);
/// Longest message of either side during log-in.
pub(crate) const HANDSHAKE_BYTES_MAX: usize = 64 * 1024;
/// SSLRequest and GSSENCRequest that may precede a start-up packet.
pub(crate) const NEGOTIATIONS_MAX: usize = 3;
/// Server connections that one pool opens at a time on one core, so that a burst of clients does
/// not become a burst of forks.
pub(crate) const OPENINGS_MAX: usize = 4;
/// Cancel requests under way to servers, per core; more are dropped, as Postgres drops them.
pub(crate) const CANCELS_MAX: usize = 256;
/// Messages between two cores that have not been read yet.
pub(crate) const MAILBOX_CAPACITY: usize = 4096;

/// A waiter that is older than this asks other cores for a server.
pub(crate) const STARVED_MS: u64 = 10;

/// Users and databases of which one core remembers how to log in to servers.
pub(crate) const REMEMBERED_MAX: usize = 16 * 1024;

/// Routes to targets (`shop@feature`) of one core: more are refused, so that nobody fills the memory with names.
pub(crate) const TARGET_ROUTES_MAX: usize = 1024;
/// How soon the address of a target is asked for again that let nobody in.
pub(crate) const TARGET_RETRY: std::time::Duration = std::time::Duration::from_millis(100);
/// How long clients are held for a target that is said to run and lets nobody in.
pub(crate) const TARGET_HELD_MAX: std::time::Duration = std::time::Duration::from_secs(60);

/// Host names of servers that one core remembers.
pub(crate) const HOST_NAMES_MAX: usize = 1024;
/// Addresses of one name that are tried.
pub(crate) const HOST_ADDRESSES_MAX: usize = 16;

/// Length of the cancel keys that we hand out under protocol 3.2.
pub(crate) const CANCEL_KEY_BYTES: usize = 16;

/// Longest user name in a user list: Postgres' own names have 63 bytes, PgBouncer reads 127.
pub(crate) const USERLIST_NAME_BYTES_MAX: usize = 256;
/// Longest secret in a user list: PgBouncer reads 2047; tokens used as passwords may be longer.
pub(crate) const USERLIST_SECRET_BYTES_MAX: usize = 4096;
/// Files that configuration files may include one inside the other: more is a circle.
pub(crate) const INCLUDE_DEPTH_MAX: usize = 10;
/// Prepared statements and portals that one console client may hold: drivers cache a few hundred.
pub(crate) const CONSOLE_STATEMENTS_MAX: usize = 512;
/// Longest message of a console client: a command is a line of text.
pub(crate) const CONSOLE_MESSAGE_BYTES_MAX: usize = 64 * 1024;

const _: () = assert!(CLIENT_SEND_BYTES_LOW < CLIENT_SEND_BYTES_HIGH);
const _: () = assert!(SERVER_SEND_BYTES_LOW < SERVER_SEND_BYTES_HIGH);
const _: () = assert!(CANCEL_KEY_BYTES <= pg::limits::CANCEL_KEY_BYTES_MAX);
const _: () = assert!(CANCEL_KEY_BYTES >= pg::limits::CANCEL_KEY_BYTES_V30);
