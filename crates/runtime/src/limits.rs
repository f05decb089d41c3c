//! Every bound of this crate, with its reason.

use std::time::Duration;

// Log lines.

/// Largest piece of a line written at once: a pipe that polls writable has at least one free page, and a write of
/// at most `PIPE_BUF` bytes is not torn between writers.
pub const LOG_WRITE_BYTES_MAX: usize = 4096;
/// How long the first line waits for a stalled standard error before lines are dropped: long enough for a busy
/// reader, short enough that no core misses a beat that matters.
pub const LOG_STALL_WAIT: Duration = Duration::from_millis(50);

// Bridge to tokio and blocking work.

/// Threads for closures that block: file and name look-ups, of which a few at a time keep a disk or resolver busy.
pub const BLOCKING_THREADS_MAX: usize = 8;
/// Closures waiting for such a thread; beyond it a new one is refused at once.
pub const BLOCKING_QUEUE_MAX: usize = 4096;
/// How long an idle thread stays around for the next closure.
pub const BLOCKING_IDLE: Duration = Duration::from_secs(10);
/// How long stopping the bridge waits for tasks that run on it.
pub const BRIDGE_STOP_WAIT: Duration = Duration::from_secs(2);

// Metrics.

/// Label combinations of one metric: more is a mistake (a label taken from user input), and the surplus shares
/// one series labelled `overflow`.
pub const METRIC_SERIES_MAX: usize = 10_000;

// Executor.

/// Cores of one process: a bit of static memory each, and 8 bits in a packed waker.
pub const CORES_MAX: usize = 128;
/// Tasks of one core: a connection has two or three, descriptors end long before.
pub const TASKS_MAX: u32 = 1 << 20;
/// Task polls between two looks at the kernel, so that tasks that wake one another can't starve the sockets.
pub const TASKS_PER_TURN_MAX: usize = 512;
/// Receives of a task in one poll: with page-sized buffers 128 KiB, a good stretch of work for one connection.
pub const RECEIVES_PER_POLL_MAX: u32 = 32;

// Buffers.

/// Largest memory of a send queue that is kept for the next one; a larger one held a burst and is freed.
pub const SEND_BUFFER_BYTES_KEPT_MAX: usize = 16 * 1024;
/// Free send queues' memory kept per core: as many connections rarely send in one turn.
pub const SEND_BUFFERS_KEPT_MAX: usize = 256;
/// Receive buffers of a core: as many as are in use at once, which is far fewer than connections.
pub const RECEIVE_BUFFERS: usize = 1024;
/// Size of a receive buffer: a page, which most messages fit.
pub const RECEIVE_BUFFER_BYTES: usize = 4096;

// Sockets.

/// Events taken from the kernel per turn; more come with the next.
pub const EVENTS_PER_TURN_MAX: usize = 1024;
/// Connections the kernel holds until they are accepted, if it allows that many.
pub const LISTEN_BACKLOG: u32 = 4096;
/// How long a deferred connection may be silent before it is accepted all the same. The kernel counts in repetitions
/// of its handshake, of which this is the first.
pub const DEFERRED_SECONDS: u32 = 1;
/// How long a listener waits when descriptors have run out.
pub const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);
/// How long to wait before trying again a Unix listener whose backlog is full.
pub const CONNECT_RETRY: Duration = Duration::from_millis(2);
/// A slice this large is offered to the socket at once, which saves copying it.
pub const DIRECT_SEND_BYTES: usize = 8 * 1024;

// Nodepool.

/// Commands waiting for a core: one start or stop at a time, and reports as often as somebody asks.
pub const COMMANDS_QUEUED_MAX: usize = 64;
/// Orders to stop that are not yet obeyed; more say nothing new.
pub const ORDERS_QUEUED_MAX: usize = 8;
/// Signals received and not yet looked at; more say nothing new.
pub const SIGNALS_QUEUED_MAX: usize = 16;
/// How long draining may take where nobody says otherwise.
pub const DRAIN_WAIT: Duration = Duration::from_secs(60);
/// How long stopping now may take where nobody says otherwise: time for a database's fast shutdown.
pub const STOP_NOW_WAIT: Duration = Duration::from_secs(30);
/// How long a core that has nothing left to do may take to end.
pub const CORE_END_WAIT: Duration = Duration::from_secs(1);

// Child processes.

/// Longest line of a child's output; a longer one is cut into several.
pub const CHILD_LINE_BYTES_MAX: usize = 8 * 1024;
/// Bytes of each output stream kept of a child that runs to its end: the last ones, which say why it failed.
pub const CHILD_OUTPUT_BYTES_MAX: usize = 1024 * 1024;
/// How long the end of a child's output is waited for after its exit: grandchildren may hold the pipe open.
pub const CHILD_OUTPUT_WAIT: Duration = Duration::from_secs(1);

// io_uring.

/// Entries of the submission queue; when it is full it is submitted early.
pub const RING_SUBMISSIONS: u32 = 1024;
/// Entries of the completion queue; the kernel keeps what does not fit.
pub const RING_COMPLETIONS: u32 = 8192;
/// Bytes received and not yet read at which a connection stops receiving. A little more may already be on its way.
pub const RECEIVE_QUEUE_BYTES_MAX: usize = 64 * 1024;
/// Connections accepted and not yet asked for at which a listener stops accepting.
pub const ACCEPTED_MAX: usize = 256;
/// With fewer connections to send on in a turn, each is sent to directly: a completion would only end the next wait.
pub const DIRECT_SEND_CONNECTIONS: usize = 8;

// TLS.

/// Bytes of a handshake, both certificate chains included; rustls takes 64 KiB for one message.
pub const TLS_HANDSHAKE_BYTES_MAX: usize = 128 * 1024;
/// Plain bytes encrypted before they are handed to the socket: four full records, which stay in the cache.
pub const TLS_ENCRYPT_BYTES_MAX: usize = 64 * 1024;
/// Memory a core keeps for bytes on their way through TLS.
pub const TLS_SCRATCH_BYTES_KEPT_MAX: usize = 128 * 1024;

// API.

/// Connections of the API at a time: people, a scraper, a prober.
pub const API_CONNECTIONS_MAX: usize = 64;
/// How long a connection of the API may do nothing.
pub const API_IDLE_WAIT: Duration = Duration::from_secs(90);
/// How long a request may take where nobody says otherwise.
pub const API_REQUEST_WAIT: Duration = Duration::from_secs(30);
/// Largest body of a request where nobody says otherwise: it is configuration, not data.
pub const API_BODY_BYTES_MAX: usize = 1024 * 1024;
/// Largest answer that our own commands read from an API.
pub const API_ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long the cores are asked about themselves: each answers within a turn unless it is stuck.
pub const API_NODES_WAIT: Duration = Duration::from_secs(1);
/// How long requests under way may take when the API stops.
pub const API_STOP_WAIT: Duration = Duration::from_secs(5);
/// A token shorter than this can be guessed.
pub const API_TOKEN_BYTES_MIN: usize = 16;
/// A token longer than this is some other file.
pub const API_TOKEN_BYTES_MAX: usize = 4096;

// A request that is being answered is not an idle connection.
const _: () = assert!(API_IDLE_WAIT.as_secs() > API_REQUEST_WAIT.as_secs());
