//! Runs pgbench against a target and reads its log: only transactions that end inside the window count.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::measure::{Cpu, jain, load_average};
use super::options::Options;
use super::plan::{Cell, Figures, Workload};
use super::server::{PASSWORD, Server};
use super::target::{Entry, Target};

/// Ten selects in one pipeline; each of them prepared.
const PIPELINE: (&str, &str) = (
    "\\set aid random(1, 100000 * :scale)\n\\startpipeline\n",
    "SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n",
);
/// Threads of pgbench; more would only take the poolers' cores.
const THREADS: usize = 2;

/// Before the window and after it: a second until the first progress line, and one for lateness.
const SLACK_SECONDS: u64 = 2;
/// Lets pgbench go before everybody else, where root starts it (sched(7), autogroups). The longest wait of a crowd is
/// otherwise that of pgbench's threads for a processor: 10 to 20 ms in which 250 replies lie in its sockets.
const FAVOUR: &str = "echo -15 2>/dev/null >/proc/self/autogroup; exec \"$@\"";

/// CPU, rate, latency and fairness of one workload.
pub(crate) fn measure(
    options: &Options,
    server: &Server,
    target: &mut Target,
    cell: Cell,
) -> Result<Figures, String> {
    let entry = if cell.workload == Workload::Connect { Entry::Secure } else { Entry::Trust };
    let port = target.open(entry)?;
    let run = start(options, server, port, cell)?;
    let pid = target.pid(entry);
    let before = pid.and_then(Cpu::of);
    let window = run.watch(options.seconds);
    let after = pid.and_then(Cpu::of);
    let transactions = run.finish()?;
    let mut figures = summary(&transactions, &window, cell.clients)?;
    if let (Some(before), Some(after)) = (before, after) {
        let count = figures["transactions"];
        let spent = after.since(before);
        figures.insert("cpu_us", spent.total() / count * 1e6);
        figures.insert("user_us", spent.user / count * 1e6);
    }
    figures.insert("load", load_average());
    Ok(figures)
}

/// A pgbench that has all its clients connected.
pub(crate) struct Run {
    child: Child,
    errors: mpsc::Receiver<String>,
    log_prefix: String,
}

/// Wall-clock times in microseconds since 1970, as pgbench's log has them.
pub(crate) struct Window {
    pub(crate) begin: u64,
    pub(crate) end: u64,
}

/// One line of pgbench's log.
pub(crate) struct Transaction {
    pub(crate) client: u64,
    pub(crate) latency_us: u64,
    pub(crate) end: u64,
}

/// Starts pgbench and waits for its first progress line, one second after all clients are connected.
pub(crate) fn start(
    options: &Options,
    server: &Server,
    port: u16,
    cell: Cell,
) -> Result<Run, String> {
    let log_prefix = server.folder.join("log").join(format!("run{port}")).display().to_string();
    let seconds = (options.seconds + SLACK_SECONDS).to_string();
    // pgbench waits for a connection with the whole thread, while replies to its other clients lie in their sockets.
    let connects = matches!(cell.workload, Workload::Churn | Workload::Connect);
    let threads = if connects { cell.clients } else { THREADS.min(cell.clients) };
    let (clients, threads) = (cell.clients.to_string(), threads.to_string());
    let (port, scale) = (port.to_string(), options.scale.to_string());
    let sslmode = if cell.workload == Workload::Connect { "require" } else { "disable" };
    let mut command = Command::new("setsid");
    if cell.workload == Workload::Crowd {
        command.args(["sh", "-c", FAVOUR, "sh"]);
    }
    let mut child = command
        .arg(server.program("pgbench"))
        .args(["-n", "-h", "127.0.0.1", "-p", &port, "-U", "bench", "-c", &clients, "-j", &threads])
        .args(["-T", &seconds, "-P", "1", "-l", "--log-prefix", &log_prefix, "-s", &scale])
        .args(script(server, cell.workload)?)
        .arg("bench")
        .env("PGPASSWORD", PASSWORD)
        .env("PGSSLMODE", sslmode)
        .env("PGCONNECT_TIMEOUT", "60")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("pgbench: {error}"))?;
    let (sender, errors) = mpsc::channel();
    let (begun, begin) = mpsc::channel();
    let stderr = child.stderr.take().expect("stderr is a pipe");
    std::thread::spawn(move || listen(stderr, &begun, &sender));
    let run = Run { child, errors, log_prefix };
    match begin.recv_timeout(Duration::from_secs(90)) {
        Ok(()) => Ok(run),
        Err(_) => Err(run.failure("pgbench did not begin")),
    }
}

/// Tells when the first progress line came, and collects the lines that are not progress.
fn listen(stderr: ChildStderr, begun: &mpsc::Sender<()>, errors: &mpsc::Sender<String>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        if line.starts_with("progress:") {
            let _nobody_waits = begun.send(());
        } else if !line.starts_with("pgbench (") && errors.send(line).is_err() {
            return;
        }
    }
}

