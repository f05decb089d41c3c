//! The store of one timeline: its layers on disk, the manifest that makes them count, reading and writing.
//!
//! Invariants:
//! 1. A layer counts from the moment that the manifest names it, and is durable by then; files that the manifest does not
//!    name are removed when the store is opened.
//! 2. A change of the manifest is made as a whole, whatever becomes of the task that asked for it.
//! 3. What changes layers into other layers runs one at a time; reading never waits for it.
//!
//! Ancestors are the owner's business: reading answers what this timeline has.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use runtime::{executor, fs};

use crate::cache::Recent;
use crate::entry::{FoundEntry, OwnedEntry};
use crate::key::Key;
use crate::layer::block::Block;
use crate::layer::reader::Layer;
use crate::layer::writer::{LayerWriter, Litter};
use crate::layer::{self, Kind, LayerInfo};
use crate::layer_map::LayerMap;
use crate::limits::{
    BLOCK_CACHE_BYTES_MAX, COMPRESSION_LEVEL, INDEX_CACHE_BYTES_MAX, LAYERS_OPEN_MAX,
};
use crate::manifest::{Edit, Log, Manifest};
use crate::store::remote::{Absent, Remote};
use crate::turn::Turn;
use crate::version::Version;

pub mod compaction;
pub mod gc;
mod merge;
pub mod remote;
pub mod scrub;

/// The store of one timeline. Clones share it.
#[derive(Clone)]
pub struct TimelineStore {
    inner: Rc<Inner>,
}

/// How a store works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// zstd's.
    pub compression_level: i32,
    /// Of the decompressed blocks held in memory.
    pub block_cache_bytes: usize,
    /// Of the indexes held in memory.
    pub index_cache_bytes: usize,
    pub layers_open: usize,
    /// Of whoever writes the manifest.
    pub generation: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            compression_level: COMPRESSION_LEVEL,
            block_cache_bytes: BLOCK_CACHE_BYTES_MAX,
            index_cache_bytes: INDEX_CACHE_BYTES_MAX,
            layers_open: LAYERS_OPEN_MAX,
            generation: 0,
        }
    }
}

struct Inner {
    directory: PathBuf,
    options: Options,
    manifest: RefCell<Manifest>,
    log: RefCell<Option<Log>>,
    map: RefCell<LayerMap>,
    totals: Cell<Totals>,
    next_number: Cell<u64>,
    catalog: RefCell<Rc<[u8]>>,
    open: RefCell<Recent<u64, Layer>>,
    blocks: RefCell<Recent<(u64, usize), Block>>,
    litter: Litter,
    /// Files of changes that failed and may be durable nevertheless: litter as soon as a later change is.
    in_doubt: RefCell<Vec<PathBuf>>,
    /// Changes of the manifest.
    changing: Turn,
    /// Compaction and collection.
    maintaining: Turn,
    /// Where layers are besides this directory.
    remote: RefCell<Option<Remote>>,
    absent: Absent,
    /// How often the manifest has changed, changes of place alone not counted.
    changes: Cell<u64>,
    /// Nothing changes any more.
    closed: Cell<bool>,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    flushed_bytes: Cell<u64>,
    written_bytes: Cell<u64>,
    blocks_read: Cell<u64>,
    blocks_found: Cell<u64>,
    fetched_bytes: Cell<u64>,
    evicted_bytes: Cell<u64>,
}

fn count(counter: &Cell<u64>, more: u64) {
    counter.set(counter.get() + more);
}

/// Sums over the layers.
#[derive(Clone, Copy, Default)]
struct Totals {
    layers: u64,
    level0: u64,
    images: u64,
    bytes: u64,
    raw_bytes: u64,
    entries: u64,
    local_bytes: u64,
    remote_bytes: u64,
}

impl Totals {
    fn add(&mut self, layer: &LayerInfo) {
        self.layers += 1;
        self.level0 += u64::from(layer.kind == Kind::Level0);
        self.images += u64::from(layer.kind == Kind::Image);
        self.bytes += layer.bytes;
        self.raw_bytes += layer.raw_bytes;
        self.entries += layer.entries;
        self.local_bytes += layer.bytes * u64::from(layer.place.local);
        self.remote_bytes += layer.bytes * u64::from(layer.place.remote);
    }

