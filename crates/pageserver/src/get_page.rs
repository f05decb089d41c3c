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
use crate::page_cache::{Cached, Page};
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
        let cached = cached.filter(|cached| cached.as_of > born);
        let after = match &cached {
            Some(cached) if cached.unchanged_to >= lsn => return Ok(Rc::clone(&cached.page)),
            Some(cached) => cached.unchanged_to,
            None => born,
        };
        // Where not all is here yet, there may be more of it later.
        let is_all_here = self.timeline.has_all_up_to(lsn);
        let key = keys::block(self.tag, self.block);
        let versions = self.timeline.versions(key, after, lsn).await;
        let versions = versions.map_err(|error| failure(self.name(), &error))?;
        let (page, as_of) = match cached {
            Some(cached) if versions.is_empty() => (cached.page, Some(cached.as_of)),
            cached => {
                let mut page = match cached {
                    _ if versions.first().is_some_and(|first| first.whole) => zeroes(),
                    Some(cached) => Box::new(*cached.page),
                    None => self.origin(origin, depth).await?,
                };
                self.redo_all(&versions, &mut page).await?;
                (page.into(), versions.last().map(|newest| newest.lsn))
            }
        };
        // What was read of an old moment while the horizon passed it may be anything.
        if let Some(as_of) = as_of.filter(|_| self.timeline.check_kept(lsn).is_ok()) {
            let unchanged_to = if is_all_here { lsn } else { as_of };
            let cached = Cached { page: Rc::clone(&page), as_of, unchanged_to };
            self.timeline.pages.borrow_mut().put(self.tag, self.block, cached);
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use pg::datadir::relation::RelNode;
    use runtime::fs;
    use runtime::io::{Backend, Options};
    use storage::entry::Entry;
    use storage::store::{Commit, TimelineStore};
    use storage::version::Version;

    use super::*;
    use crate::catalog::Catalog;
    use crate::manifest::Manifest;
    use crate::payload;
    use crate::settings::Settings;

    const TAG: RelTag = RelNode::new(1663, 5, 16384).fork(Fork::Main);
    const START: Lsn = Lsn(1 << 24);

    /// A layer with one version of two blocks of a relation of three.
    async fn add_layer(store: &TimelineStore, versions: [(u32, Lsn); 2], byte: u8) {
        let mut layer = store.begin_layer().await.expect("begun");
        for (block, at) in versions {
            let image = payload::image(&[byte; PAGE_BYTES]);
            let (key, version) = (keys::block(TAG, block), Version(at.0));
            let entry = Entry { key, version, whole: true, payload: &image };
            layer.add(entry).await.expect("added");
        }
        let layers = layer.finish().await.expect("finished").into_iter().collect();
        let mut catalog = Catalog::default();
        catalog.add_base(TAG, 3);
        let catalog = Some(catalog.to_bytes(Lsn::MAX));
        let flushed_through = Some(Version(versions[1].1.0));
        store.commit(Commit { layers, flushed_through, catalog }).await.expect("committed");
    }

    async fn timeline() -> Timeline {
        let directory = Path::new("/ps");
        let layers = directory.join("timelines/main");
        fs::create_dir_all(&layers).await.expect("made");
        let store = TimelineStore::create(&layers).await.expect("created");
        add_layer(&store, [(0, START), (2, START)], 1).await;
        // Whoever looks for versions of the last block up to 500 has to look into this one.
        add_layer(&store, [(0, START + 400), (2, START + 1000)], 2).await;
        drop(store);
        let manifest = Manifest {
            system_identifier: 1,
            timeline: 1,
            start: START,
            end: START,
            wal_segment_bytes: 16 << 20,
            server_version: 15_00_00,
            data_checksums: false,
            tablespaces: Vec::new(),
        };
        Timeline::open_main(directory, manifest, &Settings::default()).await.expect("opened")
    }

    #[test]
    fn a_page_that_is_known_to_be_unchanged_is_read_from_no_layer() {
        let test = async {
            let timeline = timeline().await;
            let looked = || {
                let stats = timeline.store.stats();
                stats.blocks_read + stats.blocks_found
            };
            let read = async |lsn| timeline.page(TAG, 2, lsn).await.expect("it is there")[0];
            // Whoever asks for the past does not spoil what is known of it, nor the other way round.
            assert_eq!(read(START + 500).await, 1);
            let once = looked();
            for lsn in [START + 500, START + 300, START] {
                assert_eq!((read(lsn).await, looked()), (1, once), "{lsn}");
            }
            assert_eq!(read(START + 1000).await, 2);
            let twice = looked();
            assert!(twice > once, "somebody has to look behind what is known");
            assert_eq!((read(START + 1000).await, looked()), (2, twice));
            assert_eq!(read(START + 999).await, 1);
        };
        let options = Options::on(Backend::Simulated);
        executor::block_on(&options, test).expect("this thread can be a core");
    }

    #[test]
    fn what_is_not_here_yet_is_not_taken_for_unchanged() {
        let test = async {
            let timeline = timeline().await;
            let ahead = START + 2000;
            assert_eq!(timeline.page(TAG, 2, ahead).await.expect("it is there")[0], 2);
            let cached = timeline.pages.borrow_mut().get(TAG, 2, ahead).expect("it was read");
            assert_eq!(cached.unchanged_to, START + 1000);
        };
        let options = Options::on(Backend::Simulated);
        executor::block_on(&options, test).expect("this thread can be a core");
    }
}
