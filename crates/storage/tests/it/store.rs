//! The store of a timeline, against a model of it, on a simulated disk.

use std::path::Path;

use runtime::executor::block_on;
use runtime::io::simulated::{DiskFaults, Simulation};
use runtime::io::{Backend, Options};

mod crash;
mod format;
mod model;
mod reading;
mod remote;
mod sweep;

/// Where the store is, on the simulated disk.
fn directory() -> &'static Path {
    Path::new("timeline")
}

/// Runs a scenario in a world of its own.
fn simulated<F: Future<Output = ()>>(seed: u64, disk: DiskFaults, scenario: F) {
    let simulation = Simulation { seed, disk, ..Simulation::default() };
    let options = Options { simulation, ..Options::on(Backend::Simulated) };
    block_on(&options, scenario).expect("the world goes on");
}
