//! Resource managers and the names of their record kinds, as each major's `pg_waldump` prints them.

use std::fmt;

use crate::wal::segment::WalVersion;

/// A resource manager's number (`RmgrId`); 0 to 21 are Postgres' own, 128 to 255 extensions'.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rmgr(pub u8);

impl Rmgr {
    pub const XLOG: Rmgr = Rmgr(0);
    pub const TRANSACTION: Rmgr = Rmgr(1);
    pub const STORAGE: Rmgr = Rmgr(2);
    pub const CLOG: Rmgr = Rmgr(3);
    pub const DATABASE: Rmgr = Rmgr(4);
    pub const TABLESPACE: Rmgr = Rmgr(5);
    pub const MULTIXACT: Rmgr = Rmgr(6);
    pub const RELMAP: Rmgr = Rmgr(7);
    pub const STANDBY: Rmgr = Rmgr(8);
    pub const HEAP2: Rmgr = Rmgr(9);
    pub const HEAP: Rmgr = Rmgr(10);
    pub const BTREE: Rmgr = Rmgr(11);
    pub const HASH: Rmgr = Rmgr(12);
    pub const GIN: Rmgr = Rmgr(13);
    pub const GIST: Rmgr = Rmgr(14);
    pub const SEQUENCE: Rmgr = Rmgr(15);
    pub const SPGIST: Rmgr = Rmgr(16);
    pub const BRIN: Rmgr = Rmgr(17);
    pub const COMMIT_TS: Rmgr = Rmgr(18);
    pub const REPLICATION_ORIGIN: Rmgr = Rmgr(19);
    pub const GENERIC: Rmgr = Rmgr(20);
    pub const LOGICAL_MESSAGE: Rmgr = Rmgr(21);

    /// Whether a record may name it: built in, or in the range of extensions.
    pub const fn is_valid(self) -> bool {
        self.0 <= Rmgr::LOGICAL_MESSAGE.0 || self.0 >= 128
    }

    /// `Heap2`; `custom` for an extension's.
    pub const fn name(self) -> &'static str {
        match self {
            Rmgr::XLOG => "XLOG",
            Rmgr::TRANSACTION => "Transaction",
            Rmgr::STORAGE => "Storage",
            Rmgr::CLOG => "CLOG",
            Rmgr::DATABASE => "Database",
            Rmgr::TABLESPACE => "Tablespace",
            Rmgr::MULTIXACT => "MultiXact",
            Rmgr::RELMAP => "RelMap",
            Rmgr::STANDBY => "Standby",
            Rmgr::HEAP2 => "Heap2",
            Rmgr::HEAP => "Heap",
            Rmgr::BTREE => "Btree",
            Rmgr::HASH => "Hash",
            Rmgr::GIN => "Gin",
            Rmgr::GIST => "Gist",
            Rmgr::SEQUENCE => "Sequence",
            Rmgr::SPGIST => "SPGist",
            Rmgr::BRIN => "BRIN",
            Rmgr::COMMIT_TS => "CommitTs",
            Rmgr::REPLICATION_ORIGIN => "ReplicationOrigin",
            Rmgr::GENERIC => "Generic",
            Rmgr::LOGICAL_MESSAGE => "LogicalMessage",
            Rmgr(_) => "custom",
        }
    }
}

/// `Heap2`, `custom129`.
impl fmt::Display for Rmgr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        if self.0 > Rmgr::LOGICAL_MESSAGE.0 {
            write!(f, "{:03}", self.0)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Rmgr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The kind's name in this major version; `None` if it has no such kind.
///
/// Only the high four bits of `info` count, and for transactions the operation bits among them.
pub const fn kind_name(rmgr: Rmgr, info: u8, version: WalVersion) -> Option<&'static str> {
    let kind = info & 0xF0;
    match rmgr {
        Rmgr::XLOG => xlog(kind, version),
        Rmgr::TRANSACTION => transaction(kind & 0x70),
        Rmgr::HEAP2 => heap2(kind, version),
        Rmgr::HEAP => heap(kind),
        Rmgr::BTREE => btree(kind),
        Rmgr::HASH => hash(kind),
        Rmgr::GIN => gin(kind),
        Rmgr::GIST => gist(kind),
        Rmgr::SPGIST => spgist(kind),
        Rmgr::BRIN => brin(kind),
        Rmgr::DATABASE => database(kind, version),
        Rmgr::GENERIC => Some("Generic"),
        other => small(other, kind),
    }
}

