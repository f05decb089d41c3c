//! The pages of `pg_xact`, `pg_multixact` and `pg_commit_ts` as of a moment: those of the base backup, and those that
//! records have changed since, which alone are in memory.

use std::collections::{BTreeMap, BTreeSet};

use pg::datadir::slru::{self, SEGMENT_PAGES, Slru, XidStatus};
use pg::page::PAGE_BYTES;

use super::base_directory::BaseDirectory;
use crate::error::PageError;
use crate::page_cache::Page;

/// Commit timestamps of one page: 10 bytes each (`SizeOfCommitTimestampEntry`).
const TIMESTAMPS_PER_PAGE: u32 = 819;

/// Which pages there are, and the changed ones.
#[derive(Debug, Default)]
pub struct TransactionLogs {
    present: BTreeSet<(Slru, u32)>,
    changed: BTreeMap<(Slru, u32), Box<Page>>,
}

impl TransactionLogs {
    pub fn of_base(base: &BaseDirectory) -> TransactionLogs {
        let mut logs = TransactionLogs::default();
        for &(log, first, pages) in &base.logs {
            logs.present.extend((first..first.saturating_add(pages)).map(|page| (log, page)));
        }
        logs
    }

    pub fn has(&self, log: Slru, page: u32) -> bool {
        self.present.contains(&(log, page))
    }

    /// First pages of all segments of a log.
    pub fn segments(&self, log: Slru) -> Vec<u32> {
        let pages = self.present.range((log, 0)..=(log, u32::MAX));
        let mut firsts: Vec<u32> = pages.map(|(_, page)| page - page % SEGMENT_PAGES).collect();
        firsts.dedup();
        firsts
    }

    /// A segment's bytes: up to its last page, pages that are not there between as zeroes.
    pub async fn segment(
        &self,
        base: &BaseDirectory,
        log: Slru,
        first: u32,
    ) -> Result<Vec<u8>, PageError> {
        let last = first.saturating_add(SEGMENT_PAGES - 1);
        let pages: Vec<u32> =
            self.present.range((log, first)..=(log, last)).map(|(_, page)| *page).collect();
        let in_base = base.logs.iter().any(|segment| (segment.0, segment.1) == (log, first));
        let untouched = pages.iter().any(|&page| !self.changed.contains_key(&(log, page)));
        let mut bytes = match in_base && untouched {
            true => base.read(&log.path(first)).await?,
            false => Vec::new(),
        };
        let count = pages.last().map_or(0, |page| (page - first + 1) as usize);
        bytes.resize(count * PAGE_BYTES, 0);
        for ((_, page), changed) in self.changed.range((log, first)..=(log, last)) {
            let at = (page - first) as usize * PAGE_BYTES;
            if let Some(place) = bytes.get_mut(at..at + PAGE_BYTES) {
                place.copy_from_slice(&changed[..]);
            }
        }
        Ok(bytes)
    }

    pub(super) fn zero(&mut self, log: Slru, page: u32) {
        self.present.insert((log, page));
        self.changed.insert((log, page), Box::new([0; PAGE_BYTES]));
    }

    /// Writes transactions' states.
    pub(super) async fn end_transactions(
        &mut self,
        base: &BaseDirectory,
        xids: &[u32],
        status: XidStatus,
    ) -> Result<(), PageError> {
        for &xid in xids {
            let page = self.page(base, Slru::Clog, slru::xid_page(xid)).await?;
            slru::set_xid_status(page, xid, status);
        }
        Ok(())
    }

    /// Writes transactions' commit timestamps: microseconds since 2000, and the origin.
    pub(super) async fn set_timestamps(
        &mut self,
        base: &BaseDirectory,
        xids: &[u32],
        time: i64,
        origin: u16,
    ) -> Result<(), PageError> {
        for &xid in xids {
            let page = self.page(base, Slru::CommitTimestamps, xid / TIMESTAMPS_PER_PAGE).await?;
            let at = (xid % TIMESTAMPS_PER_PAGE) as usize * 10;
            page[at..at + 8].copy_from_slice(&time.to_le_bytes());
            page[at + 8..at + 10].copy_from_slice(&origin.to_le_bytes());
        }
        Ok(())
    }

    /// Writes a multixact, and where the next one's members begin.
    pub(super) async fn create_multixact(
        &mut self,
        base: &BaseDirectory,
        multi: u32,
        offset: u32,
        members: &[(u32, u32)],
    ) -> Result<(u32, u32), PageError> {
        let count = u32::try_from(members.len()).unwrap_or(u32::MAX);
        let next = slru::next_multixact(multi, offset, count);
        for (multi, offset) in [(multi, offset), next] {
            let number = slru::multixact_offset_page(multi);
            let page = self.page(base, Slru::MultiXactOffsets, number).await?;
            slru::set_multixact_offset(page, multi, offset);
        }
        let mut at = offset;
        for &(xid, status) in members {
            let number = slru::multixact_member_page(at);
            let page = self.page(base, Slru::MultiXactMembers, number).await?;
            slru::set_multixact_member(page, at, xid, status);
            at = at.wrapping_add(1);
        }
        Ok(next)
    }

    /// Removes whole segments whose pages all fulfil the condition.
    pub(super) fn truncate(&mut self, log: Slru, is_gone: impl Fn(u32) -> bool) {
        for first in self.segments(log) {
            let last = first.saturating_add(SEGMENT_PAGES - 1);
            if is_gone(first) && is_gone(last) {
                let pages: Vec<_> =
                    self.present.range((log, first)..=(log, last)).copied().collect();
                for page in pages {
                    self.present.remove(&page);
                    self.changed.remove(&page);
                }
            }
        }
    }

    /// A page to be changed; one that is not there is made, of zeroes.
    async fn page(
        &mut self,
        base: &BaseDirectory,
        log: Slru,
        number: u32,
    ) -> Result<&mut Page, PageError> {
        let key = (log, number);
        if !self.changed.contains_key(&key) {
            let mut page = Box::new([0; PAGE_BYTES]);
            if self.present.contains(&key) {
                let segment = base.read(&log.path(number)).await?;
                let at = (number % SEGMENT_PAGES) as usize * PAGE_BYTES;
                if let Some(bytes) = segment.get(at..at + PAGE_BYTES) {
                    page.copy_from_slice(bytes);
                }
            }
            self.present.insert(key);
            self.changed.insert(key, page);
        }
        Ok(self.changed.get_mut(&key).expect("it was put there just now"))
    }
}
