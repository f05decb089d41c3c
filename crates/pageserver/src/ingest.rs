//! Records into the index: which pages each touches, and how sizes and existence change.
//!
//! Rule: a record goes in whole or the timeline stops; a record whose content we cannot read must not be
//! passed over, since the pages it touches would be wrong without a word.

use std::cell::RefMut;
use std::collections::BTreeMap;

use pg::datadir::relation::{Fork, RelTag};
use pg::lsn::Lsn;
use pg::oid::Oid;
use pg::page::vm;
use pg::redo::effects::{self, Change};
use pg::redo::visibility::implied_vm_clears;
use pg::redo::{self, Fault};
use pg::wal::reader::StreamDecoder;
use pg::wal::record::{RawRecord, Record};
use pg::wal::rmgr::Rmgr;

use crate::catalog::{Catalog, Mark};
use crate::error::Error;
use crate::index::{Effect, Index, Position};
use crate::keys;
use crate::limits::{PAGE_BYTES, WAL_WRITE_BYTES_MAX};
use crate::state::Tracker;
use crate::timeline::Timeline;

/// `WAL_LEVEL_MINIMAL` in the control file and in records (`xlog.h`).
const WAL_LEVEL_MINIMAL: i32 = 0;

/// What has been taken in since the start.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    pub records: u64,
    pub bytes: u64,
    /// By number of the resource manager.
    by_rmgr: Vec<u64>,
    /// Records that touch pages which we cannot redo, by resource manager and kind.
    pub unsupported: BTreeMap<String, u64>,
    /// Kinds met so far by [`kind_number`], and whether we can redo them.
    redone_kinds: Vec<Option<bool>>,
}

impl Counters {
    /// Records by name of the resource manager.
    pub fn by_rmgr(&self) -> BTreeMap<String, u64> {
        let numbered = (0..=u8::MAX).zip(&self.by_rmgr).filter(|(_, count)| **count > 0);
        numbered.map(|(number, count)| (Rmgr(number).name().to_owned(), *count)).collect()
    }

    fn note(&mut self, raw: &RawRecord<'_>) {
        self.records += 1;
        self.bytes += raw.bytes.len() as u64;
        let rmgr = usize::from(raw.header.rmgr.0);
        if rmgr >= self.by_rmgr.len() {
            self.by_rmgr.resize(rmgr + 1, 0);
        }
        if let Some(count) = self.by_rmgr.get_mut(rmgr) {
            *count += 1;
        }
    }

    /// Notes a record that changes pages, if we cannot redo it.
    fn note_change(&mut self, record: &Record<'_>) {
        let number = kind_number(record);
        if number >= self.redone_kinds.len() {
            self.redone_kinds.resize(number + 1, None);
        }
        if let Some(known) = self.redone_kinds.get_mut(number)
            && !*known.get_or_insert_with(|| is_redone(record))
        {
            *self.unsupported.entry(record.kind().to_string()).or_default() += 1;
        }
    }
}

/// Takes WAL into a timeline's index, in order.
pub struct Ingest {
    decoder: StreamDecoder,
    /// End of the last record taken in.
    end: Lsn,
    /// Why a record could not be taken in: none behind it may be.
    broken: Option<String>,
}

impl Ingest {
    /// Begins at `start`, where a record begins.
    pub fn new(timeline: &Timeline, start: Lsn) -> Ingest {
        let manifest = &timeline.manifest;
        let decoder = StreamDecoder::at_record(start, manifest.wal_segment_bytes)
            .expect_system(manifest.system_identifier)
            .assume_version(manifest.wal_version());
        Ingest { decoder, end: start, broken: None }
    }

    /// Position of the next byte to be fed.
    pub fn position(&self) -> Lsn {
        self.decoder.position()
    }

    /// End of the last record taken in. One that is whole and cannot be taken in lies behind it.
    pub fn end(&self) -> Lsn {
        self.end
    }

    /// Takes in `wal`, whose first byte is at [`Ingest::position`]; it is durable already. After an error nothing more is taken
    /// in: the same error comes again.
    pub fn feed(&mut self, timeline: &Timeline, wal: &[u8]) -> Result<(), Error> {
        if let Some(why) = &self.broken {
            return Err(Error::Damaged(why.clone()));
        }
        let mut end = None;
        let fed = self.take_in(timeline, wal, &mut end);
        self.broken = fed.as_ref().err().map(Error::to_string);
        // Once for all: waking those who wait after each record would cost as much as the record.
        if let Some(end) = end {
            self.end = end;
            timeline.advance(end);
        }
        fed
    }

