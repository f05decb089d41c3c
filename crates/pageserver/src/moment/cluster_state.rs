//! What the WAL says besides pages, as of a moment: counters, transaction logs, relation maps, prepared transactions,
//! databases and tablespaces. Read from the base backup's files and every record since.
//!
//! Rule: the counters decide whether a server that starts there sees the right rows; a record that cannot be read is
//! an error, never passed over.

use std::collections::BTreeMap;

use pg::datadir::layout;
use pg::datadir::layout::two_phase_file;
use pg::datadir::relation::RelNode;
use pg::datadir::slru::{self, Slru, XidStatus};
use pg::lsn::Lsn;
use pg::oid::Oid;
use pg::redo::effects::{self, Change, Checkpoint, Parameters, TransactionEnd};
use pg::wal::reader::StreamDecoder;
use pg::wal::record::RawRecord;
use runtime::executor;

use super::base_directory::BaseDirectory;
use super::transaction_logs::TransactionLogs;
use crate::error::PageError;
use crate::limits::WAL_WRITE_BYTES_MAX;
use crate::timeline::Timeline;

/// The first transaction id that a user's transaction can have.
const FIRST_NORMAL_XID: u64 = 3;
/// `PG_VERSION`'s and the relation map's file names.
const MAP: &str = "pg_filenode.map";

/// The state as of the end of a record.
pub struct ClusterState {
    /// End of the last record, and its start.
    pub end: Lsn,
    pub last_record: Lsn,
    pub counters: Checkpoint,
    pub parameters: Parameters,
    pub logs: TransactionLogs,
    /// Relation maps by tablespace and database: there is one for each database in its own tablespace.
    pub maps: BTreeMap<(Oid, Oid), Vec<u8>>,
    /// Prepared transactions' files.
    pub prepared: BTreeMap<u32, Vec<u8>>,
    /// Where each tablespace is on the server.
    pub tablespaces: BTreeMap<Oid, String>,
    /// Replication origins: number, position at the other side.
    pub origins: BTreeMap<u16, Lsn>,
}

impl ClusterState {
    /// The state as of the last record that ends at or before `lsn`.
    pub async fn as_of(
        timeline: &Timeline,
        base: &BaseDirectory,
        lsn: Lsn,
    ) -> Result<ClusterState, PageError> {
        let mut state = ClusterState::of_base(timeline, base).await?;
        let manifest = &timeline.manifest;
        let mut decoder = StreamDecoder::at_record(manifest.start, manifest.wal_segment_bytes)
            .expect_system(manifest.system_identifier)
            .assume_version(manifest.wal_version());
        loop {
            let start = decoder.position();
            let until = timeline.durable().min(start + WAL_WRITE_BYTES_MAX as u64);
            if start >= until {
                break;
            }
            let wal = timeline.wal.read(start, until).await.map_err(|error| PageError::Io {
                page: "the received WAL".to_owned(),
                what: error.to_string(),
            })?;
            let mut input = wal.as_slice();
            let mut past = false;
            while let Some(record) =
                decoder.next(&mut input).map_err(|error| damaged(&error.to_string()))?
            {
                past = record.end_lsn > lsn;
                if past {
                    break;
                }
                state.take_in(base, &record).await?;
            }
            if past {
                break;
            }
            executor::yield_now().await;
        }
        if state.end < manifest.end {
            let what = format!("the WAL ends at {}, before the base backup does", state.end);
            return Err(damaged(&what));
        }
        Ok(state)
    }

    /// The state as the base backup's files have it.
    async fn of_base(timeline: &Timeline, base: &BaseDirectory) -> Result<ClusterState, PageError> {
        let control = base.control()?;
        let mut maps = BTreeMap::new();
        let major = timeline.manifest.server_version / 10_000;
        let version = layout::version_directory(major, control.catalog_version);
        for &(tablespace, database) in &base.databases {
            let folder = database_folder((tablespace, database), &version);
            maps.insert((tablespace, database), base.read(&format!("{folder}/{MAP}")).await?);
        }
        let mut prepared = BTreeMap::new();
        for &xid in &base.prepared {
            let file = two_phase_file(control.version, xid, control.checkpoint.next_xid);
            prepared.insert(xid, base.read(&file).await?);
        }
        let tablespaces = &timeline.manifest.tablespaces;
        Ok(ClusterState {
            end: timeline.manifest.start,
            last_record: Lsn::INVALID,
            counters: control.checkpoint,
            parameters: control.parameters,
            logs: TransactionLogs::of_base(base),
            maps,
            prepared,
            tablespaces: tablespaces
                .iter()
                .map(|tablespace| (Oid(tablespace.oid), tablespace.location.clone()))
                .collect(),
            origins: BTreeMap::new(),
        })
    }

