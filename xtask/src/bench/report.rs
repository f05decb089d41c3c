//! Collects the runs, prints medians and ratios, and writes them into docs/benchmarks.md.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io::Write as _;

use super::machine;
use super::measure::median;
use super::options::Options;
use super::plan::{Cell, Figures, Workload};
use super::server::Server;
use super::target::Target;
use crate::root;

/// Lines of docs/benchmarks.md between which the results stand.
const BEGIN: &str = "<!-- pooler: written by cargo xtask bench --write -->";
const END: &str = "<!-- pooler: end -->";

pub(crate) struct Report {
    options: Options,
    targets: Vec<(String, String)>,
    server: String,
    cells: Vec<Cell>,
    runs: BTreeMap<(Cell, String), Vec<Figures>>,
    failures: Vec<String>,
}

impl Report {
    pub(crate) fn new(options: &Options, server: &Server, targets: &[Target]) -> Self {
        let targets = targets
            .iter()
            .map(|target| (target.name().to_owned(), target.description.clone()))
            .collect();
        let (options, server) = (options.clone(), server.version.clone());
        Self {
            options,
            targets,
            server,
            cells: Vec::new(),
            runs: BTreeMap::new(),
            failures: Vec::new(),
        }
    }

    pub(crate) fn add(
        &mut self,
        target: &str,
        cell: Cell,
        round: usize,
        outcome: Result<Figures, String>,
    ) {
        if !self.cells.contains(&cell) {
            self.cells.push(cell);
        }
        self.log(target, cell, round, &outcome);
        match outcome {
            Ok(figures) => {
                let shown: Vec<String> = figures
                    .iter()
                    .map(|(name, value)| format!("{name}={}", short(*value)))
                    .collect();
                eprintln!(
                    "{}/{} {target} #{round}: {}",
                    cell.workload,
                    cell.clients,
                    shown.join(" ")
                );
                self.runs.entry((cell, target.to_owned())).or_default().push(figures);
            }
            Err(reason) => {
                eprintln!("{}/{} {target} #{round}: FAILED: {reason}", cell.workload, cell.clients);
                let first = reason.lines().next().unwrap_or_default();
                self.failures.push(format!(
                    "{} at {} clients, {target}: {first}",
                    cell.workload, cell.clients
                ));
            }
        }
    }

    fn log(&self, target: &str, cell: Cell, round: usize, outcome: &Result<Figures, String>) {
        let Some(file) = &self.options.json else { return };
        let mut line = serde_json::json!({
            "target": target, "workload": cell.workload.to_string(), "clients": cell.clients, "round": round,
        });
        match outcome {
            Ok(figures) => line["figures"] = serde_json::json!(figures),
            Err(reason) => line["error"] = serde_json::json!(reason),
        }
        let opened = fs::OpenOptions::new().create(true).append(true).open(file);
        if let Err(error) = opened.and_then(|mut file| writeln!(file, "{line}")) {
            eprintln!("{}: {error}", file.display());
        }
    }

    /// The medians of one cell, as soon as it is done.
    pub(crate) fn show_cell(&self, cell: Cell) {
        for (target, _) in &self.targets {
            if let Some(row) = self.row(cell, target) {
                println!("{}", row.join(" | "));
            }
        }
    }

    fn value(&self, cell: Cell, target: &str, name: &str) -> Option<f64> {
        let runs = self.runs.get(&(cell, target.to_owned()))?;
        let values: Vec<f64> =
            runs.iter().filter_map(|figures| figures.get(name).copied()).collect();
        median(&values)
    }

    /// The PgBouncers that were measured.
    fn peers(&self) -> impl Iterator<Item = &str> {
        self.targets.iter().map(|(name, _)| &**name).filter(|name| name.starts_with("pgbouncer"))
    }

    /// Ratio to a peer of a figure where less is better; none between PgBouncers.
    fn ratio(&self, cell: Cell, target: &str, peer: &str, name: &str) -> Option<f64> {
        let theirs = self.value(cell, peer, name)?;
        (!target.starts_with("pgbouncer") && theirs > 0.0)
            .then(|| self.value(cell, target, name).map(|own| own / theirs))?
    }

