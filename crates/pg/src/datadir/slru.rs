//! The small logs of transaction state: transaction status, commit times, multixacts.
//!
//! Each is a row of 8 KiB pages in files of 32 pages (`access/transam/slru.c`); here are their paths and
//! what the pages hold. Pages have no header and no checksum.

use crate::page::PageBytes;

/// Pages of one file (`SLRU_PAGES_PER_SEGMENT`).
pub const SEGMENT_PAGES: u32 = 32;

/// A log that follows from the WAL alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slru {
    Clog,
    CommitTimestamps,
    MultiXactOffsets,
    MultiXactMembers,
}

impl Slru {
    pub const ALL: [Slru; 4] =
        [Slru::Clog, Slru::CommitTimestamps, Slru::MultiXactOffsets, Slru::MultiXactMembers];

    pub const fn directory(self) -> &'static str {
        match self {
            Slru::Clog => "pg_xact",
            Slru::CommitTimestamps => "pg_commit_ts",
            Slru::MultiXactOffsets => "pg_multixact/offsets",
            Slru::MultiXactMembers => "pg_multixact/members",
        }
    }

    /// The file that holds a page: `pg_xact/0000`.
    pub fn path(self, page: u32) -> String {
        format!("{}/{:04X}", self.directory(), page / SEGMENT_PAGES)
    }

    /// Which log a file belongs to and its first page.
    pub fn parse(path: &str) -> Option<(Slru, u32)> {
        let (directory, name) = path.rsplit_once('/')?;
        let slru = Slru::ALL.into_iter().find(|slru| slru.directory() == directory)?;
        let plain = name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
        if !plain || !(4..=6).contains(&name.len()) {
            return None;
        }
        let segment = u32::from_str_radix(name, 16).ok()?;
        Some((slru, segment.checked_mul(SEGMENT_PAGES)?))
    }
}

/// The state of a transaction in `pg_xact`: two bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XidStatus {
    InProgress = 0,
    Committed = 1,
    Aborted = 2,
    SubCommitted = 3,
}

/// Transactions of one page of `pg_xact`.
pub const XIDS_PER_PAGE: u32 = 32_768;

/// The page of `pg_xact` that holds a transaction's state.
pub const fn xid_page(xid: u32) -> u32 {
    xid / XIDS_PER_PAGE
}

const fn xid_place(xid: u32) -> (usize, u32) {
    let in_page = xid % XIDS_PER_PAGE;
    ((in_page / 4) as usize, in_page % 4 * 2)
}

/// Writes a state into the page that holds it.
pub fn set_xid_status(page: &mut PageBytes, xid: u32, status: XidStatus) {
    let (byte, shift) = xid_place(xid);
    let bits = match status {
        XidStatus::InProgress => 0,
        XidStatus::Committed => 1,
        XidStatus::Aborted => 2,
        XidStatus::SubCommitted => 3,
    };
    if let Some(byte) = page.get_mut(byte) {
        *byte = *byte & !(3 << shift) | bits << shift;
    }
}

/// Reads a state from the page that holds it.
pub fn xid_status(page: &PageBytes, xid: u32) -> XidStatus {
    let (byte, shift) = xid_place(xid);
    match page.get(byte).map_or(0, |byte| byte >> shift & 3) {
        1 => XidStatus::Committed,
        2 => XidStatus::Aborted,
        3 => XidStatus::SubCommitted,
        _ => XidStatus::InProgress,
    }
}

/// Multixacts of one page of `pg_multixact/offsets`.
pub const OFFSETS_PER_PAGE: u32 = 2048;

pub const fn multixact_offset_page(multi: u32) -> u32 {
    multi / OFFSETS_PER_PAGE
}

/// Writes where a multixact's members begin.
pub fn set_multixact_offset(page: &mut PageBytes, multi: u32, offset: u32) {
    let (entries, _none) = page.as_chunks_mut::<4>();
    if let Some(entry) = entries.get_mut((multi % OFFSETS_PER_PAGE) as usize) {
        *entry = offset.to_le_bytes();
    }
}

/// The multixact after one whose members begin at `offset`, and where its members begin: its entry is
/// written together with the one before (`RecordNewMultiXact`). Multixact 0 and offset 0 are passed over.
pub const fn next_multixact(multi: u32, offset: u32, members: u32) -> (u32, u32) {
    const fn after_zero(number: u32) -> u32 {
        if number == 0 { 1 } else { number }
    }
    (after_zero(multi.wrapping_add(1)), after_zero(offset.wrapping_add(members)))
}

/// Members of one page of `pg_multixact/members`: 409 groups of four bytes of flags and four xids.
pub const MEMBERS_PER_PAGE: u32 = 1636;

