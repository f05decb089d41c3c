//! `cargo xtask suites`: PostgreSQL's own regression and isolation suites as a source of WAL, and what we make of it.
//!
//! Steps: the server and pg_regress from Debian (`postgres.rs`), the suites from Debian's source package; a cluster with
//! `wal_consistency_checking = all` and `full_page_writes = off`; the suites and some SQL of our own run against it;
//! it is stopped. Then `howdah wal verify` redoes all of its WAL from the files of initdb, compares with every image
//! and with the files that the server left, and `howdah wal dump` is compared with `pg_waldump`, line by line.

mod compute;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::bench::process;
use crate::debian;
use crate::{howdah, postgres, root, servers};

const USAGE: &str =
    "usage: cargo xtask suites [--major 15|17|18] [--short] [--optional] [--write] [--keep] [--howdah FILE]
       cargo xtask suites --compute [--major 15|17|18] [--short] [--keep] [--howdah FILE]

Runs PostgreSQL's regression and isolation suites and checks all of the WAL that they write.
--compute: instead, the regression suite on a directory, on a compute, and through the pooler, which must be the same
--short: some of the tests only (two minutes)
--optional: where the server or the suites cannot be had, say so and succeed
--write: the counts into docs/redo-coverage.md
--keep:  leave the cluster in target/suites/MAJOR/run
--howdah: this program instead of one built now";

/// Settings of the cluster: everything into the WAL, an image beside every record, all of it kept.
const SETTINGS: &str = "
wal_consistency_checking = all
full_page_writes = off
fsync = off
wal_level = logical
track_commit_timestamp = on
max_prepared_transactions = 20
max_replication_slots = 10
wal_keep_size = '200GB'
max_wal_size = '200GB'
checkpoint_timeout = '1h'
listen_addresses = ''
max_connections = 60
wal_log_hints = on
wal_compression = lz4
";

/// Kinds that a server here does not write: one that nothing writes, one for a crash inside a record, one that cannot be
/// (a row's new version is never the first of the page that has its old one), one for `wal_level = minimal`.
const NEVER_WRITTEN: [&str; 4] =
    ["XLOG/NOOP", "XLOG/OVERWRITE_CONTRECORD", "Heap/HOT_UPDATE+INIT", "Gist/ASSIGN_LSN"];

/// Tests of the short run: one of each access method, and what is rare in WAL. `test_setup` makes what they use.
const SHORT: &str =
    "hash_index gin gist spgist brin btree_index vacuum truncate prepared_xacts sequence";
/// What they use of `create_index`, which itself uses what many other tests make.
const SHORT_INDEXES: &str =
    "CREATE INDEX tenk1_unique1 ON tenk1 (unique1); CREATE INDEX tenk1_hundred ON tenk1 (hundred)";

/// Suites and the programs that run them.
const REGRESS: (&str, &str) = ("regress", "pg_regress");
const ISOLATION: (&str, &str) = ("isolation", "pg_isolation_regress");

/// Where things are.
pub(crate) struct Places {
    /// The programs of the major.
    pub(crate) bin: PathBuf,
    /// pg_regress and its like.
    tests: PathBuf,
    include: PathBuf,
    libraries: PathBuf,
    /// `src/test` of the source package.
    sources: PathBuf,
    /// Belongs to the user that runs the server.
    run: PathBuf,
    pub(crate) user: Option<(u32, u32)>,
}

struct Options {
    major: String,
    compute: bool,
    short: bool,
    optional: bool,
    write: bool,
    keep: bool,
    howdah: Option<PathBuf>,
}

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let options = Options::parse(arguments)?;
    let folder = servers::folder("suites")?.join(&options.major);
    fs::create_dir_all(&folder).map_err(text)?;
    // Two runs at once would take each other's cluster away.
    let lock = File::create(folder.join("lock")).map_err(text)?;
    lock.lock().map_err(text)?;
    let places = match obtain(&options.major, &folder, &folder.join("run")) {
        Ok(places) => places,
        Err(reason) if options.optional => {
            println!("{reason}");
            println!("THE WAL OF POSTGRESQL'S OWN SUITES IS NOT CHECKED");
            return Ok(());
        }
        Err(reason) => return Err(reason),
    };
    let outcome = if options.compute {
        compute::run(&options, &places)
    } else {
        check_wal(&options, &places)
    };
    if !options.keep {
        let _gone = fs::remove_dir_all(&places.run);
    }
    outcome
}

