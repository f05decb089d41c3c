//! GetPage@LSN: the newest whole version at or below the LSN, then redo of the records after it, in order.
//!
//! Where a version comes from does not matter here: see [`crate::versions`].
//! Invariant: what is returned is the page as Postgres had it as of the LSN (hint bits aside), or an error. A
//! page half rebuilt never leaves this file.

use std::collections::BTreeMap;
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
use crate::limits::{CLONE_DEPTH_MAX, PAGE_BYTES, PAGES_REBUILT_AT_ONCE, REDO_RECORDS_AT_ONCE};
use crate::page_cache::{Cached, Page, Reading};
use crate::payload::Payload;
use crate::timeline::Timeline;
use crate::versions::{Content, Version};

impl Timeline {
    /// A block as of `lsn`, which [`Timeline::lsn_for`] has approved.
    pub async fn page(&self, tag: RelTag, block: u32, lsn: Lsn) -> Result<Rc<Page>, PageError> {
        let pages = self.pages(tag, &[block], lsn).await?;
        Ok(pages.into_iter().next().expect("a page for each block"))
    }

    /// The same of several blocks, in the order asked; index and layers are asked for many of them at once. The error is
    /// that of the first block that cannot be given.
    pub async fn pages(
        &self,
        tag: RelTag,
        blocks: &[u32],
        lsn: Lsn,
    ) -> Result<Vec<Rc<Page>>, PageError> {
        let size = self.blocks(tag, lsn)?;
        let reading =
            if blocks.len() > PAGES_REBUILT_AT_ONCE { Reading::Scan } else { Reading::Few };
        let mut pages = Vec::with_capacity(blocks.len());
        for some in blocks.chunks(PAGES_REBUILT_AT_ONCE) {
            let mut found = self.find(tag, some, size, lsn).await;
            for &block in some {
                if block >= size {
                    return Err(PageError::BeyondEnd { tag, block, blocks: size, lsn });
                }
                let build = Build { timeline: self, tag, block, reading };
                let page = match found.remove(&block) {
                    Some(Found::Page(page)) => Ok(page),
                    Some(Found::Versions(known, versions)) => {
                        build.rebuild(known, versions, lsn, CLONE_DEPTH_MAX).await
                    }
                    None => build.run(lsn, CLONE_DEPTH_MAX).await,
                };
                // Whatever came of it, if some of it was removed meanwhile it means nothing.
                self.check_kept(lsn)?;
                pages.push(page?);
            }
        }
        Ok(pages)
    }

    /// What these blocks of a fork of so many are rebuilt from. Where something cannot be read, nothing is found that was to
    /// be: who reads the blocks one by one learns which of them it is.
    async fn find(&self, tag: RelTag, blocks: &[u32], size: u32, lsn: Lsn) -> BTreeMap<u32, Found> {
        let mut found = BTreeMap::new();
        if blocks.len() == 1 {
            return found;
        }
        let mut missing = BTreeMap::new();
        for &block in blocks.iter().filter(|block| **block < size) {
            match (Build { timeline: self, tag, block, reading: Reading::Scan }.known(lsn)) {
                Ok(page) => drop(found.insert(block, Found::Page(page))),
                Err(known) => drop(missing.insert(block, known)),
            }
        }
        let wanted = missing.iter().map(|(&block, known)| (keys::block(tag, block), known.after));
        let versions = self.versions_of(&wanted.collect::<Vec<_>>(), lsn).await;
        for ((block, known), versions) in missing.into_iter().zip(versions.unwrap_or_default()) {
            found.insert(block, Found::Versions(known, versions));
        }
        found
    }

    /// A page of `pg_xact` as of `lsn`; `None` if there is none.
    pub async fn transactions(&self, page: u32, lsn: Lsn) -> Result<Option<Box<Page>>, PageError> {
        let key = Key::Slru(Slru::Clog, page);
        if !self.snapshot_at(lsn).await?.directory.has(key) {
            return Ok(None);
        }
        let mut page = Box::new([0; PAGE_BYTES]);
        set_image(&mut page, &self.value(key, lsn).await?);
        Ok(Some(page))
    }
}

