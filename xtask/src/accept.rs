//! `cargo xtask accept`: whether what the page service gives is what the primary itself would recover to.
//!
//! Steps: a primary with checksums, its base backup, an archive of its WAL; a page server that follows it, with an object
//! store; PostgreSQL's regression suite beside pgbench. At moments along the way base backups are taken from the page
//! service; then of more moments, when all is over. Each is held against the primary's own recovery from base backup and
//! archive to the same LSN (`accept/check.rs`). Then primary and page server are lost with their files, a new page server is
//! recovered from the store alone, and the same is asked of it.
//!
//! Every second moment lies inside a record: as of then, that record has not been.

mod check;
mod load;
mod node;
mod options;
mod report;
mod server;
mod store;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::{howdah, servers, suites};
use check::{Moment, Reference, back_up, check};
use load::Load;
use node::{Node, position, shown};
use options::Options;
use report::Report;
use server::{Programs, Server};
use store::Store;

/// Settings of the primary: everything that can be restored, checkpoints now and then.
const SETTINGS: [&str; 8] = [
    "wal_level=replica",
    "archive_mode=on",
    "max_prepared_transactions=20",
    "track_commit_timestamp=on",
    "checkpoint_timeout=30s",
    "max_wal_size=256MB",
    "wal_keep_size=1GB",
    "allow_in_place_tablespaces=on",
];
/// A position inside a record that begins at another one: none is shorter, and behind a page's header neither.
const INSIDE: u64 = 8;
/// So little is received and taken in at once.
const LAG_BYTES_MAX: u64 = 1_000_000;

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let options = Options::parse(arguments)?;
    let folder = servers::folder("accept")?.join(options.kind());
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    // Two runs of one kind would take each other's clusters away.
    let lock = std::fs::File::create(folder.join("lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    let run = folder.join("run");
    let (places, programs) = match options.obtain(&run) {
        Ok(obtained) => obtained,
        Err(reason) if options.optional => {
            println!("{reason}\nTHE PAGE SERVER IS NOT ACCEPTED");
            return Ok(());
        }
        Err(reason) => return Err(reason),
    };
    let howdah = options.howdah.clone().map_or_else(howdah::build, Ok)?;
    let store = options.store(&run.join("store"))?;
    let outcome = accept(&options, &run, places.as_ref(), &programs, &howdah, &store);
    if !options.keep && outcome.is_ok() {
        check::remove(&run)?;
    }
    outcome
}

fn accept(
    options: &Options,
    run: &Path,
    places: Option<&suites::Places>,
    programs: &Programs,
    howdah: &Path,
    store: &Store,
) -> Result<(), String> {
    let mut report = Report::new(options, store);
    let mut primary = primary(programs, run)?;
    let (folder, socket) = (run.join("howdah"), primary.socket());
    let mut node = Node::new(programs, howdah, folder, store, &socket)?;
    node.start()?;
    node.wait("the stream", |status| status["phase"] == "streaming")?;
    let began = Instant::now();
    let load = match places {
        Some(places) => Load::full(&primary, places)?,
        None => Load::short(&primary)?,
    };
    let samples = watch(options, run, &primary, &node, load, places)?;
    report.loaded(began.elapsed(), samples.wal_bytes());
    if let Some(places) = places {
        report.suite(&suites::regression_summary(places)?);
    }
    let end = finish(&primary, &mut node)?;
    let reference = Reference { programs, run };
    let mut moments = Vec::new();
    for (number, (moment, took)) in samples.taken.iter().enumerate() {
        let mut outcome = check(&reference, moment, &backup_folder(run, number))?;
        outcome.backup = *took;
        report.line("while it was written", moment, &outcome);
        moments.push(moment.clone());
    }
    for moment in samples.spread(options.lsns.saturating_sub(moments.len()), end) {
        compare(&reference, &node, &moment, &mut report, "when all was over")?;
        moments.push(moment);
    }
    primary.stop()?;
    check::remove(&primary.data())?;
    println!("primary and page server are lost");
    let began = Instant::now();
    node.lose_and_recover()?;
    report.recovered(began.elapsed());
    let every = moments.len().div_ceil(options.recovered_lsns()).max(1);
    for moment in moments.iter().rev().step_by(every) {
        compare(&reference, &node, moment, &mut report, "recovered from the store")?;
    }
    node.howdah(&["scrub"])?;
    node.stop()?;
    report.end(options)
}

/// Makes the primary with its base backup and its archive.
fn primary<'p>(programs: &'p Programs, run: &Path) -> Result<Server<'p>, String> {
    for folder in ["primary", "archive"] {
        programs.make_folder(&run.join(folder))?;
    }
    let mut primary = Server::at(programs, run.join("primary"));
    let data = primary.data().display().to_string();
    let initdb = ["-D", &data, "-A", "trust", "-U", "postgres", "-k", "--no-sync"];
    programs.run("initdb", &[&initdb[..], &["--no-locale", "-E", "UTF8"]].concat())?;
    let archive = run.join("archive").display().to_string();
    // Whole files only: recovery may look while one is copied.
    let keep = format!("cp %p {archive}/%f.part && mv {archive}/%f.part {archive}/%f");
    let keep = format!("archive_command='{keep}'");
    let conf = run.join("primary/data/postgresql.auto.conf");
    std::fs::write(&conf, format!("{keep}\n")).map_err(|error| error.to_string())?;
    primary.start(&SETTINGS)?;
    let base = run.join("base").display().to_string();
    let mut backup = primary.client("pg_basebackup");
    backup.args(["-D", &base, "-X", "none", "--no-manifest", "-c", "fast", "--no-sync"]);
    server::succeed(backup)?;
    Ok(primary)
}

