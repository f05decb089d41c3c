//! Effects of `XLOG` records (`catalog/pg_control.h`, `access/xlog_internal.h`).

use super::Change;
use crate::lsn::Lsn;
use crate::oid::Oid;
use crate::wal::cursor::Cursor;
use crate::wal::record::Record;
use crate::wal::segment::WalVersion;

/// A checkpoint's fields (`CheckPoint`), as in a checkpoint record and in `pg_control`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Written at shutdown: the counters are exact, no transaction runs.
    pub shutdown: bool,
    /// Where recovery would begin.
    pub redo: Lsn,
    pub timeline: u32,
    pub previous_timeline: u32,
    pub full_page_writes: bool,
    /// With its epoch in the high half.
    pub next_xid: u64,
    pub next_oid: Oid,
    pub next_multi: u32,
    pub next_multi_offset: u32,
    pub oldest_xid: u32,
    pub oldest_xid_database: Oid,
    pub oldest_multi: u32,
    pub oldest_multi_database: Oid,
    /// Seconds since the Unix epoch.
    pub time: i64,
    pub oldest_commit_timestamp_xid: u32,
    pub newest_commit_timestamp_xid: u32,
    /// 0 in a checkpoint at shutdown.
    pub oldest_active_xid: u32,
}

impl Checkpoint {
    /// Bytes of the structure.
    pub const BYTES: usize = 88;
    /// All fields 0.
    pub const ZERO: Checkpoint = Checkpoint {
        shutdown: false,
        redo: Lsn(0),
        timeline: 0,
        previous_timeline: 0,
        full_page_writes: false,
        next_xid: 0,
        next_oid: Oid(0),
        next_multi: 0,
        next_multi_offset: 0,
        oldest_xid: 0,
        oldest_xid_database: Oid(0),
        oldest_multi: 0,
        oldest_multi_database: Oid(0),
        time: 0,
        oldest_commit_timestamp_xid: 0,
        newest_commit_timestamp_xid: 0,
        oldest_active_xid: 0,
    };

    /// Reads the structure of Postgres 13 to 18: 17 put `wal_level` into what was padding behind
    /// `fullPageWrites`.
    pub fn parse(bytes: &[u8], shutdown: bool) -> Option<Checkpoint> {
        let mut cursor = Cursor::new(bytes);
        let redo = cursor.lsn()?;
        let timeline = cursor.u32()?;
        let previous_timeline = cursor.u32()?;
        let full_page_writes = cursor.bool()?;
        cursor.align(8)?;
        let next_xid = cursor.u64()?;
        let next_oid = Oid(cursor.u32()?);
        let next_multi = cursor.u32()?;
        let next_multi_offset = cursor.u32()?;
        let oldest_xid = cursor.u32()?;
        let oldest_xid_database = Oid(cursor.u32()?);
        let oldest_multi = cursor.u32()?;
        let oldest_multi_database = Oid(cursor.u32()?);
        cursor.align(8)?;
        Some(Checkpoint {
            shutdown,
            redo,
            timeline,
            previous_timeline,
            full_page_writes,
            next_xid,
            next_oid,
            next_multi,
            next_multi_offset,
            oldest_xid,
            oldest_xid_database,
            oldest_multi,
            oldest_multi_database,
            time: cursor.i64()?,
            oldest_commit_timestamp_xid: cursor.u32()?,
            newest_commit_timestamp_xid: cursor.u32()?,
            oldest_active_xid: cursor.u32()?,
        })
    }

    /// Appends the structure; `wal_level` is part of it from Postgres 17 on.
    pub fn write(&self, version: WalVersion, wal_level: i32, out: &mut Vec<u8>) {
        let word = |out: &mut Vec<u8>, word: u32| out.extend_from_slice(&word.to_le_bytes());
        out.extend_from_slice(&self.redo.0.to_le_bytes());
        word(out, self.timeline);
        word(out, self.previous_timeline);
        out.extend_from_slice(&[u8::from(self.full_page_writes), 0, 0, 0]);
        let wal_level = if version.has_17_records() { wal_level } else { 0 };
        out.extend_from_slice(&wal_level.to_le_bytes());
        out.extend_from_slice(&self.next_xid.to_le_bytes());
        word(out, self.next_oid.0);
        word(out, self.next_multi);
        word(out, self.next_multi_offset);
        word(out, self.oldest_xid);
        word(out, self.oldest_xid_database.0);
        word(out, self.oldest_multi);
        word(out, self.oldest_multi_database.0);
        word(out, 0); // alignment
        out.extend_from_slice(&self.time.to_le_bytes());
        word(out, self.oldest_commit_timestamp_xid);
        word(out, self.newest_commit_timestamp_xid);
        word(out, self.oldest_active_xid);
        word(out, 0); // alignment
    }
}

