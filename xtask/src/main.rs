//! The project's scripts, with types: `cargo xtask bench` measures the pooler beside PgBouncer,
//! `cargo xtask ci` runs every check; the tidy rules are the tests of this crate.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for the terminal")]

mod accept;
mod bench;
mod ceph;
mod ci;
mod debian;
mod howdah;
mod kqueue;
#[cfg(test)]
mod lexer;
mod postgres;
mod servers;
mod soak;
mod suites;
#[cfg(test)]
mod tidy;
#[cfg(test)]
mod tree;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask <task>

tasks:
  accept [OPTIONS]  what the page service gives against the primary's own recovery (accept --help)
  bench [OPTIONS]   measure the pooler beside PgBouncer (bench --help), the page server (bench pages),
                    computes beside plain directories (bench computes)
  ci                formatting, lints, tidy, documentation and tests, each with its time
  postgres MAJOR... PostgreSQL 14 to 18 into target/postgres, for tests
  soak [OPTIONS]    kills the primary, its mount and Howdah under load; nothing acknowledged may be lost (soak --help)
  suites [OPTIONS]  PostgreSQL's own suites as a source of WAL, all of it checked (suites --help)
  check-kqueue      type-check the kqueue driver for FreeBSD and macOS (Debian only)
";

/// The root of the checkout, from the place this crate was compiled in.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask lies in the root").to_path_buf()
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let outcome = match arguments.next().as_deref() {
        Some("accept") => accept::run(&arguments.collect::<Vec<_>>()),
        Some("bench") => bench::run(arguments.collect()),
        Some("ci") => ci::run(),
        Some("postgres") => postgres::run(&arguments.collect::<Vec<_>>()),
        Some("soak") => soak::run(&arguments.collect::<Vec<_>>()),
        Some("suites") => suites::run(&arguments.collect::<Vec<_>>()),
        Some("check-kqueue") => kqueue::run(),
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
