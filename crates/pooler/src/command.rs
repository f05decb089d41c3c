//! What an administrator can order, as it goes from the core of the console to all cores.

use std::sync::Arc;

use crate::console::snapshot::Snapshot;
use crate::rules::Rules;

/// What an administrator types to change something. `database: None` means all of them. It is carried out by
/// every core; how the cores' answers become one is the console's business.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Let no client get a server any more; answered when every server is back in its pool (in
    /// session mode: when the clients have gone), and all are closed.
    Pause {
        database: Option<String>,
    },
    /// Let clients get servers again, after Pause, Kill and Suspend; Disable stays as it is.
    Resume {
        database: Option<String>,
    },
    /// Refuse new clients.
    Disable {
        database: String,
    },
    Enable {
        database: String,
    },
    /// Close every server connection as soon as it is free, so that new ones are opened. Replication
    /// connections are never free: they are closed at once.
    Reconnect {
        database: Option<String>,
    },
    /// Drop all clients and servers at once and let no client get a server until Resume.
    Kill {
        database: Option<String>,
    },
    /// Drop the client with this number, as SHOW CLIENTS gives it in `id`.
    KillClient {
        id: u64,
    },
    /// Answered when all servers that Reconnect marked are closed.
    WaitClose {
        database: Option<String>,
    },
    /// Take no new clients and read nothing more, from clients and servers alike, behind the messages that
    /// have begun; until Resume. Answered when those are through.
    Suspend,
}

impl Order {
    /// Its word, which is also the tag that it is answered with.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Order::Pause { .. } => "PAUSE",
            Order::Resume { .. } => "RESUME",
            Order::Disable { .. } => "DISABLE",
            Order::Enable { .. } => "ENABLE",
            Order::Reconnect { .. } => "RECONNECT",
            Order::Kill { .. } => "KILL",
            Order::KillClient { .. } => "KILL_CLIENT",
            Order::WaitClose { .. } => "WAIT_CLOSE",
            Order::Suspend => "SUSPEND",
        }
    }

    /// The one database that it is about.
    #[must_use]
    pub fn database(&self) -> Option<&str> {
        match self {
            Order::Pause { database }
            | Order::Resume { database }
            | Order::Reconnect { database }
            | Order::Kill { database }
            | Order::WaitClose { database } => database.as_deref(),
            Order::Disable { database } | Order::Enable { database } => Some(database),
            Order::KillClient { .. } | Order::Suspend => None,
        }
    }
}

/// What goes to every core.
#[derive(Clone, Debug)]
pub enum Command {
    Order(Order),
    /// Take no new clients; answered when the servers are free, or the clients gone.
    Finish(Finish),
    /// Take new rules (settings, user list, HBA; all checked before, so a core cannot refuse them).
    /// Clients keep the version that they logged in by.
    Reload {
        rules: Arc<Rules>,
    },
    /// Which targets have routes, and how many clients.
    Targets,
    /// A target's server has gone: its clients wait for the next one.
    TargetLost {
        target: String,
    },
    /// A target's server is to be stopped, unless it has clients: [`Answer::Busy`] then.
    ReleaseTarget {
        target: String,
    },
    /// Collect what SHOW prints.
    Snapshot,
}

/// What a pooler waits for before it stops.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Finish {
    /// Every server is free. Clients that would have to wait for one are sent away.
    Servers,
    /// Every client has gone.
    Clients,
}

/// One core's answer.
#[derive(Debug)]
pub enum Answer {
    Done,
    /// The order names a database or client that this core does not have.
    Unknown,
    Snapshot(Box<Snapshot>),
    /// Targets by name, with their clients.
    Targets(Vec<(String, u32)>),
    Busy,
}
