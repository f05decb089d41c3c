//! Base backup, streaming, and the comparison with the stopped cluster.

use pageserver::client::Client;
use pageserver::verify::{Report, verify};
use pg::lsn::Lsn;

use crate::cluster::{Cluster, temporary_folder};
use crate::service::{Service, block_on, settings};

/// Stops the cluster and compares it with everything the page server has.
fn stop_and_verify(cluster: &mut Cluster, service: &Service) -> Report {
    let lsn = current_lsn(cluster);
    service.wait_lsn(lsn);
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

pub(crate) fn current_lsn(cluster: &Cluster) -> Lsn {
    cluster.sql("SELECT pg_current_wal_lsn()").parse().expect("Postgres tells an LSN")
}

#[test]
fn a_fresh_cluster_is_the_same() {
    let mut cluster = Cluster::start("fresh", &[], &[]);
    let folder = temporary_folder("fresh-ps");
    let service = Service::start(settings(folder.clone(), cluster.socket()));
    service.wait_streaming();
    cluster.sql("CREATE TABLE t (a int PRIMARY KEY, b text)");
    cluster.sql("INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 1000) i");
    let report = stop_and_verify(&mut cluster, &service);
    assert!(report.is_identical());
    assert_eq!(report.unsupported_blocks, 0);
    assert!(report.blocks > 1000);
    service.stop();
    let _removed = std::fs::remove_dir_all(folder);
}
