//! What is litter in the object store: layers, catalogs and WAL that no page server can come to need any more.
//!
//! A crash between the upload of a layer and the inventory that was to name it leaves some, and so does a page server that
//! goes on writing after another has taken over; the WAL of deleted branches is all litter. `storage::bucket::Sweep`
//! removes it, and says when.
//!
//! Invariants:
//! 1. What does not have a name of ours, exactly as we write it, is not litter, whatever it is.
//! 2. Neither is what a generation after ours wrote: then we are the one who may not remove anything.
//! 3. What is named by the newest inventory, by a timeline here, or in the list of what is dropped is not litter.
//! 4. What is litter stays it: numbers of files are given once, and streams of WAL that do not count never count again.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use storage::bucket::{Bucket, Numbered, Swept};
use storage::store::remote::generation_of;

use super::inventory::{self, Inventory, StreamStart};
use super::wal::{self, Piece};
use super::{ObjectStore, failed};
use crate::error::Error;
use crate::timeline::Timeline;

/// Folder of the folders of all timelines.
pub(super) const FOLDER: &str = "timelines";

/// All that is needed, as far as it is known here.
#[derive(Debug, Default)]
pub(super) struct Needed {
    /// The newest claim.
    generation: u64,
    timelines: BTreeMap<String, Objects>,
    dropped: BTreeSet<String>,
}

/// Of a timeline.
#[derive(Debug, Default)]
struct Objects {
    /// Numbers of layers and catalogs.
    files: BTreeSet<u64>,
    /// Each list says which WAL counts for somebody.
    streams: Vec<Vec<StreamStart>>,
}

impl Needed {
    fn new(generation: u64) -> Needed {
        Needed { generation, ..Needed::default() }
    }

    /// What the newest inventory names; `None` if there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) async fn of_newest(bucket: &Bucket) -> Result<Option<Needed>, Error> {
        let newest = Numbered::new(bucket, inventory::FOLDER).newest().await;
        let Some(newest) = newest.map_err(|error| failed(&error))? else { return Ok(None) };
        let mut needed = Needed::new(newest.generation);
        needed.add_inventory(&Inventory::from_bytes(&newest.body).map_err(Error::Damaged)?);
        Ok(Some(needed))
    }

    /// Of the claim that it is about.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn add_inventory(&mut self, inventory: &Inventory) {
        for (timeline, manifest) in inventory.head.timelines.iter().zip(&inventory.manifests) {
            let objects = self.timelines.entry(timeline.folder.clone()).or_default();
            objects.files.extend(manifest.layers.keys());
            objects.files.extend(manifest.facts.catalog.map(|(number, _)| number));
            objects.streams.push(timeline.streams.clone());
        }
        let dropped = inventory.head.dropped.iter();
        self.dropped.extend(dropped.map(|dropped| dropped.object.clone()));
    }

    /// Adds what these timelines have here, and the WAL that is being copied.
    pub(super) fn add_here(&mut self, store: &ObjectStore, timelines: &[Rc<Timeline>]) {
        for timeline in timelines {
            let Some(remote) = timeline.store.remote() else { continue };
            let objects = self.timelines.entry(remote.folder).or_default();
            let manifest = timeline.store.snapshot().manifest;
            objects.files.extend(manifest.layers.keys());
            objects.files.extend(manifest.facts.catalog.map(|(number, _)| number));
        }
        for (folder, stream) in &store.state.borrow().wal {
            let objects = self.timelines.entry(folder.clone()).or_default();
            objects.streams.push(stream.starts.clone());
        }
    }

    pub(super) fn is_litter(&self, name: &str) -> bool {
        let Some(object) = Object::parse(name) else { return false };
        if object.generations().any(|generation| generation > self.generation)
            || self.dropped.contains(name)
        {
            return false;
        }
        let Some(timeline) = self.timelines.get(object.folder) else { return true };
        match &object.what {
            What::File(number) => !timeline.files.contains(number),
            What::Wal(piece) => !timeline.streams.iter().any(|streams| piece.counts_in(streams)),
        }
    }
}

/// An object of a timeline, as its name tells it.
struct Object<'n> {
    folder: &'n str,
    /// Of the claim under which the folder was given.
    generation: u64,
    what: What,
}

enum What {
    /// A layer or a catalog.
    File(u64),
    Wal(Piece),
}

impl Object<'_> {
    /// `None` for names that are not exactly as we write them.
    fn parse(name: &str) -> Option<Object<'_>> {
        let mut parts = name.split('/');
        let (root, timeline, file) = (parts.next()?, parts.next()?, parts.next()?);
        let folder = name.get(..root.len() + 1 + timeline.len())?;
        let mut fields = timeline.rsplitn(3, '.');
        let (count, generation, branch) = (fields.next()?, fields.next()?, fields.next()?);
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        let (count, generation) = (number(count)?, number(generation)?);
        if branch.is_empty() || folder != folder_name(branch, generation, count) {
            return None;
        }
        let what = match (file, parts.next()) {
            ("wal", Some(_)) => What::Wal(Piece::parse(name)?),
            (file, None) => What::File(number(file.split('.').next()?)?),
            _ => return None,
        };
        let is_ours = match &what {
            What::Wal(piece) => piece.name(folder) == name,
            What::File(number) => ["layer", "catalog"]
                .iter()
                .any(|kind| format!("{folder}/{number:016x}.{kind}") == name),
        };
        is_ours.then_some(Object { folder, generation, what })
    }

    /// Those that had to do with it.
    fn generations(&self) -> impl Iterator<Item = u64> {
        let own = match &self.what {
            What::File(number) => generation_of(*number),
            What::Wal(piece) => wal::generation_of(piece.stream),
        };
        [self.generation, own].into_iter()
    }
}