    /// Takes in what is whole; `end` is that of the last record.
    fn take_in(
        &mut self,
        timeline: &Timeline,
        mut wal: &[u8],
        end: &mut Option<Lsn>,
    ) -> Result<(), Error> {
        let mut into = Into {
            index: timeline.level0.borrow_mut(),
            catalog: timeline.catalog.borrow_mut(),
            state: timeline.state.borrow_mut(),
            counters: timeline.counters.borrow_mut(),
            data_checksums: timeline.manifest.data_checksums,
        };
        while let Some(record) = self.decoder.next(&mut wal).map_err(damaged)? {
            into.take(&record)?;
            *end = Some(record.end_lsn);
        }
        Ok(())
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
    // Whatever a file has beyond its segment is no WAL.
    let on_disk = last_start + bytes.min(u64::from(timeline.manifest.wal_segment_bytes));
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

fn damaged(error: pg::wal::error::WalError) -> Error {
    Error::Damaged(error.to_string())
}

/// What a bulk load wrote is not in such WAL, and nothing tells which relations that was (`xloginsert`'s callers:
/// `RelationNeedsWAL`). Postgres' own recovery goes no further either (`CheckRequiredParameterValues`).
fn not_all_changes(start: Lsn) -> Error {
    let message = "WAL was written with wal_level = minimal, which leaves changes out";
    Error::Damaged(format!("from {start} on {message}"))
}

/// What records go into.
struct Into<'t> {
    index: RefMut<'t, Index>,
    catalog: RefMut<'t, Catalog>,
    state: RefMut<'t, Tracker>,
    counters: RefMut<'t, Counters>,
    data_checksums: bool,
}

impl Into<'_> {
    fn take(&mut self, raw: &RawRecord<'_>) -> Result<(), Error> {
        self.counters.note(raw);
        self.state.take_header(raw)?;
        let record = raw.decode().map_err(damaged)?;
        let (start, end) = (raw.lsn, raw.end_lsn);
        let mut touches =
            Touches { index: &mut self.index, catalog: &mut self.catalog, start, end };
        let mut changes_pages = false;
        for block in record.blocks.iter() {
            let block = block.block_ref();
            let effect = if block.starts_anew { Effect::Initial } else { Effect::Change };
            changes_pages |= !block.starts_anew;
            touches.block(block.tag, block.number, effect, block.id)?;
        }
        if changes_pages {
            self.counters.note_change(&record);
        }
        if matches!(record.rmgr(), Rmgr::HEAP | Rmgr::HEAP2) {
            for cleared in implied_vm_clears(&record) {
                touches.implied(cleared.node.fork(Fork::Vm), vm::map_block(cleared.heap_block))?;
            }
        }
        if effects::has_effects(record.rmgr()) {
            for change in effects::effects(&record).map_err(damaged)? {
                if let Change::ParametersChanged(parameters) = &change {
                    if parameters.wal_level == WAL_LEVEL_MINIMAL {
                        return Err(not_all_changes(start));
                    }
                    let logged = parameters.wal_log_hints || self.data_checksums;
                    touches.catalog.note_hints_logged(end, logged);
                }
                touches.apply(&change)?;
                touches.values(&mut self.state, &change)?;
            }
        }
        self.state.end_record();
        Ok(())
    }
}

/// A number below 4096 for each kind of record.
fn kind_number(record: &Record<'_>) -> usize {
    usize::from(record.rmgr().0) << 4 | usize::from(record.kind_bits() >> 4)
}

/// Whether [`pg::redo`] knows this kind of record: tried on an empty page.
fn is_redone(record: &Record<'_>) -> bool {
    let changed = record.blocks.iter().find(|block| !block.block_ref().starts_anew);
    let mut scratch = [0; PAGE_BYTES];
    let tried =
        changed.map(|block| redo::redo(record, block.id, &mut scratch, redo::Options::default()));
    !matches!(tried, Some(Err(error)) if error.fault == Fault::Unsupported)
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
        self.catalog.extend(tag, end, block.saturating_add(1));
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
