//! What a core tells the console about itself: plain data, copied at one moment.
//!
//! A core lists only what it holds. The console adds pools of the same database and user up over
//! cores; limits and names that all cores share it takes from the rules.

use crate::settings::PoolMode;
use crate::stats::Counters;
use crate::stats::failures::Failure;

/// One core's state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    pub core: usize,
    /// Version of the rules that new clients of this core get.
    pub rules_version: u64,
    pub state: State,
    /// It waits for clients or servers to go before it stops.
    pub finishing: bool,
    /// One entry per (database, user) that has a pool on this core.
    pub pools: Vec<Pool>,
    /// Clients that have logged in, and cancel requests under way. Console clients count.
    pub clients: Vec<Connection>,
    pub servers: Vec<Connection>,
    /// Connections that have not logged in yet.
    pub login_clients: u64,
    /// Databases that are paused or disabled; the others may be left out.
    pub databases: Vec<DatabaseState>,
    /// Host names of servers that are remembered, and look-ups under way.
    pub names: Vec<HostName>,
    pub lookups: u64,
    /// Buffer pools and other things of a fixed size, for SHOW MEM.
    pub memory: Vec<Memory>,
    /// What went wrong or ended so far.
    pub failures: Vec<(Failure, u64)>,
    /// How long the averages reach back: [`crate::stats::Period::covered`], µs.
    pub averages_cover_micros: u64,
}

/// PAUSE and SUSPEND of everything. With several cores the console shows the least active.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum State {
    #[default]
    Active,
    Paused,
    Suspended,
}

/// One pool on one core.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// The name that clients ask for.
    pub database: String,
    /// The user that servers are logged in as.
    pub user: String,
    pub mode: PoolMode,
    /// Clients that are linked to a server or idle.
    pub cl_active: u64,
    /// Clients that wait for a server.
    pub cl_waiting: u64,
    pub cl_active_cancel_req: u64,
    pub cl_waiting_cancel_req: u64,
    /// Servers that are linked to a client.
    pub sv_active: u64,
    /// Servers that a cancel request is being sent for.
    pub sv_active_cancel: u64,
    /// Servers that wait until cancel requests for them are done.
    pub sv_being_canceled: u64,
    /// Servers that can be used at once.
    pub sv_idle: u64,
    /// Servers idle for so long that they are tested before use.
    pub sv_used: u64,
    /// Servers that run a reset or check query.
    pub sv_tested: u64,
    /// Servers that are being connected or logged in to.
    pub sv_login: u64,
    /// How long the first waiting client has waited, µs.
    pub maxwait_micros: u64,
    /// For `shop@feature`: where that is.
    pub target: Option<Target>,
    pub stats: Counters,
    /// [`crate::stats::PoolStats::counters_before`].
    pub stats_before: Counters,
}

impl Pool {
    /// Everything at zero.
    #[must_use]
    pub fn new(database: impl Into<String>, user: impl Into<String>, mode: PoolMode) -> Self {
        Self {
            database: database.into(),
            user: user.into(),
            mode,
            cl_active: 0,
            cl_waiting: 0,
            cl_active_cancel_req: 0,
            cl_waiting_cancel_req: 0,
            sv_active: 0,
            sv_active_cancel: 0,
            sv_being_canceled: 0,
            sv_idle: 0,
            sv_used: 0,
            sv_tested: 0,
            sv_login: 0,
            maxwait_micros: 0,
            target: None,
            stats: Counters::default(),
            stats_before: Counters::default(),
        }
    }

    /// All server connections, whatever they do.
    #[must_use]
    pub fn servers(&self) -> u64 {
        self.sv_active
            + self.sv_active_cancel
            + self.sv_being_canceled
            + self.sv_idle
            + self.sv_used
            + self.sv_tested
            + self.sv_login
    }
}

/// What a pool whose name has an `@` leads to.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The database whose settings it has.
    pub base: String,
    /// Folder or host, and port, while a server runs.
    pub server: Option<(String, u16)>,
}

/// One line of SHOW CLIENTS or SHOW SERVERS.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Connection {
    /// Unique in this process; what KILL_CLIENT takes.
    pub id: u64,
    pub user: String,
    pub database: String,
    pub replication: Replication,
    pub state: ConnectionState,
    /// The other side's address without port; `unix` for a unix socket.
    pub addr: String,
    pub port: u16,
    pub local_addr: String,
    pub local_port: u16,
    /// Wall clock, µs since 1970.
    pub connect_time_micros: i64,
    /// When the client's last request came (a server: when it was last lent), wall clock; 0: never.
    pub request_time_micros: i64,
    /// How long the present request has waited for a server.
    pub wait_micros: u64,
    /// The connection is closed once it is free.
    pub close_needed: bool,
    /// `id` of the server that a client is linked to, and the other way round.
    pub link: Option<u64>,
    /// Process at the other end: of a unix socket's client, or the backend's.
    pub remote_pid: u32,
    /// `TLSv1.3/TLS_AES_256_GCM_SHA384`, empty without TLS.
    pub tls: String,
    pub application_name: String,
    pub prepared_statements: u64,
}

/// What kind of replication connection it is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Replication {
    #[default]
    None,
    Logical,
    Physical,
}

/// What a connection does. Clients: active, waiting, idle, `…_cancel_req`; servers: the rest.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ConnectionState {
    /// Linked to the other side.
    #[default]
    Active,
    /// A client that has no request, a server that can be used at once.
    Idle,
    /// A client that waits for a server.
    Waiting,
    ActiveCancelRequest,
    WaitingCancelRequest,
    /// A server idle for longer than `server_check_delay`.
    Used,
    Tested,
    /// A server that is being connected or logged in to.
    New,
    ActiveCancel,
    BeingCanceled,
}

impl ConnectionState {
    /// As SHOW CLIENTS and SHOW SERVERS print it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::ActiveCancelRequest => "active_cancel_req",
            Self::WaitingCancelRequest => "waiting_cancel_req",
            Self::Used => "used",
            Self::Tested => "tested",
            Self::New => "new",
            Self::ActiveCancel => "active_cancel",
            Self::BeingCanceled => "being_canceled",
        }
    }
}

/// PAUSE and DISABLE of one database.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DatabaseState {
    pub name: String,
    pub paused: bool,
    pub disabled: bool,
}

/// One line of SHOW DNS_HOSTS.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HostName {
    pub name: String,
    /// For how long it is remembered still.
    pub ttl_seconds: u64,
    /// None: the look-up failed.
    pub addresses: Vec<String>,
}

/// One line of SHOW MEM.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Memory {
    pub name: &'static str,
    /// Bytes of one piece.
    pub size: u64,
    pub used: u64,
    pub free: u64,
}
