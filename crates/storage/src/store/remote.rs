//! Layers in the object store: copied there, fetched when they are read, removed here when room is wanted.
//!
//! Invariants:
//! 1. The manifest says that a layer is in the object store only when it is, and removes it here only then.
//! 2. What was fetched counts only when all its checksums match. Of many who want one absent layer, one fetches it.
//! 3. A layer comes to its name, and goes from it, in the turn of the manifest's changes: never both at once.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::rc::Rc;

use runtime::{executor, fs};

use super::{Inner, TimelineStore, count};
use crate::bucket::{Bucket, BucketError, Fault};
use crate::layer::reader::Layer;
use crate::layer::{self, LayerInfo, Place};
use crate::limits::{FETCHES_MAX, UPLOADS_AT_ONCE};
use crate::manifest::{Edit, Manifest};
use crate::turn::Turn;

/// Bits of a file's number that count; those above are the generation that gave it, so that no two writers of one
/// timeline ever give the same.
const NUMBER_BITS: u32 = 40;

/// The generation that gave a file its number.
#[must_use]
pub fn generation_of(number: u64) -> u64 {
    number >> NUMBER_BITS
}

/// Where the objects of a timeline are.
#[derive(Clone, Debug)]
pub struct Remote {
    pub bucket: Bucket,
    /// Below the bucket's base; no other timeline ever has the same.
    pub folder: String,
}

/// A timeline as of one change of its manifest.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub manifest: Manifest,
    /// What `manifest.facts.catalog` names.
    pub catalog: Rc<[u8]>,
}

/// Why layers are not copied.
#[derive(Debug)]
pub enum UploadError {
    Store(BucketError),
    /// A file of ours.
    Local(io::Error),
}

/// What was removed here because the object store has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    pub layers: u64,
    pub bytes: u64,
}

/// What is known of layers beyond the manifest.
#[derive(Default)]
pub(super) struct Absent {
    /// When each was used last, in uses.
    used: RefCell<BTreeMap<u64, u64>>,
    now: Cell<u64>,
    /// Layers that are being fetched.
    fetching: RefCell<BTreeMap<u64, Rc<Turn>>>,
}

impl Absent {
    pub(super) fn note_use(&self, number: u64) {
        self.now.set(self.now.get() + 1);
        self.used.borrow_mut().insert(number, self.now.get());
    }

    pub(super) fn forget(&self, number: u64) {
        self.used.borrow_mut().remove(&number);
    }

    fn used(&self, number: u64) -> u64 {
        self.used.borrow().get(&number).copied().unwrap_or_default()
    }
}

impl Remote {
    /// Name of a layer's object.
    #[must_use]
    pub fn layer(&self, number: u64) -> String {
        format!("{}/{number:016x}.layer", self.folder)
    }

    /// Name of a catalog's object.
    #[must_use]
    pub fn catalog(&self, number: u64) -> String {
        format!("{}/{number:016x}.catalog", self.folder)
    }
}

impl Snapshot {
    /// Names of all objects that this timeline consists of.
    #[must_use]
    pub fn objects(&self, remote: &Remote) -> Vec<String> {
        let layers = self.manifest.layers.keys().map(|number| remote.layer(*number));
        let catalog = self.manifest.facts.catalog.map(|(number, _)| remote.catalog(number));
        layers.chain(catalog).collect()
    }

    /// The manifest of somebody who has nothing but the object store.
    #[must_use]
    pub fn remote_manifest(&self) -> Manifest {
        let mut manifest = self.manifest.clone();
        for layer in manifest.layers.values_mut() {
            layer.place = Place { local: false, remote: true };
        }
        manifest
    }
}

impl TimelineStore {
    /// From now on absent layers can be fetched, and layers can be uploaded.
    pub fn connect(&self, remote: Remote) {
        *self.inner.remote.borrow_mut() = Some(remote);
    }

    pub fn remote(&self) -> Option<Remote> {
        self.inner.remote.borrow().clone()
    }

    /// From now on this generation writes: files get numbers that no other generation gives.
    pub fn set_generation(&self, generation: u64) {
        let inner = &self.inner;
        inner.manifest.borrow_mut().facts.generation = generation;
        let first = generation << NUMBER_BITS;
        inner.next_number.set(inner.next_number.get().max(first));
    }

    /// All that counts now.
    pub fn snapshot(&self) -> Snapshot {
        let manifest = self.inner.manifest.borrow().clone();
        Snapshot { manifest, catalog: Rc::clone(&self.inner.catalog.borrow()) }
    }

    /// Changes whenever the layers, or what the manifest says besides, do.
    pub fn changes(&self) -> u64 {
        self.inner.changes.get()
    }

