//! `howdah wal verify` of the WAL of a real cluster.

use std::process::{Command, Output};

use cluster::{Cluster, Programs};

use crate::instance::HOWDAH;

#[test]
fn a_cluster_larger_than_the_memory_allowed_is_refused() {
    let programs = Programs::default();
    let mut cluster = Cluster::create(programs, "verify", &[]);
    let base = cluster.folder().join("base").display().to_string();
    cluster.run("/bin/cp", &["-a", &cluster.data().display().to_string(), &base]);
    let settings = ["wal_keep_size=1GB", "full_page_writes=off", "wal_consistency_checking=all"];
    cluster.serve(&settings);
    cluster.sql("create table t as select generate_series(1, 1000) a");
    cluster.stop("fast");
    let wal = cluster.data().join("pg_wal").display().to_string();
    let verify = |more: &[&str]| -> Output {
        let arguments = ["wal", "verify", &wal, "--base", &base];
        Command::new(HOWDAH).args(arguments).args(more).output().expect("howdah runs")
    };
    let refused = verify(&["--max-memory", "1"]);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success(), "{told}");
    assert!(told.contains("more than 1 MB of memory") && told.contains("--max-memory"), "{told}");
    let verified = verify(&["--max-memory", "1000"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}
