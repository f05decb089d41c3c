//! `cargo xtask bench pages`: the page server's figures as a table, with commit and machine.
//!
//! The measuring is done by `crates/pageserver/benches/pages.rs`, which runs its own PostgreSQL.

use std::process::Command;

use super::machine;

const USAGE: &str = "usage: cargo xtask bench pages [--quick]";

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let is_known = |argument: &String| argument == "--quick";
    if !arguments.iter().all(is_known) {
        return Err(USAGE.to_owned());
    }
    println!("Commit {}, {}.", machine::commit(), machine::date());
    println!("Machine: {}.\n", machine::description());
    let mut bench = Command::new("cargo");
    bench.args(["bench", "--quiet", "--package", "pageserver", "--bench", "pages", "--"]);
    let status = bench.args(arguments).status().map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err("the page server was not measured".to_owned()) }
}
