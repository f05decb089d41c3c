//! What an administrator can order, as it goes from the core of the console to all cores.

use std::sync::Arc;

use crate::console::snapshot::Snapshot;
use crate::rules::Rules;

/// An order. `database: None` means all of them. It is carried out by every core; how the cores'
/// answers become one is the console's business.
#[derive(Clone, Debug)]
pub enum Command {
    /// Let no client get a server any more; answered when every server is back in its pool (in
    /// session mode: when the clients have gone), and all are closed.
    Pause {
        database: Option<String>,
    },
    /// Let clients get servers again, after Pause, Disable stays as it is.
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
    /// Close every server connection as soon as it is free, so that new ones are opened.
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
    /// Stop reading from clients after what they have begun; until Resume.
    Suspend,
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
