//! Branches: as the timeline that they come from was, whatever that does afterwards.

use pageserver::branches::Present;
use pageserver::client::ClientError;
use pageserver::settings::Settings;
use pg::lsn::Lsn;

use crate::cluster::{Cluster, Folder};
use crate::postgres::current_lsn;
use crate::service::{Service, settings};
use crate::tools::{Restored, Tools, succeed};

/// A cluster under way, followed: with what happens before and after a moment that is told.
fn eventful(cluster: &Cluster, service: &Service) -> Lsn {
    cluster.pgbench(&["-i", "-s", "1", "-q"]);
    cluster.sql("CREATE TABLE dropped AS SELECT i FROM generate_series(1, 1000) i");
    cluster.sql("CREATE TABLE cut AS SELECT i FROM generate_series(1, 5000) i");
    cluster.pgbench(&["-c", "2", "-t", "200"]);
    cluster.sql("SELECT pg_create_restore_point('the moment')");
    let moment = current_lsn(cluster);
    cluster.sql("DROP TABLE dropped; TRUNCATE cut");
    cluster.sql("VACUUM FULL pgbench_tellers");
    cluster.sql("CREATE TABLE later AS SELECT i FROM generate_series(1, 1000) i");
    cluster.sql("CREATE DATABASE another STRATEGY file_copy");
    cluster.pgbench(&["-c", "2", "-t", "200"]);
    service.wait_lsn(current_lsn(cluster));
    moment
}

#[test]
fn a_branch_is_as_its_moment_was_and_stays_so() {
    let cluster = Cluster::start("branches", &[], &[]);
    let folder = Folder::new("branches-ps");
    let settings = settings(folder.path(), cluster.socket());
    let service = Service::start(settings.clone());
    service.wait_streaming();
    let moment = eventful(&cluster, &service);
    service.branch("early", "main", &moment.to_string()).expect("the moment is kept");
    let then = service.contents("main", moment).expect("main can be read");
    assert!(then.len() > 500, "{} relations", then.len());
    assert!(service.contents("early", Lsn::MAX).expect("the branch can be read") == then);
    let latest = current_lsn(&cluster);
    service.wait_lsn(latest);
    let now = service.contents("main", latest).expect("main can be read");
    assert!(now != then);

    service.branch("named", "main", "the moment").expect("the restore point is known");
    service.branch("twig", "early", "").expect("a branch can have branches");
    service.branch("late", "main", &latest.to_string()).expect("the latest moment will do");
    service.branch("latest", "main", "").expect("it need not be said");
    assert!(service.contents("twig", moment).expect("the twig can be read") == then);
    cluster.pgbench(&["-c", "2", "-t", "100"]);
    service.wait_lsn(current_lsn(&cluster));
    assert!(service.contents("late", Lsn::MAX).expect("the branch can be read") == now);
    assert!(service.branch("early", "main", "").is_err(), "there is one of this name");
    assert!(service.branch("x", "nowhere", "").is_err());
    assert!(service.branch("x", "main", "no such point").is_err());
    assert!(service.branch("x", "main", "0/1").is_err(), "that is before the base backup");
    assert!(service.branch("x", "early", "FFFF/0").is_err(), "that is to come");
    assert!(service.branch("../x", "main", "").is_err());
    service.kill();

    let service = Service::start(settings);
    service.wait_streaming();
    assert!(service.contents("named", Lsn::MAX).is_ok());
    assert!(service.contents("early", Lsn::MAX).expect("it is still there") == then);
    assert!(service.contents("twig", Lsn::MAX).expect("it is still there") == then);
    assert!(service.delete_branch("early").is_err(), "the twig comes from it");
    assert!(service.delete_branch("main").is_err());
    service.delete_branch("twig").expect("nothing comes from it");
    service.delete_branch("early").expect("nothing comes from it any more");
    match service.contents("early", Lsn::MAX) {
        Err(ClientError::Connection(error)) => assert!(error.to_string().contains("early")),
        other => panic!("it is still read: {:?}", other.map(|contents| contents.len())),
    }
    assert!(service.contents("late", Lsn::MAX).expect("it is still there") == now);
    service.stop();
}

#[test]
fn a_time_is_a_moment_too() {
    let cluster = Cluster::start("times", &[], &["autovacuum = off"]);
    let folder = Folder::new("times-ps");
    let service = Service::start(settings(folder.path(), cluster.socket()));
    service.wait_streaming();
    cluster.sql("CREATE TABLE t AS SELECT 1 AS one");
    cluster.sql("SELECT pg_sleep(1.1)");
    cluster.sql("INSERT INTO t VALUES (2)");
    let between = current_lsn(&cluster);
    let time = "to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let time = cluster.sql(&format!("SELECT {time}"));
    cluster.sql("SELECT pg_sleep(1.1)");
    cluster.sql("INSERT INTO t VALUES (3)");
    service.wait_lsn(current_lsn(&cluster));
    service.branch("then", "main", &time).expect("the time is known");
    let then = service.contents("then", Lsn::MAX).expect("the branch can be read");
    assert!(then == service.contents("main", between).expect("main can be read"));
    assert!(service.branch("x", "main", "1999-01-01T00:00:00Z").is_err());
    service.stop();
}

