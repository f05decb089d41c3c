//! Layers in an object store: there, here, in both places, and nothing changed by that.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use runtime::io::simulated::{DiskFaults, cut_power, set_disk_capacity};
use runtime::random::Rng;
use runtime::{clock, executor, fs};
use storage::bucket::{Bucket, Patience};
use storage::layer::Place;
use storage::store::TimelineStore;
use storage::store::remote::{Remote, UploadError};

use super::model::{Model, all_keys, flush, materialize, small};
use super::{directory, simulated};
use crate::bucket::faulty::{Faults, Faulty, Rates};

const REMOTE_ONLY: Place = Place { local: false, remote: true };

fn bucket_over(store: Arc<dyn ObjectStore>) -> Bucket {
    let patience = Patience { attempt: Duration::from_secs(1), request: Duration::from_secs(20) };
    Bucket::on_core(store, ObjectPath::from("base"), patience)
}

pub(super) fn faulty(seed: u64, rates: Rates) -> (Bucket, Arc<Faults>, Arc<InMemory>) {
    let memory = Arc::new(InMemory::new());
    let inner: Arc<dyn ObjectStore> = Arc::clone(&memory) as Arc<dyn ObjectStore>;
    let (store, faults) = Faulty::new(inner, seed, rates);
    (bucket_over(Arc::new(store)), faults, memory)
}

fn remote(bucket: &Bucket) -> Remote {
    Remote { bucket: bucket.clone(), folder: "timelines/main".to_owned() }
}

async fn create() -> TimelineStore {
    fs::create_dir_all(directory()).await.expect("made");
    fs::sync_dir("").await.expect("durable");
    TimelineStore::create(directory()).await.expect("created")
}

async fn upload(store: &TimelineStore) -> Result<bool, UploadError> {
    let nobody: Rc<dyn Fn(u64)> = Rc::new(|_bytes| ());
    store.upload(&store.snapshot(), &nobody).await
}

/// Some flushes, so that there are layers.
async fn fill(store: &TimelineStore, model: &mut Model, rng: &mut Rng, flushes: u64) {
    for number in 0..flushes {
        let (entries, through) = model.next_entries(rng);
        let catalog = number.to_be_bytes().to_vec();
        flush(store, &entries, through, catalog.clone()).await.expect("flushed");
        model.add(&entries, through, catalog);
    }
}

#[test]
fn layers_come_and_go_between_both_places_and_every_version_reads_the_same() {
    let total = Cell::new((0, 0));
    for seed in 0..40 {
        simulated(seed, DiskFaults::default(), async {
            let rates = Rates { refused: 5, reply_lost: 5, stalled: 1 };
            let (bucket, _faults, _memory) = faulty(seed, rates);
            let mut store = create().await;
            store.connect(remote(&bucket));
            let (mut model, mut rng) = (Model::default(), Rng::seeded(seed));
            for round in 0..60u64 {
                match rng.below(12) {
                    0..4 => fill(&store, &mut model, &mut rng, 1).await,
                    4..6 => {
                        store.compact(&small(), materialize).await.expect("compacted");
                    }
                    6 => {
                        let keep = model.next_keep(&mut rng);
                        store.gc(&keep).await.expect("collected");
                    }
                    7..9 => assert!(upload(&store).await.expect("uploaded"), "nothing vanished"),
                    9..11 => {
                        let limit = rng.below(store.stats().bytes + 1);
                        store.evict(limit).await.expect("evicted");
                        let stats = store.stats();
                        let unsafe_bytes: u64 = store
                            .layers()
                            .iter()
                            .filter(|layer| !layer.place.remote)
                            .map(|layer| layer.bytes)
                            .sum();
                        assert!(
                            stats.local_bytes <= limit.max(unsafe_bytes)
                                || stats.local_bytes <= limit
                        );
                    }
                    _ => {
                        let stats = store.stats();
                        total.set((
                            total.get().0 + stats.fetched_bytes,
                            total.get().1 + stats.evicted_bytes,
                        ));
                        drop(store);
                        store = TimelineStore::open(directory()).await.expect("opened");
                        store.connect(remote(&bucket));
                    }
                }
                let local = store.layers().iter().filter(|layer| layer.place.local).count();
                assert_eq!(layer_files().await, local, "files are those that are to be here");
                if round % 5 == 4 {
                    model.compare(&store, &mut rng).await;
                }
            }
            assert_eq!(store.scrub(|_| ()).await.expect("scrubbed"), Vec::<String>::new());
        });
    }
    let (fetched, evicted) = total.get();
    assert!(fetched > 100_000 && evicted > 100_000, "{fetched} fetched, {evicted} evicted");
}