fn check_wal(options: &Options, places: &Places) -> Result<(), String> {
    let howdah = options.howdah.clone().map_or_else(howdah::build, Ok)?;
    let waldump = places.bin.join("pg_waldump");
    let suites = write_wal(places, options)?;
    let lines = compare_dumps(&howdah, &waldump, &places.run.join("data/pg_wal"))?;
    println!("wal dump: {lines} records as pg_waldump prints them");
    promote(places)?;
    follow_state(&howdah, places)?;
    let verified = verify(&howdah, places)?;
    report(options, &suites, lines, &verified)
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options, String> {
        let mut options = Options {
            major: "15".to_owned(),
            compute: false,
            short: false,
            optional: false,
            write: false,
            keep: false,
            howdah: None,
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--major" => options.major = words.next().ok_or(USAGE)?.clone(),
                "--compute" => options.compute = true,
                "--short" => options.short = true,
                "--optional" => options.optional = true,
                "--write" => options.write = true,
                "--keep" => options.keep = true,
                "--howdah" => options.howdah = Some(words.next().ok_or(USAGE)?.into()),
                _ => return Err(USAGE.to_owned()),
            }
        }
        if !["15", "17", "18"].contains(&options.major.as_str()) {
            return Err(USAGE.to_owned());
        }
        Ok(options)
    }
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Server, sources, and an empty folder to run in.
pub(crate) fn obtain(major: &str, folder: &Path, run: &Path) -> Result<Places, String> {
    postgres::run(&[major.to_owned()])?;
    let server = servers::folder("postgres")?.join(major);
    let tree = server.join("tree");
    let home = tree.join("usr/lib/postgresql").join(major);
    let tests = home.join("lib/pgxs/src/test");
    if !tests.join("regress/pg_regress").exists() {
        return Err(format!("the PostgreSQL {major} that was found has no pg_regress"));
    }
    let sources = folder.join("source");
    if !sources.join("src/test/regress").is_dir() {
        debian::source(folder, suite_of(major), &format!("postgresql-{major}"), &sources)?;
    }
    let _old = fs::remove_dir_all(run);
    fs::create_dir_all(run).map_err(text)?;
    let user = process::unprivileged()?;
    if let Some((uid, gid)) = user {
        chown(run, Some(uid), Some(gid)).map_err(text)?;
    }
    Ok(Places {
        bin: server.join("bin"),
        tests,
        include: tree.join("usr/include/postgresql").join(major).join("server"),
        libraries: home.join("lib"),
        sources: sources.join("src/test"),
        run: run.to_owned(),
        user,
    })
}

fn suite_of(major: &str) -> &'static str {
    match major {
        "15" => "bookworm",
        "17" => "trixie",
        _ => "forky",
    }
}

/// The stopped cluster comes up as a standby and is promoted: the WAL goes on in a new timeline.
fn promote(places: &Places) -> Result<(), String> {
    println!("promoting");
    let data = places.run.join("data");
    let signal = data.join("standby.signal");
    fs::write(&signal, "").map_err(text)?;
    if let Some((uid, gid)) = places.user {
        chown(&signal, Some(uid), Some(gid)).map_err(text)?;
    }
    // Recovery takes the tablespace that 10-kinds.sql made for damage otherwise.
    let conf = fs::OpenOptions::new().append(true).open(data.join("postgresql.auto.conf"));
    let line = b"allow_in_place_tablespaces = on\n";
    conf.and_then(|mut conf| conf.write_all(line)).map_err(text)?;
    let (ctl, log) = (shown(&places.bin.join("pg_ctl")), shown(&places.run.join("log")));
    let data = shown(&data);
    let control = [ctl.as_str(), "-D", &data, "-w", "-t", "300"];
    start_detached(&[&control[..], &["-l", &log, "start"]].concat(), &log, places.user)?;
    let promoted = process::output(&[&control[..], &["promote"]].concat(), places.user)
        .and_then(|_said| psql(places, &["-c", "CREATE TABLE promoted AS SELECT 1 a"]));
    process::output(&[&control[..], &["-m", "fast", "stop"]].concat(), places.user)?;
    promoted
}

