//! What makes a stock server start on the pages of one moment without any recovery: a `pg_control` that says
//! "shut down", and the shutdown checkpoint it points to, written into the WAL just behind the last record.
//!
//! Layouts: `catalog/pg_control.h` (versions 1300 to 1800), `access/xlogrecord.h`, `access/xlog_internal.h`. The server checks
//! next to nothing of this, and a wrong counter corrupts silently, so whatever does not add up is refused here.

use std::fmt;

use crate::datadir::control::{ControlError, ControlFile, FILE_BYTES};
use crate::datadir::slru::{self, Slru};
use crate::lsn::Lsn;
use crate::redo::effects::{Checkpoint, Parameters};
use crate::wal::rmgr::Rmgr;
use crate::wal::segment::{
    CONTRECORD, LONG_HEADER, LONG_HEADER_BYTES, PAGE_BYTES, SHORT_HEADER_BYTES, WalVersion,
};

/// Bytes of the checkpoint record: header 24, chunk header 2, `CheckPoint`.
const RECORD_BYTES: u32 = 26 + CHECKPOINT_BYTES as u32;
const CHECKPOINT_BYTES: u8 = 88;
/// [`PAGE_BYTES`] as a length in memory, and as a field.
const WAL_PAGE: usize = 8192;
const WAL_PAGE_FIELD: u32 = 8192;
/// Bytes of the record's header that its checksum covers.
const CRC_AT: usize = 20;
/// A short chunk of main data (`XLR_BLOCK_ID_DATA_SHORT`).
const DATA_SHORT: u8 = 255;
/// The first transaction id that a user's transaction can have.
const FIRST_NORMAL_XID: u32 = 3;

const _: () = assert!(CHECKPOINT_BYTES as usize == Checkpoint::BYTES);
const _: () = assert!(WAL_PAGE as u64 == PAGE_BYTES && WAL_PAGE_FIELD as u64 == PAGE_BYTES);

/// What is known of a cluster as of one moment.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Its `pg_control` of any earlier time: what never changes is taken from there.
    pub control: &'a [u8],
    /// End of the last record that the pages reflect.
    pub end: Lsn,
    /// Where that record begins.
    pub last_record: Lsn,
    pub timeline: u32,
    /// The counters as of `end`; `redo`, `timeline` and what a shutdown implies are filled in here.
    pub counters: Checkpoint,
    pub parameters: Parameters,
    /// Seconds since the Unix epoch, for display only.
    pub time: i64,
    /// The WAL from the start of the page that holds the place of the checkpoint up to `end`; empty
    /// if it is not there any more.
    pub wal: &'a [u8],
}

/// The two files' contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootImage {
    /// `global/pg_control`.
    pub control: Vec<u8>,
    /// Where the checkpoint record begins.
    pub checkpoint: Lsn,
    /// Where it ends.
    pub end: Lsn,
    /// Where `wal` begins: at the start of a page.
    pub wal_start: Lsn,
    /// WAL up to `end`; behind it everything is zero.
    pub wal: Vec<u8>,
}

/// Why no server is to be started on this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootError {
    Control(ControlError),
    /// A fact that contradicts another one.
    Facts(&'static str),
}

