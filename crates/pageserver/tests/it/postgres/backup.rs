//! `pg_basebackup` and `pg_receivewal` against the page service, and stock servers on what they bring.

use std::path::Path;
use std::time::Duration;

use pg::lsn::Lsn;
use runtime::clock;

use crate::cluster::{Cluster, Folder};
use crate::postgres::current_lsn;
use crate::service::{Service, block_on, settings};
use crate::tools::{Restored, Tools, fail, succeed};

/// `pg_basebackup` of a moment into `target`.
pub(super) fn back_up(
    tools: &Tools,
    service: &Service,
    lsn: Option<Lsn>,
    target: &Path,
    more: &[&str],
) {
    let mut backup = tools.towards("pg_basebackup", service.address);
    backup.arg("-D").arg(target).args(more);
    if let Some(lsn) = lsn {
        backup.env("PGOPTIONS", format!("-c howdah.lsn={lsn}"));
    }
    succeed(backup);
}

fn verify(tools: &Tools, target: &Path) {
    tools.run("pg_verifybackup", &[&target.display().to_string()]);
}

#[test]
fn a_base_backup_starts_without_recovery_and_is_the_cluster() {
    let cluster = Cluster::start("backup", &["-k"], &["autovacuum = off"]);
    let (tools, folder) = (Tools::of(&cluster), Folder::new("backup-ps"));
    let service = Service::start(settings(folder.path(), cluster.socket()));
    service.wait_streaming();
    cluster.sql("CREATE TABLE t (i int PRIMARY KEY, s text)");
    cluster.sql("INSERT INTO t SELECT i, repeat('x', i % 100) FROM generate_series(1, 5000) i");
    cluster.sql("CREATE UNLOGGED TABLE u (i int PRIMARY KEY); INSERT INTO u VALUES (1)");
    cluster.sql("CREATE DATABASE other");
    cluster.sql_in("other", "CREATE TABLE o AS SELECT 1 AS one");
    let lsn = current_lsn(&cluster);
    service.wait_lsn(lsn);
    cluster.sql("DELETE FROM t WHERE i > 10");
    for (name, more) in [
        ("fetch", &["-X", "fetch", "--manifest-checksums", "SHA256"][..]),
        ("stream", &["-X", "stream", "-P", "-c", "fast"]),
    ] {
        let target = cluster.make_folder(name).join("data");
        back_up(&tools, &service, Some(lsn), &target, more);
        verify(&tools, &target);
        let restored = Restored::start(&tools, &target, "");
        assert!(restored.log().contains("was shut down at"), "{}", restored.log());
        assert!(!restored.log().contains("redo"), "{}", restored.log());
        assert_eq!(restored.sql("SELECT count(*), sum(length(s)) FROM t"), "5000|247500");
        assert_eq!(restored.sql("SELECT count(*) FROM u"), "0");
        assert_eq!(restored.sql("INSERT INTO u VALUES (2) RETURNING i"), "2");
        restored.check();
    }
    service.stop();
}

/// A base backup that takes longer than any test, until it is dropped.
struct Slow(std::process::Child);

impl Slow {
    fn begin(tools: &Tools, service: &Service, lsn: Option<Lsn>, target: &Path, wal: &str) -> Slow {
        let mut backup = tools.towards("pg_basebackup", service.address);
        backup.arg("-D").arg(target).args(["-X", wal, "--max-rate", "32"]);
        if let Some(lsn) = lsn {
            backup.env("PGOPTIONS", format!("-c howdah.lsn={lsn}"));
        }
        let slow = Slow(backup.spawn().expect("the program is installed"));
        let begun = target.join("PG_VERSION");
        for _attempt in 0..600 {
            if begun.exists() {
                return slow;
            }
            block_on(async { clock::sleep(Duration::from_millis(100)).await });
        }
        panic!("the base backup does not begin");
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

#[test]
fn a_backup_of_now_is_not_that_of_another_moment_under_way() {
    let cluster = Cluster::start("nowadays", &[], &[]);
    let (tools, folder) = (Tools::of(&cluster), Folder::new("nowadays-ps"));
    let service = Service::start(settings(folder.path(), cluster.socket()));
    service.wait_streaming();
    cluster.sql("CREATE TABLE t (i int)");
    let earlier = current_lsn(&cluster);
    service.wait_lsn(earlier);
    for (name, lsn, wal) in [("named", Some(earlier), "stream"), ("latest", None, "fetch")] {
        let slow = cluster.make_folder(&format!("slow-{name}")).join("data");
        let _slow = Slow::begin(&tools, &service, lsn, &slow, wal);
        cluster.sql("INSERT INTO t VALUES (1)");
        let target = cluster.make_folder(name).join("data");
        back_up(&tools, &service, None, &target, &["-X", wal]);
        let restored = Restored::start(&tools, &target, "");
        assert_eq!(restored.sql("SELECT count(*) FROM t"), cluster.sql("SELECT count(*) FROM t"));
    }
    service.stop();
}

/// The primary's own recovery to the same position, from a base backup and all of its WAL. ("Inclusive" would be the
/// record that begins there, too.)
pub(super) fn recovered<'t>(
    tools: &'t Tools,
    (base, wal): (&Path, &Path),
    lsn: Lsn,
    folder: &Path,
) -> Restored<'t> {
    let data = folder.join("data");
    let (from, to) = (base.display(), data.display());
    succeed(tools.shell(&format!("cp -a {from} {to} && touch {to}/recovery.signal")));
    let settings = format!(
        "-c \"restore_command=cp {}/%f %p\" -c recovery_target_lsn={lsn} \
         -c recovery_target_inclusive=off -c recovery_target_action=promote",
        wal.display()
    );
    let restored = Restored::start(tools, &data, &settings);
    restored.wait_for_promotion();
    restored
}

