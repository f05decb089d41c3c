//! A base backup into the store, as its bytes arrive: relations page by page, pages of the transaction logs and other
//! values under keys of their own, what is left (configuration, what extensions leave) as files in pieces. The sizes of
//! relations make the first catalog; the control file and the list of values, the first snapshot.
//!
//! Invariant: no more than one layer's pages, and one file that is no relation, are in memory, whatever the size of the
//! cluster.

use std::collections::BTreeMap;
use std::path::Path;

use pg::datadir::control::ControlFile;
use pg::datadir::layout::{RelationFile, SEGMENT_BLOCKS};
use pg::datadir::relation::{Fork, RelTag};
use pg::lsn::Lsn;
use pg::oid::Oid;
use pg::state::{Counters, values_of_file};
use storage::entry::Entry;
use storage::key::Key;
use storage::store::{Commit, TimelineStore};
use storage::version::Version;

use crate::catalog::Catalog;
use crate::error::Error;
use crate::keys;
use crate::limits::{FILE_BYTES_MAX, FILE_PIECE_BYTES, IMPORT_PAGES_MAX, PAGE_BYTES};
use crate::manifest::Tablespace;
use crate::moment::base_directory::{CONTROL, FileList, is_copied};
use crate::page_cache::Page;
use crate::payload;
use crate::state::directory::Directory;
use crate::state::snapshot::Snapshot;

/// Files on their way into the store.
pub struct Import<'s> {
    store: &'s TimelineStore,
    /// The version of all pages: where redo begins.
    start: Lsn,
    /// What becomes of the current file.
    current: Option<Current>,
    /// The current file's page that is not whole yet, or all of it.
    buffer: Vec<u8>,
    pages: BTreeMap<Key, Vec<u8>>,
    sizes: BTreeMap<RelTag, u32>,
    directory: Directory,
    files: FileList,
    control: Option<ControlFile>,
}

enum Current {
    /// A relation; the next block.
    Blocks(RelTag, u32),
    /// Gathered, and then looked at as a whole. The path is relative to the data directory.
    File(String),
    /// Read over: the free space map is in no WAL, other files belong to the running server.
    Nothing,
}

