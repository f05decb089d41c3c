//! Pages of `pg_xact`: what records do to them.

use pg::datadir::slru::{self, XidStatus};
use pg::redo::effects::{Change, TransactionEnd, effects};
use pg::wal::error::WalError;
use pg::wal::record::Record;

use crate::page_cache::Page;

/// The pages on which a transaction and its subtransactions have their status.
pub fn pages(ended: &TransactionEnd<'_>) -> Vec<u32> {
    let xids = std::iter::once(&ended.xid).chain(&ended.subxids);
    let mut pages: Vec<u32> = xids.map(|&xid| slru::xid_page(xid)).collect();
    pages.sort_unstable();
    pages.dedup();
    pages
}

/// Brings one page up to a record.
pub fn apply(record: &Record<'_>, number: u32, page: &mut Page) -> Result<(), WalError> {
    for change in effects(record)? {
        match change {
            Change::ClogPageZeroed(zeroed) if zeroed == number => page.fill(0),
            Change::TransactionEnded(ended) => end(&ended, number, page),
            _ => {}
        }
    }
    Ok(())
}

fn end(ended: &TransactionEnd<'_>, number: u32, page: &mut Page) {
    let status = if ended.committed { XidStatus::Committed } else { XidStatus::Aborted };
    for &xid in std::iter::once(&ended.xid).chain(&ended.subxids) {
        if slru::xid_page(xid) == number {
            slru::set_xid_status(page, xid, status);
        }
    }
}
