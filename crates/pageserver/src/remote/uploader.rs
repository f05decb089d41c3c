//! What copies: two tasks, one for WAL, one for layers and the inventory.
//!
//! Each tries again for as long as it takes when the store cannot be reached; only what waiting does not cure ends them.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use pg::lsn::Lsn;
use runtime::{clock, executor, fs};
use storage::bucket::{Numbered, Sweep, Swept, Writer};
use storage::store::remote::{Remote, Snapshot};

use super::inventory::{self, Dropped, HistoryFile, Inventory, TimelineObjects};
use super::litter::{self, Needed};
use super::wal::{self, Stream};
use super::{ObjectStore, failed, owner, read_folder, upload_failed, write_folder};
use crate::branches::Branches;
use crate::error::Error;
use crate::follower::Follower;
use crate::limits::{
    CLAIM_LOOK_INTERVAL, DROPPED_TIME_MIN, DROPPED_VERSIONS_KEPT, RETRY_PAUSE_MAX, RETRY_PAUSE_MIN,
    SNAPSHOTS_MAX, STORE_LOOK_INTERVAL, WAL_TIDY_INTERVAL,
};
use crate::timeline::{MAIN, Timeline};
use crate::watch::unless_stopped;
use crate::{lineage, manifest, wal_store};

/// The page server's side of the store, for as long as it has the claim.
struct Uploader {
    store: Rc<ObjectStore>,
    branches: Rc<Branches>,
    directory: std::path::PathBuf,
    writer: Writer,
    /// The last one published.
    inventory: Inventory,
    /// What changed in each timeline, as of the inventory; by folder.
    seen: BTreeMap<String, u64>,
    seen_lists: Lists,
    /// Catalogs that are in the store: number by folder.
    catalogs: BTreeMap<String, u64>,
    /// Folders given so far.
    folders: u64,
    looked_at: clock::Instant,
    tidied_at: clock::Instant,
    sweep: Sweep,
    /// Removed since the last look for litter.
    swept: Swept,
}

impl ObjectStore {
    /// Copies until stopped, or until another page server takes over.
    pub(crate) async fn run(self: Rc<Self>, follower: Rc<Follower>) {
        let copying = async {
            let error = Box::pin(self.copy(&follower)).await;
            self.state.borrow_mut().problem = Some(error.to_string());
            tracing::error!(%error, hint = error.hint(), "nothing is copied to the object store any more");
            loop {
                // New branches, too.
                let timelines = follower.branches().map(|branches| branches.all());
                timelines.into_iter().flatten().for_each(|timeline| timeline.stored.end(&error));
                clock::sleep(STORE_LOOK_INTERVAL).await;
            }
        };
        let _stopped = unless_stopped(follower.stop(), copying).await;
    }

    /// Copies for ever; answers why it cannot go on.
    async fn copy(self: &Rc<Self>, follower: &Rc<Follower>) -> Error {
        let mut probed = false;
        let mut pause = RETRY_PAUSE_MIN;
        loop {
            let branches = loop {
                match follower.branches().filter(|_| self.ready.get()) {
                    Some(branches) => break branches,
                    None => clock::sleep(STORE_LOOK_INTERVAL).await,
                }
            };
            let began = async {
                if !probed {
                    self.bucket.probe().await.map_err(|error| failed(&error))?;
                    probed = true;
                }
                Uploader::begin(Rc::clone(self), branches, follower.directory()).await
            };
            let error = match began.await {
                Ok(uploader) => {
                    pause = RETRY_PAUSE_MIN;
                    uploader.run().await
                }
                Err(error) => error,
            };
            if !error.is_passing() {
                return error;
            }
            self.note_problem(&error);
            clock::sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }

    fn note_problem(&self, error: &Error) {
        let problem = Some(error.to_string());
        let mut state = self.state.borrow_mut();
        state.failures += 1;
        if state.problem != problem {
            tracing::error!(%error, hint = error.hint(), "could not copy to the object store; trying again");
            state.problem = problem;
        }
    }

    fn note_success(&self) {
        if self.state.borrow_mut().problem.take().is_some() {
            tracing::info!("the object store works again");
        }
    }

    /// Copies the WAL of all streams for ever.
    async fn copy_wal(self: Rc<Self>) -> Error {
        let mut pause = RETRY_PAUSE_MIN;
        loop {
            match self.copy_wal_once().await {
                Ok(true) => pause = RETRY_PAUSE_MIN,
                Ok(false) => clock::sleep(STORE_LOOK_INTERVAL).await,
                Err(error) if error.is_passing() => {
                    self.note_problem(&error);
                    clock::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_PAUSE_MAX);
                }
                Err(error) => return error,
            }
        }
    }

