//! One WAL record: header, block references, data (`access/xlogrecord.h`).

use std::fmt;

use crate::datadir::relation::{RelNode, RelTag};
use crate::lsn::Lsn;
use crate::wal::block::{Block, BlockRef, Blocks, MAX_BLOCK_ID, Part};
use crate::wal::cursor::Cursor;
use crate::wal::error::{WalError, WalErrorKind};
use crate::wal::rmgr::{self, Rmgr};
use crate::wal::segment::WalVersion;

/// Bytes of the fixed header (`SizeOfXLogRecord`).
pub const RECORD_HEADER_BYTES: usize = 24;

/// The fixed header that every record begins with (`XLogRecord`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Bytes of the whole record with this header.
    pub total_length: u32,
    /// The transaction that wrote it; 0 for none.
    pub xid: u32,
    /// Where the record before begins.
    pub previous: Lsn,
    /// Flags: the high four bits belong to the resource manager.
    pub info: u8,
    pub rmgr: Rmgr,
    pub checksum: u32,
}

impl RecordHeader {
    /// Reads the first 24 bytes; `None` if there are fewer.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Option<RecordHeader> {
        let mut cursor = Cursor::new(bytes.first_chunk::<RECORD_HEADER_BYTES>()?);
        let total_length = cursor.u32()?;
        let xid = cursor.u32()?;
        let previous = cursor.lsn()?;
        let info = cursor.u8()?;
        let rmgr = Rmgr(cursor.u8()?);
        let _padding = cursor.u16()?;
        let checksum = cursor.u32()?;
        Some(RecordHeader { total_length, xid, previous, info, rmgr, checksum })
    }

    /// The four bits that tell the kind of record within its resource manager.
    pub const fn kind_bits(&self) -> u8 {
        self.info & 0xF0
    }
}

/// A whole record as bytes: its checksum is right, its inside not yet looked at.
#[derive(Clone, Copy, Debug)]
pub struct RawRecord<'a> {
    /// Where it begins.
    pub lsn: Lsn,
    /// Where the next one may begin: what redo writes into the pages it changes (`EndRecPtr`).
    pub end_lsn: Lsn,
    pub version: WalVersion,
    pub header: RecordHeader,
    /// `header.total_length` bytes, page headers removed.
    pub bytes: &'a [u8],
}

