//! A page server's directory out of nothing but its object store.
//!
//! Steps: the newest inventory; its catalogs and its WAL are fetched, the manifests written
//! such that all layers are absent; last of all the file that makes a base backup valid. Layers come when they are read.
//! Nothing is changed in the store: the page server that starts here claims it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pg::lsn::Lsn;
use runtime::bridge::Bridge;
use runtime::fs::{self, File, OpenOptions};
use storage::bucket::{Bucket, Numbered};
use storage::manifest::{Log, Manifest as Layers};
use storage::store::TimelineStore;
use storage::store::remote::Remote;

use super::inventory::{self, Inventory, TimelineObjects};
use super::owner::{Owner, hex};
use super::wal;
use super::{failed, write_folder};
use crate::attachment::Record;
use crate::error::Error;
use crate::limits::CATALOG_BYTES_MAX;
use crate::lineage::{self, Lineage};
use crate::manifest::{self, Manifest};
use crate::settings::Settings;
use crate::timeline::{self, MAIN};
use crate::wal_store::WalLayout;
use crate::{branches, leases, wal_store};

/// How far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub bytes_done: u64,
    pub bytes_total: u64,
}

/// What was recovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    pub system_identifier: u64,
    /// Of the inventory, and who wrote it.
    pub version: u64,
    pub generation: u64,
    pub timelines: usize,
    pub layers: u64,
    /// Bytes of layers; they are in the store only, unless all were asked for.
    pub layer_bytes: u64,
    /// Pages can be asked for up to about here.
    pub end: Lsn,
}

/// Recovers from the store that the settings name into their directory, which is to be empty or not to exist. With `all`,
/// the layers are fetched, too.
///
/// # Errors
/// [`Error::Refused`] when the directory is not empty or the store has no page server; what goes wrong on the way.
pub async fn recover(
    settings: &Settings,
    all: bool,
    report: impl Fn(Progress),
) -> Result<Recovered, Error> {
    let Some(address) = settings.store_address()? else {
        return refused("no object store is named", "give its address");
    };
    let side = |source| Error::Connection { server: "side thread".to_owned(), source };
    let bucket = Bucket::open(&address, Bridge::start().map_err(side)?);
    recover_from(&bucket.map_err(|error| failed(&error))?, &settings.directory, all, report).await
}

/// The same from a bucket that is open.
pub(crate) async fn recover_from(
    bucket: &Bucket,
    directory: &Path,
    all: bool,
    report: impl Fn(Progress),
) -> Result<Recovered, Error> {
    make_directory(directory).await?;
    let listed = fs::read_dir(directory).await;
    if !listed.map_err(|source| Error::file("read directory", directory, source))?.is_empty() {
        return refused(
            &format!("directory \"{}\" is not empty", directory.display()),
            "recover into an empty directory",
        );
    }
    let document = Numbered::new(bucket, inventory::FOLDER);
    let newest = document.newest().await.map_err(|error| failed(&error))?;
    let Some(newest) = newest else {
        return refused("there is no page server in this object store", "check its address");
    };
    let inventory = Inventory::from_bytes(&newest.body).map_err(Error::Damaged)?;
    if !inventory.is_whole() {
        return refused(
            "the object store has no whole base backup yet",
            "the page server that wrote it was lost before its first upload was complete",
        );
    }
    let path = directory.join(manifest::FILE_NAME);
    let base = Manifest::from_bytes(inventory.head.base_manifest.as_bytes(), &path)?;
    let mut recovery = Recovery {
        bucket,
        directory,
        base: &base,
        report: &report,
        progress: Progress::default(),
        folders: vec![directory.to_owned()],
    };
    let end = recovery.fetch(&inventory, all).await?;
    let owner = Owner {
        history: inventory.head.history.clone(),
        writers: vec![hex(&newest.writer)],
        generation: newest.generation,
        recovered_from: Some(newest.number),
    };
    owner.write(directory).await?;
    recovery.sync().await?;
    write(&path, base.to_bytes()).await?;
    let layers = inventory.manifests.iter().flat_map(|manifest| manifest.layers.values());
    Ok(Recovered {
        system_identifier: base.system_identifier,
        version: newest.number,
        generation: newest.generation,
        timelines: inventory.head.timelines.len(),
        layers: layers.clone().count() as u64,
        layer_bytes: layers.map(|layer| layer.bytes).sum(),
        end,
    })
}

struct Recovery<'r> {
    bucket: &'r Bucket,
    directory: &'r Path,
    base: &'r Manifest,
    report: &'r dyn Fn(Progress),
    progress: Progress,
    /// To be synced.
    folders: Vec<PathBuf>,
}

