//! What the comparison and the reading say when bytes are not what they should be.

use std::os::unix::fs::FileExt;
use std::path::Path;

use pageserver::client::{Client, ClientError};
use pageserver::settings::Settings;
use pageserver::verify::{VerifyError, verify};
use pg::datadir::relation::{Fork, RelNode};
use pg::sqlstate::SqlState;
use runtime::fs::blocking;

use crate::cluster::{Cluster, Folder};
use crate::postgres::{current_lsn, stop_and_verify};
use crate::service::{Service, block_on, settings};

/// Changes one byte of a file.
pub(super) fn flip(path: &Path, offset: u64) {
    #[expect(clippy::disallowed_methods, reason = "the test damages a file")]
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).expect("it is there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("the file is that long");
    file.write_all_at(&[byte[0] ^ 0x40], offset).expect("the file is ours");
}

#[test]
fn the_comparison_finds_a_changed_byte_a_missing_and_an_extra_relation() {
    let mut cluster = Cluster::start("changed", &[], &["autovacuum = off"]);
    let folder = Folder::new("changed-ps");
    let service = Service::start(settings(folder.path(), cluster.socket()));
    service.wait_streaming();
    cluster.sql("CREATE TABLE t AS SELECT i, 'some text' s FROM generate_series(1, 1000) i");
    cluster.sql("CREATE TABLE u AS SELECT 1 AS one");
    let path = |name: &str| {
        cluster.data().join(cluster.sql(&format!("SELECT pg_relation_filepath('{name}')")))
    };
    let (t, u) = (path("t"), path("u"));
    service.wait_lsn(current_lsn(&cluster));
    assert!(stop_and_verify(&mut cluster, &service).is_identical());
    flip(&t, 2 * 8192 + 8100);
    let report = stop_and_verify(&mut cluster, &service);
    assert_eq!(report.differences_found, 1);
    assert_eq!(report.differences[0].block, Some(2));
    assert!(report.differences[0].what.contains("tuple"), "{:?}", report.differences[0]);
    flip(&t, 2 * 8192 + 8100);
    let extra = u.with_file_name("99999");
    blocking::rename(&u, &extra).expect("the folder is ours to change");
    let report = stop_and_verify(&mut cluster, &service);
    assert_eq!(report.differences_found, 2, "one missing, one extra");
    blocking::rename(&extra, &u).expect("the folder is ours to change");
    flip(&cluster.data().join("pg_xact/0000"), 180);
    assert_eq!(stop_and_verify(&mut cluster, &service).differences_found, 1);
    service.stop();
}

#[test]
fn a_running_cluster_is_not_compared() {
    let cluster = Cluster::start("running", &[], &[]);
    let folder = Folder::new("running-ps");
    let service = Service::start(settings(folder.path(), cluster.socket()));
    service.wait_streaming();
    let (address, data) = (service.address.to_string(), cluster.data());
    let compared = block_on(async move {
        let client = Client::connect(&address, "tester", "").await.expect("we are let in");
        verify(&data, client, |_progress| {}).await
    });
    assert!(matches!(compared, Err(VerifyError::Cluster(_))), "{compared:?}");
    service.stop();
}

#[test]
fn a_page_of_a_damaged_layer_or_record_is_refused_and_others_are_read() {
    let cluster = Cluster::start("damaged", &["-k"], &["autovacuum = off"]);
    cluster.sql("CREATE TABLE old AS SELECT i, 'some text' s FROM generate_series(1, 1000) i");
    cluster.sql("VACUUM FREEZE old");
    cluster.sql("CREATE TABLE new (i int)");
    let folder = Folder::new("damaged-ps");
    // So large that the records stay in the WAL.
    let settings =
        Settings { checkpoint_bytes: 1 << 30, ..settings(folder.path(), cluster.socket()) };
    let service = Service::start(settings);
    service.wait_streaming();
    let before = current_lsn(&cluster);
    cluster.sql("INSERT INTO new VALUES (1)");
    cluster.sql("INSERT INTO new VALUES (2)");
    let lsn = current_lsn(&cluster);
    service.wait_lsn(lsn);
    for entry in std::fs::read_dir(folder.path().join("timelines/main")).expect("it has layers") {
        let path = entry.expect("the folder can be read").path();
        if path.extension().is_some_and(|end| end == "layer") {
            let bytes = blocking::read(&path).expect("the layer can be read").len() as u64;
            (0..bytes).step_by(1000).for_each(|at| flip(&path, at));
        }
    }
    // Something in every record of the two inserts.
    let segment = cluster.sql(&format!("SELECT pg_walfile_name('{lsn}')"));
    let segment = folder.path().join("wal").join(segment);
    (before.0 + 20..lsn.0 - 20).step_by(24).for_each(|at| flip(&segment, at % (16 << 20)));
    let tag = |name: &str| {
        let number = cluster.sql(&format!("SELECT pg_relation_filenode('{name}')"));
        RelNode::new(1663, 5, number.parse().expect("a number")).fork(Fork::Main)
    };
    for (tag, block) in [(tag("old"), 1), (tag("new"), 0)] {
        match service.page(tag, block, lsn) {
            Err(ClientError::Refused { sqlstate: SqlState::DATA_CORRUPTED, message, .. }) => {
                assert!(message.contains("cannot be rebuilt"), "{message}");
            }
            other => panic!("not refused: {other:?}"),
        }
    }
    cluster.sql("CREATE TABLE fresh AS SELECT 1 AS one");
    let lsn = current_lsn(&cluster);
    service.wait_lsn(lsn);
    assert!(service.page(tag("fresh"), 0, lsn).is_ok());
    service.stop();
}
