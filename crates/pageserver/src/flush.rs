//! Level 0 into the store: the records of the newest WAL, sorted by the key that they touch, as a delta layer.
//!
//! Steps: what the index has is set aside; its WAL is read once, from start to end; every key's records are written in
//! order, in a page of a transaction log that has many the page itself for the last, together with the catalog as of then;
//! one change of the store's manifest makes it count; only then the index forgets what was set aside. Interrupted
//! anywhere, the WAL is still there and everything is done again.

use std::io;

use pg::lsn::Lsn;
use pg::wal::reader::StreamDecoder;
use pg::wal::record::RawRecord;
use pg::wal::segment::WalVersion;
use runtime::executor;
use storage::entry::{Entry, OwnedEntry};
use storage::key::Key;
use storage::layer::writer::LayerWriter;
use storage::store::Commit;
use storage::version::Version;

use crate::error::Error;
use crate::index::{Effect, Position};
use crate::keys;
use crate::limits::{FLUSH_KEYS_AT_ONCE, LEVEL0_LAYERS_MAX, WAL_WRITE_BYTES_MAX};
use crate::payload;
use crate::timeline::Timeline;

/// Why no more WAL may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// So much waits to be written to layers, or to be merged there: memory, the time of the next start and that of reads
    /// depend on it.
    Layers,
    /// `wal_bytes_max`.
    Wal { limit: u64 },
    /// `disk_bytes_max`.
    Disk,
    /// `store_backlog_bytes_max`.
    Store { limit: u64 },
}

impl Timeline {
    /// Whether enough has come together to write it to the store.
    pub fn is_flush_due(&self) -> bool {
        if !self.is_at_rest() {
            return false;
        }
        let wal_bytes = self.ingested().bytes_since(self.flushed());
        let is_short = matches!(self.shortage(), Some(Shortage::Wal { .. } | Shortage::Disk));
        wal_bytes >= self.checkpoint_bytes
            || is_short && wal_bytes > 0
            || self.level0.borrow().newer_memory() > self.index_memory_max / 4
    }

    /// Why no more WAL may come in, if that is so. What has been taken in can be written to layers then.
    pub fn shortage(&self) -> Option<Shortage> {
        if !self.is_at_rest() {
            return None;
        }
        let wal_bytes = self.ingested().bytes_since(self.flushed());
        let (limit, next) = (self.wal_bytes_max, WAL_WRITE_BYTES_MAX as u64);
        if limit != 0 && self.wal.bytes() + next > limit {
            return Some(Shortage::Wal { limit });
        }
        if self.disk_is_full.get() {
            return Some(Shortage::Disk);
        }
        if let Some(limit) = self.store_shortage() {
            return Some(Shortage::Store { limit });
        }
        let is_full = wal_bytes >= self.checkpoint_bytes.saturating_mul(3)
            || self.level0.borrow().memory() > self.index_memory_max
            || self.store.stats().level0_layers >= LEVEL0_LAYERS_MAX;
        is_full.then_some(Shortage::Layers)
    }

    pub fn is_full(&self) -> bool {
        self.shortage().is_some()
    }

    /// Whether all WAL up to the end of the last record is here. After a switch to the next segment, the unused rest of
    /// the one before is still to come.
    fn is_at_rest(&self) -> bool {
        self.ingested() <= self.durable()
    }

    /// Writes everything taken in so far to the store.
    pub async fn flush(&self) -> Result<(), Error> {
        let _turn = self.flushing.take().await;
        if !self.is_at_rest() {
            return Ok(());
        }
        if self.level0.borrow_mut().begin_flush() {
            self.set_aside.set(self.ingested());
        }
        let (from, through) = (self.flushed(), self.set_aside.get());
        if through <= from {
            return Ok(());
        }
        let catalog = self.catalog.borrow().to_bytes(through);
        let failed = |source| Error::file("write layers in", &self.layers, source);
        let mut records = self.records.take();
        self.read_records(&mut records, from, through).await.map_err(failed)?;
        let snapshots = self.snapshot_entries(from, records.iter()).await.map_err(failed)?;
        let (entries, snapshot) = snapshots;
        self.write_layer(through, &records, entries, catalog).await.map_err(failed)?;
        let mut written = self.level0.borrow_mut().finish_flush();
        if let Some(snapshot) = snapshot {
            self.end_state_flush(snapshot);
        }
        self.flushed.raise(through.0);
        // The next flush will be soon, and memory that is new is as slow as all that is done with it.
        if self.ingested().bytes_since(through) >= self.checkpoint_bytes / 4 {
            self.records.replace(records);
        }
        // Without keeping the core from its other tasks.
        while written.forget_some() {
            executor::yield_now().await;
        }
        tracing::debug!(%from, %through, timeline = self.name, "WAL written to layers");
        Ok(())
    }

