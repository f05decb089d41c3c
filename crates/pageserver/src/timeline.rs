//! One timeline of one cluster: base backup, WAL and index, and what can be asked of them.
//!
//! Invariant: `ingested` is the end of the last record that is durable and in the index; nothing beyond it is
//! ever answered.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use pg::datadir::relation::{Fork, RelTag};
use pg::lsn::Lsn;
use pg::oid::Oid;
use pg::redo::effects::Parameters;
use runtime::clock;
use runtime::fs;

use crate::base_files::BaseFiles;
use crate::error::{Error, PageError};
use crate::index::Index;
use crate::ingest::Counters;
use crate::limits::PAGE_BYTES;
use crate::manifest::{self, Manifest};
use crate::page_cache::PageCache;
use crate::settings::Settings;
use crate::wal_store::{self, WalLayout, WalReader};
use crate::watch::Watch;

/// A timeline that has a base backup.
pub struct Timeline {
    /// The page server's directory.
    pub(crate) directory: PathBuf,
    pub manifest: Manifest,
    pub wal_layout: WalLayout,
    pub index: RefCell<Index>,
    pub counters: RefCell<Counters>,
    pub(crate) wal: WalReader,
    pub(crate) base: BaseFiles,
    pub(crate) pages: RefCell<PageCache>,
    ingested: Watch,
    /// From each LSN on: whether hint bits are logged.
    hints_logged: RefCell<Vec<(Lsn, bool)>>,
    index_memory_max: usize,
    wait_lsn_timeout: std::time::Duration,
}

impl Timeline {
    /// Opens the base backup in `directory`; `None` if there is no finished one. The WAL is still
    /// to be read: see [`crate::ingest`].
    pub async fn open(directory: &Path, settings: &Settings) -> Result<Option<Timeline>, Error> {
        let Some(manifest) = read_manifest(directory).await? else { return Ok(None) };
        let wal_layout = WalLayout {
            directory: directory.join(wal_store::FOLDER),
            timeline: manifest.timeline,
            segment_bytes: manifest.wal_segment_bytes,
        };
        let made = fs::create_dir_all(&wal_layout.directory).await;
        made.map_err(|source| Error::file("create directory", &wal_layout.directory, source))?;
        let mut index = Index::default();
        let base = BaseFiles::open(directory, &manifest, &mut index).await?;
        let wal = WalReader::new(wal_layout.clone());
        wal.set_readable(manifest.start);
        let wal_log_hints = base.control().await?.parameters.wal_log_hints;
        let hints_logged = vec![(Lsn::INVALID, wal_log_hints || manifest.data_checksums)];
        let ingested = Watch::default();
        ingested.raise(manifest.start.0);
        Ok(Some(Timeline {
            directory: directory.to_owned(),
            wal,
            manifest,
            wal_layout,
            index: RefCell::new(index),
            counters: RefCell::default(),
            base,
            pages: RefCell::new(PageCache::new(settings.page_cache_bytes)),
            ingested,
            hints_logged: RefCell::new(hints_logged),
            index_memory_max: settings.index_memory_max,
            wait_lsn_timeout: settings.wait_lsn_timeout(),
        }))
    }

    /// End of the last record in the index.
    pub fn ingested(&self) -> Lsn {
        Lsn(self.ingested.get())
    }

    /// Waits until records behind `lsn` are here.
    pub async fn grows_beyond(&self, lsn: Lsn) {
        self.ingested.reaches(lsn.0 + 1).await;
    }

    /// Up to where the WAL is durable here.
    pub fn durable(&self) -> Lsn {
        self.wal.readable()
    }

    /// The index has taken in everything up to `end`.
    pub(crate) fn advance(&self, end: Lsn) -> Result<(), Error> {
        if self.memory() > self.index_memory_max {
            return Err(Error::Memory { limit: self.index_memory_max, lsn: end });
        }
        self.ingested.raise(end.0);
        Ok(())
    }

    /// Whether hint bits were logged when the record that ends at `lsn` was written.
    pub(crate) fn hints_logged(&self, lsn: Lsn) -> bool {
        let known = self.hints_logged.borrow();
        known.iter().rev().find(|(from, _)| *from <= lsn).is_some_and(|(_, logged)| *logged)
    }

    pub(crate) fn note_parameters(&self, from: Lsn, parameters: &Parameters) {
        let logged = parameters.wal_log_hints || self.manifest.data_checksums;
        self.hints_logged.borrow_mut().push((from, logged));
    }

    /// Bytes of memory that the index takes.
    pub fn memory(&self) -> usize {
        self.index.borrow().memory()
    }

    /// The LSN at which to answer a request for `lsn` ([`Lsn::MAX`] for the latest), once the WAL
    /// that it needs has arrived. A client that knows that nothing changed after
    /// `not_modified_since` need not wait for more than that.
    pub async fn lsn_for(&self, lsn: Lsn, not_modified_since: Lsn) -> Result<Lsn, PageError> {
        let oldest = self.manifest.end;
        if lsn < oldest {
            return Err(PageError::TooOld { requested: lsn, oldest });
        }
        let needed = match (lsn, not_modified_since) {
            (Lsn::MAX, since) => since,
            (lsn, Lsn::INVALID) => lsn,
            (lsn, since) => lsn.min(since),
        };
        let needed = needed.max(oldest);
        if self.ingested() < needed {
            let arrives = self.ingested.reaches(needed.0);
            if clock::timeout(self.wait_lsn_timeout, arrives).await.is_err() {
                return Err(PageError::NotYet { requested: needed, ingested: self.ingested() });
            }
        }
        Ok(lsn.min(self.ingested()))
    }

    pub fn exists(&self, tag: RelTag, lsn: Lsn) -> Result<bool, PageError> {
        is_kept(tag)?;
        Ok(self.index.borrow().blocks_at(tag, lsn).is_some())
    }

    /// Size of a fork in blocks.
    pub fn blocks(&self, tag: RelTag, lsn: Lsn) -> Result<u32, PageError> {
        is_kept(tag)?;
        let blocks = self.index.borrow().blocks_at(tag, lsn);
        blocks.ok_or(PageError::NoRelation { tag, lsn })
    }

    /// Bytes of all forks of one database in one tablespace, free space maps not counted.
    pub fn database_bytes(&self, tablespace: Oid, database: Oid, lsn: Lsn) -> u64 {
        let of_it = |tag: &RelTag| tag.spcnode == tablespace && tag.dbnode == database;
        let index = self.index.borrow();
        let forks = index.forks_at(lsn).filter(|(tag, _)| of_it(tag) && is_kept(*tag).is_ok());
        forks.map(|(_, blocks)| u64::from(blocks) * PAGE_BYTES as u64).sum()
    }

    /// All forks that exist as of `lsn`, free space maps not among them, with their sizes in blocks.
    pub fn forks(&self, lsn: Lsn) -> Vec<(RelTag, u32)> {
        self.index.borrow().forks_at(lsn).filter(|(tag, _)| is_kept(*tag).is_ok()).collect()
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

async fn read_manifest(directory: &Path) -> Result<Option<Manifest>, Error> {
    let path: PathBuf = directory.join(manifest::FILE_NAME);
    match fs::read(&path).await {
        Ok(bytes) => Manifest::from_bytes(&bytes, &path).map(Some),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::file("read", &path, source)),
    }
}
