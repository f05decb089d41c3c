//! Looks at a server before anything is done to it: whether it can be followed, and what whoever imports it should know.
//!
//! What needs SQL is asked on a connection to a database; where none can be had, the rest is still looked at.

use pageserver::basebackup::Cluster;
use pageserver::connection::{Connection, Row};
use pageserver::identity;
use pg::sqlstate::SqlState;
use pg::wire::replication::command::Command;
use runtime::clock;
use serde::Serialize;

use super::{Origin, failed};
use crate::error::{Error, Result};
use crate::limits::{IMPORT_CONNECT_WAIT, IMPORT_SETTING_BYTES_MAX};

/// What the page server needs at a time: one connection that streams, and one more while that changes.
const SENDERS_NEEDED: u32 = 2;

/// Settings of the server that its computes should have as well: what data depends on, what must not be smaller, and what
/// sessions notice. Where they come from a file outside the data directory, they are in no backup.
const INHERITED: [&str; 21] = [
    "max_connections",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    "max_worker_processes",
    "max_pred_locks_per_transaction",
    "track_commit_timestamp",
    "shared_preload_libraries",
    "session_preload_libraries",
    "local_preload_libraries",
    "TimeZone",
    "DateStyle",
    "IntervalStyle",
    "default_text_search_config",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "search_path",
    "default_toast_compression",
    "bytea_output",
    "password_encryption",
];

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    Good,
    /// Worth knowing; nothing stands in the way.
    Note,
    /// The import would fail.
    Bad,
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub what: &'static str,
    pub grade: Grade,
    pub text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// All that was found out.
#[derive(Debug)]
pub struct Found {
    pub findings: Vec<Finding>,
    pub cluster: Cluster,
    /// As `SHOW server_version` has it.
    pub version: String,
    /// The user may read `pg_authid`, so that the pooler can look up secrets with it.
    pub reads_secrets: bool,
    /// Of [`INHERITED`], those that the server's files set.
    pub settings: Vec<(String, String)>,
}

/// Looks at everything. `resumes`: our directory has the slot already.
///
/// # Errors
/// The server cannot be reached or does not let us in. What it is like is no error: that is in the findings.
pub async fn look(origin: &Origin, resumes: bool, free_bytes: u64) -> Result<Found> {
    let login = origin.login("")?;
    let connecting = clock::timeout(IMPORT_CONNECT_WAIT, Connection::connect(&login)).await;
    let mut connection =
        in_time(connecting, origin)?.map_err(|error| not_let_in(&error, origin))?;
    let cluster = identity::check(&mut connection, None).await.map_err(|error| failed(&error))?;
    let version = show(&mut connection, "server_version").await?;
    let mut look = Look { findings: Vec::new(), origin, free_bytes };
    let text = format!("PostgreSQL {version}, system {}", cluster.system_identifier);
    look.good("server", text);
    look.by_show(&mut connection).await?;
    look.slot(&mut connection, resumes).await?;
    if cluster.data_checksums {
        look.good("data checksums", "on".to_owned());
    } else {
        look.note(
            "data checksums",
            "off: damage on the server's disk is taken over unnoticed",
            None,
        );
    }
    drop(connection);
    let mut found = Found {
        findings: Vec::new(),
        cluster,
        version,
        reads_secrets: false,
        settings: Vec::new(),
    };
    look.by_sql(&mut found, resumes).await;
    found.findings = look.findings;
    Ok(found)
}

struct Look<'o> {
    findings: Vec<Finding>,
    origin: &'o Origin,
    free_bytes: u64,
}

