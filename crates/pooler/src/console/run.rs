//! Carries a console command out: checks the right, asks all cores, makes one answer of theirs.

use pg::sqlstate::SqlState;
use pg::wire::error::Report;

use super::session::Outcome;
use super::show::View;
use super::snapshot::{Snapshot, State};
use super::statement::{Show, Statement};
use super::table::Value;
use super::{CONSOLE_DATABASES, Host};
use crate::command::{Answer, Command};
use crate::rules::ConsoleRight;
use crate::settings::file::SettingsError;
use crate::settings::options::{self, Effect};

/// Carries out a command.
///
/// # Errors
/// 42501 without the right, 3D000 for an unknown database, 55000 if the pooler is not in a state
/// for it, and what the command itself can fail with.
pub(super) async fn run(
    statement: Statement,
    user: &str,
    right: ConsoleRight,
    host: &Host,
) -> Result<Outcome, Report> {
    if right != ConsoleRight::Admin && !statement.only_reads() {
        return Err(Report::error(SqlState::INSUFFICIENT_PRIVILEGE, "admin access needed"));
    }
    if !statement.only_reads() {
        tracing::info!(user, command = tag(&statement), "console command");
    }
    match statement {
        Statement::Show(show) => show_rows(show, host).await,
        Statement::Parameter(_name, value) => Ok(Outcome::Rows(vec![vec![Value::text(value)]])),
        Statement::Number(number) => Ok(Outcome::Rows(vec![vec![Value::Int(number)]])),
        Statement::Text(_name, text) => Ok(Outcome::Rows(vec![vec![Value::text(text)]])),
        Statement::Set { key, value } => set(&key, &value, host).await,
        Statement::Reload => {
            (host.reload)().await.map_err(|errors| broken_configuration(&errors))?;
            Ok(done("RELOAD"))
        }
        Statement::Shutdown(how) => {
            (host.shutdown)(how);
            Ok(done("SHUTDOWN"))
        }
        Statement::KillClient { id } => {
            let answers = (host.ask)(Command::KillClient { id }).await;
            if answers.iter().all(|answer| matches!(answer, Answer::Unknown)) {
                return Err(Report::error(SqlState::UNDEFINED_OBJECT, "client not found"));
            }
            Ok(done("KILL_CLIENT"))
        }
        order => order_cores(order, host).await,
    }
}

/// The orders that concern databases.
async fn order_cores(statement: Statement, host: &Host) -> Result<Outcome, Report> {
    let tag = tag(&statement);
    check_database(&statement, tag, host)?;
    let command = match statement {
        Statement::Pause { database } => {
            check_running(host).await?;
            Command::Pause { database }
        }
        Statement::Suspend => {
            check_running(host).await?;
            Command::Suspend
        }
        Statement::Kill { database } => {
            check_running(host).await?;
            Command::Kill { database }
        }
        Statement::Resume { database } => {
            check_paused(database.as_deref(), host).await?;
            Command::Resume { database }
        }
        Statement::Disable { database } => Command::Disable { database },
        Statement::Enable { database } => Command::Enable { database },
        Statement::Reconnect { database } => Command::Reconnect { database },
        Statement::WaitClose { database } => Command::WaitClose { database },
        _ => return Ok(done(tag)),
    };
    let _answers: Vec<Answer> = (host.ask)(command).await;
    Ok(done(tag))
}

async fn show_rows(show: Show, host: &Host) -> Result<Outcome, Report> {
    let snapshots = snapshots(host).await;
    let rules = (host.rules)();
    Ok(Outcome::Rows(View { rules: &rules, snapshots: &snapshots }.rows(show)))
}

