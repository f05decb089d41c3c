//! What can be wrong with WAL, with the place.

use std::fmt;

use crate::lsn::Lsn;

/// A position and what is wrong there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalError {
    /// The page's or record's position.
    pub lsn: Lsn,
    pub kind: WalErrorKind,
}

/// The reasons, in the order in which a reader finds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalErrorKind {
    /// The page's magic number is of no Postgres we know; 0 is what an unwritten page has.
    Magic(u16),
    PageFlags(u16),
    /// The page header names another position: a recycled segment that is not yet overwritten.
    PageAddress(Lsn),
    SystemIdentifier(u64),
    SegmentBytes(u32),
    BlockBytes(u32),
    Timeline {
        found: u32,
        before: u32,
    },
    /// The page should continue a record but does not.
    MissingContrecord,
    ContrecordLength {
        found: u32,
        expected: u32,
    },
    /// An `OVERWRITE_CONTRECORD` record that names another record than the one that was cut off.
    OverwrittenContrecord(Lsn),
    /// `xl_tot_len`; 0 is what unwritten WAL has.
    RecordLength(u32),
    ResourceManager(u8),
    PreviousRecord(Lsn),
    Checksum {
        found: u32,
        computed: u32,
    },
    /// The record's headers do not add up.
    BlockReference {
        id: u8,
        what: &'static str,
    },
    /// A full-page image that cannot be restored.
    Image {
        id: u8,
        what: &'static str,
    },
    /// The record's own data is not what its kind should have.
    Data {
        kind: &'static str,
    },
    /// A kind of record that this major version of Postgres does not have.
    UnknownKind {
        rmgr: u8,
        info: u8,
    },
}

impl WalError {
    /// Whether this is what the end of WAL looks like in a segment file: unwritten bytes, or an older use of it.
    ///
    /// In a stream from a server nothing of this kind may occur.
    pub const fn is_end_of_wal(&self) -> bool {
        matches!(
            self.kind,
            WalErrorKind::Magic(_)
                | WalErrorKind::PageFlags(_)
                | WalErrorKind::PageAddress(_)
                | WalErrorKind::Timeline { .. }
                | WalErrorKind::MissingContrecord
                | WalErrorKind::ContrecordLength { .. }
                | WalErrorKind::RecordLength(_)
                | WalErrorKind::ResourceManager(_)
                | WalErrorKind::PreviousRecord(_)
                | WalErrorKind::Checksum { .. }
        )
    }
}

impl fmt::Display for WalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.kind, self.lsn)
    }
}

impl fmt::Display for WalErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            WalErrorKind::Magic(magic) => {
                write!(f, "invalid or unsupported WAL page magic number {magic:04X}")
            }
            WalErrorKind::PageFlags(flags) => write!(f, "invalid WAL page info bits {flags:04X}"),
            WalErrorKind::PageAddress(found) => write!(f, "unexpected WAL page address {found}"),
            WalErrorKind::SystemIdentifier(found) => {
                write!(f, "WAL is from a different database system, identifier {found}")
            }
            WalErrorKind::SegmentBytes(found) => {
                write!(f, "incorrect WAL segment size {found} in page header")
            }
            WalErrorKind::BlockBytes(found) => {
                write!(f, "unsupported WAL block size {found} in page header")
            }
            WalErrorKind::Timeline { found, before } => {
                write!(f, "out-of-sequence timeline {found} after {before}")
            }
            WalErrorKind::MissingContrecord => f.write_str("there is no contrecord flag"),
            WalErrorKind::ContrecordLength { found, expected } => {
                write!(f, "invalid contrecord length {found}, expected {expected}")
            }
            WalErrorKind::OverwrittenContrecord(found) => {
                write!(f, "mismatching overwritten LSN {found}")
            }
            WalErrorKind::RecordLength(length) => write!(f, "invalid record length {length}"),
            WalErrorKind::ResourceManager(id) => write!(f, "invalid resource manager {id}"),
            WalErrorKind::PreviousRecord(found) => {
                write!(f, "record with incorrect prev-link {found}")
            }
            WalErrorKind::Checksum { found, computed } => {
                write!(f, "incorrect record checksum {found:08X}, computed {computed:08X}")
            }
            WalErrorKind::BlockReference { id, what } => {
                write!(f, "invalid block reference {id}: {what}")
            }
            WalErrorKind::Image { id, what } => {
                write!(f, "cannot restore the image of block reference {id}: {what}")
            }
            WalErrorKind::Data { kind } => write!(f, "invalid data in a {kind} record"),
            WalErrorKind::UnknownKind { rmgr, info } => {
                write!(f, "unknown WAL record, resource manager {rmgr} kind {info:02X}")
            }
        }
    }
}

impl std::error::Error for WalError {}
