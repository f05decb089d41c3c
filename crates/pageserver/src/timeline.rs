//! One timeline of one cluster: layers, the WAL that is not in them yet, and the catalog; and what can be asked of them.
//!
//! Invariant: `ingested` is the end of the last record that is durable and in the index; nothing beyond it is
//! ever answered. `flushed` never exceeds it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use pg::datadir::relation::{Fork, RelTag};
use pg::lsn::Lsn;
use pg::oid::Oid;
use runtime::clock;
use runtime::fs;
use storage::store::TimelineStore;
use storage::turn::Turn;

use crate::catalog::Catalog;
use crate::error::{Error, PageError};
use crate::flush::Records;
use crate::index::Index;
use crate::ingest::Counters;
use crate::leases::Leases;
use crate::limits::PAGE_BYTES;
use crate::lineage::Lineage;
use crate::manifest::Manifest;
use crate::page_cache::PageCache;
use crate::remote::Stored;
use crate::retention::{Pin, Pins};
use crate::settings::Settings;
use crate::state::Tracker;
use crate::state::value_cache::ValueCache;
use crate::wal_store::{self, WalLayout, WalReader};
use crate::watch::Watch;

/// The name of the timeline that follows Postgres.
pub const MAIN: &str = "main";
/// Name of the folder in the page server's directory with a folder for each timeline.
pub const FOLDER: &str = "timelines";

/// A timeline that has a base backup, or an ancestor.
pub struct Timeline {
    pub name: String,
    pub manifest: Manifest,
    pub wal_layout: WalLayout,
    /// Where its layers are.
    pub layers: PathBuf,
    /// The branch it comes from, and where it left it.
    pub ancestor: Option<(Rc<Timeline>, Lsn)>,
    pub catalog: Rc<RefCell<Catalog>>,
    pub counters: RefCell<Counters>,
    pub store: TimelineStore,
    pub(crate) level0: RefCell<Index>,
    pub(crate) state: RefCell<Tracker>,
    pub(crate) wal: Rc<WalReader>,
    pub(crate) pages: RefCell<PageCache>,
    pub(crate) values: RefCell<ValueCache>,
    pub(crate) ingested: Watch,
    /// All of the WAL up to here was looked at: every whole record in it is in the index.
    pub(crate) taken_in: Watch,
    /// Everything up to here is in the store.
    pub(crate) flushed: Watch,
    /// Who writes to the store.
    pub(crate) flushing: Turn,
    /// Up to where there were records when it was looked at last, and since when.
    pub(crate) idle_since: Cell<(Lsn, clock::Instant)>,
    /// End of what is being written to the store.
    pub(crate) set_aside: Cell<Lsn>,
    /// Memory of the last such, if it is wanted again soon.
    pub(crate) records: RefCell<Records>,
    /// Earlier moments may be gone, unless they are pinned: see [`crate::retention`].
    pub(crate) horizon: Cell<Lsn>,
    pub(crate) pins: Rc<Pins>,
    pub leases: Leases,
    /// Keeps the branch point readable.
    _left: Option<Pin>,
    /// All files together have reached the limit: no more WAL may come in.
    pub(crate) disk_is_full: Cell<bool>,
    pub(crate) wal_bytes_max: u64,
    /// Up to where its layers are as good as they get, and for which horizon and pins they have been collected.
    pub(crate) settled: Cell<Lsn>,
    pub(crate) collected: RefCell<(Lsn, Vec<Lsn>)>,
    pub(crate) layer_bytes_removed: Cell<u64>,
    pub(crate) wal_bytes_removed: Cell<u64>,
    /// Pins before the horizon with images as of then where they are worth it.
    pub(crate) pins_imaged: RefCell<BTreeSet<Lsn>>,
    pub(crate) checkpoint_bytes: u64,
    pub(crate) index_memory_max: usize,
    pub(crate) wait_lsn_timeout: std::time::Duration,
    /// How far the object store has its WAL.
    pub(crate) stored: Stored,
}

