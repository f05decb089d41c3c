//! Segment files and the page headers inside them (`access/xlog_internal.h`).

use std::fmt;

use crate::lsn::Lsn;
use crate::wal::cursor::Cursor;
use crate::wal::error::WalErrorKind;

/// Bytes of a WAL page (`XLOG_BLCKSZ`).
pub const PAGE_BYTES: u64 = 8192;
/// Bytes of a page header (`SizeOfXLogShortPHD`).
pub const SHORT_HEADER_BYTES: usize = 24;
/// Bytes of a segment's first page header (`SizeOfXLogLongPHD`).
pub const LONG_HEADER_BYTES: usize = 40;
/// `wal_segment_size` unless initdb was told otherwise.
pub const SEGMENT_BYTES_DEFAULT: u32 = 16 << 20;

/// The page begins with the rest of a record (`XLP_FIRST_IS_CONTRECORD`).
pub const CONTRECORD: u16 = 0x0001;
/// The header is a long one (`XLP_LONG_HEADER`).
pub const LONG_HEADER: u16 = 0x0002;
/// The rest of the record before was never written (`XLP_FIRST_IS_OVERWRITE_CONTRECORD`).
pub const OVERWRITE_CONTRECORD: u16 = 0x0008;
const ALL_FLAGS: u16 = 0x000F;

/// The major version whose server wrote a page, by `XLOG_PAGE_MAGIC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalVersion {
    V14,
    V15,
    V16,
    V17,
    V18,
}

impl WalVersion {
    pub const fn from_magic(magic: u16) -> Option<WalVersion> {
        match magic {
            0xD10D => Some(WalVersion::V14),
            0xD110 => Some(WalVersion::V15),
            0xD113 => Some(WalVersion::V16),
            0xD116 => Some(WalVersion::V17),
            0xD118 => Some(WalVersion::V18),
            _ => None,
        }
    }

    pub const fn magic(self) -> u16 {
        match self {
            WalVersion::V14 => 0xD10D,
            WalVersion::V15 => 0xD110,
            WalVersion::V16 => 0xD113,
            WalVersion::V17 => 0xD116,
            WalVersion::V18 => 0xD118,
        }
    }

    /// The version of a major number; `None` for those that we do not read.
    pub const fn from_major(major: u32) -> Option<WalVersion> {
        match major {
            14 => Some(WalVersion::V14),
            15 => Some(WalVersion::V15),
            16 => Some(WalVersion::V16),
            17 => Some(WalVersion::V17),
            18 => Some(WalVersion::V18),
            _ => None,
        }
    }

    /// The version whose releases have this catalog version (`CATALOG_VERSION_NO`, which never changes within a
    /// major); `None` for others, betas among them.
    pub const fn from_catalog_version(number: u32) -> Option<WalVersion> {
        match number {
            202_107_181 => Some(WalVersion::V14),
            202_209_061 => Some(WalVersion::V15),
            202_307_071 => Some(WalVersion::V16),
            202_406_281 => Some(WalVersion::V17),
            202_506_291 => Some(WalVersion::V18),
            _ => None,
        }
    }

    /// From 16 on, records that can conflict with queries on a standby say whether the relation is a catalog.
    pub const fn has_16_records(self) -> bool {
        self.major() >= 16
    }

    /// From 17 on, pruning and freezing are one record, and pages of SLRUs are numbered in 64 bits.
    pub const fn has_17_records(self) -> bool {
        self.major() >= 17
    }

    pub const fn major(self) -> u32 {
        match self {
            WalVersion::V14 => 14,
            WalVersion::V15 => 15,
            WalVersion::V16 => 16,
            WalVersion::V17 => 17,
            WalVersion::V18 => 18,
        }
    }
}

/// The header of a WAL page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    pub version: WalVersion,
    pub flags: u16,
    pub timeline: u32,
    pub address: Lsn,
    /// Bytes left of a record that began on an earlier page.
    pub rest: u32,
    /// Only at the start of a segment.
    pub long: Option<LongHeader>,
}

/// What identifies a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongHeader {
    pub system_identifier: u64,
    pub segment_bytes: u32,
}

impl PageHeader {
    /// How long the header is that begins with these (at least four) bytes; `None` for fewer.
    pub fn length(start: &[u8]) -> Option<usize> {
        let mut cursor = Cursor::new(start);
        let _magic = cursor.u16()?;
        let long = cursor.u16()? & LONG_HEADER != 0;
        Some(if long { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES })
    }

    /// Reads a header that must be the one of the page at `address`.
    ///
    /// `bytes` holds the whole header ([`PageHeader::length`]); fewer read as a wrong address.
    pub fn parse(bytes: &[u8], address: Lsn) -> Result<PageHeader, WalErrorKind> {
        let header = PageHeader::fields(bytes).unwrap_or(Err(WalErrorKind::Magic(0)))?;
        if header.address != address {
            return Err(WalErrorKind::PageAddress(header.address));
        }
        Ok(header)
    }