    fn subtract(&mut self, layer: &LayerInfo) {
        self.layers -= 1;
        self.level0 -= u64::from(layer.kind == Kind::Level0);
        self.images -= u64::from(layer.kind == Kind::Image);
        self.bytes -= layer.bytes;
        self.raw_bytes -= layer.raw_bytes;
        self.entries -= layer.entries;
        self.local_bytes -= layer.bytes * u64::from(layer.place.local);
        self.remote_bytes -= layer.bytes * u64::from(layer.place.remote);
    }
}

/// What a change of the manifest adds.
#[derive(Debug, Default)]
pub struct Commit {
    pub layers: Vec<LayerInfo>,
    /// Everything up to here is in layers now.
    pub flushed_through: Option<Version>,
    /// The owner's catalog as of then.
    pub catalog: Option<Vec<u8>>,
}

/// Any change of the manifest.
#[derive(Default)]
struct Change {
    commit: Commit,
    removed: Vec<u64>,
    kept_from: Option<Version>,
}

/// Figures of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub layers: u64,
    /// Layers that still are to be merged.
    pub level0_layers: u64,
    pub image_layers: u64,
    /// Of the layer files.
    pub bytes: u64,
    /// Of the entries in them before compression.
    pub raw_bytes: u64,
    pub entries: u64,
    /// Bytes of layers that the owner has added since the store was opened.
    pub flushed_bytes: u64,
    /// The same, and those written by compaction: their ratio is the write amplification.
    pub written_bytes: u64,
    /// Layers open now, and the memory of their indexes.
    pub open_layers: u64,
    pub index_bytes: u64,
    /// Memory of decompressed blocks.
    pub block_cache_bytes: u64,
    /// Blocks that had to be read, and that were found in memory.
    pub blocks_read: u64,
    pub blocks_found: u64,
    /// Bytes of layers that are in this directory, and that are in the object store.
    pub local_bytes: u64,
    pub remote_bytes: u64,
    /// Bytes of layers that were fetched, and that were removed here because the object store has them.
    pub fetched_bytes: u64,
    pub evicted_bytes: u64,
}

fn catalog_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:016x}.catalog"))
}

impl TimelineStore {
    /// An empty store in an existing directory that has none.
    pub async fn create(directory: &Path) -> io::Result<TimelineStore> {
        Log::create(directory, &Manifest::default()).await?;
        TimelineStore::open(directory).await
    }

    /// Opens a store; removes files that no manifest came to name.
    pub async fn open(directory: &Path) -> io::Result<TimelineStore> {
        TimelineStore::open_with(directory, Options::default()).await
    }