impl Timeline {
    /// Opens the main timeline in the page server's `directory`, whose layers are in `store`. The WAL is still to be
    /// read: see [`crate::ingest`].
    pub async fn open_main(
        directory: &Path,
        manifest: Manifest,
        settings: &Settings,
    ) -> Result<Timeline, Error> {
        let own = directory.join(FOLDER).join(MAIN);
        let store = open_store(&own).await?;
        let catalog = read_catalog(&store, &own, None)?;
        let leases = Leases::open(&own).await?;
        let wal_directory = directory.join(wal_store::FOLDER);
        let made = fs::create_dir_all(&wal_directory).await;
        made.map_err(|source| Error::file("create directory", &wal_directory, source))?;
        // Segments in it are acknowledged.
        let synced = fs::sync_dir(directory).await;
        synced.map_err(|source| Error::file("sync directory", directory, source))?;
        let wal_layout = WalLayout {
            lineage: Lineage::read(&wal_directory, manifest.timeline).await?,
            directory: wal_directory,
            segment_bytes: manifest.wal_segment_bytes,
        };
        let flushed = Lsn(store.flushed_through().0).max(manifest.start);
        wal_layout.remove_before_gap().await?;
        let wal = WalReader::new(wal_layout.clone());
        wal.set_readable(flushed);
        wal.look().await?;
        let main = Parts {
            name: MAIN.to_owned(),
            layers: own,
            ancestor: None,
            store,
            catalog,
            manifest,
            wal_layout,
            wal: Rc::new(wal),
            leases,
        };
        Ok(Timeline::new(main, flushed, settings))
    }

    /// Opens the branch `name` of `ancestor`, left at `at`.
    pub async fn open_branch(
        directory: &Path,
        name: &str,
        (ancestor, at): (Rc<Timeline>, Lsn),
        settings: &Settings,
    ) -> Result<Timeline, Error> {
        let own = directory.join(FOLDER).join(name);
        let store = open_store(&own).await?;
        let from = (Rc::clone(&ancestor.catalog), at);
        let catalog = read_catalog(&store, &own, Some(from))?;
        let leases = Leases::open(&own).await?;
        let flushed = Lsn(store.flushed_through().0).max(at);
        let wal_layout = WalLayout {
            directory: own.join(wal_store::FOLDER),
            lineage: ancestor.wal_layout.lineage.of_branch(at),
            segment_bytes: ancestor.wal_layout.segment_bytes,
        };
        wal_layout.remove_before_gap().await?;
        let wal = WalReader::of_branch(wal_layout.clone(), Rc::clone(&ancestor.wal), at);
        wal.set_readable(flushed);
        wal.look().await?;
        let branch = Parts {
            name: name.to_owned(),
            layers: own,
            store,
            catalog,
            manifest: ancestor.manifest.clone(),
            wal_layout,
            wal: Rc::new(wal),
            ancestor: Some((ancestor, at)),
            leases,
        };
        Ok(Timeline::new(branch, flushed, settings))
    }

    fn new(parts: Parts, flushed: Lsn, settings: &Settings) -> Timeline {
        let left = parts.ancestor.as_ref().map(|(ancestor, at)| ancestor.pin_at_start(*at));
        let timeline = Timeline {
            horizon: Cell::new(Lsn(parts.store.kept_from().0)),
            pins: Rc::default(),
            leases: parts.leases,
            _left: left,
            disk_is_full: Cell::new(false),
            wal_bytes_max: settings.wal_bytes_max,
            settled: Cell::default(),
            collected: RefCell::default(),
            layer_bytes_removed: Cell::default(),
            wal_bytes_removed: Cell::default(),
            pins_imaged: RefCell::default(),
            wal: parts.wal,
            manifest: parts.manifest,
            wal_layout: parts.wal_layout,
            name: parts.name,
            layers: parts.layers,
            ancestor: parts.ancestor,
            catalog: Rc::new(RefCell::new(parts.catalog)),
            counters: RefCell::default(),
            store: parts.store,
            level0: RefCell::default(),
            state: RefCell::default(),
            pages: RefCell::new(PageCache::new(settings.page_cache_bytes)),
            values: RefCell::default(),
            ingested: Watch::default(),
            taken_in: Watch::default(),
            flushed: Watch::default(),
            flushing: Turn::default(),
            idle_since: Cell::new((flushed, clock::now())),
            set_aside: Cell::new(flushed),
            records: RefCell::default(),
            checkpoint_bytes: settings.checkpoint_bytes,
            index_memory_max: settings.index_memory_max,
            wait_lsn_timeout: settings.wait_lsn_timeout(),
            stored: Stored::new(settings),
        };
        timeline.ingested.raise(flushed.0);
        timeline.flushed.raise(flushed.0);
        timeline.resume_leases();
        timeline
    }

