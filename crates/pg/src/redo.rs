//! What a record does: to pages (one file per resource manager) and besides (`effects`).
//!
//! Every routine changes one page from the record and that page alone: nothing else is read. So the pages
//! of a record may be rebuilt one at a time, in any order, on any core.

pub mod effects;
pub mod visibility;

mod brin;
mod btree;
mod generic;
mod gin;
mod gist;
mod hash;
mod heap;
mod heap2;
mod sequence;
mod spgist;

use std::fmt;

use crate::datadir::relation::RelTag;
use crate::lsn::Lsn;
use crate::page::header::{is_new, lsn};
use crate::page::{Page, PageBytes, PageError};
use crate::wal::block::Block;
use crate::wal::cursor::Cursor;
use crate::wal::record::{Record, RecordKind};
use crate::wal::rmgr::Rmgr;

/// What became of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It now is as the record left it.
    Applied,
    /// It already contains this change: its LSN is not before the record's end.
    Skipped,
    /// This kind of record changes nothing on the page.
    NotApplicable,
}

/// What redo must know of the server that wrote the WAL.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Hint bits are logged (checksums or `wal_log_hints`): then, setting a page all-visible moves its LSN.
    pub hints_logged: bool,
}

/// Why a page could not be changed; it may be half changed and must be thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedoError {
    /// Where the record begins.
    pub lsn: Lsn,
    pub kind: RecordKind,
    pub tag: RelTag,
    pub block: u32,
    pub fault: Fault,
}

/// The reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// We cannot redo this kind of record.
    Unsupported,
    /// The record needs an earlier version of the page, but the page is empty.
    NoPage,
    /// The page is not what the record expects.
    Page(&'static str),
    /// The record's own data make no sense.
    Record(&'static str),
}

impl From<PageError> for Fault {
    fn from(error: PageError) -> Fault {
        Fault::Page(error.0)
    }
}

/// One record about to change one page.
struct Step<'r, 'd, 'p> {
    record: &'r Record<'d>,
    block: &'r Block<'d>,
    page: Page<'p>,
    options: Options,
}

/// What a routine says to the dispatcher.
enum Done {
    /// The page's LSN moves to the record's end.
    Changed,
    /// The routine has seen to the LSN itself.
    ChangedWithoutLsn,
    Unchanged,
}

/// Applies the record to the block it refers to with `block_id`; `page` is its version before the record
/// (all zeros if it has none).
pub fn redo(
    record: &Record<'_>,
    block_id: u8,
    page: &mut PageBytes,
    options: Options,
) -> Result<Outcome, RedoError> {
    let Some(block) = record.block(block_id) else { return Ok(Outcome::NotApplicable) };
    let end = record.end_lsn;
    let error = |fault| RedoError {
        lsn: record.lsn,
        kind: record.kind(),
        tag: block.tag,
        block: block.number,
        fault,
    };
    if let Some(image) = block.image_to_apply() {
        image.restore(page).map_err(|what| error(Fault::Record(what)))?;
        if !is_new(page) {
            Page::new(page).set_lsn(end); // an empty page must stay all zeros
        }
        if !adds_to_image(record, block_id) {
            return Ok(Outcome::Applied);
        }
    }
    if block.will_init {
        page.fill(0);
    } else if end <= lsn(page) && block.image_to_apply().is_none() {
        return Ok(Outcome::Skipped);
    }
    let mut step = Step { record, block, page: Page::new(page), options };
    match step.run().map_err(error)? {
        Done::Changed => step.page.set_lsn(end),
        Done::ChangedWithoutLsn => {}
        Done::Unchanged => return Ok(Outcome::NotApplicable),
    }
    Ok(Outcome::Applied)
}

/// Whether redo goes on after the image was restored: these images were taken before the change was whole.
fn adds_to_image(record: &Record<'_>, id: u8) -> bool {
    match record.rmgr() {
        Rmgr::HASH => hash::adds_to_image(record.kind_bits(), id),
        Rmgr::GIST => gist::adds_to_image(record.kind_bits(), id),
        _ => false,
    }
}

