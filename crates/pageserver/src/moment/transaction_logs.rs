//! The pages of `pg_xact`, `pg_multixact` and `pg_commit_ts` as of a moment, segment by segment.

use std::rc::Rc;

use pg::datadir::slru::Slru;
use pg::lsn::Lsn;
use pg::page::PAGE_BYTES;
use pg::state::Key;

use crate::error::PageError;
use crate::state::directory::Directory;
use crate::timeline::Timeline;

/// Which pages there are, and where they are read.
pub struct TransactionLogs {
    pub(super) timeline: Rc<Timeline>,
    pub(super) lsn: Lsn,
    pub(super) directory: Directory,
}

impl TransactionLogs {
    pub async fn as_of(timeline: &Rc<Timeline>, lsn: Lsn) -> Result<TransactionLogs, PageError> {
        let directory = timeline.snapshot_at(lsn).await?.directory;
        Ok(TransactionLogs { timeline: Rc::clone(timeline), lsn, directory })
    }

    pub fn has(&self, log: Slru, page: u32) -> bool {
        self.directory.has(Key::Slru(log, page))
    }

    /// First pages of all segments of a log.
    pub fn segments(&self, log: Slru) -> Vec<u32> {
        self.directory.segments(log)
    }

    /// A segment's bytes: up to its last page, pages that are not there between as zeroes. Empty if there is none.
    pub async fn segment(&self, log: Slru, first: u32) -> Result<Vec<u8>, PageError> {
        let pages = self.directory.pages(log, first);
        let mut bytes = Vec::new();
        for page in pages {
            bytes.resize((page - first) as usize * PAGE_BYTES, 0);
            let key = Key::Slru(log, page);
            let mut value = self.timeline.value(key, self.lsn).await?;
            if value.len() != PAGE_BYTES {
                let what = format!("it has {} bytes", value.len());
                return Err(PageError::Damaged { page: key.to_string(), what });
            }
            bytes.append(&mut value);
        }
        Ok(bytes)
    }
}