/// Settings that a standby must match, and two that change what is logged (`xl_parameter_change`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    pub max_connections: i32,
    pub max_worker_processes: i32,
    pub max_wal_senders: i32,
    pub max_prepared_transactions: i32,
    pub max_locks_per_transaction: i32,
    /// 0 minimal, 1 replica, 2 logical.
    pub wal_level: i32,
    pub wal_log_hints: bool,
    pub track_commit_timestamp: bool,
}

impl Parameters {
    /// Bytes of the structure, up to its last field.
    pub const BYTES: usize = 26;
    /// All fields 0.
    pub const ZERO: Parameters = Parameters {
        max_connections: 0,
        max_worker_processes: 0,
        max_wal_senders: 0,
        max_prepared_transactions: 0,
        max_locks_per_transaction: 0,
        wal_level: 0,
        wal_log_hints: false,
        track_commit_timestamp: false,
    };

    /// Settings of which a standby must not have less (`CheckRequiredParameterValues`).
    pub const fn standby_minimums(&self) -> [(&'static str, i32); 5] {
        [
            ("max_connections", self.max_connections),
            ("max_worker_processes", self.max_worker_processes),
            ("max_wal_senders", self.max_wal_senders),
            ("max_prepared_transactions", self.max_prepared_transactions),
            ("max_locks_per_transaction", self.max_locks_per_transaction),
        ]
    }

    /// Reads the structure.
    pub fn parse(bytes: &[u8]) -> Option<Parameters> {
        let mut cursor = Cursor::new(bytes);
        Some(Parameters {
            max_connections: cursor.i32()?,
            max_worker_processes: cursor.i32()?,
            max_wal_senders: cursor.i32()?,
            max_prepared_transactions: cursor.i32()?,
            max_locks_per_transaction: cursor.i32()?,
            wal_level: cursor.i32()?,
            wal_log_hints: cursor.bool()?,
            track_commit_timestamp: cursor.bool()?,
        })
    }

    /// Appends the structure.
    pub fn write(&self, out: &mut Vec<u8>) {
        for number in [
            self.max_connections,
            self.max_worker_processes,
            self.max_wal_senders,
            self.max_prepared_transactions,
            self.max_locks_per_transaction,
            self.wal_level,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&[
            u8::from(self.wal_log_hints),
            u8::from(self.track_commit_timestamp),
        ]);
    }
}

pub(super) fn changes<'a>(record: &Record<'a>) -> Option<Vec<Change<'a>>> {
    let mut cursor = Cursor::new(record.main_data);
    let change = match record.kind_bits() {
        0x00 => Change::Checkpoint(Checkpoint::parse(record.main_data, true)?),
        0x10 => Change::Checkpoint(Checkpoint::parse(record.main_data, false)?),
        0x30 => Change::NextOid(Oid(cursor.u32()?)),
        0x40 => Change::WalSwitched,
        0x50 => Change::BackupEnded { start: cursor.lsn()? },
        0x60 => Change::ParametersChanged(Parameters::parse(record.main_data)?),
        0x70 => {
            let time = cursor.i64()?;
            Change::RestorePoint { time, name: cursor.c_string()? }
        }
        0x80 => Change::FullPageWrites(cursor.bool()?),
        0x90 => Change::RecoveryEnded {
            time: cursor.i64()?,
            timeline: cursor.u32()?,
            previous_timeline: cursor.u32()?,
        },
        0xD0 => Change::ContrecordOverwritten { lost: cursor.lsn()?, time: cursor.i64()? },
        _ => return Some(Vec::new()), // NOOP, CHECKPOINT_REDO, and images, which are pages
    };
    Some(vec![change])
}
