//! Versions of pages into whole pages, for image layers.

use pg::lsn::Lsn;
use runtime::executor;
use storage::entry::OwnedEntry;
use storage::key::Key;
use storage::store::compaction::Made;

use crate::error::PageError;
use crate::get_page::Build;
use crate::keys;
use crate::payload::{self, Payload};
use crate::timeline::Timeline;
use crate::versions::Version;

/// What an image as of `at` has for a key, of which the timeline has these versions of its own up to then.
pub(crate) async fn materialize(
    timeline: &Timeline,
    key: Key,
    at: Lsn,
    entries: Vec<OwnedEntry>,
) -> Result<Made, String> {
    let made = match keys::relation_block(key) {
        Some((tag, block)) => Build { timeline, tag, block }.for_image(at, entries).await,
        None => timeline.value_for_image(key, at, &entries).await,
    };
    match made {
        Ok(made) => Ok(made),
        Err(error @ PageError::Io { .. }) => Err(error.to_string()),
        // Who reads the page is told; for others it stays as it is.
        Err(_) => Ok(Made::AsTheyAre),
    }
}

impl Build<'_> {
    async fn for_image(self, at: Lsn, entries: Vec<OwnedEntry>) -> Result<Made, PageError> {
        let blocks = self.timeline.catalog.borrow().blocks_at(self.tag, at);
        if blocks.is_none_or(|blocks| self.block >= blocks) {
            return Ok(Made::Nothing);
        }
        let (origin, born) = self.origin_at(at);
        let mut versions: Vec<Version> = entries.into_iter().map(Version::stored).collect();
        versions.retain(|version| version.lsn > born);
        match &versions[..] {
            [] => return Ok(Made::Nothing),
            [only] if self.is_image(only).await => return Ok(Made::AsTheyAre),
            _ => {}
        }
        executor::yield_now().await;
        let page = self.of_versions(&versions, (origin, born)).await?;
        Ok(Made::Whole(payload::image(&page)))
    }

    async fn is_image(self, version: &Version) -> bool {
        let Ok(bytes) = self.timeline.payload(version).await else { return false };
        matches!(Payload::read(&bytes, version.lsn), Ok(Payload::Image { .. }))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::rc::Rc;

    use pg::datadir::slru::Slru;
    use pg::page::PAGE_BYTES;
    use pg::state::Counters;
    use pg::wal::record::RawRecord;
    use pg::wal::segment::WalVersion;
    use runtime::fs;
    use runtime::io::{Backend, Options};
    use storage::entry::Entry;
    use storage::store::compaction::{CompactionOptions, Step};
    use storage::store::gc::Keep;
    use storage::store::{Commit, TimelineStore};

    use super::*;
    use crate::catalog::Catalog;
    use crate::index::{Effect, Position};
    use crate::manifest::Manifest;
    use crate::settings::Settings;
    use crate::state::directory::Directory;
    use crate::state::snapshot::Snapshot;

    const LOG: pg::state::Key = pg::state::Key::Slru(Slru::Clog, 0);
    const PREPARED: pg::state::Key = pg::state::Key::TwoPhase(7);
    /// WAL between the ends of two records here.
    const STEP: u64 = 100;

    /// `XLOG_XACT_COMMIT` of a transaction, with nothing but a time.
    fn commit(xid: u32) -> Vec<u8> {
        let mut bytes = vec![0; 24];
        bytes[0] = 24 + 2 + 8;
        bytes[4..8].copy_from_slice(&xid.to_le_bytes());
        bytes[17] = 1;
        bytes.extend_from_slice(&[0xFF, 8]);
        bytes.extend_from_slice(&[0; 8]);
        bytes
    }

    fn snapshot(end: Lsn, named: &[pg::state::Key]) -> Vec<u8> {
        let mut directory = Directory::default();
        assert!(named.iter().all(|key| directory.insert(*key)));
        let (last_record, counters) = (Lsn(end.0 - STEP), Counters::ZERO);
        payload::value(&Snapshot { end, last_record, counters, directory }.to_bytes())
    }

    async fn add_layer(store: &TimelineStore, mut entries: Vec<OwnedEntry>) {
        entries.sort_by_key(|entry| (entry.key, entry.version));
        let mut layer = store.begin_layer().await.expect("begun");
        let mut newest = 0;
        for entry in &entries {
            newest = newest.max(entry.version.0);
            let OwnedEntry { key, version, whole, ref payload } = *entry;
            layer.add(Entry { key, version, whole, payload }).await.expect("added");
        }
        let layers = layer.finish().await.expect("finished").into_iter().collect();
        let flushed_through = Some(storage::version::Version(newest));
        let catalog = Some(Catalog::default().to_bytes(Lsn::MAX));
        store.commit(Commit { layers, flushed_through, catalog }).await.expect("committed");
    }

    fn entry(key: Key, end: Lsn, whole: bool, payload: Vec<u8>) -> OwnedEntry {
        OwnedEntry { key, version: storage::version::Version(end.0), whole, payload }
    }

    /// A timeline whose store has eight layers of commits in one page of `pg_xact`, and a prepared transaction that is over
    /// after the first.
    async fn timeline() -> Timeline {
        let directory = Path::new("/ps");
        let layers = directory.join("timelines/main");
        fs::create_dir_all(&layers).await.expect("made");
        let store = TimelineStore::create(&layers).await.expect("created");
        let (start, log) = (Lsn(1 << 24), keys::value(LOG));
        let first = vec![
            entry(log, start, true, payload::image(&[0; PAGE_BYTES])),
            entry(keys::value(PREPARED), start, true, payload::value(b"prepared")),
            entry(keys::SNAPSHOT, start, true, snapshot(start, &[LOG, PREPARED])),
        ];
        add_layer(&store, first).await;
        let (mut at, mut xid) = (start, 1000);
        for _layer in 0..8 {
            let mut entries = Vec::new();
            for _record in 0..200 {
                let (bytes, end) = (commit(xid), at + STEP);
                let version = WalVersion::from_major(15).expect("it is known");
                let record = RawRecord::new(&bytes, at, end, version).expect("a record");
                let position = Position::new(at, end, Effect::Change, 0).expect("short");
                entries.push(entry(log, end, false, payload::record(position, &record)));
                (at, xid) = (end, xid + 1);
            }
            entries.push(entry(keys::SNAPSHOT, at, true, snapshot(at, &[LOG])));
            add_layer(&store, entries).await;
        }
        drop(store);
        let manifest = Manifest {
            system_identifier: 1,
            timeline: 1,
            start,
            end: start,
            wal_segment_bytes: 16 << 20,
            server_version: 15_00_00,
            data_checksums: false,
            tablespaces: Vec::new(),
        };
        Timeline::open_main(directory, manifest, &Settings::default()).await.expect("opened")
    }

    async fn versions(timeline: &Timeline, key: pg::state::Key, at: Lsn) -> usize {
        timeline.versions(keys::value(key), Lsn::INVALID, at).await.expect("read").len()
    }

    /// Merges and makes images until nothing is left to do.
    async fn improve(timeline: &Timeline) -> usize {
        let options = CompactionOptions {
            level0_layers: 2,
            delta_depth: 1,
            image_percent: 1,
            ..CompactionOptions::default()
        };
        let mut images = 0;
        loop {
            let make = async |key, at: storage::version::Version, entries| {
                materialize(timeline, key, Lsn(at.0), entries).await
            };
            match timeline.store.compact(&options, make).await.expect("compacted") {
                Step::Nothing => return images,
                Step::Merged { .. } => {}
                Step::Imaged { .. } => images += 1,
            }
        }
    }

    #[test]
    fn a_long_chain_of_a_transaction_log_becomes_one_page_and_its_layers_go() {
        let options = Options::on(Backend::Simulated);
        let test = async {
            let timeline = timeline().await;
            let end = timeline.flushed();
            let middle = Lsn((1 << 24) + 700 * STEP);
            let then = timeline.value(LOG, middle).await.expect("read");
            let now = timeline.value(LOG, end).await.expect("read");
            assert!(then != now, "commits change the page");
            assert_eq!(versions(&timeline, LOG, end).await, 1601);
            assert_eq!(versions(&timeline, PREPARED, end).await, 1);
            let (bytes, layers) = (timeline.store.stats().bytes, timeline.store.stats().layers);

            assert!(improve(&timeline).await > 0);
            assert_eq!(versions(&timeline, LOG, end).await, 1, "one page");
            assert!(timeline.value(LOG, end).await.expect("read") == now);
            assert!(timeline.value(LOG, middle).await.expect("read") == then);
            assert_eq!(versions(&timeline, PREPARED, end).await, 0, "it is over");
            assert_eq!(versions(&timeline, PREPARED, Lsn(1 << 24)).await, 1, "it was there");

            let keep = Keep { cutoff: storage::version::Version(end.0), pins: Vec::new() };
            let gone = timeline.store.gc(&keep).await.expect("collected");
            assert!(gone.layers > 0, "of {layers} layers");
            let left = timeline.store.stats();
            assert_eq!(left.layers, left.image_layers, "only images are left");
            assert!(left.bytes < bytes / 2, "{} of {bytes}", left.bytes);
            assert!(timeline.value(LOG, end).await.expect("read") == now);
            let state = timeline.snapshot_at(end).await.expect("it is known");
            assert!(state.directory.has(LOG) && !state.directory.has(PREPARED));
            Rc::new(timeline)
        };
        executor::block_on(&options, test).expect("this thread can be a core");
    }
}
