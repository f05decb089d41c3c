//! System calls per transaction, counted by strace. It slows the pooler down, so nothing else is taken from these runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::load::{self, Window};
use super::options::Options;
use super::plan::{Cell, Figures, Workload};
use super::process::{self, Daemon};
use super::server::Server;
use super::target::{Entry, Target};

/// Names that the report shows; the total counts all calls.
const SHOWN: &[(&str, &[&str])] = &[
    ("receive", &["recvfrom", "recvmsg", "read", "readv"]),
    ("send", &["sendto", "sendmsg", "write", "writev"]),
    ("wait", &["epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll"]),
    ("control", &["epoll_ctl"]),
    ("enter", &["io_uring_enter"]),
];

/// All calls of the pooler between attaching and detaching, over the transactions of that time.
pub(crate) fn measure(
    options: &Options,
    server: &Server,
    target: &mut Target,
    clients: usize,
) -> Result<Figures, String> {
    let port = target.open(Entry::Trust)?;
    let pid = target.pid(Entry::Trust).ok_or("not a pooler")?.to_string();
    let counts = server.folder.join("strace.txt");
    let log = server.folder.join("strace.log");
    let run = load::start(options, server, port, Cell { workload: Workload::Calls, clients })?;
    let command =
        ["strace", "-f", "-c", "-o", &counts.display().to_string(), "-p", &pid].map(str::to_owned);
    let mut strace = Daemon::start("strace", &command, None, &log)?;
    process::wait_until(&mut strace, &log, || {
        fs::read_to_string(&log).is_ok_and(|said| said.contains("attached"))
    })?;
    // The calls between attaching and detaching are counted: strace writes a line at both moments.
    let begin = written(&log)?;
    run.watch(options.seconds.min(3));
    strace.stop("-INT");
    let window = Window { begin, end: written(&log)? };
    let transactions = run.finish()?;
    let summary = load::summary(&transactions, &window, clients)?;
    let calls = calls(&fs::read_to_string(&counts).map_err(|error| format!("strace: {error}"))?);
    let per = |count: u64| count as f64 / summary["transactions"];
    let mut figures = Figures::from([("calls", per(calls.values().sum()))]);
    for (name, group) in SHOWN {
        let count: u64 = group.iter().filter_map(|call| calls.get(*call)).sum();
        figures.insert(name, per(count));
    }
    Ok(figures)
}

/// When a file was last written to, in microseconds since 1970.
fn written(file: &Path) -> Result<u64, String> {
    let modified = fs::metadata(file).and_then(|metadata| metadata.modified());
    let since = modified.map_err(|error| format!("{}: {error}", file.display()))?;
    let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// The table of `strace -c`: `% time, seconds, usecs/call, calls, [errors,] syscall`.
fn calls(table: &str) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for line in table.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (Some(count), Some(name)) =
            (fields.get(3).and_then(|text| text.parse().ok()), fields.last())
        else {
            continue;
        };
        if fields.len() >= 5
            && *name != "total"
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        {
            found.insert((*name).to_owned(), count);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::calls;

    #[test]
    fn a_table_of_strace_is_read() {
        let table = "% time     seconds  usecs/call     calls    errors syscall\n\
                     ------ ----------- ----------- --------- --------- ----------------\n \
                     55.00    0.100000           1       100         7 recvfrom\n \
                     45.00    0.080000           1        80           sendto\n\
                     100.00    0.180000           1       180         7 total\n";
        let found = calls(table);
        assert_eq!(found.get("recvfrom"), Some(&100));
        assert_eq!(found.values().sum::<u64>(), 180);
    }
}
