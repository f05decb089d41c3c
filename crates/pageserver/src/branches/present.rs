//! The present of a timeline: everything that the server which writes it had flushed when somebody asked.
//!
//! WAL arrives a moment after it was committed. Who names no moment means that one, not what happens to have arrived, so
//! the server is asked how far it is (`IDENTIFY_SYSTEM` tells the position of its flush), and that is waited for.

use pg::lsn::Lsn;
use pg::sqlstate::SqlState;
use runtime::clock;

use super::{At, Branches};
use crate::connection::{Connection, Login, System};
use crate::error::{Error, PageError};
use crate::limits::{PRESENT_TIME_MAX, PRESENT_TIME_MAX_AWAY};
use crate::timeline::Timeline;

/// What of the present is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Present {
    /// All of it; nobody writes the timeline, or its server was asked.
    Whole,
    /// The server that writes it is away: a sentence with the reason. What has arrived is all that there is.
    Away(String),
}

impl Present {
    /// What a person has to know about a result.
    pub fn note(self) -> Option<String> {
        match self {
            Present::Whole => None,
            Present::Away(why) => Some(why),
        }
    }
}

impl Branches {
    /// Waits until everything is here that the server which writes the timeline has flushed by now.
    ///
    /// # Errors
    /// [`PageError::NotYet`] when it does not come in time; [`PageError::Unknown`] when the server is there, but does not
    /// tell how far it is.
    pub async fn catch_up(&self, timeline: &Timeline) -> Result<Present, PageError> {
        let Some((login, is_streaming)) = self.server_of(timeline).await else {
            return Ok(Present::Whole);
        };
        let server = match &login {
            Ok(login) => login.server.clone(),
            Err(_) => "the server".to_owned(),
        };
        let patience = if is_streaming { PRESENT_TIME_MAX } else { PRESENT_TIME_MAX_AWAY };
        let asked = match login {
            Ok(login) => clock::timeout(patience, ask(login)).await,
            Err(error) => Ok(Err(error)),
        };
        let system = match asked {
            Ok(Ok(system)) => system,
            Ok(Err(error)) if is_streaming && !is_away(&error) => {
                return Err(PageError::Unknown { server, why: error.to_string() });
            }
            Err(_elapsed) if is_streaming => {
                let why = format!("no answer within {} s", patience.as_secs());
                return Err(PageError::Unknown { server, why });
            }
            Ok(Err(error)) => return Ok(away(timeline, &server, &error.to_string())),
            Err(_elapsed) => {
                let why = format!("no answer within {} s", patience.as_secs());
                return Ok(away(timeline, &server, &why));
            }
        };
        if system.identifier != timeline.manifest.system_identifier {
            return Ok(away(timeline, &server, "another cluster is there"));
        }
        let arrives = timeline.taken_in.reaches(system.flushed.0);
        match clock::timeout(timeline.wait_lsn_timeout, arrives).await {
            Ok(()) => Ok(Present::Whole),
            Err(_elapsed) => {
                let (requested, ingested) = (system.flushed, timeline.ingested());
                Err(PageError::NotYet { requested, ingested })
            }
        }
    }

    /// The same where a moment is named that may be still to come.
    pub(super) async fn catch_up_to(
        &self,
        timeline: &Timeline,
        at: &At,
    ) -> Result<Present, PageError> {
        let newest = timeline.ingested();
        let is_here = match at {
            At::Lsn(lsn) => *lsn <= newest,
            At::Time(time) => {
                timeline.catalog.borrow().time_at(newest).is_some_and(|known| known > *time)
            }
            At::Latest | At::RestorePoint(_) => false,
        };
        if is_here { Ok(Present::Whole) } else { self.catch_up(timeline).await }
    }
}

async fn ask(login: Login) -> Result<System, Error> {
    // A name of its own: by the other one the server knows whom commits wait for.
    let login = Login { application_name: format!("{}_present", login.application_name), ..login };
    Connection::connect(&login).await?.identify_system().await
}

/// Whether the error says that no server works there.
fn is_away(error: &Error) -> bool {
    match error {
        Error::Connection { .. } => true,
        Error::Server { sqlstate: Some(state), .. } => {
            let states =
                [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW];
            states.contains(state)
        }
        _ => false,
    }
}

fn away(timeline: &Timeline, server: &str, why: &str) -> Present {
    let (name, newest): (_, Lsn) = (timeline.name.as_str(), timeline.ingested());
    let message = format!(
        "the server of \"{name}\" could not be asked how far it is ({server}: {why}): taken is the newest LSN here, {newest}"
    );
    tracing::warn!(timeline = name, %newest, server, why, "the newest LSN here is taken for the present");
    Present::Away(message)
}
