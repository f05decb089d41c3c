//! GetPage@LSN: the newest whole page at or below the LSN, then redo of the records after it, in order.
//!
//! Invariant: what is returned is the page as Postgres had it as of the LSN (hint bits aside), or an error. A
//! page half rebuilt never leaves this file.

use std::rc::Rc;

use pg::datadir::relation::{Fork, RelTag};
use pg::datadir::slru::{self, XidStatus};
use pg::lsn::Lsn;
use pg::page::header::is_new;
use pg::page::{checksum, vm};
use pg::redo::effects::{Change, effects};
use pg::redo::visibility::implied_vm_clears;
use pg::redo::{self, Fault};
use pg::wal::reader::StreamDecoder;
use pg::wal::record::Record;
use runtime::executor;

use crate::error::PageError;
use crate::history::Origin;
use crate::index::{Base, Effect, Position, Recipe};
use crate::limits::{CLONE_DEPTH_MAX, PAGE_BYTES, REDO_RECORDS_AT_ONCE};
use crate::page_cache::Page;
use crate::timeline::Timeline;

impl Timeline {
    /// A block as of `lsn`, which [`Timeline::lsn_for`] has approved.
    pub async fn page(&self, tag: RelTag, block: u32, lsn: Lsn) -> Result<Rc<Page>, PageError> {
        let blocks = self.blocks(tag, lsn)?;
        if block >= blocks {
            return Err(PageError::BeyondEnd { tag, block, blocks, lsn });
        }
        Build { timeline: self, tag, block }.run(lsn, CLONE_DEPTH_MAX).await
    }

    /// A page of `pg_xact` as of `lsn`; `None` if there is none.
    pub async fn transactions(&self, page: u32, lsn: Lsn) -> Result<Option<Box<Page>>, PageError> {
        let name = || format!("page {page} of pg_xact");
        let records = self.index.borrow().transaction_records(page, lsn);
        let failed =
            |error: std::io::Error| PageError::Io { page: name(), what: error.to_string() };
        let mut built = match records.first() {
            Some(Position { effect: Effect::Initial, .. }) => Some(zeroes()),
            _ => self.base.transactions(page).await.map_err(failed)?,
        };
        for position in records {
            let wal = self.wal.read(position.start, position.end()).await.map_err(failed)?;
            let damaged = |what: String| PageError::Damaged { page: name(), what };
            with_record(self, position, &wal, |record| {
                let changes = effects(record).map_err(|error| error.to_string())?;
                let built = built.get_or_insert_with(zeroes);
                changes.iter().for_each(|change| apply_to_transactions(change, page, built));
                Ok(())
            })
            .map_err(damaged)?;
        }
        Ok(built)
    }
}

fn zeroes() -> Box<Page> {
    Box::new([0; PAGE_BYTES])
}

fn apply_to_transactions(change: &Change<'_>, page: u32, built: &mut Page) {
    match change {
        Change::ClogPageZeroed(zeroed) if *zeroed == page => built.fill(0),
        Change::TransactionEnded(end) => {
            let status = if end.committed { XidStatus::Committed } else { XidStatus::Aborted };
            for &xid in std::iter::once(&end.xid).chain(&end.subxids) {
                if slru::xid_page(xid) == page {
                    slru::set_xid_status(built, xid, status);
                }
            }
        }
        _ => {}
    }
}

/// Reads the record at a position from its bytes of WAL and hands it to `then`.
fn with_record<T>(
    timeline: &Timeline,
    position: Position,
    wal: &[u8],
    then: impl FnOnce(&Record<'_>) -> Result<T, String>,
) -> Result<T, String> {
    let manifest = &timeline.manifest;
    let mut decoder = StreamDecoder::at_record(position.start, manifest.wal_segment_bytes)
        .assume_version(manifest.wal_version());
    let mut input = wal;
    let raw = match decoder.next(&mut input) {
        Ok(Some(raw)) if raw.lsn == position.start && raw.end_lsn == position.end() => raw,
        Ok(_) => return Err(format!("the record at {} is not there any more", position.start)),
        Err(error) => return Err(error.to_string()),
    };
    then(&raw.decode().map_err(|error| error.to_string())?)
}

/// One block being rebuilt.
#[derive(Clone, Copy)]
struct Build<'t> {
    timeline: &'t Timeline,
    tag: RelTag,
    block: u32,
}

