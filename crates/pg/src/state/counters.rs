//! The counters of `pg_control` and of a checkpoint, as of any record.

use crate::lsn::Lsn;
use crate::redo::effects::{Change, Checkpoint, Parameters, TransactionEnd, later_xid};
use crate::wal::cursor::Cursor;
use crate::wal::segment::WalVersion;

/// The first transaction id that a user's transaction can have.
const FIRST_NORMAL_XID: u64 = 3;
/// First byte of written counters.
const FORMAT: u8 = 1;

/// What would stand in a checkpoint at this moment, and the settings that a control file repeats.
///
/// As of an LSN: read the last stored ones before it ([`Counters::from_bytes`]), then take every record's header
/// ([`Counters::note_xid`]) and changes ([`Counters::apply`]) up to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// `redo`, `time` and `oldest_active_xid` are those of the last checkpoint.
    pub checkpoint: Checkpoint,
    pub parameters: Parameters,
}

impl Counters {
    /// Nothing is known.
    pub const ZERO: Counters =
        Counters { checkpoint: Checkpoint::ZERO, parameters: Parameters::ZERO };

    /// The low half of the next transaction id.
    pub const fn next_xid(&self) -> u32 {
        let [a, b, c, d, ..] = self.checkpoint.next_xid.to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// A record's header has this id: the next one is behind it. 0 is none.
    pub fn note_xid(&mut self, xid: u32) {
        let ahead = xid.wrapping_sub(self.next_xid());
        if u64::from(xid) < FIRST_NORMAL_XID || ahead.cast_signed() < 0 {
            return;
        }
        let next = &mut self.checkpoint.next_xid;
        *next = next.saturating_add(u64::from(ahead) + 1);
        // The ids before the first normal one are passed over in each epoch.
        *next = next.saturating_add(FIRST_NORMAL_XID.saturating_sub(*next & 0xFFFF_FFFF));
    }

    /// Takes in a change.
    pub fn apply(&mut self, change: &Change<'_>) {
        match change {
            Change::XidsUsed { through } => self.note_xid(*through),
            Change::RunningTransactions { next_xid, .. } => {
                // The id before it may be one of those that are passed over; then it says nothing.
                self.note_xid(next_xid.wrapping_sub(1));
            }
            Change::TransactionEnded(end) => self.note_commit_timestamp(end),
            Change::NextOid(oid) => self.checkpoint.next_oid = *oid,
            Change::MultiXactCreated { multi, offset, members } => {
                let count = u32::try_from(members.len()).unwrap_or(u32::MAX);
                let next = multi.wrapping_add(1).max(1);
                self.note_multixact(next, offset.wrapping_add(count));
            }
            Change::MultiXactsTruncated { oldest_database, offsets, .. } => {
                self.checkpoint.oldest_multi = offsets.1;
                self.checkpoint.oldest_multi_database = *oldest_database;
            }
            Change::ClogTruncated { oldest_xid, oldest_database, .. } => {
                self.checkpoint.oldest_xid = *oldest_xid;
                self.checkpoint.oldest_xid_database = *oldest_database;
            }
            Change::CommitTimestampsTruncated { oldest_xid, .. } => {
                let oldest = &mut self.checkpoint.oldest_commit_timestamp_xid;
                *oldest = if *oldest == 0 { *oldest_xid } else { later_xid(*oldest, *oldest_xid) };
            }
            Change::FullPageWrites(on) => self.checkpoint.full_page_writes = *on,
            Change::RecoveryEnded { timeline, previous_timeline, .. } => {
                self.checkpoint.timeline = *timeline;
                self.checkpoint.previous_timeline = *previous_timeline;
            }
            Change::ParametersChanged(parameters) => self.set_parameters(parameters),
            Change::Checkpoint(checkpoint) => self.note_checkpoint(checkpoint),
            _ => {}
        }
    }

    /// `CommitTsParameterChange`: the bounds go when tracking ends, and begin at the next id when it begins.
    fn set_parameters(&mut self, parameters: &Parameters) {
        self.parameters = *parameters;
        let next = self.next_xid();
        let bounds = &mut self.checkpoint;
        if !parameters.track_commit_timestamp {
            (bounds.oldest_commit_timestamp_xid, bounds.newest_commit_timestamp_xid) = (0, 0);
        } else if bounds.oldest_commit_timestamp_xid == 0 {
            bounds.oldest_commit_timestamp_xid = next;
            bounds.newest_commit_timestamp_xid = next;
        }
    }

    fn note_commit_timestamp(&mut self, end: &TransactionEnd<'_>) {
        if !end.committed || !self.parameters.track_commit_timestamp || end.xid == 0 {
            return;
        }
        let last = end.subxids.last().copied().unwrap_or(end.xid);
        let newest = &mut self.checkpoint.newest_commit_timestamp_xid;
        *newest = if *newest == 0 { last } else { later_xid(last, *newest) };
    }

    fn note_multixact(&mut self, next: u32, offset: u32) {
        let counters = &mut self.checkpoint;
        counters.next_multi = later_xid(next, counters.next_multi);
        counters.next_multi_offset = later_xid(offset, counters.next_multi_offset);
    }

    /// Exact at shutdown. Otherwise the record's counters are of the past by the time it is written, but the oldest
    /// ids have been moved by nothing else in the WAL; the next oid includes ids set aside but not used.
    fn note_checkpoint(&mut self, checkpoint: &Checkpoint) {
        if checkpoint.shutdown {
            self.checkpoint = *checkpoint;
            return;
        }
        let ours = &mut self.checkpoint;
        ours.shutdown = false;
        ours.redo = checkpoint.redo;
        ours.timeline = checkpoint.timeline;
        ours.previous_timeline = checkpoint.previous_timeline;
        ours.full_page_writes = checkpoint.full_page_writes;
        ours.next_xid = ours.next_xid.max(checkpoint.next_xid);
        ours.time = checkpoint.time;
        ours.oldest_active_xid = checkpoint.oldest_active_xid;
        if later_xid(checkpoint.oldest_xid, ours.oldest_xid) == checkpoint.oldest_xid {
            ours.oldest_xid = checkpoint.oldest_xid;
            ours.oldest_xid_database = checkpoint.oldest_xid_database;
        }
        if later_xid(checkpoint.oldest_multi, ours.oldest_multi) == checkpoint.oldest_multi {
            ours.oldest_multi = checkpoint.oldest_multi;
            ours.oldest_multi_database = checkpoint.oldest_multi_database;
        }
        self.note_multixact(checkpoint.next_multi, checkpoint.next_multi_offset);
    }

    /// The counters as bytes, for a store.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut out = vec![FORMAT, u8::from(self.checkpoint.shutdown)];
        // The layout of any major will do: all fields are in all of them.
        self.checkpoint.write(WalVersion::V15, self.parameters.wal_level, &mut out);
        self.parameters.write(&mut out);
        out
    }

    /// Reads what [`Counters::to_bytes`] made; `None` if it is not that.
    pub fn from_bytes(bytes: &[u8]) -> Option<Counters> {
        let mut cursor = Cursor::new(bytes);
        let (FORMAT, shutdown) = (cursor.u8()?, cursor.bool()?) else { return None };
        let checkpoint = Checkpoint::parse(cursor.bytes(Checkpoint::BYTES)?, shutdown)?;
        let parameters = Parameters::parse(cursor.bytes(Parameters::BYTES)?)?;
        cursor.is_empty().then_some(Counters { checkpoint, parameters })
    }

    /// Where recovery would begin, by the last checkpoint.
    pub const fn redo_start(&self) -> Lsn {
        self.checkpoint.redo
    }
}