/// One line for each suite: what pg_regress said at its end.
fn write_wal(places: &Places, options: &Options) -> Result<Vec<String>, String> {
    let data = shown(&places.run.join("data"));
    let program = |name: &str| shown(&places.bin.join(name));
    let initdb = program("initdb");
    let initdb = [&initdb, "-D", &data, "-A", "trust", "-U", "postgres", "--no-sync"];
    process::output(&[&initdb[..], &["--no-locale", "-E", "UTF8"]].concat(), places.user)?;
    approach_segment_ends(places)?;
    let base = shown(&places.run.join("base"));
    process::output(&["cp", "-a", &data, &base], places.user)?;
    let socket = shown(&places.run);
    let settings = format!("{SETTINGS}unix_socket_directories = '{socket}'\n");
    let conf = places.run.join("data/postgresql.auto.conf");
    fs::write(&conf, settings).map_err(text)?;
    let (ctl, log) = (program("pg_ctl"), shown(&places.run.join("log")));
    let start = [ctl.as_str(), "-D", &data, "-w", "-l", &log, "start"];
    start_detached(&start, &log, places.user)?;
    let ran = run_suites(places, options);
    let stop = [ctl.as_str(), "-D", &data, "-w", "-t", "300", "-m", "fast", "stop"];
    process::output(&stop, places.user)?;
    ran
}

/// Counters shortly before the ends of segments of pg_xact and pg_multixact, so that the suites go on into new ones and
/// the old ones can be cut off. The pages up to there are made as the server would have left them: of zeroes.
fn approach_segment_ends(places: &Places) -> Result<(), String> {
    const SEGMENT_BYTES: u64 = 32 * 8192;
    let data = places.run.join("data");
    let (program, at) = (shown(&places.bin.join("pg_resetwal")), shown(&data));
    // 32 pages of 32,768 transactions, of 2,048 multixacts, and of 1,636 members of them.
    let counters = ["-x", "1047552", "-m", "65000,1", "-O", "52000"];
    process::output(&[&[program.as_str(), "-D", &at], &counters[..]].concat(), places.user)?;
    for log in ["pg_xact", "pg_multixact/offsets", "pg_multixact/members"] {
        let segment = fs::OpenOptions::new().write(true).open(data.join(log).join("0000"));
        segment.and_then(|file| file.set_len(SEGMENT_BYTES)).map_err(text)?;
    }
    Ok(())
}

/// `pg_ctl start`, whose server would hold a pipe open.
fn start_detached(command: &[&str], log: &str, user: Option<(u32, u32)>) -> Result<(), String> {
    let script = format!("exec {} >/dev/null 2>&1", command.join(" "));
    process::output(&["sh", "-c", &script], user).map(drop).map_err(|error| {
        let said = fs::read_to_string(log).unwrap_or_default();
        let from = said.lines().count().saturating_sub(10);
        let last: Vec<&str> = said.lines().skip(from).collect();
        format!("{error}{}", last.join("\n"))
    })
}

fn run_suites(places: &Places, options: &Options) -> Result<Vec<String>, String> {
    let libraries = suite_library(places)?;
    let mut said = Vec::new();
    if options.short {
        run_suite(places, &libraries, REGRESS, &["test_setup"])?;
        psql(places, &["-d", "regression", "-c", SHORT_INDEXES])?;
        let tests: Vec<&str> = ["--use-existing"].into_iter().chain(SHORT.split(' ')).collect();
        said.push(run_suite(places, &libraries, REGRESS, &tests)?);
    } else {
        for (suite, schedule) in [(REGRESS, "parallel_schedule"), (ISOLATION, "isolation_schedule")]
        {
            let schedule = places.sources.join(suite.0).join(schedule);
            let schedule = format!("--schedule={}", schedule.display());
            said.push(run_suite(places, &libraries, suite, &[&schedule])?);
        }
    }
    directed(places)?;
    Ok(said)
}

/// Runs the tests that `what` names; answers the suite's name and what it said at its end.
fn run_suite(
    places: &Places,
    libraries: &Path,
    (suite, program): (&str, &str),
    what: &[&str],
) -> Result<String, String> {
    let mut command = suite_command(places, (suite, program), libraries, &shown(&places.run))?;
    command.extend(what.iter().map(|word| (*word).to_owned()));
    println!("running {suite}");
    // A test that fails is no failure of ours: it has written its WAL. How many did is reported.
    let script = format!("{} 2>&1 || true", quoted(&command));
    let printed = process::output(&["sh", "-c", &script], places.user)?;
    let last = summary(&printed);
    println!("{suite}: {last}");
    let fault = |line: &&str| line.contains("FAILED") || line.starts_with("not ok");
    printed.lines().filter(fault).for_each(|line| println!("{line}"));
    Ok(format!("{suite}: {last}"))
}

