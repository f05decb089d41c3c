//! `global/pg_control` of Postgres 13 to 18 (`catalog/pg_control.h`, versions 1300, 1700 and 1800).

use std::fmt;

use crate::lsn::Lsn;
use crate::redo::effects::{Checkpoint, Parameters};
use crate::wal::cursor::{Cursor, u32_at};
use crate::wal::segment::WalVersion;

/// Bytes of the file; only the first [`ControlFile::BYTES`] mean something.
pub const FILE_BYTES: usize = 8192;

/// What a cluster says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlFile {
    pub system_identifier: u64,
    pub catalog_version: u32,
    /// The major version, which the catalog version tells.
    pub version: WalVersion,
    pub state: State,
    /// When it was written, seconds since the Unix epoch.
    pub time: i64,
    /// Where the last checkpoint record is.
    pub checkpoint_lsn: Lsn,
    pub checkpoint: Checkpoint,
    pub minimum_recovery_point: Lsn,
    pub minimum_recovery_timeline: u32,
    pub backup_start: Lsn,
    pub backup_end: Lsn,
    pub parameters: Parameters,
    pub segment_bytes: u32,
    /// 0 without checksums, 1 with.
    pub checksum_version: u32,
}

/// `DBState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Startup,
    ShutDown,
    ShutDownInRecovery,
    ShuttingDown,
    InCrashRecovery,
    InArchiveRecovery,
    InProduction,
}

/// Why a file is not a control file that we can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlError {
    TooShort,
    Version(u32),
    /// Of no release that we know.
    CatalogVersion(u32),
    Checksum,
    State(u32),
    /// A compile-time choice of the server (block size, alignment) that we do not support.
    Layout(&'static str),
}

impl ControlFile {
    /// Bytes that the checksum covers up to 17; it stands behind them.
    pub(super) const CHECKSUM_AT: usize = 288;
    /// The same from 18 on: there is one more field, the signedness of `char`.
    pub(super) const CHECKSUM_AT_18: usize = Self::CHECKSUM_AT + 4;
    /// Bytes of the shorter structure with its checksum at the end.
    pub const BYTES: usize = Self::CHECKSUM_AT + 4;

    pub fn parse(bytes: &[u8]) -> Result<ControlFile, ControlError> {
        let version = u32_at(bytes, 8).ok_or(ControlError::TooShort)?;
        let checksum_at = match version {
            1300 | 1700 => Self::CHECKSUM_AT,
            1800 => Self::CHECKSUM_AT_18,
            _ => return Err(ControlError::Version(version)),
        };
        let found = u32_at(bytes, checksum_at).ok_or(ControlError::TooShort)?;
        let covered = bytes.get(..checksum_at).ok_or(ControlError::TooShort)?;
        if crc32c::crc32c(covered) != found {
            return Err(ControlError::Checksum);
        }
        ControlFile::fields(covered).ok_or(ControlError::TooShort)?
    }