    /// The same, working in another way.
    ///
    /// # Errors
    /// `NotFound` when there is none, `InvalidData` when a file is damaged or missing; it is named.
    pub async fn open_with(directory: &Path, options: Options) -> io::Result<TimelineStore> {
        let (log, mut manifest) = Log::open(directory).await?;
        let facts = manifest.facts;
        if facts.generation > options.generation && options.generation != 0 {
            let message = format!("generation {} has taken over", facts.generation);
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        manifest.facts.generation = facts.generation.max(options.generation);
        let catalog = match facts.catalog {
            Some((number, checksum)) => read_catalog(directory, number, checksum).await?,
            None => Vec::new(),
        };
        let highest = clean(directory, &manifest).await?;
        let mut totals = Totals::default();
        manifest.layers.values().for_each(|layer| totals.add(layer));
        let map = LayerMap::build(manifest.layers.values().copied().collect()).await;
        let inner = Inner {
            directory: directory.to_owned(),
            options,
            next_number: Cell::new(facts.next_number.max(highest + 1)),
            manifest: RefCell::new(manifest),
            log: RefCell::new(Some(log)),
            map: RefCell::new(map),
            totals: Cell::new(totals),
            catalog: RefCell::new(catalog.into()),
            open: RefCell::new(Recent::new(options.index_cache_bytes, options.layers_open)),
            blocks: RefCell::new(Recent::new(options.block_cache_bytes, usize::MAX)),
            litter: Litter::default(),
            in_doubt: RefCell::default(),
            changing: Turn::default(),
            maintaining: Turn::default(),
            remote: RefCell::default(),
            absent: Absent::default(),
            changes: Cell::new(0),
            closed: Cell::new(false),
            counters: Counters::default(),
        };
        Ok(TimelineStore { inner: Rc::new(inner) })
    }

    pub fn directory(&self) -> &Path {
        &self.inner.directory
    }

    /// Everything up to here is in layers.
    pub fn flushed_through(&self) -> Version {
        self.inner.manifest.borrow().facts.flushed_through
    }

    /// Versions before this one may be gone, but for those that were asked to be kept.
    pub fn kept_from(&self) -> Version {
        self.inner.manifest.borrow().facts.kept_from
    }

    /// The owner's catalog; empty if there has been none.
    pub fn catalog(&self) -> Vec<u8> {
        self.inner.catalog.borrow().to_vec()
    }

    pub fn stats(&self) -> Stats {
        let Inner { totals, open, blocks, counters, .. } = &*self.inner;
        let (totals, open, blocks) = (totals.get(), open.borrow(), blocks.borrow());
        Stats {
            layers: totals.layers,
            level0_layers: totals.level0,
            image_layers: totals.images,
            bytes: totals.bytes,
            raw_bytes: totals.raw_bytes,
            entries: totals.entries,
            flushed_bytes: counters.flushed_bytes.get(),
            written_bytes: counters.written_bytes.get(),
            open_layers: open.len() as u64,
            index_bytes: open.weight() as u64,
            block_cache_bytes: blocks.weight() as u64,
            blocks_read: counters.blocks_read.get(),
            blocks_found: counters.blocks_found.get(),
            local_bytes: totals.local_bytes,
            remote_bytes: totals.remote_bytes,
            fetched_bytes: counters.fetched_bytes.get(),
            evicted_bytes: counters.evicted_bytes.get(),
        }
    }

    /// The layers, in the order of their numbers.
    pub fn layers(&self) -> Vec<LayerInfo> {
        self.inner.manifest.borrow().layers.values().copied().collect()
    }

    /// The versions of each key (`keys` sorted) that lie above its `newer_than` and not above `at`: oldest first, from the
    /// newest whole one on; from the oldest there is, if none is whole.
    ///
    /// # Errors
    /// `InvalidData` when a layer is damaged; what the system says.
    pub async fn read(
        &self,
        keys: &[Key],
        at: Version,
        newer_than: &[Option<Version>],
    ) -> io::Result<Vec<Vec<OwnedEntry>>> {
        let found = self.find(keys, at, newer_than).await?;
        let to_owned = |all: Vec<FoundEntry>| all.iter().map(|it| it.entry().to_owned()).collect();
        Ok(found.into_iter().map(to_owned).collect())
    }

    /// The same, left in the blocks that they were read with: of each layer that counts for a key, those that have versions
    /// of it. Sorted keys find a block that they share in memory.
    ///
    /// # Errors
    /// Those of [`TimelineStore::read`].
    pub async fn find(
        &self,
        keys: &[Key],
        at: Version,
        newer_than: &[Option<Version>],
    ) -> io::Result<Vec<Vec<FoundEntry>>> {
        let mut all = Vec::with_capacity(keys.len());
        for (number, &key) in keys.iter().enumerate() {
            let after = newer_than.get(number).copied().flatten();
            all.push(self.inner.find(key, at, after).await?);
        }
        Ok(all)
    }

    /// Begins a layer; it counts when a commit names it.
    pub async fn begin_layer(&self) -> io::Result<LayerWriter> {
        self.inner.begin_layer().await
    }

    /// Makes finished layers count, all at once and durably.
    ///
    /// # Errors
    /// What the system says; the change may or may not come to light when the store is opened next.
    pub async fn commit(&self, commit: Commit) -> io::Result<()> {
        let bytes = commit.layers.iter().map(|layer| layer.bytes).sum();
        self.change(Change { commit, ..Change::default() }).await?;
        count(&self.inner.counters.flushed_bytes, bytes);
        Ok(())
    }

    /// Lets nothing change any more: what is under way is made first, what comes later is refused. The directory can go
    /// then, and its name can be another store's, which nobody who still has this one will touch.
    pub async fn close(&self) {
        let _turn = self.inner.changing.take().await;
        self.inner.closed.set(true);
    }

    pub fn is_closed(&self) -> bool {
        self.inner.closed.get()
    }

    /// In a task of its own, so that it is done as a whole if it is begun.
    async fn change(&self, change: Change) -> io::Result<()> {
        let inner = Rc::clone(&self.inner);
        let task = executor::spawn(async move {
            let _turn = inner.changing.take().await;
            inner.change(change).await
        });
        task.await.map_err(io::Error::other)?
    }
}

impl Inner {
    async fn find(
        self: &Rc<Self>,
        key: Key,
        at: Version,
        after: Option<Version>,
    ) -> io::Result<Vec<FoundEntry>> {
        loop {
            let layers = self.map.borrow().search(key, at, after);
            let mut read = Read { key, at, after, found: Vec::new() };
            match self.read_layers(&layers, &mut read).await {
                // Replaced by others in the meantime: those have what it had.
                Err(Failure { layer, error })
                    if error.kind() == io::ErrorKind::NotFound
                        && !self.manifest.borrow().layers.contains_key(&layer) => {}
                Err(Failure { error, .. }) => return Err(error),
                Ok(()) => return Ok(read.end()),
            }
        }
    }

