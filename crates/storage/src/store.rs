//! The layers of one timeline on disk: reading the versions of a key, adding layers.
//!
//! Invariants: a layer counts from the moment that the manifest names it, and is durable by then; files that the manifest
//! does not name are removed when the store is opened. Ancestors are the owner's business.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use runtime::fs;

use crate::entry::{Entry, OwnedEntry};
use crate::key::Key;
use crate::layer::{self, Layer, LayerInfo, LayerWriter};
use crate::limits::{BLOCKS_CACHED_MAX, LAYERS_OPEN_MAX};
use crate::manifest::Manifest;
use crate::version::Version;

/// The store of one timeline.
pub struct TimelineStore {
    directory: PathBuf,
    manifest: RefCell<Manifest>,
    next_number: Cell<u64>,
    catalog: RefCell<Vec<u8>>,
    open: RefCell<Recent<u64, Layer>>,
    blocks: RefCell<Recent<(u64, usize), Vec<u8>>>,
    /// Changes of the manifest, one after another.
    changing: Cell<bool>,
    written_bytes: Cell<u64>,
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

/// Figures of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub layers: u64,
    /// Of the layer files.
    pub bytes: u64,
    /// Of the entries in them before compression.
    pub raw_bytes: u64,
    pub entries: u64,
    /// Bytes of layers written since the store was opened.
    pub written_bytes: u64,
}

/// How far a scrub has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubProgress {
    pub bytes_done: u64,
    pub bytes_total: u64,
}

fn catalog_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:016x}.catalog"))
}

impl TimelineStore {
    /// An empty store in an existing directory.
    pub async fn create(directory: &Path) -> io::Result<TimelineStore> {
        Manifest::default().write(directory).await?;
        TimelineStore::open(directory).await
    }

    /// Opens a store; removes files that no manifest came to name.
    pub async fn open(directory: &Path) -> io::Result<TimelineStore> {
        let manifest = Manifest::open(directory).await?;
        let catalog = match manifest.catalog {
            Some((number, checksum)) => read_catalog(directory, number, checksum).await?,
            None => Vec::new(),
        };
        remove_strangers(directory, &manifest).await?;
        Ok(TimelineStore {
            directory: directory.to_owned(),
            next_number: Cell::new(manifest.next_number),
            manifest: RefCell::new(manifest),
            catalog: RefCell::new(catalog),
            open: RefCell::new(Recent::new(LAYERS_OPEN_MAX)),
            blocks: RefCell::new(Recent::new(BLOCKS_CACHED_MAX)),
            changing: Cell::new(false),
            written_bytes: Cell::new(0),
        })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Everything up to here is in layers.
    pub fn flushed_through(&self) -> Version {
        self.manifest.borrow().flushed_through
    }

    /// The owner's catalog; empty if there has been none.
    pub fn catalog(&self) -> Vec<u8> {
        self.catalog.borrow().clone()
    }

    pub fn stats(&self) -> Stats {
        let manifest = self.manifest.borrow();
        let sum = |of: fn(&LayerInfo) -> u64| manifest.layers.iter().map(of).sum();
        Stats {
            layers: manifest.layers.len() as u64,
            bytes: sum(|layer| layer.bytes),
            raw_bytes: sum(|layer| layer.raw_bytes),
            entries: sum(|layer| layer.entries),
            written_bytes: self.written_bytes.get(),
        }
    }

    /// The layers, oldest first.
    pub fn layers(&self) -> Vec<LayerInfo> {
        self.manifest.borrow().layers.clone()
    }

    /// The versions of each key (`keys` sorted) that lie above its `newer_than` and not above `at`: oldest first, from the
    /// newest whole one on; from the oldest there is, if none is whole.
    pub async fn read(
        &self,
        keys: &[Key],
        at: Version,
        newer_than: &[Option<Version>],
    ) -> io::Result<Vec<Vec<OwnedEntry>>> {
        let mut all = Vec::with_capacity(keys.len());
        for (number, &key) in keys.iter().enumerate() {
            let after = newer_than.get(number).copied().flatten();
            all.push(self.read_one(key, at, after).await?);
        }
        Ok(all)
    }

    async fn read_one(
        &self,
        key: Key,
        at: Version,
        after: Option<Version>,
    ) -> io::Result<Vec<OwnedEntry>> {
        let mut candidates: Vec<LayerInfo> = {
            let manifest = self.manifest.borrow();
            let covers = |layer: &&LayerInfo| {
                layer.first <= key
                    && key <= layer.last
                    && layer.oldest <= at
                    && after.is_none_or(|after| layer.newest > after)
            };
            manifest.layers.iter().filter(covers).copied().collect()
        };
        candidates.sort_by_key(|layer| std::cmp::Reverse(layer.newest));
        let mut found: BTreeMap<Version, OwnedEntry> = BTreeMap::new();
        let mut whole: Option<Version> = None;
        for info in candidates {
            if whole.is_some_and(|whole| info.newest <= whole) {
                break;
            }
            let layer = self.layer(&info).await?;
            for number in layer.blocks_of(key) {
                let block = self.block(&layer, info.number, number).await?;
                for entry in entries(&block) {
                    let entry = entry?;
                    let wanted = entry.key == key
                        && entry.version <= at
                        && after.is_none_or(|after| entry.version > after);
                    if wanted {
                        if entry.whole {
                            whole = whole.max(Some(entry.version));
                        }
                        found.insert(entry.version, entry.to_owned());
                    }
                }
            }
        }
        let from = whole.unwrap_or_default();
        Ok(found.split_off(&from).into_values().collect())
    }

    async fn layer(&self, info: &LayerInfo) -> io::Result<Rc<Layer>> {
        if let Some(layer) = self.open.borrow_mut().get(&info.number) {
            return Ok(layer);
        }
        let layer = Rc::new(Layer::open(&self.directory, info).await?);
        self.open.borrow_mut().put(info.number, Rc::clone(&layer));
        Ok(layer)
    }

    async fn block(&self, layer: &Layer, of: u64, number: usize) -> io::Result<Rc<Vec<u8>>> {
        if let Some(block) = self.blocks.borrow_mut().get(&(of, number)) {
            return Ok(block);
        }
        let block = Rc::new(layer.block(number).await?);
        self.blocks.borrow_mut().put((of, number), Rc::clone(&block));
        Ok(block)
    }

    /// Begins a layer; it counts when a commit names it.
    pub async fn begin_layer(&self) -> io::Result<LayerWriter> {
        LayerWriter::create(&self.directory, self.take_number()).await
    }

    fn take_number(&self) -> u64 {
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        number
    }

    /// Makes finished layers count, all at once. Not to be called again before it is done.
    pub async fn commit(&self, commit: Commit) -> io::Result<()> {
        if self.changing.replace(true) {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "the manifest is changing"));
        }
        let _changing = Changing(&self.changing);
        self.change(commit).await
    }

    async fn change(&self, commit: Commit) -> io::Result<()> {
        let mut manifest = self.manifest.borrow().clone();
        self.written_bytes
            .set(self.written_bytes.get() + commit.layers.iter().map(|l| l.bytes).sum::<u64>());
        manifest.layers.extend(commit.layers);
        let old_catalog = manifest.catalog;
        if let Some(catalog) = &commit.catalog {
            let number = self.take_number();
            let path = catalog_path(&self.directory, number);
            fs::write_atomic(&path, catalog.clone()).await?;
            manifest.catalog = Some((number, crc32c::crc32c(catalog)));
        }
        if let Some(through) = commit.flushed_through {
            manifest.flushed_through = manifest.flushed_through.max(through);
        }
        manifest.next_number = self.next_number.get();
        // The layers' names are durable before the manifest names them.
        fs::sync_dir(&self.directory).await?;
        manifest.write(&self.directory).await?;
        let is_replaced = old_catalog != manifest.catalog;
        *self.manifest.borrow_mut() = manifest;
        if let Some(catalog) = commit.catalog {
            *self.catalog.borrow_mut() = catalog;
        }
        if let Some((number, _)) = old_catalog.filter(|_| is_replaced) {
            // If that fails, it goes away when the store is opened.
            let _left = fs::remove_file(catalog_path(&self.directory, number)).await;
        }
        Ok(())
    }

    /// Reads every block of every layer; the answer names what is damaged.
    pub async fn scrub(&self, progress: impl Fn(ScrubProgress)) -> io::Result<Vec<String>> {
        let layers = self.layers();
        let bytes_total = layers.iter().map(|layer| layer.bytes).sum();
        let mut now = ScrubProgress { bytes_done: 0, bytes_total };
        let mut damaged = Vec::new();
        for info in layers {
            progress(now);
            match Layer::open(&self.directory, &info).await {
                Ok(layer) => {
                    for number in 0..layer.blocks() {
                        if let Err(error) = layer.block(number).await {
                            damaged.push(error.to_string());
                        }
                        runtime::executor::yield_now().await;
                    }
                }
                Err(error) => damaged.push(error.to_string()),
            }
            now.bytes_done += info.bytes;
        }
        progress(now);
        Ok(damaged)
    }
}