    async fn take_in(
        &mut self,
        base: &BaseDirectory,
        raw: &RawRecord<'_>,
    ) -> Result<(), PageError> {
        (self.last_record, self.end) = (raw.lsn, raw.end_lsn);
        self.xid_used(raw.header.xid);
        if !effects::has_effects(raw.header.rmgr) {
            return Ok(());
        }
        let failed = |error: pg::wal::error::WalError| damaged(&error.to_string());
        let record = raw.decode().map_err(failed)?;
        for change in effects::effects(&record).map_err(failed)? {
            self.apply(base, &change).await?;
        }
        Ok(())
    }

    async fn apply(&mut self, base: &BaseDirectory, change: &Change<'_>) -> Result<(), PageError> {
        match change {
            Change::TransactionEnded(ended) => self.end_transaction(base, ended).await?,
            Change::TransactionPrepared { xid, state, .. } => {
                let mut file = state.to_vec();
                file.extend_from_slice(&crc32c::crc32c(state).to_le_bytes());
                self.prepared.insert(*xid, file);
                self.xid_used(*xid);
            }
            Change::MultiXactCreated { multi, offset, members } => {
                let next = self.logs.create_multixact(base, *multi, *offset, members).await?;
                self.multixact_used(next);
            }
            Change::XidsUsed { through } => self.xid_used(*through),
            Change::RunningTransactions { next_xid, .. } => {
                self.xid_used(next_xid.wrapping_sub(1));
            }
            Change::NextOid(oid) => self.counters.next_oid = *oid,
            Change::Checkpoint(checkpoint) => self.checkpoint(checkpoint),
            Change::ParametersChanged(parameters) => self.parameters = *parameters,
            Change::FullPageWrites(on) => self.counters.full_page_writes = *on,
            Change::OriginSet { origin, remote_lsn } => {
                self.origins.insert(*origin, *remote_lsn);
            }
            Change::OriginDropped(origin) => {
                self.origins.remove(origin);
            }
            other => self.change_logs_and_places(other),
        }
        Ok(())
    }

    /// Changes that need nothing of the base backup.
    fn change_logs_and_places(&mut self, change: &Change<'_>) {
        let precedes = |one: u32, other: u32| one.wrapping_sub(other).cast_signed() < 0;
        match change {
            Change::ClogPageZeroed(page) => self.logs.zero(Slru::Clog, *page),
            Change::CommitTimestampPageZeroed(page) => {
                self.logs.zero(Slru::CommitTimestamps, *page);
            }
            Change::MultiXactOffsetsPageZeroed(page) => {
                self.logs.zero(Slru::MultiXactOffsets, *page);
            }
            Change::MultiXactMembersPageZeroed(page) => {
                self.logs.zero(Slru::MultiXactMembers, *page);
            }
            Change::ClogTruncated { page, oldest_xid, oldest_database } => {
                let per_page = slru::XIDS_PER_PAGE;
                let cutoff = page.wrapping_mul(per_page);
                self.logs
                    .truncate(Slru::Clog, |other| precedes(other.wrapping_mul(per_page), cutoff));
                self.counters.oldest_xid = *oldest_xid;
                self.counters.oldest_xid_database = *oldest_database;
            }
            Change::CommitTimestampsTruncated { page, oldest_xid } => {
                self.logs.truncate(Slru::CommitTimestamps, |other| other < *page);
                self.counters.oldest_commit_timestamp_xid = *oldest_xid;
            }
            Change::MultiXactsTruncated { oldest_database, offsets, members } => {
                let per_page = slru::OFFSETS_PER_PAGE;
                let cutoff = slru::multixact_offset_page(offsets.1).wrapping_mul(per_page);
                self.logs.truncate(Slru::MultiXactOffsets, |other| {
                    precedes(other.wrapping_mul(per_page), cutoff)
                });
                let gone = members.1.wrapping_sub(members.0);
                self.logs.truncate(Slru::MultiXactMembers, |other| {
                    let first = other.wrapping_mul(slru::MEMBERS_PER_PAGE);
                    first.wrapping_sub(members.0) < gone
                });
                self.counters.oldest_multi = offsets.1;
                self.counters.oldest_multi_database = *oldest_database;
            }
            Change::RelmapUpdated { tablespace, database, bytes } => {
                self.maps.insert((*tablespace, *database), bytes.to_vec());
            }
            Change::DatabaseCreated { tablespace, database, source } => {
                let copied = source.and_then(|source| self.maps.get(&source).cloned());
                self.maps.insert((*tablespace, *database), copied.unwrap_or_default());
            }
            Change::DatabaseDropped { database, tablespaces } => {
                for tablespace in tablespaces {
                    self.maps.remove(&(*tablespace, *database));
                }
            }
            Change::TablespaceCreated { tablespace, path } => {
                let path = String::from_utf8_lossy(path).into_owned();
                self.tablespaces.insert(*tablespace, path);
            }
            Change::TablespaceDropped(tablespace) => {
                self.tablespaces.remove(tablespace);
            }
            _ => {}
        }
    }