impl<'d> Step<'_, 'd, '_> {
    fn run(&mut self) -> Result<Done, Fault> {
        match self.record.rmgr() {
            Rmgr::HEAP => heap::redo(self),
            Rmgr::HEAP2 => heap2::redo(self),
            Rmgr::BTREE => btree::redo(self),
            Rmgr::HASH => hash::redo(self),
            Rmgr::GIN => gin::redo(self),
            Rmgr::GIST => gist::redo(self),
            Rmgr::SPGIST => spgist::redo(self),
            Rmgr::BRIN => brin::redo(self),
            Rmgr::SEQUENCE => sequence::redo(self),
            Rmgr::GENERIC => generic::redo(self),
            // An image that was left out: `FPI_FOR_HINT` when the page had been logged already.
            Rmgr::XLOG if self.record.kind_bits() == 0xA0 => Ok(Done::Unchanged),
            _ => Err(Fault::Unsupported),
        }
    }

    /// Refuses a page that was never written, where the record adds to an existing one.
    fn existing_page(&mut self) -> Result<&mut Self, Fault> {
        if self.page.is_new() { Err(Fault::NoPage) } else { Ok(self) }
    }

    const fn main_data(&self) -> Cursor<'d> {
        Cursor::new(self.record.main_data)
    }

    fn kind(&self) -> u8 {
        self.record.kind_bits()
    }
}

/// A field of the record that must be there.
fn field<T>(value: Option<T>) -> Result<T, Fault> {
    value.ok_or(Fault::Record("data too short"))
}

impl fmt::Display for RedoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RedoError { lsn, kind, tag, block, fault } = self;
        match fault {
            Fault::Unsupported => write!(f, "redo of {kind} is not supported")?,
            Fault::NoPage => write!(f, "redo of {kind} needs a page that is empty")?,
            Fault::Page(what) => write!(f, "redo of {kind} does not fit the page: {what}")?,
            Fault::Record(what) => write!(f, "invalid {kind} record: {what}")?,
        }
        write!(f, ", at {lsn}, relation {tag} block {block}")
    }
}

impl std::error::Error for RedoError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::record::{RECORD_HEADER_BYTES, RawRecord};
    use crate::wal::segment::WalVersion;

    /// A record of version 15 by a resource manager of an extension's, about block 7: with bytes of its own, or with the page.
    fn custom(has_image: bool) -> Vec<u8> {
        let mut bytes = vec![0; RECORD_HEADER_BYTES];
        bytes[16..18].copy_from_slice(&[0x20, 129]);
        if has_image {
            // Whole, and to be applied.
            bytes.extend([0, 0x10, 0, 0, 0, 0x20, 0, 0, 2]);
        } else {
            bytes.extend([0, 0x20, 5, 0]);
        }
        [1663_u32, 5, 16384, 7].iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        let content = if has_image { vec![0x77; 8192] } else { b"bytes".to_vec() };
        bytes.extend(content);
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes
    }

    fn redone(bytes: &[u8]) -> (Result<Outcome, RedoError>, Box<PageBytes>) {
        let raw = RawRecord::new(bytes, Lsn(40), Lsn(80), WalVersion::V15).unwrap();
        let mut page = Box::new([0; 8192]);
        let outcome = redo(&raw.decode().unwrap(), 0, &mut page, Options::default());
        (outcome, page)
    }

    #[test]
    fn what_an_extension_does_to_a_page_is_refused_by_name_and_its_images_are_taken() {
        let (refused, page) = redone(&custom(false));
        let said = refused.unwrap_err().to_string();
        assert!(
            said.starts_with("redo of custom129/UNKNOWN (20) is not supported, at 0/28"),
            "{said}"
        );
        assert!(said.ends_with("block 7"), "{said}");
        assert!(page.iter().all(|byte| *byte == 0), "nothing is guessed");
        let (taken, page) = redone(&custom(true));
        assert_eq!(taken, Ok(Outcome::Applied));
        assert_eq!((lsn(&page), page[8191]), (Lsn(80), 0x77));
    }
}
