//! Keeps a page server in step with its Postgres: reads what is on disk, takes the base backup if there is
//! none, streams WAL, and begins again when something goes wrong.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::rc::Rc;

use pg::lsn::Lsn;
use runtime::{clock, fs};

use crate::api::{Backup, Phase, Problem, Scrub, Status};
use crate::basebackup::{self, Cluster};
use crate::branches::Branches;
use crate::connection::{Connection, Login};
use crate::error::Error;
use crate::ingest::{self, Ingest};
use crate::limits::{PAGE_BYTES, RETRY_PAUSE_MAX, RETRY_PAUSE_MIN};
use crate::maintenance;
use crate::manifest;
use crate::settings::Settings;
use crate::timeline::{MAIN, Timeline};
use crate::wal_store::WalWriter;
use crate::walreceiver::{Position, WalReceiver};
use crate::watch::{Watch, unless_stopped};

/// The major versions whose WAL and base backup we read. (Of 14 we read the WAL, but its base backup is sent in
/// another way.)
const MAJOR_VERSIONS: RangeInclusive<u32> = 15..=18;

/// A page server's state on its core.
pub struct Follower {
    pub settings: Settings,
    directory: PathBuf,
    branches: RefCell<Option<Rc<Branches>>>,
    phase: Cell<Phase>,
    problem: RefCell<Option<Problem>>,
    backup: Cell<Option<Backup>>,
    server_end: Cell<Lsn>,
    listening_at: Cell<SocketAddr>,
    pub clients: Cell<u64>,
    pub pages_served: Cell<u64>,
    /// The check of all checksums that was begun last.
    pub scrub: RefCell<Scrub>,
    /// Raised to 1 when all is to end.
    pub stop: Watch,
}

/// What continues from connection to connection.
struct Stream {
    writer: WalWriter,
    ingest: Ingest,
}