async fn layer_files() -> usize {
    let entries = fs::read_dir(directory()).await.expect("listed");
    entries.iter().filter(|entry| entry.name.to_string_lossy().ends_with(".layer")).count()
}

#[test]
fn many_readers_of_an_absent_layer_fetch_it_once() {
    simulated(1, DiskFaults::default(), async {
        let (bucket, _faults, _memory) = faulty(1, Rates::default());
        let store = create().await;
        store.connect(remote(&bucket));
        let (mut model, mut rng) = (Model::default(), Rng::seeded(3));
        fill(&store, &mut model, &mut rng, 6).await;
        assert!(upload(&store).await.expect("uploaded"));
        store.evict(0).await.expect("evicted");
        assert!(store.layers().iter().all(|layer| layer.place == REMOTE_ONLY));
        let (through, bytes) = (model.through, store.stats().bytes);
        let readers: Vec<_> = (0..50)
            .map(|_| {
                let store = store.clone();
                executor::spawn(
                    async move { store.read(&all_keys(), through, &[]).await.map(drop) },
                )
            })
            .collect();
        for reader in readers {
            reader.await.expect("not aborted").expect("read");
        }
        let stats = store.stats();
        assert!(stats.fetched_bytes > 0 && stats.fetched_bytes <= bytes, "{stats:?}");
        model.compare(&store, &mut rng).await;
        assert_eq!(store.stats().local_bytes, store.stats().fetched_bytes);
    });
}

#[test]
fn a_reader_who_gives_up_leaves_the_fetching_to_the_others() {
    simulated(2, DiskFaults::default(), async {
        let (bucket, _faults, _memory) = faulty(2, Rates::default());
        let store = create().await;
        store.connect(remote(&bucket));
        let (mut model, mut rng) = (Model::default(), Rng::seeded(4));
        fill(&store, &mut model, &mut rng, 4).await;
        assert!(upload(&store).await.expect("uploaded"));
        store.evict(0).await.expect("evicted");
        for _ in 0..20 {
            let (reader, through) = (store.clone(), model.through);
            let impatient =
                executor::spawn(
                    async move { reader.read(&all_keys(), through, &[]).await.map(drop) },
                );
            clock::sleep(Duration::from_micros(rng.below(300))).await;
            impatient.abort();
        }
        model.compare(&store, &mut rng).await;
    });
}

#[test]
fn a_damaged_object_is_refused_by_name_and_scrub_finds_it() {
    simulated(3, DiskFaults::default(), async {
        let (bucket, _faults, memory) = faulty(3, Rates::default());
        let store = create().await;
        store.connect(remote(&bucket));
        let (mut model, mut rng) = (Model::default(), Rng::seeded(5));
        fill(&store, &mut model, &mut rng, 3).await;
        assert!(upload(&store).await.expect("uploaded"));
        let layer = store.layers()[0];
        let name = remote(&bucket).layer(layer.number);
        let path = ObjectPath::from(format!("base/{name}"));
        let whole = memory.get(&path).await.expect("there").bytes().await.expect("bytes");
        let mut damaged = whole.to_vec();
        damaged[10] ^= 1;
        memory.put(&path, damaged.into()).await.expect("put");
        let found = store.scrub(|_| ()).await.expect("scrubbed");
        assert!(found.len() == 1 && found[0].contains(&name), "{found:?}");
        store.evict(0).await.expect("evicted");
        let keys = all_keys();
        let error = store.read(&keys, layer.newest, &[]).await.expect_err("it is damaged");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        assert!(error.to_string().contains(&name), "{error}");
        memory.put(&path, whole.into()).await.expect("put");
        model.compare(&store, &mut rng).await;
    });
}

#[test]
fn a_store_that_is_down_fails_reads_of_absent_layers_only() {
    simulated(4, DiskFaults::default(), async {
        let (bucket, faults, _memory) = faulty(4, Rates::default());
        let store = create().await;
        store.connect(remote(&bucket));
        let (mut model, mut rng) = (Model::default(), Rng::seeded(6));
        fill(&store, &mut model, &mut rng, 3).await;
        assert!(upload(&store).await.expect("uploaded"));
        faults.set_down(true);
        model.compare(&store, &mut rng).await;
        fill(&store, &mut model, &mut rng, 2).await;
        upload(&store).await.expect_err("it is down");
        let evicted = store.evict(0).await.expect("evicted");
        assert!(evicted.layers > 0 && store.stats().local_bytes > 0, "what is not there stays");
        store.read(&all_keys(), model.through, &[]).await.expect_err("some is not here");
        faults.set_down(false);
        model.compare(&store, &mut rng).await;
        assert!(upload(&store).await.expect("uploaded"));
        assert_eq!(store.stats().remote_bytes, store.stats().bytes);
    });
}