fn zeroes() -> Rc<Page> {
    Rc::new([0; PAGE_BYTES])
}

/// Makes it an image as stored: zeroes at its end are left out.
fn set_image(page: &mut Page, image: &[u8]) {
    let (start, rest) = page.split_at_mut(image.len());
    start.copy_from_slice(image);
    rest.fill(0);
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
    pub(crate) reading: Reading,
}

/// What one block of a batch is made from.
enum Found {
    Page(Rc<Page>),
    Versions(Known, Vec<Version>),
}

/// What is known of a block before its versions are read.
struct Known {
    origin: Origin,
    cached: Option<Cached>,
    /// Versions up to here are not needed.
    after: Lsn,
    /// Where not all is here yet, there may be more of it later.
    is_all_here: bool,
}

impl Build<'_> {
    async fn run(self, lsn: Lsn, depth: u32) -> Result<Rc<Page>, PageError> {
        let known = match self.known(lsn) {
            Ok(page) => return Ok(page),
            Err(known) => known,
        };
        let key = keys::block(self.tag, self.block);
        let versions = self.timeline.versions(key, known.after, lsn).await;
        let versions = versions.map_err(|error| failure(self.name(), &error))?;
        self.rebuild(known, versions, lsn, depth).await
    }

    /// The page if it is at hand as of `lsn`; otherwise what is to be built upon.
    fn known(self, lsn: Lsn) -> Result<Rc<Page>, Known> {
        let (origin, born) = self.origin_at(lsn);
        // A version at hand is of use if the block was not cut off and made anew since.
        let cached = self.timeline.pages.borrow_mut().get(self.tag, self.block, lsn);
        let cached = cached.filter(|cached| cached.as_of > born);
        let after = match &cached {
            Some(cached) if cached.unchanged_to >= lsn => return Ok(Rc::clone(&cached.page)),
            Some(cached) => cached.unchanged_to,
            None => born,
        };
        Err(Known { origin, cached, after, is_all_here: self.timeline.has_all_up_to(lsn) })
    }

    /// The page as of `lsn`, from its versions since `known.after`.
    async fn rebuild(
        self,
        known: Known,
        versions: Vec<Version>,
        lsn: Lsn,
        depth: u32,
    ) -> Result<Rc<Page>, PageError> {
        let Known { origin, cached, is_all_here, .. } = known;
        let (page, as_of) = match cached {
            Some(cached) if versions.is_empty() => (cached.page, Some(cached.as_of)),
            cached => {
                let mut page = match cached {
                    _ if versions.first().is_some_and(|first| first.whole) => zeroes(),
                    Some(cached) => cached.page,
                    None => self.origin(origin, depth).await?,
                };
                self.redo_all(&versions, &mut page).await?;
                (page, versions.last().map(|newest| newest.lsn))
            }
        };
        // What was read of an old moment while the horizon passed it may be anything.
        if let Some(as_of) = as_of.filter(|_| self.timeline.check_kept(lsn).is_ok()) {
            let unchanged_to = if is_all_here { lsn } else { as_of };
            let cached = Cached { page: Rc::clone(&page), as_of, unchanged_to };
            let mut pages = self.timeline.pages.borrow_mut();
            pages.put(self.tag, self.block, cached, self.reading);
        }
        Ok(page)
    }

    /// Brings the page up to the last of its versions.
    async fn redo_all(self, versions: &[Version], page: &mut Rc<Page>) -> Result<(), PageError> {
        if versions.is_empty() {
            return Ok(());
        }
        // A copy if it is somebody else's too.
        let page = Rc::make_mut(page);
        let mut contents = Vec::with_capacity(versions.len().min(REDO_RECORDS_AT_ONCE));
        for some in versions.chunks(REDO_RECORDS_AT_ONCE) {
            for version in some {
                let content = self.timeline.content(version).await;
                let content = content.map_err(|error| failure(self.name(), &error))?;
                contents.push((version.lsn, content));
            }
            self.apply_all(&contents, page)?;
            contents.clear();
            if some.len() == REDO_RECORDS_AT_ONCE {
                executor::yield_now().await;
            }
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
    ) -> Result<Rc<Page>, PageError> {
        let mut page = match &self.timeline.ancestor {
            _ if versions.first().is_some_and(|first| first.whole) => zeroes(),
            Some((ancestor, left)) if *left > born => {
                let before = Build { timeline: ancestor, ..self };
                Box::pin(before.run(*left, CLONE_DEPTH_MAX)).await?
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
    async fn origin(self, origin: Origin, depth: u32) -> Result<Rc<Page>, PageError> {
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
        Box::pin(source.run(at, depth)).await
    }

    /// Versions that follow one another, each with its LSN.
    fn apply_all(self, contents: &[(Lsn, Content<'_>)], page: &mut Page) -> Result<(), PageError> {
        let mut record = Record::none();
        for (lsn, content) in contents {
            match content.payload(*lsn).map_err(|what| self.damaged(what))? {
                Payload::Image { bytes, copied } => {
                    set_image(page, bytes);
                    if copied && !self.has_valid_checksum(page) {
                        let what = "its copy in the base backup does not match its checksum";
                        return Err(self.damaged(what.to_owned()));
                    }
                }
                Payload::Record { position, record: raw } => {
                    let decoded = raw.decode_into(&mut record);
                    decoded.map_err(|error| self.damaged(error.to_string()))?;
                    self.redo(position, &record, page)?;
                }
                Payload::Value(_) | Payload::Xid { .. } => {
                    return Err(self.damaged("another kind is stored".to_owned()));
                }
            }
        }
        Ok(())
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
    use std::cell::RefCell;
    use std::path::Path;

    use pg::datadir::relation::RelNode;
    use runtime::fs;
    use runtime::io::{Backend, Options};
    use runtime::random::Rng;
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

    fn manifest() -> Manifest {
        Manifest {
            system_identifier: 1,
            timeline: 1,
            start: START,
            end: START,
            wal_segment_bytes: 16 << 20,
            server_version: 15_00_00,
            data_checksums: false,
            tablespaces: Vec::new(),
        }
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
        Timeline::open_main(directory, manifest(), &Settings::default()).await.expect("opened")
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
    /// Layers with random versions of the blocks below `blocks`, after `from`: images, and now and then something that is
    /// none.
    async fn add_random_layers(store: &TimelineStore, rng: &mut Rng, blocks: u64, from: Lsn) {
        for layer in 0..4 {
            let mut versions = BTreeMap::new();
            for _version in 0..150 {
                let block = u32::try_from(rng.below(blocks)).expect("small");
                let at = from + 1 + layer * 1000 + rng.below(1000);
                let is_image = rng.below(60) != 0;
                let byte = u8::try_from(rng.below(255)).expect("small") + 1;
                let image = [payload::image(&[byte; PAGE_BYTES]), payload::value(b"no page")];
                let [image, value] = image;
                let payload = if is_image { image } else { value };
                versions.insert((keys::block(TAG, block), Version(at.0)), (is_image, payload));
            }
            let mut writer = store.begin_layer().await.expect("begun");
            for ((key, version), (whole, payload)) in &versions {
                let entry = Entry { key: *key, version: *version, whole: *whole, payload };
                writer.add(entry).await.expect("added");
            }
            let layers = writer.finish().await.expect("finished").into_iter().collect();
            let flushed_through = Some(Version(from.0 + (layer + 1) * 1000));
            store.commit(Commit { layers, flushed_through, catalog: None }).await.expect("kept");
        }
    }

    async fn keep_catalog(store: &TimelineStore, catalog: &Catalog) {
        let catalog = Some(catalog.to_bytes(Lsn::MAX));
        let commit = Commit { layers: Vec::new(), flushed_through: None, catalog };
        store.commit(commit).await.expect("kept");
    }

    /// Writes a timeline, and a branch that leaves it in the middle. The base has holes; the relation is cut off and grows
    /// again in both.
    async fn write_branches(directory: &Path, rng: &mut Rng) {
        let folder = |name: &str| directory.join("timelines").join(name);
        let mut catalog = Catalog::default();
        catalog.add_base(TAG, 60);
        catalog.change(TAG, |history| history.truncate(START + 1500, 20));
        catalog.change(TAG, |history| history.extend(START + 2200, 90));
        fs::create_dir_all(&folder("main")).await.expect("made");
        let store = TimelineStore::create(&folder("main")).await.expect("created");
        let mut base = store.begin_layer().await.expect("begun");
        for block in (0..60).filter(|block| block % 17 != 5) {
            let image = payload::image(&[u8::try_from(block).expect("small"); PAGE_BYTES]);
            let (key, version) = (keys::block(TAG, block), Version(START.0));
            let entry = Entry { key, version, whole: true, payload: &image };
            base.add(entry).await.expect("added");
        }
        let layers = base.finish().await.expect("finished").into_iter().collect();
        let commit = Commit { layers, flushed_through: None, catalog: None };
        store.commit(commit).await.expect("kept");
        add_random_layers(&store, rng, 90, START).await;
        keep_catalog(&store, &catalog).await;

        let from = Rc::new(RefCell::new(catalog));
        let mut catalog = Catalog::of_branch(from, LEFT);
        catalog.change(TAG, |history| history.truncate(LEFT + 1200, 50));
        catalog.change(TAG, |history| history.extend(LEFT + 1700, 100));
        fs::create_dir_all(&folder("b")).await.expect("made");
        let store = TimelineStore::create(&folder("b")).await.expect("created");
        add_random_layers(&store, rng, 100, LEFT).await;
        keep_catalog(&store, &catalog).await;
    }

    const LEFT: Lsn = Lsn(START.0 + 2700);

    async fn open(directory: &Path, settings: &Settings) -> [Rc<Timeline>; 2] {
        let main = Timeline::open_main(directory, manifest(), settings).await.expect("opened");
        let main = Rc::new(main);
        let from = (Rc::clone(&main), LEFT);
        let branch = Timeline::open_branch(directory, "b", from, settings).await.expect("opened");
        [main, Rc::new(branch)]
    }

    #[test]
    fn a_batch_is_what_its_blocks_are_one_by_one() {
        let test = async {
            let (directory, mut rng) = (Path::new("/ps"), Rng::seeded(11));
            write_branches(directory, &mut rng).await;
            // Room for some of the pages, so that a batch finds some at hand, of this LSN or an earlier one.
            let some = Settings { page_cache_bytes: 40 * PAGE_BYTES, ..Settings::default() };
            let none = Settings { page_cache_bytes: 0, ..Settings::default() };
            let (batches, singles) = (open(directory, &some).await, open(directory, &none).await);
            let (mut given, mut refused) = (0, 0);
            for _round in 0..400 {
                let which = usize::from(rng.below(2) == 0);
                let start = if which == 0 { START } else { LEFT };
                let lsn = start + rng.below(4500);
                let most = if rng.below(4) == 0 { 128 } else { 12 };
                let count = 1 + rng.below(most);
                let end = if rng.below(8) == 0 { 110 } else { 50 };
                let block = |_| u32::try_from(rng.below(end)).expect("small");
                let blocks: Vec<u32> = (0..count).map(block).collect();
                let batch = batches[which].pages(TAG, &blocks, lsn).await;
                let mut one_by_one = Ok(Vec::new());
                for &block in &blocks {
                    match (singles[which].page(TAG, block, lsn).await, &mut one_by_one) {
                        (Ok(page), Ok(pages)) => pages.push(page),
                        (Err(error), Ok(_)) => one_by_one = Err(error),
                        (_, Err(_)) => break,
                    }
                }
                *(if batch.is_ok() { &mut given } else { &mut refused }) += 1;
                let told = |answer: &Result<Vec<Rc<Page>>, PageError>| match answer {
                    Ok(pages) => {
                        format!("{:?}", pages.iter().map(|page| page[9]).collect::<Vec<_>>())
                    }
                    Err(error) => format!("{error:?}"),
                };
                assert_eq!(told(&batch), told(&one_by_one), "{blocks:?} of {which} as of {lsn}");
                assert!(batch.ok() == one_by_one.ok(), "{blocks:?} of {which} as of {lsn}");
            }
            assert!(given > 50 && refused > 50, "{given} given, {refused} refused");
        };
        let options = Options::on(Backend::Simulated);
        executor::block_on(&options, test).expect("this thread can be a core");
    }
}
