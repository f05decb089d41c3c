//! Branches: as the timeline that they come from was, whatever that does afterwards.

use pageserver::client::ClientError;
use pg::lsn::Lsn;

use crate::cluster::{Cluster, Folder};
use crate::postgres::current_lsn;
use crate::service::{Service, settings};

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
