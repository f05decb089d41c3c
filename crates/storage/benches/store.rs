//! How fast layers are found, opened, read and written.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use runtime::executor::block_on;
use runtime::io::Options;
use runtime::random::Rng;
use runtime::{clock, fs};
use storage::entry::OwnedEntry;
use storage::key::{Chunk, Key};
use storage::layer::{self, Kind, LayerInfo, Place};
use storage::layer_map::LayerMap;
use storage::manifest::{Facts, Log, Manifest};
use storage::store::{Commit, TimelineStore};
use storage::version::Version;

/// Layers of a large timeline.
const LAYERS: u64 = 100_000;
/// Ranges of keys in which they lie on top of each other.
const RANGES: u64 = 2_000;
/// Entries of the layer that is written and read: 40 MB.
const ENTRIES: u64 = 256_000;

/// A new folder that goes away with the value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let unique = format!("howdah-storage-bench-{:016x}", Rng::from_os().next_u64());
        let path = std::env::temp_dir().join(unique);
        fs::blocking::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::blocking::remove_dir_all(&self.0).expect("removed");
    }
}

fn on_a_core<F: Future>(work: F) -> F::Output {
    block_on(&Options::default(), work).expect("a core")
}

fn key(number: u64) -> Key {
    let chunk = Chunk(u128::from(number >> 17).to_be_bytes());
    Key { chunk, block: u32::try_from(number % (1 << 17)).expect("below 2^17") }
}

/// Ranges side by side, in each an image for every four deltas.
fn many_layers() -> Vec<LayerInfo> {
    (0..LAYERS)
        .map(|number| {
            let (range, depth) = (number % RANGES, number / RANGES);
            let kind = if depth % 5 == 0 { Kind::Image } else { Kind::Delta };
            let newest = Version(depth * 1000 + 999);
            LayerInfo {
                number: number + 1,
                kind,
                place: Place::LOCAL,
                first: key(range * 1000),
                last: key(range * 1000 + 999),
                oldest: if kind == Kind::Image { newest } else { Version(depth * 1000) },
                newest,
                bytes: 1000,
                raw_bytes: 2000,
                entries: 10,
            }
        })
        .collect()
}

fn search(c: &mut Criterion) {
    let map = LayerMap::new(many_layers());
    let mut rng = Rng::seeded(1);
    c.bench_function("search_in_100000_layers", |b| {
        b.iter(|| {
            let key = key(rng.below(RANGES * 1000));
            let at = Version(rng.below(LAYERS / RANGES * 1000));
            black_box(map.search(key, at, None))
        });
    });
}

fn open(c: &mut Criterion) {
    let folder = Folder::new();
    let layers = many_layers();
    for layer in &layers {
        let path = layer::path(&folder.0, layer.number);
        let file = fs::blocking::File::create(path).expect("created");
        file.set_len(layer.bytes).expect("lengthened");
    }
    let facts = Facts { next_number: LAYERS + 1, ..Facts::default() };
    let layers = layers.into_iter().map(|layer| (layer.number, layer)).collect();
    let manifest = Manifest { facts, layers };
    on_a_core(Log::create(&folder.0, &manifest)).expect("created");
    c.bench_function("open_with_100000_layers", |b| {
        b.iter(|| {
            let store = on_a_core(TimelineStore::open(&folder.0)).expect("opened");
            assert_eq!(store.stats().layers, LAYERS);
        });
    });
}

/// Like records of an update-heavy load: some bytes that repeat, some that do not.
fn entries() -> Vec<OwnedEntry> {
    let mut rng = Rng::seeded(7);
    let mut version = 0;
    let mut all: Vec<OwnedEntry> = (0..ENTRIES)
        .map(|_| {
            version += 100 + rng.below(100);
            let mut payload = vec![2, 1, 0, 15, 0, 0, 0, 160];
            payload.extend_from_slice(&[0; 24]);
            payload.extend_from_slice(&version.to_le_bytes());
            payload
                .extend(std::iter::repeat_with(|| rng.next_u64().to_le_bytes()).take(4).flatten());
            payload.extend_from_slice(
                b"the same words in every tuple, as they are in most tables    ",
            );
            let key = key(rng.below(20_000));
            OwnedEntry { key, version: Version(version), whole: rng.below(20) == 0, payload }
        })
        .collect();
    all.sort_by_key(|entry| (entry.key, entry.version));
    all
}

async fn write(store: &TimelineStore, entries: &[OwnedEntry]) -> LayerInfo {
    let mut writer = store.begin_layer().await.expect("begun");
    for entry in entries {
        writer.add(entry.borrow()).await.expect("added");
    }
    writer.finish().await.expect("finished").expect("there are entries")
}

async fn new_store(directory: &Path) -> TimelineStore {
    TimelineStore::create(directory).await.expect("created")
}

fn writing(c: &mut Criterion) {
    let entries = entries();
    let payload: u64 = entries.iter().map(|entry| entry.payload.len() as u64).sum();
    let mut group = c.benchmark_group("layer");
    group.throughput(Throughput::Bytes(payload)).sample_size(10);
    let mut info = None;
    group.bench_function("write", |b| {
        b.iter_custom(|count| {
            let folder = Folder::new();
            on_a_core(async {
                let store = new_store(&folder.0).await;
                let start = clock::precise();
                for _ in 0..count {
                    info = Some(write(&store, &entries).await);
                }
                clock::precise().saturating_duration_since(start)
            })
        });
    });
    group.finish();
    if let Some(info) = info {
        report(&info, payload);
    }
}

#[expect(clippy::print_stdout, reason = "a benchmark reports")]
fn report(info: &LayerInfo, payload: u64) {
    let percent = |bytes: u64| bytes * 100 / payload;
    println!(
        "{payload} bytes of payload: {} % with heads, {} % in the file",
        percent(info.raw_bytes),
        percent(info.bytes)
    );
}

fn reading(c: &mut Criterion) {
    let folder = Folder::new();
    let entries = entries();
    on_a_core(async {
        let store = new_store(&folder.0).await;
        let layers = vec![write(&store, &entries).await];
        let through = entries.iter().map(|entry| entry.version).max();
        store.commit(Commit { layers, flushed_through: through, catalog: None }).await
    })
    .expect("committed");
    let read = |name: &str, keys: u64, c: &mut Criterion| {
        c.bench_function(name, |b| {
            b.iter_custom(|count| on_a_core(read_some(&folder.0, count, keys)));
        });
    };
    read("read_warm", 100, c);
    read("read_cold", 20_000, c);
}

/// Reads keys at random; the first few are not measured.
async fn read_some(directory: &Path, count: u64, keys: u64) -> Duration {
    let store = TimelineStore::open(directory).await.expect("opened");
    let at = store.flushed_through();
    let mut rng = Rng::seeded(count);
    let mut start = clock::precise();
    for number in 0..count + 500 {
        if number == 500 {
            start = clock::precise();
        }
        let key = key(rng.below(keys));
        black_box(store.read(&[key], at, &[None]).await.expect("read"));
    }
    clock::precise().saturating_duration_since(start)
}

criterion_group!(benches, search, open, writing, reading);
criterion_main!(benches);
