//! `cargo xtask suites --compute`: PostgreSQL's regression suite three times on the same server program: on a plain
//! directory, on a compute of a branch, and on a compute through the pooler. All three must say the same.
//!
//! The database is made alike in all three. Through the pooler it is made as that of `postgres@BRANCH`, and used by its
//! own name, for psql compares that with the names in its commands. Each session has a server of its own from its
//! beginning to its end: the tests use what lasts as long as a session, and one looks whether its session's temporary
//! schema is there yet. `RESET` goes back to what the server began with, which is the pooler's choice and not the client's,
//! so the suite's formats of dates are those of the database.
//!
//! Afterwards the compute is stopped and started where its branch ends, and every table and index is checked with
//! pg_amcheck: what the suite wrote came back out of the WAL.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Options, Places, shown, start_detached, suite_library, summary, text};
use crate::bench::process;
use crate::howdah::{self, Howdah};

/// Settings of all three servers that tests can notice.
const ALIKE: [(&str, &str); 3] =
    [("max_prepared_transactions", "20"), ("shared_buffers", "128MB"), ("fsync", "off")];

/// Against hangs only.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tests of the short run.
const SHORT: &str = "test_setup boolean strings date interval create_index vacuum truncate prepared_xacts \
                     temp sequence tablespace copy largeobject";

/// A way to the database, and where the suite's output goes.
struct Way<'a> {
    name: &'a str,
    host: String,
    port: u16,
    database: String,
}

/// What a run of the suite says.
struct Outcome {
    last: String,
    /// Whether each test passed.
    tests: BTreeMap<String, bool>,
    output: PathBuf,
}

pub(super) fn run(options: &Options, places: &Places) -> Result<(), String> {
    let howdah = options.howdah.clone().map_or_else(howdah::build, Ok)?;
    let libraries = suite_library(places)?;
    let run = |way: &Way<'_>| {
        let began = Instant::now();
        let outcome = regress(options, places, &libraries, way)?;
        println!("{}: {} ({:.0} s)", way.name, outcome.last, began.elapsed().as_secs_f64());
        Ok::<_, String>(outcome)
    };
    let plain = on_a_directory(places, run)?;
    let mut howdah = Howdah::start(&howdah, &places.bin, &places.run, &configuration(0))?;
    let mounted = howdah.tell(&["branch", "create", "suite"]).and_then(|_made| {
        let (host, port) = howdah.compute("suite")?;
        let way = Way { name: "compute", host, port, database: "regression".to_owned() };
        prepare(places, &way, "postgres")?;
        let outcome = run(&way)?;
        howdah.tell(&["compute", "stop", "suite"])?;
        check(places, &howdah, "suite")?;
        Ok(outcome)
    })?;
    let pooled = howdah.tell(&["branch", "create", "pooled"]).and_then(|_made| {
        let (socket, number) = howdah.compute("pooled")?;
        let (host, port) = howdah.pooler()?;
        let way = Way { name: "pooler", host, port, database: "regression".to_owned() };
        prepare(places, &way, "postgres@pooled")?;
        name(places, &howdah, &way, (&socket, number))?;
        run(&way)
    })?;
    howdah.stop();
    compare(&[("directory", &plain), ("compute", &mounted), ("pooler", &pooled)])
}