impl Look<'_> {
    fn add(&mut self, what: &'static str, grade: Grade, text: String, hint: Option<&str>) {
        self.findings.push(Finding { what, grade, text, hint: hint.map(str::to_owned) });
    }

    fn good(&mut self, what: &'static str, text: String) {
        self.add(what, Grade::Good, text, None);
    }

    fn note(&mut self, what: &'static str, text: impl Into<String>, hint: Option<&str>) {
        self.add(what, Grade::Note, text.into(), hint);
    }

    fn bad(&mut self, what: &'static str, text: String, hint: &str) {
        self.add(what, Grade::Bad, text, Some(hint));
    }

    /// What a physical replication connection can be asked.
    async fn by_show(&mut self, connection: &mut Connection) -> Result<()> {
        if show(connection, "in_hot_standby").await? == "on" {
            self.bad("role", "a standby".to_owned(), "import from its primary");
        } else {
            self.good("role", "a primary".to_owned());
        }
        let level = show(connection, "wal_level").await?;
        if level == "minimal" {
            let hint = "ALTER SYSTEM SET wal_level = 'replica', and restart the server";
            self.bad("wal_level", level, hint);
        } else {
            self.good("wal_level", level);
        }
        let kept = show(connection, "max_slot_wal_keep_size").await?;
        if kept == "-1" {
            let text = "max_slot_wal_keep_size is -1: while nobody follows, the slot keeps all WAL";
            let hint = "watch the server's disk, or set a limit and import anew if it is reached";
            self.note("WAL kept", text, Some(hint));
        } else {
            self.good("WAL kept", format!("{kept} at most while nobody follows"));
        }
        Ok(())
    }

    /// Whether there is a slot of our name already.
    async fn slot(&mut self, connection: &mut Connection, resumes: bool) -> Result<()> {
        let name = &self.origin.slot;
        let rows = match connection.run(&Command::ReadSlot(name.clone())).await {
            Ok(rows) => rows,
            // A logical one.
            Err(error) => {
                let hint = "name another by --slot";
                self.bad("slot", format!("\"{name}\": {error}"), hint);
                return Ok(());
            }
        };
        let exists = value(&rows, 0).is_some();
        match (exists, resumes) {
            (false, _) => self.good("slot", format!("\"{name}\" will be made")),
            (true, true) => self.good("slot", format!("\"{name}\" is ours")),
            (true, false) => {
                let text = format!("\"{name}\" exists, and this directory does not know it");
                let hint = "name another by --slot, or drop it if nobody needs it: SELECT pg_drop_replication_slot(...)";
                self.bad("slot", text, hint);
            }
        }
        Ok(())
    }

    /// What takes SQL.
    async fn by_sql(&mut self, found: &mut Found, resumes: bool) {
        let asked = async {
            let login = self.origin.login(&self.origin.database)?;
            let connecting = Connection::connect_to_database(&login).await;
            let mut connection = connecting.map_err(|error| failed(&error))?;
            self.places(&mut connection, resumes).await?;
            self.contents(&mut connection).await?;
            let reads = "SELECT has_table_privilege('pg_catalog.pg_authid', 'SELECT')";
            found.reads_secrets = value(&ask(&mut connection, reads).await?, 0) == Some("t");
            found.settings = settings(&mut connection).await?;
            Ok::<_, Error>(())
        };
        let ended = clock::timeout(IMPORT_CONNECT_WAIT, asked).await;
        if let Err(error) = ended.unwrap_or_else(|_late| Err(Error::new("it does not answer"))) {
            let database = &self.origin.database;
            let text = format!(
                "no SQL in database \"{database}\", so tablespaces, sizes and extensions were not looked at: {}",
                error.message
            );
            self.note("not looked at", text, Some("name a database that the user may connect to"));
        }
    }

    /// Places for our connections and our slot. Our own connection is one of those that run.
    async fn places(&mut self, connection: &mut Connection, resumes: bool) -> Result<()> {
        const PLACES: &str = "SELECT current_setting('max_wal_senders'), \
             (SELECT count(*) - 1 FROM pg_stat_activity WHERE backend_type = 'walsender'), \
             current_setting('max_replication_slots'), \
             (SELECT count(*) FROM pg_replication_slots)";
        let rows = ask(connection, PLACES).await?;
        let [senders, running, slots, used] = [0, 1, 2, 3].map(|column| number(&rows, column));
        let text = format!("{running} of {senders} in use");
        if senders.saturating_sub(running) < SENDERS_NEEDED {
            let hint = "raise max_wal_senders by 2, and restart the server";
            self.bad("max_wal_senders", text, hint);
        } else {
            self.good("max_wal_senders", text);
        }
        let text = format!("{used} of {slots} in use");
        if used >= slots && !resumes {
            let hint = "raise max_replication_slots, and restart the server";
            self.bad("max_replication_slots", text, hint);
        } else {
            self.good("max_replication_slots", text);
        }
        let name = literal(&self.origin.slot);
        let slot = format!(
            "SELECT active_pid, wal_status FROM pg_replication_slots WHERE slot_name = {name}"
        );
        let rows = ask(connection, &slot).await?;
        if let Some(pid) = value(&rows, 0) {
            let text = format!("\"{}\" is in use by process {pid} of the server", self.origin.slot);
            self.bad("slot", text, "stop the Howdah that follows already, or name another slot");
        }
        if value(&rows, 1) == Some("lost") {
            let text = "WAL that is needed has been removed by the server".to_owned();
            self.bad("slot", text, "drop the slot, and import into an empty directory");
        }
        Ok(())
    }

    /// What there is to copy, and what computes need beside it.
    async fn contents(&mut self, connection: &mut Connection) -> Result<()> {
        const SIZE: &str = "SELECT count(*), coalesce(sum(CASE WHEN has_database_privilege(oid, 'CONNECT') \
             THEN pg_database_size(oid) END), 0)::bigint FROM pg_database";
        let rows = ask(connection, SIZE).await?;
        let (count, bytes) = (number(&rows, 0), value(&rows, 1).and_then(|text| text.parse().ok()));
        let bytes: u64 = bytes.unwrap_or_default();
        let text = format!("{count} databases, {} MiB", bytes >> 20);
        if bytes > self.free_bytes {
            let text = format!("{text}; {} MiB are free here", self.free_bytes >> 20);
            let hint = "layers are compressed, so it may still fit; if not, free some space and start again";
            self.note("size", text, Some(hint));
        } else {
            self.good("size", text);
        }
        const TABLESPACES: &str = "SELECT string_agg(spcname || ' in ' || pg_tablespace_location(oid), ', ' ORDER BY oid) \
             FROM pg_tablespace WHERE pg_tablespace_location(oid) <> ''";
        let rows = ask(connection, TABLESPACES).await?;
        self.good("tablespaces", value(&rows, 0).unwrap_or("none").to_owned());
        const MANAGERS: &str = "SELECT string_agg(rm_name, ', ') FROM pg_get_wal_resource_managers() WHERE NOT rm_builtin";
        let rows = ask(connection, MANAGERS).await?;
        if let Some(names) = value(&rows, 0) {
            let text = format!("extensions write WAL of their own: {names}");
            self.note("WAL", text, Some("pages that such records change cannot be read here"));
        }
        const LIBRARIES: &str =
            "SELECT setting FROM pg_settings WHERE name = 'shared_preload_libraries'";
        let rows = ask(connection, LIBRARIES).await?;
        match value(&rows, 0) {
            None => self.note("libraries", "shared_preload_libraries may not be read", None),
            Some("") => self.good("libraries", "none are preloaded".to_owned()),
            Some(libraries) => {
                let hint = "install them here too, or leave them out by compute.postgres.shared_preload_libraries";
                self.note("libraries", format!("preloaded: {libraries}"), Some(hint));
            }
        }
        Ok(())
    }
}

