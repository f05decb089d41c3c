//! Every record of a mixed workload, redone and compared with what the server says the page must be.

use pg::datadir::control::ControlFile;
use pg::redo::Options;
use pg::wal::reader::StreamDecoder;
use pg::wal::record::{RawRecord, Record};

use super::fixture::Capture;
use super::replica::Replica;
use crate::cluster::{Cluster, programs};
use crate::workload;

/// Images of every page after every record, none that redo must restore.
const JUDGED: &[&str] = &["wal_consistency_checking=all", "full_page_writes=off"];

#[test]
fn redo_makes_the_pages_that_the_server_made() {
    let settings = [JUDGED, &["wal_compression=zstd"]].concat();
    let replica = replay(Cluster::create(&[]), &settings, workload::run, |_, _, _| {});
    assert!(report(&replica) > 60_000);
}

#[test]
fn redo_makes_the_pages_that_the_server_made_with_checksums() {
    let settings = [JUDGED, &["wal_compression=pglz"]].concat();
    let replica =
        replay(Cluster::create(&["--data-checksums"]), &settings, workload::run_heap, |_, _, _| {});
    assert!(report(&replica) > 30_000);
}

#[test]
fn redo_restores_images_and_goes_on_from_them() {
    let settings = ["full_page_writes=on", "wal_log_hints=on", "wal_compression=lz4"];
    let replica = replay(Cluster::create(&[]), &settings, workload::run, |_, _, _| {});
    report(&replica);
}

#[test]
fn redo_makes_the_pages_that_postgres_17_made() {
    redo_another_major(17);
}

#[test]
fn redo_makes_the_pages_that_postgres_16_made() {
    redo_another_major(16);
}

#[test]
fn redo_makes_the_pages_that_postgres_18_made() {
    redo_another_major(18);
}

#[test]
fn redo_makes_the_pages_that_postgres_14_made() {
    redo_another_major(14);
}

/// Nothing to do where that major is not here.
fn redo_another_major(major: u32) {
    let Some(binaries) = programs(major) else { return };
    let settings = [JUDGED, &["wal_compression=on"]].concat();
    let cluster = Cluster::create_with(binaries, &[]);
    let replica = replay(cluster, &settings, workload::run, |_, _, _| {});
    assert!(report(&replica) > 60_000);
}

#[test]
#[ignore = "writes test_data/15/records.zst anew"]
fn captures_records() {
    capture(Cluster::create(&[]), 15);
}

#[test]
#[ignore = "writes the records.zst of the other majors anew"]
fn captures_records_of_other_majors() {
    for major in [14, 16, 17, 18] {
        let binaries = programs(major).unwrap();
        capture(Cluster::create_with(binaries, &[]), major);
    }
}

fn capture(cluster: Cluster, major: u32) {
    let mut capture = Capture::default();
    let settings = [JUDGED, &["wal_compression=off"]].concat();
    replay(cluster, &settings, workload::run, |raw, record, replica| {
        capture.offer(raw, record, |index| {
            let block = &record.blocks[index];
            replica.page(block.tag, block.number)
        });
    });
    let path = format!("{}/test_data/{major}/records.zst", env!("CARGO_MANIFEST_DIR"));
    #[expect(clippy::disallowed_methods, reason = "run by hand, to capture test data")]
    std::fs::write(path, capture.compressed()).unwrap();
}

/// Runs a workload and redoes its WAL from the pages of initdb; the result equals the server's files.
fn replay(
    mut cluster: Cluster,
    settings: &[&str],
    workload: fn(&Cluster),
    mut each: impl FnMut(&RawRecord<'_>, &Record<'_>, &Replica),
) -> Replica {
    let before = cluster.files();
    let control = before.iter().find(|file| file.0 == "global/pg_control").unwrap();
    let control = ControlFile::parse(&control.1).unwrap();
    let hints_logged = control.checksum_version != 0 || settings.contains(&"wal_log_hints=on");
    let mut replica = Replica::load(&before, Options { hints_logged });

    cluster.serve(&[workload::SETTINGS, settings].concat());
    workload(&cluster);
    cluster.stop();

    let (start, wal) = cluster.wal();
    let redo = control.checkpoint.redo;
    let mut input = &wal[usize::try_from(redo.0 - start).unwrap()..];
    println!("{} MB of WAL", input.len() >> 20);
    let mut decoder = StreamDecoder::at_record(redo, control.segment_bytes)
        .expect_system(control.system_identifier)
        .assume_version(cluster.version());
    loop {
        match decoder.next(&mut input) {
            Ok(Some(raw)) => {
                let record = raw.decode().unwrap();
                each(&raw, &record, &replica);
                replica.apply(&record);
            }
            Ok(None) => panic!("WAL has no end"),
            Err(error) => {
                assert!(error.is_end_of_wal(), "{error}");
                break;
            }
        }
    }
    assert!(replica.tallies.values().all(|tally| tally.unsupported == 0));
    let (differences, compared) = replica.compare(&cluster.files());
    for difference in differences.iter().take(30).chain(&replica.complaints) {
        println!("{difference}");
    }
    println!("{compared} pages compared with the files, {} differ", differences.len());
    assert!(compared > 3000);
    assert_eq!((replica.complaints.len(), differences.len()), (0, 0));
    replica
}

fn report(replica: &Replica) -> u32 {
    let (mut matched, mut mismatched) = (0, 0);
    for (kind, tally) in &replica.tallies {
        println!("{kind}: {tally:?}");
        matched += tally.matched;
        mismatched += tally.mismatched;
    }
    println!("{matched} blocks match, {mismatched} do not");
    matched
}