fn on_a_directory(
    places: &Places,
    run: impl FnOnce(&Way<'_>) -> Result<Outcome, String>,
) -> Result<Outcome, String> {
    let data = shown(&places.run.join("data"));
    let program = |name: &str| shown(&places.bin.join(name));
    let initdb = program("initdb");
    // As Howdah makes its clusters.
    let initdb = [&initdb, "-D", &data, "-A", "trust", "-U", "postgres", "--no-sync"];
    let alike = ["--data-checksums", "--encoding=UTF8", "--locale=C.UTF-8"];
    process::output(&[&initdb[..], &alike].concat(), places.user)?;
    let host = shown(&places.run);
    let mut settings = format!("listen_addresses = ''\nunix_socket_directories = '{host}'\n");
    for (name, value) in ALIKE {
        settings.push_str(&format!("{name} = '{value}'\n"));
    }
    fs::write(places.run.join("data/postgresql.auto.conf"), settings).map_err(text)?;
    let (ctl, log) = (program("pg_ctl"), shown(&places.run.join("log")));
    start_detached(&[&ctl, "-D", &data, "-w", "-l", &log, "start"], &log, places.user)?;
    let way = Way { name: "directory", host, port: 5432, database: "regression".to_owned() };
    let outcome = prepare(places, &way, "postgres").and_then(|()| run(&way));
    process::output(&[&ctl, "-D", &data, "-w", "-m", "fast", "stop"], places.user)?;
    outcome
}

/// The database as pg_regress makes it, which knows no other name for it than the one it connects to.
fn prepare(places: &Places, way: &Way<'_>, maintenance: &str) -> Result<(), String> {
    let make = "CREATE DATABASE regression TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'";
    sql(places, way, maintenance, make)?;
    for setting in [
        "lc_messages TO 'C'",
        "lc_monetary TO 'C'",
        "lc_numeric TO 'C'",
        "lc_time TO 'C'",
        "bytea_output TO 'hex'",
        "timezone_abbreviations TO 'Default'",
        "datestyle TO 'Postgres, MDY'",
        "timezone TO 'America/Los_Angeles'",
        "intervalstyle TO 'postgres_verbose'",
    ] {
        sql(places, way, maintenance, &format!("ALTER DATABASE regression SET {setting}"))?;
    }
    Ok(())
}

fn sql(places: &Places, way: &Way<'_>, database: &str, statement: &str) -> Result<String, String> {
    let (psql, port) = (shown(&places.bin.join("psql")), way.port.to_string());
    let server = [psql.as_str(), "-XAtq", "-h", &way.host, "-p", &port, "-U", "postgres"];
    let what = ["-v", "ON_ERROR_STOP=1", "-d", database, "-c", statement];
    process::output(&[&server[..], &what].concat(), places.user)
}

fn regress(
    options: &Options,
    places: &Places,
    libraries: &Path,
    way: &Way<'_>,
) -> Result<Outcome, String> {
    let output = places.run.join(way.name);
    fs::create_dir_all(&output).map_err(text)?;
    if let Some((uid, gid)) = places.user {
        chown(&output, Some(uid), Some(gid)).map_err(text)?;
    }
    let input = places.sources.join("regress");
    let mut command = vec![
        shown(&places.tests.join("regress/pg_regress")),
        format!("--bindir={}", places.bin.display()),
        format!("--inputdir={}", input.display()),
        format!("--outputdir={}", output.display()),
        format!("--dlpath={}", libraries.display()),
        format!("--host={}", way.host),
        format!("--port={}", way.port),
        "--user=postgres".to_owned(),
        "--use-existing".to_owned(),
        format!("--dbname={}", way.database),
        "--max-concurrent-tests=20".to_owned(),
    ];
    if options.short {
        command.extend(SHORT.split_whitespace().map(str::to_owned));
    } else {
        command.push(format!("--schedule={}", input.join("parallel_schedule").display()));
    }
    println!("running regress: {}", way.name);
    let quoted: Vec<String> = command.iter().map(|word| format!("'{word}'")).collect();
    let script = format!("{} 2>&1 || true", quoted.join(" "));
    let printed = process::output(&["sh", "-c", &script], places.user)?;
    let tests: BTreeMap<String, bool> = printed.lines().filter_map(result).collect();
    if tests.is_empty() {
        return Err(printed);
    }
    Ok(Outcome { last: summary(&printed), tests, output })
}

/// A test's name and whether it passed: `test boolean ... ok 29 ms`, `     boolean ... FAILED`, and since 16
/// `ok 3   + boolean 29 ms` and `not ok 3   + boolean 29 ms`.
fn result(line: &str) -> Option<(String, bool)> {
    if let Some((name, rest)) = line.split_once(" ... ") {
        let name = name.trim().trim_start_matches("test ").trim();
        let word = rest.split_whitespace().next()?;
        return ["ok", "FAILED"].contains(&word).then(|| (name.to_owned(), word == "ok"));
    }
    let (passed, rest) = match line.strip_prefix("not ok ") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("ok ")?),
    };
    let name = rest.split_whitespace().nth(2)?;
    Some((name.to_owned(), passed))
}

