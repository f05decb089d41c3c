//! The page server's state on its core. It reads what is on disk, or takes the base backup if there is none, beginning
//! again when something goes wrong; from then on each timeline follows who writes it: see [`crate::branches`].

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;

use pg::lsn::Lsn;
use runtime::fs;
use runtime::metrics::LocalHistogram;

use crate::api::{Backup, Phase, Problem, Scrub, Status};
use crate::basebackup::{self, Cluster};
use crate::branches::Branches;
use crate::connection::{Connection, Login};
use crate::error::Error;
use crate::flush::Shortage;
use crate::ingest;
use crate::link::Link;
use crate::maintenance;
use crate::manifest;
use crate::remote::ObjectStore;
use crate::settings::Settings;
use crate::timeline::{MAIN, Timeline};
use crate::watch::{Watch, unless_stopped};

/// A page server's state on its core.
pub struct Follower {
    pub settings: Settings,
    directory: PathBuf,
    branches: RefCell<Option<Rc<Branches>>>,
    /// What earlier runs received is taken in: each branch's end is its end.
    is_whole: Cell<bool>,
    link: Link,
    /// Set before anything runs; `None`: there is none.
    store: RefCell<Option<Rc<ObjectStore>>>,
    backup: Cell<Option<Backup>>,
    listening_at: Cell<SocketAddr>,
    pub clients: Cell<u64>,
    pub pages_served: Cell<u64>,
    pub page_errors: Cell<u64>,
    /// Where the times of reads are counted, once somebody asks for them.
    pub page_seconds: RefCell<Option<LocalHistogram>>,
    /// The check of all checksums that was begun last.
    pub scrub: RefCell<Scrub>,
}

impl Follower {
    pub fn new(settings: Settings) -> Follower {
        Follower {
            directory: settings.directory.clone(),
            branches: RefCell::new(None),
            is_whole: Cell::new(false),
            link: Link::new(MAIN),
            store: RefCell::default(),
            backup: Cell::new(None),
            listening_at: Cell::new(settings.listen),
            clients: Cell::new(0),
            pages_served: Cell::new(0),
            page_errors: Cell::new(0),
            page_seconds: RefCell::new(None),
            scrub: RefCell::default(),
            settings,
        }
    }

    /// Notes the address that the page service really has.
    pub fn listening_at(&self, address: SocketAddr) {
        self.listening_at.set(address);
    }

    /// The timeline that follows Postgres, once there is a base backup.
    pub fn timeline(&self) -> Option<Rc<Timeline>> {
        self.branches()?.get(MAIN)
    }

    /// All timelines, once there is a base backup.
    pub fn branches(&self) -> Option<Rc<Branches>> {
        self.branches.borrow().clone()
    }

    /// The same once all that earlier runs received is taken in. Before that a branch seems to end too early: a compute
    /// that began there would have what comes behind cut off.
    pub fn whole_branches(&self) -> Option<Rc<Branches>> {
        self.branches().filter(|_branches| self.is_whole.get())
    }

    /// The object store, if there is one.
    pub(crate) fn store(&self) -> Option<Rc<ObjectStore>> {
        self.store.borrow().clone()
    }

    /// Copies to this object store.
    pub(crate) fn set_store(&self, store: Rc<ObjectStore>) {
        *self.store.borrow_mut() = Some(store);
    }

    /// Where base backup, layers and WAL are.
    pub(crate) fn directory(&self) -> PathBuf {
        self.directory.clone()
    }

    /// Raised to 1 when all is to end.
    pub fn stop(&self) -> &Watch {
        &self.link.stop
    }

    /// Runs until [`Follower::stop`] is raised, or until there is an error before there is anything to follow with.
    pub async fn run(&self) {
        self.link.run(|| None, async || Box::pin(self.prepare()).await).await;
        if let Some(branches) = self.branches()
            && self.link.phase() != Phase::Failed
            && self.link.stop.get() == 0
        {
            self.link.enter(Phase::Recovering);
            let resuming = unless_stopped(&self.link.stop, Box::pin(branches.resume()));
            self.is_whole.set(resuming.await.is_some());
            if let Some(store) = &*self.store.borrow() {
                store.set_ready();
            }
            // What is told of `main` is that of its own link from here on; without one it follows nobody.
            self.link.enter(Phase::Stopped);
        }
    }

    /// Ends the following of the branches; [`Follower::stop`] is raised by then.
    pub async fn stop_branches(&self) {
        if let Some(branches) = self.branches() {
            branches.stop().await;
        }
    }

    /// Opens what is on disk; takes the base backup first if there is none.
    async fn prepare(&self) -> Result<(), Error> {
        let stop = &self.link.stop;
        let Some(opened) = unless_stopped(stop, Box::pin(self.open())).await else { return Ok(()) };
        if opened? {
            return Ok(());
        }
        let login = Login::of(&self.settings)?;
        let connecting = self.link.connect(&login, &self.settings, None);
        let Some((mut connection, cluster)) = connecting.await? else { return Ok(()) };
        let taking = Box::pin(self.take_backup(&mut connection, cluster));
        let Some(taken) = unless_stopped(stop, taking).await else { return Ok(()) };
        taken?;
        match self.open().await? {
            true => Ok(()),
            false => Err(Error::Damaged("the base backup is gone again".to_owned())),
        }
    }

