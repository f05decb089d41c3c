//! What was found, as it is found and as a document.

use std::time::{Duration, Instant};

use super::check::{Moment, Outcome};
use super::node::shown;
use super::options::Options;
use super::store::Store;
use crate::bench::machine;
use crate::root;

const DOCUMENT: &str = "docs/acceptance.md";
const HEAD: &str = "| moment | base backup taken | size | pg_dumpall lines | taken in | server up in | all checks in |
|---|---|--:|--:|--:|--:|--:|
";

pub(crate) struct Report {
    began: Instant,
    facts: Vec<String>,
    lines: Vec<String>,
    /// What has to be said of a line.
    remarks: Vec<String>,
}

impl Report {
    pub(crate) fn new(options: &Options, store: &Store) -> Report {
        let facts = vec![
            format!("`{}`, commit {}, {}", options.command, machine::commit(), machine::date()),
            format!("machine: {}", machine::description()),
            format!("PostgreSQL {}; object store: {}", options.major, store.name()),
        ];
        facts.iter().for_each(|fact| println!("{fact}"));
        Report { began: Instant::now(), facts, lines: Vec::new(), remarks: Vec::new() }
    }

    fn fact(&mut self, fact: String) {
        println!("{fact}");
        self.facts.push(fact);
    }

    pub(crate) fn loaded(&mut self, took: Duration, wal_bytes: u64) {
        let (seconds, megabytes) = (took.as_secs(), wal_bytes / 1_000_000);
        self.fact(format!("load: {seconds} s, {megabytes} MB of WAL"));
    }

    pub(crate) fn suite(&mut self, summary: &str) {
        self.fact(format!("regression suite, beside pgbench: {summary}"));
    }

    pub(crate) fn recovered(&mut self, took: Duration) {
        self.fact(format!(
            "everything local deleted; `howdah recover`, and pages served again after {:.1} s",
            took.as_secs_f64()
        ));
    }

    pub(crate) fn line(&mut self, when: &str, moment: &Moment, outcome: &Outcome) {
        let inside = if moment.asked == moment.lsn { "" } else { " (inside a record)" };
        let lsn = shown(moment.asked);
        let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
        let line = format!(
            "| {lsn}{inside} | {when} | {} MB | {} | {} | {} | {} |",
            outcome.bytes / 1_000_000,
            outcome.dump_lines,
            seconds(outcome.backup),
            seconds(outcome.start),
            seconds(outcome.all),
        );
        println!("{line}");
        self.lines.push(line);
        if outcome.dump_fails {
            self.remarks.push(format!(
                "{lsn}: pg_dumpall ends with the same error on both: the suite was in the middle of something"
            ));
        }
        if outcome.unlogged > 0 {
            let count = outcome.unlogged;
            self.remarks.push(format!(
                "{lsn}: {count} relations that are not logged are as recovery leaves them"
            ));
        }
        if outcome.complaints_of_both > 0 {
            self.remarks.push(format!(
                "{lsn}: pg_amcheck says the same {} lines of both",
                outcome.complaints_of_both
            ));
        }
    }

    /// Everything is well.
    pub(crate) fn end(mut self, options: &Options) -> Result<(), String> {
        let (count, seconds) = (self.lines.len(), self.began.elapsed().as_secs());
        self.fact(format!("{count} base backups, none of them different; {seconds} s in all"));
        self.remarks.iter().for_each(|remark| println!("{remark}"));
        if !options.write {
            return Ok(());
        }
        let mut section = String::new();
        self.facts.iter().for_each(|fact| section.push_str(&format!("- {fact}\n")));
        section.push_str(&format!("\n{HEAD}{}\n", self.lines.join("\n")));
        if !self.remarks.is_empty() {
            section.push('\n');
            self.remarks.iter().for_each(|remark| section.push_str(&format!("- {remark}\n")));
        }
        write_section(&options.command, &section)
    }
}

/// Replaces the section of this command in the document, or adds it.
fn write_section(command: &str, section: &str) -> Result<(), String> {
    let path = root().join(DOCUMENT);
    let failed = |error| format!("{}: {error}", path.display());
    let before = std::fs::read_to_string(&path).map_err(failed)?;
    let title = format!("## `{command}`\n");
    let head = before.split(&title).next().unwrap_or_default();
    let rest = before.split(&title).nth(1).unwrap_or_default();
    let after = rest.find("\n## ").and_then(|next| rest.get(next + 1..)).unwrap_or_default();
    let mut text = format!("{}\n\n{title}\n{section}", head.trim_end());
    if !after.is_empty() {
        text.push_str(&format!("\n{after}"));
    }
    std::fs::write(&path, text).map_err(failed)
}