    /// Everything that was set aside as a layer, and the change of the manifest that makes it count.
    async fn write_layer(
        &self,
        through: Lsn,
        records: &Records,
        snapshots: Vec<OwnedEntry>,
        catalog: Vec<u8>,
    ) -> io::Result<()> {
        let mut layer = self.store.begin_layer().await?;
        let (mut touches, mut found, mut payload) = (Vec::new(), Vec::new(), Vec::new());
        let chunks = self.level0.borrow().chunks_set_aside();
        for chunk in chunks {
            let keys = self.level0.borrow().keys_set_aside(chunk);
            for keys in keys.chunks(FLUSH_KEYS_AT_ONCE) {
                executor::yield_now().await;
                self.level0.borrow().touches_set_aside(keys, &mut touches);
                // All at once: each is somewhere else in memory, and so the waiting for one hides that for the others.
                records.find(&touches, &mut found)?;
                for of_key in found.chunk_by(|one, next| one.key == next.key) {
                    self.write_key(records, of_key, &mut layer, &mut payload).await?;
                }
            }
        }
        // The key of the snapshots comes after all others.
        for entry in &snapshots {
            layer.add(entry.borrow()).await?;
        }
        let layers = layer.finish().await?.into_iter().collect();
        let flushed_through = Some(Version(through.0));
        self.store.commit(Commit { layers, flushed_through, catalog: Some(catalog) }).await
    }

    /// What touches one key; `payload` is memory to work in.
    async fn write_key(
        &self,
        records: &Records,
        touches: &[Found],
        layer: &mut LayerWriter,
        payload: &mut Vec<u8>,
    ) -> io::Result<()> {
        let Some((last, before)) = touches.split_last() else { return Ok(()) };
        let mut page = None;
        if keys::slru_page(last.key).is_some() {
            let positions: Vec<Position> = touches.iter().map(|found| found.position).collect();
            page = self.page_for_layer(last.key, &positions).await;
        }
        for &Found { key, position, place } in if page.is_some() { before } else { touches } {
            records.write_payload(position, place, payload)?;
            self.resolve_copy(key, position.end(), payload).await?;
            layer.add(entry_of(key, position, payload)).await?;
        }
        if let Some(payload) = &page {
            let version = Version(last.position.end().0);
            layer.add(Entry { key: last.key, version, whole: true, payload }).await?;
        }
        Ok(())
    }

    /// All records between two positions.
    async fn read_records(&self, records: &mut Records, from: Lsn, through: Lsn) -> io::Result<()> {
        records.begin(from, through);
        let mut wal = Vec::new();
        let segment_bytes = u64::from(self.manifest.wal_segment_bytes);
        let mut decoder = StreamDecoder::at_record(from, self.manifest.wal_segment_bytes)
            .expect_system(self.manifest.system_identifier)
            .assume_version(self.manifest.wal_version());
        while decoder.position() < through {
            let start = decoder.position();
            let segment_end = Lsn((start.0 / segment_bytes + 1) * segment_bytes);
            let until = through.min(segment_end).min(start + WAL_WRITE_BYTES_MAX as u64);
            wal = self.wal.read_once(start, until, wal).await?;
            let mut input = &wal[..];
            while let Some(record) = decoder.next(&mut input).map_err(invalid)? {
                records.push(&record);
            }
            executor::yield_now().await;
        }
        Ok(())
    }
}

fn invalid(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

fn entry_of(key: Key, position: Position, payload: &[u8]) -> Entry<'_> {
    let whole = position.effect == Effect::Initial;
    Entry { key, version: Version(position.end().0), whole, payload }
}

/// Stretches of WAL for which it is noted where their first record is: some records each.
const STRETCH_BYTES: u64 = 256;