impl<'a> RawRecord<'a> {
    /// Takes bytes that are one whole record, without a look at its checksum.
    pub fn new(
        bytes: &'a [u8],
        lsn: Lsn,
        end_lsn: Lsn,
        version: WalVersion,
    ) -> Result<RawRecord<'a>, WalError> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let wrong = WalError { lsn, kind: WalErrorKind::RecordLength(length) };
        let header = RecordHeader::parse(bytes).ok_or(wrong)?;
        if header.total_length != length {
            return Err(wrong);
        }
        Ok(RawRecord { lsn, end_lsn, version, header, bytes })
    }

    /// Compares the checksum: CRC-32C of everything after the header, then of the header without it.
    pub fn verify(&self) -> Result<(), WalError> {
        let (head, rest) = self.bytes.split_at_checked(RECORD_HEADER_BYTES).unwrap_or_default();
        let fixed = head.get(..RECORD_HEADER_BYTES - 4).unwrap_or_default();
        let computed = crc32c::crc32c_append(crc32c::crc32c(rest), fixed);
        let found = self.header.checksum;
        if computed == found {
            return Ok(());
        }
        Err(self.error(WalErrorKind::Checksum { found, computed }))
    }

    /// The blocks it changes, without their data: all that an index of the WAL needs.
    pub fn block_refs(&self) -> BlockRefs<'a> {
        BlockRefs { headers: self.parts() }
    }

    /// Cuts the record into its blocks and data.
    #[inline]
    pub fn decode(&self) -> Result<Record<'a>, WalError> {
        let mut record = Record::none();
        self.decode_into(&mut record)?;
        Ok(record)
    }

    /// The same into a record that was there before, of which nothing is left. It is large: whoever decodes many saves the
    /// copying. After an error there may be anything in it.
    #[inline]
    pub fn decode_into(&self, record: &mut Record<'a>) -> Result<(), WalError> {
        record.lsn = self.lsn;
        record.end_lsn = self.end_lsn;
        record.version = self.version;
        record.header = self.header;
        record.origin = None;
        record.toplevel_xid = None;
        record.blocks.clear();
        let mut parts = self.parts();
        let mut main_length = 0;
        let mut block = Block::NONE;
        loop {
            match parts.next_part(&mut block)? {
                Part::Block => record.blocks.push(block.clone()),
                Part::Origin(origin) => record.origin = Some(origin),
                Part::ToplevelXid(xid) => record.toplevel_xid = Some(xid),
                Part::MainData(length) => main_length = length,
                Part::End => break,
            }
        }
        let short = self.error(WalErrorKind::RecordLength(self.header.total_length));
        let mut data = parts.cursor;
        for block in record.blocks.iter_mut() {
            if let Some(image) = &mut block.image {
                image.bytes = data.bytes(usize::from(image.length)).ok_or(short)?;
            }
            block.data = data.bytes(usize::from(block.data_length)).ok_or(short)?;
        }
        record.main_data = data.bytes(main_length).ok_or(short)?;
        if data.is_empty() { Ok(()) } else { Err(short) }
    }

    /// Appends the record without the page images of all blocks but the one with this id. That is enough to redo this
    /// block ([`crate::redo`] looks at no other's image), and much less where a record brings many pages. The checksum in it
    /// stays that of the whole record.
    pub fn write_with_image_of(&self, id: Option<u8>, out: &mut Vec<u8>) -> Result<(), WalError> {
        let start = out.len();
        out.extend_from_slice(self.bytes.get(..RECORD_HEADER_BYTES).unwrap_or_default());
        let is_left_out = |block: &Block<'_>| block.image.is_some() && Some(block.id) != id;
        let (mut parts, mut block) = (self.parts(), Block::NONE);
        loop {
            let before = parts.cursor.rest();
            let part = parts.next_part(&mut block)?;
            let header = before.get(..before.len() - parts.cursor.rest().len()).unwrap_or_default();
            match part {
                Part::Block if is_left_out(&block) => block.write_without_image(header, out),
                Part::End => break,
                _ => out.extend_from_slice(header),
            }
        }
        let short = self.error(WalErrorKind::RecordLength(self.header.total_length));
        let (mut data, mut parts) = (parts.cursor, self.parts());
        loop {
            match parts.next_part(&mut block)? {
                Part::Block => {
                    let image = block.image.as_ref().map_or(0, |image| usize::from(image.length));
                    let image = data.bytes(image).ok_or(short)?;
                    if !is_left_out(&block) {
                        out.extend_from_slice(image);
                    }
                    let own = data.bytes(usize::from(block.data_length)).ok_or(short)?;
                    out.extend_from_slice(own);
                }
                Part::End => break,
                _ => {}
            }
        }
        out.extend_from_slice(data.rest());
        let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
        if let Some(total) = out.get_mut(start..).and_then(<[u8]>::first_chunk_mut) {
            *total = length.to_le_bytes();
        }
        Ok(())
    }

    fn parts(&self) -> Parts<'a> {
        let body = self.bytes.get(RECORD_HEADER_BYTES..).unwrap_or_default();
        Parts {
            cursor: Cursor::new(body),
            promised: 0,
            rel: None,
            next_id: 0,
            done: false,
            lsn: self.lsn,
            version: self.version,
            total_length: self.header.total_length,
        }
    }

    const fn error(&self, kind: WalErrorKind) -> WalError {
        WalError { lsn: self.lsn, kind }
    }
}

/// Walks the headers in front of a record's data.
#[derive(Clone, Debug)]
struct Parts<'a> {
    cursor: Cursor<'a>,
    /// Bytes of data announced so far; headers end where only these are left.
    promised: usize,
    rel: Option<RelNode>,
    next_id: u8,
    done: bool,
    lsn: Lsn,
    version: WalVersion,
    total_length: u32,
}