/// Prints every test that does not pass everywhere, and the same of what the tests printed.
fn compare(all: &[(&str, &Outcome)]) -> Result<(), String> {
    let (_, first) = all.first().ok_or("nothing ran")?;
    let word = |passed: Option<&bool>| match passed {
        Some(true) => "ok",
        Some(false) => "FAILED",
        None => "not run",
    };
    let (mut different, mut same, mut failed) = (Vec::new(), 0, 0);
    for (test, passed) in &first.tests {
        let said: Vec<&str> =
            all.iter().map(|(_, outcome)| word(outcome.tests.get(test))).collect();
        let outputs: Vec<Option<String>> =
            all.iter().map(|(_, outcome)| printed(outcome, test)).collect();
        let is_same = said.iter().all(|word| *word == said[0])
            && outputs.iter().all(|output| output.is_some() && *output == outputs[0]);
        println!("{test:<28} {}{}", said.join("  "), if is_same { "" } else { "  DIFFERENT" });
        failed += usize::from(!passed);
        if is_same {
            same += 1;
        } else {
            different.push(test.as_str());
        }
    }
    let (count, ways) = (first.tests.len(), all.len());
    println!("{same} of {count} tests print the same in all {ways}; {failed} fail on a directory");
    if all.iter().any(|(_, outcome)| outcome.tests.len() != count) {
        return Err("not every run has every test".to_owned());
    }
    if failed > 0 {
        return Err(format!("see {}", first.output.join("regression.diffs").display()));
    }
    match different.is_empty() {
        true => Ok(()),
        false => Err(format!("different: {}", different.join(", "))),
    }
}

/// What a test printed; where it ran has no part in it.
fn printed(outcome: &Outcome, test: &str) -> Option<String> {
    let file = outcome.output.join("results").join(format!("{test}.out"));
    let text = String::from_utf8_lossy(&fs::read(file).ok()?).into_owned();
    Some(text.replace(&shown(&outcome.output), "OUTPUT"))
}

/// Every table and index of a branch, on a new compute.
fn check(places: &Places, howdah: &Howdah, branch: &str) -> Result<(), String> {
    let began = Instant::now();
    let (host, port) = howdah.compute(branch)?;
    let (amcheck, port) = (shown(&places.bin.join("pg_amcheck")), port.to_string());
    let server = [amcheck.as_str(), "-h", &host, "-p", &port, "-U", "postgres"];
    let what = ["--install-missing", "--heapallindexed", "--parent-check", "regression"];
    process::output(&[&server[..], &what].concat(), places.user)?;
    let took = began.elapsed().as_secs_f64();
    println!("a new compute on the branch: pg_amcheck finds nothing ({took:.0} s)");
    howdah.tell(&["compute", "stop", branch]).map(drop)
}

/// Has the pooler know the database of a compute by a name, too.
fn name(places: &Places, howdah: &Howdah, way: &Way<'_>, place: (&str, u16)) -> Result<(), String> {
    let mut config = configuration(way.port);
    config.push_str(&format!(
        "[pooler.databases.\"*\"]\n[pooler.databases.{}]\nhost = \"{}\"\nport = {}\n",
        way.database, place.0, place.1
    ));
    howdah.reload(&config)?;
    let patience = Instant::now() + PATIENCE;
    while let Err(said) = sql(places, way, &way.database, "SELECT 1") {
        if Instant::now() > patience {
            return Err(said);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// That of Howdah, with the pooler at this port; 0: any.
fn configuration(port: u16) -> String {
    let mut text = "[api]\nlisten = \"127.0.0.1:0\"\n[pageserver]\nlisten = \"127.0.0.1:0\"\n\
                    [compute]\nmode = \"fuse\"\nidle_timeout = \"0\"\n[postgres]\nplace = \"directory\"\n"
        .to_owned();
    for section in ["compute.postgres", "postgres.settings"] {
        text.push_str(&format!("[{section}]\n"));
        for (name, value) in ALIKE {
            text.push_str(&format!("{name} = \"{value}\"\n"));
        }
    }
    text.push_str(&format!(
        "[pooler]\nlisten_port = {port}\npool_mode = \"session\"\nserver_lifetime = \"0\"\n\
         default_pool_size = 60\n"
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_versions_are_read() {
        let read = |line| result(line).expect("a result");
        assert_eq!(read("test boolean      ... ok           29 ms"), ("boolean".to_owned(), true));
        assert_eq!(read("     float4       ... FAILED       40 ms"), ("float4".to_owned(), false));
        assert_eq!(read("ok 3         + boolean     29 ms"), ("boolean".to_owned(), true));
        assert_eq!(read("not ok 4     - float4      40 ms"), ("float4".to_owned(), false));
        assert_eq!(result("parallel group (20 tests):  boolean float4"), None);
    }
}
