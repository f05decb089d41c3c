//! `cargo xtask bench computes`: computes on mounts beside the same Postgres on a plain directory.
//!
//! 1. For each size: `howdah up` with pgbench's tables of that size; the plain directory is a restore of the same moment.
//! 2. Every figure is taken in rounds, the two sides in turn, each in a session of its own; cells are medians.
//! 3. Where the page server has to confirm commits (a branch), the plain server syncs its own (`fsync = on`); where nobody
//!    does (a moment), it does not.
//! 4. Cold means that the system's cache was emptied before: that of the page server's files, too. It takes root.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::client::Client;
use super::measure::median;
use super::process::{self, Daemon};
use super::{machine, server};
use crate::howdah::{self, Howdah};
use crate::{root, servers};

const USAGE: &str = "measure computes beside the same Postgres on a plain directory

usage: cargo xtask bench computes [OPTIONS]

  --quick          one small database, few short rounds, to try it
  --large SCALE    pgbench scale of the large database (default 140, about 2 GB)
  --howdah FILE    this program instead of one built now
  --write          put the results into docs/benchmarks.md
";

/// Lines of docs/benchmarks.md between which the results stand.
const BEGIN: &str = "<!-- computes: written by cargo xtask bench computes --write -->";
const END: &str = "<!-- computes: end -->";

/// About 100 MB.
const SMALL: u32 = 7;
/// Holds the small database.
const SHARED_BUFFERS: &str = "256MB";
const CLIENTS: &str = "4";
/// Against hangs only.
const PATIENCE: Duration = Duration::from_secs(120);
const FIRST_QUERY: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = 1";
const SCAN: &str =
    "SET max_parallel_workers_per_gather = 0; SELECT sum(abalance) FROM pgbench_accounts";

struct Options {
    scales: Vec<u32>,
    wakes: usize,
    rounds: usize,
    seconds: String,
    howdah: Option<PathBuf>,
    write: bool,
    command: String,
}

/// A figure of both sides, with what is wanted of their ratio.
struct Row {
    what: &'static str,
    database: String,
    unit: &'static str,
    plain: f64,
    compute: f64,
    wanted: Wanted,
}

#[derive(Clone, Copy)]
enum Wanted {
    AtMost(f64),
    AtLeast(f64),
}

/// One database, on a compute and on a plain directory.
struct Pair {
    howdah: Howdah,
    plain: Plain,
    bin: PathBuf,
    /// Of the moment that both have.
    lsn: String,
    database: String,
    megabytes: f64,
}

/// The plain directory, and the server on it while it runs.
struct Plain {
    bin: PathBuf,
    folder: PathBuf,
    port: u16,
    user: Option<(u32, u32)>,
    daemon: Option<Daemon>,
}

pub(super) fn run(arguments: &[String]) -> Result<(), String> {
    let options = Options::parse(arguments)?;
    let howdah = options.howdah.clone().map_or_else(howdah::build, Ok)?;
    let folder = servers::folder("bench")?.join("computes");
    let mut rows = Vec::new();
    for (number, &scale) in options.scales.iter().enumerate() {
        let _old = fs::remove_dir_all(&folder);
        let mut pair = Pair::make(&howdah, &folder, scale)?;
        pair.wake(&options, &mut rows)?;
        if number == 0 {
            pair.cached(&options, &mut rows)?;
            pair.durable(&options, &mut rows)?;
        }
        pair.cold(&options, &mut rows)?;
        drop(pair);
        let _removed = fs::remove_dir_all(&folder);
    }
    let text = section(&options, &rows);
    println!("{text}");
    if options.write { write(&text) } else { Ok(()) }
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options, String> {
        let mut options = Options {
            scales: vec![SMALL, 140],
            wakes: 11,
            rounds: 3,
            seconds: "5".to_owned(),
            howdah: None,
            write: false,
            command: format!("cargo xtask bench computes {}", arguments.join(" ")),
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--quick" => {
                    options.scales.truncate(1);
                    (options.wakes, options.rounds) = (5, 2);
                    "2".clone_into(&mut options.seconds);
                }
                "--large" => {
                    let scale = words.next().and_then(|scale| scale.parse().ok());
                    options.scales = vec![SMALL, scale.ok_or(USAGE)?];
                }
                "--howdah" => options.howdah = Some(words.next().ok_or(USAGE)?.into()),
                "--write" => options.write = true,
                _ => return Err(USAGE.to_owned()),
            }
        }
        Ok(options)
    }
}