pub const fn multixact_member_page(offset: u32) -> u32 {
    offset / MEMBERS_PER_PAGE
}

/// Writes one member: its transaction, and its status in its byte of the group's flags.
pub fn set_multixact_member(page: &mut PageBytes, offset: u32, xid: u32, status: u32) {
    let in_page = offset % MEMBERS_PER_PAGE;
    let (groups, _tail) = page.as_chunks_mut::<20>();
    let Some(group) = groups.get_mut((in_page / 4) as usize) else { return };
    let member = (in_page % 4) as usize;
    if let Some(flags) = group.get_mut(member) {
        *flags = status.to_le_bytes()[0];
    }
    let place = 4 + member * 4;
    if let Some(entry) = group.get_mut(place..place + 4) {
        entry.copy_from_slice(&xid.to_le_bytes());
    }
}

/// The multixact before this one; 0 is none.
pub const fn previous_multixact(multi: u32) -> u32 {
    if multi == 1 { u32::MAX } else { multi.wrapping_sub(1) }
}

/// Commit timestamps in a page of `pg_commit_ts`: 10 bytes each (`access/transam/commit_ts.c`).
pub const COMMIT_TIMESTAMPS_PER_PAGE: u32 = 819;

/// The page that has a transaction's commit timestamp.
pub const fn commit_timestamp_page(xid: u32) -> u32 {
    xid / COMMIT_TIMESTAMPS_PER_PAGE
}

/// Writes when a transaction was committed (microseconds since 2000), and the replication origin it came from.
pub fn set_commit_timestamp(page: &mut PageBytes, xid: u32, time: i64, origin: u16) {
    let (entries, _tail) = page.as_chunks_mut::<10>();
    let Some(entry) = entries.get_mut((xid % COMMIT_TIMESTAMPS_PER_PAGE) as usize) else { return };
    let (at, from) = entry.split_at_mut(8);
    at.copy_from_slice(&time.to_le_bytes());
    from.copy_from_slice(&origin.to_le_bytes());
}

impl Slru {
    /// How many pages there are before numbers begin again.
    pub const fn pages(self) -> u64 {
        let per_page = match self {
            Slru::Clog => XIDS_PER_PAGE,
            Slru::CommitTimestamps => COMMIT_TIMESTAMPS_PER_PAGE,
            Slru::MultiXactOffsets => OFFSETS_PER_PAGE,
            Slru::MultiXactMembers => MEMBERS_PER_PAGE,
        };
        (1_u64 << 32).div_ceil(per_page as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::PAGE_BYTES;

    #[test]
    fn keeps_four_states_in_a_byte() {
        let mut page = [0; PAGE_BYTES];
        for (xid, status) in [
            (4, XidStatus::Committed),
            (5, XidStatus::Aborted),
            (6, XidStatus::SubCommitted),
            (XIDS_PER_PAGE + 7, XidStatus::Committed),
        ] {
            set_xid_status(&mut page, xid, status);
            assert_eq!(xid_status(&page, xid), status);
        }
        assert_eq!(page[1], 0b0111_1001);
        set_xid_status(&mut page, 6, XidStatus::Committed);
        assert_eq!(page[1], 0b0101_1001);
        assert_eq!(xid_page(XIDS_PER_PAGE + 7), 1);
    }

    #[test]
    fn names_the_files_of_each_log() {
        assert_eq!(Slru::Clog.path(0x0000_0041), "pg_xact/0002");
        assert_eq!(Slru::parse("pg_xact/0002"), Some((Slru::Clog, 64)));
        let members = (Slru::MultiXactMembers, 0x14078 * 32);
        assert_eq!(Slru::parse("pg_multixact/members/14078"), Some(members));
        assert_eq!(Slru::parse("pg_subtrans/0000"), None);
        assert_eq!(Slru::parse("pg_xact/00ab"), None);
    }

    #[test]
    fn members_stand_behind_their_group_flags() {
        let mut page = [0; PAGE_BYTES];
        set_multixact_member(&mut page, MEMBERS_PER_PAGE + 5, 0x01020304, 5);
        assert_eq!(page[20..24], [0, 5, 0, 0]);
        assert_eq!(page[28..32], [4, 3, 2, 1]);
        set_multixact_offset(&mut page, OFFSETS_PER_PAGE + 1, 9);
        assert_eq!(page[4..8], [9, 0, 0, 0]);
        assert_eq!(next_multixact(7, 30, 2), (8, 32));
        assert_eq!(next_multixact(u32::MAX, u32::MAX - 1, 2), (1, 1));
    }
}
