//! Tests with a server.

mod access;
mod backup;
mod branches;
mod damage;
mod following;
mod idle;
mod kills;
mod lifecycle;
mod login;
mod majors;
mod past;
mod promotions;
mod remote;
mod restarts;
mod scrub;
mod state;
mod writable;

use pageserver::client::Client;
use pageserver::verify::{Report, verify};
use pg::lsn::Lsn;

use crate::cluster::Cluster;
use crate::service::{Service, block_on};

/// Stops the cluster and compares it with everything the page server has.
fn stop_and_verify(cluster: &mut Cluster, service: &Service) -> Report {
    cluster.stop("fast");
    let address = service.address.to_string();
    let data = cluster.data();
    let report = block_on(async move {
        let client = Client::connect(&address, "tester", "").await.expect("we are let in");
        verify(&data, client, |_progress| {}).await.expect("the cluster can be compared")
    });
    if !report.is_identical() {
        show(&report);
    }
    report
}

#[expect(clippy::print_stdout, reason = "a failing test shows what differs")]
pub(crate) fn show(report: &Report) {
    println!("{report:#?}");
}

/// The end of the last record written so far, flushed or not.
fn current_lsn(cluster: &Cluster) -> Lsn {
    let text = cluster.sql("SELECT pg_current_wal_insert_lsn()");
    let next: Lsn = text.parse().expect("Postgres tells an LSN");
    // Where the next record begins is behind a page's header, where the last one ended before it.
    let in_page = next.0 % 8192;
    if in_page <= 40 { Lsn(next.0 - in_page) } else { next }
}
