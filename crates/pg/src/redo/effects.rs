//! What records do besides changing relation pages: sizes, existence, transactions, databases, counters.

mod slru;
mod standby;
mod storage;
mod xact;
mod xlog;

use crate::datadir::relation::{RelNode, RelTag};
use crate::lsn::Lsn;
use crate::oid::Oid;
use crate::wal::error::{WalError, WalErrorKind};
use crate::wal::record::Record;
use crate::wal::rmgr::Rmgr;

pub use xact::{PreparedHeader, prepared_header};
pub use xlog::{Checkpoint, Parameters};

/// One change that is not a change of a relation's page.
#[derive(Clone, Debug, PartialEq)]
pub enum Change<'a> {
    /// The fork now exists, with no blocks.
    RelationCreated(RelTag),
    /// The main fork has `blocks` blocks; the other forks shrink with it if their flag is set.
    RelationTruncated {
        node: RelNode,
        blocks: u32,
        heap: bool,
        vm: bool,
        fsm: bool,
    },
    /// All forks are gone.
    RelationDropped(RelNode),
    /// `source`: copied file by file from this (tablespace, database), pages as of this record; otherwise
    /// the pages follow in the WAL.
    DatabaseCreated {
        tablespace: Oid,
        database: Oid,
        source: Option<(Oid, Oid)>,
    },
    DatabaseDropped {
        database: Oid,
        tablespaces: Vec<Oid>,
    },
    TablespaceCreated {
        tablespace: Oid,
        path: &'a [u8],
    },
    TablespaceDropped(Oid),
    /// The relation map file (`pg_filenode.map`) has new contents; `database` 0 is the shared one.
    RelmapUpdated {
        tablespace: Oid,
        database: Oid,
        bytes: &'a [u8],
    },
    /// A transaction and its subtransactions came to their end.
    TransactionEnded(TransactionEnd<'a>),
    /// A transaction was prepared: `state` is its file in `pg_twophase` but for the CRC-32C at the end.
    TransactionPrepared {
        xid: u32,
        gid: &'a [u8],
        state: &'a [u8],
    },
    ClogPageZeroed(u32),
    /// Segments wholly before `page` are removed.
    ClogTruncated {
        page: u32,
        oldest_xid: u32,
        oldest_database: Oid,
    },
    CommitTimestampPageZeroed(u32),
    CommitTimestampsTruncated {
        page: u32,
        oldest_xid: u32,
    },
    MultiXactOffsetsPageZeroed(u32),
    MultiXactMembersPageZeroed(u32),
    /// `members` are (transaction, status) and begin at `offset` of `pg_multixact/members`.
    MultiXactCreated {
        multi: u32,
        offset: u32,
        members: Vec<(u32, u32)>,
    },
    MultiXactsTruncated {
        oldest_database: Oid,
        offsets: (u32, u32),
        members: (u32, u32),
    },
    /// Transaction ids up to here are in use (besides the one in the record's header).
    XidsUsed {
        through: u32,
    },
    NextOid(Oid),
    Checkpoint(Checkpoint),
    ParametersChanged(Parameters),
    FullPageWrites(bool),
    /// The rest of the segment is unused.
    WalSwitched,
    /// A backup that began at this position is complete here.
    BackupEnded {
        start: Lsn,
    },
    RestorePoint {
        time: i64,
        name: &'a [u8],
    },
    RecoveryEnded {
        time: i64,
        timeline: u32,
        previous_timeline: u32,
    },
    ContrecordOverwritten {
        lost: Lsn,
        time: i64,
    },
    OriginSet {
        origin: u16,
        remote_lsn: Lsn,
    },
    OriginDropped(u16),
    RunningTransactions {
        next_xid: u32,
        oldest_running_xid: u32,
        xids: Vec<u32>,
        complete: bool,
    },
    LogicalMessage {
        database: Oid,
        transactional: bool,
        prefix: &'a [u8],
        message: &'a [u8],
    },
}

/// The end of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionEnd<'a> {
    pub committed: bool,
    /// The transaction's own id; of a prepared one not that of the record's header.
    pub xid: u32,
    pub subxids: Vec<u32>,
    /// Microseconds since 2000-01-01 00:00 UTC.
    pub time: i64,
    /// The database it ran in, where the record tells.
    pub database: Option<Oid>,
    /// It had been prepared: its file in `pg_twophase` goes away.
    pub prepared: bool,
    pub gid: Option<&'a [u8]>,
    pub origin: Option<Origin>,
}

/// Where a replicated transaction came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The number in the record's header; 0 if it has none.
    pub number: u16,
    pub lsn: Lsn,
    pub time: i64,
}

/// Microseconds from the Unix epoch to the Postgres epoch (2000-01-01).
pub const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Whether the record can have any effect listed here; cheap, to skip the heap and index records.
pub const fn has_effects(rmgr: Rmgr) -> bool {
    rmgr.0 <= Rmgr::STANDBY.0 || (rmgr.0 >= Rmgr::COMMIT_TS.0 && rmgr.0 <= Rmgr::LOGICAL_MESSAGE.0)
}

/// The record's changes beyond pages, in the order in which they take place.
///
/// Relation sizes also grow by the blocks that records name; `nextXid` must also pass the header's xid.
pub fn effects<'a>(record: &Record<'a>) -> Result<Vec<Change<'a>>, WalError> {
    if !has_effects(record.rmgr()) {
        return Ok(Vec::new());
    }
    if record.kind().name().is_none() {
        let kind = WalErrorKind::UnknownKind { rmgr: record.rmgr().0, info: record.kind_bits() };
        return Err(WalError { lsn: record.lsn, kind });
    }
    let changes = match record.rmgr() {
        Rmgr::XLOG => xlog::changes(record),
        Rmgr::TRANSACTION => xact::changes(record),
        Rmgr::STORAGE => storage::relation(record),
        Rmgr::DATABASE => storage::database(record),
        Rmgr::TABLESPACE => storage::tablespace(record),
        Rmgr::RELMAP => storage::relmap(record),
        Rmgr::CLOG => slru::clog(record),
        Rmgr::COMMIT_TS => slru::commit_timestamps(record),
        Rmgr::MULTIXACT => slru::multixact(record),
        Rmgr::STANDBY => standby::standby(record),
        Rmgr::REPLICATION_ORIGIN => standby::origin(record),
        Rmgr::LOGICAL_MESSAGE => standby::message(record),
        _ => Some(Vec::new()),
    };
    changes.ok_or_else(|| record.data_error())
}

/// The later of two transaction ids, which count in a circle.
pub const fn later_xid(one: u32, other: u32) -> u32 {
    if one.wrapping_sub(other).cast_signed() > 0 { one } else { other }
}
