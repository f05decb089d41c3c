//! Versions of pages into whole pages, for image layers.

use pg::lsn::Lsn;
use runtime::executor;
use storage::entry::OwnedEntry;
use storage::key::Key;
use storage::store::compaction::Made;

use crate::error::PageError;
use crate::get_page::Build;
use crate::keys;
use crate::page_cache::Reading;
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
        Some((tag, block)) => {
            let build = Build { timeline, tag, block, reading: Reading::Scan };
            build.for_image(at, entries).await
        }
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
        let Ok(content) = self.timeline.content(version).await else { return false };
        matches!(content.payload(version.lsn), Ok(Payload::Image { .. }))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;
    use std::rc::Rc;

    use pg::datadir::slru::Slru;
    use pg::page::PAGE_BYTES;
    use pg::state::Counters;
    use pg::wal::record::RawRecord;
    use pg::wal::segment::WalVersion;
    use runtime::fs;
    use runtime::io::{Backend, Options};
    use runtime::random::Rng;
    use storage::entry::Entry;
    use storage::store::compaction::{CompactionOptions, Step};
    use storage::store::gc::Keep;
    use storage::store::{Commit, TimelineStore};

    use super::*;
    use crate::catalog::Catalog;
    use crate::index::{Effect, Position};
    use crate::limits::{CLONE_DEPTH_MAX, VALUE_KEPT_RECORDS_MIN, VALUE_RECORDS_BEHIND};
    use crate::manifest::Manifest;
    use crate::settings::Settings;
    use crate::state::directory::Directory;
    use crate::state::snapshot::Snapshot;
    use crate::wal_store::FOLDER;
    use crate::wal_store::writer::WalWriter;

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
    pub(crate) async fn timeline() -> Timeline {
        let directory = Path::new("/ps");
        let layers = directory.join("timelines/main");
        fs::create_dir_all(&layers).await.expect("made");
        fs::create_dir_all(&directory.join(FOLDER)).await.expect("made");
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
            add_layer(&store, commits(200, at, xid)).await;
            (at, xid) = (at + 200 * STEP, xid + 200);
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

    /// A layer's worth of commits from `at` on, the first of `xid`, with the snapshot at their end.
    fn commits(count: u32, mut at: Lsn, xid: u32) -> Vec<OwnedEntry> {
        let mut entries = Vec::new();
        for xid in xid..xid + count {
            let (bytes, end) = (commit(xid), at + STEP);
            let version = WalVersion::from_major(15).expect("it is known");
            let record = RawRecord::new(&bytes, at, end, version).expect("a record");
            let position = Position::new(at, end, Effect::Change, 0).expect("short");
            entries.push(entry(keys::value(LOG), end, false, payload::record(position, &record)));
            at = end;
        }
        entries.push(entry(keys::SNAPSHOT, at, true, snapshot(at, &[LOG])));
        entries
    }

    async fn log(timeline: &Timeline, at: Lsn) -> Vec<u8> {
        timeline.rebuilt_value(LOG, at, CLONE_DEPTH_MAX).await.expect("read")
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
            let (then, now) = (log(&timeline, middle).await, log(&timeline, end).await);
            assert!(then != now, "commits change the page");
            assert_eq!(versions(&timeline, LOG, end).await, 1601);
            assert_eq!(versions(&timeline, PREPARED, end).await, 1);
            let (bytes, layers) = (timeline.store.stats().bytes, timeline.store.stats().layers);

            assert!(improve(&timeline).await > 0);
            assert_eq!(versions(&timeline, LOG, end).await, 1, "one page");
            assert!(log(&timeline, end).await == now);
            assert!(log(&timeline, middle).await == then);
            assert_eq!(versions(&timeline, PREPARED, end).await, 0, "it is over");
            assert_eq!(versions(&timeline, PREPARED, Lsn(1 << 24)).await, 1, "it was there");

            let keep = Keep { cutoff: storage::version::Version(end.0), pins: Vec::new() };
            let gone = timeline.store.gc(&keep).await.expect("collected");
            assert!(gone.layers > 0, "of {layers} layers");
            let left = timeline.store.stats();
            assert_eq!(left.layers, left.image_layers, "only images are left");
            assert!(left.bytes < bytes / 2, "{} of {bytes}", left.bytes);
            assert!(log(&timeline, end).await == now);
            let state = timeline.snapshot_at(end).await.expect("it is known");
            assert!(state.directory.has(LOG) && !state.directory.has(PREPARED));
            Rc::new(timeline)
        };
        executor::block_on(&options, test).expect("this thread can be a core");
    }

    /// A branch of `main`, left in the middle, with commits of its own.
    async fn branch(main: &Rc<Timeline>) -> Timeline {
        let (directory, left) = (Path::new("/ps"), Lsn((1 << 24) + 700 * STEP));
        let layers = directory.join("timelines/b");
        fs::create_dir_all(&layers.join(FOLDER)).await.expect("made");
        let store = TimelineStore::create(&layers).await.expect("created");
        add_layer(&store, commits(300, left, 5000)).await;
        drop(store);
        let from = (Rc::clone(main), left);
        let opened = Timeline::open_branch(directory, "b", from, &Settings::default()).await;
        opened.expect("opened")
    }

    #[test]
    fn a_value_at_hand_is_the_one_that_is_rebuilt_from_what_is_stored() {
        let options = Options::on(Backend::Simulated);
        let test = async {
            let main = Rc::new(timeline().await);
            let branch = branch(&main).await;
            let start = main.manifest.start;
            let mut rng = Rng::seeded(5);
            for round in 0..150 {
                if round == 100 {
                    improve(&main).await;
                }
                let timeline = if rng.below(2) == 0 { &*main } else { &branch };
                let end = timeline.flushed();
                let at = start + rng.below(end.bytes_since(start) + 1);
                let value = timeline.value(LOG, at).await.expect("read");
                assert!(value == log(timeline, at).await, "{} as of {at}", timeline.name);
            }
            for timeline in [&*main, &branch] {
                let kept = timeline.values.borrow().as_of(LOG).expect("it took many records");
                assert!(kept > start && kept <= timeline.flushed());
            }
            assert!(log(&main, main.flushed()).await != log(&branch, branch.flushed()).await);
        };
        executor::block_on(&options, test).expect("this thread can be a core");
    }

    /// Commits in the newest WAL, which is on disk: as many records as there are positions, from `at` on.
    async fn write_wal(timeline: &Timeline, mut at: Lsn, xid: u32, count: u32) -> Vec<Position> {
        let (mut wal, mut positions) = (Vec::new(), Vec::new());
        for xid in xid..xid + count {
            let mut bytes = commit(xid);
            let crc = crc32c::crc32c(&bytes[24..]);
            let crc = crc32c::crc32c_append(crc, &bytes[..20]);
            bytes[20..24].copy_from_slice(&crc.to_le_bytes());
            bytes.resize(40, 0);
            // None crosses into another page of WAL, whose header would have to be right.
            let page_end = at.0.next_multiple_of(PAGE_BYTES as u64);
            if page_end - at.0 < 40 {
                let next = page_end + 40;
                wal.resize(wal.len() + usize::try_from(next - at.0).expect("short"), 0);
                at = Lsn(next);
            }
            wal.extend_from_slice(&bytes);
            positions.push(Position::new(at, at + 40, Effect::Change, 0).expect("short"));
            at = at + 40;
        }
        let start = Lsn(at.0 - wal.len() as u64);
        let mut writer = WalWriter::new(timeline.wal_layout.clone());
        writer.append(start, wal).await.0.expect("written");
        timeline.wal.set_readable(at);
        for position in &positions {
            timeline.level0.borrow_mut().touch(keys::value(LOG), *position);
        }
        timeline.advance(at);
        positions
    }

    #[test]
    fn a_page_that_many_transactions_change_is_kept_at_hand() {
        let options = Options::on(Backend::Simulated);
        let test = async {
            let timeline = timeline().await;
            let known = || timeline.values.borrow().as_of(LOG);
            let start = timeline.flushed();
            let many = u32::try_from(VALUE_RECORDS_BEHIND).expect("few");
            let few = u32::try_from(VALUE_KEPT_RECORDS_MIN).expect("few") - 1;
            let first = write_wal(&timeline, start, 10_000, few).await;
            timeline.keep_values_at_hand().await.expect("read");
            assert_eq!(known(), None, "few records are read when somebody asks");
            assert_eq!(timeline.page_for_layer(keys::value(LOG), &first).await, None);

            let all = write_wal(&timeline, timeline.ingested(), 11_000, many).await;
            timeline.keep_values_at_hand().await.expect("read");
            assert_eq!(known(), Some(timeline.ingested()));
            let page = log(&timeline, timeline.ingested()).await;
            assert!(timeline.value(LOG, timeline.ingested()).await.expect("read") == page);
            let stored = timeline.page_for_layer(keys::value(LOG), &all).await;
            let whole = payload::image(page.as_slice().try_into().expect("a page"));
            assert!(stored == Some(whole), "a layer has the page after the last of many");

            let before = timeline.ingested();
            write_wal(&timeline, before, 20_000, few).await;
            timeline.keep_values_at_hand().await.expect("read");
            assert_eq!(known(), Some(before), "it is near enough");
            let value = timeline.value(LOG, timeline.ingested()).await.expect("read");
            assert!(value == log(&timeline, timeline.ingested()).await && value != page);
        };
        executor::block_on(&options, test).expect("this thread can be a core");
    }
}