fn script(server: &Server, workload: Workload) -> Result<Vec<String>, String> {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let file = |name: &str, text: String| -> Result<String, String> {
        let path = server.folder.join(name);
        fs::write(&path, text).map_err(|error| error.to_string())?;
        Ok(path.display().to_string())
    };
    Ok(match workload {
        Workload::Simple | Workload::Crowd | Workload::Calls => words("-S -M simple"),
        Workload::Prepared => words("-S -M prepared"),
        Workload::Extended => words("-S -M extended"),
        Workload::Tpcb => words("-M simple"),
        Workload::Churn => words("-S -C"),
        Workload::Connect => {
            words(&format!("-C -f {}", file("one.sql", "SELECT 1;\n".to_owned())?))
        }
        Workload::Pipeline => {
            let text = format!("{}{}\\endpipeline\n", PIPELINE.0, PIPELINE.1.repeat(10));
            words(&format!("-M prepared -f {}", file("pipeline.sql", text)?))
        }
    })
}

impl Run {
    pub(crate) fn watch(&self, seconds: u64) -> Window {
        let begin = now();
        std::thread::sleep(Duration::from_secs(seconds));
        Window { begin, end: now() }
    }

    /// Waits for the end and reads the log.
    pub(crate) fn finish(mut self) -> Result<Vec<Transaction>, String> {
        let patience = now() + 60_000_000;
        while self.child.try_wait().ok().flatten().is_none() {
            if now() > patience {
                return Err(self.failure("pgbench hangs after its end"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let transactions = self.read_log();
        let said: Vec<String> = self.errors.iter().collect();
        let problem = said.iter().find(|line| {
            ["error", "abort", "fatal"].iter().any(|word| line.to_lowercase().contains(word))
        });
        match problem {
            Some(line) => Err(line.clone()),
            None => Ok(transactions),
        }
    }

    fn failure(mut self, what: &str) -> String {
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
        let _log = self.read_log();
        let said: Vec<String> = self.errors.try_iter().take(2).collect();
        format!("{what}: {}", said.join(" | "))
    }

    /// Reads and removes the files of all threads: `client transaction time_us script epoch_s epoch_us`.
    fn read_log(&self) -> Vec<Transaction> {
        let mut found = Vec::new();
        let prefix = std::path::Path::new(&self.log_prefix);
        let (Some(folder), Some(name)) = (prefix.parent(), prefix.file_name()) else {
            return found;
        };
        let name = name.to_string_lossy().into_owned();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if !entry.file_name().to_string_lossy().starts_with(&name) {
                continue;
            }
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            found.extend(text.lines().filter_map(transaction));
            let _gone = fs::remove_file(entry.path());
        }
        found
    }
}

fn transaction(line: &str) -> Option<Transaction> {
    let mut fields = line.split(' ').map(|field| field.parse::<u64>().ok());
    let (client, _number, latency_us, _script) =
        (fields.next()??, fields.next()??, fields.next()??, fields.next()??);
    let (seconds, micros) = (fields.next()??, fields.next()??);
    Some(Transaction { client, latency_us, end: seconds * 1_000_000 + micros })
}

/// Rate, latency and fairness of the transactions that ended in the window.
pub(crate) fn summary(
    all: &[Transaction],
    window: &Window,
    clients: usize,
) -> Result<Figures, String> {
    let inside: Vec<&Transaction> =
        all.iter().filter(|one| (window.begin..window.end).contains(&one.end)).collect();
    let mut latencies: Vec<u64> = inside.iter().map(|one| one.latency_us).collect();
    latencies.sort_unstable();
    let Some(longest) = latencies.last() else {
        return Err("no transaction in the window".to_owned());
    };
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    for one in &inside {
        *counts.entry(one.client).or_default() += 1;
    }
    let counts: Vec<u64> = counts.into_values().collect();
    let percentile =
        |hundredths: usize| latencies[(latencies.len() - 1) * hundredths / 100] as f64 / 1000.0;
    let seconds = (window.end - window.begin) as f64 / 1e6;
    Ok(Figures::from([
        ("transactions", inside.len() as f64),
        ("tps", inside.len() as f64 / seconds),
        ("p50_ms", percentile(50)),
        ("p99_ms", percentile(99)),
        ("max_ms", *longest as f64 / 1000.0),
        ("jain", jain(&counts, clients)),
    ]))
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_transactions_of_the_window_count() {
        let lines =
            ["0 1 500 0 10 0", "0 2 700 0 11 0", "1 1 900 0 11 5", "0 3 100 0 12 0", "garbage"];
        let all: Vec<Transaction> = lines.iter().filter_map(|line| transaction(line)).collect();
        assert_eq!(all.len(), 4);
        let window = Window { begin: 11_000_000, end: 12_000_000 };
        let figures = summary(&all, &window, 2).expect("two transactions");
        assert!((figures["tps"] - 2.0).abs() < 1e-9);
        assert!((figures["jain"] - 1.0).abs() < 1e-9);
        assert!((figures["max_ms"] - 0.9).abs() < 1e-9);
    }

    #[test]
    fn an_empty_window_is_an_error() {
        assert!(summary(&[], &Window { begin: 0, end: 1 }, 1).is_err());
    }
}
