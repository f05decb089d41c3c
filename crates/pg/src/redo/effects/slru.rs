//! Effects of `CLOG`, `CommitTs` and `MultiXact` records.

use super::{Change, later_xid};
use crate::oid::Oid;
use crate::wal::cursor::Cursor;
use crate::wal::record::Record;

pub(super) fn clog<'a>(record: &Record<'a>) -> Option<Vec<Change<'a>>> {
    let mut cursor = Cursor::new(record.main_data);
    let page = page_number(record, &mut cursor)?;
    Some(vec![match record.kind_bits() {
        0x00 => Change::ClogPageZeroed(page),
        _ => Change::ClogTruncated {
            page,
            oldest_xid: cursor.u32()?,
            oldest_database: Oid(cursor.u32()?),
        },
    }])
}

pub(super) fn commit_timestamps<'a>(record: &Record<'a>) -> Option<Vec<Change<'a>>> {
    let mut cursor = Cursor::new(record.main_data);
    let page = page_number(record, &mut cursor)?;
    Some(vec![match record.kind_bits() {
        0x00 => Change::CommitTimestampPageZeroed(page),
        _ => Change::CommitTimestampsTruncated { page, oldest_xid: cursor.u32()? },
    }])
}

pub(super) fn multixact<'a>(record: &Record<'a>) -> Option<Vec<Change<'a>>> {
    let mut cursor = Cursor::new(record.main_data);
    if record.kind_bits() < 0x20 {
        let page = page_number(record, &mut cursor)?;
        return Some(vec![match record.kind_bits() {
            0x00 => Change::MultiXactOffsetsPageZeroed(page),
            _ => Change::MultiXactMembersPageZeroed(page),
        }]);
    }
    let first = cursor.u32()?;
    Some(match record.kind_bits() {
        0x20 => {
            let offset = cursor.u32()?;
            let count = cursor.count()?;
            let fields = cursor.u32s(count.checked_mul(2)?)?;
            let (pairs, _none) = fields.as_chunks::<2>();
            let members: Vec<_> = pairs.iter().map(|&[xid, status]| (xid, status)).collect();
            let through = members.iter().map(|&(xid, _)| xid).reduce(later_xid);
            let mut changes = vec![Change::MultiXactCreated { multi: first, offset, members }];
            changes.extend(through.map(|through| Change::XidsUsed { through }));
            changes
        }
        _ => vec![Change::MultiXactsTruncated {
            oldest_database: Oid(first),
            offsets: (cursor.u32()?, cursor.u32()?),
            members: (cursor.u32()?, cursor.u32()?),
        }],
    })
}

/// From 17 on it has 64 bits; ids have 32 still, and so the numbers of their pages fit.
fn page_number(record: &Record<'_>, cursor: &mut Cursor<'_>) -> Option<u32> {
    if record.version.has_17_records() { u32::try_from(cursor.u64()?).ok() } else { cursor.u32() }
}
