//! What a cluster keeps beside relation pages, by LSN: every value is kept as a page is (see [`pg::state`]), and counters
//! and the list of values as snapshots with what records changed since.
//!
//! Three places have it: the snapshot that the newest WAL is taken into; snapshots at intervals of the WAL that is not
//! in the store yet, with that WAL; and in the store, under one key, snapshots and every change between them. So a
//! moment's snapshot is found without any WAL that is in the store, and with no more than [`STATE_WAL_BYTES_MAX`] of what
//! is not.
//!
//! Invariant: with each flush a snapshot as of its end is stored, where the next start begins.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use pg::datadir::slru::Slru;
use pg::lsn::Lsn;
use pg::page::PAGE_BYTES;
use pg::redo::effects::{Change, effects};
use pg::state::{Key, redo};
use pg::wal::reader::StreamDecoder;
use pg::wal::record::RawRecord;
use runtime::executor;
use storage::entry::OwnedEntry;
use storage::store::compaction::Made;

use crate::error::{Error, PageError};
use crate::index::{Effect, Position};
use crate::keys;
use crate::limits::{
    CLONE_DEPTH_MAX, REDO_RECORDS_AT_ONCE, STATE_WAL_BYTES_MAX, VALUE_KEPT_RECORDS_MIN,
    VALUE_RECORDS_BEHIND, WAL_WRITE_BYTES_MAX,
};
use crate::payload::{self, Payload};
use crate::timeline::Timeline;
use crate::versions::Version;

pub mod directory;
pub mod snapshot;
pub mod value_cache;

use directory::Directory;
use snapshot::{Changed, Snapshot};

/// The snapshots of one timeline's newest WAL.
#[derive(Debug, Default)]
pub struct Tracker {
    /// As of the last record taken in; `None` until [`Timeline::begin_state`].
    live: Option<Snapshot>,
    /// As of [`Timeline::flushed`], and then at intervals.
    stops: BTreeMap<Lsn, Rc<Snapshot>>,
    /// Which values there were at the moment that an image was made for last.
    imaged: Option<(Lsn, Rc<Directory>)>,
}

impl Tracker {
    /// Takes the next record as far as its header goes.
    pub fn take_header(&mut self, raw: &RawRecord<'_>) -> Result<(), Error> {
        let Some(live) = &mut self.live else {
            return Err(Error::Damaged(format!("no counters are known before {}", raw.lsn)));
        };
        live.take_header(raw);
        Ok(())
    }

    /// Takes one of its changes; `touch` is told which values it changes.
    pub fn take_change(&mut self, change: &Change<'_>, touch: impl FnMut(Key, Effect)) {
        if let Some(live) = &mut self.live {
            live.take_change(change, touch);
        }
    }

    /// The record is taken in.
    pub fn end_record(&mut self) {
        let Some(live) = &self.live else { return };
        let last = self.stops.last_key_value().map_or(Lsn::INVALID, |(end, _)| *end);
        if live.end.bytes_since(last) >= STATE_WAL_BYTES_MAX {
            self.stops.insert(live.end, Rc::new(live.clone()));
        }
    }

    /// Everything up to this snapshot is in the store.
    fn flushed(&mut self, through: Snapshot) {
        self.stops = self.stops.split_off(&through.end);
        self.stops.insert(through.end, Rc::new(through));
    }

    /// The last one at or before `lsn` that the WAL in memory's reach goes on from.
    fn stop(&self, lsn: Lsn) -> Option<Rc<Snapshot>> {
        self.stops.range(..=lsn).next_back().map(|(_, snapshot)| Rc::clone(snapshot))
    }
}