    /// How many branch points lie before it: 0 for `main`.
    pub fn generation(&self) -> usize {
        self.ancestor.as_ref().map_or(0, |(from, _)| from.generation() + 1)
    }

    /// End of the last record in the index.
    pub fn ingested(&self) -> Lsn {
        Lsn(self.ingested.get())
    }

    /// Whether all records up to there are in the index or in layers, its ancestors' included.
    pub(crate) fn has_all_up_to(&self, lsn: Lsn) -> bool {
        let ancestor = self.ancestor.as_ref();
        self.ingested() >= lsn
            && ancestor.is_none_or(|(ancestor, left)| ancestor.has_all_up_to(lsn.min(*left)))
    }

    /// Waits until records behind `lsn` are here.
    pub async fn grows_beyond(&self, lsn: Lsn) {
        self.ingested.reaches(lsn.0 + 1).await;
    }

    /// Up to where the WAL is durable here. A branch has its ancestor's up to the branch point, its own after it.
    pub fn durable(&self) -> Lsn {
        self.wal.readable()
    }

    /// The number of Postgres' timeline that the WAL here has come to.
    pub fn postgres_timeline(&self) -> u32 {
        self.postgres_timeline_at(self.durable())
    }

    /// The number of Postgres' timeline from `lsn` on.
    pub fn postgres_timeline_at(&self, lsn: Lsn) -> u32 {
        self.wal_layout.lineage.at(lsn)
    }

    /// The number of Postgres' timeline of the WAL up to `lsn`: who starts there goes on with it.
    pub fn postgres_timeline_before(&self, lsn: Lsn) -> u32 {
        self.postgres_timeline_at(Lsn(lsn.0.saturating_sub(1)))
    }

    /// Up to where everything is in layers.
    pub fn flushed(&self) -> Lsn {
        Lsn(self.flushed.get())
    }

    /// The index has taken in everything up to `end`.
    pub(crate) fn advance(&self, end: Lsn) {
        self.ingested.raise(end.0);
    }

    /// Bytes of memory that index and catalog take.
    pub fn memory(&self) -> usize {
        self.level0.borrow().memory() + self.catalog.borrow().memory()
    }

    /// The LSN at which to answer a request for `lsn` ([`Lsn::MAX`] for the latest), once the WAL
    /// that it needs has arrived. A client that knows that nothing changed after
    /// `not_modified_since` need not wait for more than that.
    pub async fn lsn_for(&self, lsn: Lsn, not_modified_since: Lsn) -> Result<Lsn, PageError> {
        self.check_kept(lsn)?;
        let oldest = self.oldest();
        let needed = match (lsn, not_modified_since) {
            (Lsn::MAX, since) => since,
            (lsn, Lsn::INVALID) => lsn,
            (lsn, since) => lsn.min(since),
        };
        let needed = needed.max(oldest);
        self.wait_for(needed).await?;
        // After a start, an ancestor may still be reading its WAL.
        let mut ancestor = self.ancestor.as_ref();
        while let Some((timeline, at)) = ancestor {
            timeline.wait_for(needed.min(*at)).await?;
            ancestor = timeline.ancestor.as_ref();
        }
        Ok(lsn.min(self.ingested()))
    }

    /// Whether every record that ends at or before `lsn` is here. That may lie in the middle of one: a server flushes
    /// whole pages of WAL, and its flush position stays there until somebody writes again.
    pub(crate) fn has_arrived(&self, lsn: Lsn) -> bool {
        self.ingested() >= lsn || self.taken_in.get() >= lsn.0
    }

