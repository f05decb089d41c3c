//! The cells of the measurement: which workload with how many clients, on which targets, in which order.

use std::collections::BTreeMap;
use std::fmt;

use super::options::Options;
use super::server::Server;
use super::target::Target;
use super::{crowd, load, trace};

/// What one run yields: a figure by its name.
pub(crate) type Figures = BTreeMap<&'static str, f64>;

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Workload {
    /// `pgbench -S`, simple protocol.
    Simple,
    /// `pgbench -S -M prepared`.
    Prepared,
    /// `pgbench -S -M extended`.
    Extended,
    /// The TPC-B-like default script, simple protocol.
    Tpcb,
    /// Ten prepared selects in one libpq pipeline.
    Pipeline,
    /// `pgbench -S -C`: every transaction connects first.
    Churn,
    /// `SELECT 1` on a new connection each, with TLS and SCRAM.
    Connect,
    /// Many idle connections, then 500 of them active.
    Crowd,
    /// System calls of `Simple`, counted by strace.
    Calls,
}

const WORKLOADS: &[(&str, Workload)] = &[
    ("simple", Workload::Simple),
    ("prepared", Workload::Prepared),
    ("extended", Workload::Extended),
    ("tpcb", Workload::Tpcb),
    ("pipeline", Workload::Pipeline),
    ("churn", Workload::Churn),
    ("connect", Workload::Connect),
    ("crowd", Workload::Crowd),
    ("calls", Workload::Calls),
];

impl fmt::Display for Workload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = WORKLOADS.iter().find(|(_, workload)| workload == self);
        formatter.write_str(name.map_or("unknown", |(name, _)| name))
    }
}

/// One row of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    pub(crate) workload: Workload,
    pub(crate) clients: usize,
}

impl Cell {
    /// Calls are counted, not timed: a second round would count the same.
    pub(crate) fn rounds(self, options: &Options) -> usize {
        if self.workload == Workload::Calls { 1 } else { options.rounds }
    }

    /// The server itself is measured only where it can be: it has few connections and no CPU time of its own to tell.
    pub(crate) fn applies_to(self, target: &Target) -> bool {
        target.is_pooler()
            || (self.clients <= 100
                && !matches!(self.workload, Workload::Connect | Workload::Crowd | Workload::Calls))
    }
}

/// The rows that the options ask for.
pub(crate) fn cells(options: &Options) -> Vec<Cell> {
    let mut cells = Vec::new();
    for name in &options.workloads {
        let Some((_, workload)) = WORKLOADS.iter().find(|(known, _)| known == name) else {
            eprintln!("no such workload: {name}");
            continue;
        };
        let clients = match workload {
            Workload::Simple | Workload::Prepared | Workload::Extended => options.clients.clone(),
            Workload::Tpcb => {
                options.clients.iter().copied().filter(|n| matches!(n, 16 | 100)).collect()
            }
            Workload::Pipeline | Workload::Churn => vec![16],
            Workload::Connect => vec![4],
            Workload::Crowd => vec![options.crowd],
            Workload::Calls => vec![16, 100],
        };
        cells.extend(clients.into_iter().map(|clients| Cell { workload: *workload, clients }));
    }
    cells
}

/// Every other round runs backwards, so that no target always comes after the same one.
pub(crate) fn order(targets: usize, round: usize) -> Vec<usize> {
    if round.is_multiple_of(2) { (0..targets).collect() } else { (0..targets).rev().collect() }
}

/// One run of one cell on one target.
pub(crate) fn measure(
    options: &Options,
    server: &Server,
    target: &mut Target,
    cell: Cell,
) -> Result<Figures, String> {
    match cell.workload {
        Workload::Crowd => crowd::measure(options, server, target, cell.clients),
        Workload::Calls => trace::measure(options, server, target, cell.clients),
        _ => load::measure(options, server, target, cell),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_second_round_runs_backwards() {
        assert_eq!(order(3, 0), [0, 1, 2]);
        assert_eq!(order(3, 1), [2, 1, 0]);
    }

    #[test]
    fn workloads_are_named_as_they_are_asked_for() {
        for (name, workload) in WORKLOADS {
            assert_eq!(&workload.to_string(), name);
        }
    }
}
