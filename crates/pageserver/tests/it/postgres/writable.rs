//! Branches with WAL of their own: a stock server is started at a branch's end, attached, and writes.

use std::path::PathBuf;
use std::process::Stdio;

use pageserver::api::Phase;
use pageserver::client::Client;
use pageserver::settings::Settings;
use pageserver::verify;
use pg::lsn::Lsn;
use pg::wal::segment::SegmentName;

use crate::cluster::{Cluster, Folder};
use crate::postgres::{current_lsn, show};
use crate::service::{Service, block_on, settings};
use crate::tools::{Restored, Tools, succeed};

/// What a compute of a writable branch is started with.
const SYNCHRONOUS: &str = "-c synchronous_standby_names=howdah -c max_wal_senders=10";

/// A stock server at the end of a branch, in a folder of this name; it is not attached yet.
pub(crate) fn compute<'t>(
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
pub(crate) fn stop_and_verify(service: &Service, branch: &str, compute: &mut Restored<'_>) {
    compute.stop();
    verify(service, branch, compute.data.clone());
}

/// Compares a stopped server's files with what the page server has of the branch.
pub(crate) fn verify(service: &Service, branch: &str, data: PathBuf) {
    let login = service.login(branch);
    let report = block_on(async move {
        let client = Client::log_in(&login).await.expect("we are let in");
        verify::verify(&data, client, |_progress| {}).await.expect("it can be compared")
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

#[test]
fn of_two_computes_only_the_one_attached_last_has_commits_acknowledged() {
    let cluster = Cluster::start("fencing", &[], &["autovacuum = off"]);
    let (tools, folder) = (Tools::of(&cluster), Folder::new("fencing-ps"));
    let settings = settings(folder.path(), cluster.socket());
    let service = Service::start(settings.clone());
    service.wait_streaming();
    cluster.sql("CREATE TABLE t (i int)");
    service.wait_lsn(current_lsn(&cluster));
    service.branch("b", "main", "").expect("it can be made");
    cluster.sql("INSERT INTO t VALUES (0)");
    let one = compute((&cluster, &tools), &service, ("b", "one"));
    let two = compute((&cluster, &tools), &service, ("b", "two"));
    let refused = |socket: &str, epoch, why: &str| {
        let error = service.attach("b", socket, epoch).expect_err("it is refused");
        assert!(error.contains(why), "{error}");
    };
    refused(&cluster.socket(), None, "does not go on");
    refused("/nowhere/.s.PGSQL.1", None, "/nowhere");
    assert_eq!(service.writing("b").epoch, 0, "nothing of that counts");

    assert_eq!(service.attach("b", &one.socket(), None).expect("it is the first").epoch, 1);
    one.sql("INSERT INTO t VALUES (1)");
    refused(&two.socket(), None, "");
    refused(&two.socket(), Some(9), "");
    one.sql("INSERT INTO t VALUES (2)");
    refused(&one.socket(), Some(0), "epochs begin at 1");
    assert_eq!(service.attach("b", &one.socket(), Some(1)).expect("it has it").epoch, 1);
    one.sql("INSERT INTO t VALUES (3)");

    // From here on the first one hangs.
    service.detach("b");
    let mut hanging = one.client("psql");
    hanging.args(["-XqAt", "-d", "postgres", "-c", "INSERT INTO t VALUES (4) RETURNING i"]);
    hanging.stdout(Stdio::piped()).stderr(Stdio::null());
    let hanging = hanging.spawn().expect("psql is installed");
    let three = compute((&cluster, &tools), &service, ("b", "three"));
    assert_eq!(service.attach("b", &three.socket(), Some(5)).expect("it is next").epoch, 5);
    three.sql("INSERT INTO t VALUES (5)");
    refused(&one.socket(), Some(1), "is over: the newest is 5");
    while one.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") != "1" {}
    // What it has is less than what is here, or something else.
    refused(&one.socket(), None, "");
    three.sql("INSERT INTO t VALUES (6)");
    one.kill();
    let told = hanging.wait_with_output().expect("psql ends");
    assert_eq!(told.stdout, b"", "it was never told that row 4 is committed");
    service.kill();

    let service = Service::start(settings);
    service.wait_streaming();
    let error = service.attach("b", &three.socket(), Some(4)).expect_err("epochs are kept");
    assert!(error.contains("is over"), "{error}");
    three.sql("INSERT INTO t VALUES (7)");
    let rows = three.sql("SELECT string_agg(i::text, ',' ORDER BY i) FROM t");
    assert_eq!(rows, "1,2,3,5,6,7");
    two.kill();
    three.kill();
    service.stop();
}

#[test]
fn wal_of_a_branch_can_be_received_with_its_ancestors() {
    let cluster = Cluster::start("branchwal", &["--wal-segsize", "1"], &["wal_keep_size = 1GB"]);
    let (tools, folder) = (Tools::of(&cluster), Folder::new("branchwal-ps"));
    let service = Service::start(settings(folder.path(), cluster.socket()));
    service.wait_streaming();
    let first = cluster.sql("CREATE TABLE t (); SELECT pg_walfile_name(pg_switch_wal())");
    cluster.pgbench(&["-i", "-q", "-s", "1"]);
    service.wait_lsn(current_lsn(&cluster));
    service.branch("b", "main", "").expect("it can be made");
    cluster.pgbench(&["-c", "2", "-t", "200"]);
    let writer = compute((&cluster, &tools), &service, ("b", "writer"));
    let begin = service.attach("b", &writer.socket(), None).expect("it was started there").end;
    writer.sql("ALTER SYSTEM SET wal_keep_size = '1GB'");
    writer.sql("SELECT pg_reload_conf()");
    for _segment in 0..3 {
        writer.sql("CREATE TABLE IF NOT EXISTS u AS SELECT 1; INSERT INTO u SELECT * FROM generate_series(1, 3000)");
        writer.sql("SELECT pg_switch_wal()");
    }
    let end = writer.sql("INSERT INTO u VALUES (7) RETURNING pg_current_wal_insert_lsn()");
    let last = service.end_of("b");
    assert!(last > begin + (2 << 20), "{end}");
    let target = cluster.make_folder("received");
    let segment = cluster.data().join("pg_wal").join(&first);
    succeed(tools.shell(&format!("cp {} {}", segment.display(), target.display())));
    let mut receive = tools.towards("pg_receivewal", service.address);
    receive.arg("-D").arg(&target).args(["--no-loop", "--endpos", &last.to_string()]);
    receive.env("PGOPTIONS", "-c howdah.branch=b");
    succeed(receive);
    let branch_point = SegmentName::of(1, begin, 1 << 20).to_string();
    // Before the segment of the branch point, the ancestor's; from there on, the compute's.
    let compared = format!(
        "set -e; cd {target}; for f in *[0-9A-F]; do if [ $f \\< {branch_point} ]; then d={main}; else d={own}; fi; \
         cmp $f $d/pg_wal/$f; done; ls *[0-9A-F] | wc -l; \
         for f in *.partial; do mv $f ${{f%.partial}}; done; pg_waldump -q -p . {first} {after} -e {last}",
        target = target.display(),
        main = cluster.data().display(),
        own = writer.data.display(),
        after = SegmentName::of(1, last, 1 << 20),
    );
    let mut shell = tools.shell(&compared);
    shell.env("PATH", format!("{}:/usr/bin:/bin", crate::tools::BIN));
    let count: u32 = succeed(shell).trim().parse().expect("a number");
    assert!(count > 8, "{count} segments");
    writer.kill();
    service.stop();
}

#[test]
fn main_is_taken_over_by_a_compute_when_its_server_has_died() {
    let mut cluster = Cluster::start("takeover", &[], &["autovacuum = off"]);
    let (tools, folder) = (Tools::of(&cluster), Folder::new("takeover-ps"));
    let settings = settings(folder.path(), cluster.socket());
    let service = Service::start(settings.clone());
    service.wait_streaming();
    cluster.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i");
    service.wait_lsn(current_lsn(&cluster));
    cluster.stop("immediate");
    assert_eq!(service.writing("main").epoch, 0);
    let refused = service.attach("main", &cluster.socket(), None).expect_err("it has a server");
    assert!(refused.contains("follows the server of the settings"), "{refused}");
    let end = service.release_main().end;
    let first = compute((&cluster, &tools), &service, ("main", "first"));
    // The old server comes back too late: nobody follows it, and its WAL is none that goes on from what is here.
    cluster.run();
    let attached = service.attach("main", &first.socket(), None).expect("it was started there");
    assert_eq!((attached.epoch, attached.end), (2, end));
    first.sql("INSERT INTO t SELECT i FROM generate_series(1001, 1500) i");
    assert!(service.attach("main", &cluster.socket(), None).is_err(), "it has another history");
    first.kill();
    service.kill();
    let service = Service::start(settings);
    service.wait("the second start", |status| status.phase == Phase::Connecting);
    service.detach("main");
    let mut second = compute((&cluster, &tools), &service, ("main", "second"));
    assert_eq!(second.sql("SELECT count(*) FROM t"), "1500");
    assert_eq!(service.attach("main", &second.socket(), None).expect("it goes on").epoch, 3);
    second.sql("DELETE FROM t WHERE i % 2 = 0");
    stop_and_verify(&service, "main", &mut second);
    service.stop();
}

#[test]
fn a_branch_whose_ancestor_has_no_wal_there_any_more_is_written_by_its_own_compute_alone() {
    let cluster = Cluster::start("trimmed", &["--wal-segsize", "1"], &["wal_keep_size = 1GB"]);
    let (tools, folder) = (Tools::of(&cluster), Folder::new("trimmed-ps"));
    let settings = Settings {
        wal_keep_bytes: 0,
        collection_interval_ms: 50,
        checkpoint_timeout_ms: 500,
        ..settings(folder.path(), cluster.socket())
    };
    let service = Service::start(settings.clone());
    service.wait_streaming();
    cluster.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 100) i");
    let moment = current_lsn(&cluster);
    service.wait_lsn(moment);
    service.branch("b", "main", "").expect("it can be made");
    for _segment in 0..3 {
        cluster.sql("INSERT INTO t SELECT i FROM generate_series(1, 20000) i");
    }
    let oldest = || {
        let entries = std::fs::read_dir(folder.path().join("wal")).expect("there is WAL");
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.len() == 24).min()
    };
    let of_moment = SegmentName::of(1, moment, 1 << 20).to_string();
    service.wait("the WAL's removal", |_status| oldest().is_some_and(|name| name > of_moment));

    let first = compute((&cluster, &tools), &service, ("b", "first"));
    let refused = service.attach("b", &cluster.socket(), None).expect_err("it is main's");
    assert!(refused.contains("does not go on"), "{refused}");
    service.attach("b", &first.socket(), None).expect("it was started there");
    first.sql("DELETE FROM t WHERE i > 50; CREATE INDEX ON t (i)");
    first.kill();
    service.kill();
    let service = Service::start(settings);
    service.wait_streaming();
    service.detach("b");
    let mut second = compute((&cluster, &tools), &service, ("b", "second"));
    assert_eq!(second.sql("SELECT count(*) FROM t"), "50");
    service.attach("b", &second.socket(), None).expect("it goes on there");
    second.sql("INSERT INTO t VALUES (1)");
    stop_and_verify(&service, "b", &mut second);
    service.stop();
}