/// Changes one setting until the next RELOAD.
async fn set(key: &str, value: &str, host: &Host) -> Result<Outcome, Report> {
    let unknown = || {
        let message = format!("unrecognized configuration parameter \"{key}\"");
        Report::error(SqlState::UNDEFINED_OBJECT, message)
    };
    let option = options::find(key).ok_or_else(unknown)?;
    let Effect::Mapped { set, .. } = option.effect else { return Err(unknown()) };
    if !option.changeable {
        return Err(Report::error(
            SqlState::CANT_CHANGE_RUNTIME_PARAM,
            format!("parameter \"{key}\" cannot be changed without restarting the pooler"),
        ));
    }
    let mut settings = (host.rules)().settings.clone();
    set(&mut settings, value).map_err(|message| {
        Report::error(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("invalid value for parameter \"{key}\": {message}"),
        )
    })?;
    (host.replace)(settings).await.map_err(|errors| {
        Report::error(SqlState::INVALID_PARAMETER_VALUE, "SET failed").with_detail(lines(&errors))
    })?;
    Ok(done(&format!("SET {key}={value}")))
}

async fn snapshots(host: &Host) -> Vec<Snapshot> {
    let answers = (host.ask)(Command::Snapshot).await;
    answers
        .into_iter()
        .filter_map(|answer| match answer {
            Answer::Snapshot(snapshot) => Some(*snapshot),
            _ => None,
        })
        .collect()
}

fn check_database(statement: &Statement, tag: &str, host: &Host) -> Result<(), Report> {
    let database = match statement {
        Statement::Pause { database }
        | Statement::Resume { database }
        | Statement::Reconnect { database }
        | Statement::Kill { database }
        | Statement::WaitClose { database } => database.as_deref(),
        Statement::Disable { database } | Statement::Enable { database } => Some(database.as_str()),
        _ => None,
    };
    let Some(database) = database else { return Ok(()) };
    if CONSOLE_DATABASES.contains(&database) {
        let verb = tag.to_ascii_lowercase();
        let message = format!("cannot {verb} admin db: {database}");
        return Err(Report::error(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message));
    }
    if (host.rules)().settings.database(database).is_none() {
        let message = format!("no such database: {database}");
        return Err(Report::error(SqlState::INVALID_CATALOG_NAME, message));
    }
    Ok(())
}

async fn check_running(host: &Host) -> Result<(), Report> {
    if state(&snapshots(host).await) == State::Active {
        return Ok(());
    }
    Err(Report::error(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "already suspended/paused"))
}

async fn check_paused(database: Option<&str>, host: &Host) -> Result<(), Report> {
    let snapshots = snapshots(host).await;
    let message = match database {
        Some(name) => {
            let states = || snapshots.iter().flat_map(|snapshot| &snapshot.databases);
            if states().any(|state| state.name == name && state.paused) {
                return Ok(());
            }
            format!("database {name} is not paused")
        }
        None => {
            let any_database = || {
                let mut states = snapshots.iter().flat_map(|snapshot| &snapshot.databases);
                states.any(|state| state.paused)
            };
            if state(&snapshots) != State::Active || any_database() {
                return Ok(());
            }
            "pooler is not paused/suspended".to_owned()
        }
    };
    Err(Report::error(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message))
}

fn state(snapshots: &[Snapshot]) -> State {
    snapshots.iter().map(|snapshot| snapshot.state).max().unwrap_or_default()
}

fn broken_configuration(errors: &[SettingsError]) -> Report {
    let message = "RELOAD failed, the old configuration stays";
    Report::error(SqlState::CONFIG_FILE_ERROR, message).with_detail(lines(errors))
}

fn lines(errors: &[SettingsError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<String>>().join("\n")
}

fn done(tag: &str) -> Outcome {
    Outcome::Done { tag: tag.to_owned(), notice: None }
}

fn tag(statement: &Statement) -> &'static str {
    match statement {
        Statement::Reload => "RELOAD",
        Statement::Pause { .. } => "PAUSE",
        Statement::Resume { .. } => "RESUME",
        Statement::Disable { .. } => "DISABLE",
        Statement::Enable { .. } => "ENABLE",
        Statement::Reconnect { .. } => "RECONNECT",
        Statement::Kill { .. } => "KILL",
        Statement::KillClient { .. } => "KILL_CLIENT",
        Statement::Suspend => "SUSPEND",
        Statement::WaitClose { .. } => "WAIT_CLOSE",
        Statement::Shutdown(_) => "SHUTDOWN",
        Statement::Set { .. } => "SET",
        _ => "SHOW",
    }
}