/// Positions of the primary along the way, and the moments that were backed up then.
struct Samples {
    positions: Vec<u64>,
    taken: Vec<(Moment, Duration)>,
}

impl Samples {
    fn wal_bytes(&self) -> u64 {
        match (self.positions.first(), self.positions.last()) {
            (Some(first), Some(last)) => last - first,
            _ => 0,
        }
    }

    /// So many moments, far from each other in the WAL; the last of all is the end.
    fn spread(&self, count: usize, end: u64) -> Vec<Moment> {
        let Some(first) = self.positions.first().copied() else { return Vec::new() };
        let mut found = Vec::new();
        for number in 1..count {
            let wanted = first + (end - first) * number as u64 / count as u64;
            let near = self.positions.iter().copied().min_by_key(|lsn| lsn.abs_diff(wanted));
            found.extend(near.map(|lsn| moment(lsn, number)));
        }
        if count > 0 {
            found.push(Moment { lsn: end, asked: end });
        }
        found
    }
}

/// Every second one inside a record.
fn moment(lsn: u64, number: usize) -> Moment {
    Moment { lsn, asked: if number % 2 == 1 { lsn + INSIDE } else { lsn } }
}

fn backup_folder(run: &Path, number: usize) -> PathBuf {
    run.join(format!("taken-{number}"))
}

/// Waits for the load's end; takes base backups meanwhile, of right then. The suite is repeated until that is done.
fn watch(
    options: &Options,
    run: &Path,
    primary: &Server<'_>,
    node: &Node<'_>,
    mut load: Load,
    places: Option<&suites::Places>,
) -> Result<Samples, String> {
    let mut samples = Samples { positions: Vec::new(), taken: Vec::new() };
    let mut next = Instant::now() + options.interval();
    while !load.is_over(options.short)? {
        let lsn = current(primary)?;
        samples.positions.push(lsn);
        if samples.taken.len() >= options.lsns / 2 {
            if let Some(places) = places {
                // The second time it is not there any more.
                let _gone = std::fs::remove_file(suites::repeat_file(places));
            }
        } else if Instant::now() >= next {
            let number = samples.taken.len();
            let moment = moment(lsn, number);
            println!("taking a base backup at {}", shown(moment.asked));
            let took = back_up(node, &moment, &backup_folder(run, number))?;
            samples.taken.push((moment, took));
            if number == 0 {
                node.store.suffer()?;
            }
            next = Instant::now() + options.interval();
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(samples)
}

/// Where the next record begins.
fn current(primary: &Server<'_>) -> Result<u64, String> {
    let text = primary.sql("postgres", "SELECT pg_current_wal_insert_lsn()")?;
    position(&text).ok_or_else(|| format!("\"{text}\" is no LSN"))
}

/// The last commit, which a branch made at once must have; then everything into archive and store. Answers the end.
fn finish(primary: &Server<'_>, node: &mut Node<'_>) -> Result<u64, String> {
    // The API gives no answer half a minute later; a slow build may be further behind than that.
    node.wait("the end of the load", |status| {
        status["lag_bytes"].as_u64().is_some_and(|lag| lag < LAG_BYTES_MAX)
    })?;
    primary.sql("postgres", "CREATE TABLE last AS SELECT 1 AS one")?;
    let end = current(primary)?;
    let said = node.howdah(&["branch", "create", "last", "--json"])?;
    let made: serde_json::Value = serde_json::from_str(&said).map_err(|error| error.to_string())?;
    let at = made["at"].as_str().and_then(position).unwrap_or_default();
    // It ends where the last record does; the next one may begin behind a page's header.
    if at + 40 < end {
        return Err(format!("a branch of now is at {}, before {}", shown(at), shown(end)));
    }
    let switched = primary.sql("postgres", "SELECT pg_walfile_name(pg_switch_wal())")?;
    primary.sql("postgres", "CREATE TABLE later AS SELECT 1 AS one")?;
    let last = current(primary)?;
    let until = Instant::now() + Duration::from_secs(300);
    let archived = "SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver";
    while primary.sql("postgres", archived)? < switched {
        if Instant::now() > until {
            return Err("the archive does not come to the end".to_owned());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    // The last segment's records are in no archive; the moments that are looked at lie before.
    node.wait_stored(last.saturating_sub(40))?;
    Ok(end)
}

fn compare(
    reference: &Reference<'_>,
    node: &Node<'_>,
    moment: &Moment,
    report: &mut Report,
    when: &str,
) -> Result<(), String> {
    let folder = reference.run.join("restored");
    let took = back_up(node, moment, &folder)?;
    let mut outcome = check(reference, moment, &folder)?;
    outcome.backup = took;
    report.line(when, moment, &outcome);
    Ok(())
}