impl Timeline {
    /// Finds the snapshot from which WAL is to be taken in: that of the last flush, or of the branch point, if that is here.
    pub(crate) async fn begin_state(&self) -> Result<(), Error> {
        if self.state.borrow().live.is_some() {
            return Ok(());
        }
        if let Some((ancestor, at)) = &self.ancestor {
            // Its WAL is still to be received again: what this one has of its own goes on from there.
            if ancestor.ingested() < *at {
                return Ok(());
            }
        }
        let start = self.flushed();
        let found = self.snapshot_at(start).await;
        let mut snapshot = found.map_err(|error| Error::Damaged(error.to_string()))?;
        snapshot.end = start;
        let mut state = self.state.borrow_mut();
        state.stops.insert(start, Rc::new(snapshot.clone()));
        state.live = Some(snapshot);
        Ok(())
    }

    /// Counters and the list of values as of the last record that ends at or before `lsn`.
    ///
    /// Where the WAL before `lsn` is not here any more, `end` and `last_record` are those of the last record that changed
    /// something of it.
    pub(crate) async fn snapshot_at(&self, lsn: Lsn) -> Result<Snapshot, PageError> {
        let name = || "the state of the cluster".to_owned();
        let failed = |error: io::Error| failure(name(), &error);
        let (mut timeline, mut upto) = (self, lsn);
        loop {
            match &timeline.ancestor {
                Some((ancestor, at)) if upto <= *at => timeline = ancestor,
                _ => {
                    if let Some(found) = timeline.snapshot_here(upto).await.map_err(failed)? {
                        return Ok(found);
                    }
                    let Some((ancestor, at)) = &timeline.ancestor else { break };
                    (timeline, upto) = (ancestor, *at);
                }
            }
        }
        let what = "no counters are stored".to_owned();
        Err(PageError::Damaged { page: name(), what })
    }

    /// The same, if this timeline has one of its own.
    async fn snapshot_here(&self, lsn: Lsn) -> io::Result<Option<Snapshot>> {
        let mut tries = 0;
        loop {
            tries += 1;
            let stop = self.state.borrow().stop(lsn);
            let found = match stop {
                Some(stop) => Snapshot::clone(&stop),
                None => match self.stored_snapshot(lsn).await? {
                    Some(stored) => stored,
                    None => return Ok(None),
                },
            };
            let needed = lsn > self.flushed();
            match self.read_on(found.clone(), lsn).await {
                Ok(found) => return Ok(Some(found)),
                // In the store meanwhile, and the WAL gone.
                Err(_) if needed && lsn <= self.flushed() && tries < 3 => {}
                Err(error) if needed => return Err(error),
                // Pages as of `lsn` may be newer than the last record that we know of.
                Err(_) => return Ok(Some(Snapshot { end: lsn, ..found })),
            }
        }
    }

    /// Takes records of the WAL on disk into a snapshot, up to `lsn`.
    async fn read_on(&self, mut snapshot: Snapshot, lsn: Lsn) -> io::Result<Snapshot> {
        let until = lsn.min(self.durable());
        if snapshot.end >= until {
            return Ok(snapshot);
        }
        let mut decoder = StreamDecoder::at_record(snapshot.end, self.manifest.wal_segment_bytes)
            .expect_system(self.manifest.system_identifier)
            .assume_version(self.manifest.wal_version());
        while decoder.position() < until {
            let start = decoder.position();
            let wal = self.wal.read(start, until.min(start + WAL_WRITE_BYTES_MAX as u64)).await?;
            let mut input = wal.as_slice();
            while let Some(record) = decoder.next(&mut input).map_err(invalid)? {
                if record.end_lsn > lsn {
                    return Ok(snapshot);
                }
                snapshot.take(&record).map_err(invalid)?;
            }
            executor::yield_now().await;
        }
        Ok(snapshot)
    }