    /// One piece of each stream that has one; whether there was any.
    async fn copy_wal_once(&self) -> Result<bool, Error> {
        let folders: Vec<String> = self.state.borrow().wal.keys().cloned().collect();
        let mut any = false;
        for folder in folders {
            let next = {
                let mut state = self.state.borrow_mut();
                let Some(stream) = state.wal.get_mut(&folder) else { continue };
                let Some(range) = stream.next(self.wal_interval) else { continue };
                (Rc::clone(&stream.timeline), stream.id(), range)
            };
            let (timeline, id, range) = next;
            let Some((piece, bytes)) = Stream::piece(&timeline, id, range).await? else { continue };
            let length = bytes.len() as u64;
            let put = self.bucket.put(&piece.name(&folder), bytes).await;
            put.map_err(|error| failed(&error))?;
            self.state.borrow_mut().sent_bytes += length;
            any = true;
            if let Some(stream) = self.state.borrow_mut().wal.get_mut(&folder) {
                stream.note_piece(&piece);
            }
            self.note_success();
        }
        Ok(any)
    }
}

impl Uploader {
    /// Claims the store and finds out what it has.
    async fn begin(
        store: Rc<ObjectStore>,
        branches: Rc<Branches>,
        directory: std::path::PathBuf,
    ) -> Result<Uploader, Error> {
        let document = Numbered::new(&store.bucket, inventory::FOLDER);
        let owner::Claimed { writer, inventory } = owner::claim(&directory, &document).await?;
        let generation = writer.generation();
        {
            let mut state = store.state.borrow_mut();
            state.generation = generation;
            state.wal.clear();
        }
        tracing::info!(store = store.address, generation, "object store claimed");
        let now = clock::now();
        let mut uploader = Uploader {
            sweep: Sweep::new(&store.bucket),
            swept: Swept::default(),
            store,
            branches,
            directory,
            writer,
            inventory,
            seen: BTreeMap::new(),
            seen_lists: Lists::default(),
            catalogs: BTreeMap::new(),
            folders: 0,
            looked_at: now,
            tidied_at: now,
        };
        uploader.note_catalogs();
        uploader.begin_timelines().await?;
        // From now on the new streams count, and nobody else's.
        let mut first = uploader.inventory.clone();
        uploader.put_streams(&mut first);
        uploader.publish(first).await?;
        Ok(uploader)
    }