impl Build<'_> {
    async fn run(self, lsn: Lsn, depth: u32) -> Result<Rc<Page>, PageError> {
        let cached = self.timeline.pages.borrow_mut().get(self.tag, self.block, lsn);
        let known = cached.as_ref().map(|(_, as_of)| *as_of);
        let recipe = self.timeline.index.borrow().recipe(self.tag, self.block, lsn, known);
        let mut page = match (recipe.base, cached) {
            (Base::Known, Some((page, _))) if recipe.records.is_empty() => return Ok(page),
            (Base::Known, Some((page, _))) => Box::new(*page),
            (Base::Origin(origin), _) => self.origin(origin, &recipe, depth).await?,
            (Base::Known, None) => zeroes(),
        };
        for (count, position) in recipe.records.iter().enumerate() {
            if count % REDO_RECORDS_AT_ONCE == REDO_RECORDS_AT_ONCE - 1 {
                executor::yield_now().await;
            }
            self.apply(*position, &mut page).await?;
        }
        if self.timeline.manifest.data_checksums && !is_new(&page) {
            let sum = checksum::checksum(&page, self.block);
            pg::page::Page::new(&mut page).set_checksum(sum);
        }
        let page: Rc<Page> = page.into();
        if recipe.as_of.is_valid() {
            let mut pages = self.timeline.pages.borrow_mut();
            pages.put(self.tag, self.block, recipe.as_of, Rc::clone(&page));
        }
        Ok(page)
    }

    /// The page before the first record of the recipe.
    async fn origin(
        self,
        origin: Origin,
        recipe: &Recipe,
        depth: u32,
    ) -> Result<Box<Page>, PageError> {
        if matches!(recipe.records.first(), Some(Position { effect: Effect::Initial, .. })) {
            return Ok(zeroes());
        }
        match origin {
            Origin::Base { blocks } if self.block < blocks => {
                let copied = self.timeline.base.block(self.tag, self.block).await?;
                copied.ok_or_else(|| {
                    self.damaged("its file in the base backup is too short".to_owned())
                })
            }
            Origin::Copy(source, at) => {
                let index_blocks = self.timeline.index.borrow().blocks_at(source, at);
                if index_blocks.is_none_or(|blocks| self.block >= blocks) {
                    return Ok(zeroes());
                }
                let Some(depth) = depth.checked_sub(1) else {
                    return Err(self.damaged("too many copies of copies of databases".to_owned()));
                };
                let source = Build { tag: source, ..self };
                Ok(Box::new(*Box::pin(source.run(at, depth)).await?))
            }
            Origin::Base { .. } | Origin::Zero(_) => Ok(zeroes()),
        }
    }

    async fn apply(self, position: Position, page: &mut Page) -> Result<(), PageError> {
        let read = self.timeline.wal.read(position.start, position.end()).await;
        let wal =
            read.map_err(|error| PageError::Io { page: self.name(), what: error.to_string() })?;
        let hints_logged = self.timeline.hints_logged(position.end());
        let mut unsupported = None;
        let done = with_record(self.timeline, position, &wal, |record| {
            if position.effect == Effect::Implied {
                return self.apply_implied(record, page);
            }
            let options = redo::Options { hints_logged };
            match redo::redo(record, position.block_id, page, options) {
                Ok(_outcome) => Ok(()),
                Err(error) => {
                    if error.fault == Fault::Unsupported {
                        unsupported = Some(record.kind().to_string());
                    }
                    Err(error.to_string())
                }
            }
        });
        match (done, unsupported) {
            (Ok(()), _) => Ok(()),
            (Err(why), Some(record)) => {
                let lsn = position.start;
                Err(PageError::Unsupported { page: self.name(), lsn, record, why })
            }
            (Err(what), None) => Err(self.damaged(what)),
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
