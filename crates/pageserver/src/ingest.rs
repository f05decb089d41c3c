//! Records into the index: which pages each touches, and how sizes and existence change.
//!
//! Rule: a record goes in whole or the timeline stops; a record whose content we cannot read must not be
//! passed over, since the pages it touches would be wrong without a word.

use std::collections::BTreeMap;

use pg::datadir::relation::{Fork, RelTag};
use pg::lsn::Lsn;
use pg::oid::Oid;
use pg::page::vm;
use pg::redo::effects::{self, Change};
use pg::redo::visibility::implied_vm_clears;
use pg::redo::{self, Fault};
use pg::wal::reader::StreamDecoder;
use pg::wal::record::{RawRecord, Record, RecordKind};
use pg::wal::rmgr::Rmgr;

use crate::catalog::{Catalog, Mark};
use crate::error::Error;
use crate::index::{Effect, Index, Position};
use crate::keys;
use crate::limits::{PAGE_BYTES, WAL_WRITE_BYTES_MAX};
use crate::state::Tracker;
use crate::timeline::Timeline;

/// What has been taken in since the start.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    pub records: u64,
    pub bytes: u64,
    /// By name of the resource manager.
    pub by_rmgr: BTreeMap<&'static str, u64>,
    /// Records that touch pages which we cannot redo, by resource manager and kind.
    pub unsupported: BTreeMap<String, u64>,
    /// Kinds met so far, and whether we can redo them.
    redone_kinds: BTreeMap<RecordKind, bool>,
}

/// Takes WAL into a timeline's index, in order.
pub struct Ingest {
    decoder: StreamDecoder,
}

impl Ingest {
    /// Begins at `start`, where a record begins.
    pub fn new(timeline: &Timeline, start: Lsn) -> Ingest {
        let manifest = &timeline.manifest;
        let decoder = StreamDecoder::at_record(start, manifest.wal_segment_bytes)
            .expect_system(manifest.system_identifier)
            .assume_version(manifest.wal_version());
        Ingest { decoder }
    }

    /// Position of the next byte to be fed.
    pub fn position(&self) -> Lsn {
        self.decoder.position()
    }

    /// End of the last whole record.
    pub fn end(&self) -> Lsn {
        self.decoder.end()
    }

    /// Takes in `wal`, whose first byte is at [`Ingest::position`]; it is durable already.
    pub fn feed(&mut self, timeline: &Timeline, mut wal: &[u8]) -> Result<(), Error> {
        loop {
            let next = self.decoder.next(&mut wal);
            let Some(record) = next.map_err(|error| Error::Damaged(error.to_string()))? else {
                return Ok(());
            };
            take_in(timeline, &record)?;
            let end = record.end_lsn;
            timeline.advance(end);
        }
    }
}

/// Reads the WAL on disk that is not in the store into the index; answers where to go on, and the decoder state there.
///
/// The last segment is received again from its start if the last record is not whole: only there
/// can bytes be missing or torn (rule 1 of [`crate::wal_store`]).
pub async fn recover(timeline: &Timeline) -> Result<Ingest, Error> {
    timeline.begin_state().await?;
    let start = timeline.flushed();
    let segments = timeline.wal_layout.segments().await?;
    let last = segments
        .last()
        .copied()
        .filter(|(number, _)| *number >= start.segment(timeline.manifest.wal_segment_bytes));
    let Some((number, bytes)) = last else { return Ok(Ingest::new(timeline, start)) };
    let last_start = Lsn(number * u64::from(timeline.manifest.wal_segment_bytes));
    let on_disk = last_start + bytes;
    if on_disk < start {
        // The disk lost WAL whose pages are in layers already; its segment is received again.
        return Ok(Ingest::new(timeline, start));
    }
    timeline.wal_layout.sync(number).await?;
    timeline.wal.set_readable(on_disk);
    let mut ingest = Ingest::new(timeline, start);
    let stopped = read_up_to(timeline, &mut ingest, on_disk).await?;
    let whole = ingest.end();
    if whole >= on_disk && stopped.is_none() {
        // Nothing of an unfinished record is there: all that can follow is the unused rest of a
        // segment after a switch, which the decoder passes over.
        return Ok(ingest);
    }
    let resume = if ingest.position() >= last_start { whole.max(last_start) } else { whole };
    let resume = resume.max(timeline.flushed());
    if let Some(error) = stopped {
        tracing::info!(%error, %resume, "the WAL on disk ends; it is received again from there");
    }
    timeline.wal.set_readable(resume);
    let mut ingest = Ingest::new(timeline, whole);
    match read_up_to(timeline, &mut ingest, resume).await? {
        None => Ok(ingest),
        Some(error) => Err(error),
    }
}

