//! The text of the files that Howdah writes into a cluster.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, Result};

/// Written into the data directory at every start; `postgresql.conf` includes it.
pub const CONF_NAME: &str = "howdah.conf";

/// What is appended to `postgresql.conf` once.
pub const INCLUDE: &str =
    "\n# Howdah's settings, written anew at every start.\ninclude_if_exists = 'howdah.conf'\n";

/// Who may log in: on the unix socket, whose folder only the owner may enter, anyone; by TCP with a password.
pub const HBA: &str = "\
# Written by howdah when it made this cluster; yours to change.
# TYPE  DATABASE        USER            ADDRESS                 METHOD
local   all             all                                     trust
local   replication     all                                     trust
host    all             all             127.0.0.1/32            scram-sha-256
host    all             all             ::1/128                 scram-sha-256
host    replication     all             127.0.0.1/32            scram-sha-256
host    replication     all             ::1/128                 scram-sha-256
";

/// Port in the unix socket's name when TCP is off.
pub const SOCKET_PORT: u16 = 5432;

/// The port that the server is given, also in the name of its unix socket.
#[must_use]
pub fn server_port(port: u16) -> u16 {
    if port == 0 { SOCKET_PORT } else { port }
}

/// `howdah.conf`: what following the WAL and being supervised need, then what the user's file says.
pub fn conf(
    port: u16,
    socket_folder: &Path,
    settings: &BTreeMap<String, toml::Value>,
) -> Result<String> {
    let listen = if port == 0 { "" } else { "127.0.0.1" };
    let folder = socket_folder.display().to_string();
    let mut lines = vec![
        "# Written by howdah at every start; change [postgres] settings in howdah.toml instead."
            .to_owned(),
        format!("listen_addresses = {}", quoted(listen)),
        format!("port = {}", server_port(port)),
        format!("unix_socket_directories = {}", quoted(&folder)),
        "unix_socket_permissions = 0700".to_owned(),
        "wal_level = replica".to_owned(),
        "max_wal_senders = 10".to_owned(),
        "max_replication_slots = 10".to_owned(),
        // Hint bits change pages without WAL otherwise; with checksums they are logged already.
        "wal_log_hints = on".to_owned(),
        "password_encryption = 'scram-sha-256'".to_owned(),
        // Our log has time and process of each line already.
        "log_destination = 'stderr'".to_owned(),
        "logging_collector = off".to_owned(),
        "log_line_prefix = '[%p] '".to_owned(),
        "lc_messages = 'C'".to_owned(),
    ];
    for (name, value) in settings {
        lines.push(format!("{name} = {}", setting(name, value)?));
    }
    lines.push(String::new());
    Ok(lines.join("\n"))
}

/// The value of a setting for the command line, where nothing is quoted.
pub fn plain(name: &str, value: &toml::Value) -> Result<String> {
    match value {
        toml::Value::String(text) if !text.contains('\n') => Ok(text.clone()),
        other => setting(name, other),
    }
}

fn setting(name: &str, value: &toml::Value) -> Result<String> {
    match value {
        toml::Value::String(text) if !text.contains('\n') => Ok(quoted(text)),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Float(number) => Ok(number.to_string()),
        toml::Value::Boolean(on) => Ok(if *on { "on" } else { "off" }.to_owned()),
        _ => Err(Error::new(format!(
            "postgres.settings.{name} is neither a text, nor a number, nor a boolean"
        ))),
    }
}

/// A value of `postgresql.conf`: quotes and backslashes are doubled (guc-file.l).
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// How serious a line of the server's log is, and its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Debug,
    Info,
    Warning,
    Error,
}

/// Reads `[123] LOG:  database system is ready`; a line without a level belongs to the one before.
#[must_use]
pub fn log_line(line: &str) -> (Severity, Option<u32>, &str) {
    let (pid, rest) = match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((pid, rest)) => (pid.parse().ok(), rest),
        None => (None, line),
    };
    let Some((level, text)) = rest.split_once(":  ") else { return (Severity::Info, pid, rest) };
    let severity = match level {
        "LOG" | "INFO" | "NOTICE" | "DETAIL" | "HINT" | "CONTEXT" | "STATEMENT" | "QUERY"
        | "LOCATION" => Severity::Info,
        "WARNING" => Severity::Warning,
        "ERROR" | "FATAL" | "PANIC" => Severity::Error,
        _ if level.starts_with("DEBUG") => Severity::Debug,
        _ => return (Severity::Info, pid, rest),
    };
    // LOG is the common case and says nothing; of the others the reader wants to know which.
    (severity, pid, if level == "LOG" { text } else { rest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_settings_come_last_and_are_quoted() {
        let settings = BTreeMap::from([
            ("shared_buffers".to_owned(), toml::Value::String("1GB".to_owned())),
            ("fsync".to_owned(), toml::Value::Boolean(false)),
            ("search_path".to_owned(), toml::Value::String("it's \\ here".to_owned())),
        ]);
        let text = conf(0, Path::new("/srv/run"), &settings).expect("valid");
        assert!(text.contains(
            "listen_addresses = ''\nport = 5432\nunix_socket_directories = '/srv/run'\n"
        ));
        assert!(
            text.ends_with(
                "fsync = off\nsearch_path = 'it''s \\\\ here'\nshared_buffers = '1GB'\n"
            )
        );
    }

    #[test]
    fn a_setting_that_postgres_cannot_have_is_named() {
        let settings = BTreeMap::from([("x".to_owned(), toml::Value::Array(Vec::new()))]);
        assert!(
            conf(1, Path::new("/"), &settings).expect_err("a list").message.contains("settings.x")
        );
    }

    #[test]
    fn log_lines_keep_their_level() {
        assert_eq!(log_line("[7] LOG:  ready"), (Severity::Info, Some(7), "ready"));
        assert_eq!(log_line("[7] FATAL:  no"), (Severity::Error, Some(7), "FATAL:  no"));
        assert_eq!(
            log_line("[7] STATEMENT:  SELECT"),
            (Severity::Info, Some(7), "STATEMENT:  SELECT")
        );
        assert_eq!(log_line("\tcontinued: x"), (Severity::Info, None, "\tcontinued: x"));
    }
}
