//! A model of a store, random work on both, and their comparison.

use std::collections::{BTreeMap, BTreeSet};

use runtime::fs;
use runtime::io::simulated::DiskFaults;
use runtime::random::Rng;
use storage::entry::OwnedEntry;
use storage::key::{Chunk, Key};
use storage::store::compaction::{CompactionOptions, Made, Step};
use storage::store::gc::Keep;
use storage::store::{Commit, TimelineStore};
use storage::version::Version;

use super::{directory, simulated};

/// First byte of a payload.
const IMAGE: u8 = b'i';
const RECORD: u8 = b'r';

/// Everything that was ever written, and what of it is to stay readable.
#[derive(Clone, Default)]
pub(super) struct Model {
    entries: BTreeMap<(Key, Version), OwnedEntry>,
    pub(super) through: Version,
    pub(super) catalog: Vec<u8>,
    pub(super) cutoff: Version,
    pins: BTreeSet<Version>,
}

/// What a chain of versions amounts to: images begin anew, records add.
pub(super) fn fold<'e>(chain: impl IntoIterator<Item = &'e OwnedEntry>) -> Vec<u8> {
    let mut state = Vec::new();
    for entry in chain {
        let (kind, rest) = entry.payload.split_first().expect("a payload");
        if entry.whole {
            state.clear();
        }
        assert!(*kind == RECORD || entry.whole, "an image is whole");
        state.extend_from_slice(rest);
    }
    state
}

pub(super) fn all_keys() -> Vec<Key> {
    let key = |number: u32| {
        let chunk = Chunk(u128::from(number / 6).to_be_bytes());
        Key { chunk, block: number % 6 }
    };
    (0..18).map(key).collect()
}

impl Model {
    fn at(&self, key: Key, at: Version) -> Vec<u8> {
        fold(self.entries.range((key, Version(0))..=(key, at)).map(|(_, entry)| entry))
    }

    /// Entries of new versions, for a flush, and up to where it goes.
    pub(super) fn next_entries(&self, rng: &mut Rng) -> (Vec<OwnedEntry>, Version) {
        let through = Version(self.through.0 + 1 + rng.below(20));
        let mut entries = BTreeMap::new();
        let keys = all_keys();
        let width = 1 + rng.below(keys.len() as u64);
        for _ in 0..rng.below(40) {
            let key = keys[usize::try_from(rng.below(width)).expect("few")];
            let version = Version(self.through.0 + 1 + rng.below(through.0 - self.through.0));
            let mut payload = vec![RECORD];
            // Now and then so much that a layer has several blocks.
            let length = if rng.below(10) == 0 { 30_000 } else { 8 };
            while payload.len() < length {
                payload.extend_from_slice(&rng.next_u64().to_le_bytes());
            }
            let whole = rng.below(5) == 0;
            if whole && rng.below(3) == 0 {
                // As good as if there were nothing.
                payload.truncate(1);
            }
            entries.insert((key, version), OwnedEntry { key, version, whole, payload });
        }
        (entries.into_values().collect(), through)
    }

    pub(super) fn add(&mut self, entries: &[OwnedEntry], through: Version, catalog: Vec<u8>) {
        let entries = entries.iter().map(|entry| ((entry.key, entry.version), entry.clone()));
        self.entries.extend(entries);
        (self.through, self.catalog) = (through, catalog);
    }

    /// A later cut-off, other pins among what is still there.
    pub(super) fn next_keep(&mut self, rng: &mut Rng) -> Keep {
        if rng.below(2) == 0 && self.through >= self.cutoff {
            let pin = Version(self.cutoff.0 + rng.below(self.through.0 - self.cutoff.0 + 1));
            self.pins.insert(pin);
        }
        if rng.below(3) == 0 {
            self.pins.pop_first();
        }
        if self.through > self.cutoff {
            self.cutoff = Version(self.cutoff.0 + rng.below(self.through.0 - self.cutoff.0 + 1));
        }
        Keep { cutoff: self.cutoff, pins: self.pins.iter().copied().collect() }
    }

    fn kept(&self) -> Vec<Version> {
        let later = (self.cutoff.0..=self.through.0).map(Version);
        self.pins.iter().copied().chain(later).collect()
    }

    /// Compares every key at some kept versions, the first and the last among them, and answers to readers who know an
    /// earlier one.
    pub(super) async fn compare(&self, store: &TimelineStore, rng: &mut Rng) {
        assert_eq!(store.flushed_through(), self.through);
        assert_eq!(store.catalog(), self.catalog);
        let keys = all_keys();
        let kept = self.kept();
        let mut versions: BTreeSet<Version> = self.pins.iter().copied().collect();
        versions.extend([self.cutoff.min(self.through), self.through]);
        versions.extend(
            (0..8).filter_map(|_| kept.get(usize::try_from(rng.below(kept.len() as u64)).ok()?)),
        );
        for at in versions {
            let read = store.read(&keys, at, &[]).await.expect("readable");
            for (&key, chain) in keys.iter().zip(&read) {
                check_chain(key, at, chain);
                assert!(fold(chain) == self.at(key, at), "{key:?} at {at:?}: {chain:?}");
            }
        }
        for _ in 0..20 {
            let mut pick = || kept[usize::try_from(rng.below(kept.len() as u64)).expect("few")];
            let (one, other) = (pick(), pick());
            let (known, at) = (one.min(other), one.max(other));
            let key = keys[usize::try_from(rng.below(keys.len() as u64)).expect("few")];
            if key.block == 4 {
                // Images may leave it out: its readers would have to know by themselves that it ended.
                continue;
            }
            let read = store.read(&[key], at, &[Some(known)]).await.expect("readable");
            check_chain(key, at, &read[0]);
            assert!(read[0].iter().all(|entry| entry.version > known));
            let mut state = self.at(key, known);
            if read[0].first().is_some_and(|first| first.whole) {
                state.clear();
            }
            state.extend(fold(&read[0]));
            assert!(state == self.at(key, at), "{key:?} from {known:?} to {at:?}");
        }
    }
}

