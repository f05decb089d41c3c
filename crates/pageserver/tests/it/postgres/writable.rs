//! Branches with WAL of their own: a stock server is started at a branch's end, attached, and writes.

use std::path::PathBuf;

use pageserver::api::Phase;
use pageserver::client::Client;
use pageserver::verify::verify;
use pg::lsn::Lsn;

use crate::cluster::{Cluster, Folder};
use crate::postgres::{current_lsn, show};
use crate::service::{Service, block_on, settings};
use crate::tools::{Restored, Tools, succeed};

/// What a compute of a writable branch is started with.
const SYNCHRONOUS: &str = "-c synchronous_standby_names=howdah -c max_wal_senders=10";

/// A stock server at the end of a branch, in a folder of this name; it is not attached yet.
fn compute<'t>(
    (cluster, tools): (&Cluster, &'t Tools),
    service: &Service,
    (branch, name): (&str, &str),
) -> Restored<'t> {
    let target = cluster.make_folder(name).join("data");
    let mut backup = tools.towards("pg_basebackup", service.address);
    backup.arg("-D").arg(&target).args(["-X", "fetch"]);
    backup.env("PGOPTIONS", format!("-c howdah.branch={branch}"));
    succeed(backup);
    Restored::start(tools, &target, SYNCHRONOUS)
}

/// Stops a compute orderly, and compares its files with what the page server has of the branch.
fn stop_and_verify(service: &Service, branch: &str, compute: &mut Restored<'_>) {
    compute.stop();
    let (login, data): (_, PathBuf) = (service.login(branch), compute.data.clone());
    let report = block_on(async move {
        let client = Client::log_in(&login).await.expect("we are let in");
        verify(&data, client, |_progress| {}).await.expect("the cluster can be compared")
    });
    if !report.is_identical() {
        show(&report);
    }
    assert!(report.is_identical());
}

#[test]
fn a_branch_takes_up_what_its_computes_write_one_after_another() {
    let cluster = Cluster::start("writable", &[], &["autovacuum = off"]);
    let (tools, folder) = (Tools::of(&cluster), Folder::new("writable-ps"));
    let settings = settings(folder.path(), cluster.socket());
    let service = Service::start(settings.clone());
    service.wait_streaming();
    cluster.pgbench(&["-i", "-s", "1", "-q"]);
    cluster.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 100) i");
    let moment = current_lsn(&cluster);
    service.wait_lsn(moment);
    service.branch("b", "main", "").expect("it can be made");
    cluster.sql("INSERT INTO t SELECT i FROM generate_series(1, 50) i");
    cluster.pgbench(&["-c", "2", "-t", "100"]);
    service.wait_lsn(current_lsn(&cluster));
    let main = service.contents("main", Lsn::MAX).expect("main can be read");

    let mut first = compute((&cluster, &tools), &service, ("b", "first"));
    let attached = service.attach("b", &first.socket(), None).expect("it was started there");
    assert_eq!(attached.epoch, 1);
    assert!(attached.end >= moment);
    first.sql("INSERT INTO t SELECT i FROM generate_series(1, 7) i");
    first
        .client("pgbench")
        .args(["-n", "-c", "2", "-t", "100", "postgres"])
        .output()
        .expect("it runs");
    first.sql(
        "CREATE TABLE made AS SELECT i FROM generate_series(1, 5000) i; CREATE INDEX ON made (i)",
    );
    let writing = service.writing("b");
    assert_eq!((writing.epoch, writing.phase), (1, Some(Phase::Streaming)), "{writing:?}");
    // What was acknowledged is here.
    assert!(service.end_of("b") > attached.end);
    stop_and_verify(&service, "b", &mut first);
    let end = service.detach("b").end;
    assert!(service.contents("b", moment).expect("it can be read") != main);
    assert!(service.contents("main", Lsn::MAX).expect("main can be read") == main);

    // The second goes on where the first ended, and dies.
    let second = compute((&cluster, &tools), &service, ("b", "second"));
    assert_eq!(second.sql("SELECT count(*) FROM t"), "107");
    assert_eq!(service.attach("b", &second.socket(), None).expect("it goes on there").end, end);
    second.sql("DELETE FROM t WHERE i > 50");
    let twig = service.end_of("b");
    second.sql("INSERT INTO t VALUES (1000)");
    second.kill();
    let end = service.detach("b").end;
    service.branch("twig", "b", &twig.to_string()).expect("a branch can have branches");
    service.kill();

    // A page server that was killed has all of it.
    let service = Service::start(settings);
    service.wait_streaming();
    assert_eq!(service.end_of("b"), end);
    let mut third = compute((&cluster, &tools), &service, ("b", "third"));
    assert_eq!(third.sql("SELECT count(*), max(i) FROM t"), "58|1000");
    assert_eq!(service.attach("b", &third.socket(), None).expect("it goes on there").epoch, 3);
    let mut other = compute((&cluster, &tools), &service, ("twig", "other"));
    assert_eq!(other.sql("SELECT count(*), max(i) FROM t"), "57|50");
    assert_eq!(
        service.attach("twig", &other.socket(), None).expect("it was started there").epoch,
        1
    );
    for sql in ["INSERT INTO t SELECT 2000; DROP TABLE made", "VACUUM t"] {
        other.sql(sql);
    }
    for sql in ["INSERT INTO t SELECT 3000; UPDATE made SET i = i + 1", "VACUUM made"] {
        third.sql(sql);
    }
    stop_and_verify(&service, "b", &mut third);
    stop_and_verify(&service, "twig", &mut other);
    assert!(service.delete_branch("b").is_err(), "the twig comes from it");
    service.delete_branch("twig").expect("nothing comes from it");
    service.delete_branch("b").expect("nothing comes from it any more");
    service.stop();
}
