//! Level 0 into the store: the records of the newest WAL, sorted by the key that they touch, as a delta layer.
//!
//! Steps: what the index has is set aside; its WAL is read once, from start to end; every key's records are written in
//! order together with the catalog as of then; one change of the store's manifest makes it count; only then the index
//! forgets what was set aside. Interrupted anywhere, the WAL is still there and everything is done again.

use std::io;

use pg::lsn::Lsn;
use pg::wal::reader::StreamDecoder;
use pg::wal::record::RawRecord;
use pg::wal::segment::WalVersion;
use runtime::executor;
use storage::entry::OwnedEntry;
use storage::key::Key;
use storage::store::Commit;
use storage::version::Version;

use crate::error::Error;
use crate::index::Effect;
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

    /// Writes everything taken in so far to the store. One at a time.
    pub async fn flush(&self) -> Result<(), Error> {
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
        let records = self.read_records(from, through).await.map_err(failed)?;
        let snapshots = self.snapshot_entries(from, records.iter()).await.map_err(failed)?;
        let (entries, snapshot) = snapshots;
        self.write_layer(through, &records, entries, catalog).await.map_err(failed)?;
        let written = self.level0.borrow_mut().finish_flush();
        if let Some(snapshot) = snapshot {
            self.end_state_flush(snapshot);
        }
        self.flushed.raise(through.0);
        forget(written).await;
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
        let mut after = None;
        while let Some((key, mut entries)) = self.next_set_aside(after, records)? {
            for entry in &mut entries {
                self.resolve_copy(entry).await?;
                layer.add(entry.borrow()).await?;
            }
            after = Some(key);
        }
        // The key of the snapshots comes after all others.
        for entry in &snapshots {
            layer.add(entry.borrow()).await?;
        }
        let layers = layer.finish().await?.into_iter().collect();
        let flushed_through = Some(Version(through.0));
        self.store.commit(Commit { layers, flushed_through, catalog: Some(catalog) }).await
    }

    /// The versions of the next key that was set aside; `None` at the end.
    fn next_set_aside(
        &self,
        after: Option<Key>,
        records: &Records,
    ) -> io::Result<Option<(Key, Vec<OwnedEntry>)>> {
        let level0 = self.level0.borrow();
        let Some((key, positions)) = level0.next_set_aside(after) else { return Ok(None) };
        let entries = positions.iter().map(|&position| {
            let missing = || invalid(format!("there is no record at {}", position.start));
            let record = records.get(position.start).ok_or_else(missing)?;
            Ok(OwnedEntry {
                key,
                version: Version(position.end().0),
                whole: position.effect == Effect::Initial,
                payload: payload::record(position, &record),
            })
        });
        Ok(Some((key, entries.collect::<io::Result<Vec<_>>>()?)))
    }

    /// All records between two positions.
    async fn read_records(&self, from: Lsn, through: Lsn) -> io::Result<Records> {
        let mut records = Records::default();
        let mut decoder = StreamDecoder::at_record(from, self.manifest.wal_segment_bytes)
            .expect_system(self.manifest.system_identifier)
            .assume_version(self.manifest.wal_version());
        while decoder.position() < through {
            let start = decoder.position();
            let wal = self.wal.read(start, through.min(start + WAL_WRITE_BYTES_MAX as u64)).await?;
            let mut input = &wal[..];
            while let Some(record) = decoder.next(&mut input).map_err(invalid)? {
                records.push(&record);
            }
            executor::yield_now().await;
        }
        Ok(records)
    }
}

fn invalid(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// Gives back the memory of a large map without keeping the core from its other tasks.
async fn forget<V>(mut written: std::collections::BTreeMap<Key, V>) {
    while !written.is_empty() {
        for _ in 0..FLUSH_KEYS_AT_ONCE {
            drop(written.pop_first());
        }
        executor::yield_now().await;
    }
}

/// The records of a stretch of WAL, by where they begin.
#[derive(Default)]
struct Records {
    bytes: Vec<u8>,
    /// In WAL order.
    places: Vec<Place>,
}

struct Place {
    start: Lsn,
    end: Lsn,
    version: WalVersion,
    offset: usize,
    length: usize,
}

impl Records {
    fn push(&mut self, record: &RawRecord<'_>) {
        self.places.push(Place {
            start: record.lsn,
            end: record.end_lsn,
            version: record.version,
            offset: self.bytes.len(),
            length: record.bytes.len(),
        });
        self.bytes.extend_from_slice(record.bytes);
    }

    fn get(&self, start: Lsn) -> Option<RawRecord<'_>> {
        let found = self.places.binary_search_by_key(&start, |place| place.start).ok()?;
        self.at(&self.places[found])
    }

    fn iter(&self) -> impl Iterator<Item = RawRecord<'_>> {
        self.places.iter().filter_map(|place| self.at(place))
    }

    fn at(&self, place: &Place) -> Option<RawRecord<'_>> {
        let bytes = self.bytes.get(place.offset..place.offset + place.length)?;
        RawRecord::new(bytes, place.start, place.end, place.version).ok()
    }
}