/// What of the settings that computes should have is in the server's files.
async fn settings(connection: &mut Connection) -> Result<Vec<(String, String)>> {
    let names = INHERITED.map(|name| literal(&name.to_lowercase())).join(", ");
    let sql = format!(
        "SELECT name, current_setting(name) FROM pg_settings \
         WHERE source = 'configuration file' AND lower(name) IN ({names}) ORDER BY name"
    );
    let rows = ask(connection, &sql).await?;
    let pairs = rows.into_iter().filter_map(|row| match <[Option<String>; 2]>::try_from(row) {
        Ok([Some(name), Some(value)]) if value.len() <= IMPORT_SETTING_BYTES_MAX => {
            Some((name, value))
        }
        _ => None,
    });
    Ok(pairs.collect())
}

/// The error of a server that does not let us in, with what can be done about it.
fn not_let_in(error: &pageserver::error::Error, origin: &Origin) -> Error {
    let pageserver::error::Error::Server { sqlstate: Some(state), message } = error else {
        let hint = "is it running, and does it listen there (listen_addresses)?";
        let found = failed(error);
        return if found.hint.is_some() { found } else { found.hint(hint) };
    };
    let user = &origin.user;
    let hint = match *state {
        SqlState::INSUFFICIENT_PRIVILEGE => format!("ALTER ROLE \"{user}\" REPLICATION"),
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION => format!(
            "allow it in the server's pg_hba.conf, for the word replication: host replication {user} ADDRESS scram-sha-256"
        ),
        SqlState::INVALID_PASSWORD => {
            "give the password by PGPASSWORD, ~/.pgpass or in the connection string".to_owned()
        }
        SqlState::TOO_MANY_CONNECTIONS => {
            "raise max_wal_senders, and wal_level to replica if it is minimal; both take a restart of the server".to_owned()
        }
        _ => return failed(error),
    };
    Error::new(format!("{} does not let us in: {message} ({state})", origin.server)).hint(hint)
}

fn in_time<T, E>(result: std::result::Result<T, E>, origin: &Origin) -> Result<T> {
    result.map_err(|_late| {
        let seconds = IMPORT_CONNECT_WAIT.as_secs();
        Error::new(format!("{} does not answer within {seconds} s", origin.server))
    })
}

async fn show(connection: &mut Connection, name: &str) -> Result<String> {
    connection.show(name).await.map_err(|error| failed(&error))
}

async fn ask(connection: &mut Connection, sql: &str) -> Result<Vec<Row>> {
    connection.run_text(sql).await.map_err(|error| failed(&error))
}

/// A column of the first row.
fn value(rows: &[Row], column: usize) -> Option<&str> {
    rows.first()?.get(column)?.as_deref()
}

fn number(rows: &[Row], column: usize) -> u32 {
    value(rows, column).and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// A string constant of SQL.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
