//! The WAL as a stream: bytes in at any boundaries, whole checked records out.
//!
//! Invariants:
//! 1. A record leaves only with its checksum right and its link to the record before it right (or, for
//!    the first one, plausible).
//! 2. Bytes are copied only for a record that crosses a page or arrives in pieces.
//! 3. After an error the decoder stays there: the same error again, nothing skipped.

use crate::lsn::Lsn;
use crate::wal::error::{WalError, WalErrorKind};
use crate::wal::record::{RECORD_HEADER_BYTES, RawRecord, RecordHeader};
use crate::wal::rmgr::Rmgr;
use crate::wal::segment::{
    CONTRECORD, LONG_HEADER_BYTES, OVERWRITE_CONTRECORD, PAGE_BYTES, PageHeader,
    SHORT_HEADER_BYTES, WalVersion,
};

use crate::limits::WAL_RECORD_BYTES_MAX;

const XLOG_SWITCH: u8 = 0x40;
const XLOG_OVERWRITE_CONTRECORD: u8 = 0xD0;

/// Turns the bytes of the WAL into records; see the module's invariants.
///
/// Use: `let mut input = bytes; while let Some(record) = decoder.next(&mut input)? { … }`. `None` means
/// that more bytes are needed, beginning at [`StreamDecoder::position`].
#[derive(Debug)]
pub struct StreamDecoder {
    segment_bytes: u32,
    system_identifier: Option<u64>,
    /// Of the next byte to be fed.
    position: u64,
    state: State,
    /// A page header of which only a part has arrived.
    head: Vec<u8>,
    page: Option<PageHeader>,
    /// The record being collected, from `record_start`.
    record: Vec<u8>,
    record_start: u64,
    /// `record` was handed out by the last call.
    delivered: bool,
    /// Where the last whole record begins.
    previous: Option<Lsn>,
    /// Where the last whole record ends, as [`RawRecord::end_lsn`].
    end: Lsn,
    overwritten: Option<Lsn>,
    failed: Option<WalError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not on a record boundary: wait for a page header to tell where one is.
    Seek,
    /// Bytes of record content (page headers not counted) to be passed over.
    Skip(u64),
    /// After a switch of segments nothing counts up to here.
    SkipTo(u64),
    /// At the start of a record, or inside one if `record` is not empty.
    Record,
}

/// What one step over the input found.
enum Step<'i> {
    Starved,
    Contiguous { start: u64, bytes: &'i [u8] },
    Assembled,
}

/// Records that are taken at once, so that the memory they touch can be asked for ahead of its use.
pub const BATCH_RECORDS: usize = 32;

/// Records that follow one another; see [`StreamDecoder::next_batch`].
#[derive(Debug, Default)]
pub struct Batch<'i> {
    accepted: Vec<Accepted<'i>>,
    /// The bytes of those that crossed a page, one behind the other.
    copied: Vec<u8>,
}

impl Batch<'_> {
    /// None were left.
    pub const fn is_empty(&self) -> bool {
        self.accepted.is_empty()
    }

    pub const fn len(&self) -> usize {
        self.accepted.len()
    }

    pub fn records(&self) -> impl Iterator<Item = RawRecord<'_>> {
        let mut copied = self.copied.as_slice();
        self.accepted.iter().map(move |accepted| {
            let Accepted { lsn, end_lsn, version, header, borrowed } = *accepted;
            let bytes = borrowed.unwrap_or_else(|| {
                let length = usize::try_from(header.total_length).unwrap_or(usize::MAX);
                copied.split_off(..length).unwrap_or_default()
            });
            RawRecord { lsn, end_lsn, version, header, bytes }
        })
    }
}

/// A whole record that was checked.
#[derive(Clone, Copy, Debug)]
struct Accepted<'i> {
    lsn: Lsn,
    end_lsn: Lsn,
    version: WalVersion,
    header: RecordHeader,
    /// Its bytes; `None` if they are those that were collected.
    borrowed: Option<&'i [u8]>,
}

impl StreamDecoder {
    /// Begins where a record is known to begin (a redo pointer, the end of the record before).
    ///
    /// A page boundary is fine too; what is left there of an earlier record is passed over.
    pub fn at_record(start: Lsn, segment_bytes: u32) -> StreamDecoder {
        StreamDecoder::new(start, segment_bytes, State::Record)
    }

    /// Begins anywhere: passes over bytes up to the first record that begins behind a page header.
    pub fn resync(start: Lsn, segment_bytes: u32) -> StreamDecoder {
        StreamDecoder::new(start, segment_bytes, State::Seek)
    }