/// A suite's program with its options, but for what is to run.
fn suite_command(
    places: &Places,
    (suite, program): (&str, &str),
    libraries: &Path,
    host: &str,
) -> Result<Vec<String>, String> {
    let output = places.run.join(suite);
    fs::create_dir_all(&output).map_err(text)?;
    if let Some((uid, gid)) = places.user {
        chown(&output, Some(uid), Some(gid)).map_err(text)?;
    }
    Ok(vec![
        shown(&places.tests.join(suite).join(program)),
        format!("--bindir={}", places.bin.display()),
        format!("--inputdir={}", places.sources.join(suite).display()),
        format!("--outputdir={}", output.display()),
        format!("--dlpath={}", libraries.display()),
        format!("--host={host}"),
        "--user=postgres".to_owned(),
        "--max-concurrent-tests=20".to_owned(),
    ])
}

fn quoted(command: &[String]) -> String {
    command.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ")
}

/// As long as this file is there, the suite begins again when it is through.
pub(crate) fn repeat_file(places: &Places) -> PathBuf {
    places.run.join("repeat")
}

/// Runs the whole regression suite on a server that is there; what it prints the first time is for
/// [`regression_summary`].
pub(crate) fn regression_script(places: &Places, host: &str) -> Result<String, String> {
    let libraries = suite_library(places)?;
    let mut command = suite_command(places, ("regress", "pg_regress"), &libraries, host)?;
    let schedule = places.sources.join("regress/parallel_schedule");
    command.extend([format!("--schedule={}", schedule.display()), "--port=5432".to_owned()]);
    let (command, printed) = (quoted(&command), places.run.join("regress/printed"));
    let (printed, again) = (printed.display(), repeat_file(places));
    Ok(format!(
        "{command} > '{printed}' 2>&1; while [ -e '{}' ]; do {command} > '{printed}.again' 2>&1; done",
        again.display(),
    ))
}

/// What the regression suite said at its end.
pub(crate) fn regression_summary(places: &Places) -> Result<String, String> {
    fs::read_to_string(places.run.join("regress/printed"))
        .map(|printed| summary(&printed))
        .map_err(text)
}

/// pg_regress ends with a framed sentence, or in newer versions with a comment.
fn summary(printed: &str) -> String {
    let told =
        |line: &&str| line.contains("tests") && line.contains("passed") || line.contains("failed");
    let line = printed.lines().rev().find(told).unwrap_or("no summary");
    line.trim_matches(|c: char| c == '=' || c == '#' || c.is_whitespace()).to_owned()
}

/// Compiles the suites' C functions beside the extensions that their tests load.
fn suite_library(places: &Places) -> Result<PathBuf, String> {
    let folder = places.run.join("library");
    fs::create_dir_all(&folder).map_err(text)?;
    let (source, target) = (places.sources.join("regress/regress.c"), folder.join("regress.so"));
    let include = format!("-I{}", places.include.display());
    let (source, target) = (shown(&source), shown(&target));
    let compile = ["cc", "-O1", "-fPIC", "-shared", "-w", &include, &source, "-o", &target];
    process::output(&compile, None)?;
    for name in ["autoinc.so", "refint.so"] {
        symlink(places.libraries.join(name), folder.join(name)).map_err(text)?;
    }
    Ok(folder)
}

/// SQL of ours, for kinds of records that the suites do not write; and the transaction logs' old segments, which go
/// when everything old is frozen.
fn directed(places: &Places) -> Result<(), String> {
    directed_file(places, "10-kinds.sql")?;
    let everywhere = "UPDATE pg_database SET datallowconn = true";
    psql(places, &["-c", everywhere])?;
    let (vacuumdb, host) = (shown(&places.bin.join("vacuumdb")), shown(&places.run));
    println!("freezing all databases");
    let freeze = [vacuumdb.as_str(), "-h", &host, "-U", "postgres", "--all", "--freeze", "--quiet"];
    process::output(&freeze, places.user)?;
    directed_file(places, "20-prepared.sql")
}

fn directed_file(places: &Places, name: &str) -> Result<(), String> {
    println!("running {name}");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/suites").join(name);
    // Into the run's folder, where the server's user can read it.
    let copy = places.run.join(name);
    fs::copy(&file, &copy).map_err(text)?;
    psql(places, &["-f", &shown(&copy)])
}

