//! How the Postgres of a compute is configured: the branch's own configuration files, and what must be otherwise here.
//!
//! Everything under a compute's directory is scratch. After a crash nothing of it is recovered: the next compute boots
//! from the page server where the branch ends. That is why these are off:
//!
//! - `fsync`: what must last is in the page server once it has confirmed it. The local WAL is thrown away after a
//!   crash, so to sync it protects nothing; WAL is sent when it was written, and a commit of a writable branch waits
//!   until the page server, as the synchronous standby, has it on disk.
//! - `full_page_writes`: torn pages are a danger to a server that recovers from its own files. The page server redoes
//!   records one after another on whole pages, and needs an image no more often than the records themselves bring one.
//! - `restart_after_crash`: a server that recovers from here would read what was never made durable.

use std::path::PathBuf;

use pageserver::connection::Login;
use pageserver::replica;
use pg::datadir::control::ControlFile;

use crate::places::Places;

/// What the branch's control file says of its last server, and what is asked of this one.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub port: u16,
    /// Who must have received a commit before it is acknowledged; `None`: nobody follows.
    pub standby: Option<String>,
    /// It follows this branch.
    pub follows: Option<String>,
    /// The operator's, by name; they win.
    pub settings: Vec<(String, String)>,
}

/// Fewest walsenders: the page server, and somebody who takes a backup.
const WALSENDERS_MIN: i32 = 10;

/// Who may log in: whoever may enter the directory of the socket, which is its owner alone.
pub const HBA: &str = "local all all trust\nlocal replication all trust\n";

/// Settings for the command line, the last of a name wins. `altered` is what ALTER SYSTEM has written.
#[must_use]
pub fn settings(
    wanted: &Wanted,
    login: &Login,
    places: &Places,
    control: &ControlFile,
    prepared_transactions: usize,
    altered: &str,
) -> Vec<(String, String)> {
    let shown = |path: &PathBuf| path.display().to_string();
    let standby = wanted.standby.as_deref().map_or_else(String::new, quoted);
    let fixed = [
        // Where things are. A packager's configuration file may name other places.
        ("data_directory", shown(&places.data)),
        ("hba_file", shown(&places.hba)),
        ("external_pid_file", shown(&places.directory.join("postgres.pid"))),
        ("listen_addresses", String::new()),
        ("port", wanted.port.to_string()),
        ("unix_socket_directories", shown(&places.directory)),
        ("unix_socket_permissions", "0700".to_owned()),
        // No certificates are served, and nobody is on the network.
        ("ssl", "off".to_owned()),
        ("log_destination", "stderr".to_owned()),
        ("logging_collector", "off".to_owned()),
        ("log_line_prefix", "%m [%p] ".to_owned()),
        ("fsync", "off".to_owned()),
        ("full_page_writes", "off".to_owned()),
        ("restart_after_crash", "off".to_owned()),
        ("archive_mode", "off".to_owned()),
        ("synchronous_standby_names", standby),
        // No crash recovery has to be kept short by checkpoints; the amount of WAL still asks for them.
        ("checkpoint_timeout", "1h".to_owned()),
        // Writing back early spares a disk nothing that is never synced.
        ("checkpoint_flush_after", "0".to_owned()),
        ("bgwriter_flush_after", "0".to_owned()),
        ("backend_flush_after", "0".to_owned()),
        // Shared memory as mapped files cannot be on the mount.
        ("dynamic_shared_memory_type", "posix".to_owned()),
    ];
    let following = wanted.follows.iter();
    let following = following.flat_map(|branch| replica::settings(login, branch, &places.password));
    let inherited = inherited(control, prepared_transactions).map(|(name, value)| {
        let wanted = altered_value(altered, name);
        (
            name,
            wanted.and_then(|wanted| chosen(name, wanted, prepared_transactions)).unwrap_or(value),
        )
    });
    let fixed = fixed.into_iter().chain(inherited).chain(following);
    let mut all: Vec<_> = fixed.map(|(name, value)| (name.to_owned(), value)).collect();
    all.extend(wanted.settings.iter().cloned());
    if wanted.follows.is_some() {
        // Recovery takes the tablespaces of the mount, which are directories, for remains else (`CheckTablespaceDirectory`).
        all.push(("allow_in_place_tablespaces".to_owned(), "on".to_owned()));
        let minimums = replica::minimums(&control.parameters, &all);
        all.extend(minimums);
    }
    all
}