/// The rows of `t` in a server that is restored from a branch, or from the latest that is to be had.
fn rows_of(cluster: &Cluster, service: &Service, branch: &str, folder: &str) -> u32 {
    let tools = Tools::of(cluster);
    let target = cluster.make_folder(folder).join("data");
    let mut backup = tools.towards("pg_basebackup", service.address);
    backup.arg("-D").arg(&target).args(["-X", "fetch"]);
    backup.env("PGOPTIONS", format!("-c howdah.branch={branch}"));
    succeed(backup);
    let restored = Restored::start(&tools, &target, "");
    restored.sql("SELECT count(*) FROM t").parse().expect("a number")
}

#[test]
fn a_branch_of_now_has_everything_that_was_committed() {
    let cluster = Cluster::start("present", &[], &["autovacuum = off"]);
    cluster.sql("CREATE TABLE t (i int, filler text)");
    let folder = Folder::new("present-ps");
    let service = Service::start(settings(folder.path(), cluster.socket()));
    service.wait_streaming();
    for round in 1..=40 {
        // What is much is still on its way when it is committed.
        let rows = if round % 2 == 0 { 20_000 } else { 1 };
        let rows = format!("SELECT i, repeat(md5(i::text), 9) FROM generate_series(1, {rows}) i");
        cluster.sql(&format!("INSERT INTO t {rows}"));
        let committed: Lsn =
            cluster.sql("SELECT pg_current_wal_flush_lsn()").parse().expect("an LSN");
        let name = format!("b{round}");
        let present = service.branch(&name, "main", if round % 3 == 0 { "now" } else { "" });
        assert_eq!(present.expect("the server is there"), Present::Whole, "round {round}");
        // Whole pages may be flushed in the middle of a record.
        let end = service.end_of(&name);
        assert!(
            end >= committed || committed.0.is_multiple_of(8192),
            "round {round}: {end} {committed}"
        );
    }
    let all: u32 = cluster.sql("SELECT count(*) FROM t").parse().expect("a number");
    assert_eq!(rows_of(&cluster, &service, "b40", "b40"), all);
    for more in 1..=3 {
        let rows = "SELECT i, repeat(md5(i::text), 9) FROM generate_series(1, 20000) i";
        cluster.sql(&format!("INSERT INTO t {rows}"));
        let backup = format!("now{more}");
        assert_eq!(rows_of(&cluster, &service, "main", &backup), all + more * 20_000);
    }
    service.stop();
}

#[test]
fn a_branch_of_now_waits_for_what_was_committed_or_is_not_made() {
    let cluster = Cluster::start("stalled", &[], &["autovacuum = off"]);
    let (tools, folder) = (Tools::of(&cluster), Folder::new("stalled-ps"));
    cluster.sql("CREATE TABLE t (i int)");
    let settings =
        Settings { wait_lsn_timeout_ms: 3000, ..settings(folder.path(), cluster.socket()) };
    let service = Service::start(settings);
    service.wait_streaming();
    // The process that sends the WAL stands still; the server answers all others.
    let sender = cluster.sql("SELECT active_pid FROM pg_replication_slots");
    succeed(tools.shell(&format!("kill -STOP {sender}")));
    cluster.sql("INSERT INTO t VALUES (1)");
    let committed = current_lsn(&cluster);
    let refused = service.branch("b", "main", "now").expect_err("the row does not come");
    assert!(refused.contains("has not arrived yet"), "{refused}");
    succeed(tools.shell(&format!("kill -CONT {sender}")));
    service.wait_lsn(committed);
    let present = service.branch("b", "main", "now").expect("it was not made before");
    assert_eq!(present, Present::Whole);
    assert!(service.end_of("b") >= committed);
    service.stop();
}

#[test]
fn a_branch_of_now_without_the_server_is_of_the_newest_that_came_and_says_so() {
    let mut cluster = Cluster::start("absent", &[], &[]);
    let folder = Folder::new("absent-ps");
    let service = Service::start(settings(folder.path(), cluster.socket()));
    service.wait_streaming();
    cluster.sql("CREATE TABLE t AS SELECT 1 AS one");
    let early = current_lsn(&cluster);
    service.branch("before", "main", &early.to_string()).expect("what has not come is waited for");
    cluster.stop("fast");
    let newest = service.end_of("main");
    assert!(newest > early);
    match service.branch("alone", "main", "").expect("the newest will do") {
        Present::Away(why) => assert!(why.contains(&newest.to_string()), "{why}"),
        Present::Whole => panic!("nobody could be asked"),
    }
    assert_eq!(service.end_of("alone"), newest);
    let present = service.branch("named", "main", &early.to_string());
    assert_eq!(present.expect("it is here"), Present::Whole, "nobody had to be asked");
    assert!(service.branch("x", "main", "FFFF/0").is_err(), "that is to come");
    service.stop();
}