impl Pair {
    fn make(program: &Path, folder: &Path, scale: u32) -> Result<Pair, String> {
        let bin = server::binaries()?;
        let config = format!(
            "[api]\nlisten = \"127.0.0.1:0\"\n[pageserver]\nlisten = \"127.0.0.1:0\"\n\
             [postgres]\nplace = \"directory\"\n[postgres.settings]\nfsync = false\nmax_wal_size = \"4GB\"\n\
             [compute]\nmode = \"fuse\"\nidle_timeout = \"0\"\n\
             [compute.postgres]\nshared_buffers = \"{SHARED_BUFFERS}\"\nmax_wal_size = \"4GB\"\n\
             [pooler]\nlisten_port = 0\n"
        );
        let howdah = Howdah::start(program, &bin, folder, &config)?;
        let (_, port) = howdah.pooler()?;
        eprintln!("pgbench -i -s {scale}");
        let (number, scale) = (port.to_string(), scale.to_string());
        let pgbench = bin.join("pgbench").display().to_string();
        let to = ["-h", "127.0.0.1", "-p", &number, "-U", "postgres", "postgres"];
        let fill = [&pgbench, "-i", "-q", "-I", "dtGvp", "-s", &scale];
        process::output(&[&fill[..], &to].concat(), None)?;
        let mut session = Client::open(port, "postgres", "postgres")?;
        session.run("CHECKPOINT")?;
        let lsn = session.value("SELECT pg_current_wal_flush_lsn()")?;
        let size = session.value("SELECT pg_database_size('postgres') / 1e6")?;
        let megabytes = session.value("SELECT pg_relation_size('pgbench_accounts') / 1e6")?;
        let number = |text: String| text.parse::<f64>().map_err(|error| error.to_string());
        let pair = Pair {
            plain: Plain::new(&bin, folder)?,
            howdah,
            bin,
            lsn,
            database: size_of(number(size)?),
            megabytes: number(megabytes)?,
        };
        pair.arrive()?;
        eprintln!("restoring {}", pair.database);
        pair.plain.restore(&pair.howdah, &pair.lsn)?;
        Ok(pair)
    }