/// The records of WAL, by where they begin.
#[derive(Default)]
pub(crate) struct Records {
    bytes: Vec<u8>,
    /// In WAL order.
    places: Vec<Place>,
    /// Where the WAL begins.
    from: Lsn,
    /// For each [`STRETCH_BYTES`] of it, how many records begin before.
    before: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Place {
    start: Lsn,
    end: Lsn,
    version: WalVersion,
    offset: usize,
    length: usize,
}

/// A record that touches a key.
struct Found {
    key: Key,
    position: Position,
    place: Place,
}

impl Records {
    /// Forgets what there is but for the memory; there is to be WAL from one position to another.
    fn begin(&mut self, from: Lsn, through: Lsn) {
        self.bytes.clear();
        // Growing would copy what is there.
        self.bytes.reserve(usize::try_from(through.bytes_since(from)).unwrap_or_default());
        self.places.clear();
        self.before.clear();
        self.from = from;
    }

    fn push(&mut self, record: &RawRecord<'_>) {
        let stretch = self.stretch(record.lsn);
        if stretch >= self.before.len() {
            // A record has 24 bytes and more: as many as fit a number are 100 GiB of WAL.
            let known = u32::try_from(self.places.len()).unwrap_or(u32::MAX);
            self.before.resize(stretch + 1, known);
        }
        self.places.push(Place {
            start: record.lsn,
            end: record.end_lsn,
            version: record.version,
            offset: self.bytes.len(),
            length: record.bytes.len(),
        });
        self.bytes.extend_from_slice(record.bytes);
    }

    fn stretch(&self, lsn: Lsn) -> usize {
        usize::try_from(lsn.bytes_since(self.from) / STRETCH_BYTES).unwrap_or(usize::MAX)
    }

    /// Where the records of these touches are.
    fn find(&self, touches: &[(Key, Position)], found: &mut Vec<Found>) -> io::Result<()> {
        found.clear();
        for &(key, position) in touches {
            let missing = || invalid(format!("there is no record at {}", position.start));
            let place = *self.place(position.start).ok_or_else(missing)?;
            found.push(Found { key, position, place });
        }
        for Found { place, .. } in &*found {
            let wrong = || invalid(format!("the record at {} has another length", place.start));
            let told = self.bytes.get(place.offset..).and_then(<[u8]>::first_chunk);
            let told = told.map(|length| u32::from_le_bytes(*length) as usize);
            told.filter(|told| *told == place.length).ok_or_else(wrong)?;
        }
        Ok(())
    }

    /// The bytes to be stored for a record that touches a key.
    fn write_payload(&self, position: Position, place: Place, out: &mut Vec<u8>) -> io::Result<()> {
        out.clear();
        let bytes = self.bytes.get(place.offset..place.offset + place.length);
        let bytes = bytes.ok_or_else(|| invalid("a record is cut off"))?;
        payload::write_record(position, place.version, bytes, out).map_err(invalid)
    }

    /// Where the record is that begins there.
    fn place(&self, start: Lsn) -> Option<&Place> {
        let first = usize::try_from(*self.before.get(self.stretch(start))?).ok()?;
        let mut later = self.places.get(first..)?.iter();
        later.find(|place| place.start >= start).filter(|place| place.start == start)
    }

    fn iter(&self) -> impl Iterator<Item = RawRecord<'_>> {
        self.places.iter().filter_map(|place| self.at(place))
    }

    fn at(&self, place: &Place) -> Option<RawRecord<'_>> {
        let bytes = self.bytes.get(place.offset..place.offset + place.length)?;
        RawRecord::new(bytes, place.start, place.end, place.version).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_is_found_where_it_begins_and_nowhere_else() {
        let mut records = Records::default();
        records.begin(Lsn(1000), Lsn(10_000));
        let mut starts = Vec::new();
        let mut start = 1000;
        for length in [24_u32, 24, 40, 5000, 24, 300, 24, 24, 1000, 24] {
            let mut bytes = vec![0; length as usize];
            bytes[..4].copy_from_slice(&length.to_le_bytes());
            let end = start + u64::from(length.next_multiple_of(8));
            let version = WalVersion::from_major(15).expect("it is known");
            let record = RawRecord::new(&bytes, Lsn(start), Lsn(end), version);
            records.push(&record.expect("a header and a length"));
            starts.push((start, length));
            start = end;
        }
        for lsn in 1000..start + 600 {
            let found = records.place(Lsn(lsn)).map(|place| place.length);
            let known = starts.iter().find(|(start, _)| *start == lsn);
            let known = known.map(|(_, length)| *length as usize);
            assert_eq!(found, known, "at {lsn}");
        }
    }
}
