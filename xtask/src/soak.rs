//! `cargo xtask soak`: kills the primary, its mount and Howdah itself under load, again and again, and checks at the end
//! that nothing acknowledged is lost and nothing is damaged.
//!
//! 1. `howdah up` with `main` on a mount, in a folder of its own; clients move money and write a ledger, each transaction
//!    with a number of its own.
//! 2. At random moments something is killed by SIGKILL: the server, one of its backends, the compute (whose process is
//!    the mount), or Howdah, which is then started again.
//! 3. The time of a failover is from the kill to the first commit that the next server has acknowledged, as a client
//!    sees it.
//! 4. At the end every acknowledged number must be in the ledger, the balances must add up, and amcheck must be content.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bench::client::Client;
use crate::bench::server::{binaries, free_port};
use crate::{howdah, servers};

const USAGE: &str = "usage: cargo xtask soak [OPTIONS]

options:
  --kills N         how many [default: 100]
  --clients N       who write [default: 8]
  --seed N          of what is killed when [default: 1]
  --howdah PATH     the program [default: a release build]
  --keep            leave the folder behind
";

const ACCOUNTS: u64 = 1000;
/// Against hangs only.
const PATIENCE: Duration = Duration::from_secs(120);
/// The load goes on at least so long between two kills, and at most.
const PAUSE_MS: std::ops::Range<u64> = 500..3000;

#[derive(Clone, Debug)]
struct Options {
    kills: usize,
    clients: usize,
    seed: u64,
    howdah: Option<PathBuf>,
    keep: bool,
}

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Server,
    Backend,
    Mount,
    Howdah,
}

impl Victim {
    fn name(self) -> &'static str {
        match self {
            Self::Server => "primary's postmaster",
            Self::Backend => "one of its backends",
            Self::Mount => "compute (the mount)",
            Self::Howdah => "howdah as a whole",
        }
    }
}

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let Some(options) = Options::parse(arguments)? else { return Ok(()) };
    let howdah = options.howdah.clone().map_or_else(howdah::build, Ok)?;
    let folder = servers::folder("soak")?.join(std::process::id().to_string());
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    println!("Folder: {}", folder.display());
    let outcome = soak(&options, &howdah, &folder);
    if outcome.is_ok() && !options.keep {
        let _left = fs::remove_dir_all(&folder);
    }
    outcome
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Option<Self>, String> {
        let mut options = Self { kills: 100, clients: 8, seed: 1, howdah: None, keep: false };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} wants a value"));
            let number = |text: &String| text.parse().map_err(|_wrong| USAGE.to_owned());
            match argument.as_str() {
                "--kills" => options.kills = number(value()?)?,
                "--clients" => options.clients = number(value()?)?.max(1),
                "--seed" => options.seed = number(value()?)? as u64,
                "--howdah" => options.howdah = Some(PathBuf::from(value()?)),
                "--keep" => options.keep = true,
                "--help" | "-h" => {
                    println!("{USAGE}");
                    return Ok(None);
                }
                _ => return Err(USAGE.to_owned()),
            }
        }
        Ok(Some(options))
    }
}

/// Numbers that look random and are the same for the same seed (xorshift64*).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) % limit.max(1)
    }
}

/// A running `howdah up`.
struct Up {
    child: Child,
    port: u16,
    api: String,
    place: String,
}

impl Up {
    fn start(howdah: &Path, folder: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| error.to_string();
        let log = File::options().create(true).append(true).open(folder.join("log"));
        let mut child = Command::new(howdah)
            .args(["up", "--json", "--dir"])
            .arg(folder.join("data"))
            .arg("--config")
            .arg(folder.join("soak.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.map_err(failed)?)
            .spawn()
            .map_err(failed)?;
        let mut line = String::new();
        let stdout = child.stdout.take().ok_or("no standard output")?;
        BufReader::new(stdout).read_line(&mut line).map_err(failed)?;
        let facts: Value = serde_json::from_str(&line).unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let pooler = text(&facts["pooler"]);
        let port = pooler.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        let (api, place) = (text(&facts["api"]), text(&facts["postgres"]["place"]));
        let mut up = Self { child, port: port.unwrap_or_default(), api, place };
        if up.port == 0 {
            up.kill()?;
            return Err(format!("howdah up did not start; see {}", folder.join("log").display()));
        }
        Ok(up)
    }

    fn kill(&mut self) -> Result<(), String> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed.map(drop).map_err(|error| error.to_string())
    }

    fn stop(&mut self) -> Result<(), String> {
        signal("-TERM", u64::from(self.child.id()))?;
        let ended = self.child.wait().map_err(|error| error.to_string())?;
        if ended.success() { Ok(()) } else { Err(format!("howdah up: {ended}")) }
    }

    /// The compute of `main`, as `howdah compute list` has it.
    fn main(&self, howdah: &Path) -> Result<Value, String> {
        let mut list = Command::new(howdah);
        list.args(["--api", &self.api, "compute", "list", "--json"]);
        let output = list.output().map_err(|error| error.to_string())?;
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let computes = answer["computes"].as_array().cloned().unwrap_or_default();
        let main = computes.into_iter().find(|compute| compute["name"] == "main");
        main.filter(|main| main["phase"] == "running").ok_or_else(|| "main does not run".to_owned())
    }
}

fn signal(signal: &str, pid: u64) -> Result<(), String> {
    let status = Command::new("kill").args([signal, &pid.to_string()]).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        _ => Err(format!("could not signal process {pid}")),
    }
}