#[test]
fn a_moment_under_load_is_what_the_primarys_own_recovery_brings() {
    let cluster = Cluster::start(
        "moments",
        &["-k", "--wal-segsize", "1"],
        &["max_prepared_transactions = 10", "track_commit_timestamp = on", "wal_keep_size = 4GB"],
    );
    let (tools, folder) = (Tools::of(&cluster), Folder::new("moments-ps"));
    let service = Service::start(settings(folder.path(), cluster.socket()));
    service.wait_streaming();
    cluster.pgbench(&["-i", "-q", "-s", "1"]);
    cluster.sql("CREATE TABLE locked (i int PRIMARY KEY); INSERT INTO locked VALUES (1)");
    let base = cluster.make_folder("base").join("data");
    let mut backup = tools.command("pg_basebackup");
    backup
        .arg("-h")
        .arg(cluster.data().parent().expect("it is in a folder"))
        .arg("-D")
        .arg(&base)
        .args(["-c", "fast"]);
    succeed(backup);
    let mut moments = Vec::new();
    for round in 0..3 {
        cluster.pgbench(&["-c", "4", "-j", "2", "-t", "50"]);
        cluster.sql(&format!(
            "BEGIN; INSERT INTO locked VALUES ({}); PREPARE TRANSACTION 'p{round}'",
            round + 10
        ));
        cluster.sql(&format!(
            "CREATE TABLE made{round} AS SELECT i FROM generate_series(1, 500) i; \
             CREATE INDEX ON made{round} (i); DELETE FROM made{round} WHERE i % 3 = 0"
        ));
        cluster.sql(&format!("VACUUM made{round}"));
        if round == 1 {
            cluster.sql("COMMIT PREPARED 'p0'");
            cluster.sql("CHECKPOINT");
            cluster.sql("VACUUM FULL pg_class");
            cluster.sql("CREATE DATABASE beside");
            cluster.sql_in("beside", "CREATE TABLE b AS SELECT 1 AS one");
        }
        moments.push(current_lsn(&cluster));
    }
    service.wait_lsn(moments[2]);
    cluster.sql("CREATE TABLE later ()");
    cluster.sql("SELECT pg_switch_wal()");
    let wal = cluster.make_folder("wal");
    let copied = format!("cp {}/pg_wal/0000* {}", cluster.data().display(), wal.display());
    succeed(tools.shell(&copied));
    for (number, lsn) in moments.into_iter().enumerate() {
        let target = cluster.make_folder(&format!("restored{number}")).join("data");
        back_up(&tools, &service, Some(lsn), &target, &["-X", "fetch"]);
        verify(&tools, &target);
        let ours = Restored::start(&tools, &target, "");
        let folder = cluster.make_folder(&format!("recovered{number}"));
        let theirs = recovered(&tools, (&base, &wal), lsn, &folder);
        assert_eq!(ours.dump(), theirs.dump(), "as of {lsn}");
        for sql in [
            "SELECT gid, transaction FROM pg_prepared_xacts ORDER BY gid",
            "SELECT xmin, pg_xact_commit_timestamp(xmin) FROM locked ORDER BY i",
            "SELECT count(*) FROM pgbench_history",
        ] {
            assert_eq!(ours.sql(sql), theirs.sql(sql), "{sql} as of {lsn}");
        }
        let prepared = ours.sql("SELECT string_agg(gid, ',' ORDER BY gid) FROM pg_prepared_xacts");
        assert_eq!(prepared, ["p0", "p1", "p1,p2"][number]);
        // One that stays would keep amcheck waiting for its locks.
        prepared.split(',').for_each(|gid| drop(ours.sql(&format!("COMMIT PREPARED '{gid}'"))));
        drop(theirs);
        // Once: it takes longer than all the rest.
        if number == 2 {
            ours.check();
        }
    }
    service.stop();
}

