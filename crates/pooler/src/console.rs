//! The console: a virtual database in which administrators look at the pooler and steer it.
//!
//! A client of database `howdah` (or `pgbouncer`) never gets a server. What it types is read by
//! `statement`, its protocol spoken by `session`; `run` asks all cores through [`Host`] and `show`
//! makes rows of their snapshots.

mod columns;
mod run;
mod session;
mod show;
pub mod snapshot;
mod statement;
mod table;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use pg::sqlstate::SqlState;
use pg::wire::error::Report;

use crate::command::{Answer, Command};
use crate::limits::CONSOLE_MESSAGE_BYTES_MAX;
use crate::rules::{ConsoleRight, Rules};
use crate::settings::Settings;
use crate::settings::file::SettingsError;

use session::{Next, Session};

pub use statement::Shutdown;

/// Names of the virtual database; `pgbouncer` is there for existing tools.
pub const CONSOLE_DATABASES: [&str; 2] = ["howdah", "pgbouncer"];

/// What the console reports as `server_version`. Tools look for the word after the slash, and
/// compare the number with the PgBouncer version whose SHOW columns they know.
pub const SERVER_VERSION: &str = "1.26.0/bouncer";

/// Parameters that a console client is told after it has logged in.
pub const WELCOME_PARAMETERS: [(&str, &str); 7] = [
    ("server_version", SERVER_VERSION),
    ("client_encoding", "UTF8"),
    ("server_encoding", "UTF8"),
    ("DateStyle", "ISO"),
    ("TimeZone", "GMT"),
    ("standard_conforming_strings", "on"),
    ("is_superuser", "on"),
];

/// A future that lives on its core.
pub type Later<T> = Pin<Box<dyn Future<Output = T>>>;

/// Done, or everything that is wrong with the new configuration.
pub type Accepted = Result<(), Vec<SettingsError>>;

/// What the console needs of the pooler around it. One for each core.
pub struct Host {
    /// Sends an order to all cores and waits for all answers, in the order of the cores.
    pub ask: Box<dyn Fn(Command) -> Later<Vec<Answer>>>,
    /// The rules that new clients get.
    pub rules: Box<dyn Fn() -> Arc<Rules>>,
    /// Reads the configuration again, makes rules of it and gives them to all cores. An error has
    /// changed nothing. Also what SIGHUP does.
    pub reload: Box<dyn Fn() -> Later<Accepted>>,
    /// The same with these settings, for SET.
    pub replace: Box<dyn Fn(Settings) -> Later<Accepted>>,
    /// Begins to stop; the answer to the client may or may not reach it.
    pub shutdown: Box<dyn Fn(Shutdown)>,
}

/// The console's side of one client, after it has logged in.
pub struct Console {
    right: ConsoleRight,
    user: String,
    session: Session,
    /// Received, but not a whole message yet.
    input: Vec<u8>,
}

/// Whether the connection goes on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Flow {
    Continue,
    /// Send what has been written, then close.
    Close,
}

impl Console {
    #[must_use]
    pub fn new(user: &str, right: ConsoleRight) -> Self {
        Self { right, user: user.to_owned(), session: Session::default(), input: Vec::new() }
    }

    /// Takes received bytes, carries out what they ask for, and appends the answers to `out`.
    ///
    /// Waits for the cores; bytes that come meanwhile are to be fed afterwards.
    pub async fn feed(&mut self, bytes: &[u8], host: &Host, out: &mut Vec<u8>) -> Flow {
        self.input.extend_from_slice(bytes);
        loop {
            let (kind, body_bytes) = match header(&self.input) {
                Ok(Some(header)) => header,
                Ok(None) => return Flow::Continue,
                Err(report) => {
                    report.write(out);
                    return Flow::Close;
                }
            };
            let message_bytes = HEADER_BYTES + body_bytes;
            let Some(body) = self.input.get(HEADER_BYTES..message_bytes) else {
                return Flow::Continue;
            };
            let next = self.session.message(kind, body, out);
            self.input.drain(..message_bytes);
            match next {
                Next::Continue => {}
                Next::Run(statement) => {
                    let result = run::run(statement, &self.user, self.right, host).await;
                    self.session.finish(result, out);
                }
                Next::Close | Next::Fail => return Flow::Close,
            }
        }
    }
}

const HEADER_BYTES: usize = 5;

/// Kind and length of the body of the first message; `None` if they have not arrived.
fn header(input: &[u8]) -> Result<Option<(u8, usize)>, Report> {
    let Some((&[kind, a, b, c, d], _rest)) = input.split_first_chunk() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    match length.checked_sub(4) {
        Some(body) if body <= CONSOLE_MESSAGE_BYTES_MAX => Ok(Some((kind, body))),
        _ => Err(Report::fatal(SqlState::PROTOCOL_VIOLATION, "invalid message length")),
    }
}

/// What SHOW VERSION says.
#[must_use]
pub fn version() -> String {
    format!("Howdah {} (PgBouncer 1.26.0 compatible)", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests;