    /// Takes in what an earlier run left on disk; false if there is no finished base backup.
    async fn open(&self) -> Result<bool, Error> {
        let failed = |source| Error::file("create directory", &self.directory, source);
        fs::create_dir_all(&self.directory).await.map_err(failed)?;
        let Some(manifest) = manifest::read(&self.directory).await? else { return Ok(false) };
        self.link.enter(Phase::Recovering);
        let timeline = Timeline::open_main(&self.directory, manifest, &self.settings).await?;
        let timeline = Rc::new(timeline);
        let opened = Branches::open(&self.directory, &self.settings, Rc::clone(&timeline)).await?;
        let store = self.store.borrow().clone();
        if let Some(store) = store {
            store.connect(&opened).await?;
        }
        *self.branches.borrow_mut() = Some(Rc::new(opened));
        ingest::recover(&timeline).await?;
        Ok(true)
    }

    async fn take_backup(
        &self,
        connection: &mut Connection,
        cluster: Cluster,
    ) -> Result<(), Error> {
        self.link.enter(Phase::BaseBackup);
        let report = |progress: basebackup::Progress| {
            let basebackup::Progress { bytes_done, bytes_total, files } = progress;
            self.backup.set(Some(Backup { bytes_done, bytes_total, files }));
        };
        let manifest = basebackup::take(connection, &self.directory, cluster, report).await?;
        self.backup.set(None);
        tracing::info!(
            start = %manifest.start,
            end = %manifest.end,
            system = manifest.system_identifier,
            "base backup taken"
        );
        Ok(())
    }

    /// The status as of now.
    pub fn status(&self) -> Status {
        let mut status = Status {
            phase: self.link.phase(),
            error: self.link.problem(),
            listen: self.listening_at.get().to_string(),
            slot: self.settings.slot.clone(),
            backup: self.backup.get(),
            clients: self.clients.get(),
            pages_served: self.pages_served.get(),
            page_errors: self.page_errors.get(),
            ..Status::default()
        };
        let Some(branches) = self.branches() else { return status };
        let (Some(timeline), Some(writing)) = (branches.get(MAIN), branches.writing(MAIN)) else {
            return status;
        };
        if let Some(phase) = writing.phase {
            status.phase = phase;
            status.error = writing.problem;
        }
        fill(&mut status, &timeline, writing.server_end);
        status.disk_bytes = maintenance::disk_bytes(&branches);
        let limit = self.settings.disk_bytes_max;
        status.error = status.error.or_else(|| shortage(&timeline, limit));
        if let Some(store) = &*self.store.borrow() {
            status.store = Some(store.status(&branches.all()));
        }
        status
    }
}

/// That a limit keeps WAL from coming in, if one does.
fn shortage(timeline: &Timeline, disk_bytes_max: u64) -> Option<Problem> {
    let (what, key, limit) = match timeline.shortage()? {
        Shortage::Layers => return None,
        Shortage::Wal { limit } => ("received WAL has", "wal_bytes_max", limit),
        Shortage::Disk => ("WAL and layers have", "disk_bytes_max", disk_bytes_max),
        Shortage::Store { limit } => {
            let message = format!(
                "WAL that waits for the object store has reached pageserver.store_backlog_bytes_max ({limit} bytes): \
                 no more is taken in"
            );
            let hint = "see \"store\" in the status for what is wrong with it";
            return Some(Problem { message, hint: Some(hint.to_owned()) });
        }
    };
    let message =
        format!("{what} reached pageserver.{key} ({limit} bytes): no more WAL is taken in");
    Some(Problem { message, hint: Some("raise the limit, or keep less history".to_owned()) })
}

fn fill(status: &mut Status, timeline: &Timeline, server_end: Lsn) {
    let ingested = timeline.ingested();
    status.system_identifier = Some(timeline.manifest.system_identifier.to_string());
    status.timeline = Some(timeline.postgres_timeline());
    status.oldest_lsn = Some(timeline.oldest().to_string());
    status.flushed_lsn = Some(timeline.durable().to_string());
    status.ingested_lsn = Some(ingested.to_string());
    if server_end.is_valid() {
        status.server_lsn = Some(server_end.to_string());
        status.lag_bytes = server_end.bytes_since(ingested);
    }
    status.wal_bytes = timeline.wal.bytes();
    status.index_memory_bytes = timeline.memory() as u64;
    status.page_cache_bytes = timeline.pages.borrow().bytes() as u64;
    status.forks = timeline.catalog.borrow().forks() as u64;
    status.layered_lsn = Some(timeline.flushed().to_string());
    let stats = timeline.store.stats();
    status.layers = stats.layers;
    status.image_layers = stats.image_layers;
    status.level0_layers = stats.level0_layers;
    status.layer_bytes_removed = timeline.layer_bytes_removed.get();
    status.wal_bytes_removed = timeline.wal_bytes_removed.get();
    (status.page_cache_hits, status.page_cache_misses) = timeline.pages.borrow().looked_up();
    status.layer_bytes_flushed = stats.flushed_bytes;
    status.layer_bytes_written = stats.written_bytes;
    status.layer_bytes = stats.bytes;
    status.layer_raw_bytes = stats.raw_bytes;
    let counters = timeline.counters.borrow();
    status.records = counters.records;
    status.record_bytes = counters.bytes;
    status.records_by_rmgr = counters.by_rmgr();
    status.unsupported_records = counters.unsupported.clone();
}