    /// Waits until the page server has the moment, by making a branch there.
    fn arrive(&self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE * 5;
        loop {
            match self.howdah.tell(&["branch", "create", "bench", "--at", &self.lsn]) {
                Ok(_) => return Ok(()),
                Err(said) if Instant::now() > deadline => return Err(said),
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    fn moment(&self) -> String {
        format!("main@{}?ephemeral", self.lsn)
    }

    fn row(&self, what: &'static str, unit: &'static str, wanted: Wanted, both: &Both) -> Row {
        let (plain, compute) = both.medians();
        let row = Row { what, database: self.database.clone(), unit, plain, compute, wanted };
        eprintln!("{}", row.line());
        row
    }

    /// From nothing to the first row: a server started on its warm directory, a compute woken by the pooler.
    fn wake(&mut self, options: &Options, rows: &mut Vec<Row>) -> Result<(), String> {
        let (_, pooler) = self.howdah.pooler()?;
        let moment = self.moment();
        let database = format!("postgres@{moment}").replace("@main@", "@");
        let mut both = Both::default();
        // The first of each warms: the system's cache, and the list of the pages that a start reads.
        for round in 0..=options.wakes {
            let began = Instant::now();
            self.plain.start("off")?;
            let port = self.plain.port;
            let plain = first_query(began, port, "postgres")?;
            self.plain.stop();
            let compute = first_query(Instant::now(), pooler, &database)?;
            if round == 0 {
                // What a start reads is written down some seconds later.
                std::thread::sleep(Duration::from_secs(6));
            } else {
                both.add(plain, compute);
            }
            self.howdah.tell(&["compute", "stop", &moment])?;
        }
        rows.push(self.row("wake to first query", "ms", Wanted::AtMost(2.0), &both));
        Ok(())
    }

    /// Everything is in the servers' own caches.
    fn cached(&mut self, options: &Options, rows: &mut Vec<Row>) -> Result<(), String> {
        self.plain.start_and_wait("off")?;
        let scratch = self.compute(&self.moment())?;
        let plain = self.plain.place();
        for place in [&plain, &scratch] {
            self.psql(place, SCAN)?;
            self.pgbench(place, &["-S"], "1")?;
        }
        let mut both = Both::default();
        for _round in 0..options.rounds {
            both.add(
                self.pgbench(&plain, &["-S"], &options.seconds)?,
                self.pgbench(&scratch, &["-S"], &options.seconds)?,
            );
        }
        rows.push(self.row("pgbench -S, cached", "tps", Wanted::AtLeast(0.95), &both));
        let mut both = Both::default();
        for _round in 0..options.rounds {
            both.add(
                self.pgbench(&plain, &[], &options.seconds)?,
                self.pgbench(&scratch, &[], &options.seconds)?,
            );
        }
        let what = "TPC-B, nothing kept (fsync off beside it)";
        rows.push(self.row(what, "tps", Wanted::AtLeast(0.8), &both));
        self.plain.stop();
        self.howdah.tell(&["compute", "stop", &self.moment()]).map(drop)
    }

    /// What is acknowledged lasts: on the plain server's disk, in the page server.
    fn durable(&mut self, options: &Options, rows: &mut Vec<Row>) -> Result<(), String> {
        self.plain.start_and_wait("on")?;
        let branch = self.compute("bench")?;
        let plain = self.plain.place();
        for place in [&plain, &branch] {
            self.psql(place, SCAN)?;
            self.pgbench(place, &[], "1")?;
        }
        let (mut tps, mut longest) = (Both::default(), Both::default());
        for _round in 0..options.rounds {
            let there = self.pgbench_logged(&plain, &options.seconds)?;
            let here = self.pgbench_logged(&branch, &options.seconds)?;
            tps.add(there.0, here.0);
            longest.add(there.1, here.1);
        }
        let what = "TPC-B on a branch (fsync on beside it)";
        rows.push(self.row(what, "tps", Wanted::AtLeast(0.8), &tps));
        let what = "its longest transaction, with a checkpoint";
        rows.push(self.row(what, "ms", Wanted::AtMost(2.0), &longest));
        self.plain.stop();
        self.howdah.tell(&["compute", "stop", "bench"]).map(drop)
    }

    /// The large table from beginning to end, nothing of it in any memory but the page server's own.
    fn cold(&mut self, options: &Options, rows: &mut Vec<Row>) -> Result<(), String> {
        let mut both = Both::default();
        for _round in 0..options.rounds {
            if let Err(reason) = drop_caches() {
                eprintln!("no cold scan: {reason}");
                return Ok(());
            }
            self.plain.start_and_wait("off")?;
            let plain = self.scan(&self.plain.place())?;
            self.plain.stop();
            drop_caches()?;
            let place = self.compute(&self.moment())?;
            let compute = self.scan(&place)?;
            self.howdah.tell(&["compute", "stop", &self.moment()])?;
            both.add(plain, compute);
        }
        rows.push(self.row("cold sequential scan", "MB/s", Wanted::AtLeast(0.5), &both));
        Ok(())
    }

    /// Megabytes a second.
    fn scan(&self, place: &(String, u16)) -> Result<f64, String> {
        // The catalog, and a connection that was never made before, are no part of it.
        self.psql(place, FIRST_QUERY)?;
        let began = Instant::now();
        self.psql(place, SCAN)?;
        Ok(self.megabytes / began.elapsed().as_secs_f64())
    }

    fn compute(&self, target: &str) -> Result<(String, u16), String> {
        self.howdah.compute(target)
    }

    fn psql(&self, (host, port): &(String, u16), sql: &str) -> Result<String, String> {
        let (psql, port) = (self.bin.join("psql").display().to_string(), port.to_string());
        let words = [&psql, "-XAtq", "-h", host, "-p", &port, "-U", "postgres", "-c", sql];
        process::output(&[&words[..], &["postgres"]].concat(), None)
    }

    /// Transactions a second.
    fn pgbench(&self, place: &(String, u16), more: &[&str], seconds: &str) -> Result<f64, String> {
        let said = self.pgbench_said(place, more, seconds)?;
        figure(&said, "tps = ").ok_or(said)
    }

    /// Transactions a second, and the longest one's milliseconds; a checkpoint begins meanwhile.
    fn pgbench_logged(&self, place: &(String, u16), seconds: &str) -> Result<(f64, f64), String> {
        std::thread::scope(|scope| {
            let checkpoint = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(500));
                self.psql(place, "CHECKPOINT")
            });
            let prefix = self.plain.folder.join("tx").display().to_string();
            let log = ["-l", "--log-prefix", &prefix];
            let said = self.pgbench_said(place, &log, seconds)?;
            checkpoint.join().map_err(|_panic| "a thread failed")??;
            let tps = figure(&said, "tps = ").ok_or(said)?;
            Ok((tps, longest(&self.plain.folder)?))
        })
    }

