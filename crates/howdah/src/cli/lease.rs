//! `howdah lease`: moments kept readable for a while, whatever the retention.

use std::time::Duration;

use clap::Subcommand;
use pageserver::api::{Branch, Lease};
use pooler::settings::units;
use serde::de::DeserializeOwned;
use serde_json::{Value, from_value, json};

use crate::api::client::{Api, escaped};
use crate::error::{Result, While};
use crate::output;

/// Who holds the leases of whoever does not say.
const HOLDER: &str = "operator";

#[derive(Debug, Subcommand)]
pub enum LeaseCommand {
    /// Keep a moment readable for some time; the same again prolongs it
    #[command(after_help = CREATE_EXAMPLE)]
    Create {
        /// An LSN, a time (RFC 3339), the name of a restore point, or `now`
        moment: String,
        /// How long, from now on: at most a year
        #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
        time: Duration,
        /// Branch that it is a moment of
        #[arg(long, default_value = "main")]
        branch: String,
        /// Who wants it: several may want the same moment
        #[arg(long, default_value = HOLDER)]
        holder: String,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// List what is kept, for whom and until when
    #[command(
        after_help = "Example:\n  howdah lease list\n  howdah lease list --branch main --json"
    )]
    List {
        /// Leases of this branch [default: of all]
        #[arg(long)]
        branch: Option<String>,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// End a lease before its time
    #[command(after_help = RELEASE_EXAMPLE)]
    Release {
        /// As `lease create` was told, or the LSN that `lease list` shows
        moment: String,
        /// Branch that it is a moment of
        #[arg(long, default_value = "main")]
        branch: String,
        /// Whose it is
        #[arg(long, default_value = HOLDER)]
        holder: String,
    },
}

const CREATE_EXAMPLE: &str = "Example:
  howdah lease create 0/16B3748 --for 7d
  howdah lease create 'before the release' --for 12h --holder release-team
  howdah lease create 2026-11-19T10:00:00Z --for 30d --branch feature

The moment must still be there. A branch keeps the one that it was made at for as long as it
exists.";

const RELEASE_EXAMPLE: &str = "Example:
  howdah lease release 0/16B3748
  howdah lease release 'before the release' --holder release-team";

pub(super) fn run(command: &LeaseCommand, api: &Api) -> Result<()> {
    match command {
        LeaseCommand::Create { moment, time, branch, holder, json } => {
            let path = path(branch, moment, holder);
            let value = api.post(&format!("{path}&seconds={}", time.as_secs()))?;
            if *json {
                output::json(&value);
            } else {
                output::line(shown(&read(value)?));
            }
        }
        LeaseCommand::List { branch, json } => {
            let leases = list(branch.as_deref(), api)?;
            if *json {
                output::json(&json!({ "leases": leases }));
            } else {
                leases.iter().map(shown).for_each(output::line);
            }
        }
        LeaseCommand::Release { moment, branch, holder } => {
            let _ended = api.delete(&path(branch, moment, holder))?;
            output::line(format!("lease of {holder} for {moment} of branch \"{branch}\" ended"));
        }
    }
    Ok(())
}

fn path(branch: &str, moment: &str, holder: &str) -> String {
    let (branch, moment, holder) = (escaped(branch), escaped(moment), escaped(holder));
    format!("/v1/branches/{branch}/leases?at={moment}&holder={holder}")
}

fn list(branch: Option<&str>, api: &Api) -> Result<Vec<Lease>> {
    let names = match branch {
        Some(name) => vec![name.to_owned()],
        None => {
            let branches: Vec<Branch> = of(api.get("/v1/branches")?, "branches")?;
            branches.into_iter().map(|branch| branch.name).collect()
        }
    };
    let mut leases = Vec::new();
    for name in names {
        let path = format!("/v1/branches/{}/leases", escaped(&name));
        leases.extend(of::<Vec<Lease>>(api.get(&path)?, "leases")?);
    }
    Ok(leases)
}

fn of<T: DeserializeOwned>(mut value: Value, key: &str) -> Result<T> {
    read(value.get_mut(key).map_or(Value::Null, Value::take))
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T> {
    from_value(value).or_fail("unexpected answer of the API")
}

fn shown(lease: &Lease) -> String {
    let Lease { branch, lsn, holder, until } = lease;
    format!("{branch:<24} {lsn} until {until} for {holder}")
}

/// Whole seconds, as many as the API takes.
fn duration(text: &str) -> std::result::Result<Duration, String> {
    let time = units::parse_duration(text)?;
    let is_good = time.as_secs() > 0 && u32::try_from(time.as_secs()).is_ok();
    if is_good { Ok(time) } else { Err("give a second at least, and a year at most".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit_and_some_length() {
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        for text in ["7", "0", "10ms", "-1d", "forever", "99999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_means_something_in_a_path_is_escaped() {
        let path = path("a/b", "before & after", "me");
        assert_eq!(path, "/v1/branches/a%2Fb/leases?at=before%20%26%20after&holder=me");
    }
}
