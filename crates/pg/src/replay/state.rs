//! What is no relation page: transaction logs, relation maps, prepared transactions, replication origins.

use std::collections::BTreeMap;

use crate::datadir::slru::{self, SEGMENT_PAGES, Slru, XidStatus};
use crate::lsn::Lsn;
use crate::oid::Oid;
use crate::page::{PAGE_BYTES, PageBytes};
use crate::redo::effects::{Change, TransactionEnd};

/// The state, in the form in which it is in files.
#[derive(Debug)]
pub struct State {
    pub(super) slru: BTreeMap<(Slru, u32), Box<PageBytes>>,
    /// `pg_filenode.map` of each (tablespace, database); (1664, 0) is the shared one.
    pub(super) relmaps: BTreeMap<(Oid, Oid), Vec<u8>>,
    /// Files of `pg_twophase`, by transaction.
    pub(super) prepared: BTreeMap<u32, Vec<u8>>,
    /// How far each replication origin has been replayed.
    pub(super) origins: BTreeMap<u16, Lsn>,
    track_commit_timestamp: bool,
}

impl State {
    pub(super) fn new(track_commit_timestamp: bool) -> State {
        State {
            slru: BTreeMap::new(),
            relmaps: BTreeMap::new(),
            prepared: BTreeMap::new(),
            origins: BTreeMap::new(),
            track_commit_timestamp,
        }
    }

    pub(super) fn load_slru(&mut self, slru: Slru, page: u32, bytes: &PageBytes) {
        self.slru.insert((slru, page), Box::new(*bytes));
    }

    /// Takes a file of the base that is no SLRU and no relation. One that is not followed is passed over.
    pub(super) fn load_file(&mut self, path: &str, bytes: &[u8]) {
        if let Some(place) = relmap_place(path) {
            self.relmaps.insert(place, bytes.to_owned());
        } else if let Some(xid) = prepared_xid(path) {
            self.prepared.insert(xid, bytes.to_owned());
        }
    }

    pub(super) fn apply(&mut self, change: &Change<'_>) {
        match change {
            Change::TransactionEnded(end) => self.end_transaction(end),
            Change::TransactionPrepared { xid, state, .. } => {
                // The file is the record's data and their checksum (`EndPrepare`).
                let mut file = state.to_vec();
                file.extend_from_slice(&crc32c::crc32c(state).to_le_bytes());
                self.prepared.insert(*xid, file);
            }
            Change::ClogPageZeroed(page) => self.zero(Slru::Clog, *page),
            Change::CommitTimestampPageZeroed(page) => self.zero(Slru::CommitTimestamps, *page),
            Change::MultiXactOffsetsPageZeroed(page) => self.zero(Slru::MultiXactOffsets, *page),
            Change::MultiXactMembersPageZeroed(page) => self.zero(Slru::MultiXactMembers, *page),
            Change::ClogTruncated { page, .. } => self.truncate(Slru::Clog, *page),
            Change::CommitTimestampsTruncated { page, .. } => {
                self.truncate(Slru::CommitTimestamps, *page);
            }
            Change::MultiXactsTruncated { offsets, members, .. } => {
                // The offsets go up to the page of the last multixact before the oldest that stays.
                let last_gone = slru::previous_multixact(offsets.1);
                self.truncate(Slru::MultiXactOffsets, slru::multixact_offset_page(last_gone));
                self.remove_members(members.0, members.1);
            }
            Change::MultiXactCreated { multi, offset, members } => {
                self.create_multixact(*multi, *offset, members);
            }
            Change::ParametersChanged(parameters) => {
                self.track_commit_timestamp = parameters.track_commit_timestamp;
                if !self.track_commit_timestamp {
                    self.slru.retain(|key, _| key.0 != Slru::CommitTimestamps);
                }
            }
            Change::RelmapUpdated { tablespace, database, bytes } => {
                self.relmaps.insert((*tablespace, *database), bytes.to_vec());
            }
            Change::DatabaseCreated { tablespace, database, source: Some(source) } => {
                if let Some(map) = self.relmaps.get(source).cloned() {
                    self.relmaps.insert((*tablespace, *database), map);
                }
            }
            Change::DatabaseDropped { database, tablespaces } => {
                for tablespace in tablespaces {
                    self.relmaps.remove(&(*tablespace, *database));
                }
            }
            Change::OriginSet { origin, remote_lsn } => {
                self.origins.insert(*origin, *remote_lsn);
            }
            Change::OriginDropped(origin) => {
                self.origins.remove(origin);
            }
            _ => {}
        }
    }