impl Parts<'_> {
    #[inline]
    fn next_part(&mut self, block: &mut Block<'_>) -> Result<Part, WalError> {
        if self.done || self.cursor.rest().len() <= self.promised {
            return Ok(Part::End);
        }
        match self.read(block) {
            Some(Ok(part)) => Ok(part),
            Some(Err(what)) => Err(self.error(WalErrorKind::BlockReference { id: block.id, what })),
            None => Err(self.error(WalErrorKind::RecordLength(self.total_length))),
        }
    }

    #[inline]
    fn read(&mut self, block: &mut Block<'_>) -> Option<Result<Part, &'static str>> {
        let id = self.cursor.u8()?;
        Some(Ok(match id {
            255 => self.main_data_length(|cursor| cursor.u8().map(usize::from))?,
            254 => self.main_data_length(|cursor| usize::try_from(cursor.u32()?).ok())?,
            253 => Part::Origin(self.cursor.u16()?),
            252 => Part::ToplevelXid(self.cursor.u32()?),
            id if id <= MAX_BLOCK_ID && id >= self.next_id => {
                self.next_id = id + 1;
                block.id = id;
                if let Err(what) = block.read(&mut self.cursor, self.rel, self.version)? {
                    return Some(Err(what));
                }
                self.rel = Some(block.tag.node());
                self.promised += block.promised();
                Part::Block
            }
            id => {
                block.id = id;
                let what = if id <= MAX_BLOCK_ID { "out of order" } else { "no such id" };
                return Some(Err(what));
            }
        }))
    }

    /// The main data's length is always the last header.
    fn main_data_length(
        &mut self,
        read: impl Fn(&mut Cursor<'_>) -> Option<usize>,
    ) -> Option<Part> {
        let length = read(&mut self.cursor)?;
        self.promised = self.promised.checked_add(length)?;
        self.done = true;
        Some(Part::MainData(length))
    }

    const fn error(&self, kind: WalErrorKind) -> WalError {
        WalError { lsn: self.lsn, kind }
    }
}

/// Iterator over the blocks that a record changes; see [`RawRecord::block_refs`].
#[derive(Clone, Debug)]
pub struct BlockRefs<'a> {
    headers: Parts<'a>,
}

impl Iterator for BlockRefs<'_> {
    type Item = Result<BlockRef, WalError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut block = Block::NONE;
        loop {
            match self.headers.next_part(&mut block) {
                Ok(Part::Block) => return Some(Ok(block.block_ref())),
                Ok(Part::End) => return None,
                Ok(_no_block) => {}
                Err(error) => {
                    self.headers.done = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

/// A decoded record; everything borrows from the record's bytes.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// Where it begins.
    pub lsn: Lsn,
    /// Where the next one may begin: what redo writes into the pages it changes.
    pub end_lsn: Lsn,
    pub version: WalVersion,
    pub header: RecordHeader,
    /// Number of the replication origin that the change came from.
    pub origin: Option<u16>,
    /// Set on the first record of a subtransaction (`wal_level = logical`).
    pub toplevel_xid: Option<u32>,
    /// In the order of their ids; ids may have gaps, see [`Record::block`].
    pub blocks: Blocks<'a>,
    /// The resource manager's own data, not tied to a block.
    pub main_data: &'a [u8],
}

impl<'a> Record<'a> {
    /// A place to [`RawRecord::decode_into`].
    pub const fn none() -> Record<'a> {
        let header = RecordHeader {
            total_length: 0,
            xid: 0,
            previous: Lsn::INVALID,
            info: 0,
            rmgr: Rmgr::XLOG,
            checksum: 0,
        };
        Record {
            lsn: Lsn::INVALID,
            end_lsn: Lsn::INVALID,
            version: WalVersion::V14,
            header,
            origin: None,
            toplevel_xid: None,
            blocks: Blocks::new(),
            main_data: &[],
        }
    }

    /// The block reference with this id.
    #[inline]
    pub fn block(&self, id: u8) -> Option<&Block<'a>> {
        self.blocks.iter().find(|block| block.id == id)
    }

    /// The block reference to this block, if the record has one.
    pub fn block_of(&self, tag: RelTag, number: u32) -> Option<&Block<'a>> {
        self.blocks.iter().find(|block| block.tag == tag && block.number == number)
    }

    pub const fn rmgr(&self) -> Rmgr {
        self.header.rmgr
    }

    /// The kind's bits within the resource manager ([`RecordHeader::kind_bits`]).
    pub const fn kind_bits(&self) -> u8 {
        self.header.kind_bits()
    }

    /// The kind's name: `Heap/HOT_UPDATE+INIT`.
    pub const fn kind(&self) -> RecordKind {
        let RecordHeader { rmgr, info, .. } = self.header;
        RecordKind { rmgr, info, version: self.version }
    }

    /// The record as `pg_waldump` prints it in one line, but for what it tells of a kind's own data.
    pub const fn summary(&self) -> Summary<'_, 'a> {
        Summary(self)
    }

    /// Bytes that are not page images, as in `pg_waldump`'s `len (rec/tot)`.
    pub fn length_without_images(&self) -> u32 {
        let images = self.blocks.iter().filter_map(|block| block.image.as_ref());
        let images: u32 = images.map(|image| u32::from(image.length)).sum();
        self.header.total_length.saturating_sub(images)
    }

    /// The error for main data that its kind should not have.
    pub fn data_error(&self) -> WalError {
        WalError { lsn: self.lsn, kind: WalErrorKind::Data { kind: self.kind().rmgr.name() } }
    }
}