/// Resource managers of one to four kinds.
const fn small(rmgr: Rmgr, kind: u8) -> Option<&'static str> {
    Some(match (rmgr, kind) {
        (Rmgr::STORAGE, 0x10) => "CREATE",
        (Rmgr::STORAGE, 0x20) => "TRUNCATE",
        (Rmgr::CLOG | Rmgr::COMMIT_TS, 0x00) => "ZEROPAGE",
        (Rmgr::CLOG | Rmgr::COMMIT_TS, 0x10) => "TRUNCATE",
        (Rmgr::TABLESPACE, 0x00) => "CREATE",
        (Rmgr::TABLESPACE, 0x10) => "DROP",
        (Rmgr::MULTIXACT, 0x00) => "ZERO_OFF_PAGE",
        (Rmgr::MULTIXACT, 0x10) => "ZERO_MEM_PAGE",
        (Rmgr::MULTIXACT, 0x20) => "CREATE_ID",
        (Rmgr::MULTIXACT, 0x30) => "TRUNCATE_ID",
        (Rmgr::RELMAP, 0x00) => "UPDATE",
        (Rmgr::STANDBY, 0x00) => "LOCK",
        (Rmgr::STANDBY, 0x10) => "RUNNING_XACTS",
        (Rmgr::STANDBY, 0x20) => "INVALIDATIONS",
        (Rmgr::SEQUENCE, 0x00) => "LOG",
        (Rmgr::REPLICATION_ORIGIN, 0x00) => "SET",
        (Rmgr::REPLICATION_ORIGIN, 0x10) => "DROP",
        (Rmgr::LOGICAL_MESSAGE, 0x00) => "MESSAGE",
        _ => return None,
    })
}

/// Before 15 there was one way to create a database, and dropping had the number of today's other way.
const fn database(kind: u8, version: WalVersion) -> Option<&'static str> {
    Some(match (kind, version) {
        (0x00, WalVersion::V14) => "CREATE",
        (0x10, WalVersion::V14) => "DROP",
        (_, WalVersion::V14) => return None,
        (0x00, _) => "CREATE_FILE_COPY",
        (0x10, _) => "CREATE_WAL_LOG",
        (0x20, _) => "DROP",
        _ => return None,
    })
}

const fn xlog(kind: u8, version: WalVersion) -> Option<&'static str> {
    Some(match kind {
        0x00 => "CHECKPOINT_SHUTDOWN",
        0x10 => "CHECKPOINT_ONLINE",
        0x20 => "NOOP",
        0x30 => "NEXTOID",
        0x40 => "SWITCH",
        0x50 => "BACKUP_END",
        0x60 => "PARAMETER_CHANGE",
        0x70 => "RESTORE_POINT",
        0x80 => "FPW_CHANGE",
        0x90 => "END_OF_RECOVERY",
        0xA0 => "FPI_FOR_HINT",
        0xB0 => "FPI",
        0xD0 => "OVERWRITE_CONTRECORD",
        0xE0 if version.has_17_records() => "CHECKPOINT_REDO",
        _ => return None,
    })
}

const fn transaction(kind: u8) -> Option<&'static str> {
    Some(match kind {
        0x00 => "COMMIT",
        0x10 => "PREPARE",
        0x20 => "ABORT",
        0x30 => "COMMIT_PREPARED",
        0x40 => "ABORT_PREPARED",
        0x50 => "ASSIGNMENT",
        0x60 => "INVALIDATION",
        _ => return None,
    })
}

const fn heap2(kind: u8, version: WalVersion) -> Option<&'static str> {
    Some(match kind {
        0x00 => "REWRITE",
        0x10 if version.has_17_records() => "PRUNE_ON_ACCESS",
        0x20 if version.has_17_records() => "PRUNE_VACUUM_SCAN",
        0x30 if version.has_17_records() => "PRUNE_VACUUM_CLEANUP",
        0x10 => "PRUNE",
        0x20 => "VACUUM",
        0x30 => "FREEZE_PAGE",
        0x40 => "VISIBLE",
        0x50 => "MULTI_INSERT",
        0xD0 => "MULTI_INSERT+INIT",
        0x60 => "LOCK_UPDATED",
        0x70 => "NEW_CID",
        _ => return None,
    })
}