/// The folder of a timeline's objects: the so-manieth that a claim gave.
pub(super) fn folder_name(branch: &str, generation: u64, count: u64) -> String {
    format!("{FOLDER}/{branch}.{generation:x}.{count:x}")
}

impl ObjectStore {
    /// What of the store nothing names at the moment; something that is being copied just now may be among it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn litter(&self, timelines: &[Rc<Timeline>]) -> Result<Swept, Error> {
        let listed = self.bucket.list(FOLDER).await.map_err(|error| failed(&error))?;
        let Some(mut needed) = Needed::of_newest(&self.bucket).await? else {
            return Ok(Swept::default());
        };
        needed.add_here(self, timelines);
        let litter = listed.iter().filter(|object| needed.is_litter(&object.name));
        Ok(litter.fold(Swept::default(), |sum, object| sum + Swept::of(object)))
    }
}

#[cfg(test)]
mod tests {
    use storage::manifest::Manifest;

    use super::super::inventory::{Dropped, TimelineObjects};
    use super::*;

    const MAIN: &str = "timelines/main.1.1";

    /// Generation 2 has taken over from 1 at LSN 50.
    fn needed() -> Needed {
        let mut inventory = Inventory::empty("aa");
        let streams = [(1 << 16, 0), (2 << 16, 50)].map(|(id, from)| StreamStart { id, from });
        inventory.head.timelines.push(TimelineObjects {
            name: "main".to_owned(),
            folder: MAIN.to_owned(),
            streams: streams.to_vec(),
            ..TimelineObjects::default()
        });
        let mut manifest = Manifest::default();
        manifest.facts.catalog = Some((7, 0));
        inventory.manifests.push(manifest);
        let object = format!("{MAIN}/{:016x}.layer", 9);
        inventory.head.dropped.push(Dropped { object, version: 3, at: 4 });
        let mut needed = Needed::new(2);
        needed.add_inventory(&inventory);
        needed
    }

    fn wal(folder: &str, start: u64, end: u64, stream: u64) -> String {
        format!("{folder}/wal/{start:016x}-{end:016x}-{stream:016x}-00000001")
    }

    #[test]
    fn what_nothing_names_is_litter() {
        let layer = |folder: &str, number: u64| format!("{folder}/{number:016x}.layer");
        for name in [
            layer(MAIN, 8),
            layer(MAIN, (1 << 40) + 7),
            layer(MAIN, (2 << 40) + 7),
            format!("{MAIN}/{:016x}.catalog", 6),
            layer("timelines/gone.1.2", 7),
            layer("timelines/a.b.2.1", 7),
            wal("timelines/gone.1.2", 0, 10, 1 << 16),
            wal(MAIN, 50, 60, 1 << 16),
            wal(MAIN, 40, 50, 2 << 16),
            wal(MAIN, 0, 10, (1 << 16) + 1),
        ] {
            assert!(needed().is_litter(&name), "{name}");
        }
    }

    #[test]
    fn what_is_named_or_to_be_dropped_or_of_a_later_generation_is_none() {
        let layer = |folder: &str, number: u64| format!("{folder}/{number:016x}.layer");
        for name in [
            format!("{MAIN}/{:016x}.catalog", 7),
            layer(MAIN, 9),
            layer(MAIN, (3 << 40) + 7),
            layer("timelines/new.3.1", 1),
            wal("timelines/gone.1.2", 0, 10, 3 << 16),
            wal(MAIN, 0, 10, 1 << 16),
            wal(MAIN, 40, 60, 1 << 16),
            wal(MAIN, 50, 60, 2 << 16),
            wal(MAIN, 40, 60, 2 << 16),
        ] {
            assert!(!needed().is_litter(&name), "{name}");
        }
    }

    #[test]
    fn what_does_not_have_a_name_of_ours_is_none() {
        let wal = wal(MAIN, 50, 60, 1 << 16);
        for name in [
            "",
            "timelines",
            "timelines/notes.txt",
            "inventory/00000000000000000001",
            "probe/0000000000000001-0",
            "elsewhere/main.1.1/0000000000000008.layer",
            "timelines/main.1.1/8.layer",
            "timelines/main.1.1/0000000000000008.LAYER",
            "timelines/main.1.1/000000000000000A.layer",
            "timelines/main.1.1/0000000000000008.layer.bak",
            "timelines/main.1.1/0000000000000008.other",
            "timelines/main.1.1/0000000000000008.layer/more",
            "timelines/main.01.1/0000000000000008.layer",
            "timelines/main.1/0000000000000008.layer",
            "timelines/.1.1/0000000000000008.layer",
            "timelines/main.1.1/deeper/0000000000000008.layer",
            &format!("{wal}-1"),
            &format!("{wal}/1"),
            &wal.to_uppercase().replace("TIMELINES/MAIN", "timelines/main").replace("WAL", "wal"),
        ] {
            assert_eq!(needed().is_litter(name), name == wal, "{name}");
        }
    }
}
