//! A cluster kept up to date from its WAL alone, in memory, every record judged where it can be.
//!
//! With `wal_consistency_checking = all` the server puts, beside each record, the image of each page that the record
//! leaves. [`Replay`] redoes the record from the page's previous version and compares: Postgres itself is the judge.
//! Besides pages it follows what is no relation page, so that everything can be compared with a stopped cluster.
//!
//! It starts from a base (the files of a cold copy) or from nothing. A page that a record changes but whose earlier
//! version was never seen is taken from the record's image: it is counted as first seen, not as checked.

mod compare;
mod pages;
mod replica;

use std::collections::BTreeMap;

use crate::datadir::control::ControlFile;
use crate::datadir::relation::RelTag;
use crate::lsn::Lsn;
use crate::page::mask::{MaskOptions, PageKind, compare as compare_pages};
use crate::page::{PAGE_BYTES, PageBytes};
use crate::redo::{Fault, Outcome, redo};
use crate::state::{ApplyError, State};
use crate::wal::block::Block;
use crate::wal::record::{Record, RecordKind};

pub use compare::Comparison;
pub use pages::Pages;
pub use replica::{Replica, ReplicaError};

/// Complaints that are kept in full; all are counted.
pub const COMPLAINTS_KEPT: usize = 100;

/// What became of the blocks of one kind of record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub records: u64,
    /// Blocks that the records refer to.
    pub blocks: u64,
    /// Redone, and equal to the image beside the record.
    pub checked: u64,
    pub mismatched: u64,
    /// Restored from an image that was there to be restored.
    pub restored: u64,
    /// Redone where there was no image to compare with.
    pub unjudged: u64,
    /// Had no earlier version here: taken from the image.
    pub first_seen: u64,
    /// Cannot be redone: a kind that we do not know.
    pub unsupported: u64,
}

/// A record whose redo did not make the page that the server made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    pub lsn: Lsn,
    pub kind: RecordKind,
    pub block_id: u8,
    pub tag: RelTag,
    pub block: u32,
    /// The bytes that differ, or the error.
    pub what: String,
}

/// All pages and what has been learned.
#[derive(Debug)]
pub struct Replay {
    pub replica: Replica,
    pub tallies: BTreeMap<RecordKind, Tally>,
    /// The first [`COMPLAINTS_KEPT`].
    pub complaints: Vec<Complaint>,
    /// Whether a page that was never seen before may be taken from an image.
    has_base: bool,
}

impl Tally {
    /// Counts another record's, or another kind's.
    pub fn add(&mut self, other: &Tally) {
        let Tally { records, blocks, checked, mismatched, .. } = *other;
        let Tally { restored, unjudged, first_seen, unsupported, .. } = *other;
        self.records += records;
        self.blocks += blocks;
        self.checked += checked;
        self.mismatched += mismatched;
        self.restored += restored;
        self.unjudged += unjudged;
        self.first_seen += first_seen;
        self.unsupported += unsupported;
    }
}

impl Replay {
    /// Begins with nothing: pages count from their first image on. Hints are taken to be logged.
    #[must_use]
    pub fn from_nothing() -> Replay {
        Replay::with(Replica::new(State::unknown(), true), false)
    }

    /// Begins with the control file of a stopped cluster; its other files come with [`Replay::load`].
    #[must_use]
    pub fn from_base(control: &ControlFile) -> Replay {
        let checksums = control.checksum_version != 0;
        Replay::with(Replica::new(State::new(control), checksums), true)
    }

    const fn with(replica: Replica, has_base: bool) -> Replay {
        Replay { replica, tallies: BTreeMap::new(), complaints: Vec::new(), has_base }
    }

    /// Takes a file of the base: its path relative to the data directory, and its bytes.
    pub fn load(&mut self, path: &str, bytes: Vec<u8>) {
        self.replica.load(path, bytes);
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// When its data make no sense. What is wrong with a page is a complaint instead.
    pub fn apply(&mut self, record: &Record<'_>) -> Result<(), ApplyError> {
        let mut tally = Tally { records: 1, ..Tally::default() };
        for block in &record.blocks {
            self.apply_block(record, block, &mut tally);
        }
        let kind = RecordKind { info: record.kind_bits(), ..record.kind() };
        self.tallies.entry(kind).or_default().add(&tally);
        self.replica.apply_effects(record)
    }

    fn apply_block(&mut self, record: &Record<'_>, block: &Block<'_>, tally: &mut Tally) {
        tally.blocks += 1;
        let expected = match expected_image(block) {
            Ok(expected) => expected,
            Err(what) => {
                tally.mismatched += 1;
                self.complain(record, block, what.to_owned());
                return;
            }
        };
        let needs_earlier = !block.will_init && block.image_to_apply().is_none();
        let pages = &mut self.replica.pages;
        let unknown = pages.get_mut(block.tag, block.number).is_none();
        if needs_earlier && unknown && !self.has_base {
            match expected {
                Some(image) => {
                    tally.first_seen += 1;
                    pages.put(block.tag, block.number, &image);
                }
                None => tally.unjudged += 1,
            }
            return;
        }
        let Some(page) = pages.get_or_zero(block.tag, block.number) else { return };
        let complaint = match redo(record, block.id, page, self.replica.options) {
            Ok(Outcome::Applied) => match &expected {
                Some(image) => {
                    let differs = differ(page, image, record, block.number);
                    tally.checked += u64::from(differs.is_none());
                    differs
                }
                None if block.image_to_apply().is_some() => {
                    tally.restored += 1;
                    None
                }
                None => {
                    tally.unjudged += 1;
                    None
                }
            },
            Ok(Outcome::NotApplicable) => {
                tally.unjudged += 1;
                None
            }
            Ok(Outcome::Skipped) => Some("the page is newer than the record".to_owned()),
            Err(error) if error.fault == Fault::Unsupported => {
                tally.unsupported += 1;
                Some(error.to_string())
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(what) = complaint {
            tally.mismatched += 1;
            if let Some(image) = expected {
                // Go on from what is right, so that one fault is one complaint.
                self.replica.pages.put(block.tag, block.number, &image);
            }
            self.complain(record, block, what);
        }
    }

    fn complain(&mut self, record: &Record<'_>, block: &Block<'_>, what: String) {
        if self.complaints.len() < COMPLAINTS_KEPT {
            let (lsn, kind, block_id, tag) = (record.lsn, record.kind(), block.id, block.tag);
            self.complaints.push(Complaint { lsn, kind, block_id, tag, block: block.number, what });
        }
    }
}

/// The image beside the record, of the page that the record leaves.
fn expected_image(block: &Block<'_>) -> Result<Option<Box<PageBytes>>, &'static str> {
    let Some(image) = block.image.as_ref().filter(|image| !image.apply) else { return Ok(None) };
    let mut bytes = Box::new([0; PAGE_BYTES]);
    image.restore(&mut bytes)?;
    Ok(Some(bytes))
}

fn differ(ours: &PageBytes, image: &PageBytes, record: &Record<'_>, block: u32) -> Option<String> {
    let kind = PageKind::of_rmgr(record.rmgr());
    let found = compare_pages(Some(ours), image, kind, block, MaskOptions::POSTGRES);
    found.map(|difference| difference.to_string())
}