    /// The last stored snapshot, brought up to `lsn` by the stored changes.
    async fn stored_snapshot(&self, lsn: Lsn) -> io::Result<Option<Snapshot>> {
        let read =
            self.store.read(&[keys::SNAPSHOT], storage::version::Version(lsn.0), &[None]).await?;
        let entries = read.into_iter().next().unwrap_or_default();
        let mut found: Option<Snapshot> = None;
        for (count, entry) in entries.iter().enumerate() {
            if count % REDO_RECORDS_AT_ONCE == REDO_RECORDS_AT_ONCE - 1 {
                executor::yield_now().await;
            }
            let end = Lsn(entry.version.0);
            match (Payload::read(&entry.payload, end).map_err(invalid)?, &mut found) {
                (Payload::Value(bytes), found) => *found = Some(Snapshot::from_bytes(bytes)?),
                (Payload::Xid { start, xid }, Some(snapshot)) => {
                    snapshot.counters.note_xid(xid);
                    (snapshot.last_record, snapshot.end) = (start, end);
                }
                (Payload::Record { record, .. }, Some(snapshot)) => {
                    snapshot.take(&record).map_err(invalid)?;
                }
                _ => return Err(invalid("a stored change of the counters has nothing before it")),
            }
        }
        Ok(found)
    }

    /// What the store is to have of snapshots for the WAL from `from` on, whose records these are; and the last snapshot.
    pub(crate) async fn snapshot_entries(
        &self,
        from: Lsn,
        records: impl Iterator<Item = RawRecord<'_>>,
    ) -> io::Result<(Vec<OwnedEntry>, Option<Snapshot>)> {
        let stop = self.state.borrow().stops.get(&from).cloned();
        let Some(stop) = stop else { return Err(invalid(format!("no counters as of {from}"))) };
        let (mut snapshot, mut last) = (Snapshot::clone(&stop), from);
        let mut entries: Vec<OwnedEntry> = Vec::new();
        for (count, record) in records.enumerate() {
            if count % 4096 == 4095 {
                executor::yield_now().await;
            }
            let changed = snapshot.take(&record).map_err(invalid)?;
            let is_far = record.end_lsn.bytes_since(last) >= STATE_WAL_BYTES_MAX;
            let payload = match changed {
                Changed::Nothing if !is_far => continue,
                Changed::Xid if !is_far => payload::xid(&record),
                Changed::Record if !is_far => {
                    let position = Position::new(record.lsn, record.end_lsn, Effect::Change, 0);
                    payload::record(
                        position.ok_or_else(|| invalid("a record is too long"))?,
                        &record,
                    )
                }
                _ => {
                    last = record.end_lsn;
                    payload::value(&snapshot.to_bytes())
                }
            };
            let whole = last == record.end_lsn;
            let version = storage::version::Version(record.end_lsn.0);
            entries.push(OwnedEntry { key: keys::SNAPSHOT, version, whole, payload });
        }
        if snapshot.end == from {
            return Ok((entries, None));
        }
        if last < snapshot.end {
            let version = storage::version::Version(snapshot.end.0);
            entries.pop_if(|entry| entry.version == version);
            let payload = payload::value(&snapshot.to_bytes());
            entries.push(OwnedEntry { key: keys::SNAPSHOT, version, whole: true, payload });
        }
        Ok((entries, Some(snapshot)))
    }

    /// A flush has ended with this snapshot.
    pub(crate) fn end_state_flush(&self, through: Snapshot) {
        self.state.borrow_mut().flushed(through);
    }

    /// What an image as of `at` has for a value that is no relation page.
    pub(crate) async fn value_for_image(
        &self,
        key: storage::key::Key,
        at: Lsn,
        entries: &[OwnedEntry],
    ) -> Result<Made, PageError> {
        if key == keys::SNAPSHOT {
            if entries.len() < 2 {
                return Ok(Made::AsTheyAre);
            }
            let name = || "the state of the cluster".to_owned();
            let stored = self.stored_snapshot(at).await;
            let snapshot = stored.map_err(|error| failure(name(), &error))?;
            let bytes = snapshot.map(|snapshot| payload::value(&snapshot.to_bytes()));
            return Ok(bytes.map_or(Made::AsTheyAre, Made::Whole));
        }
        let Some(key) = keys::value_of(key) else { return Ok(Made::AsTheyAre) };
        if !self.directory_for_image(at).await?.has(key) {
            // Removed, and whoever makes it again makes all of it.
            return Ok(Made::Nothing);
        }
        if let [only] = entries
            && only.whole
        {
            return Ok(Made::AsTheyAre);
        }
        let value = self.rebuilt_value(key, at, CLONE_DEPTH_MAX).await?;
        let page = value.as_slice().try_into().ok().filter(|_| matches!(key, Key::Slru(..)));
        Ok(Made::Whole(page.map_or_else(|| payload::value(&value), payload::image)))
    }