const fn heap(kind: u8) -> Option<&'static str> {
    Some(match kind {
        0x00 => "INSERT",
        0x80 => "INSERT+INIT",
        0x10 => "DELETE",
        0x20 => "UPDATE",
        0xA0 => "UPDATE+INIT",
        0x30 => "TRUNCATE",
        0x40 => "HOT_UPDATE",
        0xC0 => "HOT_UPDATE+INIT",
        0x50 => "HEAP_CONFIRM",
        0x60 => "LOCK",
        0x70 => "INPLACE",
        _ => return None,
    })
}

const fn btree(kind: u8) -> Option<&'static str> {
    Some(match kind {
        0x00 => "INSERT_LEAF",
        0x10 => "INSERT_UPPER",
        0x20 => "INSERT_META",
        0x30 => "SPLIT_L",
        0x40 => "SPLIT_R",
        0x50 => "INSERT_POST",
        0x60 => "DEDUP",
        0x70 => "DELETE",
        0x80 => "UNLINK_PAGE",
        0x90 => "UNLINK_PAGE_META",
        0xA0 => "NEWROOT",
        0xB0 => "MARK_PAGE_HALFDEAD",
        0xC0 => "VACUUM",
        0xD0 => "REUSE_PAGE",
        0xE0 => "META_CLEANUP",
        _ => return None,
    })
}

const fn hash(kind: u8) -> Option<&'static str> {
    Some(match kind {
        0x00 => "INIT_META_PAGE",
        0x10 => "INIT_BITMAP_PAGE",
        0x20 => "INSERT",
        0x30 => "ADD_OVFL_PAGE",
        0x40 => "SPLIT_ALLOCATE_PAGE",
        0x50 => "SPLIT_PAGE",
        0x60 => "SPLIT_COMPLETE",
        0x70 => "MOVE_PAGE_CONTENTS",
        0x80 => "SQUEEZE_PAGE",
        0x90 => "DELETE",
        0xA0 => "SPLIT_CLEANUP",
        0xB0 => "UPDATE_META_PAGE",
        0xC0 => "VACUUM_ONE_PAGE",
        _ => return None,
    })
}

const fn gin(kind: u8) -> Option<&'static str> {
    Some(match kind {
        0x10 => "CREATE_PTREE",
        0x20 => "INSERT",
        0x30 => "SPLIT",
        0x40 => "VACUUM_PAGE",
        0x50 => "DELETE_PAGE",
        0x60 => "UPDATE_META_PAGE",
        0x70 => "INSERT_LISTPAGE",
        0x80 => "DELETE_LISTPAGE",
        0x90 => "VACUUM_DATA_LEAF_PAGE",
        _ => return None,
    })
}

const fn gist(kind: u8) -> Option<&'static str> {
    Some(match kind {
        0x00 => "PAGE_UPDATE",
        0x10 => "DELETE",
        0x20 => "PAGE_REUSE",
        0x30 => "PAGE_SPLIT",
        0x60 => "PAGE_DELETE",
        0x70 => "ASSIGN_LSN",
        _ => return None,
    })
}

const fn spgist(kind: u8) -> Option<&'static str> {
    Some(match kind {
        0x10 => "ADD_LEAF",
        0x20 => "MOVE_LEAFS",
        0x30 => "ADD_NODE",
        0x40 => "SPLIT_TUPLE",
        0x50 => "PICKSPLIT",
        0x60 => "VACUUM_LEAF",
        0x70 => "VACUUM_ROOT",
        0x80 => "VACUUM_REDIRECT",
        _ => return None,
    })
}

const fn brin(kind: u8) -> Option<&'static str> {
    Some(match kind {
        0x00 => "CREATE_INDEX",
        0x10 => "INSERT",
        0x90 => "INSERT+INIT",
        0x20 => "UPDATE",
        0xA0 => "UPDATE+INIT",
        0x30 => "SAMEPAGE_UPDATE",
        0x40 => "REVMAP_EXTEND",
        0x50 => "DESUMMARIZE",
        _ => return None,
    })
}