    async fn read_layers(
        self: &Rc<Self>,
        layers: &[LayerInfo],
        read: &mut Read,
    ) -> Result<(), Failure> {
        for info in layers {
            if read.after.is_some_and(|after| info.newest <= after) {
                break;
            }
            let in_layer = async {
                let layer = self.layer(info).await?;
                self.read_layer(&layer, read).await
            };
            in_layer.await.map_err(|error| Failure { layer: info.number, error })?;
        }
        Ok(())
    }

    /// A key's versions in one layer, the newest first, until one is whole.
    async fn read_layer(&self, layer: &Layer, read: &mut Read) -> io::Result<()> {
        let mut number = layer.rank(read.key, read.at);
        while let Some(before) = number.checked_sub(1) {
            number = before;
            if layer.last_key(number).is_none_or(|last| last < read.key) {
                return Ok(());
            }
            let block = self.block(layer, number).await?;
            if read.take(&block) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// A layer for reading, from those that are held open.
    async fn layer(self: &Rc<Self>, info: &LayerInfo) -> io::Result<Rc<Layer>> {
        self.absent.note_use(info.number);
        if let Some(layer) = self.open.borrow_mut().get(&info.number) {
            return Ok(layer);
        }
        let layer = Rc::new(self.open_layer(info).await?);
        self.open.borrow_mut().put(info.number, Rc::clone(&layer), layer.weight());
        Ok(layer)
    }

    async fn block(&self, layer: &Layer, number: usize) -> io::Result<Rc<Block>> {
        let name = (layer.info.number, number);
        if let Some(block) = self.blocks.borrow_mut().get(&name) {
            count(&self.counters.blocks_found, 1);
            return Ok(block);
        }
        let block = Rc::new(layer.block(number).await?);
        count(&self.counters.blocks_read, 1);
        self.blocks.borrow_mut().put(name, Rc::clone(&block), block.weight());
        Ok(block)
    }

    async fn begin_layer(&self) -> io::Result<LayerWriter> {
        self.check_open()?;
        self.remove_litter().await;
        let (number, litter) = (self.take_number(), Rc::clone(&self.litter));
        let level = self.options.compression_level;
        LayerWriter::create_with(&self.directory, number, level, litter).await
    }

    fn check_open(&self) -> io::Result<()> {
        if self.closed.get() { Err(io::Error::other("the store is closed")) } else { Ok(()) }
    }

    async fn remove_litter(&self) {
        let litter = self.litter.take();
        for path in litter {
            // One that stays goes away when the store is opened.
            let _left = fs::remove_file(path).await;
        }
    }

    fn take_number(&self) -> u64 {
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        number
    }

    async fn change(&self, change: Change) -> io::Result<()> {
        self.check_open()?;
        let Change { commit, removed, kept_from } = change;
        let Commit { layers, flushed_through, catalog } = commit;
        let mut facts = self.manifest.borrow().facts;
        let old_catalog = facts.catalog;
        facts.flushed_through = facts.flushed_through.max(flushed_through.unwrap_or_default());
        facts.kept_from = facts.kept_from.max(kept_from.unwrap_or_default());
        let mut made = self.paths(&layers);
        if let Some(catalog) = &catalog {
            let number = self.take_number();
            facts.catalog = Some((number, crc32c::crc32c(catalog)));
            made.push(catalog_path(&self.directory, number));
        }
        facts.next_number = self.next_number.get();
        let edit = Edit { facts, added: layers, removed };
        if let Err(error) = self.write_change(&edit, catalog.as_deref()).await {
            self.give_up(made).await;
            return Err(error);
        }
        let mut gone = self.apply(&edit);
        count(&self.changes, 1);
        if let Some(catalog) = catalog {
            *self.catalog.borrow_mut() = catalog.into();
        }
        if let Some((number, _)) = old_catalog.filter(|_| old_catalog != facts.catalog) {
            gone.push(catalog_path(&self.directory, number));
        }
        self.litter.borrow_mut().append(&mut gone);
        self.remove_litter().await;
        self.settle().await;
        Ok(())
    }

    async fn write_change(&self, edit: &Edit, catalog: Option<&[u8]>) -> io::Result<()> {
        if let (Some(catalog), Some((number, _))) = (catalog, edit.facts.catalog) {
            fs::write_atomic(catalog_path(&self.directory, number), catalog.to_vec()).await?;
        }
        if !edit.added.is_empty() {
            // The layers' names are durable before the manifest names them.
            fs::sync_dir(&self.directory).await?;
        }
        self.append(edit).await
    }

    fn paths(&self, layers: &[LayerInfo]) -> Vec<PathBuf> {
        layers.iter().map(|layer| layer::path(&self.directory, layer.number)).collect()
    }

    /// Files that no manifest will name go at once: the disk may be full of what was tried again and again. Those that one
    /// may name at the next opening, because a change of it may be durable, stay until a later one is.
    async fn give_up(&self, mut made: Vec<PathBuf>) {
        let in_doubt = self.log.borrow().as_ref().is_none_or(Log::is_in_doubt);
        let list = if in_doubt { &self.in_doubt } else { &*self.litter };
        list.borrow_mut().append(&mut made);
        self.remove_litter().await;
    }

    async fn append(&self, edit: &Edit) -> io::Result<()> {
        let mut log = self.log.take().expect("changes take turns");
        let appended = log.append(edit).await;
        *self.log.borrow_mut() = Some(log);
        if appended.is_ok() {
            self.litter.borrow_mut().append(&mut self.in_doubt.borrow_mut());
        }
        appended
    }

    /// Makes a durable change count; the files that it made superfluous.
    fn apply(&self, edit: &Edit) -> Vec<PathBuf> {
        let (mut manifest, mut map) = (self.manifest.borrow_mut(), self.map.borrow_mut());
        let mut totals = self.totals.get();
        let mut gone = Vec::new();
        for &number in &edit.removed {
            if let Some(layer) = manifest.layers.get(&number) {
                totals.subtract(layer);
                map.remove(number);
                self.open.borrow_mut().remove(&number);
                self.absent.forget(number);
                gone.push(layer::path(&self.directory, number));
            }
        }
        for layer in &edit.added {
            match manifest.layers.get(&layer.number) {
                // It is at another place, and otherwise as it was: nobody asks the map for the place.
                Some(before) => totals.subtract(before),
                None => {
                    count(&self.counters.written_bytes, layer.bytes);
                    map.insert(*layer);
                }
            }
            totals.add(layer);
        }
        self.totals.set(totals);
        manifest.apply(edit);
        gone
    }

    /// Shortens what has grown long. A failure means that it stays long.
    async fn settle(&self) {
        if self.map.borrow().is_unsettled() {
            let layers = self.map.borrow().layers();
            let map = LayerMap::build(layers).await;
            *self.map.borrow_mut() = map;
        }
        let mut log = self.log.take().expect("changes take turns");
        if log.is_long() {
            let manifest = self.manifest.borrow().clone();
            if let Err(error) = log.compact(&manifest).await {
                tracing::warn!(%error, "manifest not shortened");
            }
        }
        *self.log.borrow_mut() = Some(log);
    }
}

/// Something that could not be read, and the layer that it is in.
struct Failure {
    layer: u64,
    error: io::Error,
}

/// The reading of one key.
struct Read {
    key: Key,
    at: Version,
    /// Nothing at or below this is wanted (any more: a whole version was found there).
    after: Option<Version>,
    found: Vec<FoundEntry>,
}

impl Read {
    /// Takes the key's versions in a block, the newest first; answers whether earlier blocks of the layer are of no interest.
    fn take(&mut self, block: &Rc<Block>) -> bool {
        let mut number = block.rank(self.key, self.at);
        while let Some(before) = number.checked_sub(1) {
            number = before;
            let Some(entry) = block.get(number).filter(|entry| entry.key == self.key) else {
                return true;
            };
            if self.after.is_some_and(|after| entry.version <= after) {
                return true;
            }
            self.found.extend(FoundEntry::new(block, number));
            if entry.whole {
                self.after = Some(entry.version);
                return true;
            }
        }
        false
    }

    /// The oldest first; of two of the same version the whole one counts.
    fn end(mut self) -> Vec<FoundEntry> {
        self.found.sort_by_key(|found| (found.version, !found.whole));
        self.found.dedup_by_key(|found| found.version);
        let whole = self.found.iter().rposition(|found| found.whole).unwrap_or(0);
        self.found.split_off(whole)
    }
}

async fn read_catalog(directory: &Path, number: u64, checksum: u32) -> io::Result<Vec<u8>> {
    let path = catalog_path(directory, number);
    let bytes = fs::read(&path).await?;
    if crc32c::crc32c(&bytes) == checksum {
        return Ok(bytes);
    }
    let message = format!("catalog \"{}\" does not match its checksum", path.display());
    Err(io::Error::new(io::ErrorKind::InvalidData, message))
}

/// Removes layers and catalogs whose commit never came, and checks that the others are there. The highest number seen.
async fn clean(directory: &Path, manifest: &Manifest) -> io::Result<u64> {
    let mut highest = 0;
    let mut lengths = BTreeMap::new();
    for entry in fs::read_dir(directory).await? {
        let name = entry.name.to_string_lossy();
        let catalog = name.strip_suffix(".catalog").and_then(|n| u64::from_str_radix(n, 16).ok());
        let is_named = match (layer::number_of(&name), catalog) {
            (Some(number), _) => {
                highest = highest.max(number);
                lengths.insert(number, entry.len);
                manifest.layers.get(&number).is_some_and(|layer| layer.place.local)
            }
            (None, Some(number)) => {
                highest = highest.max(number);
                manifest.facts.catalog.is_some_and(|(named, _)| named == number)
            }
            (None, None) => !(name.ends_with(".tmp") || name.ends_with(".partial")),
        };
        if !is_named {
            fs::remove_file(directory.join(&*name)).await?;
        }
    }
    for (number, layer) in manifest.layers.iter().filter(|(_, layer)| layer.place.local) {
        let path = layer::path(directory, *number);
        let what = match lengths.get(number) {
            Some(&length) if length == layer.bytes => continue,
            Some(length) => format!("has {length} bytes instead of {}", layer.bytes),
            None => "is missing".to_owned(),
        };
        let message = format!("layer \"{}\" {what}", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(highest)
}