/// A timeline and what is to be fetched of its WAL.
struct Plan<'i> {
    objects: &'i TimelineObjects,
    manifest: &'i Layers,
    wal: Vec<(wal::Piece, u64)>,
}

impl Recovery<'_> {
    /// Everything but what makes it count; the end of `main`'s WAL.
    async fn fetch(&mut self, inventory: &Inventory, all: bool) -> Result<Lsn, Error> {
        let mut plans = Vec::new();
        for (objects, manifest) in inventory.head.timelines.iter().zip(&inventory.manifests) {
            let from = manifest.facts.flushed_through.0.max(self.base.start.0);
            let pieces = wal::pieces(self.bucket, &objects.folder).await?;
            self.check_layers(objects, manifest).await?;
            let wal = wal::cover(&pieces, &objects.streams, from);
            plans.push(Plan { objects, manifest, wal });
        }
        let wal_bytes = |plan: &Plan<'_>| {
            plan.wal.iter().map(|(piece, _)| piece.end - piece.start).sum::<u64>()
        };
        let layer_bytes =
            |plan: &Plan<'_>| plan.manifest.layers.values().map(|layer| layer.bytes).sum::<u64>();
        self.progress.bytes_total = plans.iter().map(wal_bytes).sum::<u64>();
        if all {
            self.progress.bytes_total += plans.iter().map(layer_bytes).sum::<u64>();
        }
        (self.report)(self.progress);
        let mut end = self.base.end;
        let lineages = self.write_histories(inventory).await?;
        for plan in &plans {
            let wal_end = self.fetch_timeline(plan, &lineages, all).await?;
            if plan.objects.name == MAIN {
                end = wal_end.max(Lsn(plan.manifest.facts.flushed_through.0)).max(end);
            }
        }
        write(
            &self.directory.join(branches::FILE_NAME),
            inventory.head.branches.clone().into_bytes(),
        )
        .await?;
        Ok(end)
    }

    /// That all layers are there, in their length.
    async fn check_layers(
        &self,
        objects: &TimelineObjects,
        manifest: &Layers,
    ) -> Result<(), Error> {
        let listed = self.bucket.list(&objects.folder).await.map_err(|error| failed(&error))?;
        let lengths: BTreeMap<String, u64> =
            listed.into_iter().map(|object| (object.name, object.bytes)).collect();
        let remote = self.remote(objects);
        for layer in manifest.layers.values() {
            let name = remote.layer(layer.number);
            match lengths.get(&name) {
                Some(&bytes) if bytes == layer.bytes => {}
                Some(bytes) => {
                    let expected = layer.bytes;
                    let message =
                        format!("object \"{name}\" has {bytes} bytes instead of {expected}");
                    return Err(Error::Damaged(message));
                }
                None => return Err(Error::Damaged(format!("object \"{name}\" is missing"))),
            }
        }
        Ok(())
    }

    fn remote(&self, objects: &TimelineObjects) -> Remote {
        Remote { bucket: self.bucket.clone(), folder: objects.folder.clone() }
    }

    /// Answers where its WAL ends.
    async fn fetch_timeline(
        &mut self,
        plan: &Plan<'_>,
        lineages: &BTreeMap<String, Lineage>,
        all: bool,
    ) -> Result<Lsn, Error> {
        let objects = plan.objects;
        let nowhere = || Error::Damaged(format!("branch \"{}\" is in no list", objects.name));
        let lineage = lineages.get(&objects.name).ok_or_else(nowhere)?;
        let own = self.directory.join(timeline::FOLDER).join(&objects.name);
        self.make_directory(self.directory.join(timeline::FOLDER)).await?;
        self.make_directory(own.clone()).await?;
        if let Some((number, checksum)) = plan.manifest.facts.catalog {
            let name = self.remote(objects).catalog(number);
            let damaged = |what| Error::Damaged(format!("object \"{name}\" {what}"));
            let read = self.bucket.get(&name, CATALOG_BYTES_MAX).await;
            let bytes =
                read.map_err(|error| failed(&error))?.ok_or_else(|| damaged("is missing"))?;
            if crc32c::crc32c(&bytes) != checksum {
                return Err(damaged("does not match its checksum"));
            }
            write(&own.join(format!("{number:016x}.catalog")), bytes).await?;
        }
        let created = Log::create(&own, plan.manifest).await;
        created.map_err(|source| Error::file("write layers in", &own, source))?;
        write_folder(&own, &objects.folder).await?;
        if !objects.leases.is_empty() {
            write(&own.join(leases::FILE_NAME), objects.leases.clone().into_bytes()).await?;
        }
        if objects.epoch > 0 {
            // Whoever was attached is not to be followed any more: it may be gone, or be ahead of us.
            Record { epoch: objects.epoch, server: None }.write(&own).await?;
        }
        let wal = if objects.name == MAIN {
            self.directory.join(wal_store::FOLDER)
        } else {
            own.join(wal_store::FOLDER)
        };
        let layout = WalLayout {
            directory: wal,
            lineage: lineage.clone(),
            segment_bytes: self.base.wal_segment_bytes,
        };
        let end = self.fetch_wal(plan, &layout).await?;
        if all {
            self.fetch_layers(plan, &own).await?;
        }
        Ok(end)
    }

    async fn fetch_layers(&mut self, plan: &Plan<'_>, own: &Path) -> Result<(), Error> {
        let failed = |source| Error::file("fetch layers into", own, source);
        let store = TimelineStore::open(own).await.map_err(failed)?;
        store.connect(self.remote(plan.objects));
        store.fetch_all(|bytes| self.advance(bytes)).await.map_err(failed)
    }

    /// The pieces into segment files.
    async fn fetch_wal(&mut self, plan: &Plan<'_>, layout: &WalLayout) -> Result<Lsn, Error> {
        if plan.wal.is_empty() {
            return Ok(Lsn::INVALID);
        }
        self.make_directory(layout.directory.clone()).await?;
        let (mut at, mut open) = (0, None::<(u64, File)>);
        for (piece, until) in &plan.wal {
            let bytes = piece.read(self.bucket, &plan.objects.folder).await?;
            let from = piece.start.max(at);
            let range = place(piece.start, from)..place(piece.start, *until);
            let part = bytes.get(range).unwrap_or_default().to_vec();
            let number = Lsn(from).segment(layout.segment_bytes);
            let path = layout.path(number);
            let failed = |source| Error::file("write WAL segment", &path, source);
            let file = match open.take() {
                Some((open, file)) if open == number => file,
                before => {
                    sync(before).await.map_err(failed)?;
                    let options =
                        OpenOptions { write: true, create: true, ..OpenOptions::default() };
                    File::open(&path, options).await.map_err(failed)?
                }
            };
            let offset = Lsn(from).segment_offset(layout.segment_bytes);
            file.write_all_at(part, offset).await.0.map_err(failed)?;
            open = Some((number, file));
            at = *until;
            self.advance(piece.end - piece.start);
        }
        sync(open).await.map_err(|source| Error::file("sync", &layout.directory, source))?;
        Ok(Lsn(at))
    }

    /// Writes the files with the histories of Postgres' own timelines; answers which of those each timeline's WAL is on.
    async fn write_histories(
        &mut self,
        inventory: &Inventory,
    ) -> Result<BTreeMap<String, Lineage>, Error> {
        let directory = self.directory.join(wal_store::FOLDER);
        self.make_directory(directory.clone()).await?;
        for file in &inventory.head.histories {
            if !lineage::is_file_name(&file.name) {
                return Err(Error::Damaged(format!("\"{}\" is no timeline history", file.name)));
            }
            write(&directory.join(&file.name), file.text.clone().into_bytes()).await?;
        }
        let main = Lineage::read(&directory, self.base.timeline).await?;
        let mut lineages = BTreeMap::from([(MAIN.to_owned(), main)]);
        for (name, from, at) in branches::points(inventory.head.branches.as_bytes())? {
            let from = lineages
                .get(&from)
                .ok_or_else(|| Error::Damaged(format!("branch \"{name}\" comes from nowhere")))?;
            let lineage = from.of_branch(at);
            lineages.insert(name, lineage);
        }
        Ok(lineages)
    }

    async fn make_directory(&mut self, path: PathBuf) -> Result<(), Error> {
        make_directory(&path).await?;
        self.folders.push(path);
        Ok(())
    }

    fn advance(&mut self, bytes: u64) {
        self.progress.bytes_done += bytes;
        (self.report)(self.progress);
    }

    async fn sync(&self) -> Result<(), Error> {
        for folder in &self.folders {
            let synced = fs::sync_dir(folder).await;
            synced.map_err(|source| Error::file("sync directory", folder, source))?;
        }
        Ok(())
    }
}

fn place(start: u64, at: u64) -> usize {
    usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX)
}

async fn sync(open: Option<(u64, File)>) -> std::io::Result<()> {
    match open {
        Some((_, file)) => file.sync_all().await,
        None => Ok(()),
    }
}

async fn make_directory(path: &Path) -> Result<(), Error> {
    let made = fs::create_dir_all(path).await;
    made.map_err(|source| Error::file("create directory", path, source))
}

async fn write(path: &Path, bytes: Vec<u8>) -> Result<(), Error> {
    let written = fs::write_atomic(path, bytes).await;
    written.map_err(|source| Error::file("write", path, source))
}

fn refused<T>(message: &str, hint: &'static str) -> Result<T, Error> {
    Err(Error::Refused { message: message.to_owned(), hint })
}