fn psql(places: &Places, what: &[&str]) -> Result<(), String> {
    let (psql, host) = (shown(&places.bin.join("psql")), shown(&places.run));
    let command = [&psql, "-Xq", "-h", &host, "-U", "postgres", "-d", "postgres"];
    let rest = ["-v", "ON_ERROR_STOP=1", "-o", "/dev/null"];
    process::output(&[&command[..], &rest, what].concat(), places.user).map(drop)
}

/// Compares every line; answers how many there were.
fn compare_dumps(howdah: &Path, waldump: &Path, wal: &Path) -> Result<u64, String> {
    let mut segments: Vec<PathBuf> =
        fs::read_dir(wal).map_err(text)?.flatten().map(|entry| entry.path()).collect();
    segments.retain(|path| path.file_name().is_some_and(|name| name.len() == 24));
    // One that was made ready ahead of use is all zeroes.
    segments.retain(|path| begins_with_wal(path));
    segments.sort();
    let first = segments.first().ok_or("there is no WAL")?;
    println!("comparing wal dump with pg_waldump over {} segments", segments.len());
    let mut ours = Command::new(howdah);
    ours.args(["wal", "dump"]).args(&segments);
    let mut theirs = Command::new(waldump);
    theirs.arg("-p").arg(wal).arg(first.file_name().unwrap_or_default());
    theirs.arg(segments.last().and_then(|path| path.file_name()).unwrap_or_default());
    let lines = |command: &mut Command, complaints: &Path| -> Result<_, String> {
        let complaints = File::create(complaints).map_err(text)?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(complaints);
        let mut child = child.spawn().map_err(text)?;
        let output = child.stdout.take().ok_or("no output")?;
        Ok((child, BufReader::with_capacity(1 << 20, output).lines()))
    };
    let complaints = ["dump.err", "waldump.err"].map(|name| wal.with_file_name(name));
    let [our_complaints, their_complaints] = &complaints;
    let (mut our_process, ours) = lines(&mut ours, our_complaints)?;
    let (mut their_process, theirs) = lines(&mut theirs, their_complaints)?;
    let mut count = 0;
    let compare = || -> Result<(), String> {
        let mut theirs = theirs;
        for our in ours {
            let our = our.map_err(text)?;
            let their = theirs.next().ok_or(format!("pg_waldump ends before: {our}"))?;
            let their = without_details(&their.map_err(text)?);
            if our != their {
                return Err(format!(
                    "record {count} differs\nours:       {our}\npg_waldump: {their}"
                ));
            }
            count += 1;
        }
        theirs.next().map_or(Ok(()), |more| Err(format!("wal dump ends before: {more:?}")))
    };
    let compared = compare();
    if compared.is_err() {
        for process in [&mut our_process, &mut their_process] {
            let _ended = process.kill();
        }
    }
    let ended = [our_process.wait().map_err(text)?, their_process.wait().map_err(text)?];
    compared?;
    for ((name, status), complaints) in
        ["wal dump", "pg_waldump"].iter().zip(ended).zip(&complaints)
    {
        let said = fs::read_to_string(complaints).map_err(text)?;
        // pg_waldump takes the end of WAL within the last segment for an error, of this wording alone.
        let at_end = *name == "pg_waldump"
            && status.code() == Some(1)
            && said.lines().count() == 1
            && said.contains("error in WAL record at");
        if !status.success() && !at_end {
            return Err(format!("{name}: {status}: {said}"));
        }
    }
    Ok(count)
}

fn begins_with_wal(path: &Path) -> bool {
    let mut magic = [0; 2];
    let read =
        File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut magic));
    read.is_ok() && magic != [0; 2]
}

/// A line of pg_waldump without what it tells of the record's own data: name and block references.
fn without_details(line: &str) -> String {
    let Some((head, description)) = line.split_once(", desc: ") else { return line.to_owned() };
    let (name, details) = description.split_once(' ').unwrap_or((description, ""));
    let name = name.trim_end_matches(',');
    let blocks = details.find("blkref #").map_or("", |at| details.split_at(at).1);
    let separator = if blocks.is_empty() { "" } else { ", " };
    format!("{head}, desc: {name}{separator}{blocks}")
}

