//! Restarts and failures of the page server, of Postgres, and of the disk.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pageserver::api::Phase;
use pg::lsn::Lsn;
use runtime::clock;
use runtime::fs::blocking;

use crate::cluster::{Cluster, Folder};
use crate::postgres::{current_lsn, stop_and_verify};
use crate::service::{Service, block_on, settings};

fn lsn(text: Option<&String>) -> Lsn {
    text.and_then(|text| text.parse().ok()).expect("an LSN")
}

/// What Postgres was told to be durable with us.
fn acknowledged(cluster: &Cluster) -> Lsn {
    let sql = "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'howdah'";
    lsn(Some(&cluster.sql(sql)))
}

/// The same while the server writes, at the end of a record: at the end of a page it may be within one, which counts only
/// once it is whole.
fn acknowledged_at_a_record(cluster: &Cluster) -> Lsn {
    loop {
        let told = acknowledged(cluster);
        if !told.0.is_multiple_of(8192) {
            return told;
        }
        pause(20);
    }
}

fn pause(milliseconds: u64) {
    block_on(async move { clock::sleep(Duration::from_millis(milliseconds)).await });
}

/// The segment files in a page server's folder, in order.
fn segments(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("wal")).expect("there is a WAL folder");
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.expect("the folder can be read").path()).collect();
    paths.sort();
    paths
}

/// Puts bytes behind the end of the WAL, as a torn write would: before the zeroes that the file may have there.
fn tear(folder: &Path) {
    const SEGMENT_BYTES: usize = 16 << 20;
    let last = segments(folder).pop().expect("there is WAL");
    let wal = blocking::read(&last).expect("the file is ours");
    let end = wal.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let end = end.next_multiple_of(8).min(SEGMENT_BYTES);
    #[expect(clippy::disallowed_methods, reason = "the test damages a file")]
    let mut file = std::fs::OpenOptions::new().write(true).open(last).expect("the file is ours");
    file.seek(SeekFrom::Start(end as u64)).expect("it is a file");
    file.write_all(&[0xA5; 3000][..(SEGMENT_BYTES - end).min(3000)]).expect("there is room");
}

#[test]
fn nothing_acknowledged_is_lost_by_kills() {
    let mut cluster = Cluster::start("kills", &[], &["max_wal_size = 64MB"]);
    cluster.pgbench(&["-i", "-s", "1", "-q"]);
    let folder = Folder::new("kills-ps");
    let settings = settings(folder.path(), cluster.socket());
    let service = Service::start(settings.clone());
    service.wait_streaming();
    service.stop();
    std::thread::scope(|scope| {
        scope.spawn(|| cluster.pgbench(&["-c", "4", "-T", "6"]));
        for round in 0..4 {
            let service = Service::start(settings.clone());
            service.wait_streaming();
            pause(700);
            let told = acknowledged_at_a_record(&cluster);
            service.kill();
            if round % 2 == 1 {
                tear(&folder.path());
            }
            let again = Service::start(settings.clone());
            let status = again.wait_streaming();
            assert!(
                lsn(status.flushed_lsn.as_ref()) >= told || round % 2 == 1,
                "{told} {status:?}"
            );
            let status = again.wait_lsn(told);
            assert!(lsn(status.ingested_lsn.as_ref()) >= told);
            again.stop();
        }
    });
    let service = Service::start(settings);
    service.wait_streaming();
    service.wait_lsn(current_lsn(&cluster));
    let report = stop_and_verify(&mut cluster, &service);
    assert!(report.is_identical());
    service.stop();
}

#[test]
fn follows_a_postgres_that_crashes_and_comes_back() {
    let mut cluster = Cluster::start("crash", &[], &[]);
    let folder = Folder::new("crash-ps");
    let service = Service::start(settings(folder.path(), cluster.socket()));
    service.wait_streaming();
    for round in 0..3 {
        cluster.sql(&format!("CREATE TABLE t{round} AS SELECT i FROM generate_series(1, 5000) i"));
        cluster.stop("immediate");
        service
            .wait("the loss", |status| status.phase != Phase::Streaming && status.error.is_some());
        cluster.run();
        cluster.sql(&format!("DELETE FROM t{round} WHERE i % 2 = 0"));
        let status = service.wait_lsn(current_lsn(&cluster));
        assert_eq!(status.error, None);
    }
    let report = stop_and_verify(&mut cluster, &service);
    assert!(report.is_identical());
    service.stop();
}

