//! The process's own values, from `/proc/self` where there is one (proc(5)); elsewhere they are absent.

use std::fs;

use super::Samples;

/// Clock ticks per second in `/proc/self/stat`: a constant of the Linux ABI.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) fn sample(samples: &mut Samples) {
    if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::parse)
    {
        let user = to_f64(stat.user_ticks) / TICKS_PER_SECOND;
        let system = to_f64(stat.system_ticks) / TICKS_PER_SECOND;
        let name = "process_cpu_seconds";
        let help = "CPU time used by this process";
        samples.counter(name, help, &[("mode", "user")], user);
        samples.counter(name, help, &[("mode", "system")], system);
        samples.gauge("process_threads", "Threads of this process", &[], to_f64(stat.threads));
    }
    if let Some(kibibytes) = resident_kibibytes() {
        let bytes = to_f64(kibibytes) * 1024.0;
        samples.gauge("process_resident_memory_bytes", "Memory held in RAM", &[], bytes);
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        // The listing itself holds one.
        let open = entries.count().saturating_sub(1);
        samples.gauge("process_open_fds", "Open file descriptors", &[], to_f64(open as u64));
    }
}

fn resident_kibibytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[expect(clippy::cast_precision_loss, reason = "a metric may lose digits beyond 2^53")]
fn to_f64(value: u64) -> f64 {
    value as f64
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    user_ticks: u64,
    system_ticks: u64,
    threads: u64,
}

impl Stat {
    /// Parses `/proc/<pid>/stat`. The second field is the program's name in parentheses and may itself contain
    /// spaces and parentheses, so fields are counted from the last one: state is field 3, utime 14, stime 15, threads 20.
    fn parse(line: &str) -> Option<Self> {
        let (_, after_name) = line.rsplit_once(')')?;
        let mut fields = after_name.split_ascii_whitespace();
        let mut at = |index: usize| fields.nth(index)?.parse().ok();
        // Each `nth` consumes: 14 is the 12th after the name, 15 follows, 20 comes four later.
        Some(Self { user_ticks: at(11)?, system_ticks: at(0)?, threads: at(4)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_fields_from_the_end_of_the_name() {
        let line = "7 (a) b (c) S 1 7 7 0 -1 4 10 0 0 0 150 50 0 0 20 0 9 0 300 1000 200";
        assert_eq!(Stat::parse(line), Some(Stat { user_ticks: 150, system_ticks: 50, threads: 9 }));
        assert_eq!(Stat::parse("7 (a"), None);
        assert_eq!(Stat::parse("7 (a) S 1 2"), None);
    }
}
