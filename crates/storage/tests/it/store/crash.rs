//! Power cuts, failing writes and a full disk: what was acknowledged is there, and nothing else is.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use runtime::io::simulated::{DiskFaults, cut_power, set_disk_capacity};
use runtime::random::Rng;
use runtime::{clock, executor, fs};
use storage::store::TimelineStore;

use super::model::{Model, flush, materialize, small};
use super::{directory, simulated};

/// The model as acknowledged, and as it is if a flush under way counts.
#[derive(Default)]
struct Known {
    acknowledged: Model,
    under_way: Option<Model>,
}

/// Random work until something fails, or for ever.
async fn work(store: TimelineStore, known: Rc<RefCell<Known>>, mut rng: Rng) {
    loop {
        let done = match rng.below(8) {
            0..4 => {
                let model = known.borrow().acknowledged.clone();
                let (entries, through) = model.next_entries(&mut rng);
                let catalog = rng.next_u64().to_be_bytes().to_vec();
                let mut after = model;
                after.add(&entries, through, catalog.clone());
                known.borrow_mut().under_way = Some(after);
                let done = flush(&store, &entries, through, catalog).await;
                if done.is_ok() {
                    let mut known = known.borrow_mut();
                    known.acknowledged = known.under_way.take().expect("just put there");
                }
                done
            }
            4..6 => store.compact(&small(), materialize).await.map(drop),
            6 => {
                let cutoff = known.borrow().acknowledged.cutoff;
                store.make_room(cutoff, &small(), materialize).await.map(drop)
            }
            _ => {
                // What is no longer kept may be gone before that is acknowledged.
                let keep = known.borrow_mut().acknowledged.next_keep(&mut rng);
                store.gc(&keep).await.map(drop)
            }
        };
        if done.is_err() {
            return;
        }
    }
}

/// Which of the two it is; the other is forgotten.
async fn settle(store: &TimelineStore, known: &Rc<RefCell<Known>>, rng: &mut Rng) {
    let model = {
        let mut known = known.borrow_mut();
        let under_way = known.under_way.take();
        let counts = |model: &Model| {
            model.through == store.flushed_through() && model.catalog == store.catalog()
        };
        if let Some(under_way) = under_way.filter(counts) {
            known.acknowledged = under_way;
        }
        known.acknowledged.clone()
    };
    model.compare(store, rng).await;
}

async fn cut_again_and_again(seed: u64, rounds: u32) -> u64 {
    fs::create_dir_all(directory()).await.expect("made");
    fs::sync_dir("").await.expect("durable");
    drop(TimelineStore::create(directory()).await.expect("created"));
    let known = Rc::new(RefCell::new(Known::default()));
    let mut rng = Rng::seeded(seed);
    for round in 0..rounds {
        let store = TimelineStore::open(directory()).await.expect("opened");
        settle(&store, &known, &mut rng).await;
        let worker = executor::spawn(work(store, Rc::clone(&known), Rng::seeded(rng.next_u64())));
        clock::sleep(Duration::from_micros(rng.below(40_000))).await;
        worker.abort();
        // Nobody writes after the cut: in a dead process nobody would.
        set_disk_capacity(Some(0));
        cut_power();
        clock::sleep(Duration::from_secs(1)).await;
        set_disk_capacity(None);
        assert!(round < rounds);
    }
    known.borrow().acknowledged.through.0
}

#[test]
fn what_was_acknowledged_survives_power_cuts() {
    let mut total = 0;
    for seed in 0..40 {
        let through = std::cell::Cell::new(0);
        simulated(seed, DiskFaults::default(), async {
            through.set(cut_again_and_again(seed, 12).await);
        });
        total += through.get();
    }
    assert!(total > 40 * 30, "work was done: {total}");
}

