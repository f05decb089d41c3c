//! `cargo xtask ci`: every check a change must pass, one after the other, each with its time.

use std::process::Command;
use std::time::Instant;

/// A check: its name and the command line it runs.
struct Check {
    name: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
}

const CHECKS: &[Check] = &[
    Check { name: "format", program: "cargo", arguments: &["fmt", "--all", "--check"] },
    Check {
        name: "lints",
        program: "cargo",
        arguments: &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"],
    },
    Check {
        name: "documentation",
        program: "cargo",
        arguments: &["doc", "--workspace", "--no-deps", "--quiet"],
    },
    Check { name: "tests and tidy", program: "make", arguments: &["test"] },
];

/// Runs all checks even if one fails, so that one run shows everything.
pub(crate) fn run() -> Result<(), String> {
    let mut failed = Vec::new();
    for check in CHECKS {
        println!("== {}", check.name);
        let start = Instant::now();
        let done = Command::new(check.program)
            .args(check.arguments)
            .stdin(std::process::Stdio::null())
            .status()
            .map_err(|error| format!("{}: {error}", check.program))?;
        let verdict = if done.success() { "ok" } else { "FAILED" };
        println!("== {}: {verdict} in {:.0} s", check.name, start.elapsed().as_secs_f64());
        if !done.success() {
            failed.push(check.name);
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", "))) }
}
