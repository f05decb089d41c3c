//! What a base backup of the page service must stand: `pg_verifybackup`, `pg_checksums`, a stock server on it without
//! recovery, the same contents as the primary's own recovery, `pg_amcheck`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::node::{Node, shown};
use super::server::{Programs, Said, Server, last_lines, outcome, succeed};

/// Settings of servers that only answer; in-place tablespaces are what the suite makes.
const READING: [&str; 4] = [
    "autovacuum=off",
    "max_prepared_transactions=20",
    "allow_in_place_tablespaces=on",
    "archive_mode=off",
];

/// A moment that is looked at.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    /// Where a record begins: the primary recovers everything before it.
    pub(crate) lsn: u64,
    /// What the page service is asked for: the same, or in the middle of that record.
    pub(crate) asked: u64,
}

/// How a check went.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) bytes: u64,
    pub(crate) dump_lines: usize,
    /// Both servers' dumps end with the same error: of a moment in the middle of a suite.
    pub(crate) dump_fails: bool,
    /// pg_amcheck complains of the primary's own recovery in the same way.
    pub(crate) complaints_of_both: usize,
    /// Relations that are not logged: each is as empty as its init fork.
    pub(crate) unlogged: usize,
    pub(crate) backup: Duration,
    pub(crate) start: Duration,
    pub(crate) all: Duration,
}

/// The primary's own state at moments: recovered from the base backup and the archive.
pub(crate) struct Reference<'p> {
    pub(crate) programs: &'p Programs,
    pub(crate) run: &'p Path,
}