    fn pgbench_said(
        &self,
        (host, port): &(String, u16),
        more: &[&str],
        seconds: &str,
    ) -> Result<String, String> {
        let (pgbench, port) = (self.bin.join("pgbench").display().to_string(), port.to_string());
        let to = ["setsid", "-w", &pgbench, "-n", "-h", host, "-p", &port, "-U", "postgres"];
        let load = ["-c", CLIENTS, "-j", "2", "-T", seconds];
        process::output(&[&to[..], &load, more, &["postgres"]].concat(), None)
    }
}

/// The number behind a word that pgbench prints.
fn figure(said: &str, before: &str) -> Option<f64> {
    let rest = said.lines().find_map(|line| line.strip_prefix(before))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// The longest transaction of pgbench's logs in a folder, in milliseconds; the logs go. Third field: microseconds.
fn longest(folder: &Path) -> Result<f64, String> {
    let mut longest = 0_f64;
    for entry in fs::read_dir(folder).map_err(|error| error.to_string())?.flatten() {
        if !entry.file_name().to_string_lossy().starts_with("tx.") {
            continue;
        }
        let text = fs::read_to_string(entry.path()).map_err(|error| error.to_string())?;
        let times = text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<f64>().ok());
        longest = times.fold(longest, f64::max);
        let _ours = fs::remove_file(entry.path());
    }
    Ok(longest / 1000.0)
}

fn first_query(began: Instant, port: u16, database: &str) -> Result<f64, String> {
    let mut client = loop {
        match Client::open(port, "postgres", database) {
            Ok(client) => break client,
            Err(said) if began.elapsed() > PATIENCE => return Err(said),
            Err(_not_yet) => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    client.value(FIRST_QUERY)?;
    Ok(began.elapsed().as_secs_f64() * 1000.0)
}

fn drop_caches() -> Result<(), String> {
    process::output(&["sync"], None)?;
    fs::write("/proc/sys/vm/drop_caches", "3").map_err(|error| error.to_string())
}

impl Plain {
    fn new(bin: &Path, folder: &Path) -> Result<Plain, String> {
        let port = server::free_port()?;
        let (bin, folder) = (bin.to_owned(), folder.join("plain"));
        Ok(Plain { bin, folder, port, user: process::unprivileged()?, daemon: None })
    }

    fn restore(&self, howdah: &Howdah, lsn: &str) -> Result<(), String> {
        fs::create_dir_all(&self.folder).map_err(|error| error.to_string())?;
        let data = self.folder.join("data").display().to_string();
        let service = howdah.facts["page_service"].as_str().ok_or("no page service")?;
        let program = howdah.program.display().to_string();
        let from = ["--server", service, "--branch", "main", "--lsn", lsn, "--target", &data];
        let restore = [&["env", "PGUSER=postgres", &program, "restore"], &from[..]].concat();
        process::output(&restore, None)?;
        let hba = self.folder.join("hba");
        let trust = "local all all trust\nhost all all 127.0.0.1/32 trust\n";
        fs::write(&hba, trust).map_err(|error| error.to_string())?;
        let Some((uid, gid)) = self.user else { return Ok(()) };
        let owner = format!("{uid}:{gid}");
        let folder = self.folder.display().to_string();
        process::output(&["chown", "-R", &owner, &folder], None).map(drop)
    }

    /// Where its unix socket is.
    fn place(&self) -> (String, u16) {
        (self.folder.display().to_string(), self.port)
    }

    /// Returns at once; it takes connections later.
    fn start(&mut self, fsync: &str) -> Result<(), String> {
        let folder = self.folder.display().to_string();
        let mut command = vec![self.bin.join("postgres").display().to_string()];
        command.extend(["-D".to_owned(), format!("{folder}/data")]);
        for setting in [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={}", self.port),
            format!("unix_socket_directories={folder}"),
            format!("hba_file={folder}/hba"),
            format!("shared_buffers={SHARED_BUFFERS}"),
            format!("fsync={fsync}"),
            "max_wal_size=4GB".to_owned(),
            "checkpoint_timeout=1h".to_owned(),
            "archive_mode=off".to_owned(),
        ] {
            command.extend(["-c".to_owned(), setting]);
        }
        let log = self.folder.with_extension("log");
        self.daemon = Some(Daemon::start("postgres", &command, self.user, &log)?);
        Ok(())
    }

    /// The same; returns when it takes connections.
    fn start_and_wait(&mut self, fsync: &str) -> Result<(), String> {
        self.start(fsync)?;
        first_query(Instant::now(), self.port, "postgres").map(drop)
    }

    fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.stop("-INT");
        }
    }
}

