//! `cargo xtask bench console`: puts the same commands to the consoles of Howdah and of a running PgBouncer, and compares
//! what comes back: names and types of columns, the rows' names where a table is a list of names, tags, whether it is an error.
//!
//! Two things differ throughout and are not compared. PgBouncer's numbers are int4, in statistics numeric; ours are int8, for
//! ids and counters that outgrow int4 and can be read as numbers by drivers. PgBouncer's errors are all 08P01; ours have an
//! SQLSTATE of their own.
//! Differences that are meant stand in [`MEANT`] with their reason; any other one, and one that is no longer there, fails.

use std::collections::BTreeSet;

use super::client::{Answer, Client};
use super::options::Options;
use super::server::Server;
use super::target::{self, Entry};

/// The commands, in this order: what one changes the next changes back.
const COMMANDS: [&str; 50] = [
    "SHOW ACTIVE_SOCKETS",
    "SHOW CLIENTS",
    "SHOW CONFIG",
    "SHOW DATABASES",
    "SHOW DNS_HOSTS",
    "SHOW DNS_ZONES",
    "SHOW FDS",
    "SHOW HELP",
    "SHOW LISTS",
    "SHOW MEM",
    "SHOW PEERS",
    "SHOW PEER_POOLS",
    "SHOW POOLS",
    "SHOW SERVERS",
    "SHOW SOCKETS",
    "SHOW STATE",
    "SHOW STATS",
    "SHOW STATS_AVERAGES",
    "SHOW STATS_TOTALS",
    "SHOW TOTALS",
    "SHOW USERS",
    "SHOW VERSION",
    "SHOW",
    "SHOW NOTHING_LIKE_THAT",
    "show pools",
    "SHOW pools;",
    "SELECT POOLS",
    "SET query_timeout = '7'",
    "SET query_timeout = 0",
    "SET no_such_key = 1",
    "RELOAD",
    "PAUSE bench",
    "RESUME bench",
    "RESUME bench",
    "PAUSE no_such_database",
    "PAUSE",
    "PAUSE",
    "RESUME",
    "DISABLE bench",
    "ENABLE bench",
    "DISABLE",
    "RECONNECT bench",
    "RECONNECT",
    "WAIT_CLOSE",
    "KILL bench",
    "RESUME bench",
    "KILL_CLIENT 999999",
    "KILL_CLIENT nonsense",
    "nonsense",
    "",
];

/// Tables whose first column is a name that tools look for.
const LISTS: [&str; 4] = ["SHOW CONFIG", "SHOW LISTS", "SHOW STATE", "SHOW TOTALS"];

/// Differences on purpose: command, and why. crates/pooler/README.md has them for readers.
const MEANT: [(&str, &str); 6] = [
    ("SHOW ACTIVE_SOCKETS", BUFFERS),
    ("SHOW SOCKETS", BUFFERS),
    (
        "SHOW CONFIG",
        "settings of what Howdah has not (LDAP, own DNS and buffers, log files), or does otherwise; suspend_timeout is one that can be set here",
    ),
    ("SHOW STATE", "SUSPEND is a state as well"),
    ("SHOW HELP", "a table, where PgBouncer sends a notice: drivers drop notices"),
    ("", "an empty query is none for PostgreSQL either, and drivers test connections with it"),
];

const BUFFERS: &str = "seven positions in PgBouncer's own buffers; Howdah has no buffer for a connection that is idle";

pub(super) fn run(arguments: &[String]) -> Result<(), String> {
    let line = ["--targets", "howdah,pgbouncer", "--scale", "1", "--clients", "1"];
    let line = line.iter().map(|word| (*word).to_owned()).chain(arguments.iter().cloned());
    let Some(options) = Options::parse(line.collect())? else { return Ok(()) };
    let server = Server::start(&options)?;
    let mut targets = target::prepare(&options, &server)?;
    let mut answers = Vec::new();
    for pooler in &mut targets {
        let port = pooler.open(Entry::Trust)?;
        let mut console = Client::open(port, "bench", "pgbouncer")?;
        let told: Result<Vec<Answer>, String> =
            COMMANDS.iter().map(|command| console.ask(command)).collect();
        answers.push(told.map_err(|error| format!("{}: {error}", pooler.name()))?);
        println!("{}: {}", pooler.name(), pooler.description);
    }
    let [own, other] = answers.as_slice() else { return Err("two targets are needed".to_owned()) };
    let mut unmeant = 0;
    for ((command, own), other) in COMMANDS.iter().zip(own).zip(other) {
        let differences = differences(command, own, other);
        let reason = MEANT.iter().find(|(meant, _)| meant == command).map(|(_, why)| *why);
        match (differences.is_empty(), reason) {
            (true, None) => {}
            (true, Some(_)) => {
                println!("{command:?}: no difference any more; take it off the list")
            }
            (false, Some(why)) => {
                println!("{command:?}: {}\n    meant: {why}", differences.join("; "))
            }
            (false, None) => println!("{command:?}: {}", differences.join("; ")),
        }
        unmeant += usize::from(differences.is_empty() == reason.is_some());
    }
    for pooler in &mut targets {
        pooler.stop();
    }
    println!("{} commands compared", COMMANDS.len());
    if unmeant == 0 { Ok(()) } else { Err(format!("{unmeant} differences are not as listed")) }
}

fn differences(command: &str, own: &Answer, other: &Answer) -> Vec<String> {
    let mut found = Vec::new();
    let names = |answer: &Answer| -> Vec<String> {
        answer.columns.iter().map(|(name, oid)| format!("{name}:{}", kind(*oid))).collect()
    };
    let (mine, theirs) = (names(own), names(other));
    if mine != theirs {
        let (a, b) = (set(&mine), set(&theirs));
        let ours: Vec<_> = a.difference(&b).collect();
        let missing: Vec<_> = b.difference(&a).collect();
        found.push(format!("columns: ours alone {ours:?}, PgBouncer's alone {missing:?}"));
    }
    if LISTS.contains(&command) {
        let (a, b) = (set(&own.names), set(&other.names));
        let ours: Vec<_> = a.difference(&b).collect();
        let missing: Vec<_> = b.difference(&a).collect();
        if !(ours.is_empty() && missing.is_empty()) {
            found.push(format!("rows: ours alone {ours:?}, PgBouncer's alone {missing:?}"));
        }
    }
    if own.tag != other.tag {
        found.push(format!("tag {:?}, PgBouncer's {:?}", own.tag, other.tag));
    }
    if own.error.is_some() != other.error.is_some() {
        found.push(format!("error {:?}, PgBouncer's {:?}", own.error, other.error));
    }
    found
}

fn set(names: &[String]) -> BTreeSet<String> {
    names.iter().cloned().collect()
}

/// What a type is for.
fn kind(oid: u32) -> &'static str {
    match oid {
        20 | 23 | 1700 => "number",
        25 => "text",
        _ => "another type",
    }
}