    fn new(start: Lsn, segment_bytes: u32, state: State) -> StreamDecoder {
        StreamDecoder {
            segment_bytes,
            system_identifier: None,
            position: start.0,
            state,
            head: Vec::new(),
            page: None,
            record: Vec::new(),
            record_start: 0,
            delivered: false,
            previous: None,
            end: start,
            overwritten: None,
            failed: None,
        }
    }

    /// Refuses segments of any other cluster.
    pub fn expect_system(mut self, system_identifier: u64) -> StreamDecoder {
        self.system_identifier = Some(system_identifier);
        self
    }

    /// Refuses a first record that does not link to this one.
    pub fn expect_previous(mut self, start: Lsn) -> StreamDecoder {
        self.previous = Some(start);
        self
    }

    /// Position of the next byte to be fed.
    pub const fn position(&self) -> Lsn {
        Lsn(self.position)
    }

    /// Where the last whole record ends: everything before is decoded.
    pub const fn end(&self) -> Lsn {
        self.end
    }

    /// Timeline of the last page seen.
    pub fn timeline(&self) -> Option<u32> {
        self.page.map(|page| page.timeline)
    }

    /// Version of the last page seen.
    pub fn version(&self) -> Option<WalVersion> {
        self.page.map(|page| page.version)
    }

    /// Tells the version where feeding begins inside a page, whose header is not seen.
    pub fn assume_version(mut self, version: WalVersion) -> StreamDecoder {
        let address = Lsn(self.position - self.position % PAGE_BYTES);
        let page = PageHeader { version, flags: 0, timeline: 0, address, rest: 0, long: None };
        self.page = Some(page);
        self
    }

    /// The next record from the front of `input`, which moves on behind it.
    pub fn next<'s, 'i: 's>(
        &'s mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<RawRecord<'s>>, WalError> {
        let Some(accepted) = self.advance(input)? else { return Ok(None) };
        let Accepted { lsn, end_lsn, version, header, borrowed } = accepted;
        let bytes = match borrowed {
            Some(bytes) => bytes,
            None => self.record.as_slice(),
        };
        Ok(Some(RawRecord { lsn, end_lsn, version, header, bytes }))
    }