impl Reference<'_> {
    /// Recovers up to the moment, promotes, and answers what pg_dumpall and pg_amcheck say.
    fn recovered(&self, moment: &Moment) -> Result<[Said; 2], String> {
        let folder = self.run.join("reference");
        remove(&folder)?;
        self.programs.make_folder(&folder)?;
        let mut server = Server::at(self.programs, folder.clone());
        let (base, data) = (self.run.join("base"), server.data());
        let (base, data) = (base.display().to_string(), data.display().to_string());
        self.programs.run("/bin/cp", &["-a", &base, &data])?;
        self.programs.run("/usr/bin/touch", &[&format!("{data}/recovery.signal")])?;
        let archive = self.run.join("archive");
        // Recovery by LSN stops before the first record that does not begin before it.
        let target = format!("recovery_target_lsn={}", shown(moment.lsn));
        let restore = format!("restore_command='cp {}/%f %p'", archive.display());
        let recovery =
            [&target, &restore, "recovery_target_inclusive=off", "recovery_target_action=promote"];
        server.start(&[&READING[..], &recovery[..]].concat())?;
        let until = Instant::now() + Duration::from_secs(900);
        while server.sql("postgres", "SELECT pg_is_in_recovery()")? == "t" {
            if Instant::now() > until {
                return Err(format!("recovery does not end:\n{}", last_lines(&server.log(), 20)));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        let said = [dump(&server)?, amcheck(&server)?];
        server.stop()?;
        remove(&folder)?;
        Ok(said)
    }
}

/// Takes a base backup of the moment into `FOLDER/data`.
pub(crate) fn back_up(node: &Node<'_>, moment: &Moment, folder: &Path) -> Result<Duration, String> {
    let (began, programs) = (Instant::now(), node.programs);
    remove(folder)?;
    programs.make_folder(folder)?;
    let mut backup = programs.command("pg_basebackup");
    backup.args(["-h", "127.0.0.1", "-p", &node.pages.to_string(), "-X", "fetch", "-D"]);
    backup.arg(folder.join("data"));
    backup.env("PGOPTIONS", format!("-c howdah.lsn={}", shown(moment.asked)));
    succeed(backup)?;
    Ok(began.elapsed())
}

/// Holds a base backup against everything; it is gone when all is well.
pub(crate) fn check(
    reference: &Reference<'_>,
    moment: &Moment,
    folder: &Path,
) -> Result<Outcome, String> {
    let began = Instant::now();
    let programs = reference.programs;
    let mut server = Server::at(programs, folder.to_owned());
    let data = server.data().display().to_string();
    let mut outcome = Outcome { bytes: bytes_in(&server.data()), ..Outcome::default() };
    programs.run("pg_verifybackup", &["-q", &data])?;
    programs.run("pg_checksums", &["--check", "-D", &data])?;
    let starting = Instant::now();
    server.start(&READING)?;
    outcome.start = starting.elapsed();
    let log = server.log();
    if ["redo starts", "not properly shut down", "PANIC"].iter().any(|word| log.contains(word)) {
        return Err(format!("the server did not start as from an orderly stop:\n{log}"));
    }
    outcome.unlogged = unlogged(&server)?;
    let ours = [dump(&server)?, amcheck(&server)?];
    server.sql("postgres", "CHECKPOINT")?;
    server.stop()?;
    programs.run("pg_checksums", &["--check", "-D", &data])?;
    let theirs = reference.recovered(moment)?;
    outcome.dump_lines = ours[0].output.lines().count();
    outcome.dump_fails = !ours[0].succeeded;
    compare("pg_dumpall", &ours[0], &theirs[0], folder)?;
    if !ours[1].succeeded {
        compare("pg_amcheck", &ours[1], &theirs[1], folder)?;
        outcome.complaints_of_both = ours[1].output.lines().count();
    }
    remove(folder)?;
    outcome.all = began.elapsed();
    Ok(outcome)
}

/// The contents of all databases, but for relations that are not logged: recovery may leave a sequence of those empty, since
/// redo (`seq_redo`) does not write out what the relation is reset from.
fn dump(server: &Server<'_>) -> Result<Said, String> {
    let mut dump = server.client("pg_dumpall");
    dump.arg("--no-unlogged-table-data");
    let mut said = outcome(dump)?;
    // Newer ones have a random word in these two.
    let is_random = |line: &&str| line.contains("\\restrict") || line.contains("\\unrestrict");
    let lines: Vec<&str> = said.output.lines().filter(|line| !is_random(line)).collect();
    said.output = lines.join("\n");
    said.errors = without_place(&said.errors, server);
    Ok(said)
}

/// Tables and indexes that are not logged, and whether each is a copy of its init fork, which recovery makes of them; how
/// many there are. Sequences are another matter: see [`dump`].
fn unlogged(server: &Server<'_>) -> Result<usize, String> {
    let relations = "SELECT c.oid::regclass, pg_read_binary_file(pg_relation_filepath(c.oid)) \
        = pg_read_binary_file(pg_relation_filepath(c.oid) || '_init') FROM pg_class c \
        WHERE relpersistence = 'u' AND relkind IN ('r', 't', 'i') AND NOT EXISTS \
        (SELECT FROM pg_index WHERE indexrelid = c.oid AND NOT indisvalid) ORDER BY 1";
    let databases = server.sql("postgres", "SELECT datname FROM pg_database WHERE datallowconn")?;
    let mut count = 0;
    for database in databases.lines() {
        for line in server.sql(database, relations)?.lines() {
            if !line.ends_with("|t") {
                return Err(format!("{line}: not what recovery makes of it, in {database}"));
            }
            count += 1;
        }
    }
    Ok(count)
}

/// What pg_amcheck says, once nothing is locked any more: prepared transactions are rolled back.
fn amcheck(server: &Server<'_>) -> Result<Said, String> {
    let prepared = server.sql("postgres", "SELECT database, gid FROM pg_prepared_xacts")?;
    for (database, name) in prepared.lines().filter_map(|line| line.split_once('|')) {
        let name = name.replace('\'', "''");
        server.sql(database, &format!("ROLLBACK PREPARED '{name}'"))?;
    }
    let mut check = server.client("pg_amcheck");
    check.args(["--all", "--install-missing", "--heapallindexed", "--parent-check"]);
    let mut said = outcome(check)?;
    said.errors = without_place(&said.errors, server);
    Ok(said)
}

/// Messages name the socket's folder.
fn without_place(text: &str, server: &Server<'_>) -> String {
    text.replace(&server.socket().display().to_string(), "SOCKET")
}

fn compare(program: &str, ours: &Said, theirs: &Said, folder: &Path) -> Result<(), String> {
    if ours == theirs {
        return Ok(());
    }
    let mut kept = Vec::new();
    for (whose, said) in [("page-service", ours), ("recovery", theirs)] {
        let path = folder.join(format!("{program}.{whose}"));
        let text = format!("{}\n{}", said.output, said.errors);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        kept.push(path.display().to_string());
    }
    let lines = ours.output.lines().zip(theirs.output.lines());
    let first = lines.into_iter().find(|(ours, theirs)| ours != theirs);
    Err(format!("{program} differs: {first:?}\nSee diff {}", kept.join(" ")))
}

fn bytes_in(folder: &Path) -> u64 {
    let mut left = vec![PathBuf::from(folder)];
    let mut bytes = 0;
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(entry_of) if entry_of.is_dir() => left.push(entry.path()),
                Ok(entry_of) => bytes += entry_of.len(),
                Err(_) => {}
            }
        }
    }
    bytes
}

pub(crate) fn remove(folder: &Path) -> Result<(), String> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", folder.display()))
        }
        _ => Ok(()),
    }
}