impl BootImage {
    /// Makes both files.
    ///
    /// # Errors
    /// Facts that contradict each other or the earlier control file.
    pub fn new(facts: &Facts<'_>) -> Result<BootImage, BootError> {
        let before = ControlFile::parse(facts.control).map_err(BootError::Control)?;
        check(facts, &before)?;
        let checkpoint = place_of_record(facts.end, before.segment_bytes);
        let counters = Checkpoint {
            shutdown: true,
            redo: checkpoint,
            timeline: facts.timeline,
            previous_timeline: facts.timeline,
            oldest_active_xid: 0,
            time: facts.time,
            ..facts.counters
        };
        let wal_level = facts.parameters.wal_level;
        let mut fields = Vec::with_capacity(Checkpoint::BYTES);
        counters.write(before.version, wal_level, &mut fields);
        let record = record(&fields, facts.last_record);
        let wal_start = Lsn(facts.end.0 - facts.end.0 % PAGE_BYTES);
        let mut pages = Pages {
            version: before.version,
            system_identifier: before.system_identifier,
            timeline: facts.timeline,
            segment_bytes: before.segment_bytes,
            start: wal_start,
            bytes: Vec::new(),
        };
        pages.begin(facts.wal, facts.end, checkpoint);
        pages.write(&record);
        // Where a record ends is where the next one could begin, as the server counts.
        pages.bytes.resize(pages.bytes.len().next_multiple_of(8), 0);
        let end = wal_start + pages.bytes.len() as u64;
        let control = control(facts, before.version, counters.redo, &fields)?;
        Ok(BootImage { control, checkpoint, end, wal_start, wal: pages.bytes })
    }
}

/// Where a standby begins: replay goes from the checkpoint's redo pointer to `end`, of when the pages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandbyStart {
    /// Where the record of the checkpoint begins.
    pub checkpoint: Lsn,
    /// Consistent from here on.
    pub end: Lsn,
    /// That of the WAL at `end`.
    pub timeline: u32,
}

/// Makes of a control file one of a standby that was copied while it ran (`do_pg_backup_stop`, `InitWalRecovery`).
///
/// # Errors
/// When it is not a control file.
pub fn standby_control(control: &[u8], start: &StandbyStart) -> Result<Vec<u8>, BootError> {
    let version = ControlFile::parse(control).map_err(BootError::Control)?.version;
    let mut file = covered(control, version)?;
    for (at, bytes) in [
        (16, &5_u32.to_le_bytes()[..]), // DB_IN_ARCHIVE_RECOVERY
        (32, &start.checkpoint.0.to_le_bytes()),
        // minRecoveryPoint and its timeline.
        (136, &start.end.0.to_le_bytes()),
        (144, &start.timeline.to_le_bytes()),
    ] {
        put(&mut file, at, bytes);
    }
    Ok(sealed(file))
}

/// Where a record begins that follows one which ends here.
pub fn place_of_record(end: Lsn, segment_bytes: u32) -> Lsn {
    let aligned = end.align_up();
    if aligned.0.is_multiple_of(PAGE_BYTES) {
        return aligned + header_bytes(aligned, segment_bytes) as u64;
    }
    aligned
}

/// The header of a segment's first page, for a segment whose beginning is not there any more: the rest of that
/// page, and the pages up to the one of the checkpoint, may be zeroes.
pub fn segment_header(
    version: WalVersion,
    system_identifier: u64,
    timeline: u32,
    segment_bytes: u32,
    start: Lsn,
) -> Vec<u8> {
    let bytes = Vec::new();
    let mut pages = Pages { version, system_identifier, timeline, segment_bytes, start, bytes };
    pages.header(0);
    pages.bytes
}

/// The pages of transaction logs that a server with these counters reads when it starts: one that is
/// missing keeps it from starting (`TrimCLOG`, `TrimMultiXact`).
pub fn pages_needed(counters: &Checkpoint) -> Vec<(Slru, u32)> {
    let mut needed = Vec::new();
    let next_xid = xid(counters.next_xid);
    if !next_xid.is_multiple_of(slru::XIDS_PER_PAGE) {
        needed.push((Slru::Clog, slru::xid_page(next_xid)));
    }
    if !counters.next_multi.is_multiple_of(slru::OFFSETS_PER_PAGE) {
        let page = slru::multixact_offset_page(counters.next_multi);
        needed.push((Slru::MultiXactOffsets, page));
    }
    if counters.next_multi_offset % slru::MEMBERS_PER_PAGE >= 4 {
        let page = slru::multixact_member_page(counters.next_multi_offset);
        needed.push((Slru::MultiXactMembers, page));
    }
    needed
}