/// Sorted, in bounds, and at most the first is whole.
fn check_chain(key: Key, at: Version, chain: &[OwnedEntry]) {
    assert!(chain.iter().all(|entry| entry.key == key && entry.version <= at));
    assert!(chain.is_sorted_by(|one, other| one.version < other.version));
    assert!(chain.iter().skip(1).all(|entry| !entry.whole));
}

/// Sizes at which all kinds of steps happen.
pub(super) fn small() -> CompactionOptions {
    CompactionOptions {
        level0_layers: 2,
        delta_depth: 2,
        image_percent: 50,
        delta_depth_max: 4,
        collected_percent: 20,
        collected_bytes_min: 0,
        layer_raw_bytes: 300,
    }
}

/// An image, but for some keys none can be made.
pub(super) async fn materialize(
    key: Key,
    at: Version,
    chain: Vec<OwnedEntry>,
) -> Result<Made, String> {
    check_chain(key, at, &chain);
    if key.block == 5 {
        return Ok(Made::AsTheyAre);
    }
    if key.block == 4 && chain.iter().all(|entry| entry.payload.len() == 1) {
        return Ok(Made::Nothing);
    }
    let mut payload = vec![IMAGE];
    payload.extend(fold(&chain));
    Ok(Made::Whole(payload))
}

/// A flush of the model's next entries; they count in the model when the store has said so.
pub(super) async fn flush(
    store: &TimelineStore,
    entries: &[OwnedEntry],
    through: Version,
    catalog: Vec<u8>,
) -> std::io::Result<()> {
    let mut layer = store.begin_layer().await?;
    for entry in entries {
        layer.add(entry.borrow()).await?;
    }
    let layers = layer.finish().await?.into_iter().collect();
    let (flushed_through, catalog) = (Some(through), Some(catalog));
    store.commit(Commit { layers, flushed_through, catalog }).await
}

/// Names in the store's directory.
async fn files() -> Vec<String> {
    let entries = fs::read_dir(directory()).await.expect("listed");
    entries.into_iter().map(|entry| entry.name.to_string_lossy().into_owned()).collect()
}

#[test]
fn every_kept_version_reads_the_same_whatever_maintenance_does() {
    let (mut merged, mut imaged, mut collected) = (0, 0, 0);
    for seed in 0..60 {
        let counts = std::cell::RefCell::new((0, 0, 0));
        simulated(seed, DiskFaults::default(), async {
            fs::create_dir_all(directory()).await.expect("made");
            let mut store = TimelineStore::create(directory()).await.expect("created");
            let (mut model, mut rng) = (Model::default(), Rng::seeded(seed));
            for round in 0..60u64 {
                match rng.below(10) {
                    0..4 => {
                        let (entries, through) = model.next_entries(&mut rng);
                        let catalog = round.to_be_bytes().to_vec();
                        flush(&store, &entries, through, catalog.clone()).await.expect("flushed");
                        model.add(&entries, through, catalog);
                    }
                    step @ 4..8 => {
                        let step = match step {
                            4 => store.make_room(model.cutoff, &small(), materialize).await,
                            _ => store.compact(&small(), materialize).await,
                        };
                        match step.expect("compacted") {
                            Step::Nothing => {}
                            Step::Merged { .. } => counts.borrow_mut().0 += 1,
                            Step::Imaged { .. } => counts.borrow_mut().1 += 1,
                        }
                    }
                    8 => {
                        let keep = model.next_keep(&mut rng);
                        let before = store.stats();
                        let done = store.gc(&keep).await.expect("collected");
                        assert_eq!(before.layers - store.stats().layers, done.layers);
                        assert_eq!(before.bytes - store.stats().bytes, done.bytes);
                        counts.borrow_mut().2 += done.layers;
                    }
                    _ => {
                        drop(store);
                        store = TimelineStore::open(directory()).await.expect("opened");
                    }
                }
                assert!(store.layers().iter().all(|layer| layer.first <= layer.last));
                let layers = files().await.iter().filter(|name| name.ends_with(".layer")).count();
                assert_eq!(layers as u64, store.stats().layers, "no file is left over");
                if round % 5 == 4 {
                    model.compare(&store, &mut rng).await;
                }
            }
            assert_eq!(store.scrub(|_| ()).await.expect("scrubbed"), Vec::<String>::new());
        });
        let (m, i, c) = counts.into_inner();
        (merged, imaged, collected) = (merged + m, imaged + i, collected + c);
    }
    assert!(merged > 50 && imaged > 50 && collected > 50, "{merged} {imaged} {collected}");
}
