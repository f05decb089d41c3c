//! Effects of `Transaction` records (`access/xact.h`, `rmgrdesc/xactdesc.c`).

use super::{Change, Origin, TransactionEnd, later_xid};
use crate::datadir::relation::RelNode;
use crate::oid::Oid;
use crate::wal::cursor::Cursor;
use crate::wal::record::Record;
use crate::wal::segment::WalVersion;

const HAS_INFO: u8 = 0x80;
const OPERATION: u8 = 0x70;

const HAS_DATABASE: u32 = 1 << 0;
const HAS_SUBXACTS: u32 = 1 << 1;
const HAS_RELATIONS: u32 = 1 << 2;
const HAS_INVALIDATIONS: u32 = 1 << 3;
const HAS_TWOPHASE: u32 = 1 << 4;
const HAS_ORIGIN: u32 = 1 << 5;
const HAS_GID: u32 = 1 << 7;
const HAS_DROPPED_STATISTICS: u32 = 1 << 8;

const INVALIDATION_BYTES: usize = 16;
/// The number of an object has 64 bits from 18 on.
const fn statistics_item_bytes(version: WalVersion) -> usize {
    if version.major() >= 18 { 16 } else { 12 }
}

pub(super) fn changes<'a>(record: &Record<'a>) -> Option<Vec<Change<'a>>> {
    match record.header.info & OPERATION {
        0x00 | 0x30 => ended(record, true),
        0x20 | 0x40 => ended(record, false),
        0x10 => prepared(record),
        _ => Some(Vec::new()), // assignments and invalidations matter to running servers only
    }
}

/// Commits and aborts differ only in that commits carry invalidation messages.
fn ended<'a>(record: &Record<'a>, committed: bool) -> Option<Vec<Change<'a>>> {
    let mut cursor = Cursor::new(record.main_data);
    let time = cursor.i64()?;
    let flags = if record.header.info & HAS_INFO != 0 { cursor.u32()? } else { 0 };
    let has = |flag| flags & flag != 0;
    let mut database = None;
    if has(HAS_DATABASE) {
        database = Some(Oid(cursor.u32()?));
        let _tablespace = cursor.u32()?;
    }
    let mut subxids = Vec::new();
    if has(HAS_SUBXACTS) {
        let count = cursor.count()?;
        subxids = cursor.u32s(count)?;
    }
    let mut dropped = Vec::new();
    if has(HAS_RELATIONS) {
        for _each in 0..cursor.count()? {
            dropped.push(cursor.rel_node()?);
        }
    }
    if has(HAS_DROPPED_STATISTICS) {
        skip_items(&mut cursor, statistics_item_bytes(record.version))?;
    }
    if has(HAS_INVALIDATIONS) && committed {
        skip_items(&mut cursor, INVALIDATION_BYTES)?;
    }
    let (mut xid, mut gid) = (record.header.xid, None);
    if has(HAS_TWOPHASE) {
        xid = cursor.u32()?;
        if has(HAS_GID) {
            gid = Some(cursor.c_string()?);
        }
    }
    let mut origin = None;
    if has(HAS_ORIGIN) {
        let (lsn, time) = (cursor.lsn()?, cursor.i64()?);
        origin = Some(Origin { number: record.origin.unwrap_or(0), lsn, time });
    }
    let through = subxids.iter().copied().fold(xid, later_xid);
    let prepared = has(HAS_TWOPHASE);
    let end = TransactionEnd { committed, xid, subxids, time, database, prepared, gid, origin };
    let mut changes = vec![Change::XidsUsed { through }, Change::TransactionEnded(end)];
    changes.extend(dropped.into_iter().map(Change::RelationDropped));
    Some(changes)
}

fn skip_items(cursor: &mut Cursor<'_>, bytes: usize) -> Option<()> {
    let count = cursor.count()?;
    cursor.bytes(count.checked_mul(bytes)?).map(|_items| ())
}

fn prepared<'a>(record: &Record<'a>) -> Option<Vec<Change<'a>>> {
    let header = prepared_header(record.main_data, record.version)?;
    let through = header.subxids.iter().copied().fold(header.xid, later_xid);
    Some(vec![
        Change::XidsUsed { through },
        Change::TransactionPrepared { xid: header.xid, gid: header.gid, state: record.main_data },
    ])
}

/// What the state of a prepared transaction begins with (`TwoPhaseFileHeader`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedHeader<'a> {
    pub xid: u32,
    pub database: Oid,
    pub prepared_at: i64,
    pub owner: Oid,
    pub gid: &'a [u8],
    pub subxids: Vec<u32>,
    /// Relations to be dropped at commit.
    pub commit_drops: Vec<RelNode>,
    /// Relations to be dropped at abort.
    pub abort_drops: Vec<RelNode>,
}

/// Reads the state of a prepared transaction; each part begins at a multiple of 8.
pub fn prepared_header(state: &[u8], version: WalVersion) -> Option<PreparedHeader<'_>> {
    let mut cursor = Cursor::new(state);
    let _magic = cursor.u32()?;
    let _total_length = cursor.u32()?;
    let xid = cursor.u32()?;
    let database = Oid(cursor.u32()?);
    let prepared_at = cursor.i64()?;
    let owner = Oid(cursor.u32()?);
    let subxid_count = cursor.count()?;
    let commit_drop_count = cursor.count()?;
    let abort_drop_count = cursor.count()?;
    if version >= WalVersion::V15 {
        let _statistics = (cursor.u32()?, cursor.u32()?);
    }
    let _invalidations = cursor.u32()?;
    let _relcache_file = cursor.bool()?;
    cursor.align(2)?;
    let gid_bytes = usize::from(cursor.u16()?);
    let _origin = (cursor.lsn()?, cursor.i64()?);
    cursor.align(8)?;
    let gid = cursor.bytes(gid_bytes)?.split(|&byte| byte == 0).next()?;
    cursor.align(8)?;
    let subxids = cursor.u32s(subxid_count)?;
    cursor.align(8)?;
    let commit_drops = rel_nodes(&mut cursor, commit_drop_count)?;
    let abort_drops = rel_nodes(&mut cursor, abort_drop_count)?;
    Some(PreparedHeader {
        xid,
        database,
        prepared_at,
        owner,
        gid,
        subxids,
        commit_drops,
        abort_drops,
    })
}

fn rel_nodes(cursor: &mut Cursor<'_>, count: usize) -> Option<Vec<RelNode>> {
    let mut nodes = Vec::new();
    for _each in 0..count {
        nodes.push(cursor.rel_node()?);
    }
    cursor.align(8)?;
    Some(nodes)
}
