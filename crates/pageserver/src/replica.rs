//! What a stock server is told so that it follows a branch: settings, and the file with its password.

use std::path::Path;

use pg::redo::effects::Parameters;

use crate::connection::Login;

/// Behind the name of a branch, for the page service: what is asked for is to follow it.
pub const OPTION: &str = "?replica";

/// Settings of a replica of `branch` by name, the page service's password being in `password_file`.
///
/// Its configuration files are the branch's: what they may say of recovery is of the cluster that was imported.
#[must_use]
pub fn settings(login: &Login, branch: &str, password_file: &Path) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        ("primary_conninfo", conninfo(login, branch, password_file)),
        ("hot_standby", "on".to_owned()),
        ("recovery_target_timeline", "latest".to_owned()),
        // Nobody there would make room for what our queries still see; and slots are nothing there.
        ("hot_standby_feedback", "off".to_owned()),
        ("wal_receiver_create_temp_slot", "off".to_owned()),
        // A page server that was restarted is soon found again.
        ("wal_retrieve_retry_interval", "500ms".to_owned()),
    ];
    let emptied = [
        "primary_slot_name",
        "restore_command",
        "archive_cleanup_command",
        "recovery_end_command",
        "recovery_target",
        "recovery_target_lsn",
        "recovery_target_name",
        "recovery_target_time",
        "recovery_target_xid",
    ];
    settings.extend(emptied.map(|name| (name, String::new())));
    settings
}

/// What a standby must have at least of each (`CheckRequiredParameterValues`), or as much as `wanted` says.
#[must_use]
pub fn minimums(parameters: &Parameters, wanted: &[(String, String)]) -> Vec<(String, String)> {
    let wanted = |name: &str| {
        let last = wanted.iter().rev().find(|(other, _)| other == name);
        last.and_then(|(_, value)| value.trim().parse::<i32>().ok()).unwrap_or_default()
    };
    let minimums = parameters.standby_minimums().into_iter();
    minimums.map(|(name, least)| (name.to_owned(), least.max(wanted(name)).to_string())).collect()
}

/// The line of the password file.
#[must_use]
pub fn password_line(login: &Login) -> String {
    let password = login.password.0.replace('\\', "\\\\").replace(':', "\\:");
    format!("*:*:*:*:{password}\n")
}

/// How encrypted the connection is, the environment says to both of us (`PGSSLMODE`, `PGSSLROOTCERT`).
fn conninfo(login: &Login, branch: &str, password_file: &Path) -> String {
    let (host, port) = login.server.rsplit_once(':').unwrap_or((&login.server, ""));
    let name = format!("howdah-replica-{branch}");
    let options = format!("-c howdah.branch={branch} -c howdah.replica=on");
    let file = password_file.display().to_string();
    let fields = [
        ("host", host.trim_matches(['[', ']'])),
        ("port", port),
        ("user", &login.user),
        ("passfile", &file),
        ("application_name", &name),
        ("options", &options),
    ];
    let fields = fields.map(|(name, value)| format!("{name}={}", quoted(value)));
    fields.join(" ")
}

/// As libpq takes it (34.1.1.1).
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_a_connection_string_is_quoted() {
        let mut login = Login::within_process("[::1]:6430");
        login.user = "o'brien".to_owned();
        login.password.0 = "a:b\\".to_owned();
        let string = conninfo(&login, "feature", Path::new("/a b/pgpass"));
        assert!(string.starts_with("host='::1' port='6430' user='o\\'brien' "), "{string}");
        assert!(string.contains("options='-c howdah.branch=feature "), "{string}");
        assert!(!string.contains("a:b"), "everybody sees the arguments of a process: {string}");
        assert_eq!(password_line(&login), "*:*:*:*:a\\:b\\\\\n");
    }

    #[test]
    fn a_replica_has_at_least_what_its_branch_has() {
        let parameters =
            Parameters { max_connections: 200, max_wal_senders: 3, ..Parameters::ZERO };
        let wanted = [("max_connections", "50"), ("max_wal_senders", "9"), ("work_mem", "1MB")];
        let wanted = wanted.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let found = minimums(&parameters, &wanted);
        let value = |name: &str| {
            found.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
        };
        assert_eq!((value("max_connections"), value("max_wal_senders")), (Some("200"), Some("9")));
        assert_eq!(value("work_mem"), None);
    }
}
