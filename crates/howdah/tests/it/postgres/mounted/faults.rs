//! Things that go wrong around a mount. Nothing hangs, nothing wrong is answered, and it can go on.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::compute::{Compute, as_of, branch, can_mount, is_alive, kill, writer};
use crate::instance::{Folder, Instance};

#[test]
fn a_killed_mount_takes_its_server_along_and_another_compute_starts_in_its_place() {
    if !can_mount() {
        return;
    }
    let folder = Folder::new();
    let instance = Instance::start(&folder, "");
    branch(&instance, "b");
    let mut compute = writer(&instance, &folder, "b", "c");
    compute.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 50000) i");
    // Somebody is in the middle of reading and writing.
    let mut busy = compute
        .command("pgbench")
        .args(["-i", "-s", "5", "-q", "postgres"])
        .spawn()
        .expect("pgbench runs");
    let postgres = Some(compute.postgres_pid());
    compute.signal("-KILL");
    compute.ended();
    busy.wait().expect("the client ends");
    wait_until_gone(postgres);
    let again = writer(&instance, &folder, "b", "c");
    assert_eq!(again.sql("SELECT count(*), sum(i) FROM t"), "50000|1250025000");
    again.check();
    again.stop();
}

fn wait_until_gone(pid: Option<u64>) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while is_alive(pid) {
        assert!(std::time::Instant::now() < deadline, "the server hangs");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn a_compute_ends_when_its_server_dies() {
    if !can_mount() {
        return;
    }
    let folder = Folder::new();
    let instance = Instance::start(&folder, "");
    let lsn = instance.sql("SELECT pg_current_wal_flush_lsn()");
    let mut compute = as_of(&instance, &folder, &lsn, "c");
    kill("-KILL", compute.postgres_pid());
    let status = compute.ended();
    assert_eq!(status.code(), Some(1), "{}", compute.log());
    assert!(compute.log().contains("the server ended"), "{}", compute.log());
    drop(compute);
    as_of(&instance, &folder, &lsn, "c").stop();
}

#[test]
fn two_computes_do_not_share_a_directory() {
    if !can_mount() {
        return;
    }
    let folder = Folder::new();
    let instance = Instance::start(&folder, "");
    let lsn = instance.sql("SELECT pg_current_wal_flush_lsn()");
    let compute = as_of(&instance, &folder, &lsn, "c");
    let second = Compute::try_start(&instance, &compute.directory, &["--branch", "main"]);
    let said = second.err().expect("the directory is taken");
    assert!(said.contains("another compute runs in"), "{said}");
    assert_eq!(compute.sql("SELECT 1"), "1");
    compute.stop();
}

#[test]
fn what_the_page_server_refuses_is_said() {
    if !can_mount() {
        return;
    }
    let folder = Folder::new();
    let instance = Instance::start(&folder, "");
    let start = |name: &str, arguments: &[&str]| {
        let started = Compute::try_start(&instance, &folder.path().join(name), arguments);
        started.err().expect("it cannot start")
    };
    let said = start("c1", &["--branch", "nowhere"]);
    assert!(said.contains("branch \"nowhere\" does not exist"), "{said}");
    let said = start("c2", &["--branch", "main", "--lsn", "0/28"]);
    assert!(said.contains("error"), "{said}");
}

#[test]
fn a_compute_waits_for_a_page_server_that_is_away() {
    if !can_mount() {
        return;
    }
    let folder = Folder::new();
    let instance = Instance::start(&folder, "");
    let service = instance.facts["page_service"].as_str().expect("it listens").to_owned();
    instance
        .sql("CREATE TABLE t AS SELECT i, repeat('x', 100) b FROM generate_series(1, 100000) i");
    let sum = instance.sql("SELECT sum(i), sum(length(b)) FROM t");
    let lsn = instance.sql("SELECT pg_current_wal_flush_lsn()");
    let compute = as_of(&instance, &folder, &lsn, "c");
    let (ended, _log) = instance.stop("-INT");
    assert!(ended.success());
    let query = ["-XAtq", "-d", "postgres", "-c", "SELECT sum(i), sum(length(b)) FROM t"];
    let waiting = compute
        .command("psql")
        .args(query)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("psql runs");
    let asking = "no page server; asking again";
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while !compute.log().contains(asking) {
        assert!(std::time::Instant::now() < deadline, "it does not notice: {}", compute.log());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let again = Instance::start_at(&folder, "", &service);
    let output = waiting.wait_with_output().expect("psql ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), sum, "{}", compute.log());
    compute.check();
    compute.stop();
    drop(again);
}

/// A file system of 160 MiB; gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    #[expect(clippy::print_stderr, reason = "a test that is passed over has to say so")]
    fn new(place: &Path) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=160m,mode=755", "tmpfs"])
            .arg(place)
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(place.to_owned()));
        }
        eprintln!("SKIPPED: a small file system cannot be made here");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_an_error_of_the_statement() {
    if !can_mount() {
        return;
    }
    let folder = Folder::new();
    let small = folder.path().join("small");
    std::fs::create_dir(&small).expect("the folder is ours");
    let Some(_small) = SmallDisk::new(&small) else { return };
    let instance = Instance::start(&folder, "");
    let lsn = instance.sql("SELECT pg_current_wal_flush_lsn()");
    let directory = small.join("c");
    let arguments = ["--branch", "main", "--lsn", &lsn];
    let settings = ["--set", "max_wal_size=32MB", "--set", "min_wal_size=32MB"];
    let started = Compute::try_start(&instance, &directory, &[&arguments[..], &settings].concat());
    let compute = started.unwrap_or_else(|said| panic!("{said}"));
    compute.sql("CREATE TABLE kept AS SELECT i FROM generate_series(1, 1000) i");
    // Without WAL, so that it is the data that fills the disk.
    let fill =
        "CREATE UNLOGGED TABLE big AS SELECT i, md5(i::text) b FROM generate_series(1, 2000000) i";
    let said = compute.try_sql("postgres", fill).expect_err("there is no room");
    assert!(said.contains("No space left on device"), "{said}");
    assert_eq!(compute.sql("SELECT count(*) FROM kept"), "1000");
    compute.sql("INSERT INTO kept SELECT i FROM generate_series(1, 1000) i");
    assert_eq!(compute.sql("SELECT count(*) FROM kept"), "2000");
    let log = compute.stop();
    assert!(!log.contains("PANIC"), "{log}");
}
