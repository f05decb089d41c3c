//! What is small and changes with many records, as of the end of one of them: counters, and which values there are.

use std::io;

use pg::datadir::slru::Slru;
use pg::lsn::Lsn;
use pg::redo::effects::{self, Change};
use pg::state::{Counters, Key, Touch, touches};
use pg::wal::error::WalError;
use pg::wal::record::RawRecord;

use super::directory::Directory;
use crate::bytes::{Reader, Writer};
use crate::index::Effect;

/// First byte of a written snapshot.
const FORMAT: u64 = 1;

/// The cluster beside its pages as of a record's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The record's end, and its start; there may have been later ones that changed nothing of this.
    pub end: Lsn,
    pub last_record: Lsn,
    pub counters: Counters,
    pub directory: Directory,
}

/// How much of a snapshot a record has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Changed {
    /// Nothing but the position.
    Nothing,
    /// The next transaction id, by the one in the record's header.
    Xid,
    /// More than that; the record tells what.
    Record,
    /// A checkpoint: a snapshot is due.
    Checkpoint,
}

impl Snapshot {
    /// Takes the next record as far as its header goes.
    pub fn take_header(&mut self, raw: &RawRecord<'_>) -> Changed {
        (self.last_record, self.end) = (raw.lsn, raw.end_lsn);
        let before = self.counters.checkpoint.next_xid;
        self.counters.note_xid(raw.header.xid);
        if self.counters.checkpoint.next_xid == before { Changed::Nothing } else { Changed::Xid }
    }

    /// Takes one of the record's changes; `touch` is told which values it changes.
    pub fn take_change(
        &mut self,
        change: &Change<'_>,
        mut touch: impl FnMut(Key, Effect),
    ) -> Changed {
        let (before, mut is_other) = (self.counters, false);
        for touched in touches(change, &self.counters) {
            match touched {
                Touch::Redo(key) => {
                    let is_new = self.directory.insert(key);
                    is_other |= is_new;
                    // What is not there begins anew, whatever there was of that name in an earlier life.
                    let is_whole = is_new || is_replaced(key, change);
                    touch(key, if is_whole { Effect::Initial } else { Effect::Change });
                }
                Touch::Copy { key, source } => {
                    if self.directory.has(source) {
                        is_other |= self.directory.insert(key);
                        touch(key, Effect::Initial);
                    }
                }
                Touch::Remove(key) => is_other |= self.directory.remove(key),
                Touch::RemovePages(log, removal) => {
                    is_other |= self.directory.remove_pages(log, removal);
                }
            }
        }
        self.counters.apply(change);
        match change {
            Change::Checkpoint(_) => Changed::Checkpoint,
            _ if is_other || self.counters != before => Changed::Record,
            _ => Changed::Nothing,
        }
    }

    /// Takes a whole record.
    pub fn take(&mut self, raw: &RawRecord<'_>) -> Result<Changed, WalError> {
        let mut changed = self.take_header(raw);
        if effects::has_effects(raw.header.rmgr) {
            let record = raw.decode()?;
            for change in effects::effects(&record)? {
                changed = changed.max(self.take_change(&change, |_key, _effect| {}));
            }
        }
        Ok(changed)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.number(FORMAT);
        out.number(self.end.0);
        out.number(self.last_record.0);
        out.bytes(&self.counters.to_bytes());
        self.directory.write(&mut out);
        out.0
    }

    /// Reads what [`Snapshot::to_bytes`] made.
    ///
    /// # Errors
    /// `InvalidData` if it is not that.
    pub fn from_bytes(bytes: &[u8]) -> io::Result<Snapshot> {
        let parse = || {
            let mut input = Reader(bytes);
            if input.number()? != FORMAT {
                return None;
            }
            let (end, last_record) = (Lsn(input.number()?), Lsn(input.number()?));
            let counters = Counters::from_bytes(input.bytes()?)?;
            let directory = Directory::read(&mut input)?;
            let snapshot = Snapshot { end, last_record, counters, directory };
            input.0.is_empty().then_some(snapshot)
        };
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "stored counters are damaged");
        parse().ok_or_else(invalid)
    }
}

/// Whether the change makes the value anew, so that nothing before it matters.
fn is_replaced(key: Key, change: &Change<'_>) -> bool {
    match key {
        Key::Relmap { .. } | Key::TwoPhase(_) | Key::Database { .. } | Key::Tablespace(_) => true,
        Key::Origins => false,
        // A page of offsets may keep its first entry.
        Key::Slru(Slru::MultiXactOffsets, _) => false,
        Key::Slru(..) => matches!(
            change,
            Change::ClogPageZeroed(_)
                | Change::CommitTimestampPageZeroed(_)
                | Change::MultiXactMembersPageZeroed(_)
        ),
    }
}
