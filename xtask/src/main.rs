//! The project's scripts, with types: `cargo xtask bench` measures the pooler beside PgBouncer,
//! `cargo xtask ci` runs every check; the tidy rules are the tests of this crate.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for the terminal")]

mod bench;
mod ci;
#[cfg(test)]
mod lexer;
#[cfg(test)]
mod tidy;
#[cfg(test)]
mod tree;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask <task>

tasks:
  bench [OPTIONS]   measure the pooler beside PgBouncer (bench --help)
  ci                formatting, lints, tidy, documentation and tests, each with its time
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let outcome = match arguments.next().as_deref() {
        Some("bench") => bench::run(arguments.collect()),
        Some("ci") => ci::run(),
        Some("-h" | "--help") => {
            println!("{USAGE}");
            Ok(())
        }
        _ => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