impl Follower {
    pub fn new(settings: Settings) -> Follower {
        Follower {
            directory: settings.directory.clone(),
            branches: RefCell::new(None),
            phase: Cell::new(Phase::Starting),
            problem: RefCell::new(None),
            backup: Cell::new(None),
            server_end: Cell::new(Lsn::INVALID),
            listening_at: Cell::new(settings.listen),
            clients: Cell::new(0),
            pages_served: Cell::new(0),
            scrub: RefCell::default(),
            stop: Watch::default(),
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

    /// Runs until [`Follower::stop`] is raised, or until an error that waiting does not cure.
    pub async fn run(&self) {
        let mut stream = None;
        let mut pause = RETRY_PAUSE_MIN;
        loop {
            let before = self.timeline().map(|timeline| timeline.durable());
            let error = match Box::pin(self.follow(&mut stream)).await {
                Ok(()) => return self.phase.set(Phase::Stopped),
                Err(error) => error,
            };
            self.note_problem(&error);
            if !error.is_passing() {
                self.phase.set(Phase::Failed);
                return;
            }
            self.phase.set(Phase::Connecting);
            if self.timeline().map(|timeline| timeline.durable()) != before {
                pause = RETRY_PAUSE_MIN;
            }
            if unless_stopped(&self.stop, clock::sleep(pause)).await.is_none() {
                return self.phase.set(Phase::Stopped);
            }
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }

    /// One connection's life. `Ok` only when stopped.
    async fn follow(&self, stream: &mut Option<Stream>) -> Result<(), Error> {
        if stream.is_none() {
            let Some(opened) = unless_stopped(&self.stop, self.open()).await else { return Ok(()) };
            *stream = opened?;
        }
        self.phase.set(Phase::Connecting);
        let login = Login::of(&self.settings)?;
        let connecting = unless_stopped(&self.stop, Connection::connect(&login)).await;
        let Some(connection) = connecting else { return Ok(()) };
        let mut connection = connection?;
        let Some(cluster) = unless_stopped(&self.stop, self.check(&mut connection)).await else {
            return Ok(());
        };
        let cluster = cluster?;
        let creating = connection.create_slot(&self.settings.slot);
        let Some(created) = unless_stopped(&self.stop, creating).await else { return Ok(()) };
        created?;
        if stream.is_none() {
            let taken =
                unless_stopped(&self.stop, Box::pin(self.take_backup(&mut connection, cluster)));
            let Some(taken) = taken.await else { return Ok(()) };
            taken?;
            *stream = self.open().await?;
        }
        let (Some(stream), Some(timeline)) = (stream, self.timeline()) else {
            return Err(Error::Damaged("the base backup is gone again".to_owned()));
        };
        self.phase.set(Phase::Streaming);
        let interval = self.settings.status_interval();
        let receiver =
            WalReceiver::new(&timeline, &mut stream.writer, &mut stream.ingest, interval);
        let report = |position| self.note(position);
        let receiving = receiver.run(&mut connection, &self.settings.slot, &self.stop, report);
        maintenance::beside(receiving, &timeline, &self.settings).await
    }

    /// What an earlier run left on disk; `None` if there is no finished base backup.
    async fn open(&self) -> Result<Option<Stream>, Error> {
        let failed = |source| Error::file("create directory", &self.directory, source);
        fs::create_dir_all(&self.directory).await.map_err(failed)?;
        let Some(manifest) = manifest::read(&self.directory).await? else { return Ok(None) };
        self.phase.set(Phase::Recovering);
        let timeline = Timeline::open_main(&self.directory, manifest, &self.settings).await?;
        let timeline = Rc::new(timeline);
        let opened = Branches::open(&self.directory, &self.settings, Rc::clone(&timeline)).await?;
        *self.branches.borrow_mut() = Some(Rc::new(opened));
        let ingest = ingest::recover(&timeline).await?;
        let bytes_max = self.settings.wal_bytes_max;
        let writer = WalWriter::new(timeline.wal_layout.clone(), bytes_max).await?;
        Ok(Some(Stream { writer, ingest }))
    }

    /// Whether this is a cluster that we can follow, and the one that we follow already.
    async fn check(&self, connection: &mut Connection) -> Result<Cluster, Error> {
        let system = connection.identify_system().await?;
        let version: u32 = number(connection, "server_version_num").await?;
        let page_bytes: u32 = number(connection, "block_size").await?;
        let wal_page_bytes: u32 = number(connection, "wal_block_size").await?;
        let segment = connection.show("wal_segment_size").await?;
        let data_checksums = connection.show("data_checksums").await? == "on";
        if !MAJOR_VERSIONS.contains(&(version / 10_000)) {
            return refused(
                format!("the server is PostgreSQL {}, which is not supported", version / 10_000),
                "PostgreSQL 15 to 18 can be followed",
            );
        }
        if page_bytes as usize != PAGE_BYTES || wal_page_bytes as usize != PAGE_BYTES {
            let message =
                format!("the server has blocks of {page_bytes}, WAL of {wal_page_bytes} bytes");
            return refused(message, "only 8 kB blocks are supported");
        }
        let wal_segment_bytes = bytes_of(&segment)
            .filter(|&bytes| pg::wal::segment::is_segment_bytes(bytes))
            .ok_or_else(|| Error::protocol(format!("wal_segment_size of \"{segment}\"")))?;
        if let Some(timeline) = self.timeline() {
            let own = &timeline.manifest;
            if own.system_identifier != system.identifier {
                let (own, found) = (own.system_identifier, system.identifier);
                return refused(
                    format!("the server is system {found}, but this directory follows {own}"),
                    "point pageserver.server at the right cluster, or use an empty directory",
                );
            }
            if own.timeline != system.timeline {
                let (own, found) = (own.timeline, system.timeline);
                return refused(
                    format!("the server is on timeline {found}, but this directory on {own}"),
                    "following Postgres to another timeline is not supported yet",
                );
            }
        }
        Ok(Cluster {
            system_identifier: system.identifier,
            timeline: system.timeline,
            wal_segment_bytes,
            server_version: version,
            data_checksums,
        })
    }

    async fn take_backup(
        &self,
        connection: &mut Connection,
        cluster: Cluster,
    ) -> Result<(), Error> {
        self.phase.set(Phase::BaseBackup);
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

    /// Logs a problem the first time; the status has it as long as it lasts.
    fn note_problem(&self, error: &Error) {
        let hint = error.hint();
        let problem = Problem { message: error.to_string(), hint: hint.map(str::to_owned) };
        if self.problem.borrow().as_ref() != Some(&problem) {
            if error.is_a_pause() {
                tracing::info!(reason = %error, "the page server waits for Postgres");
            } else {
                tracing::error!(%error, hint, "the page server does not follow Postgres");
            }
        }
        *self.problem.borrow_mut() = Some(problem);
    }

    fn note(&self, position: Position) {
        self.server_end.set(position.sender_end);
        if self.problem.borrow().is_some() {
            self.problem.borrow_mut().take();
            tracing::info!(lsn = %position.durable, "the page server follows Postgres again");
        }
    }

    /// The status as of now.
    pub fn status(&self) -> Status {
        let mut status = Status {
            phase: self.phase.get(),
            error: self.problem.borrow().clone(),
            listen: self.listening_at.get().to_string(),
            slot: self.settings.slot.clone(),
            backup: self.backup.get(),
            clients: self.clients.get(),
            pages_served: self.pages_served.get(),
            ..Status::default()
        };
        if let Some(timeline) = self.timeline() {
            fill(&mut status, &timeline, self.server_end.get());
        }
        status
    }
}

fn fill(status: &mut Status, timeline: &Timeline, server_end: Lsn) {
    let ingested = timeline.ingested();
    status.system_identifier = Some(timeline.manifest.system_identifier.to_string());
    status.timeline = Some(timeline.manifest.timeline);
    status.oldest_lsn = Some(timeline.manifest.end.to_string());
    status.flushed_lsn = Some(timeline.durable().to_string());
    status.ingested_lsn = Some(ingested.to_string());
    if server_end.is_valid() {
        status.server_lsn = Some(server_end.to_string());
        status.lag_bytes = server_end.bytes_since(ingested);
    }
    status.wal_bytes = timeline.durable().bytes_since(timeline.manifest.start);
    status.index_memory_bytes = timeline.memory() as u64;
    status.page_cache_bytes = timeline.pages.borrow().bytes() as u64;
    status.forks = timeline.catalog.borrow().forks() as u64;
    status.layered_lsn = Some(timeline.flushed().to_string());
    let stats = timeline.store.stats();
    status.layers = stats.layers;
    status.layer_bytes = stats.bytes;
    status.layer_raw_bytes = stats.raw_bytes;
    let counters = timeline.counters.borrow();
    status.records = counters.records;
    status.record_bytes = counters.bytes;
    let by_rmgr = counters.by_rmgr.iter();
    status.records_by_rmgr = by_rmgr.map(|(name, count)| ((*name).to_owned(), *count)).collect();
    status.unsupported_records = counters.unsupported.clone();
}

async fn number(connection: &mut Connection, setting: &str) -> Result<u32, Error> {
    let text = connection.show(setting).await?;
    text.parse().map_err(|_invalid| Error::protocol(format!("{setting} of \"{text}\"")))
}

fn refused<T>(message: String, hint: &'static str) -> Result<T, Error> {
    Err(Error::Refused { message, hint })
}

/// `16MB`, `1GB`, `64kB`, `512B`.
fn bytes_of(size: &str) -> Option<u32> {
    let digits = size.find(|c: char| !c.is_ascii_digit()).unwrap_or(size.len());
    let (number, unit) = size.split_at_checked(digits)?;
    let factor = match unit {
        "B" | "" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u32>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sizes_as_show_prints_them() {
        for (text, bytes) in [
            ("16MB", Some(16 << 20)),
            ("1GB", Some(1 << 30)),
            ("64kB", Some(64 << 10)),
            ("8192", Some(8192)),
            ("9GB", None),
            ("MB", None),
            ("16 MB", None),
        ] {
            assert_eq!(bytes_of(text), bytes, "{text}");
        }
    }
}