    fn row(&self, cell: Cell, target: &str) -> Option<Vec<String>> {
        self.runs.get(&(cell, target.to_owned()))?;
        let (names, main) = columns(cell.workload);
        let mut row = vec![cell.workload.to_string(), cell.clients.to_string(), target.to_owned()];
        for name in names {
            row.push(self.value(cell, target, name).map_or_else(|| "-".to_owned(), short));
        }
        for peer in self.peers() {
            let ratio = self.ratio(cell, target, peer, main);
            row.push(ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")));
        }
        Some(row)
    }

    /// Prints everything as Markdown, and writes it if that was asked for.
    pub(crate) fn finish(&self) -> Result<(), String> {
        let text = self.markdown();
        println!("\n{text}");
        if self.options.write {
            let path = root().join("docs/benchmarks.md");
            let old = fs::read_to_string(&path).map_err(|error| error.to_string())?;
            fs::write(&path, replaced(&old, &text, (BEGIN, END), "Pooler"))
                .map_err(|error| error.to_string())?;
        }
        if self.failures.is_empty() {
            Ok(())
        } else {
            Err(format!("failed:\n  {}", self.failures.join("\n  ")))
        }
    }

    fn markdown(&self) -> String {
        let mut text = format!(
            "Command: `{}`. Commit {}, {}.\nMachine: {}.\nServer: {}, fsync off, on tmpfs.\n\n",
            self.options.command,
            machine::commit(),
            machine::date(),
            machine::description(),
            self.server,
        );
        for (name, description) in &self.targets {
            let _infallible = writeln!(text, "- {name}: {description}");
        }
        let tables: [(&str, &[Workload]); 4] = [
            (
                "CPU, rate, latency and fairness",
                &[
                    Workload::Simple,
                    Workload::Prepared,
                    Workload::Extended,
                    Workload::Tpcb,
                    Workload::Pipeline,
                    Workload::Churn,
                ],
            ),
            ("Connections with TLS 1.3 and SCRAM", &[Workload::Connect]),
            ("A crowd of idle connections", &[Workload::Crowd]),
            ("System calls per transaction", &[Workload::Calls]),
        ];
        for (title, workloads) in tables {
            self.table(&mut text, title, workloads);
        }
        for failure in &self.failures {
            let _infallible = writeln!(text, "- failed: {failure}");
        }
        text
    }

    fn table(&self, text: &mut String, title: &str, workloads: &[Workload]) {
        let cells: Vec<Cell> =
            self.cells.iter().copied().filter(|cell| workloads.contains(&cell.workload)).collect();
        let Some(first) = cells.first() else { return };
        let (names, main) = columns(first.workload);
        let _infallible = write!(text, "\n### {title}\n\n| workload | clients | target |");
        for name in names {
            let _infallible = write!(text, " {} |", heading(name));
        }
        for peer in self.peers() {
            let _infallible = write!(text, " {} / {peer} |", heading(main));
        }
        let columns = names.len() + self.peers().count();
        let _infallible = writeln!(text, "\n|---|--:|---|{}", "--:|".repeat(columns));
        for cell in cells {
            for (target, _) in &self.targets {
                if let Some(row) = self.row(cell, target) {
                    let _infallible = writeln!(text, "| {} |", row.join(" | "));
                }
            }
        }
    }
}

/// The columns of a workload, and the one that is compared with each PgBouncer.
fn columns(workload: Workload) -> (&'static [&'static str], &'static str) {
    match workload {
        Workload::Crowd => (
            &[
                "kib_per_idle",
                "rss_mib",
                "open_cpu_us",
                "idle_cpu_ms_per_s",
                "p50_ms",
                "max_ms",
                "longest_wait_over_median",
                "jain",
            ],
            "kib_per_idle",
        ),
        Workload::Calls => (&["calls", "receive", "send", "wait", "control", "enter"], "calls"),
        _ => (&["cpu_us", "user_us", "tps", "p50_ms", "p99_ms", "max_ms", "jain"], "cpu_us"),
    }
}

fn heading(name: &str) -> &str {
    match name {
        "cpu_us" => "CPU us/tx",
        "user_us" => "user us/tx",
        "p50_ms" => "p50 ms",
        "p99_ms" => "p99 ms",
        "max_ms" => "max ms",
        "kib_per_idle" => "KiB per idle",
        "rss_mib" => "RSS MiB",
        "open_cpu_us" => "CPU us per open",
        "idle_cpu_ms_per_s" => "CPU ms/s idle",
        "longest_wait_over_median" => "longest wait / median",
        "jain" => "Jain",
        other => other,
    }
}

/// Three or four significant digits.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The document with the part between the marks replaced, or appended if there is none.
pub(super) fn replaced(old: &str, text: &str, (begin, end): (&str, &str), title: &str) -> String {
    let part = format!("{begin}\n\n{}\n{end}", text.trim_end());
    match (old.split_once(begin), old.split_once(end)) {
        (Some((before, _)), Some((_, after))) => format!("{before}{part}{after}"),
        _ => format!("{}\n\n## {title}\n\n{part}\n", old.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_replace_the_older_ones_and_nothing_else() {
        let once = replaced("# A\n\ntext\n", "one", (BEGIN, END), "Pooler");
        let twice = replaced(&once, "two", (BEGIN, END), "Pooler");
        assert!(once.contains("one") && twice.contains("two") && !twice.contains("one"));
        assert!(twice.starts_with("# A\n\ntext\n"));
        assert_eq!(replaced(&twice, "two", (BEGIN, END), "Pooler"), twice);
    }

    #[test]
    fn figures_are_short() {
        assert_eq!(
            [short(12345.6), short(123.4), short(12.34), short(0.1234)],
            ["12346", "123", "12.3", "0.123"]
        );
    }
}