#[test]
fn failing_writes_and_syncs_lose_nothing_acknowledged() {
    for seed in 0..30 {
        let disk = DiskFaults { write_error: 20_000, sync_error: 20_000, capacity: None };
        simulated(seed, disk, async {
            if fs::create_dir_all(directory()).await.is_err() {
                return;
            }
            fs::sync_dir("").await.expect("durable");
            if TimelineStore::create(directory()).await.is_err() {
                return;
            }
            let known = Rc::new(RefCell::new(Known::default()));
            let mut rng = Rng::seeded(seed);
            for _ in 0..6 {
                let store = TimelineStore::open(directory()).await.expect("opened");
                settle(&store, &known, &mut rng).await;
                // The same store goes on after a failure, three times.
                for _ in 0..3 {
                    let work = work(store.clone(), Rc::clone(&known), Rng::seeded(rng.next_u64()));
                    // Given up in the middle, it must do no harm either.
                    let limit = Duration::from_micros(rng.below(100_000));
                    let _ended = clock::timeout(limit, work).await;
                    clock::sleep(Duration::from_secs(1)).await;
                    settle(&store, &known, &mut rng).await;
                }
            }
        });
    }
}

#[test]
fn a_full_disk_refuses_and_works_again_with_room() {
    simulated(1, DiskFaults::default(), async {
        fs::create_dir_all(directory()).await.expect("made");
        let store = TimelineStore::create(directory()).await.expect("created");
        let (mut model, mut rng) = (Model::default(), Rng::seeded(1));
        for round in 0..15u64 {
            let (entries, through) = model.next_entries(&mut rng);
            let catalog = round.to_be_bytes().to_vec();
            let room = store.stats().bytes + rng.below(4000);
            set_disk_capacity(Some(room));
            let refused = flush(&store, &entries, through, catalog.clone()).await;
            if refused.is_err() {
                let kind = refused.map_err(|error| error.kind());
                assert_eq!(kind, Err(std::io::ErrorKind::StorageFull));
                model.compare(&store, &mut rng).await;
                set_disk_capacity(None);
                flush(&store, &entries, through, catalog.clone()).await.expect("room again");
            }
            model.add(&entries, through, catalog);
            model.compare(&store, &mut rng).await;
        }
    });
}

/// Layers and catalogs in the store's directory.
async fn files() -> usize {
    let entries = fs::read_dir(directory()).await.expect("listed");
    let names = entries.iter().map(|entry| entry.name.to_string_lossy());
    names.filter(|name| name.ends_with(".layer") || name.ends_with(".catalog")).count()
}

#[test]
fn what_a_full_disk_refused_takes_no_room() {
    let (refused_flushes, refused_merges) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    for seed in 0..20 {
        simulated(seed, DiskFaults::default(), async {
            fs::create_dir_all(directory()).await.expect("made");
            let store = TimelineStore::create(directory()).await.expect("created");
            let (mut model, mut rng) = (Model::default(), Rng::seeded(seed));
            for _ in 0..30 {
                let (entries, through) = model.next_entries(&mut rng);
                // A catalog that does not fit where the layer does.
                let catalog = vec![7; 5000];
                let room = store.stats().bytes + 5000 + rng.below(60_000);
                set_disk_capacity(Some(room));
                if flush(&store, &entries, through, catalog.clone()).await.is_err() {
                    refused_flushes.set(refused_flushes.get() + 1);
                    set_disk_capacity(None);
                    flush(&store, &entries, through, catalog.clone()).await.expect("room again");
                }
                model.add(&entries, through, catalog);
                assert_eq!(files().await, store.layers().len() + 1);
                set_disk_capacity(Some(store.stats().bytes + 5000 + rng.below(60_000)));
                if store.compact(&small(), materialize).await.is_err() {
                    refused_merges.set(refused_merges.get() + 1);
                }
                set_disk_capacity(None);
            }
            model.compare(&store, &mut rng).await;
        });
    }
    let (flushes, merges) = (refused_flushes.get(), refused_merges.get());
    assert!(flushes > 20 && merges > 20, "{flushes} flushes, {merges} merges");
}