fn check(facts: &Facts<'_>, before: &ControlFile) -> Result<(), BootError> {
    let counters = &facts.counters;
    let (next_xid, oldest_xid) = (xid(counters.next_xid), counters.oldest_xid);
    let not_after = |one: u32, other: u32| one.wrapping_sub(other).cast_signed() <= 0;
    let page_start = facts.end.0 - facts.end.0 % PAGE_BYTES;
    for (holds, what) in [
        (facts.timeline != 0, "timeline 0"),
        (facts.end.0 > LONG_HEADER_BYTES as u64, "the position is before any record"),
        (facts.last_record < facts.end, "the last record begins behind its end"),
        (facts.last_record.is_valid(), "the last record is not known"),
        (next_xid >= FIRST_NORMAL_XID, "the next transaction id is not a normal one"),
        (oldest_xid >= FIRST_NORMAL_XID, "the oldest transaction id is not a normal one"),
        (not_after(oldest_xid, next_xid), "the oldest transaction id is after the next one"),
        (counters.next_multi != 0, "the next multixact id is 0"),
        (counters.oldest_multi != 0, "the oldest multixact id is 0"),
        (
            not_after(counters.oldest_multi, counters.next_multi),
            "the oldest multixact id is after the next one",
        ),
        (counters.next_oid.0 != 0, "the next oid is 0"),
        (
            facts.wal.is_empty() || facts.wal.len() as u64 == facts.end.0 - page_start,
            "the WAL before the position has another length",
        ),
        (
            before.checkpoint_lsn > facts.end || before.checkpoint.next_xid <= counters.next_xid,
            "the next transaction id is before that of an earlier checkpoint",
        ),
        (
            before.checkpoint_lsn > facts.end
                || not_after(before.checkpoint.next_multi, counters.next_multi),
            "the next multixact id is before that of an earlier checkpoint",
        ),
    ] {
        if !holds {
            return Err(BootError::Facts(what));
        }
    }
    Ok(())
}

/// The low half of a full transaction id.
fn xid(full: u64) -> u32 {
    u32::try_from(full & 0xFFFF_FFFF).unwrap_or(0)
}

const fn header_bytes(page: Lsn, segment_bytes: u32) -> usize {
    if page.segment_offset(segment_bytes) == 0 { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES }
}

/// WAL pages as they are written, from the start of one on.
struct Pages {
    version: WalVersion,
    system_identifier: u64,
    timeline: u32,
    segment_bytes: u32,
    start: Lsn,
    bytes: Vec<u8>,
}

impl Pages {
    /// What stands before the record on its page.
    fn begin(&mut self, wal: &[u8], end: Lsn, record: Lsn) {
        let page = WAL_PAGE;
        if wal.is_empty() && end > self.start {
            // As if the rest of an earlier record stood here: readers pass over it.
            let before =
                usize::try_from(record.bytes_since(self.start)).map_or(page, |to| to.min(page));
            self.header(before.saturating_sub(header_bytes(self.start, self.segment_bytes)));
            self.bytes.resize(before, 0);
        } else {
            self.bytes.extend_from_slice(wal);
            self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        }
        if self.bytes.len().is_multiple_of(page) {
            self.header(0);
        }
    }

    /// A record's bytes, around page headers.
    fn write(&mut self, mut record: &[u8]) {
        while !record.is_empty() {
            let used = self.bytes.len() % WAL_PAGE;
            if used == 0 {
                self.header(record.len());
                continue;
            }
            let room = (WAL_PAGE - used).min(record.len());
            let Some((here, rest)) = record.split_at_checked(room) else { return };
            self.bytes.extend_from_slice(here);
            record = rest;
        }
    }