#[test]
fn half_a_base_backup_is_discarded() {
    let mut cluster = Cluster::start("half", &[], &[]);
    let folder = Folder::new("half-ps");
    let leftover = folder.path().join("timelines/main/0000000000000001.layer");
    blocking::create_dir_all(leftover.parent().expect("it has a folder")).expect("it is new");
    blocking::File::create(&leftover).expect("it is new");
    blocking::create_dir_all(folder.path().join("timelines/other")).expect("it is new");
    let service = Service::start(settings(folder.path(), cluster.socket()));
    service.wait_streaming();
    let other = folder.path().join("timelines/other");
    assert!(!other.exists());
    let report = stop_and_verify(&mut cluster, &service);
    assert!(report.is_identical());
    service.stop();
}

#[test]
fn another_cluster_is_refused() {
    let one = Cluster::start("one", &[], &[]);
    let other = Cluster::start("other", &[], &[]);
    let folder = Folder::new("other-ps");
    let service = Service::start(settings(folder.path(), one.socket()));
    service.wait_streaming();
    service.stop();
    let service = Service::start(settings(folder.path(), other.socket()));
    let status = service.wait("the refusal", |status| status.phase == Phase::Failed);
    let message = status.error.expect("it says why").message;
    assert!(message.contains("but this directory follows"), "{message}");
    assert_eq!(other.sql("SELECT count(*) FROM pg_replication_slots"), "0");
    service.stop();
}

#[test]
fn goes_on_by_itself_when_a_wal_segment_could_not_be_written() {
    let mut cluster = Cluster::start("obstacle", &[], &[]);
    let folder = Folder::new("obstacle-ps");
    let service = Service::start(settings(folder.path(), cluster.socket()));
    service.wait_streaming();
    service.wait_lsn(current_lsn(&cluster));
    // A folder stands where the next segment's file must go: nobody can write there, root neither.
    let sql = "SELECT pg_walfile_name(pg_current_wal_lsn() + 2 * 16777216)";
    let obstacle = folder.path().join("wal").join(cluster.sql(sql));
    std::fs::create_dir(&obstacle).expect("the segment is not there yet");
    cluster
        .sql("CREATE TABLE big AS SELECT i, repeat('x', 1000) x FROM generate_series(1, 40000) i");
    let status = service.wait("the failure", |status| status.error.is_some());
    let message = status.error.expect("it says why").message;
    assert!(message.contains("could not write WAL segment"), "{message}");
    pause(1000);
    // In this order: what still came to disk meanwhile is acknowledged later.
    let acknowledged = acknowledged(&cluster);
    let durable = lsn(service.status().flushed_lsn.as_ref());
    assert!(acknowledged <= durable, "nothing is acknowledged that is not on disk");
    assert!(durable < current_lsn(&cluster));
    std::fs::remove_dir(&obstacle).expect("nothing was put into it");
    let status = service.wait_lsn(current_lsn(&cluster));
    assert_eq!(status.error, None);
    let report = stop_and_verify(&mut cluster, &service);
    assert!(report.is_identical());
    service.stop();
}

#[test]
fn a_small_index_holds_up_the_intake_and_stays_small() {
    let mut cluster = Cluster::start("memory", &[], &[]);
    let folder = Folder::new("memory-ps");
    let mut settings = settings(folder.path(), cluster.socket());
    settings.index_memory_max = 1 << 20;
    settings.checkpoint_bytes = 1 << 30;
    let service = Service::start(settings.clone());
    let before = service.wait_streaming();
    cluster.sql("CREATE TABLE big AS SELECT i FROM generate_series(1, 100000) i");
    cluster.sql("UPDATE big SET i = -i");
    let status = service.wait_lsn(current_lsn(&cluster));
    assert_eq!(status.error, None);
    // Long before a checkpoint was due. How many layers there are says little: they are merged meanwhile.
    let layered = lsn(status.layered_lsn.as_ref());
    assert!(layered > lsn(before.layered_lsn.as_ref()), "in layers up to {layered}");
    // The bound, and what came in with the last MiB of WAL.
    assert!(status.index_memory_bytes < 4 << 20, "{} bytes", status.index_memory_bytes);
    service.kill();
    let service = Service::start(settings);
    service.wait_streaming();
    assert!(stop_and_verify(&mut cluster, &service).is_identical());
    service.stop();
}

#[test]
fn a_restart_reads_only_wal_that_is_in_no_layer() {
    let mut cluster = Cluster::start("layers", &[], &["autovacuum = off"]);
    let folder = Folder::new("layers-ps");
    let mut settings = settings(folder.path(), cluster.socket());
    settings.checkpoint_timeout_ms = 50;
    let service = Service::start(settings.clone());
    service.wait_streaming();
    cluster.pgbench(&["-i", "-s", "1", "-q"]);
    let now = current_lsn(&cluster);
    service.wait("layers", |status| lsn(status.layered_lsn.as_ref()) >= now);
    service.kill();
    let service = Service::start(settings);
    let status = service.wait_streaming();
    assert!(status.records < 1000, "{} records were read again", status.records);
    assert!(stop_and_verify(&mut cluster, &service).is_identical());
    service.stop();
}