    /// Copies for ever; answers why it cannot go on. Dropping it ends the copying of WAL, too.
    async fn run(mut self) -> Error {
        let mut wal = Copying(Some(executor::spawn(Rc::clone(&self.store).copy_wal())));
        let mut pause = RETRY_PAUSE_MIN;
        loop {
            if let Some(ended) = wal.0.take_if(|copying| copying.is_finished()) {
                let message = "the copying of WAL ended".to_owned();
                return ended.await.unwrap_or(Error::Store { message, hint: None });
            }
            match self.round().await {
                Ok(()) => {
                    pause = RETRY_PAUSE_MIN;
                    clock::sleep(STORE_LOOK_INTERVAL).await;
                }
                Err(error) if error.is_passing() => {
                    self.store.note_problem(&error);
                    clock::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_PAUSE_MAX);
                }
                Err(error) => return error,
            }
        }
    }

    /// Copies what has changed, if something has; removes what is not needed here or there any more.
    async fn round(&mut self) -> Result<(), Error> {
        self.begin_timelines().await?;
        if self.has_changed() {
            let waiting =
                *self.store.state.borrow_mut().waiting_since.get_or_insert_with(clock::now);
            self.copy_all().await?;
            let mut state = self.store.state.borrow_mut();
            if state.waiting_since == Some(waiting) {
                state.waiting_since = None;
            }
            drop(state);
            self.store.note_success();
        }
        self.evict().await?;
        if clock::now() - self.looked_at >= CLAIM_LOOK_INTERVAL {
            self.writer.check().await.map_err(|error| failed(&error))?;
            self.looked_at = clock::now();
        }
        if clock::now() - self.tidied_at >= WAL_TIDY_INTERVAL {
            self.tidy_wal().await?;
            self.tidied_at = clock::now();
        }
        // All that was to be published is: what is not named now is not about to be. Whether we were replaced is found
        // out elsewhere, and litter harms nobody.
        if let Err(error) = Box::pin(self.sweep()).await {
            tracing::warn!(%error, "could not remove litter from the object store");
            self.sweep.put_off();
        }
        Ok(())
    }

    /// Gives every timeline a folder, connects its layers, begins its WAL.
    async fn begin_timelines(&mut self) -> Result<(), Error> {
        let generation = self.writer.generation();
        let mut folders = BTreeSet::new();
        for timeline in self.branches.all() {
            let connected = timeline.store.remote();
            let folder = match connected {
                Some(remote) => remote.folder,
                None => self.connect(&timeline).await?,
            };
            folders.insert(folder.clone());
            if self.store.state.borrow().wal.contains_key(&folder) {
                continue;
            }
            timeline.store.set_generation(generation);
            let known = self.inventory.head.timelines.iter().find(|known| known.folder == folder);
            let known = known.map(|known| known.streams.clone()).unwrap_or_default();
            let (bucket, id) = (&self.store.bucket, wal::first_stream(generation));
            let stream = Stream::begin(timeline, bucket, &folder, &known, id).await?;
            self.store.state.borrow_mut().wal.insert(folder, stream);
        }
        self.store.state.borrow_mut().wal.retain(|folder, _| folders.contains(folder));
        Ok(())
    }

    /// A folder that no timeline has or had.
    async fn connect(&mut self, timeline: &Timeline) -> Result<String, Error> {
        let folder = match read_folder(&timeline.layers).await? {
            Some(folder) => folder,
            None => {
                self.folders += 1;
                let generation = self.writer.generation();
                let folder = litter::folder_name(&timeline.name, generation, self.folders);
                write_folder(&timeline.layers, &folder).await?;
                folder
            }
        };
        let bucket = self.store.bucket.clone();
        timeline.store.connect(Remote { bucket, folder: folder.clone() });
        Ok(folder)
    }

    fn has_changed(&self) -> bool {
        let state = self.store.state.borrow();
        let is_new = |timeline: &Rc<Timeline>| {
            let folder = timeline.store.remote().map(|remote| remote.folder).unwrap_or_default();
            self.seen.get(&folder) != Some(&timeline.store.changes())
        };
        self.branches.all().iter().any(is_new)
            || self.lists() != self.seen_lists
            || state.wal.values().any(|stream| stream.registered < stream.starts.len())
    }

    fn lists(&self) -> Lists {
        let main = self.branches.get(MAIN);
        Lists {
            branches: self.branches.list_bytes(),
            postgres_timeline: main.map_or(0, |main| main.postgres_timeline()),
            leases: self.branches.all().iter().map(|timeline| leases(timeline)).collect(),
        }
    }

    async fn histories(&self) -> Result<Vec<HistoryFile>, Error> {
        let directory = self.directory.join(wal_store::FOLDER);
        let failed = |source| Error::file("read directory", &directory, source);
        let mut files = Vec::new();
        for entry in fs::read_dir(&directory).await.map_err(failed)? {
            let name = entry.name.to_string_lossy().into_owned();
            if !lineage::is_file_name(&name) {
                continue;
            }
            let path = directory.join(&name);
            let read = fs::read(&path).await;
            let bytes = read.map_err(|source| Error::file("read", &path, source))?;
            files.push(HistoryFile { name, text: String::from_utf8_lossy(&bytes).into_owned() });
        }
        files.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(files)
    }

    /// Copies all timelines as of now and publishes that.
    async fn copy_all(&mut self) -> Result<(), Error> {
        let (list, timelines) = (self.branches.list_bytes(), self.branches.all());
        let lists = self.lists();
        let mut next = Inventory::empty(&self.inventory.head.history);
        next.head.dropped = self.inventory.head.dropped.clone();
        next.head.branches = String::from_utf8_lossy(&list).into_owned();
        next.head.histories = self.histories().await?;
        let manifest = manifest::read(&self.directory).await?;
        let manifest =
            manifest.ok_or_else(|| Error::Damaged("the base backup is gone".to_owned()))?;
        next.head.base_manifest = String::from_utf8_lossy(&manifest.to_bytes()).into_owned();
        let mut seen = BTreeMap::new();
        for timeline in timelines {
            let Some(remote) = timeline.store.remote() else { continue };
            let changes = timeline.store.changes();
            let snapshot = match self.copy_layers(&timeline).await {
                // Deleted meanwhile: the list has changed, and what there is now is copied next.
                Err(_) if timeline.store.is_closed() => return Ok(()),
                copied => copied?,
            };
            self.copy_catalog(&remote, &snapshot).await?;
            let epoch = self.branches.writing(&timeline.name).map_or(0, |writing| writing.epoch);
            next.head.timelines.push(TimelineObjects {
                name: timeline.name.clone(),
                folder: remote.folder.clone(),
                epoch,
                leases: leases(&timeline),
                ..TimelineObjects::default()
            });
            next.manifests.push(snapshot.remote_manifest());
            seen.insert(remote.folder, changes);
        }
        self.put_streams(&mut next);
        self.publish(next).await?;
        (self.seen, self.seen_lists) = (seen, lists);
        Ok(())
    }

    /// A snapshot of which all layers are in the store.
    async fn copy_layers(&self, timeline: &Timeline) -> Result<Snapshot, Error> {
        let store = Rc::clone(&self.store);
        let sent: Rc<dyn Fn(u64)> =
            Rc::new(move |bytes| store.state.borrow_mut().sent_bytes += bytes);
        for _ in 0..SNAPSHOTS_MAX {
            let snapshot = timeline.store.snapshot();
            let uploaded = timeline.store.upload(&snapshot, &sent).await;
            if uploaded.map_err(|error| upload_failed(error, timeline))? {
                return Ok(snapshot);
            }
        }
        let message = "layers are merged faster than they are copied".to_owned();
        Err(Error::Store { message, hint: None })
    }

    async fn copy_catalog(&mut self, remote: &Remote, snapshot: &Snapshot) -> Result<(), Error> {
        let Some((number, _)) = snapshot.manifest.facts.catalog else { return Ok(()) };
        if self.catalogs.get(&remote.folder) == Some(&number) {
            return Ok(());
        }
        let put = remote.bucket.put(&remote.catalog(number), snapshot.catalog.to_vec()).await;
        put.map_err(|error| failed(&error))?;
        self.store.state.borrow_mut().sent_bytes += snapshot.catalog.len() as u64;
        self.catalogs.insert(remote.folder.clone(), number);
        Ok(())
    }

    fn put_streams(&self, inventory: &mut Inventory) {
        let state = self.store.state.borrow();
        for timeline in &mut inventory.head.timelines {
            if let Some(stream) = state.wal.get(&timeline.folder) {
                timeline.streams = stream.starts.clone();
            }
        }
    }

    /// Makes `next` the newest inventory; then removes what has been in none for long enough.
    async fn publish(&mut self, mut next: Inventory) -> Result<(), Error> {
        let (version, at) = (self.writer.number() + 1, clock::wall_micros() / 1_000_000);
        let named = objects(&next);
        for object in objects(&self.inventory).difference(&named) {
            let object = object.clone();
            next.head.dropped.push(Dropped { object, version, at });
        }
        let is_due = |dropped: &Dropped| {
            version >= dropped.version + DROPPED_VERSIONS_KEPT
                && at - dropped.at >= DROPPED_TIME_MIN.as_secs().cast_signed()
                && !named.contains(&dropped.object)
        };
        // They are removed before the inventory forgets them, so that none is left over; no recent one names them.
        for dropped in next.head.dropped.iter().filter(|dropped| is_due(dropped)) {
            let deleted = self.store.bucket.delete(&dropped.object).await;
            deleted.map_err(|error| failed(&error))?;
        }
        next.head.dropped.retain(|dropped| !is_due(dropped) && !named.contains(&dropped.object));
        let published = self.writer.publish(&next.to_bytes(version)).await;
        published.map_err(|error| failed(&error))?;
        self.looked_at = clock::now();
        let mut state = self.store.state.borrow_mut();
        state.published_at = Some(self.looked_at);
        for timeline in &next.head.timelines {
            if let Some(stream) = state.wal.get_mut(&timeline.folder) {
                stream.note_registered(timeline.streams.len());
            }
        }
        drop(state);
        self.inventory = next;
        Ok(())
    }

    fn note_catalogs(&mut self) {
        let Inventory { head, manifests } = &self.inventory;
        for (timeline, manifest) in head.timelines.iter().zip(manifests) {
            if let Some((number, _)) = manifest.facts.catalog {
                self.catalogs.insert(timeline.folder.clone(), number);
            }
        }
    }

    /// Removes layers here that are there, if there is a limit.
    async fn evict(&self) -> Result<(), Error> {
        let limit = self.store.local_layer_bytes_max;
        let timelines = self.branches.all();
        let local = |timeline: &Rc<Timeline>| timeline.store.stats().local_bytes;
        let mut all: u64 = timelines.iter().map(local).sum();
        for timeline in timelines.iter().filter(|_| limit != 0) {
            let Some(excess) = all.checked_sub(limit).filter(|excess| *excess > 0) else { break };
            let own = local(timeline);
            let evicted = timeline.store.evict(own.saturating_sub(excess)).await;
            let evicted = evicted
                .map_err(|source| Error::file("remove layers of", &timeline.layers, source))?;
            // More than was counted, if some came since.
            all = all.saturating_sub(evicted.bytes);
        }
        Ok(())
    }

    /// Removes pieces of WAL that neither we nor the newest inventory need.
    async fn tidy_wal(&self) -> Result<(), Error> {
        let Inventory { head, manifests } = &self.inventory;
        for (known, manifest) in head.timelines.iter().zip(manifests) {
            let Some(timeline) = self.branches.get(&known.name) else { continue };
            let segments = timeline.wal_layout.segments().await?;
            let Some((first, _)) = segments.first() else { continue };
            let first = first * u64::from(timeline.wal_layout.segment_bytes);
            let needed = Lsn(first.min(manifest.facts.flushed_through.0));
            for piece in wal::pieces(&self.store.bucket, &known.folder).await? {
                if piece.end > needed.0 {
                    break;
                }
                let deleted = self.store.bucket.delete(&piece.name(&known.folder)).await;
                deleted.map_err(|error| failed(&error))?;
            }
        }
        Ok(())
    }
}

