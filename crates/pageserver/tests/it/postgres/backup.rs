//! `pg_basebackup` and `pg_receivewal` against the page service, and stock servers on what they bring.

use std::path::Path;

use pg::lsn::Lsn;

use crate::cluster::{Cluster, Folder};
use crate::postgres::current_lsn;
use crate::service::{Service, settings};
use crate::tools::{Restored, Tools, fail, succeed};

/// `pg_basebackup` of a moment into `target`.
fn back_up(tools: &Tools, service: &Service, lsn: Option<Lsn>, target: &Path, more: &[&str]) {
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
