//! `cargo xtask bench pages`: the page server's figures as a table, with commit and machine.
//!
//! The measuring is done by `crates/pageserver/benches/pages.rs`, which runs its own PostgreSQL. `--write` puts the table
//! into docs/benchmarks.md.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::{machine, report};
use crate::root;

const USAGE: &str = "usage: cargo xtask bench pages [--quick] [--ingest] [--write]";
const BEGIN: &str = "<!-- pages: written by cargo xtask bench pages --write -->";
const END: &str = "<!-- pages: end -->";

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let is_known =
        |argument: &String| ["--quick", "--ingest", "--write"].contains(&argument.as_str());
    if !arguments.iter().all(is_known) {
        return Err(USAGE.to_owned());
    }
    let is_written = arguments.iter().any(|argument| argument == "--write");
    let passed: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|argument| *argument != "--write").collect();
    let mut text = String::new();
    let command = ["cargo xtask bench pages", &passed.join(" ")].join(" ");
    let _infallible = writeln!(
        text,
        "Command: `{} --write`. Commit {}, {}.\nMachine: {}; load {} at the start.\n",
        command.trim_end(),
        machine::commit(),
        machine::date(),
        machine::description(),
        machine::load(),
    );
    print!("{text}");
    let mut bench = Command::new("cargo");
    bench.args(["bench", "--quiet", "--package", "pageserver", "--bench", "pages", "--"]);
    let spawned = bench.args(&passed).stdout(Stdio::piped()).spawn();
    let mut running = spawned.map_err(|error| error.to_string())?;
    let output = running.stdout.take().ok_or("no output")?;
    for line in BufReader::new(output).lines() {
        let line = line.map_err(|error| error.to_string())?;
        println!("{line}");
        let _infallible = writeln!(text, "{line}");
    }
    let status = running.wait().map_err(|error| error.to_string())?;
    if !status.success() {
        return Err("the page server was not measured".to_owned());
    }
    if is_written {
        let path = root().join("docs/benchmarks.md");
        let old = fs::read_to_string(&path).map_err(|error| error.to_string())?;
        let new = report::replaced(&old, &text, (BEGIN, END), "Page server");
        fs::write(&path, new).map_err(|error| error.to_string())?;
    }
    Ok(())
}