    /// Which values there are as of `at`. An image asks for each of its values in turn.
    async fn directory_for_image(&self, at: Lsn) -> Result<Rc<Directory>, PageError> {
        let known = self.state.borrow().imaged.clone().filter(|(lsn, _)| *lsn == at);
        if let Some((_, directory)) = known {
            return Ok(directory);
        }
        let directory = Rc::new(self.snapshot_at(at).await?.directory);
        self.state.borrow_mut().imaged = Some((at, Rc::clone(&directory)));
        Ok(directory)
    }

    /// Bytes of WAL read so far, here and from its ancestors.
    pub fn wal_bytes_read(&self) -> u64 {
        let inherited = self.ancestor.as_ref().map_or(0, |(from, _)| from.wal_bytes_read());
        self.wal.bytes_read() + inherited
    }

    /// From here on received WAL is needed: what lies before is in layers, and no answer reads it.
    pub fn wal_needed_from(&self) -> Lsn {
        self.flushed()
    }

    /// A value as of `lsn`, from the one at hand and its versions since; empty if it has none. Whether it exists then is the
    /// snapshot's to say.
    pub(crate) async fn value(&self, key: Key, lsn: Lsn) -> Result<Vec<u8>, PageError> {
        let failed = |error: io::Error| failure(key.to_string(), &error);
        let known = self.values.borrow_mut().get(key, lsn);
        let (value, after) =
            known.map_or((Vec::new(), Lsn::INVALID), |(value, as_of)| (value.to_vec(), as_of));
        let versions = self.versions(keys::value(key), after, lsn).await.map_err(failed)?;
        let value = self.redo_versions(key, value, &versions, CLONE_DEPTH_MAX).await?;
        // What was read of an old moment while the horizon passed it may be anything.
        if let Some(newest) = versions.last()
            && self.check_kept(lsn).is_ok()
        {
            self.values.borrow_mut().put(key, newest.lsn, &value, versions.len());
        }
        Ok(value)
    }

    /// The same from nothing but what is stored: for what is stored itself, and as the source of another value.
    pub(crate) async fn rebuilt_value(
        &self,
        key: Key,
        lsn: Lsn,
        depth: u32,
    ) -> Result<Vec<u8>, PageError> {
        let versions = self.versions(keys::value(key), Lsn::INVALID, lsn).await;
        let versions = versions.map_err(|error| failure(key.to_string(), &error))?;
        self.redo_versions(key, Vec::new(), &versions, depth).await
    }

    /// Has the pages of the transaction logs at hand that many records have changed since they were: a server that starts
    /// here needs all of them, and a failover waits for it.
    pub(crate) async fn keep_values_at_hand(&self) -> Result<(), PageError> {
        let end = self.ingested();
        for log in Slru::ALL {
            let chunk = keys::slru(log, 0).chunk;
            let known = |key| {
                let value = keys::value_of(key);
                value.and_then(|key| self.values.borrow().as_of(key)).unwrap_or(Lsn::INVALID)
            };
            let busy = self.level0.borrow().busy(chunk, VALUE_RECORDS_BEHIND, known);
            for key in busy.into_iter().filter_map(keys::value_of) {
                self.value(key, end).await?;
            }
        }
        Ok(())
    }

    /// What a layer has of a page of a transaction log instead of the last of these records, if they are many: the page
    /// after it.
    pub(crate) async fn page_for_layer(
        &self,
        key: storage::key::Key,
        positions: &[Position],
    ) -> Option<Vec<u8>> {
        let (log, page) = keys::slru_page(key)?;
        let last = positions.last().filter(|_last| positions.len() >= VALUE_KEPT_RECORDS_MIN)?;
        // What cannot be read stays as it is: whoever asks for it is told.
        let read = self.rebuilt_value(Key::Slru(log, page), last.end(), CLONE_DEPTH_MAX).await;
        read.ok().and_then(|value| value.as_slice().try_into().map(payload::image).ok())
    }

