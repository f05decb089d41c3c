//! GetPage@LSN: the newest whole version at or below the LSN, then redo of the records after it, in order.
//!
//! Where a version comes from does not matter here: see [`crate::versions`].
//! Invariant: what is returned is the page as Postgres had it as of the LSN (hint bits aside), or an error. A
//! page half rebuilt never leaves this file.

use std::rc::Rc;

use pg::datadir::relation::{Fork, RelTag};
use pg::datadir::slru::Slru;
use pg::lsn::Lsn;
use pg::page::header::is_new;
use pg::page::{checksum, vm};
use pg::redo::effects::{Change, effects};
use pg::redo::visibility::implied_vm_clears;
use pg::redo::{self, Fault};
use pg::state::Key;
use pg::wal::record::Record;
use runtime::executor;

use crate::error::PageError;
use crate::history::Origin;
use crate::index::{Effect, Position};
use crate::keys;
use crate::limits::{CLONE_DEPTH_MAX, PAGE_BYTES, REDO_RECORDS_AT_ONCE};
use crate::page_cache::Page;
use crate::payload::Payload;
use crate::timeline::Timeline;
use crate::versions::Version;

impl Timeline {
    /// A block as of `lsn`, which [`Timeline::lsn_for`] has approved.
    pub async fn page(&self, tag: RelTag, block: u32, lsn: Lsn) -> Result<Rc<Page>, PageError> {
        let blocks = self.blocks(tag, lsn)?;
        if block >= blocks {
            return Err(PageError::BeyondEnd { tag, block, blocks, lsn });
        }
        let page = Build { timeline: self, tag, block }.run(lsn, CLONE_DEPTH_MAX).await;
        // Whatever came of it, if some of it was removed meanwhile it means nothing.
        self.check_kept(lsn)?;
        page
    }

    /// A page of `pg_xact` as of `lsn`; `None` if there is none.
    pub async fn transactions(&self, page: u32, lsn: Lsn) -> Result<Option<Box<Page>>, PageError> {
        let key = Key::Slru(Slru::Clog, page);
        if !self.snapshot_at(lsn).await?.directory.has(key) {
            return Ok(None);
        }
        Ok(Some(page_of(&self.value(key, lsn).await?)))
    }
}

fn zeroes() -> Box<Page> {
    Box::new([0; PAGE_BYTES])
}

/// An image as stored: zeroes at its end are left out.
fn page_of(image: &[u8]) -> Box<Page> {
    let mut page = zeroes();
    page[..image.len()].copy_from_slice(image);
    page
}

/// Bytes that should be in a file of ours and are not right, or could not be read.
fn failure(page: String, error: &std::io::Error) -> PageError {
    let what = error.to_string();
    match error.kind() {
        std::io::ErrorKind::InvalidData => PageError::Damaged { page, what },
        _ => PageError::Io { page, what },
    }
}

/// One block being rebuilt.
#[derive(Clone, Copy)]
pub(crate) struct Build<'t> {
    pub(crate) timeline: &'t Timeline,
    pub(crate) tag: RelTag,
    pub(crate) block: u32,
}

