//! The relations of a base backup into the store, as their bytes arrive; the transaction logs, too. Their sizes make the
//! first catalog.
//!
//! Invariant: no more than one layer's pages are in memory, whatever the size of the cluster.

use std::collections::BTreeMap;
use std::path::Path;

use pg::datadir::layout::{RelationFile, SEGMENT_BLOCKS};
use pg::datadir::relation::{Fork, RelTag};
use pg::datadir::slru::Slru;
use pg::lsn::Lsn;
use storage::entry::Entry;
use storage::key::Key;
use storage::store::{Commit, TimelineStore};
use storage::version::Version;

use crate::catalog::Catalog;
use crate::error::Error;
use crate::keys;
use crate::limits::{IMPORT_PAGES_MAX, PAGE_BYTES};
use crate::page_cache::Page;
use crate::payload;

/// Files on their way into the store.
pub struct Import<'s> {
    store: &'s TimelineStore,
    /// The version of all pages: where redo begins.
    start: Lsn,
    /// The next page of the current file, if it has pages for us.
    next: Option<Next>,
    /// The current file's page that is not whole yet.
    buffer: Vec<u8>,
    pages: BTreeMap<Key, Vec<u8>>,
    sizes: BTreeMap<RelTag, u32>,
}

#[derive(Clone, Copy)]
enum Next {
    Block(RelTag, u32),
    Log(Slru, u32),
    /// Read over: the free space map is in no WAL.
    Nothing,
}

impl<'s> Import<'s> {
    pub fn new(store: &'s TimelineStore, start: Lsn) -> Import<'s> {
        let (pages, sizes) = (BTreeMap::new(), BTreeMap::new());
        Import { store, start, next: None, buffer: Vec::new(), pages, sizes }
    }

    /// A file begins; its path is relative to the data directory. Answers whether it is to be kept as a file.
    pub fn begin_file(&mut self, path: &Path) -> bool {
        self.buffer.clear();
        let text = path.to_str().unwrap_or("");
        if let Some(RelationFile { tag, segment }) = RelationFile::parse(text) {
            if tag.fork == Fork::Fsm {
                self.next = Some(Next::Nothing);
                return false;
            }
            let first = segment.saturating_mul(SEGMENT_BLOCKS);
            let size = self.sizes.entry(tag).or_default();
            *size = (*size).max(first);
            self.next = Some(Next::Block(tag, first));
            return false;
        }
        self.next = Slru::parse(text).map(|(slru, page)| Next::Log(slru, page));
        true
    }

    /// Whether a file has begun and not ended.
    pub fn is_in_file(&self) -> bool {
        self.next.is_some()
    }

    /// Bytes of the current file.
    pub async fn data(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while let Some(next) = self.next {
            let Some(page) = next_page(&mut self.buffer, &mut bytes) else { break };
            let (key, following) = match next {
                Next::Nothing => continue,
                Next::Block(tag, block) => {
                    let following = block.saturating_add(1);
                    self.sizes.entry(tag).and_modify(|size| *size = (*size).max(following));
                    (keys::block(tag, block), Next::Block(tag, following))
                }
                Next::Log(slru, page) => {
                    (keys::slru(slru, page), Next::Log(slru, page.saturating_add(1)))
                }
            };
            self.next = Some(following);
            self.pages.insert(key, payload::copied_image(&page));
            if self.pages.len() >= IMPORT_PAGES_MAX {
                self.write_pages().await?;
            }
        }
        Ok(())
    }

    /// The current file ends. What is left of a page is none.
    pub fn end_file(&mut self) {
        self.next = None;
        self.buffer.clear();
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

    /// Everything has arrived: writes the last pages and the catalog.
    pub async fn finish(mut self, hints_logged: bool) -> Result<(), Error> {
        self.write_pages().await?;
        let mut catalog = Catalog::default();
        for (&tag, &blocks) in &self.sizes {
            catalog.add_base(tag, blocks);
        }
        catalog.note_hints_logged(Lsn::INVALID, hints_logged);
        let flushed_through = Some(Version(self.start.0));
        let catalog = Some(catalog.to_bytes(Lsn::MAX));
        let commit = Commit { layers: Vec::new(), flushed_through, catalog };
        self.store.commit(commit).await.map_err(|source| self.failed(source))
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