    fn fields(bytes: &[u8]) -> Option<Result<PageHeader, WalErrorKind>> {
        let mut cursor = Cursor::new(bytes);
        let magic = cursor.u16()?;
        let Some(version) = WalVersion::from_magic(magic) else {
            return Some(Err(WalErrorKind::Magic(magic)));
        };
        let flags = cursor.u16()?;
        if flags & !ALL_FLAGS != 0 {
            return Some(Err(WalErrorKind::PageFlags(flags)));
        }
        let timeline = cursor.u32()?;
        let address = cursor.lsn()?;
        let rest = cursor.u32()?;
        cursor.align(8)?;
        let mut long = None;
        if flags & LONG_HEADER != 0 {
            let system_identifier = cursor.u64()?;
            let segment_bytes = cursor.u32()?;
            let block_bytes = cursor.u32()?;
            if u64::from(block_bytes) != PAGE_BYTES {
                return Some(Err(WalErrorKind::BlockBytes(block_bytes)));
            }
            if !is_segment_bytes(segment_bytes) {
                return Some(Err(WalErrorKind::SegmentBytes(segment_bytes)));
            }
            long = Some(LongHeader { system_identifier, segment_bytes });
        }
        Some(Ok(PageHeader { version, flags, timeline, address, rest, long }))
    }
}

/// Whether a server can have this `wal_segment_size`: a power of two from 1 MiB to 1 GiB.
pub const fn is_segment_bytes(bytes: u32) -> bool {
    bytes.is_power_of_two() && bytes >= 1 << 20 && bytes <= 1 << 30
}

/// The name of a segment file: timeline and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentName {
    pub timeline: u32,
    pub number: u64,
    pub segment_bytes: u32,
}

impl SegmentName {
    /// The segment that holds `lsn`.
    pub const fn of(timeline: u32, lsn: Lsn, segment_bytes: u32) -> SegmentName {
        SegmentName { timeline, number: lsn.segment(segment_bytes), segment_bytes }
    }

    /// Reads 24 hexadecimal digits (`XLogFromFileName`); anything else is `None`.
    pub fn parse(name: &str, segment_bytes: u32) -> Option<SegmentName> {
        let digits = |range| {
            let part: &str = name.get(range)?;
            let plain = part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
            if plain { u32::from_str_radix(part, 16).ok() } else { None }
        };
        if name.len() != 24 {
            return None;
        }
        let (timeline, high, low) = (digits(0..8)?, digits(8..16)?, digits(16..24)?);
        let per_high = (1_u64 << 32).checked_div(u64::from(segment_bytes))?;
        if u64::from(low) >= per_high {
            return None;
        }
        let number = u64::from(high) * per_high + u64::from(low);
        Some(SegmentName { timeline, number, segment_bytes })
    }

    /// Where the segment's first byte is.
    pub fn start(self) -> Lsn {
        Lsn(self.number.saturating_mul(u64::from(self.segment_bytes)))
    }
}

/// `000000010000000000000002`.
impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_high = (1_u64 << 32) / u64::from(self.segment_bytes.max(1));
        let (high, low) = (self.number / per_high, self.number % per_high);
        write!(f, "{:08X}{high:08X}{low:08X}", self.timeline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_segments_of_any_size_as_postgres_does() {
        for (megabytes, lsn, name) in [
            (16, 0x016B_3748, "000000010000000000000001"),
            (16, 0x0001_0000_0000, "000000010000000100000000"),
            (1, 0x0210_0000, "000000010000000000000021"),
            (1024, 0x0002_8000_0000, "000000010000000200000002"),
        ] {
            let bytes = megabytes << 20;
            let segment = SegmentName::of(1, Lsn(lsn), bytes);
            assert_eq!(segment.to_string(), name);
            assert_eq!(SegmentName::parse(name, bytes), Some(segment));
        }
        for name in
            ["", "00000001000000000000000", "00000001000000000000000g", "0000000100000000000001FF"]
        {
            assert_eq!(SegmentName::parse(name, SEGMENT_BYTES_DEFAULT), None, "{name}");
        }
    }

    #[test]
    fn refuses_a_page_of_another_place_or_version() {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&0xD110_u16.to_le_bytes());
        bytes.extend_from_slice(&CONTRECORD.to_le_bytes());
        bytes.extend_from_slice(&1_u32.to_le_bytes());
        bytes.extend_from_slice(&0x2000_u64.to_le_bytes());
        bytes.extend_from_slice(&77_u64.to_le_bytes());
        let header = PageHeader::parse(&bytes, Lsn(0x2000)).unwrap();
        assert_eq!((header.rest, header.version, header.long), (77, WalVersion::V15, None));
        let elsewhere = PageHeader::parse(&bytes, Lsn(0x4000));
        assert_eq!(elsewhere, Err(WalErrorKind::PageAddress(Lsn(0x2000))));
        bytes[0] = 0x99;
        assert_eq!(PageHeader::parse(&bytes, Lsn(0x2000)), Err(WalErrorKind::Magic(0xD199)));
    }
}