    async fn end_transaction(
        &mut self,
        base: &BaseDirectory,
        ended: &TransactionEnd<'_>,
    ) -> Result<(), PageError> {
        let xids: Vec<u32> = std::iter::once(ended.xid).chain(ended.subxids.clone()).collect();
        let status = if ended.committed { XidStatus::Committed } else { XidStatus::Aborted };
        self.logs.end_transactions(base, &xids, status).await?;
        if ended.prepared {
            self.prepared.remove(&ended.xid);
        }
        if ended.committed && self.parameters.track_commit_timestamp {
            let time = ended.origin.as_ref().map_or(ended.time, |origin| origin.time);
            let number = ended.origin.as_ref().map_or(0, |origin| origin.number);
            self.logs.set_timestamps(base, &xids, time, number).await?;
            let newest = xids.iter().copied().reduce(effects::later_xid).unwrap_or(ended.xid);
            let counters = &mut self.counters;
            if counters.oldest_commit_timestamp_xid == 0 {
                counters.oldest_commit_timestamp_xid = ended.xid;
                counters.newest_commit_timestamp_xid = newest;
            }
            counters.newest_commit_timestamp_xid =
                effects::later_xid(newest, counters.newest_commit_timestamp_xid);
        }
        if let Some(origin) = ended.origin.as_ref().filter(|origin| origin.number != 0) {
            self.origins.insert(origin.number, origin.lsn);
        }
        xids.into_iter().for_each(|xid| self.xid_used(xid));
        Ok(())
    }

    /// A checkpoint's counters: exact after a shutdown, at least these otherwise.
    fn checkpoint(&mut self, checkpoint: &Checkpoint) {
        let counters = &mut self.counters;
        if checkpoint.shutdown {
            *counters = *checkpoint;
            return;
        }
        counters.next_xid = counters.next_xid.max(checkpoint.next_xid);
        counters.full_page_writes = checkpoint.full_page_writes;
        counters.oldest_xid = checkpoint.oldest_xid;
        counters.oldest_xid_database = checkpoint.oldest_xid_database;
        counters.oldest_multi = checkpoint.oldest_multi;
        counters.oldest_multi_database = checkpoint.oldest_multi_database;
        self.multixact_used((checkpoint.next_multi, checkpoint.next_multi_offset));
    }

    /// The next transaction id is behind this one.
    fn xid_used(&mut self, xid: u32) {
        let next = &mut self.counters.next_xid;
        let low = u32::try_from(*next & 0xFFFF_FFFF).unwrap_or(0);
        let ahead = xid.wrapping_sub(low);
        if u64::from(xid) < FIRST_NORMAL_XID || ahead.cast_signed() < 0 {
            return;
        }
        *next += u64::from(ahead) + 1;
        let low = *next & 0xFFFF_FFFF;
        *next += FIRST_NORMAL_XID.saturating_sub(low);
    }

    /// The next multixact id and its offset are at least these.
    fn multixact_used(&mut self, next: (u32, u32)) {
        let counters = &mut self.counters;
        let ahead = |one: u32, other: u32| one.wrapping_sub(other).cast_signed() > 0;
        if ahead(next.0, counters.next_multi) {
            counters.next_multi = next.0;
        }
        if ahead(next.1, counters.next_multi_offset) {
            counters.next_multi_offset = next.1;
        }
    }
}

/// The folder of a database in a tablespace, relative to the data directory.
pub fn database_folder(database: (Oid, Oid), version_directory: &str) -> String {
    let node = RelNode::new(database.0.0, database.1.0, 0);
    layout::database_directory(node, version_directory)
}

fn damaged(what: &str) -> PageError {
    PageError::Damaged { page: "the state of the cluster".to_owned(), what: what.to_owned() }
}