    /// Copies the layers of a snapshot that the object store does not have, a few at a time; `sent` hears of bytes. False
    /// if some of them went meanwhile: then a newer snapshot is to be taken.
    ///
    /// # Errors
    /// When the store refuses or cannot be reached for long, or a file of ours cannot be read.
    pub async fn upload(
        &self,
        snapshot: &Snapshot,
        sent: &Rc<dyn Fn(u64)>,
    ) -> Result<bool, UploadError> {
        let remote = self.remote().ok_or_else(|| UploadError::Local(not_connected()))?;
        let missing = snapshot.manifest.layers.values().filter(|layer| !layer.place.remote);
        let missing: Vec<u64> = missing.map(|layer| layer.number).collect();
        let mut is_whole = true;
        for some in missing.chunks(UPLOADS_AT_ONCE) {
            let uploads: Vec<_> = some
                .iter()
                .map(|&number| {
                    let (inner, remote) = (Rc::clone(&self.inner), remote.clone());
                    let sent = Rc::clone(sent);
                    executor::spawn(async move { inner.upload_layer(&remote, number, sent).await })
                })
                .collect();
            let mut there = Vec::new();
            let mut failed = None;
            for (upload, &number) in uploads.into_iter().zip(some) {
                let ended =
                    upload.await.map_err(|aborted| UploadError::Local(io::Error::other(aborted)));
                match ended.flatten() {
                    Ok(true) => there.push(number),
                    Ok(false) => is_whole = false,
                    Err(error) => failed = Some(error),
                }
            }
            self.relocate(there, |place| Place { remote: true, ..place })
                .await
                .map_err(UploadError::Local)?;
            if let Some(error) = failed {
                return Err(error);
            }
        }
        Ok(is_whole)
    }

    /// Removes layers here that the object store has, those unused for longest first, until at most so many bytes are left.
    ///
    /// # Errors
    /// What the system says.
    pub async fn evict(&self, local_bytes_max: u64) -> io::Result<Evicted> {
        let local_bytes = self.inner.totals.get().local_bytes;
        let Some(mut excess) = local_bytes.checked_sub(local_bytes_max) else {
            return Ok(Evicted::default());
        };
        let both = Place { local: true, remote: true };
        let mut layers = self.layers();
        layers.retain(|layer| layer.place == both);
        layers.sort_by_key(|layer| (self.inner.absent.used(layer.number), layer.number));
        let (mut numbers, mut evicted) = (Vec::new(), Evicted::default());
        for layer in layers {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(layer.bytes);
            evicted = Evicted { layers: evicted.layers + 1, bytes: evicted.bytes + layer.bytes };
            numbers.push(layer.number);
        }
        self.relocate(numbers, |place| Place { local: !place.remote, ..place }).await?;
        count(&self.inner.counters.evicted_bytes, evicted.bytes);
        Ok(evicted)
    }

    /// Fetches all layers that are not here; `fetched` hears of bytes.
    ///
    /// # Errors
    /// As reading.
    pub async fn fetch_all(&self, mut fetched: impl FnMut(u64)) -> io::Result<()> {
        for layer in self.layers().into_iter().filter(|layer| !layer.place.local) {
            drop(self.inner.open_layer(&layer).await?);
            fetched(layer.bytes);
        }
        Ok(())
    }

    /// Changes where layers are, as a whole and in a task of its own; those that are gone are passed over.
    async fn relocate(
        &self,
        numbers: Vec<u64>,
        change: impl Fn(Place) -> Place + 'static,
    ) -> io::Result<()> {
        if numbers.is_empty() {
            return Ok(());
        }
        let inner = Rc::clone(&self.inner);
        let task = executor::spawn(async move {
            let _turn = inner.changing.take().await;
            inner.relocate(&numbers, change).await
        });
        task.await.map_err(io::Error::other)?
    }
}

impl Inner {
    /// Opens a layer, which is fetched first if it is not here. Not among those that are held open.
    pub(super) async fn open_layer(self: &Rc<Self>, info: &LayerInfo) -> io::Result<Layer> {
        loop {
            if self.is_here(info.number) {
                match Layer::open(&self.directory, info).await {
                    // Removed here since we looked.
                    Err(error)
                        if error.kind() == io::ErrorKind::NotFound
                            && !self.is_here(info.number) => {}
                    opened => return opened,
                }
            }
            let (inner, info) = (Rc::clone(self), *info);
            // A task of its own, so that what has come is not lost with the one who asked first.
            let fetch = executor::spawn(async move { inner.fetch(&info).await });
            fetch.await.map_err(io::Error::other)??;
        }
    }

    /// Whether a layer's file is to be here. One that has gone altogether is looked for here, and missed.
    pub(super) fn is_here(&self, number: u64) -> bool {
        self.manifest.borrow().layers.get(&number).is_none_or(|layer| layer.place.local)
    }

    /// Makes a layer local, unless somebody else has by the time it is our turn.
    async fn fetch(&self, info: &LayerInfo) -> io::Result<()> {
        let turn = Rc::clone(self.absent.fetching.borrow_mut().entry(info.number).or_default());
        let fetched = {
            let _turn = turn.take().await;
            if self.is_here(info.number) { Ok(()) } else { self.fetch_now(info).await }
        };
        // Two are left when nobody else waits: ours and the map's.
        if Rc::strong_count(&turn) <= 2 {
            self.absent.fetching.borrow_mut().remove(&info.number);
        }
        fetched
    }