impl<'s> Import<'s> {
    pub fn new(store: &'s TimelineStore, start: Lsn) -> Import<'s> {
        Import {
            store,
            start,
            current: None,
            buffer: Vec::new(),
            pages: BTreeMap::new(),
            sizes: BTreeMap::new(),
            directory: Directory::default(),
            files: FileList::default(),
            control: None,
        }
    }

    /// A folder; its path is relative to the data directory.
    pub fn folder(&mut self, path: &Path) {
        let path = path.to_str().map(|path| path.trim_matches('/').to_owned());
        self.files.folders.extend(path.filter(|path| !path.is_empty()));
    }

    /// A file begins; its path is relative to the data directory.
    pub fn begin_file(&mut self, path: &Path) {
        self.buffer.clear();
        let text = path.to_str().unwrap_or("");
        if let Some(RelationFile { tag, segment }) = RelationFile::parse(text) {
            if tag.fork == Fork::Fsm {
                self.current = Some(Current::Nothing);
                return;
            }
            let first = segment.saturating_mul(SEGMENT_BLOCKS);
            let size = self.sizes.entry(tag).or_default();
            *size = (*size).max(first);
            self.current = Some(Current::Blocks(tag, first));
            return;
        }
        let is_log = text.starts_with("pg_wal/");
        let file = if is_log { Current::Nothing } else { Current::File(text.to_owned()) };
        self.current = Some(file);
    }

    /// Whether a file has begun and not ended.
    pub fn is_in_file(&self) -> bool {
        self.current.is_some()
    }

    /// Bytes of the current file.
    pub async fn data(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        let Some(current) = self.current.as_mut() else { return Ok(()) };
        match current {
            Current::Nothing => return Ok(()),
            Current::File(path) => {
                self.buffer.extend_from_slice(bytes);
                if self.buffer.len() > FILE_BYTES_MAX {
                    tracing::warn!(path, "a file of the base backup is too long and is left out");
                    self.current = Some(Current::Nothing);
                }
                return Ok(());
            }
            Current::Blocks(..) => {}
        }
        while let Some(Current::Blocks(tag, block)) = self.current {
            let Some(page) = next_page(&mut self.buffer, &mut bytes) else { break };
            let following = block.saturating_add(1);
            self.sizes.entry(tag).and_modify(|size| *size = (*size).max(following));
            self.current = Some(Current::Blocks(tag, following));
            self.put(keys::block(tag, block), payload::copied_image(&page)).await?;
        }
        Ok(())
    }

    /// The current file ends. What is left of a relation's page is none.
    pub async fn end_file(&mut self) -> Result<(), Error> {
        let (current, bytes) = (self.current.take(), std::mem::take(&mut self.buffer));
        let Some(Current::File(path)) = current else { return Ok(()) };
        if path == CONTROL {
            let control = ControlFile::parse(&bytes);
            self.control = Some(control.map_err(|error| Error::Damaged(error.to_string()))?);
        }
        let values = values_of_file(&path, &bytes);
        if values.is_empty() && (is_copied(&path) || path == CONTROL) {
            return self.keep_file(path, &bytes).await;
        }
        for (key, value) in values {
            self.directory.insert(key);
            if let pg::state::Key::Relmap { tablespace, database } = key {
                self.directory.insert(pg::state::Key::Database { tablespace, database });
            }
            let page: Option<&Page> = value.as_slice().try_into().ok();
            let stored = match (key, page) {
                (pg::state::Key::Slru(..), Some(page)) => payload::image(page),
                _ => payload::value(&value),
            };
            self.put(keys::value(key), stored).await?;
        }
        Ok(())
    }

    async fn keep_file(&mut self, path: String, bytes: &[u8]) -> Result<(), Error> {
        let number = self.files.add(path, bytes.len() as u64);
        for (piece, part) in (0..).zip(bytes.chunks(FILE_PIECE_BYTES)) {
            self.put(keys::file(number, piece), payload::value(part)).await?;
        }
        Ok(())
    }

    async fn put(&mut self, key: Key, payload: Vec<u8>) -> Result<(), Error> {
        self.pages.insert(key, payload);
        if self.pages.len() < IMPORT_PAGES_MAX { Ok(()) } else { self.write_pages().await }
    }

    /// The gathered pages as a layer, which counts at once: without the backup's manifest nothing does.
    async fn write_pages(&mut self) -> Result<(), Error> {
        let version = Version(self.start.0);
        let pages = std::mem::take(&mut self.pages);
        let write = async {
            let mut layer = self.store.begin_layer().await?;
            for (key, payload) in &pages {
                layer.add(Entry { key: *key, version, whole: true, payload }).await?;
            }
            let layers = layer.finish().await?.into_iter().collect();
            self.store.commit(Commit { layers, ..Commit::default() }).await
        };
        write.await.map_err(|source| self.failed(source))
    }

    /// Everything has arrived: writes the last pages, the first snapshot and the catalog. Answers what the cluster said of
    /// itself.
    pub async fn finish(
        mut self,
        tablespaces: &[Tablespace],
        data_checksums: bool,
    ) -> Result<ControlFile, Error> {
        let control = self.control.take();
        let control = control.ok_or_else(|| Error::protocol("a base backup without pg_control"))?;
        for tablespace in tablespaces {
            let key = pg::state::Key::Tablespace(Oid(tablespace.oid));
            self.directory.insert(key);
            let path = payload::value(tablespace.location.as_bytes());
            self.pages.insert(keys::value(key), path);
        }
        self.pages.insert(keys::file(0, 0), payload::value(&self.files.to_bytes()));
        let snapshot = Snapshot {
            end: self.start,
            last_record: Lsn::INVALID,
            counters: Counters { checkpoint: control.checkpoint, parameters: control.parameters },
            directory: std::mem::take(&mut self.directory),
        };
        self.pages.insert(keys::SNAPSHOT, payload::value(&snapshot.to_bytes()));
        self.write_pages().await?;
        let mut catalog = Catalog::default();
        for (&tag, &blocks) in &self.sizes {
            catalog.add_base(tag, blocks);
        }
        let hints_logged = control.parameters.wal_log_hints || data_checksums;
        catalog.note_hints_logged(Lsn::INVALID, hints_logged);
        let flushed_through = Some(Version(self.start.0));
        let catalog = Some(catalog.to_bytes(Lsn::MAX));
        let commit = Commit { layers: Vec::new(), flushed_through, catalog };
        self.store.commit(commit).await.map_err(|source| self.failed(source))?;
        Ok(control)
    }

    fn failed(&self, source: std::io::Error) -> Error {
        Error::file("write layers in", self.store.directory(), source)
    }
}

/// The next whole page of what is buffered and what has arrived. A page cut off by the file's end is nothing.
fn next_page(buffer: &mut Vec<u8>, bytes: &mut &[u8]) -> Option<Box<Page>> {
    let missing = (PAGE_BYTES - buffer.len()).min(bytes.len());
    let (taken, rest) = bytes.split_at(missing);
    buffer.extend_from_slice(taken);
    *bytes = rest;
    if buffer.len() < PAGE_BYTES {
        return None;
    }
    let page = std::mem::take(buffer).into_boxed_slice().try_into();
    page.ok()
}