#[test]
fn a_directory_of_an_earlier_format_is_refused() {
    let cluster = Cluster::start("former", &[], &[]);
    let folder = Folder::new("former-ps");
    let manifest = folder.path().join("base.manifest");
    blocking::write_atomic(manifest, b"howdah base backup 1 00000000\n{}\n").expect("it is ours");
    let service = Service::start(settings(folder.path(), cluster.socket()));
    let status = service.wait("the refusal", |status| status.phase == Phase::Failed);
    let problem = status.error.expect("it says why");
    assert!(problem.message.contains("earlier version"), "{}", problem.message);
    assert!(problem.hint.is_some_and(|hint| hint.contains("empty directory")));
    service.stop();
}

/// A file system of so many MiB in memory, mounted while the value lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where we may not mount.
    fn mount(path: PathBuf, mebibytes: u32) -> Option<SmallDisk> {
        let disk = SmallDisk(path);
        disk.run("mount", &["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"])
            .then_some(disk)
    }

    fn grow(&self, mebibytes: u32) {
        assert!(
            self.run("mount", &["-o", &format!("remount,size={mebibytes}m")]),
            "it can be remounted"
        );
    }

    #[expect(clippy::disallowed_methods, reason = "the test mounts a file system")]
    fn run(&self, program: &str, arguments: &[&str]) -> bool {
        let mut command = std::process::Command::new(program);
        command.args(arguments).arg(&self.0).stderr(std::process::Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.run("umount", &["-l"]);
    }
}

#[test]
fn goes_on_by_itself_when_the_disk_was_full() {
    let folder = Folder::new("full-ps");
    let wal = folder.path().join("wal");
    std::fs::create_dir(&wal).expect("the folder is new");
    let Some(disk) = SmallDisk::mount(wal, 24) else {
        println!(
            "skipped: only root can make a small disk; an obstacle stands for it in another test"
        );
        return;
    };
    let mut cluster = Cluster::start("full", &[], &[]);
    let service = Service::start(settings(folder.path(), cluster.socket()));
    service.wait_streaming();
    cluster
        .sql("CREATE TABLE big AS SELECT i, repeat('x', 1000) x FROM generate_series(1, 30000) i");
    let status = service.wait("the full disk", |status| status.error.is_some());
    let problem = status.error.expect("it says why");
    assert!(problem.message.contains("could not write WAL segment"), "{}", problem.message);
    assert!(
        problem.hint.is_some_and(|hint| hint.contains("free space")),
        "an operator is told what to do"
    );
    pause(1000);
    assert!(acknowledged(&cluster) <= lsn(service.status().flushed_lsn.as_ref()));
    service.kill();
    let service = Service::start(settings(folder.path(), cluster.socket()));
    service.wait("the full disk again", |status| status.error.is_some());
    disk.grow(200);
    let status = service.wait_lsn(current_lsn(&cluster));
    assert_eq!(status.error, None);
    let report = stop_and_verify(&mut cluster, &service);
    assert!(report.is_identical());
    service.stop();
}

#[test]
fn wal_that_leaves_changes_out_is_not_taken_in() {
    let mut cluster = Cluster::start("minimal", &[], &["wal_keep_size = 1GB"]);
    let folder = Folder::new("minimal-ps");
    let service = Service::start(settings(folder.path(), cluster.socket()));
    service.wait_streaming();
    cluster.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i");
    let before = current_lsn(&cluster);
    service.wait_lsn(before);
    let then = service.contents("main", before).expect("readable");
    service.stop();
    // A bulk load, as one does it who has forgotten about us: the slot stands in the way.
    cluster.sql("SELECT pg_drop_replication_slot('howdah')");
    cluster.stop("fast");
    cluster.serve(&["wal_level=minimal", "max_wal_senders=0"]);
    cluster.sql("CREATE TABLE loaded AS SELECT i FROM generate_series(1, 100000) i");
    cluster.stop("fast");
    cluster.run();
    cluster.sql("INSERT INTO loaded VALUES (1)");
    let mut ends = Vec::new();
    for _start in 0..2 {
        let service = Service::start(settings(folder.path(), cluster.socket()));
        let status = service.wait("the end", |status| status.phase == Phase::Failed);
        let message = status.error.expect("it says why").message;
        assert!(message.contains("wal_level = minimal"), "{message}");
        ends.push(lsn(status.ingested_lsn.as_ref()));
        assert!(service.contents("main", before).expect("still readable") == then);
        service.stop();
    }
    assert_eq!(ends[0], ends[1], "nothing behind that record counts");
}