/// Feeds WAL from disk; answers the error at which decoding stopped, if it did before `end`.
async fn read_up_to(
    timeline: &Timeline,
    ingest: &mut Ingest,
    end: Lsn,
) -> Result<Option<Error>, Error> {
    while ingest.position() < end {
        let start = ingest.position();
        let until = end.min(start + WAL_WRITE_BYTES_MAX as u64);
        let wal = match timeline.wal.read(start, until).await {
            Ok(wal) => wal,
            Err(source) => {
                return Err(Error::file("read WAL in", &timeline.wal_layout.directory, source));
            }
        };
        match ingest.feed(timeline, &wal) {
            Ok(()) if timeline.is_flush_due() => timeline.flush().await?,
            Ok(()) => {}
            Err(error @ Error::Damaged(_)) => return Ok(Some(error)),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn take_in(timeline: &Timeline, raw: &RawRecord<'_>) -> Result<(), Error> {
    let damaged = |error: pg::wal::error::WalError| Error::Damaged(error.to_string());
    let rmgr = raw.header.rmgr;
    let mut counters = timeline.counters.borrow_mut();
    counters.records += 1;
    counters.bytes += raw.bytes.len() as u64;
    *counters.by_rmgr.entry(rmgr.name()).or_default() += 1;
    let (mut index, mut catalog) = (timeline.level0.borrow_mut(), timeline.catalog.borrow_mut());
    let mut touches =
        Touches { index: &mut index, catalog: &mut catalog, start: raw.lsn, end: raw.end_lsn };
    let mut state = timeline.state.borrow_mut();
    state.take_header(raw)?;
    let mut changes_pages = false;
    for block in raw.block_refs() {
        let block = block.map_err(damaged)?;
        let effect = if block.starts_anew { Effect::Initial } else { Effect::Change };
        changes_pages |= !block.starts_anew;
        touches.block(block.tag, block.number, effect, block.id)?;
    }
    let has_effects = effects::has_effects(rmgr);
    let clears_bits = matches!(rmgr, Rmgr::HEAP | Rmgr::HEAP2);
    if !has_effects && !clears_bits && !changes_pages {
        state.end_record();
        return Ok(());
    }
    let record = raw.decode().map_err(damaged)?;
    if changes_pages && !is_redone(&record, &mut counters.redone_kinds) {
        *counters.unsupported.entry(record.kind().to_string()).or_default() += 1;
    }
    if clears_bits {
        for cleared in implied_vm_clears(&record) {
            touches.implied(cleared.node.fork(Fork::Vm), vm::map_block(cleared.heap_block))?;
        }
    }
    if has_effects {
        for change in effects::effects(&record).map_err(damaged)? {
            if let Change::ParametersChanged(parameters) = &change {
                let logged = parameters.wal_log_hints || timeline.manifest.data_checksums;
                touches.catalog.note_hints_logged(raw.end_lsn, logged);
            }
            touches.apply(&change)?;
            touches.values(&mut state, &change)?;
        }
    }
    state.end_record();
    Ok(())
}

/// Whether [`pg::redo`] knows this kind of record: tried once for each kind, on an empty page.
fn is_redone(record: &Record<'_>, known: &mut BTreeMap<RecordKind, bool>) -> bool {
    let info = record.kind_bits();
    *known.entry(RecordKind { info, ..record.kind() }).or_insert_with(|| {
        let changed = record.blocks.iter().find(|block| !block.block_ref().starts_anew);
        let mut scratch = [0; PAGE_BYTES];
        let tried = changed
            .map(|block| redo::redo(record, block.id, &mut scratch, redo::Options::default()));
        !matches!(tried, Some(Err(error)) if error.fault == Fault::Unsupported)
    })
}

/// Notes the touches of one record.
struct Touches<'i> {
    index: &'i mut Index,
    catalog: &'i mut Catalog,
    start: Lsn,
    end: Lsn,
}

impl Touches<'_> {
    fn position(&self, effect: Effect, block_id: u8) -> Result<Position, Error> {
        Position::new(self.start, self.end, effect, block_id)
            .ok_or_else(|| Error::Damaged(format!("record at {} is too long", self.start)))
    }

    /// A record touches a block; the fork grows over it if it must.
    fn block(&mut self, tag: RelTag, block: u32, effect: Effect, id: u8) -> Result<(), Error> {
        let position = self.position(effect, id)?;
        let end = self.end;
        self.catalog.change(tag, |fork| fork.extend(end, block.saturating_add(1)));
        // Images of the free space map are logged now and then: too seldom to rebuild it from them.
        if tag.fork != Fork::Fsm {
            self.index.touch(keys::block(tag, block), position);
        }
        Ok(())
    }

    /// Values beside pages that the record changes.
    fn values(&mut self, state: &mut Tracker, change: &Change<'_>) -> Result<(), Error> {
        let mut touched = Vec::new();
        state.take_change(change, |key, effect| touched.push((key, effect)));
        for (key, effect) in touched {
            let position = self.position(effect, 0)?;
            self.index.touch(keys::value(key), position);
        }
        Ok(())
    }

    fn time(&self, time: i64) -> Mark {
        Mark { lsn: self.end, time }
    }

    /// A touch that the record does not spell out. A page that is not there has no bits to clear.
    fn implied(&mut self, tag: RelTag, block: u32) -> Result<(), Error> {
        if self.catalog.blocks(tag).is_some_and(|blocks| block < blocks) {
            self.block(tag, block, Effect::Implied, 0)?;
        }
        Ok(())
    }

    fn apply(&mut self, change: &Change<'_>) -> Result<(), Error> {
        let end = self.end;
        match change {
            Change::RelationCreated(tag) => self.catalog.change(*tag, |fork| fork.create(end)),
            Change::RelationTruncated { node, blocks, heap, vm, .. } => {
                if *heap {
                    let main = node.fork(Fork::Main);
                    self.catalog.change(main, |fork| fork.truncate(end, *blocks));
                }
                if *vm {
                    self.truncate_map(node.fork(Fork::Vm), *blocks)?;
                }
            }
            Change::RelationDropped(node) => {
                for fork in Fork::ALL {
                    self.drop_fork(node.fork(fork));
                }
            }
            Change::DatabaseCreated { tablespace, database, source: Some(source) } => {
                self.copy_database(*source, (*tablespace, *database));
            }
            Change::DatabaseDropped { database, tablespaces } => {
                for tablespace in tablespaces {
                    for (tag, _blocks) in self.catalog.forks_of(*tablespace, *database) {
                        self.drop_fork(tag);
                    }
                }
            }
            Change::TransactionEnded(ended) => self.catalog.note_time(self.time(ended.time)),
            Change::RestorePoint { time, name } => {
                self.catalog.note_restore_point(self.time(*time), name);
                self.catalog.note_time(self.time(*time));
            }
            _ => {}
        }
        Ok(())
    }

    fn drop_fork(&mut self, tag: RelTag) {
        if self.catalog.blocks(tag).is_some() {
            let end = self.end;
            self.catalog.change(tag, |fork| fork.drop(end));
        }
    }

    /// The map is cut to what `heap_blocks` need; bits beyond them in its last page are cleared.
    fn truncate_map(&mut self, map: RelTag, heap_blocks: u32) -> Result<(), Error> {
        let whole = vm::map_block(heap_blocks);
        let rest = heap_blocks % vm::HEAP_BLOCKS_PER_PAGE;
        let blocks = if rest == 0 { whole } else { whole + 1 };
        let end = self.end;
        if self.catalog.blocks(map).is_none() {
            return Ok(());
        }
        self.catalog.change(map, |fork| fork.truncate(end, blocks));
        if rest != 0 {
            self.implied(map, whole)?;
        }
        Ok(())
    }

    /// Every fork of `source` (tablespace, database) is now in `target`, too.
    fn copy_database(&mut self, source: (Oid, Oid), target: (Oid, Oid)) {
        let end = self.end;
        for (tag, blocks) in self.catalog.forks_of(source.0, source.1) {
            let copy = RelTag { spcnode: target.0, dbnode: target.1, ..tag };
            self.catalog.change(copy, |fork| fork.copy_from(end, tag, blocks));
        }
    }
}