    fn fields(bytes: &[u8]) -> Option<Result<ControlFile, ControlError>> {
        let mut cursor = Cursor::new(bytes);
        let system_identifier = cursor.u64()?;
        let _version = cursor.u32()?;
        let catalog_version = cursor.u32()?;
        let Some(version) = WalVersion::from_catalog_version(catalog_version) else {
            return Some(Err(ControlError::CatalogVersion(catalog_version)));
        };
        let state = cursor.u32()?;
        let Some(state) = State::from_number(state) else {
            return Some(Err(ControlError::State(state)));
        };
        cursor.align(8)?;
        let time = cursor.i64()?;
        let checkpoint_lsn = cursor.lsn()?;
        let shutdown = matches!(state, State::ShutDown | State::ShutDownInRecovery);
        let checkpoint = Checkpoint::parse(cursor.bytes(Checkpoint::BYTES)?, shutdown)?;
        let _unlogged_lsn = cursor.lsn()?;
        let minimum_recovery_point = cursor.lsn()?;
        let minimum_recovery_timeline = cursor.u32()?;
        cursor.align(8)?;
        let backup_start = cursor.lsn()?;
        let backup_end = cursor.lsn()?;
        let _backup_end_required = cursor.bool()?;
        cursor.align(4)?;
        let parameters = parameters(&mut cursor)?;
        cursor.align(4)?;
        let max_align = cursor.u32()?;
        let float_format = cursor.u64()?;
        let (block, segment_blocks, wal_block) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
        let segment_bytes = cursor.u32()?;
        let _names = (cursor.u32()?, cursor.u32()?, cursor.u32()?, cursor.u32()?);
        let float8_by_value = cursor.bool()?;
        cursor.align(4)?;
        let checksum_version = cursor.u32()?;
        for (right, what) in [
            (max_align == 8, "alignment"),
            (float_format == 1_234_567.0_f64.to_bits(), "floating-point format"),
            (block == 8192, "block size"),
            (segment_blocks == super::layout::SEGMENT_BLOCKS, "relation segment size"),
            (wal_block == 8192, "WAL block size"),
            (crate::wal::segment::is_segment_bytes(segment_bytes), "WAL segment size"),
            (float8_by_value, "float8 argument passing"),
        ] {
            if !right {
                return Some(Err(ControlError::Layout(what)));
            }
        }
        Some(Ok(ControlFile {
            system_identifier,
            catalog_version,
            version,
            state,
            time,
            checkpoint_lsn,
            checkpoint,
            minimum_recovery_point,
            minimum_recovery_timeline,
            backup_start,
            backup_end,
            parameters,
            segment_bytes,
            checksum_version,
        }))
    }
}

/// The order here differs from that of a `PARAMETER_CHANGE` record.
fn parameters(cursor: &mut Cursor<'_>) -> Option<Parameters> {
    let wal_level = cursor.i32()?;
    let wal_log_hints = cursor.bool()?;
    cursor.align(4)?;
    Some(Parameters {
        wal_level,
        wal_log_hints,
        max_connections: cursor.i32()?,
        max_worker_processes: cursor.i32()?,
        max_wal_senders: cursor.i32()?,
        max_prepared_transactions: cursor.i32()?,
        max_locks_per_transaction: cursor.i32()?,
        track_commit_timestamp: cursor.bool()?,
    })
}

impl State {
    const fn from_number(number: u32) -> Option<State> {
        Some(match number {
            0 => State::Startup,
            1 => State::ShutDown,
            2 => State::ShutDownInRecovery,
            3 => State::ShuttingDown,
            4 => State::InCrashRecovery,
            5 => State::InArchiveRecovery,
            6 => State::InProduction,
            _ => return None,
        })
    }
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ControlError::TooShort => f.write_str("control file is too short"),
            ControlError::Version(found) => {
                write!(f, "control file has unsupported version {found}")
            }
            ControlError::CatalogVersion(found) => {
                write!(f, "control file has unsupported catalog version {found}")
            }
            ControlError::Checksum => f.write_str("control file has an incorrect checksum"),
            ControlError::State(found) => write!(f, "control file has unknown state {found}"),
            ControlError::Layout(what) => {
                write!(f, "control file tells of an unsupported {what}")
            }
        }
    }
}

impl std::error::Error for ControlError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::segment::WalVersion;

    #[test]
    fn files_of_a_machine_of_the_other_byte_order_are_refused() {
        for version in [1300_u32, 1700, 1800] {
            let mut bytes = [0; 512];
            bytes[8..12].copy_from_slice(&version.to_be_bytes());
            let refused = ControlFile::parse(&bytes).map(drop);
            assert_eq!(refused, Err(ControlError::Version(version.swap_bytes())));
        }
        for major in 14..=18 {
            let magic = WalVersion::from_major(major).expect("it is known").magic();
            assert!(WalVersion::from_magic(magic).is_some());
            assert_eq!(WalVersion::from_magic(magic.swap_bytes()), None);
        }
    }
}