impl Build<'_> {
    async fn run(self, lsn: Lsn, depth: u32) -> Result<Rc<Page>, PageError> {
        let (origin, born) = self.origin_at(lsn);
        // A version at hand is of use if the block was not cut off and made anew since.
        let cached = self.timeline.pages.borrow_mut().get(self.tag, self.block, lsn);
        let cached = cached.filter(|(_, as_of)| *as_of > born);
        let after = cached.as_ref().map_or(born, |(_, as_of)| *as_of);
        let key = keys::block(self.tag, self.block);
        let versions = self.timeline.versions(key, after, lsn).await;
        let versions = versions.map_err(|error| failure(self.name(), &error))?;
        let mut page = match cached {
            Some((page, _)) if versions.is_empty() => return Ok(page),
            _ if versions.first().is_some_and(|first| first.whole) => zeroes(),
            Some((page, _)) => Box::new(*page),
            None => self.origin(origin, depth).await?,
        };
        self.redo_all(&versions, &mut page).await?;
        let page: Rc<Page> = page.into();
        // What was read of an old moment while the horizon passed it may be anything.
        if let Some(newest) = versions.last()
            && self.timeline.check_kept(lsn).is_ok()
        {
            let mut pages = self.timeline.pages.borrow_mut();
            pages.put(self.tag, self.block, newest.lsn, Rc::clone(&page));
        }
        Ok(page)
    }

    /// Brings the page up to the last of its versions.
    async fn redo_all(self, versions: &[Version], page: &mut Box<Page>) -> Result<(), PageError> {
        for (count, version) in versions.iter().enumerate() {
            if count % REDO_RECORDS_AT_ONCE == REDO_RECORDS_AT_ONCE - 1 {
                executor::yield_now().await;
            }
            self.apply(version, page).await?;
        }
        if self.timeline.manifest.data_checksums && !is_new(page) {
            let sum = checksum::checksum(page, self.block);
            pg::page::Page::new(page).set_checksum(sum);
        }
        Ok(())
    }

    /// The page as of the last of some of its versions, which are those of one timeline since the block was `born`; what
    /// came before them is its ancestor's, or where the block comes from.
    pub(crate) async fn of_versions(
        self,
        versions: &[Version],
        (origin, born): (Origin, Lsn),
    ) -> Result<Box<Page>, PageError> {
        let mut page = match &self.timeline.ancestor {
            _ if versions.first().is_some_and(|first| first.whole) => zeroes(),
            Some((ancestor, left)) if *left > born => {
                let before = Build { timeline: ancestor, ..self };
                Box::new(*Box::pin(before.run(*left, CLONE_DEPTH_MAX)).await?)
            }
            _ => self.origin(origin, CLONE_DEPTH_MAX).await?,
        };
        self.redo_all(versions, &mut page).await?;
        Ok(page)
    }

    /// Where the content of the block as of `lsn` begins, and after which LSN records count.
    pub(crate) fn origin_at(self, lsn: Lsn) -> (Origin, Lsn) {
        let origin = self.timeline.catalog.borrow().origin(self.tag, self.block, lsn);
        match origin {
            Origin::Base { .. } => (origin, Lsn::INVALID),
            Origin::Zero(at) | Origin::Copy(_, at) => (origin, at),
        }
    }

    /// The page before its first version of its own.
    async fn origin(self, origin: Origin, depth: u32) -> Result<Box<Page>, PageError> {
        let Origin::Copy(source, at) = origin else {
            if matches!(origin, Origin::Base { blocks } if self.block < blocks) {
                return Err(self.damaged("its copy in the base backup is missing".to_owned()));
            }
            return Ok(zeroes());
        };
        let source_blocks = self.timeline.catalog.borrow().blocks_at(source, at);
        if source_blocks.is_none_or(|blocks| self.block >= blocks) {
            return Ok(zeroes());
        }
        let Some(depth) = depth.checked_sub(1) else {
            return Err(self.damaged("too many copies of copies of databases".to_owned()));
        };
        let source = Build { tag: source, ..self };
        Ok(Box::new(*Box::pin(source.run(at, depth)).await?))
    }

    async fn apply(self, version: &Version, page: &mut Box<Page>) -> Result<(), PageError> {
        let read = self.timeline.payload(version).await;
        let bytes = read.map_err(|error| failure(self.name(), &error))?;
        match Payload::read(&bytes, version.lsn).map_err(|what| self.damaged(what))? {
            Payload::Image { bytes, copied } => {
                *page = page_of(bytes);
                if copied && !self.has_valid_checksum(page) {
                    let what = "its copy in the base backup does not match its checksum";
                    return Err(self.damaged(what.to_owned()));
                }
                Ok(())
            }
            Payload::Record { position, record } => {
                let decoded = record.decode();
                let record = decoded.map_err(|error| self.damaged(error.to_string()))?;
                self.redo(position, &record, page)
            }
            Payload::Value(_) | Payload::Xid { .. } => {
                Err(self.damaged("another kind is stored".to_owned()))
            }
        }
    }

    fn redo(
        self,
        position: Position,
        record: &Record<'_>,
        page: &mut Page,
    ) -> Result<(), PageError> {
        if position.effect == Effect::Implied {
            return self.apply_implied(record, page).map_err(|what| self.damaged(what));
        }
        let hints_logged = self.timeline.catalog.borrow().hints_logged(position.end());
        match redo::redo(record, position.block_id, page, redo::Options { hints_logged }) {
            Ok(_outcome) => Ok(()),
            Err(error) if error.fault == Fault::Unsupported => Err(PageError::Unsupported {
                page: self.name(),
                lsn: position.start,
                record: record.kind().to_string(),
                why: error.to_string(),
            }),
            Err(error) => Err(self.damaged(error.to_string())),
        }
    }

    /// What a record does to this visibility-map page without naming it.
    fn apply_implied(self, record: &Record<'_>, page: &mut Page) -> Result<(), String> {
        let node = self.tag.node();
        for cleared in implied_vm_clears(record) {
            if cleared.node == node && vm::map_block(cleared.heap_block) == self.block {
                vm::clear(page, cleared.heap_block, cleared.bits);
            }
        }
        for change in effects(record).map_err(|error| error.to_string())? {
            if let Change::RelationTruncated { node: cut, blocks, vm: true, .. } = change
                && cut == node
                && vm::map_block(blocks) == self.block
            {
                vm::clear_from(page, blocks);
            }
        }
        Ok(())
    }

    /// An empty page has none.
    fn has_valid_checksum(self, page: &Page) -> bool {
        let told = u16::from_le_bytes([page[8], page[9]]);
        !self.timeline.manifest.data_checksums
            || is_new(page)
            || told == checksum::checksum(page, self.block)
    }

    fn name(self) -> String {
        match self.tag.fork {
            Fork::Main => format!("block {} of relation {}", self.block, self.tag.node()),
            fork => format!("block {} of fork {fork} of relation {}", self.block, self.tag.node()),
        }
    }

    fn damaged(self, what: String) -> PageError {
        PageError::Damaged { page: self.name(), what }
    }
}