/// What the next server of a branch must have because the last one had it, wherever its files are.
#[must_use]
pub fn inherited(
    control: &ControlFile,
    prepared_transactions: usize,
) -> [(&'static str, String); 4] {
    let parameters = &control.parameters;
    // A server refuses to start with fewer than there are to be taken over.
    let prepared = i32::try_from(prepared_transactions).unwrap_or(i32::MAX);
    let prepared = prepared.max(parameters.max_prepared_transactions);
    let wal_level = if parameters.wal_level >= 2 { "logical" } else { "replica" };
    [
        ("wal_level", wal_level.to_owned()),
        ("max_wal_senders", parameters.max_wal_senders.max(WALSENDERS_MIN).to_string()),
        ("max_prepared_transactions", prepared.to_string()),
        // Without it what is known of earlier commits could not be asked for.
        ("track_commit_timestamp", on_off(parameters.track_commit_timestamp).to_owned()),
    ]
}

/// What ALTER SYSTEM wants of a setting that is inherited, as far as it can be had; `None` for what is no value of it.
fn chosen(name: &str, wanted: String, prepared_transactions: usize) -> Option<String> {
    let at_least = |least: i32| Some(wanted.parse::<i32>().ok()?.max(least).to_string());
    match name {
        // With less there is nothing for the page server to follow.
        "wal_level" => matches!(wanted.as_str(), "replica" | "logical").then_some(wanted),
        "max_wal_senders" => at_least(WALSENDERS_MIN),
        "max_prepared_transactions" => {
            at_least(i32::try_from(prepared_transactions).unwrap_or(i32::MAX))
        }
        _ => Some(wanted),
    }
}

/// The value of a setting in a file that ALTER SYSTEM has written: `name = 'value'` in each line, quotes doubled
/// (`write_auto_conf_file` in `guc.c`).
fn altered_value(file: &str, name: &str) -> Option<String> {
    let mut values = file.lines().rev().filter_map(|line| {
        let (found, value) = line.split_once('=')?;
        let value = value.trim().strip_prefix('\'')?.strip_suffix('\'')?;
        found.trim().eq_ignore_ascii_case(name).then(|| value.replace("''", "'"))
    });
    values.next()
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// A name in a list of standbys, where a quote is doubled.
#[must_use]
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_alter_system_wants_is_had_as_far_as_it_can_be() {
        let file = "# Do not edit this file manually!\nwal_level = 'logical'\nmax_wal_senders = '3'\n\
                    max_prepared_transactions = '5'\napplication_name = 'it''s'\nwork_mem = '1'\nwork_mem = '2'\n";
        let value = |name| altered_value(file, name);
        assert_eq!(value("application_name").as_deref(), Some("it's"));
        assert_eq!(value("work_mem").as_deref(), Some("2"), "the last one counts");
        assert_eq!(value("track_commit_timestamp"), None);
        let chosen = |name| chosen(name, value(name)?, 7);
        assert_eq!(chosen("wal_level").as_deref(), Some("logical"));
        assert_eq!(chosen("max_wal_senders").as_deref(), Some("10"), "the page server is one");
        assert_eq!(chosen("max_prepared_transactions").as_deref(), Some("7"), "those there are");
        assert_eq!(super::chosen("wal_level", "minimal".to_owned(), 0), None);
        assert_eq!(super::chosen("max_wal_senders", "on".to_owned(), 0), None);
    }
}