/// A record in one line: see [`Record::summary`].
#[derive(Debug)]
pub struct Summary<'r, 'a>(&'r Record<'a>);

impl fmt::Display for Summary<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.0;
        let RecordHeader { total_length, xid, previous, .. } = record.header;
        let (rmgr, length) = (record.rmgr().to_string(), record.length_without_images());
        // pg_waldump fills the low half of an LSN with zeroes, which Postgres elsewhere does not.
        let lsn = |lsn: Lsn| format!("{:X}/{:08X}", lsn.0 >> 32, lsn.0 & 0xFFFF_FFFF);
        write!(
            f,
            "rmgr: {rmgr:<11} len (rec/tot): {length:6}/{total_length:6}, tx: {xid:10}, lsn: {}, prev {}, desc: {}",
            lsn(record.lsn),
            lsn(previous),
            record.kind().name().unwrap_or("UNKNOWN"),
        )?;
        for block in &record.blocks {
            write!(f, ", blkref #{}: rel {} blk {}", block.id, block.tag, block.number)?;
            match block.image.as_ref().map(|image| image.apply) {
                Some(true) => f.write_str(" FPW")?,
                Some(false) => f.write_str(" FPW for WAL verification")?,
                None => {}
            }
        }
        Ok(())
    }
}

/// A kind of record, to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKind {
    pub rmgr: Rmgr,
    pub info: u8,
    /// The same bits mean another kind in another major version.
    pub version: WalVersion,
}

impl RecordKind {
    /// Every kind that a major version has.
    pub fn all(version: WalVersion) -> Vec<RecordKind> {
        let mut all: Vec<RecordKind> = Vec::new();
        for rmgr in (Rmgr::XLOG.0..=Rmgr::LOGICAL_MESSAGE.0).map(Rmgr) {
            let first = all.len();
            for info in (0..=0xF0).step_by(0x10) {
                let kind = RecordKind { rmgr, info, version };
                // Some bits are no part of the kind: the first with a name stands for it.
                let known = |other: &RecordKind| other.name() == kind.name();
                let of_rmgr = all.get(first..).unwrap_or_default();
                if kind.name().is_some() && !of_rmgr.iter().any(known) {
                    all.push(kind);
                }
            }
        }
        all
    }

