//! What a connection is about: which branch, as of when, and whether what is taken from here is to follow it. From the
//! database's name (`main@0/16B3748`, `main?replica`), or, since
//! `pg_basebackup` names no database of its user's, from `options` (`-c howdah.branch=main -c howdah.lsn=0/16B3748 -c howdah.replica=on`,
//! which `PGOPTIONS` sets for any libpq program).

use pg::lsn::Lsn;
use pg::sqlstate::SqlState;
use pg::wire::error::Report;
use pg::wire::startup::Startup;

use crate::replica;

/// The name that the first branch has.
pub(super) const MAIN: &str = "main";
/// The database's name that libpq's replication programs send.
const REPLICATION: &str = "replication";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) branch: String,
    /// `None` for the latest.
    pub(super) lsn: Option<Lsn>,
    /// What is taken from here is to follow the branch.
    pub(super) is_replica: bool,
    pub(super) user: String,
    pub(super) application_name: String,
}

impl Target {
    /// What a start-up packet asks for.
    pub(super) fn of(packet: &Startup<'_>, user: &[u8]) -> Result<Target, Report> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let application_name = packet.get("application_name").map(text).unwrap_or_default();
        let mut target = Target {
            branch: MAIN.to_owned(),
            lsn: None,
            is_replica: false,
            user: text(user),
            application_name,
        };
        let database = packet.get("database").map(text).unwrap_or_default();
        if !database.is_empty() && database != REPLICATION {
            let (place, is_replica) = match database.strip_suffix(replica::OPTION) {
                Some(place) => (place, true),
                None => (database.as_str(), false),
            };
            target.is_replica = is_replica;
            let (branch, lsn) = match place.split_once('@') {
                Some((branch, lsn)) => (branch, Some(lsn)),
                None => (place, None),
            };
            branch.clone_into(&mut target.branch);
            target.lsn = lsn.map(position).transpose()?;
        }
        let options = packet.get("options").map(text).unwrap_or_default();
        for (name, value) in settings(&options) {
            target.set(&name, &value)?;
        }
        for (name, value) in packet.parameters() {
            let name = text(name);
            if name.starts_with("howdah.") {
                target.set(&name, &text(value))?;
            }
        }
        Ok(target)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Report> {
        match name {
            "howdah.branch" => value.clone_into(&mut self.branch),
            "howdah.replica" => self.is_replica = matches!(value, "on" | "true" | "1"),
            "howdah.lsn" => self.lsn = Some(position(value)?),
            _ if name.starts_with("howdah.") => {
                let message = format!("unrecognized configuration parameter \"{name}\"");
                return Err(Report::fatal(SqlState::UNDEFINED_OBJECT, message));
            }
            _ => {} // settings of a database, which this is none
        }
        Ok(())
    }
}

fn position(text: &str) -> Result<Lsn, Report> {
    text.parse().ok().filter(|lsn: &Lsn| lsn.is_valid()).ok_or_else(|| {
        let message = format!("\"{text}\" is not a position in the WAL");
        let report = Report::fatal(SqlState::INVALID_PARAMETER_VALUE, message);
        report.with_hint("write it as Postgres shows it, such as 0/16B3748")
    })
}

/// `-c name=value`, `-cname=value` and `--name=value`; a backslash takes the next character as it is.
fn settings(options: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut words = words(options).into_iter();
    while let Some(word) = words.next() {
        let setting = match (word.strip_prefix("--"), word.strip_prefix("-c")) {
            (Some(long), _) => Some(long.to_owned()),
            (None, Some("")) => words.next(),
            (None, Some(attached)) => Some(attached.to_owned()),
            (None, None) => None,
        };
        if let Some((name, value)) = setting.as_deref().and_then(|text| text.split_once('=')) {
            found.push((name.replace('-', "_").to_ascii_lowercase(), value.to_owned()));
        }
    }
    found
}

fn words(options: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut characters = options.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => words.last_mut().expect("there is one").extend(characters.next()),
            space if space.is_ascii_whitespace() => words.push(String::new()),
            other => words.last_mut().expect("there is one").push(other),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg::wire::startup::{self, Opening, Packet, ProtocolVersion};

    fn target(parameters: &[(&str, &str)]) -> Result<Target, Report> {
        let mut bytes = Vec::new();
        let parameters = parameters.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        startup::write_startup(&mut bytes, ProtocolVersion::V3_0, parameters);
        match startup::open(&bytes) {
            Ok(Opening::Packet(Packet::Startup(packet), _)) => Target::of(&packet, b"u"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_database_or_options_say_where_to_read() {
        let at = Some(Lsn(0x16B_3748));
        for (parameters, branch, lsn) in [
            (&[("user", "u")][..], "main", None),
            (&[("database", "replication")], "main", None),
            (&[("database", "main@0/16B3748")], "main", at),
            (&[("database", "dev")], "dev", None),
            (&[("options", "-c howdah.lsn=0/16B3748")], "main", at),
            (&[("options", "-chowdah.branch=a\\ b  -c geqo=off")], "a b", None),
            (&[("options", "--howdah.lsn=0/16B3748"), ("database", "dev")], "dev", at),
            (&[("howdah.lsn", "0/16B3748")], "main", at),
        ] {
            let target = target(parameters).unwrap_or_else(|report| panic!("{}", report.message));
            assert_eq!((target.branch.as_str(), target.lsn), (branch, lsn), "{parameters:?}");
        }
    }

    #[test]
    fn a_branch_may_be_wanted_to_follow_it() {
        for (parameters, branch, is_replica) in [
            (&[("database", "dev?replica")][..], "dev", true),
            (&[("options", "-c howdah.replica=on -c howdah.branch=dev")], "dev", true),
            (&[("options", "-c howdah.replica=off")], "main", false),
            (&[("database", "dev")], "dev", false),
        ] {
            let target = target(parameters).unwrap_or_else(|report| panic!("{}", report.message));
            let found = (target.branch.as_str(), target.is_replica);
            assert_eq!(found, (branch, is_replica), "{parameters:?}");
        }
    }

    #[test]
    fn a_position_that_is_none_is_refused() {
        for parameters in [
            [("database", "main@yesterday")],
            [("database", "main@0/0")],
            [("options", "-c howdah.lsn=1")],
            [("options", "-c howdah.lns=0/1")],
        ] {
            assert!(target(&parameters).is_err(), "{parameters:?}");
        }
    }
}