impl Uploader {
    /// Looks for objects that nothing names, from time to time, and removes some of those that were there the last time.
    async fn sweep(&mut self) -> Result<(), Error> {
        if self.sweep.wants_look() {
            let bucket = &self.store.bucket;
            let listed = bucket.list(litter::FOLDER).await.map_err(|error| failed(&error))?;
            let needed = Needed::of_newest(bucket).await?;
            let own = |needed: &Needed| needed.generation() == self.writer.generation();
            let Some(mut needed) = needed.filter(own) else {
                self.sweep.put_off();
                return Ok(());
            };
            needed.add_inventory(&self.inventory);
            needed.add_here(&self.store, &self.branches.all());
            let found = self.sweep.look(listed, |name| needed.is_litter(name));
            self.store.state.borrow_mut().litter = found;
        }
        if !self.sweep.has_due() {
            return Ok(());
        }
        let removed = self.sweep.remove(&self.writer).await.map_err(|error| failed(&error))?;
        self.swept = self.swept + removed;
        let mut state = self.store.state.borrow_mut();
        state.litter_removed += removed.objects;
        state.litter.objects = state.litter.objects.saturating_sub(removed.objects);
        state.litter.bytes = state.litter.bytes.saturating_sub(removed.bytes);
        if !self.sweep.has_due() {
            let Swept { objects, bytes } = std::mem::take(&mut self.swept);
            tracing::info!(objects, bytes, "litter removed from the object store");
        }
        Ok(())
    }
}

/// What may change without any timeline's layers.
#[derive(Default, PartialEq)]
struct Lists {
    branches: Vec<u8>,
    /// The timeline of Postgres' that `main`'s WAL is on.
    postgres_timeline: u32,
    leases: Vec<String>,
}

fn leases(timeline: &Timeline) -> String {
    if timeline.leases.list().is_empty() {
        return String::new();
    }
    String::from_utf8_lossy(&timeline.leases.to_bytes()).into_owned()
}

/// Names of all objects of the timelines, WAL not among them.
fn objects(inventory: &Inventory) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for (timeline, manifest) in inventory.head.timelines.iter().zip(&inventory.manifests) {
        let folder = &timeline.folder;
        all.extend(manifest.layers.keys().map(|number| format!("{folder}/{number:016x}.layer")));
        let catalog = manifest.facts.catalog;
        all.extend(catalog.map(|(number, _)| format!("{folder}/{number:016x}.catalog")));
    }
    all
}

/// The task that copies WAL; it ends with the value.
struct Copying(Option<executor::JoinHandle<Error>>);

impl Drop for Copying {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}
