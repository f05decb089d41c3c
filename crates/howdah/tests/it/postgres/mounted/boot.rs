//! Booting: at the end of a branch and at moments of the past, without recovery, with what was there then.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::compute::{Compute, as_of, branch, can_mount, is_alive, writer};
use crate::instance::{Folder, Instance};

/// What a table has, in the order in which it lies there.
const SUM: &str = "SELECT count(*), md5(string_agg(t::text, ',' ORDER BY ctid)) FROM t";

#[test]
fn a_compute_has_what_the_primary_had_then() {
    if !can_mount() {
        return;
    }
    let folder = Folder::new();
    let instance = Instance::start(&folder, "");
    instance.sql("CREATE TABLE t (i int PRIMARY KEY, filler text)");
    instance.sql("INSERT INTO t SELECT i, repeat('x', i % 300) FROM generate_series(1, 5000) i");
    let mut moments = Vec::new();
    for round in 0..3 {
        instance.sql(&format!("UPDATE t SET filler = filler || 'r{round}' WHERE i % 7 = {round}"));
        instance.sql(&format!("DELETE FROM t WHERE i % 50 = {round}"));
        moments.push((instance.sql("SELECT pg_current_wal_flush_lsn()"), instance.sql(SUM)));
        instance.sql("VACUUM t");
    }
    instance.sql("TRUNCATE t");
    for (number, (lsn, sum)) in moments.iter().enumerate() {
        let compute = as_of(&instance, &folder, lsn, &format!("c{number}"));
        assert_eq!(compute.sql(SUM), *sum, "as of {lsn}");
        assert_eq!(compute.sql("SELECT pg_is_in_recovery()"), "f");
        let said = compute.stop();
        assert!(said.contains("database system was shut down at"), "{said}");
        for word in ["recovery", "redo", "PANIC"] {
            assert!(!said.contains(word), "\"{word}\" in {said}");
        }
    }
}

#[test]
fn files_belong_to_the_server_alone_and_nothing_is_left_behind() {
    if !can_mount() {
        return;
    }
    let folder = Folder::new();
    let instance = Instance::start(&folder, "");
    let lsn = instance.sql("SELECT pg_current_wal_flush_lsn()");
    let compute = as_of(&instance, &folder, &lsn, "c");
    let server = std::fs::metadata(format!("/proc/{}", compute.postgres_pid())).expect("it runs");
    assert_ne!(server.uid(), 0, "Postgres never runs as root");
    let root = std::fs::metadata(compute.directory.join("data")).expect("outside it is there");
    assert_eq!(std::fs::read_dir(compute.directory.join("data")).expect("ours").count(), 0);
    let uid = server.uid();
    let look = "CREATE TABLE seen (line text); \
                COPY seen FROM PROGRAM 'stat -c \"%u %a\" . base/1 PG_VERSION global/1262'";
    compute.sql(look);
    let expected = format!("{uid} 700\n{uid} 700\n{uid} 600\n{uid} 600");
    assert_eq!(compute.sql("SELECT line FROM seen"), expected);
    assert_eq!(compute.sql("SHOW data_directory_mode"), "0700");
    assert_eq!(root.permissions().mode() & 0o777, 0o700);
    let (directory, postgres) = (compute.directory.clone(), compute.postgres_pid());
    compute.stop();
    assert!(!is_alive(Some(postgres)));
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("it is there");
    assert!(!mounts.contains(&directory.display().to_string()), "{mounts}");
}

#[test]
fn a_branch_goes_on_from_one_compute_to_the_next() {
    if !can_mount() {
        return;
    }
    let folder = Folder::new();
    let instance = Instance::start(&folder, "");
    instance.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i");
    branch(&instance, "b");
    let first = writer(&instance, &folder, "b", "c1");
    first.sql("INSERT INTO t SELECT i FROM generate_series(1, 500) i");
    first.sql("CREATE INDEX ON t (i)");
    first.pgbench(&["-i", "-q", "-s", "1"]);
    first.pgbench(&["-n", "-c", "4", "-t", "50"]);
    first.stop();
    let second = writer(&instance, &folder, "b", "c2");
    assert_eq!(second.sql("SELECT count(*) FROM t"), "1500");
    assert_eq!(second.sql("SELECT count(*) FROM pgbench_history"), "200");
    let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)";
    assert_eq!(second.sql(sums), "t");
    second.check();
    second.stop();
    assert_eq!(instance.sql("SELECT count(*) FROM t"), "1000");
}

#[test]
fn a_start_remembers_what_it_reads_for_the_next() {
    if !can_mount() {
        return;
    }
    let folder = Folder::new();
    let instance = Instance::start(&folder, "");
    // Where whoever the server runs as may write.
    let file = folder.path().join("data/boot-set");
    let arguments =
        ["--branch", "main", "--ephemeral", "--boot-set", file.to_str().expect("ASCII")];
    let first = Compute::start(&instance, &folder, "c1", &arguments);
    let asked = first.sql("SELECT count(*) FROM pg_class");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while !file.exists() {
        assert!(std::time::Instant::now() < deadline, "nothing is remembered: {}", first.log());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let remembered = std::fs::read_to_string(&file).expect("it is there");
    assert!(remembered.contains(" 1259 0 0"), "pg_class is read by every start: {remembered}");
    first.stop();
    let second = Compute::start(&instance, &folder, "c2", &arguments);
    assert_eq!(second.sql("SELECT count(*) FROM pg_class"), asked);
    second.check();
    second.stop();
}