/// Ends a change of the manifest when it goes, given up half-way or not.
struct Changing<'s>(&'s Cell<bool>);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// The entries of a block.
fn entries(block: &[u8]) -> impl Iterator<Item = io::Result<Entry<'_>>> {
    let mut rest = block;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let entry = Entry::take(&mut rest);
        if entry.is_none() {
            rest = &[];
        }
        Some(entry.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a block is damaged")))
    })
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

/// Layers and catalogs whose commit never came.
async fn remove_strangers(directory: &Path, manifest: &Manifest) -> io::Result<()> {
    for entry in fs::read_dir(directory).await? {
        let name = entry.name.to_string_lossy();
        let layer = layer::number_of(&name);
        let catalog = name.strip_suffix(".catalog").and_then(|n| u64::from_str_radix(n, 16).ok());
        let is_named = match (layer, catalog) {
            (Some(number), _) => manifest.layers.iter().any(|layer| layer.number == number),
            (None, Some(number)) => manifest.catalog.is_some_and(|(named, _)| named == number),
            (None, None) => true,
        };
        if !is_named {
            fs::remove_file(directory.join(&*name)).await?;
        }
    }
    Ok(())
}

/// The things used last.
struct Recent<K, V> {
    things: BTreeMap<K, (Rc<V>, u64)>,
    order: BTreeMap<u64, K>,
    now: u64,
    most: usize,
}

impl<K: Ord + Copy, V> Recent<K, V> {
    fn new(most: usize) -> Recent<K, V> {
        Recent { things: BTreeMap::new(), order: BTreeMap::new(), now: 0, most }
    }

    fn get(&mut self, key: &K) -> Option<Rc<V>> {
        let (thing, used) = self.things.get_mut(key)?;
        self.now += 1;
        self.order.remove(used);
        self.order.insert(self.now, *key);
        *used = self.now;
        Some(Rc::clone(thing))
    }

    fn put(&mut self, key: K, thing: Rc<V>) {
        self.now += 1;
        if let Some((_, used)) = self.things.insert(key, (thing, self.now)) {
            self.order.remove(&used);
        }
        self.order.insert(self.now, key);
        while self.things.len() > self.most {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            self.things.remove(&oldest);
        }
    }
}