    /// The name within the resource manager, if that major version has such a kind.
    pub const fn name(self) -> Option<&'static str> {
        rmgr::kind_name(self.rmgr, self.info, self.version)
    }
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{}/{name}", self.rmgr),
            None => write!(f, "{}/UNKNOWN ({:x})", self.rmgr, self.info & 0xF0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page image as a record may have it.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Image {
        None,
        Whole,
        /// With the length of its hole in its header.
        Compressed,
    }

    impl Image {
        const fn length(self) -> u16 {
            match self {
                Image::None => 0,
                Image::Whole => 8192,
                Image::Compressed => 77,
            }
        }
    }

    /// `Heap/UPDATE` of version 15 with these blocks (id, image, bytes of data), and eight bytes of its own.
    fn record(blocks: &[(u8, Image, u8)]) -> Vec<u8> {
        let mut bytes = vec![0; RECORD_HEADER_BYTES];
        bytes[16..18].copy_from_slice(&[0x20, Rmgr::HEAP.0]);
        for (index, &(id, image, data)) in blocks.iter().enumerate() {
            let same = if index > 0 { 0x80 } else { 0 };
            let has_image = u8::from(image != Image::None) << 4;
            bytes.extend([id, same | has_image | u8::from(data > 0) << 5, data, 0]);
            match image {
                Image::None => {}
                Image::Whole => bytes.extend([0, 0x20, 0, 0, 2]),
                Image::Compressed => bytes.extend([77, 0, 100, 0, 1 | 2 | 4, 50, 0]),
            }
            if index == 0 {
                [1663_u32, 5, 16384].iter().for_each(|oid| bytes.extend(oid.to_le_bytes()));
            }
            bytes.extend(u32::from(id).to_le_bytes());
        }
        bytes.extend([255, 8]);
        for &(id, image, data) in blocks {
            bytes.resize(bytes.len() + usize::from(image.length()), 0x40 | id);
            bytes.resize(bytes.len() + usize::from(data), 0x80 | id);
        }
        bytes.extend(*b"its own.");
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes
    }

    fn raw(bytes: &[u8]) -> RawRecord<'_> {
        RawRecord::new(bytes, Lsn(40), Lsn(80), WalVersion::V15).unwrap()
    }

    #[test]
    fn only_the_image_of_one_block_stays_and_all_else_does() {
        let blocks = [
            (0, Image::Whole, 0),
            (1, Image::Compressed, 9),
            (2, Image::None, 5),
            (4, Image::Whole, 0),
        ];
        let whole = record(&blocks);
        assert_eq!(raw(&whole).decode().unwrap().blocks.len(), 4, "it is a record");
        for id in [None, Some(0), Some(1), Some(2), Some(4)] {
            let mut out = b"before".to_vec();
            raw(&whole).write_with_image_of(id, &mut out).unwrap();
            let left = blocks.map(|(own, image, data)| {
                let image = if Some(own) == id { image } else { Image::None };
                (own, image, data)
            });
            assert!(out == [b"before", record(&left).as_slice()].concat(), "{id:?}");
            assert!(raw(&out[6..]).decode().is_ok());
        }
    }

    #[test]
    fn nothing_is_left_of_the_record_decoded_before() {
        let (none, small) = ((0, Image::None, 9), record(&[(1, Image::Compressed, 7)]));
        let large =
            record(&[none, (1, Image::Whole, 0), (2, Image::None, 5), (3, Image::Whole, 2)]);
        let two = record(&[none, (4, Image::None, 5)]);
        let mut empty = record(&[]);
        empty.truncate(RECORD_HEADER_BYTES);
        empty[0] = 24;
        let mut marked = [&small[..24], &[253, 7, 0, 252, 1, 2, 3, 4], &small[24..]].concat();
        marked[0] += 8;
        let all = [&small, &large, &two, &empty, &marked];
        let mut kept = Record::none();
        for (before, after) in all.iter().flat_map(|one| all.map(|other| (one, other))) {
            raw(before).decode_into(&mut kept).unwrap();
            raw(after).decode_into(&mut kept).unwrap();
            let blocks = |record: &Record<'_>| format!("{:?}", &record.blocks[..]);
            let fresh = raw(after).decode().unwrap();
            assert_eq!(blocks(&kept), blocks(&fresh));
            assert_eq!((kept.origin, kept.toplevel_xid), (fresh.origin, fresh.toplevel_xid));
            assert_eq!((kept.main_data, kept.header), (fresh.main_data, fresh.header));
        }
        assert_eq!(raw(&marked).decode().unwrap().toplevel_xid, Some(0x0403_0201));
    }

    #[test]
    fn a_record_cut_short_is_an_error() {
        let whole = record(&[(0, Image::Whole, 0), (1, Image::Compressed, 9)]);
        for length in RECORD_HEADER_BYTES..whole.len() - 8 {
            let mut cut = whole[..length].to_vec();
            cut[..4].copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
            assert_eq!(
                raw(&cut).write_with_image_of(None, &mut Vec::new()).is_err(),
                raw(&cut).decode().is_err(),
                "{length}"
            );
        }
    }
}
