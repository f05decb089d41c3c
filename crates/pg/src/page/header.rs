//! The page header (`PageHeaderData`, `storage/bufpage.h`).

use crate::lsn::Lsn;
use crate::page::{PAGE_BYTES, Page, PageBytes, PageError};
use crate::wal::cursor::{u16_at, u32_at};

/// Bytes before the line pointers (`SizeOfPageHeaderData`).
pub const HEADER_BYTES: usize = 24;

/// There may be unused line pointers: a hint.
pub const HAS_FREE_LINES: u16 = 0x0001;
/// An update found no room: a hint.
pub const PAGE_FULL: u16 = 0x0002;
/// All tuples are visible to everybody.
pub const ALL_VISIBLE: u16 = 0x0004;

const CHECKSUM: usize = 8;
const FLAGS: usize = 10;
const LOWER: usize = 12;
const UPPER: usize = 14;
const SPECIAL: usize = 16;
const SIZE_AND_VERSION: usize = 18;
const PRUNE_XID: usize = 20;
const LAYOUT_VERSION: u16 = 4;
/// Transaction ids below are special (`FirstNormalTransactionId`).
const FIRST_NORMAL_XID: u32 = 3;

/// The page's LSN: two halves of four bytes, high first.
pub fn lsn(page: &PageBytes) -> Lsn {
    let half = |at| u64::from(u32_at(page, at).unwrap_or(0));
    Lsn(half(0) << 32 | half(4))
}

/// Whether the page was never initialised (`PageIsNew`).
pub fn is_new(page: &PageBytes) -> bool {
    u16_at(page, UPPER).unwrap_or(0) == 0
}

/// End of the line pointers.
pub fn lower(page: &PageBytes) -> usize {
    u16_at(page, LOWER).map_or(0, usize::from)
}

/// Start of the tuples.
pub fn upper(page: &PageBytes) -> usize {
    u16_at(page, UPPER).map_or(0, usize::from)
}

/// `MAXALIGN`.
pub(crate) const fn align(length: usize) -> usize {
    (length + 7) & !7
}

/// A length within a page as the two bytes that pages have for it.
pub(crate) fn short(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

impl Page<'_> {
    /// Makes an empty page with `special` bytes at its end (`PageInit`).
    pub fn init(&mut self, special: usize) {
        let end = PAGE_BYTES.saturating_sub(align(special));
        self.bytes.fill(0);
        self.set_lower(HEADER_BYTES);
        self.set_upper(end);
        self.put_u16(SPECIAL, short(end));
        self.put_u16(SIZE_AND_VERSION, short(PAGE_BYTES) | LAYOUT_VERSION);
    }

    pub fn is_new(&self) -> bool {
        is_new(self.bytes)
    }

    pub fn lsn(&self) -> Lsn {
        lsn(self.bytes)
    }

    pub fn set_lsn(&mut self, lsn: Lsn) {
        self.put(0, &((lsn.0 >> 32) as u32).to_le_bytes());
        self.put(4, &((lsn.0 & 0xFFFF_FFFF) as u32).to_le_bytes());
    }

    pub fn checksum(&self) -> u16 {
        self.u16(CHECKSUM)
    }

    pub fn set_checksum(&mut self, checksum: u16) {
        self.put_u16(CHECKSUM, checksum);
    }

    pub fn flags(&self) -> u16 {
        self.u16(FLAGS)
    }

    pub fn set_flag(&mut self, flag: u16, on: bool) {
        let flags = self.flags() & !flag;
        self.put_u16(FLAGS, if on { flags | flag } else { flags });
    }

    /// End of the line pointers.
    pub fn lower(&self) -> usize {
        usize::from(self.u16(LOWER))
    }

    pub fn set_lower(&mut self, lower: usize) {
        self.put_u16(LOWER, short(lower));
    }

    /// Start of the tuples.
    pub fn upper(&self) -> usize {
        usize::from(self.u16(UPPER))
    }

    pub fn set_upper(&mut self, upper: usize) {
        self.put_u16(UPPER, short(upper));
    }

    /// Start of what belongs to the access method.
    pub fn special(&self) -> usize {
        usize::from(self.u16(SPECIAL))
    }

    pub fn prune_xid(&self) -> u32 {
        self.u32(PRUNE_XID)
    }

    pub fn set_prune_xid(&mut self, xid: u32) {
        self.put_u32(PRUNE_XID, xid);
    }

    /// Notes that `xid` left something to prune, if nothing older did (`PageSetPrunable`).
    pub fn set_prunable(&mut self, xid: u32) {
        let old = self.prune_xid();
        if old == 0 || xid_precedes(xid, old) {
            self.set_prune_xid(xid);
        }
    }

    /// The access method's own bytes.
    pub fn special_bytes(&self) -> &[u8] {
        self.bytes.get(self.special()..).unwrap_or_default()
    }

    pub fn special_bytes_mut(&mut self) -> &mut [u8] {
        let special = self.special();
        self.bytes.get_mut(special..).unwrap_or_default()
    }

    /// Refuses a header whose parts overlap: nothing may be moved on such a page.
    pub fn check_pointers(&self) -> Result<(), PageError> {
        let (lower, upper, special) = (self.lower(), self.upper(), self.special());
        let ordered =
            HEADER_BYTES <= lower && lower <= upper && upper <= special && special <= PAGE_BYTES;
        if ordered { Ok(()) } else { Err(PageError("corrupted page pointers")) }
    }

    pub(crate) fn u16(&self, at: usize) -> u16 {
        u16_at(self.bytes, at).unwrap_or(0)
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32_at(self.bytes, at).unwrap_or(0)
    }

    pub(crate) fn put_u16(&mut self, at: usize, value: u16) {
        self.put(at, &value.to_le_bytes());
    }

    pub(crate) fn put_u32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }

    fn put(&mut self, at: usize, value: &[u8]) {
        if let Some(field) = self.bytes.get_mut(at..).and_then(|rest| rest.get_mut(..value.len())) {
            field.copy_from_slice(value);
        }
    }
}

/// Which of two transaction ids is older (`TransactionIdPrecedes`): the special ones are oldest.
pub const fn xid_precedes(one: u32, other: u32) -> bool {
    if one < FIRST_NORMAL_XID || other < FIRST_NORMAL_XID {
        return one < other;
    }
    one.wrapping_sub(other).cast_signed() < 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_page_has_the_bytes_that_postgres_writes() {
        let mut bytes = [9; PAGE_BYTES];
        let mut page = Page::new(&mut bytes);
        page.init(16);
        page.set_lsn(Lsn(0x1_0000_0002));
        assert_eq!((page.lower(), page.upper(), page.special()), (24, 8176, 8176));
        assert_eq!(page.lsn(), Lsn(0x1_0000_0002));
        let expected = [1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 24, 0, 0xF0, 0x1F, 0xF0, 0x1F, 4, 32];
        assert_eq!(bytes[..20], expected);
    }

    #[test]
    fn transaction_ids_count_in_a_circle() {
        assert!(xid_precedes(10, 20));
        assert!(xid_precedes(u32::MAX, 20));
        assert!(!xid_precedes(20, u32::MAX));
        assert!(xid_precedes(2, u32::MAX));
    }
}
