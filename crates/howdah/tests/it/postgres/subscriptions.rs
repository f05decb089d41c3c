//! Subscriptions: received by `main`'s server alone, whatever runs on branches of it.

use std::time::{Duration, Instant};

use cluster::{Cluster, Programs};

use crate::compute::branch;
use crate::instance::{Folder, Instance};

/// Against hangs only.
const PATIENCE: Duration = Duration::from_secs(180);

fn psql(instance: &Instance, database: &str, sql: &str) -> String {
    let answer = instance.client("psql", &["-XAtq", "-d", database, "-c", sql]);
    answer.unwrap_or_else(|said| panic!("{sql} in {database}: {said}\n{}", instance.log()))
}

/// A publisher's row comes to `main`.
fn comes(instance: &Instance, count: &str) {
    let deadline = Instant::now() + PATIENCE;
    while instance.sql("SELECT count(*) FROM t") != count {
        assert!(Instant::now() < deadline, "never {count} rows: {}", instance.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_branch_of_a_subscriber_leaves_the_publishers_slot_to_main() {
    let mut publisher = Cluster::create(Programs::default(), "publisher", &[]);
    publisher.configure(&["wal_level = logical"]);
    publisher.serve(&[]);
    publisher.sql("CREATE TABLE t (i int PRIMARY KEY)");
    publisher.sql("CREATE PUBLICATION p FOR TABLE t");
    let folder = Folder::new();
    let instance = Instance::start(&folder, "[compute]\nstart_timeout = \"3min\"\n");
    instance.sql("CREATE TABLE t (i int PRIMARY KEY)");
    instance.sql(&format!(
        "CREATE SUBSCRIPTION s CONNECTION 'host={} port={} user=postgres dbname=postgres' PUBLICATION p",
        publisher.folder().display(),
        publisher.port()
    ));
    publisher.sql("INSERT INTO t VALUES (1)");
    comes(&instance, "1");
    // What a subscription brings is flushed with the next commit.
    instance.sql("CREATE TABLE flushed ()");
    branch(&instance, "b");
    let lsn = instance.sql("SELECT pg_current_wal_flush_lsn()");
    let workers = "SHOW max_logical_replication_workers";
    for database in ["postgres@b", "postgres@b?ephemeral", &format!("postgres@{lsn}")] {
        assert_eq!(psql(&instance, database, "SELECT subenabled FROM pg_subscription"), "t");
        assert_eq!(psql(&instance, database, workers), "0", "{database}");
    }
    assert_eq!(instance.sql(workers), "4", "main is a subscriber as before");
    publisher.sql("INSERT INTO t VALUES (2)");
    comes(&instance, "2");
    assert_eq!(psql(&instance, "postgres@b", "SELECT count(*) FROM t"), "1");
}