#[test]
fn archives_and_tablespaces_of_the_latest_moment_are_whole() {
    let cluster = Cluster::start("spaces", &[], &[]);
    let (tools, folder) = (Tools::of(&cluster), Folder::new("spaces-ps"));
    let space = cluster.make_folder("space");
    let service = Service::start(settings(folder.path(), cluster.socket()));
    service.wait_streaming();
    cluster.sql(&format!("CREATE TABLESPACE s LOCATION '{}'", space.display()));
    cluster.sql("CREATE TABLE t TABLESPACE s AS SELECT i FROM generate_series(1, 3000) i");
    cluster.sql("CREATE DATABASE d TABLESPACE s");
    cluster.sql("ALTER TABLE t SET TABLESPACE pg_default; ALTER TABLE t SET TABLESPACE s");
    service.wait_lsn(current_lsn(&cluster));
    let target = cluster.make_folder("plain").join("data");
    let elsewhere = cluster.make_folder("elsewhere");
    let mapping = format!("{}={}", space.display(), elsewhere.display());
    back_up(&tools, &service, None, &target, &["-X", "stream", "-T", &mapping]);
    verify(&tools, &target);
    let restored = Restored::start(&tools, &target, "");
    assert_eq!(restored.sql("SELECT count(*) FROM t"), "3000");
    restored.check();
    for (name, method) in [("tars", "stream"), ("tarf", "fetch")] {
        let target = cluster.make_folder(name).join("tar");
        back_up(&tools, &service, None, &target, &["-X", method, "-F", "tar"]);
        let data = cluster.make_folder(&format!("{name}-data")).join("data");
        let place = cluster.make_folder(&format!("{name}-space"));
        let (data_name, tar) = (data.display(), target.display());
        succeed(tools.shell(&format!(
            "set -e; mkdir -m 700 {data_name}; tar -xf {tar}/base.tar -C {data_name}; \
             for f in {tar}/[0-9]*.tar; do oid=$(basename $f .tar); tar -xf $f -C {place}; \
             ln -sfn {place} {data_name}/pg_tblspc/$oid; done; \
             test ! -e {tar}/pg_wal.tar || tar -xf {tar}/pg_wal.tar -C {data_name}/pg_wal",
            place = place.display()
        )));
        let restored = Restored::start(&tools, &data, "");
        assert_eq!(restored.sql("SELECT count(*) FROM t"), "3000", "{name}");
        restored.check();
    }
    service.stop();
}

#[test]
fn received_wal_is_the_servers() {
    let cluster = Cluster::start("receive", &["--wal-segsize", "1"], &["wal_keep_size = 1GB"]);
    let (tools, folder) = (Tools::of(&cluster), Folder::new("receive-ps"));
    let service = Service::start(settings(folder.path(), cluster.socket()));
    service.wait_streaming();
    let first = cluster.sql("CREATE TABLE t (); SELECT pg_walfile_name(pg_switch_wal())");
    cluster.pgbench(&["-i", "-q", "-s", "1"]);
    let end = current_lsn(&cluster);
    service.wait_lsn(end);
    let target = cluster.make_folder("received");
    // It goes on behind the last whole segment that it finds.
    let segment = cluster.data().join("pg_wal").join(first);
    succeed(tools.shell(&format!("cp {} {}", segment.display(), target.display())));
    let mut receive = tools.towards("pg_receivewal", service.address);
    receive.arg("-D").arg(&target).args(["--no-loop", "--endpos", &end.to_string()]);
    succeed(receive);
    let compared = format!(
        "set -e; n=0; for f in {}/*[0-9A-F]; do cmp $f {}/pg_wal/$(basename $f); n=$((n+1)); done; echo $n",
        target.display(),
        cluster.data().display()
    );
    let count: u32 = succeed(tools.shell(&compared)).trim().parse().expect("a number");
    assert!(count > 5, "{count} segments");
    let mut slot = tools.towards("pg_receivewal", service.address);
    slot.arg("-D").arg(&target).args(["--create-slot", "--slot", "permanent"]);
    assert!(fail(slot).contains("temporary physical replication slots only"));
    let mut ahead = tools.towards("pg_basebackup", service.address);
    ahead.arg("-D").arg(target.join("none")).env("PGOPTIONS", "-c howdah.lsn=0/1");
    assert!(fail(ahead).contains("is older than the base backup"));
    service.stop();
}
