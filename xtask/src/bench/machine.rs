//! What the figures were measured on, for the report.

use std::fs;

use super::process;

/// One line: processor, cores, memory, kernel.
pub(crate) fn description() -> String {
    let cpu = first_value("/proc/cpuinfo", "model name")
        .unwrap_or_else(|| "unknown processor".to_owned());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = first_value("/proc/meminfo", "MemTotal")
        .and_then(|text| text.split(' ').next().and_then(|kib| kib.parse::<u64>().ok()))
        .map_or(0, |kib| kib / (1 << 20));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores of {cpu}, {memory} GiB, Linux {}", kernel.trim())
}

/// How many tasks wanted to run over the last minute.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// The commit that was measured, with a mark if the checkout differed from it.
pub(crate) fn commit() -> String {
    let commit = process::output(&["git", "rev-parse", "--short=12", "HEAD"], None);
    let changed = process::output(&["git", "status", "--porcelain", "--untracked-files=no"], None);
    let mark =
        if changed.is_ok_and(|text| !text.trim().is_empty()) { " with local changes" } else { "" };
    commit.map_or_else(|_| "unknown".to_owned(), |commit| format!("{}{mark}", commit.trim()))
}

/// Today, in UTC.
pub(crate) fn date() -> String {
    process::output(&["date", "-u", "+%Y-%m-%d"], None)
        .map_or_else(|_| String::new(), |text| text.trim().to_owned())
}

fn first_value(file: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}