/// The same figure of both sides, round by round.
#[derive(Default)]
struct Both {
    plain: Vec<f64>,
    compute: Vec<f64>,
}

impl Both {
    fn add(&mut self, plain: f64, compute: f64) {
        self.plain.push(plain);
        self.compute.push(compute);
    }

    fn medians(&self) -> (f64, f64) {
        let of = |values: &[f64]| median(values).unwrap_or(f64::NAN);
        (of(&self.plain), of(&self.compute))
    }
}

impl Row {
    fn line(&self) -> String {
        let ratio = self.compute / self.plain;
        let (wanted, is_met) = match self.wanted {
            Wanted::AtMost(most) => (format!("at most {most:.2}"), ratio <= most),
            Wanted::AtLeast(least) => (format!("at least {least:.2}"), ratio >= least),
        };
        let digits = if self.plain < 100.0 && self.compute < 100.0 { 1 } else { 0 };
        let Row { what, database, unit, plain, compute, .. } = self;
        let verdict = if is_met { "" } else { " (missed)" };
        format!(
            "| {what} | {database} | {plain:.digits$} {unit} | {compute:.digits$} {unit} | {ratio:.2} | {wanted}{verdict} |"
        )
    }
}

fn size_of(megabytes: f64) -> String {
    if megabytes < 1000.0 {
        format!("{megabytes:.0} MB")
    } else {
        format!("{:.1} GB", megabytes / 1000.0)
    }
}

fn section(options: &Options, rows: &[Row]) -> String {
    let version = server::binaries()
        .and_then(|bin| process::output(&[&bin.join("postgres").display().to_string(), "-V"], None))
        .unwrap_or_default();
    let mut text = format!(
        "\nCommand: `{}`. Commit {}, {}.\nMachine: {}.\nServer: {}, {} clients of pgbench, shared_buffers {}.\n\n",
        options.command.trim(),
        machine::commit(),
        machine::date(),
        machine::description(),
        version.trim(),
        CLIENTS,
        SHARED_BUFFERS,
    );
    text.push_str("| what | database | plain directory | compute | ratio | wanted |\n");
    text.push_str("|---|---|--:|--:|--:|---|\n");
    for row in rows {
        let _infallible = writeln!(text, "{}", row.line());
    }
    text
}

fn write(section: &str) -> Result<(), String> {
    let path = root().join("docs/benchmarks.md");
    let before = fs::read_to_string(&path).map_err(|error| error.to_string())?;
    let missing = || format!("{}: no line {BEGIN}", path.display());
    let (head, rest) = before.split_once(BEGIN).ok_or_else(missing)?;
    let (_old, tail) = rest.split_once(END).ok_or_else(missing)?;
    fs::write(&path, format!("{head}{BEGIN}\n{section}{END}{tail}"))
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_pgbench_are_found() {
        let said = "latency average = 1.5 ms\ntps = 1234.5 (without initial connection time)\n";
        assert_eq!(figure(said, "tps = "), Some(1234.5));
        assert_eq!(figure(said, "tpm = "), None);
    }

    #[test]
    fn a_row_says_what_misses() {
        let row = |plain, compute, wanted| {
            let (what, database) = ("scan", "100 MB".to_owned());
            Row { what, database, unit: "ms", plain, compute, wanted }.line()
        };
        assert!(row(10.0, 25.0, Wanted::AtMost(2.0)).contains("2.50 | at most 2.00 (missed)"));
        assert!(row(10.0, 9.0, Wanted::AtLeast(0.8)).ends_with("0.90 | at least 0.80 |"));
    }
}