    /// The header of the page that begins here, at the top of which so many bytes of a record go on.
    fn header(&mut self, rest: usize) {
        let address = self.start + self.bytes.len() as u64;
        let long = address.segment_offset(self.segment_bytes) == 0;
        let flags = if rest > 0 { CONTRECORD } else { 0 } | if long { LONG_HEADER } else { 0 };
        let out = &mut self.bytes;
        out.extend_from_slice(&self.version.magic().to_le_bytes());
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&self.timeline.to_le_bytes());
        out.extend_from_slice(&address.0.to_le_bytes());
        out.extend_from_slice(&u32::try_from(rest).unwrap_or(0).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        if long {
            out.extend_from_slice(&self.system_identifier.to_le_bytes());
            out.extend_from_slice(&self.segment_bytes.to_le_bytes());
            out.extend_from_slice(&WAL_PAGE_FIELD.to_le_bytes());
        }
    }
}

/// The shutdown checkpoint as a record.
fn record(fields: &[u8], previous: Lsn) -> Vec<u8> {
    let mut data = vec![DATA_SHORT, CHECKPOINT_BYTES];
    data.extend_from_slice(fields);
    let mut record = Vec::with_capacity(128);
    record.extend_from_slice(&RECORD_BYTES.to_le_bytes());
    record.extend_from_slice(&0_u32.to_le_bytes()); // no transaction
    record.extend_from_slice(&previous.0.to_le_bytes());
    record.extend_from_slice(&[0x00, Rmgr::XLOG.0, 0, 0]); // XLOG_CHECKPOINT_SHUTDOWN
    debug_assert_eq!(record.len(), CRC_AT, "the checksum covers all fields before it");
    let crc = crc32c::crc32c_append(crc32c::crc32c(&data), &record);
    record.extend_from_slice(&crc.to_le_bytes());
    record.extend_from_slice(&data);
    record
}

/// The control file: the earlier one with the fields of this moment.
fn control(
    facts: &Facts<'_>,
    version: WalVersion,
    checkpoint: Lsn,
    fields: &[u8],
) -> Result<Vec<u8>, BootError> {
    let mut file = covered(facts.control, version)?;
    let mut put = |at: usize, bytes: &[u8]| put(&mut file, at, bytes);
    put(16, &1_u32.to_le_bytes()); // DB_SHUTDOWNED
    put(24, &facts.time.to_le_bytes());
    put(32, &checkpoint.0.to_le_bytes());
    put(40, fields);
    // minRecoveryPoint, its timeline, backupStartPoint, backupEndPoint, backupEndRequired.
    put(136, &[0; 33]);
    let parameters = &facts.parameters;
    put(172, &parameters.wal_level.to_le_bytes());
    put(176, &[u8::from(parameters.wal_log_hints)]);
    for (at, value) in [
        (180, parameters.max_connections),
        (184, parameters.max_worker_processes),
        (188, parameters.max_wal_senders),
        (192, parameters.max_prepared_transactions),
        (196, parameters.max_locks_per_transaction),
    ] {
        put(at, &value.to_le_bytes());
    }
    put(200, &[u8::from(parameters.track_commit_timestamp)]);
    Ok(sealed(file))
}

/// The part of a control file that its checksum is of.
fn covered(control: &[u8], version: WalVersion) -> Result<Vec<u8>, BootError> {
    let checksum_at = if version < WalVersion::V18 {
        ControlFile::CHECKSUM_AT
    } else {
        ControlFile::CHECKSUM_AT_18
    };
    let short = BootError::Control(ControlError::TooShort);
    Ok(control.get(..checksum_at).ok_or(short)?.to_vec())
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = file.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// With its checksum, as long as the file is.
fn sealed(mut file: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&file);
    file.extend_from_slice(&crc.to_le_bytes());
    file.resize(FILE_BYTES, 0);
    file
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BootError::Control(error) => fmt::Display::fmt(error, f),
            BootError::Facts(what) => {
                write!(f, "what is known of the cluster contradicts itself: {what}")
            }
        }
    }
}

impl std::error::Error for BootError {}

#[cfg(test)]
mod tests;
