//! Effects of `Storage`, `Database`, `Tablespace` and `RelMap` records.

use super::Change;
use crate::datadir::relation::Fork;
use crate::oid::Oid;
use crate::wal::cursor::Cursor;
use crate::wal::record::Record;
use crate::wal::segment::WalVersion;

const TRUNCATE_HEAP: u32 = 0x1;
const TRUNCATE_VM: u32 = 0x2;
const TRUNCATE_FSM: u32 = 0x4;

pub(super) fn relation<'a>(record: &Record<'a>) -> Option<Vec<Change<'a>>> {
    let mut cursor = Cursor::new(record.main_data);
    let change = if record.kind_bits() == 0x10 {
        let node = cursor.rel_node()?;
        let fork = Fork::from_number(u8::try_from(cursor.u32()?).ok()?)?;
        Change::RelationCreated(node.fork(fork))
    } else {
        let blocks = cursor.u32()?;
        let node = cursor.rel_node()?;
        let flags = cursor.u32()?;
        let has = |flag| flags & flag != 0;
        Change::RelationTruncated {
            node,
            blocks,
            heap: has(TRUNCATE_HEAP),
            vm: has(TRUNCATE_VM),
            fsm: has(TRUNCATE_FSM),
        }
    };
    Some(vec![change])
}

pub(super) fn database<'a>(record: &Record<'a>) -> Option<Vec<Change<'a>>> {
    let mut cursor = Cursor::new(record.main_data);
    let mut oid = || cursor.u32().map(Oid);
    let database = oid()?;
    // Postgres 14 has no CREATE_WAL_LOG; DROP has its number there.
    let kind = match (record.kind_bits(), record.version) {
        (0x10, WalVersion::V14) => 0x20,
        (kind, _) => kind,
    };
    let change = match kind {
        0x00 => {
            let tablespace = oid()?;
            let source_database = oid()?;
            let source = Some((oid()?, source_database));
            Change::DatabaseCreated { tablespace, database, source }
        }
        0x10 => Change::DatabaseCreated { tablespace: oid()?, database, source: None },
        _ => {
            let count = cursor.count()?;
            let tablespaces = cursor.u32s(count)?.into_iter().map(Oid).collect();
            Change::DatabaseDropped { database, tablespaces }
        }
    };
    Some(vec![change])
}

pub(super) fn tablespace<'a>(record: &Record<'a>) -> Option<Vec<Change<'a>>> {
    let mut cursor = Cursor::new(record.main_data);
    let tablespace = Oid(cursor.u32()?);
    Some(vec![match record.kind_bits() {
        0x00 => Change::TablespaceCreated { tablespace, path: cursor.c_string()? },
        _ => Change::TablespaceDropped(tablespace),
    }])
}

pub(super) fn relmap<'a>(record: &Record<'a>) -> Option<Vec<Change<'a>>> {
    let mut cursor = Cursor::new(record.main_data);
    let database = Oid(cursor.u32()?);
    let tablespace = Oid(cursor.u32()?);
    let length = cursor.count()?;
    Some(vec![Change::RelmapUpdated { tablespace, database, bytes: cursor.bytes(length)? }])
}
