//! Reading: what stands in the way of it, and what it leaves alone.

use runtime::fs;
use runtime::io::simulated::DiskFaults;
use storage::entry::OwnedEntry;
use storage::key::{Chunk, Key};
use storage::store::{Commit, Options, TimelineStore};
use storage::version::Version;

use super::{directory, simulated};

fn key(block: u32) -> Key {
    Key { chunk: Chunk([1; 16]), block }
}

fn record(block: u32, version: u64) -> OwnedEntry {
    let payload = version.to_be_bytes().repeat(100);
    OwnedEntry { key: key(block), version: Version(version), whole: version % 100 == 1, payload }
}

async fn store_with(versions: std::ops::Range<u64>) -> TimelineStore {
    fs::create_dir_all(directory()).await.expect("made");
    let store = TimelineStore::create(directory()).await.expect("created");
    let mut layer = store.begin_layer().await.expect("begun");
    for version in versions.clone() {
        layer.add(record(7, version).borrow()).await.expect("added");
    }
    let layers = layer.finish().await.expect("finished").into_iter().collect();
    let flushed_through = Some(Version(versions.end - 1));
    store.commit(Commit { layers, flushed_through, catalog: None }).await.expect("committed");
    store
}

#[test]
fn a_key_of_many_blocks_costs_the_blocks_since_its_last_whole_version() {
    simulated(1, DiskFaults::default(), async {
        // 80 versions fill a block.
        let store = store_with(1..4001).await;
        let read = store.read(&[key(7)], Version(2050), &[None]).await.expect("read");
        let versions: Vec<u64> = read[0].iter().map(|entry| entry.version.0).collect();
        assert_eq!(versions, (2001..=2050).collect::<Vec<_>>());
        let cold = store.stats().blocks_read;
        assert!(cold <= 2, "{cold} blocks");
        store.read(&[key(7)], Version(2050), &[None]).await.expect("read");
        assert_eq!(store.stats().blocks_read, cold, "they are in memory now");
    });
}

#[test]
fn a_damaged_block_is_an_error_and_scrub_names_it() {
    simulated(1, DiskFaults::default(), async {
        let store = store_with(1..4001).await;
        let path = storage::layer::path(directory(), store.layers()[0].number);
        let options = fs::OpenOptions { write: true, ..fs::OpenOptions::default() };
        let file = fs::File::open(&path, options).await.expect("opened");
        file.write_all_at(vec![0xAA; 3], 100).await.0.expect("written");
        let error = store.read(&[key(7)], Version(10), &[None]).await.expect_err("damaged");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        let damaged = store.scrub(|_| ()).await.expect("scrubbed");
        assert_eq!(damaged, [error.to_string()]);
        assert!(damaged[0].contains("damaged block at 0"), "{damaged:?}");
        store.read(&[key(7)], Version(4000), &[None]).await.expect("other blocks are whole");
    });
}

#[test]
fn a_store_that_is_closed_changes_nothing_and_misses_nothing() {
    simulated(1, DiskFaults::default(), async {
        let store = store_with(1..401).await;
        store.close().await;
        fs::remove_dir_all(directory()).await.expect("removed");
        store.commit(Commit::default()).await.expect_err("it is closed");
        assert!(store.begin_layer().await.is_err(), "it is closed");
        assert_eq!(store.scrub(|_progress| ()).await.expect("scrubbed"), Vec::<String>::new());
    });
}

#[test]
fn a_missing_layer_or_manifest_is_an_error_at_opening() {
    simulated(1, DiskFaults::default(), async {
        let store = store_with(1..50).await;
        let path = storage::layer::path(directory(), store.layers()[0].number);
        drop(store);
        fs::rename(&path, "elsewhere").await.expect("renamed");
        let error = TimelineStore::open(directory()).await.err().expect("refused");
        assert!(error.to_string().ends_with("is missing"), "{error}");
        fs::rename("elsewhere", &path).await.expect("renamed back");
        let files = fs::read_dir(directory()).await.expect("listed");
        let manifest = files.iter().find(|file| file.name.to_string_lossy().ends_with("manifest"));
        let manifest = directory().join(&manifest.expect("there is one").name);
        fs::rename(manifest, "elsewhere").await.expect("renamed");
        let error = TimelineStore::open(directory()).await.err().expect("refused");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
    });
}

#[test]
fn memory_stays_within_its_bounds() {
    simulated(1, DiskFaults::default(), async {
        drop(store_with(1..4001).await);
        let options = Options { block_cache_bytes: 300_000, ..Options::default() };
        let store = TimelineStore::open_with(directory(), options).await.expect("opened");
        for version in 1..4001 {
            store.read(&[key(7)], Version(version), &[None]).await.expect("read");
            assert!(store.stats().block_cache_bytes <= 300_000);
        }
        assert!(store.stats().block_cache_bytes > 0);
    });
}

#[test]
fn an_overtaken_writer_is_refused() {
    simulated(1, DiskFaults::default(), async {
        drop(store_with(1..50).await);
        let of = |generation| Options { generation, ..Options::default() };
        let newer = TimelineStore::open_with(directory(), of(5)).await.expect("opened");
        newer.commit(Commit::default()).await.expect("committed");
        let older = TimelineStore::open_with(directory(), of(4)).await;
        let error = older.err().expect("refused");
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    });
}
