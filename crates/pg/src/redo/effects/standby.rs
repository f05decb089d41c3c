//! Effects of `Standby`, `ReplicationOrigin` and `LogicalMessage` records.

use super::Change;
use crate::oid::Oid;
use crate::wal::cursor::Cursor;
use crate::wal::record::Record;

pub(super) fn standby<'a>(record: &Record<'a>) -> Option<Vec<Change<'a>>> {
    if record.kind_bits() != 0x10 {
        return Some(Vec::new()); // locks and invalidations matter to running servers only
    }
    let mut cursor = Cursor::new(record.main_data);
    let count = cursor.count()?;
    let subxid_count = cursor.count()?;
    let overflowed = cursor.bool()?;
    cursor.align(4)?;
    let next_xid = cursor.u32()?;
    let oldest_running_xid = cursor.u32()?;
    let _latest_completed_xid = cursor.u32()?;
    let xids = cursor.u32s(count.checked_add(subxid_count)?)?;
    let complete = !overflowed;
    Some(vec![Change::RunningTransactions { next_xid, oldest_running_xid, xids, complete }])
}

pub(super) fn origin<'a>(record: &Record<'a>) -> Option<Vec<Change<'a>>> {
    let mut cursor = Cursor::new(record.main_data);
    Some(vec![match record.kind_bits() {
        0x00 => {
            let remote_lsn = cursor.lsn()?;
            Change::OriginSet { origin: cursor.u16()?, remote_lsn }
        }
        _ => Change::OriginDropped(cursor.u16()?),
    }])
}

pub(super) fn message<'a>(record: &Record<'a>) -> Option<Vec<Change<'a>>> {
    let mut cursor = Cursor::new(record.main_data);
    let database = Oid(cursor.u32()?);
    let transactional = cursor.bool()?;
    cursor.align(8)?;
    let prefix_bytes = usize::try_from(cursor.u64()?).ok()?;
    let message_bytes = usize::try_from(cursor.u64()?).ok()?;
    let prefix = cursor.bytes(prefix_bytes)?.split(|&byte| byte == 0).next()?;
    let message = cursor.bytes(message_bytes)?;
    Some(vec![Change::LogicalMessage { database, transactional, prefix, message }])
}
