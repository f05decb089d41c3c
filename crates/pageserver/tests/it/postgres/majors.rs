//! What the programs of another major take from the page service: a base backup of the past, a standby of a branch.

use cluster::{Cluster as Plain, Programs};
use pg::lsn::Lsn;

use crate::cluster::{Cluster, Folder};
use crate::postgres::{current_lsn, writable};
use crate::service::{Service, block_on, settings};

const MAJOR: u32 = 17;

/// A copy of what the page service has, by this major's own program.
fn copy(service: &Service, name: &str, options: &str, more: &[&str]) -> Plain {
    let programs = Programs::of_major(MAJOR).expect("the cluster has them, too");
    let (host, port) = (service.address.ip(), service.address.port());
    let source = format!("host={host} port={port} user=postgres options='{options}'");
    Plain::copy(programs, name, &source, more)
}

fn data_of(server: &Plain) -> String {
    server.data().display().to_string()
}

/// The copy's indexes and, once stopped, its checksums.
fn check(server: &mut Plain) {
    let thorough = ["--all", "--install-missing", "--heapallindexed", "--parent-check"];
    server.run("pg_amcheck", &thorough);
    server.stop("fast");
    server.run("pg_checksums", &["--check", "-D", &data_of(server)]);
}

#[test]
fn postgres_17_takes_a_backup_of_the_past_and_starts_on_it() {
    let prepared = "max_prepared_transactions = 5";
    let started = Cluster::start_major(MAJOR, "past17", &["-k"], &[prepared, "autovacuum = off"]);
    let Some(cluster) = started else { return };
    let folder = Folder::new("past17-ps");
    let service = Service::start(settings(folder.path(), cluster.socket()));
    service.wait_streaming();
    cluster.sql("CREATE TABLE t (i int PRIMARY KEY, s text)");
    cluster.sql("INSERT INTO t SELECT i, repeat('x', i % 100) FROM generate_series(1, 5000) i");
    cluster.sql("CREATE INDEX ON t USING brin (i); CREATE INDEX ON t USING hash (s)");
    cluster.sql("DELETE FROM t WHERE i > 4900");
    cluster.sql("VACUUM (FREEZE) t");
    cluster.sql("CREATE UNLOGGED TABLE u (i int); INSERT INTO u VALUES (1)");
    cluster.sql("BEGIN; INSERT INTO t VALUES (-1, 'prepared'); PREPARE TRANSACTION 'p'");
    cluster.sql("CHECKPOINT");
    cluster.sql("CREATE DATABASE other");
    let lsn = current_lsn(&cluster);
    service.wait_lsn(lsn);
    cluster.sql("ROLLBACK PREPARED 'p'");
    cluster.sql("DROP TABLE t");
    service.wait_lsn(current_lsn(&cluster));
    let at = format!("-c howdah.lsn={lsn}");
    for (name, more) in [("fetch17", &["-X", "fetch"][..]), ("stream17", &["-X", "stream", "-P"])] {
        let mut server = copy(&service, name, &at, more);
        server.run("pg_verifybackup", &[&data_of(&server)]);
        server.serve(&[]);
        assert!(server.log().contains("was shut down at"), "{}", server.log());
        assert!(!server.log().contains("redo"), "{}", server.log());
        assert_eq!(server.sql("SELECT count(*), sum(length(s)) FROM t"), "4900|242550");
        assert_eq!(server.sql("SELECT count(*) FROM u"), "0");
        server.sql("COMMIT PREPARED 'p'");
        assert_eq!(server.sql("SELECT s FROM t WHERE i = -1"), "prepared");
        check(&mut server);
    }
    service.stop();
}

#[test]
fn a_standby_of_postgres_17_follows_a_branch() {
    let started = Cluster::start_major(MAJOR, "branch17", &["-k"], &["autovacuum = off"]);
    let Some(cluster) = started else { return };
    let folder = Folder::new("branch17-ps");
    let service = Service::start(settings(folder.path(), cluster.socket()));
    service.wait_streaming();
    cluster.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i");
    service.wait_lsn(current_lsn(&cluster));
    service.branch("b", "main", "").expect("it can be made");
    cluster.sql("DROP TABLE t");

    let mut writer = copy(&service, "writer17", "-c howdah.branch=b", &["-X", "fetch"]);
    writer.serve(&["synchronous_standby_names=howdah"]);
    let socket = writer.socket().display().to_string();
    service.attach("b", &socket, None).expect("it was started there");
    writer.sql("INSERT INTO t SELECT i FROM generate_series(1001, 1500) i");
    let options = "-c howdah.branch=b -c howdah.replica=on";
    let mut standby = copy(&service, "standby17", options, &["-X", "fetch"]);
    let (host, port) = (service.address.ip(), service.address.port());
    standby.configure(&[
        &format!(
            "primary_conninfo = 'host={host} port={port} user=postgres options=''{options}'''"
        ),
        "wal_receiver_create_temp_slot = off",
        "wal_retrieve_retry_interval = 200ms",
    ]);
    standby.serve(&[]);
    assert_eq!(standby.sql("SELECT pg_is_in_recovery(), count(*) FROM t"), "t|1500");
    writer.sql("CREATE INDEX ON t (i); DELETE FROM t WHERE i <= 400");
    writer.sql("CHECKPOINT");
    writer.sql("VACUUM t");
    writer.sql("CREATE TABLE made AS SELECT i FROM t");
    let end: Lsn = service.end_of("b");
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
    while standby.sql(&replayed) != "t" {
        block_on(async { runtime::clock::sleep(std::time::Duration::from_millis(50)).await });
    }
    let both = "SELECT count(*), sum(i), (SELECT count(*) FROM made) FROM t";
    assert_eq!(standby.sql(both), "1100|1045550|1100");
    assert_eq!(standby.sql("SELECT timeline_id FROM pg_control_checkpoint()"), "1");
    let refused = standby.command("psql").args(["-d", "postgres", "-c", "DELETE FROM t"]).output();
    let refused = refused.expect("psql is installed");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("read-only"), "{refused:?}");
    standby.stop("fast");
    writer.stop("fast");
    writable::verify(&service, "b", writer.data());
    standby.run("pg_checksums", &["--check", "-D", &data_of(&standby)]);
    service.stop();
}