fn verify(howdah: &Path, places: &Places) -> Result<Value, String> {
    println!("redoing all of it");
    let (wal, base) = (places.run.join("data/pg_wal"), places.run.join("base"));
    let printed = places.run.with_file_name("verify.json");
    let output = File::create(&printed).map_err(text)?;
    let status = Command::new(howdah)
        .args(["wal", "verify", "--json"])
        .arg(wal)
        .arg("--base")
        .arg(base)
        .arg("--against")
        .arg(places.run.join("data"))
        .stdin(Stdio::null())
        .stdout(output)
        .status()
        .map_err(text)?;
    let bytes = fs::read(&printed).map_err(text)?;
    let verified: Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    if !status.success() {
        show_faults(&verified);
        return Err(format!("wal verify: {status}; all of it is in {}", printed.display()));
    }
    Ok(verified)
}

/// What is kept beside pages, followed without redoing a page.
fn follow_state(howdah: &Path, places: &Places) -> Result<(), String> {
    println!("following the state");
    let output = Command::new(howdah)
        .args(["wal", "state"])
        .arg(places.run.join("data/pg_wal"))
        .arg("--base")
        .arg(places.run.join("base"))
        .arg("--against")
        .arg(places.run.join("data"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(text)?;
    let said = String::from_utf8_lossy(&output.stdout);
    said.lines().take(30).for_each(|line| println!("{line}"));
    if output.status.success() { Ok(()) } else { Err(format!("wal state: {}", output.status)) }
}

fn show_faults(verified: &Value) {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for complaint in list(&verified["complaints"]).iter().take(20) {
        println!("{complaint}");
    }
    for difference in list(&verified["cluster"]["differences"]).iter().take(20) {
        println!("{difference}");
    }
}

/// The counts as a section of docs/redo-coverage.md.
fn report(
    options: &Options,
    suites: &[String],
    lines: u64,
    verified: &Value,
) -> Result<(), String> {
    let major = &options.major;
    let total = &verified["total"];
    let mut section = format!("## PostgreSQL {major}\n\n");
    for line in suites {
        section.push_str(&format!("- {line}\n"));
    }
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    section.push_str(&format!(
        "- {} MB of WAL, {} records; `wal dump` equals `pg_waldump` in all {lines}\n\
         - {} images checked, {} mismatches\n",
        number(&verified["bytes"]) / 1_000_000,
        number(&total["records"]),
        number(&total["checked"]),
        number(&total["mismatched"]),
    ));
    if let Some(counts) = verified["cluster"]["counts"].as_object() {
        for (what, count) in counts {
            let (compared, different) = (number(&count["compared"]), number(&count["different"]));
            section.push_str(&format!(
                "- against the stopped cluster, {what}: {compared} compared, {different} different\n"
            ));
        }
    }
    let unseen: Vec<&str> =
        verified["unseen"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    section.push_str(&format!(
        "- kinds of this major that were not written: {}\n\n",
        unseen.join(", ")
    ));
    section.push_str("| kind | records | images checked | without image |\n|---|--:|--:|--:|\n");
    for (kind, tally) in verified["kinds"].as_object().into_iter().flatten() {
        section.push_str(&format!(
            "| {kind} | {} | {} | {} |\n",
            number(&tally["records"]),
            number(&tally["checked"]),
            number(&tally["unjudged"]) + number(&tally["restored"]),
        ));
    }
    println!("{section}");
    let missing: Vec<&&str> = unseen.iter().filter(|kind| !NEVER_WRITTEN.contains(kind)).collect();
    if !options.short && !missing.is_empty() {
        return Err(format!(
            "kinds of records that the suites should write were not seen: {missing:?}"
        ));
    }
    if options.write { write_section(major, &section) } else { Ok(()) }
}

/// Replaces the major's section, or adds it.
fn write_section(major: &str, section: &str) -> Result<(), String> {
    let path = root().join("docs/redo-coverage.md");
    let before =
        fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let (begin, end) = (format!("<!-- {major} -->"), format!("<!-- {major}: end -->"));
    let framed = format!("{begin}\n{section}{end}");
    let after = match (before.find(&begin), before.find(&end)) {
        (Some(from), Some(to)) => {
            let (head, tail) = (before.get(..from), before.get(to + end.len()..));
            format!("{}{framed}{}", head.unwrap_or_default(), tail.unwrap_or_default())
        }
        _ => format!("{}\n{framed}\n", before.trim_end()),
    };
    fs::write(path, after).map_err(text)
}