    async fn wait_for(&self, needed: Lsn) -> Result<(), PageError> {
        if self.has_arrived(needed) {
            return Ok(());
        }
        let mut records = pin!(self.ingested.reaches(needed.0));
        let mut bytes = pin!(self.taken_in.reaches(needed.0));
        let arrives = poll_fn(|context| match records.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => bytes.as_mut().poll(context),
        });
        let arrived = clock::timeout(self.wait_lsn_timeout, arrives).await;
        arrived
            .map_err(|_elapsed| PageError::NotYet { requested: needed, ingested: self.ingested() })
    }

    pub fn exists(&self, tag: RelTag, lsn: Lsn) -> Result<bool, PageError> {
        is_kept(tag)?;
        self.check_kept(lsn)?;
        Ok(self.catalog.borrow().blocks_at(tag, lsn).is_some())
    }

    /// Size of a fork in blocks.
    pub fn blocks(&self, tag: RelTag, lsn: Lsn) -> Result<u32, PageError> {
        is_kept(tag)?;
        self.check_kept(lsn)?;
        let blocks = self.catalog.borrow().blocks_at(tag, lsn);
        blocks.ok_or(PageError::NoRelation { tag, lsn })
    }

    /// Bytes of all forks of one database in one tablespace, free space maps not counted.
    pub fn database_bytes(&self, tablespace: Oid, database: Oid, lsn: Lsn) -> u64 {
        let of_it = |tag: &RelTag| tag.spcnode == tablespace && tag.dbnode == database;
        let forks = self.catalog.borrow().forks_at(lsn).into_iter();
        let forks = forks.filter(|(tag, _)| of_it(tag) && is_kept(*tag).is_ok());
        forks.map(|(_, blocks)| u64::from(blocks) * PAGE_BYTES as u64).sum()
    }

    /// All forks that exist as of `lsn`, free space maps not among them, with their sizes in blocks.
    pub fn forks(&self, lsn: Lsn) -> Vec<(RelTag, u32)> {
        let forks = self.catalog.borrow().forks_at(lsn).into_iter();
        forks.filter(|(tag, _)| is_kept(*tag).is_ok()).collect()
    }
}

/// What makes one timeline differ from another.
struct Parts {
    name: String,
    layers: PathBuf,
    manifest: Manifest,
    wal_layout: WalLayout,
    wal: Rc<WalReader>,
    ancestor: Option<(Rc<Timeline>, Lsn)>,
    store: TimelineStore,
    catalog: Catalog,
    leases: Leases,
}

async fn open_store(directory: &Path) -> Result<TimelineStore, Error> {
    let opened = TimelineStore::open(directory).await;
    opened.map_err(|source| Error::file("open layers in", directory, source))
}

fn read_catalog(
    store: &TimelineStore,
    directory: &Path,
    from: Option<(Rc<RefCell<Catalog>>, Lsn)>,
) -> Result<Catalog, Error> {
    let bytes = store.catalog();
    match from {
        Some((ancestor, at)) if bytes.is_empty() => Ok(Catalog::of_branch(ancestor, at)),
        from => Catalog::from_bytes(&bytes, from).ok_or_else(|| {
            Error::Damaged(format!("the catalog in \"{}\" is damaged", directory.display()))
        }),
    }
}

/// The free space map is neither logged nor needed for correctness: it is not served at all,
/// rather than served wrong.
fn is_kept(tag: RelTag) -> Result<(), PageError> {
    match tag.fork {
        Fork::Fsm => Err(PageError::NotLogged { tag }),
        Fork::Main | Fork::Vm | Fork::Init => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::tests::timeline;
    use runtime::executor::block_on;
    use runtime::io::{Backend, Options};

    #[test]
    fn a_moment_in_the_middle_of_a_record_is_there_when_its_bytes_are() {
        let test = async {
            let timeline = timeline().await;
            let end = timeline.ingested();
            let asked = timeline.lsn_for(end + 100, Lsn::INVALID).await;
            assert!(matches!(asked, Err(PageError::NotYet { .. })), "{asked:?}");
            // Up to there there is the beginning of a record.
            timeline.taken_in.raise((end + 100).0);
            let asked = timeline.lsn_for(end + 100, Lsn::INVALID).await;
            assert_eq!(asked.expect("no record that ends before is missing"), end);
            let asked = timeline.lsn_for(end + 101, Lsn::INVALID).await;
            assert!(matches!(asked, Err(PageError::NotYet { .. })), "{asked:?}");
        };
        block_on(&Options::on(Backend::Simulated), test).expect("a core");
    }
}