    async fn fetch_now(&self, info: &LayerInfo) -> io::Result<()> {
        let remote = self.remote.borrow().clone().ok_or_else(not_connected)?;
        let arrived = self.directory.join(format!("{:016x}.fetched.tmp", info.number));
        let mut attempt = 1;
        loop {
            match self.download(&remote, info, &arrived).await {
                Err(error)
                    if error.kind() == io::ErrorKind::InvalidData && attempt < FETCHES_MAX =>
                {
                    tracing::warn!(%error, "a layer came damaged from the object store; it is fetched again");
                    attempt += 1;
                }
                Err(error) => {
                    // What is left of it would be removed at the next opening at the latest.
                    let _gone = fs::remove_file(&arrived).await;
                    return Err(error);
                }
                Ok(()) => break,
            }
        }
        let _turn = self.changing.take().await;
        self.check_open()?;
        if !self.manifest.borrow().layers.contains_key(&info.number) {
            // Collected or merged meanwhile.
            return fs::remove_file(&arrived).await;
        }
        fs::rename(&arrived, layer::path(&self.directory, info.number)).await?;
        fs::sync_dir(&self.directory).await?;
        self.relocate(&[info.number], |place| Place { local: true, ..place }).await?;
        count(&self.counters.fetched_bytes, info.bytes);
        tracing::debug!(layer = info.number, bytes = info.bytes, "layer fetched");
        Ok(())
    }

    /// Copies a layer here under another name and holds it against all its checksums.
    async fn download(&self, remote: &Remote, info: &LayerInfo, arrived: &Path) -> io::Result<()> {
        let name = remote.layer(info.number);
        remote.bucket.download(&name, arrived, |_bytes| ()).await.map_err(unreadable)?;
        let checked = match Layer::open_at(arrived.to_owned(), info).await {
            Ok(layer) => layer.verify().await,
            Err(error) => Err(error),
        };
        checked.map_err(|error| io::Error::new(error.kind(), format!("object \"{name}\": {error}")))
    }

    /// Fetches a layer's object only to check it.
    pub(super) async fn scrub_object(
        &self,
        remote: &Remote,
        info: &LayerInfo,
    ) -> Result<(), String> {
        let arrived = self.directory.join(format!("{:016x}.scrubbed.tmp", info.number));
        let checked = self.download(remote, info, &arrived).await;
        // There is none if it could not be fetched.
        let _gone = fs::remove_file(&arrived).await;
        checked.map_err(|error| error.to_string())
    }

    /// False when it is not here any more.
    async fn upload_layer(
        &self,
        remote: &Remote,
        number: u64,
        sent: Rc<dyn Fn(u64)>,
    ) -> Result<bool, UploadError> {
        let path = layer::path(&self.directory, number);
        let uploaded =
            remote.bucket.upload(&path, &remote.layer(number), |bytes| sent(bytes)).await;
        match uploaded {
            Ok(_bytes) => Ok(true),
            Err(_) if !self.manifest.borrow().layers.contains_key(&number) => Ok(false),
            Err(error) => Err(UploadError::Store(error)),
        }
    }

    /// Within the turn of changes.
    async fn relocate(&self, numbers: &[u64], change: impl Fn(Place) -> Place) -> io::Result<()> {
        self.check_open()?;
        let mut edit = Edit::default();
        {
            let manifest = self.manifest.borrow();
            edit.facts = manifest.facts;
            edit.facts.next_number = self.next_number.get();
            for layer in numbers.iter().filter_map(|number| manifest.layers.get(number)) {
                let place = change(layer.place);
                if place != layer.place {
                    edit.added.push(LayerInfo { place, ..*layer });
                }
            }
        }
        if edit.added.is_empty() {
            return Ok(());
        }
        self.append(&edit).await?;
        self.apply(&edit);
        for layer in edit.added.iter().filter(|layer| !layer.place.local) {
            self.open.borrow_mut().remove(&layer.number);
            // One that stays goes away when the store is opened, or is replaced by the same bytes.
            let _left = fs::remove_file(layer::path(&self.directory, layer.number)).await;
        }
        self.settle().await;
        Ok(())
    }
}

fn not_connected() -> io::Error {
    io::Error::other("the layer is in the object store, and none is configured")
}

/// An object that cannot be had, as the error of a file: damage is damage wherever it is.
fn unreadable(error: BucketError) -> io::Error {
    let kind = match error.fault {
        Fault::Damaged(_) | Fault::Short | Fault::Missing => io::ErrorKind::InvalidData,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

impl std::fmt::Display for UploadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            UploadError::Store(error) => error.fmt(f),
            UploadError::Local(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for UploadError {}