    /// The next records, [`BATCH_RECORDS`] of them unless the input is used up before.
    ///
    /// # Errors
    /// Only where there is no record before what is wrong.
    pub fn next_batch<'i>(
        &mut self,
        input: &mut &'i [u8],
        batch: &mut Batch<'i>,
    ) -> Result<(), WalError> {
        batch.accepted.clear();
        batch.copied.clear();
        while batch.accepted.len() < BATCH_RECORDS {
            match self.advance(input) {
                Ok(Some(accepted)) => {
                    if accepted.borrowed.is_none() {
                        batch.copied.extend_from_slice(&self.record);
                    }
                    batch.accepted.push(accepted);
                }
                Ok(None) => break,
                Err(error) if batch.accepted.is_empty() => return Err(error),
                Err(_again) => break, // and the next call answers it
            }
        }
        Ok(())
    }

    fn advance<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Accepted<'i>>, WalError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if std::mem::take(&mut self.delivered) {
            self.record.clear();
        }
        let result = self.step(input).and_then(|step| self.accept(step));
        if let Err(error) = result {
            self.failed = Some(error);
        }
        result
    }

    /// Moves over the input until a record is whole or the input is used up.
    fn step<'i>(&mut self, input: &mut &'i [u8]) -> Result<Step<'i>, WalError> {
        loop {
            if input.is_empty() {
                return Ok(Step::Starved);
            }
            if let State::SkipTo(target) = self.state {
                self.pass(input, target - self.position);
                if self.position == target {
                    self.state = State::Record;
                }
                continue;
            }
            let in_page = self.position % PAGE_BYTES;
            if in_page == 0 || !self.head.is_empty() {
                self.page_header(input)?;
                continue;
            }
            let page_left = PAGE_BYTES - in_page;
            match self.state {
                State::Seek => {
                    self.pass(input, page_left);
                }
                State::Skip(left) => {
                    let passed = self.pass(input, left.min(page_left));
                    self.state = match left - passed {
                        0 => State::Record,
                        rest => State::Skip(rest),
                    };
                }
                State::Record | State::SkipTo(_) => {
                    if let Some(step) = self.record_bytes(input, page_left)? {
                        return Ok(step);
                    }
                }
            }
        }
    }

    /// Takes record content from this page; answers once a record is whole.
    fn record_bytes<'i>(
        &mut self,
        input: &mut &'i [u8],
        page_left: u64,
    ) -> Result<Option<Step<'i>>, WalError> {
        let available = usize::try_from(page_left).unwrap_or(usize::MAX).min(input.len());
        let here = input.get(..available).unwrap_or_default();
        if self.record.is_empty() {
            self.record_start = self.position;
            if let Some(length) = total_length(here) {
                let length = self.check_length(length)?;
                if let Some(bytes) = here.get(..length) {
                    let start = self.position;
                    self.take(input, length);
                    return Ok(Some(Step::Contiguous { start, bytes }));
                }
            }
        }
        let wanted = match total_length(&self.record) {
            Some(length) => self.check_length(length)? - self.record.len(),
            None if self.record.len() + here.len() < 4 => here.len(),
            None => 4_usize.saturating_sub(self.record.len()),
        };
        let taken = here.get(..wanted).unwrap_or(here);
        self.record.extend_from_slice(taken);
        self.take(input, taken.len());
        self.check_header_once(taken.len())?;
        let whole = total_length(&self.record)
            .and_then(|length| usize::try_from(length).ok())
            .is_some_and(|length| length == self.record.len());
        Ok(whole.then_some(Step::Assembled))
    }

    /// Checks a collected header as soon as it is complete, so that garbage is not collected for long.
    fn check_header_once(&self, added: usize) -> Result<(), WalError> {
        let before = self.record.len() - added;
        if before >= RECORD_HEADER_BYTES {
            return Ok(());
        }
        match RecordHeader::parse(&self.record) {
            Some(header) => self.check_header(&header, Lsn(self.record_start)),
            None => Ok(()),
        }
    }

    fn check_length(&self, length: u32) -> Result<usize, WalError> {
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if !(RECORD_HEADER_BYTES..=WAL_RECORD_BYTES_MAX).contains(&bytes) {
            return Err(WalError {
                lsn: Lsn(self.record_start),
                kind: WalErrorKind::RecordLength(length),
            });
        }
        Ok(bytes)
    }

    fn check_header(&self, header: &RecordHeader, lsn: Lsn) -> Result<(), WalError> {
        let kind = if !header.rmgr.is_valid() {
            WalErrorKind::ResourceManager(header.rmgr.0)
        } else if match self.previous {
            Some(previous) => header.previous != previous,
            None => header.previous >= lsn,
        } {
            WalErrorKind::PreviousRecord(header.previous)
        } else {
            return Ok(());
        };
        Err(WalError { lsn, kind })
    }

    /// Checks a whole record and works out where it ends and how to go on.
    fn accept<'i>(&mut self, step: Step<'i>) -> Result<Option<Accepted<'i>>, WalError> {
        let (start, borrowed) = match step {
            Step::Starved => return Ok(None),
            Step::Contiguous { start, bytes } => (start, Some(bytes)),
            Step::Assembled => (self.record_start, None),
        };
        let lsn = Lsn(start);
        let version = self.version().ok_or(WalError { lsn, kind: WalErrorKind::Magic(0) })?;
        let end = Lsn(self.position).align_up();
        let record = RawRecord::new(borrowed.unwrap_or(self.record.as_slice()), lsn, end, version)?;
        let header = record.header;
        if borrowed.is_some() {
            self.check_header(&header, lsn)?;
        }
        record.verify()?;
        if header.rmgr == Rmgr::XLOG && header.kind_bits() == XLOG_OVERWRITE_CONTRECORD {
            check_overwritten(&record, self.overwritten)?;
            self.overwritten = None;
        }
        self.delivered = borrowed.is_none();
        self.previous = Some(lsn);
        self.end = end;
        let padding = end.0 - self.position;
        self.state = if padding == 0 { State::Record } else { State::Skip(padding) };
        if header.rmgr == Rmgr::XLOG && header.kind_bits() == XLOG_SWITCH {
            let segment = u64::from(self.segment_bytes);
            self.end = Lsn(end.0.next_multiple_of(segment));
            self.state = State::SkipTo(self.end.0);
        }
        Ok(Some(Accepted { lsn, end_lsn: self.end, version, header, borrowed }))
    }

    /// Collects and checks a page header, then decides how the page goes on.
    fn page_header(&mut self, input: &mut &[u8]) -> Result<(), WalError> {
        let have = self.head.len();
        let whole = match PageHeader::length(&self.head) {
            Some(length) if have >= SHORT_HEADER_BYTES => length,
            _ => SHORT_HEADER_BYTES,
        };
        let missing = whole.saturating_sub(have).min(input.len());
        self.head.extend_from_slice(input.get(..missing).unwrap_or_default());
        self.take(input, missing);
        let length = PageHeader::length(&self.head).unwrap_or(LONG_HEADER_BYTES);
        if self.head.len() < length {
            return Ok(());
        }
        let address = Lsn(self.position - self.position % PAGE_BYTES);
        let error = |kind| WalError { lsn: address, kind };
        let page = PageHeader::parse(&self.head, address).map_err(error)?;
        self.head.clear();
        self.check_page(&page).map_err(error)?;
        self.page = Some(page);
        self.enter_page(&page).map_err(error)
    }

    fn check_page(&self, page: &PageHeader) -> Result<(), WalErrorKind> {
        let at_segment_start = page.address.segment_offset(self.segment_bytes) == 0;
        match page.long {
            None if at_segment_start => return Err(WalErrorKind::PageFlags(page.flags)),
            None => {}
            Some(long) if long.segment_bytes != self.segment_bytes => {
                return Err(WalErrorKind::SegmentBytes(long.segment_bytes));
            }
            Some(long)
                if self.system_identifier.is_some_and(|own| own != long.system_identifier) =>
            {
                return Err(WalErrorKind::SystemIdentifier(long.system_identifier));
            }
            Some(_ours) => {}
        }
        match self.timeline() {
            Some(before) if page.timeline < before => {
                Err(WalErrorKind::Timeline { found: page.timeline, before })
            }
            _ => Ok(()),
        }
    }

    fn enter_page(&mut self, page: &PageHeader) -> Result<(), WalErrorKind> {
        let continues = page.flags & CONTRECORD != 0;
        if self.state == State::Record && !self.record.is_empty() {
            if page.flags & OVERWRITE_CONTRECORD != 0 {
                self.overwritten = Some(Lsn(self.record_start));
                self.record.clear();
                return Ok(());
            }
            if !continues {
                return Err(WalErrorKind::MissingContrecord);
            }
            let length = total_length(&self.record).unwrap_or(0);
            let had = u32::try_from(self.record.len()).unwrap_or(u32::MAX);
            let expected = length.saturating_sub(had);
            if page.rest != expected || expected == 0 {
                return Err(WalErrorKind::ContrecordLength { found: page.rest, expected });
            }
        } else if matches!(self.state, State::Record | State::Seek) {
            // Nothing of the record that ends here is known: begin behind it.
            self.state = match Lsn(u64::from(page.rest)).align_up().0 {
                rest if continues && rest > 0 => State::Skip(rest),
                _ => State::Record,
            };
        } else if matches!(self.state, State::Skip(_)) && !continues {
            self.state = State::Record; // what we were passing over was never finished
        }
        Ok(())
    }

    /// Consumes up to `length` bytes without looking; answers how many.
    fn pass(&mut self, input: &mut &[u8], length: u64) -> u64 {
        let taken = usize::try_from(length).unwrap_or(usize::MAX).min(input.len());
        self.take(input, taken);
        u64::try_from(taken).unwrap_or(u64::MAX)
    }

    fn take(&mut self, input: &mut &[u8], length: usize) {
        *input = input.get(length..).unwrap_or_default();
        self.position = self.position.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
    }
}

/// The record that replaces a missing rest names the record that lost it.
fn check_overwritten(record: &RawRecord<'_>, lost: Option<Lsn>) -> Result<(), WalError> {
    let decoded = record.decode()?;
    let named = decoded.main_data.first_chunk().map(|lsn| Lsn(u64::from_le_bytes(*lsn)));
    match (lost, named) {
        (Some(lost), Some(named)) if lost != named => {
            Err(WalError { lsn: record.lsn, kind: WalErrorKind::OverwrittenContrecord(named) })
        }
        _ => Ok(()),
    }
}

fn total_length(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|length| u32::from_le_bytes(*length))
}

/// Reads what a segment file tells of itself: size, system, timeline; the file's first 40 bytes will do.
pub fn identify_segment(bytes: &[u8], start: Lsn) -> Result<PageHeader, WalError> {
    let page = PageHeader::parse(bytes, start).map_err(|kind| WalError { lsn: start, kind })?;
    if page.long.is_none() {
        return Err(WalError { lsn: start, kind: WalErrorKind::PageFlags(page.flags) });
    }
    Ok(page)
}