    fn end_transaction(&mut self, end: &TransactionEnd<'_>) {
        let status = if end.committed { XidStatus::Committed } else { XidStatus::Aborted };
        let xids = || end.subxids.iter().chain([&end.xid]).copied().filter(|xid| *xid != 0);
        for xid in xids() {
            let page = self.page(Slru::Clog, slru::xid_page(xid));
            slru::set_xid_status(page, xid, status);
        }
        if end.committed && self.track_commit_timestamp {
            // A replicated transaction keeps the time that it was committed at where it comes from.
            let time = end.origin.map_or(end.time, |origin| origin.time);
            let number = end.origin.map_or(0, |origin| origin.number);
            for xid in xids() {
                let page = self.page(Slru::CommitTimestamps, slru::commit_timestamp_page(xid));
                slru::set_commit_timestamp(page, xid, time, number);
            }
        }
        if end.prepared {
            self.prepared.remove(&end.xid);
        }
        if let Some(origin) = end.origin.filter(|origin| end.committed && origin.number != 0) {
            let known = self.origins.entry(origin.number).or_insert(origin.lsn);
            *known = (*known).max(origin.lsn);
        }
    }

    fn create_multixact(&mut self, multi: u32, offset: u32, members: &[(u32, u32)]) {
        let count = u32::try_from(members.len()).unwrap_or(u32::MAX);
        for (multi, offset) in [(multi, offset), slru::next_multixact(multi, offset, count)] {
            let page = self.page(Slru::MultiXactOffsets, slru::multixact_offset_page(multi));
            slru::set_multixact_offset(page, multi, offset);
        }
        let mut at = offset;
        for &(xid, status) in members {
            let page = self.page(Slru::MultiXactMembers, slru::multixact_member_page(at));
            slru::set_multixact_member(page, at, xid, status);
            at = at.wrapping_add(1);
        }
    }

    fn page(&mut self, slru: Slru, page: u32) -> &mut PageBytes {
        self.slru.entry((slru, page)).or_insert_with(|| Box::new([0; PAGE_BYTES]))
    }

    fn zero(&mut self, slru: Slru, page: u32) {
        self.page(slru, page).fill(0);
    }

    /// Removes segments that lie wholly before `page` (`SimpleLruTruncate`); numbers count in a circle.
    fn truncate(&mut self, slru: Slru, page: u32) {
        let keep = page - page % SEGMENT_PAGES;
        let pages_max = slru.pages();
        let is_gone = |first: u32| {
            let ahead = u64::from(keep) + pages_max - u64::from(first);
            let ahead = ahead % pages_max;
            ahead != 0 && ahead < pages_max / 2
        };
        self.slru.retain(|key, _| key.0 != slru || !is_gone(key.1 - key.1 % SEGMENT_PAGES));
    }

    /// Removes member segments from that of offset `from` up to that of `until`, which stays
    /// (`PerformMembersTruncation`).
    fn remove_members(&mut self, from: u32, until: u32) {
        let segment = |offset: u32| slru::multixact_member_page(offset) / SEGMENT_PAGES;
        let (from, until) = (segment(from), segment(until));
        let is_gone = |segment: u32| match from <= until {
            true => (from..until).contains(&segment),
            false => segment >= from || segment < until,
        };
        self.slru
            .retain(|key, _| key.0 != Slru::MultiXactMembers || !is_gone(key.1 / SEGMENT_PAGES));
    }
}

/// `global/pg_filenode.map`, `base/5/pg_filenode.map`, `pg_tblspc/16400/PG_15_202209061/5/pg_filenode.map`.
pub(super) fn relmap_place(path: &str) -> Option<(Oid, Oid)> {
    let parts: Vec<&str> = path.strip_suffix("/pg_filenode.map")?.split('/').collect();
    match *parts.as_slice() {
        ["global"] => Some((Oid::GLOBAL_TABLESPACE, Oid(0))),
        ["base", database] => Some((Oid::DEFAULT_TABLESPACE, Oid(database.parse().ok()?))),
        ["pg_tblspc", tablespace, _version, database] => {
            Some((Oid(tablespace.parse().ok()?), Oid(database.parse().ok()?)))
        }
        _ => None,
    }
}

/// The transaction of `pg_twophase/000002F1`; Postgres 17 writes its epoch before it.
pub(super) fn prepared_xid(path: &str) -> Option<u32> {
    let name = path.strip_prefix("pg_twophase/").filter(|name| matches!(name.len(), 8 | 16))?;
    let full = u64::from_str_radix(name, 16).ok()?;
    u32::try_from(full & u64::from(u32::MAX)).ok()
}