/// What all clients tell.
#[derive(Default)]
struct Ledger {
    /// By client.
    acknowledged: Mutex<BTreeMap<usize, Vec<u64>>>,
    /// When a server was first seen to acknowledge, by when it started.
    servers: Mutex<BTreeMap<String, Instant>>,
    /// Connections that ended.
    broken: Mutex<u64>,
    is_over: AtomicBool,
}

impl Ledger {
    fn note(&self, client: usize, number: u64, server: String) {
        let now = Instant::now();
        lock(&self.servers).entry(server).or_insert(now);
        lock(&self.acknowledged).entry(client).or_default().push(number);
    }

    fn servers(&self) -> usize {
        lock(&self.servers).len()
    }

    /// When the newest server acknowledged first.
    fn newest(&self) -> Option<Instant> {
        lock(&self.servers).values().max().copied()
    }

    fn total(&self) -> usize {
        lock(&self.acknowledged).values().map(Vec::len).sum()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Writes until it is over. A number whose fate is unknown is not used again.
fn write(ledger: &Ledger, client: usize, port: u16, seed: u64) {
    let mut random = Random::new(seed);
    let mut number = 0;
    while !ledger.is_over.load(Ordering::Relaxed) {
        let Ok(mut connection) = Client::open(port, "postgres", "postgres") else {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        while !ledger.is_over.load(Ordering::Relaxed) {
            number += 1;
            let (from, to) = (random.below(ACCOUNTS), random.below(ACCOUNTS));
            let ((first, gets), (second, gives)) =
                if from < to { ((from, -1), (to, 1)) } else { ((to, 1), (from, -1)) };
            let sql = format!(
                "BEGIN; UPDATE accounts SET balance = balance + {gets} WHERE id = {first}; \
                 UPDATE accounts SET balance = balance + {gives} WHERE id = {second}; \
                 INSERT INTO ledger VALUES ({client}, {number}) RETURNING pg_postmaster_start_time(); COMMIT"
            );
            match connection.value(&sql) {
                Ok(server) => ledger.note(client, number, server),
                Err(_) => break,
            }
        }
        *lock(&ledger.broken) += 1;
    }
}

fn soak(options: &Options, howdah: &Path, folder: &Path) -> Result<(), String> {
    let (pooler, page_service, api) = (free_port()?, free_port()?, free_port()?);
    let config = format!(
        "[postgres]\nplace = \"mount\"\nport = 0\nsettings.shared_buffers = \"32MB\"\n\
         settings.autovacuum_naptime = \"1s\"\nsettings.max_wal_size = \"64MB\"\n\
         [api]\nlisten = \"127.0.0.1:{api}\"\n[pageserver]\nlisten = \"127.0.0.1:{page_service}\"\n\
         [pooler]\nlisten_port = {pooler}\ndefault_pool_size = {}\n",
        options.clients
    );
    fs::write(folder.join("soak.toml"), config).map_err(|error| error.to_string())?;
    let mut up = Up::start(howdah, folder)?;
    if up.place != "mount" {
        return Err(format!("main is in a {}, not on a mount", up.place));
    }
    prepare(up.port)?;
    let ledger = Ledger::default();
    let began = Instant::now();
    let killed = std::thread::scope(|scope| {
        for client in 0..options.clients {
            let (ledger, port) = (&ledger, up.port);
            let seed = options.seed.wrapping_mul(1000) + client as u64;
            scope.spawn(move || write(ledger, client, port, seed));
        }
        let killed = kills(options, howdah, folder, &mut up, &ledger);
        ledger.is_over.store(true, Ordering::Relaxed);
        killed
    });
    let took = began.elapsed();
    let checked = killed.and_then(|kills| {
        report(&kills, &ledger, took);
        check(&ledger, &up)
    });
    let stopped = up.stop();
    checked.and(stopped)
}

fn prepare(port: u16) -> Result<(), String> {
    let mut client = Client::open(port, "postgres", "postgres")?;
    client.run("CREATE TABLE ledger (client int, number bigint, PRIMARY KEY (client, number))")?;
    client.run(
        "CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL) WITH (fillfactor = 50)",
    )?;
    client.run(&format!(
        "INSERT INTO accounts SELECT i, 0 FROM generate_series(0, {}) i",
        ACCOUNTS - 1
    ))
}

/// Kills; what, and how long it took until a commit was acknowledged again.
fn kills(
    options: &Options,
    howdah: &Path,
    folder: &Path,
    up: &mut Up,
    ledger: &Ledger,
) -> Result<Vec<(Victim, Duration)>, String> {
    let mut random = Random::new(options.seed);
    let mut done = Vec::new();
    until("the first commit", || ledger.servers() > 0)?;
    while done.len() < options.kills {
        let pause = PAUSE_MS.start + random.below(PAUSE_MS.end - PAUSE_MS.start);
        std::thread::sleep(Duration::from_millis(pause));
        let victim = match random.below(100) {
            0..35 => Victim::Server,
            35..50 => Victim::Backend,
            50..80 => Victim::Mount,
            _ => Victim::Howdah,
        };
        let before = ledger.servers();
        let at = strike(victim, howdah, folder, up)?;
        until("a commit after a kill", || ledger.servers() > before)?;
        let first = ledger.newest().unwrap_or(at);
        let away = first.saturating_duration_since(at);
        println!("{:>4}  {:<22} {:>6} ms", done.len() + 1, victim.name(), away.as_millis());
        done.push((victim, away));
    }
    Ok(done)
}

/// Kills one; when.
fn strike(victim: Victim, howdah: &Path, folder: &Path, up: &mut Up) -> Result<Instant, String> {
    if victim == Victim::Howdah {
        let at = Instant::now();
        up.kill()?;
        *up = Up::start(howdah, folder)?;
        return Ok(at);
    }
    let main = up.main(howdah)?;
    let process = |key: &str| main[key].as_u64().ok_or_else(|| format!("no {key} in {main}"));
    let pid = match victim {
        Victim::Mount => process("pid")?,
        Victim::Backend => {
            let mut client = Client::open(up.port, "postgres", "postgres")?;
            let others = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' \
                          AND pid <> pg_backend_pid() LIMIT 1";
            client.value(others)?.parse().map_err(|_wrong| "no backend".to_owned())?
        }
        Victim::Server | Victim::Howdah => process("postgres_pid")?,
    };
    let at = Instant::now();
    signal("-KILL", pid)?;
    Ok(at)
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        if Instant::now() > deadline {
            return Err(format!("{what} does not come within {PATIENCE:?}"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn report(kills: &[(Victim, Duration)], ledger: &Ledger, took: Duration) {
    println!("\n| killed | times | median ms | p99 ms | longest ms |\n|---|---|---|---|---|");
    let mut all: BTreeMap<Option<Victim>, Vec<u128>> = BTreeMap::new();
    for (victim, away) in kills {
        all.entry(Some(*victim)).or_default().push(away.as_millis());
        all.entry(None).or_default().push(away.as_millis());
    }
    for (victim, mut times) in all {
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
        let name = victim.map_or("all", Victim::name);
        println!("| {name} | {} | {} | {} | {} |", times.len(), at(50), at(99), at(100));
    }
    let (total, seconds) = (ledger.total(), took.as_secs_f64());
    println!("\nAcknowledged transactions: {total} in {seconds:.0} s.");
    println!(
        "Connections broken (those in a transaction, or with a whole howdah): {}.",
        lock(&ledger.broken)
    );
}

/// Whether all that was acknowledged is there, and whole.
fn check(ledger: &Ledger, up: &Up) -> Result<(), String> {
    let port = up.port.to_string();
    let bin = binaries()?;
    let run = |name: &str, arguments: &[&str]| {
        let mut command = Command::new(bin.join(name));
        command.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres"]).args(arguments);
        let output = command.output().map_err(|error| format!("{name}: {error}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(format!("{name}: {}{}", text(&output.stdout), text(&output.stderr)))
        }
    };
    let sql =
        |statement: &str| run("psql", &["-X", "-A", "-t", "-q", "-d", "postgres", "-c", statement]);
    let rows = sql("SELECT client, number FROM ledger")?;
    let row = |line: &str| {
        let (client, number) = line.split_once('|')?;
        Some((client.parse::<usize>().ok()?, number.parse::<u64>().ok()?))
    };
    let written: BTreeSet<(usize, u64)> = rows.lines().filter_map(row).collect();
    let acknowledged = lock(&ledger.acknowledged);
    let all = acknowledged.iter();
    let all = all.flat_map(|(client, numbers)| numbers.iter().map(|number| (*client, *number)));
    let lost: Vec<(usize, u64)> = all.filter(|entry| !written.contains(entry)).collect();
    println!("In the ledger: {}; acknowledged and lost: {}.", written.len(), lost.len());
    let sum = sql("SELECT sum(balance) FROM accounts")?;
    println!("Sum of the balances: {}.", sum.trim());
    sql("CREATE EXTENSION IF NOT EXISTS amcheck")?;
    run("pg_amcheck", &["--all", "--install-missing", "--heapallindexed", "--parent-check"])?;
    println!("amcheck: no damage.");
    if !lost.is_empty() {
        return Err(format!("lost: {lost:?}"));
    }
    if sum.trim() != "0" {
        return Err("the balances do not add up".to_owned());
    }
    Ok(())
}
