//! Carries a console command out: checks the right, asks all cores, makes one answer of theirs.

use pg::sqlstate::SqlState;
use pg::wire::error::Report;

use super::session::Outcome;
use super::show::View;
use super::snapshot::{Snapshot, State};
use super::statement::{Show, Statement};
use super::table::Value;
use super::{CONSOLE_DATABASES, Host};
use crate::command::{Answer, Command, Order};
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
    let tag = tag(&statement);
    if !statement.only_reads() {
        tracing::info!(user, command = tag, "console command");
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
        Statement::Order(order) => carry_out(order, host).await,
        Statement::Empty | Statement::Nothing(_) | Statement::Begin | Statement::End(_) => {
            Ok(done(tag))
        }
    }
}

async fn carry_out(order: Order, host: &Host) -> Result<Outcome, Report> {
    let name = order.name();
    check_database(&order, host)?;
    match &order {
        Order::Pause { .. } | Order::Kill { .. } => drop(check_running(host).await?),
        Order::Suspend => {
            let snapshots = check_running(host).await?;
            if paused_databases(&snapshots).next().is_some() {
                return Err(not_now("cannot suspend with paused databases".to_owned()));
            }
        }
        Order::Resume { database } => check_paused(database.as_deref(), host).await?,
        _ => {}
    }
    let needs_one = matches!(order, Order::KillClient { .. });
    let answers = (host.ask)(Command::Order(order)).await;
    if needs_one && answers.iter().all(|answer| matches!(answer, Answer::Unknown)) {
        return Err(Report::error(SqlState::UNDEFINED_OBJECT, "client not found"));
    }
    Ok(done(name))
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

fn check_database(order: &Order, host: &Host) -> Result<(), Report> {
    let Some(database) = order.database() else { return Ok(()) };
    if CONSOLE_DATABASES.contains(&database) {
        let verb = match order {
            Order::WaitClose { .. } => "wait in".to_owned(),
            order => order.name().to_ascii_lowercase(),
        };
        return Err(not_now(format!("cannot {verb} admin db: {database}")));
    }
    if (host.rules)().settings.database(database).is_none() {
        let message = format!("no such database: {database}");
        return Err(Report::error(SqlState::INVALID_CATALOG_NAME, message));
    }
    Ok(())
}

async fn check_running(host: &Host) -> Result<Vec<Snapshot>, Report> {
    let snapshots = snapshots(host).await;
    if state(&snapshots) == State::Active {
        return Ok(snapshots);
    }
    Err(not_now("already suspended/paused".to_owned()))
}

async fn check_paused(database: Option<&str>, host: &Host) -> Result<(), Report> {
    let snapshots = snapshots(host).await;
    if snapshots.iter().any(|snapshot| snapshot.finishing) {
        return Err(not_now("pooler is shutting down".to_owned()));
    }
    let paused = match database {
        Some(name) => paused_databases(&snapshots).any(|paused| paused == name),
        None => state(&snapshots) != State::Active || paused_databases(&snapshots).next().is_some(),
    };
    if paused {
        return Ok(());
    }
    Err(not_now(match database {
        Some(name) => format!("database {name} is not paused"),
        None => "pooler is not paused/suspended".to_owned(),
    }))
}

fn not_now(message: String) -> Report {
    Report::error(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
}

fn paused_databases(snapshots: &[Snapshot]) -> impl Iterator<Item = &str> {
    let states = snapshots.iter().flat_map(|snapshot| &snapshot.databases);
    states.filter(|state| state.paused).map(|state| state.name.as_str())
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
        Statement::Order(order) => order.name(),
        Statement::Shutdown(_) => "SHUTDOWN",
        Statement::Set { .. } => "SET",
        _ => "SHOW",
    }
}
