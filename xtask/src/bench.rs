//! `cargo xtask bench`: measures Howdah's pooler and PgBouncer side by side on one machine.
//!
//! 1. Starts a throw-away PostgreSQL 15 on tmpfs (without fsync: the server is not what is measured).
//! 2. Starts each pooler in a session of its own, from the same `pgbouncer.ini`. PgBouncer twice: reaching the server
//!    over TCP, as `host=127.0.0.1` in its documentation has it, and over a unix socket.
//! 3. Runs each cell (workload, clients) in interleaved rounds: every target once before any twice.
//! 4. Prints medians and ratios; `--write` puts them into docs/benchmarks.md with command, commit and machine.
//!
//! `cargo xtask bench pages` measures the page server instead, `cargo xtask bench computes` computes;
//! `cargo xtask bench console` compares the two consoles.

pub(crate) mod client;
mod computes;
mod console;
mod crowd;
mod load;
pub(crate) mod machine;
mod measure;
mod options;
mod pages;
mod pgbouncer;
mod plan;
pub(crate) mod process;
mod report;
pub(crate) mod server;
mod target;
mod trace;

use options::Options;
use report::Report;

/// Runs the benchmark named by the arguments.
pub(crate) fn run(arguments: Vec<String>) -> Result<(), String> {
    if arguments.first().is_some_and(|first| first == "pages") {
        return pages::run(&arguments[1..]);
    }
    if arguments.first().is_some_and(|first| first == "computes") {
        return computes::run(&arguments[1..]);
    }
    if arguments.first().is_some_and(|first| first == "console") {
        return console::run(&arguments[1..]);
    }
    let Some(options) = Options::parse(arguments)? else { return Ok(()) };
    process::raise_file_limit(options.crowd + 1000);
    let server = server::Server::start(&options)?;
    let mut poolers = target::prepare(&options, &server)?;
    let mut report = Report::new(&options, &server, &poolers);
    for cell in plan::cells(&options) {
        for round in 0..cell.rounds(&options) {
            for index in plan::order(poolers.len(), round) {
                let pooler = &mut poolers[index];
                if !cell.applies_to(pooler) {
                    continue;
                }
                let outcome = plan::measure(&options, &server, pooler, cell);
                report.add(pooler.name(), cell, round, outcome);
            }
        }
        report.show_cell(cell);
    }
    for pooler in &mut poolers {
        pooler.stop();
    }
    report.finish()
}