/// Random uploads and evictions beside the rest of the work, until it is killed.
async fn work(store: TimelineStore, known: Rc<RefCell<(Model, Option<Model>)>>, mut rng: Rng) {
    loop {
        match rng.below(8) {
            0..3 => {
                let model = known.borrow().0.clone();
                let (entries, through) = model.next_entries(&mut rng);
                let catalog = rng.next_u64().to_be_bytes().to_vec();
                let mut after = model;
                after.add(&entries, through, catalog.clone());
                known.borrow_mut().1 = Some(after);
                if flush(&store, &entries, through, catalog).await.is_err() {
                    return;
                }
                let mut known = known.borrow_mut();
                known.0 = known.1.take().expect("just put there");
            }
            3..5 => drop(store.compact(&small(), materialize).await),
            5..7 => drop(upload(&store).await),
            _ => drop(store.evict(rng.below(store.stats().bytes + 1)).await),
        }
    }
}

#[test]
fn nothing_is_lost_when_the_power_goes_between_both_places() {
    for seed in 0..30 {
        simulated(seed, DiskFaults::default(), async {
            let (bucket, _faults, _memory) = faulty(seed, Rates { refused: 3, ..Rates::default() });
            drop(create().await);
            let known = Rc::new(RefCell::new((Model::default(), None::<Model>)));
            let mut rng = Rng::seeded(seed);
            for _ in 0..10 {
                let store = TimelineStore::open(directory()).await.expect("opened");
                store.connect(remote(&bucket));
                let under_way = known.borrow_mut().1.take();
                let is_it = |model: &Model| {
                    model.through == store.flushed_through() && model.catalog == store.catalog()
                };
                if let Some(model) = under_way.filter(is_it) {
                    known.borrow_mut().0 = model;
                }
                let model = known.borrow().0.clone();
                model.compare(&store, &mut rng).await;
                let worker = work(store, Rc::clone(&known), Rng::seeded(rng.next_u64()));
                let worker = executor::spawn(worker);
                clock::sleep(Duration::from_micros(rng.below(60_000))).await;
                worker.abort();
                set_disk_capacity(Some(0));
                cut_power();
                clock::sleep(Duration::from_secs(60)).await;
                set_disk_capacity(None);
            }
        });
    }
}

#[test]
fn generations_give_numbers_of_their_own() {
    simulated(5, DiskFaults::default(), async {
        let store = create().await;
        let (mut model, mut rng) = (Model::default(), Rng::seeded(7));
        fill(&store, &mut model, &mut rng, 3).await;
        store.set_generation(2);
        fill(&store, &mut model, &mut rng, 3).await;
        drop(store);
        let store = TimelineStore::open(directory()).await.expect("opened");
        assert_eq!(store.snapshot().manifest.facts.generation, 2);
        fill(&store, &mut model, &mut rng, 1).await;
        let numbers: Vec<u64> = store.layers().iter().map(|layer| layer.number >> 40).collect();
        assert!(numbers.contains(&0) && numbers.ends_with(&[2]), "{numbers:?}");
        model.compare(&store, &mut rng).await;
    });
}

#[test]
fn a_layer_that_finds_no_room_leaves_nothing_behind() {
    simulated(1, DiskFaults::default(), async {
        let (bucket, _faults, _memory) = faulty(1, Rates::default());
        let store = create().await;
        store.connect(remote(&bucket));
        let (mut model, mut rng) = (Model::default(), Rng::seeded(3));
        fill(&store, &mut model, &mut rng, 6).await;
        upload(&store).await.expect("uploaded");
        store.evict(0).await.expect("evicted");
        set_disk_capacity(Some(0));
        let read = store.read(&all_keys(), model.through, &[]).await;
        assert_eq!(read.map_err(|error| error.kind()), Err(std::io::ErrorKind::Other));
        let entries = fs::read_dir(directory()).await.expect("listed");
        let names = entries.iter().map(|entry| entry.name.to_string_lossy().into_owned());
        let left: Vec<String> = names.filter(|name| name.ends_with(".partial")).collect();
        assert_eq!(left, Vec::<String>::new());
        set_disk_capacity(None);
        model.compare(&store, &mut rng).await;
    });
}
