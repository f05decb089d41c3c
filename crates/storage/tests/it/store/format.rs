//! Stores that earlier versions wrote are read: `tests/fixtures`.

use std::path::{Path, PathBuf};

use runtime::executor::block_on;
use runtime::fs;
use runtime::io::Options as Core;
use storage::entry::OwnedEntry;
use storage::key::{Chunk, Key};
use storage::layer::Kind;
use storage::store::compaction::{CompactionOptions, Made};
use storage::store::{Commit, Options, TimelineStore};
use storage::version::Version;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1")
}

fn key(number: u32) -> Key {
    Key { chunk: Chunk(u128::from(number / 3).to_be_bytes()), block: number % 3 }
}

fn payload(number: u32, version: u64) -> Vec<u8> {
    format!("key {number} as of {version} ").repeat(20).into_bytes()
}

/// The entries of one flush: every key at one version, whole at every third.
fn flushed(round: u64) -> Vec<OwnedEntry> {
    let entry = |number| {
        let version = round * 100 + u64::from(number);
        let whole = version.is_multiple_of(3);
        let payload = payload(number, version);
        OwnedEntry { key: key(number), version: Version(version), whole, payload }
    };
    (0..7).map(entry).collect()
}

/// Of all kinds: a snapshot with edits, a catalog, an image, delta layers and one of level 0.
async fn write(directory: &Path) {
    drop(TimelineStore::create(directory).await.expect("created"));
    let options = Options { generation: 3, ..Options::default() };
    let store = TimelineStore::open_with(directory, options).await.expect("opened");
    let options =
        CompactionOptions { level0_layers: 2, delta_depth: 2, ..CompactionOptions::default() };
    for round in 1..=5 {
        let mut layer = store.begin_layer().await.expect("begun");
        for entry in flushed(round) {
            layer.add(entry.borrow()).await.expect("added");
        }
        let layers = layer.finish().await.expect("finished").into_iter().collect();
        let (flushed_through, catalog) = (Some(Version(round * 100 + 99)), Some(payload(9, round)));
        store.commit(Commit { layers, flushed_through, catalog }).await.expect("committed");
        let image = async |key: Key, _: Version, chain: Vec<OwnedEntry>| match &chain[..] {
            [only] if only.whole => Ok(Made::AsTheyAre),
            _ => Ok(Made::Whole([b"image of ".as_slice(), &key.to_bytes()].concat())),
        };
        if round % 2 == 0 {
            store.compact(&options, image).await.expect("merged");
            store.compact(&options, image).await.expect("imaged");
        }
    }
}

async fn check(directory: &Path) {
    let store = TimelineStore::open(directory).await.expect("opened");
    assert_eq!(store.flushed_through(), Version(599));
    assert_eq!(store.catalog(), payload(9, 5));
    let kinds: Vec<Kind> = store.layers().iter().map(|layer| layer.kind).collect();
    assert_eq!(kinds, [Kind::Delta, Kind::Delta, Kind::Image, Kind::Level0]);
    for number in 0..7 {
        // Before the image: what was flushed.
        let read = store.read(&[key(number)], Version(399), &[None]).await.expect("read");
        let expected: Vec<OwnedEntry> =
            (1..=3).flat_map(flushed).filter(|entry| entry.key == key(number)).collect();
        let whole = expected.iter().rposition(|entry| entry.whole).unwrap_or(0);
        assert_eq!(read[0], expected[whole..], "key {number}");
        // With it: the image, then one more version.
        let read = store.read(&[key(number)], Version(599), &[None]).await.expect("read");
        let newest = read[0].last().expect("there is one");
        assert_eq!(newest.payload, payload(number, 500 + u64::from(number)));
        if !newest.whole {
            let (image, version) = (&read[0][0], 400 + u64::from(number));
            assert_eq!((image.whole, image.version), (true, Version(version)));
            // One that was whole anyway was taken as it was.
            let is_image = image.payload.ends_with(&key(number).to_bytes());
            assert!(is_image != (image.payload == payload(number, version)));
        }
    }
    assert_eq!(store.scrub(|_| ()).await.expect("scrubbed"), Vec::<String>::new());
}

#[test]
fn version_1_is_read() {
    block_on(&Core::default(), check(&fixture())).expect("a core");
}

/// `cargo nextest run -p storage --run-ignored only writes_the_fixture` where the format has become another one.
#[test]
#[ignore = "writes files that are kept"]
fn writes_the_fixture() {
    let write_and_check = async {
        fs::create_dir_all(fixture()).await.expect("made");
        write(&fixture()).await;
        check(&fixture()).await;
    };
    block_on(&Core::default(), write_and_check).expect("a core");
}