    /// Brings a value up to the last of its versions.
    async fn redo_versions(
        &self,
        key: Key,
        mut value: Vec<u8>,
        versions: &[Version],
        depth: u32,
    ) -> Result<Vec<u8>, PageError> {
        let failed = |error: io::Error| failure(key.to_string(), &error);
        for (count, version) in versions.iter().enumerate() {
            if count % REDO_RECORDS_AT_ONCE == REDO_RECORDS_AT_ONCE - 1 {
                executor::yield_now().await;
            }
            if version.whole {
                value.clear();
            }
            let content = self.content(version).await.map_err(failed)?;
            match content.payload(version.lsn).map_err(|what| damaged(key, what))? {
                Payload::Image { bytes, copied: _ } => {
                    bytes.clone_into(&mut value);
                    value.resize(PAGE_BYTES, 0);
                }
                Payload::Value(bytes) => bytes.clone_into(&mut value),
                Payload::Xid { .. } => return Err(damaged(key, "another kind is stored")),
                Payload::Record { record, .. } => {
                    self.redo_value(key, &mut value, &record, depth).await?;
                }
            }
        }
        Ok(value)
    }

    async fn redo_value(
        &self,
        key: Key,
        value: &mut Vec<u8>,
        raw: &RawRecord<'_>,
        depth: u32,
    ) -> Result<(), PageError> {
        let record = raw.decode().map_err(|error| damaged(key, error.to_string()))?;
        for change in effects(&record).map_err(|error| damaged(key, error.to_string()))? {
            if let Some(source) = copied_from(key, &change) {
                let depth = depth.checked_sub(1);
                let depth = depth.ok_or_else(|| damaged(key, "too many copies of copies"))?;
                *value = Box::pin(self.rebuilt_value(source, raw.end_lsn, depth)).await?;
            } else {
                redo(key, value, &change).map_err(|error| damaged(key, error.to_string()))?;
            }
        }
        Ok(())
    }

    /// What a layer has of a value instead of a record that refers to another value: nothing that goes its own way.
    pub(crate) async fn resolve_copy(
        &self,
        key: storage::key::Key,
        end: Lsn,
        stored: &mut Vec<u8>,
    ) -> io::Result<()> {
        let Some(key @ Key::Relmap { .. }) = keys::value_of(key) else { return Ok(()) };
        let Payload::Record { record, .. } = Payload::read(stored, end).map_err(invalid)? else {
            return Ok(());
        };
        let decoded = record.decode().map_err(invalid)?;
        let changes = effects(&decoded).map_err(invalid)?;
        if changes.iter().any(|change| copied_from(key, change).is_some()) {
            let value = self.rebuilt_value(key, end, CLONE_DEPTH_MAX).await.map_err(invalid)?;
            *stored = payload::value(&value);
        }
        Ok(())
    }
}

/// The value that a change makes this one a copy of.
fn copied_from(key: Key, change: &Change<'_>) -> Option<Key> {
    match (key, change) {
        (
            Key::Relmap { tablespace, database },
            Change::DatabaseCreated { tablespace: space, database: made, source: Some(source) },
        ) if (tablespace, database) == (*space, *made) => {
            Some(Key::Relmap { tablespace: source.0, database: source.1 })
        }
        _ => None,
    }
}

fn damaged(key: Key, what: impl Into<String>) -> PageError {
    PageError::Damaged { page: key.to_string(), what: what.into() }
}

fn invalid(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// Bytes that should be in a file of ours and are not right, or could not be read.
fn failure(page: String, error: &io::Error) -> PageError {
    let what = error.to_string();
    match error.kind() {
        io::ErrorKind::InvalidData => PageError::Damaged { page, what },
        _ => PageError::Io { page, what },
    }
}
