//! Tests with a server.

mod following;

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
    println!("{report:#?}");
    report
}

fn current_lsn(cluster: &Cluster) -> Lsn {
    cluster.sql("SELECT pg_current_wal_lsn()").parse().expect("Postgres tells an LSN")
}
