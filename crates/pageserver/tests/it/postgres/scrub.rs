//! A scrub finds damage wherever it is: one byte changed in each kind of file.

use std::path::{Path, PathBuf};

use pageserver::api::Status;
use pageserver::settings::Settings;
use pg::lsn::Lsn;
use runtime::fs::blocking;

use super::damage::flip;
use crate::cluster::{Cluster, Folder};
use crate::postgres::current_lsn;
use crate::service::{Service, settings};

/// Settings under which nothing is written to layers by itself: what is on disk stays as it is.
fn at_rest(settings: Settings) -> Settings {
    Settings { checkpoint_bytes: 1 << 30, checkpoint_timeout_ms: 3_600_000, ..settings }
}

/// The files below a folder whose names end like this.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the folder is there").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, end));
        } else if path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
    found
}

/// A byte in the middle of each of these is changed: the scrub names that many, with these words; and none once the bytes
/// are again what they were.
fn check(service: &Service, damaged: &[PathBuf], words: &str) {
    assert!(!damaged.is_empty(), "there is something to damage");
    let flip_all = || {
        for path in damaged {
            let bytes = blocking::read(path).expect("it can be read").len() as u64;
            flip(path, bytes / 2);
        }
    };
    flip_all();
    let found = service.scrub().damaged;
    assert_eq!(found.len(), damaged.len(), "{damaged:?}: {found:#?}");
    assert!(found.iter().all(|what| what.contains(words)), "{words}: {found:#?}");
    flip_all();
    assert_eq!(service.scrub().damaged, Vec::<String>::new());
}

#[test]
fn a_scrub_finds_a_changed_byte_in_a_layer_a_catalog_and_the_received_wal() {
    let mut cluster = Cluster::start("scrub", &["--wal-segsize", "1"], &["autovacuum = off"]);
    let folder = Folder::new("scrub-ps");
    let service = Service::start(at_rest(settings(folder.path(), cluster.socket())));
    service.wait_streaming();
    let before = current_lsn(&cluster);
    cluster.sql(
        "CREATE TABLE t AS SELECT i, repeat(md5(i::text), 20) x FROM generate_series(1, 8000) i",
    );
    service.wait_lsn(current_lsn(&cluster));
    // Nothing comes any more.
    cluster.stop("fast");
    let scrub = service.scrub();
    assert_eq!(scrub.damaged, Vec::<String>::new());
    assert!(scrub.bytes_total > 5 << 20 && scrub.bytes_done == scrub.bytes_total, "{scrub:?}");

    let layers = folder.path().join("timelines/main");
    check(&service, &files(&layers, ".layer"), "damaged");
    check(&service, &files(&layers, ".catalog"), "catalog");
    // Every other one, so that the WAL behind damage is seen to be read again.
    let mut segments = files(&folder.path().join("wal"), "");
    segments.sort();
    let first = before.segment(1 << 20) + 1;
    let end: Lsn = service.end_of("main");
    let numbers = (first..end.segment(1 << 20)).step_by(2);
    let name = |number: u64| {
        let name = format!("{:08X}{:08X}{:08X}", 1, number >> 12, number & 0xFFF);
        segments.iter().find(|path| path.ends_with(&name)).expect("it was received").clone()
    };
    let damaged: Vec<PathBuf> = numbers.map(name).collect();
    assert!(damaged.len() > 1, "{before} to {end}");
    check(&service, &damaged, "WAL segment");
    service.stop();
}

#[test]
fn a_scrub_finds_a_changed_byte_in_the_object_store() {
    let mut cluster = Cluster::start("scrub-store", &[], &["autovacuum = off"]);
    let (folder, store) = (Folder::new("scrub-store-ps"), Folder::new("scrub-store-st"));
    let settings = Settings {
        store: store.path().join("store").display().to_string(),
        store_wal_interval_ms: 200,
        local_layer_bytes_max: 1,
        ..settings(folder.path().join("own"), cluster.socket())
    };
    let service = Service::start(at_rest(settings));
    service.wait_streaming();
    cluster.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 10000) i");
    service.wait_lsn(current_lsn(&cluster));
    cluster.stop("fast");
    let end = service.end_of("main");
    let is_there_alone = |status: &Status| {
        let Some(store) = &status.store else { return false };
        let uploaded = store.uploaded_lsn.as_ref().and_then(|text| text.parse().ok());
        uploaded.is_some_and(|lsn: Lsn| lsn >= end)
            && store.waiting_bytes == 0
            && store.local_layer_bytes == 0
    };
    service.wait("the upload", is_there_alone);
    assert_eq!(service.scrub().damaged, Vec::<String>::new());
    assert_eq!(files(&folder.path(), ".layer"), Vec::<PathBuf>::new(), "they are not here");
    let place = store.path().join("store/timelines");
    check(&service, &files(&place, ".layer"), ".layer");
    check(&service, &files(&place, ".catalog"), ".catalog");
    let is_wal = |path: &PathBuf| path.parent().is_some_and(|parent| parent.ends_with("wal"));
    let pieces: Vec<PathBuf> = files(&place, "").into_iter().filter(is_wal).collect();
    check(&service, &pieces, "wal/");
    service.stop();
}
