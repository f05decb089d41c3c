//! Every record of a mixed workload, redone and compared with what the server says the page must be.

use pg::datadir::control::ControlFile;
use pg::redo::Options;
use pg::wal::reader::StreamDecoder;
use pg::wal::segment::WalVersion;

use super::replica::Replica;
use crate::cluster::Cluster;
use crate::workload;

#[test]
fn redo_makes_the_pages_that_the_server_made() {
    assert!(judge(&[], false, workload::run) > 60_000);
}

#[test]
fn redo_makes_the_pages_that_the_server_made_with_checksums() {
    assert!(judge(&["--data-checksums"], true, workload::run_heap) > 30_000);
}

/// Answers how many blocks were redone to what the server had.
fn judge(initdb: &[&str], hints_logged: bool, workload: fn(&Cluster)) -> u32 {
    let mut cluster = Cluster::create(initdb);
    let before = cluster.files();
    let control = before.iter().find(|file| file.0 == "global/pg_control").unwrap();
    let control = ControlFile::parse(&control.1).unwrap();
    let mut replica = Replica::load(&before, Options { hints_logged });

    let mut settings = workload::SETTINGS.to_vec();
    settings.extend([
        "wal_consistency_checking=all",
        "full_page_writes=off",
        "wal_compression=lz4",
    ]);
    cluster.serve(&settings);
    workload(&cluster);
    cluster.stop();

    let (start, wal) = cluster.wal();
    let redo = control.checkpoint.redo;
    let mut input = &wal[usize::try_from(redo.0 - start).unwrap()..];
    println!("{} MB of WAL", input.len() >> 20);
    let mut decoder = StreamDecoder::at_record(redo, control.segment_bytes)
        .expect_system(control.system_identifier)
        .assume_version(WalVersion::V15);
    loop {
        match decoder.next(&mut input) {
            Ok(Some(raw)) => replica.apply(&raw.decode().unwrap()),
            Ok(None) => panic!("WAL has no end"),
            Err(error) => {
                assert!(error.is_end_of_wal(), "{error}");
                break;
            }
        }
    }
    let matched = report(&replica);
    let (differences, compared) = replica.compare(&cluster.files());
    for difference in differences.iter().take(30) {
        println!("{difference}");
    }
    println!("{compared} pages compared with the files, {} differ", differences.len());
    assert!(compared > 3000);
    assert_eq!((replica.complaints.len(), differences.len()), (0, 0));
    matched
}

fn report(replica: &Replica) -> u32 {
    let (mut matched, mut mismatched) = (0, 0);
    for (kind, tally) in &replica.tallies {
        println!("{kind}: {tally:?}");
        matched += tally.matched;
        mismatched += tally.mismatched;
    }
    for complaint in &replica.complaints {
        println!("{complaint}");
    }
    println!("{matched} blocks match, {mismatched} do not");
    matched
}
