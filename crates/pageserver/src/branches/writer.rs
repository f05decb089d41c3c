//! Who writes a branch: a compute is attached, followed, and detached or replaced.
//!
//! Rules:
//! 1. A branch follows one compute, the one attached last; its epoch is on disk before a byte of its WAL is taken in.
//! 2. A compute is attached only if its WAL goes on exactly where the branch ends: else the branch stays with whom it has.
//! 3. `main` follows the server of the settings until it is released from that, for good; then it is as any branch.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use pg::lsn::Lsn;
use pg::wal::segment::SegmentName;
use runtime::clock;
use runtime::executor::{self, JoinHandle};
use runtime::fs;

use super::{BranchError, Branches};
use crate::api::{Phase, Problem};
use crate::attachment::{Attachment, Record, Server};
use crate::connection::{Connection, Login};
use crate::error::Error;
use crate::identity::{self, Expected};
use crate::ingest::{self, Ingest};
use crate::limits::{ATTACH_TIME_MAX, WAL_WRITE_BYTES_MAX};
use crate::link::{Intake, Link};
use crate::promotion;
use crate::settings::Settings;
use crate::timeline::{MAIN, Timeline};
use crate::wal_store::writer::WalWriter;
use crate::watch::unless_stopped;

/// The writing of one branch.
pub(super) struct Writer {
    record: RefCell<Record>,
    running: RefCell<Option<Running>>,
    /// Why the branch cannot be written: its WAL could not be read at the start.
    broken: RefCell<Option<Problem>>,
    /// Someone is being attached or detached.
    changing: Cell<bool>,
}

struct Running {
    link: Rc<Link>,
    task: JoinHandle<()>,
}

/// Whom a timeline follows.
enum Source {
    Settings,
    Compute(Server),
}

/// What has come of an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    pub epoch: u64,
    /// Where the compute's WAL begins to count.
    pub end: Lsn,
}

/// How the writing of a branch stands.
#[derive(Clone, Debug)]
pub struct Writing {
    pub epoch: u64,
    /// The attached compute's address.
    pub server: Option<String>,
    pub phase: Option<Phase>,
    pub problem: Option<Problem>,
    /// The compute's end of WAL, as it said last.
    pub server_end: Lsn,
}

impl Branches {
    /// Lets a branch follow this compute and nobody else.
    ///
    /// # Errors
    /// [`BranchError::Refused`] when the epoch is over, or when the compute's WAL does not go on where the branch ends;
    /// what connecting to it says. Nothing has changed then.
    pub async fn attach(&self, name: &str, wanted: Attachment) -> Result<Attached, BranchError> {
        let (timeline, writer) = self.writer_of(name)?;
        writer.check_free(name)?;
        let _turn = writer.begin_change()?;
        if let Some(problem) = writer.broken.borrow().as_ref() {
            let message = format!("the WAL of branch \"{name}\" is not whole: {}", problem.message);
            return Err(BranchError::Refused(message, "make a new branch at an earlier LSN"));
        }
        let epoch = writer.epoch_for(name, wanted.epoch)?;
        let login = wanted.server.login(&self.settings).await?;
        begin_wal(&timeline).await?;
        writer.stop().await;
        let tried = clock::timeout(ATTACH_TIME_MAX, probe(&timeline, login, &self.settings)).await;
        let tried = tried.unwrap_or_else(|_elapsed| {
            let source = std::io::ErrorKind::TimedOut.into();
            Err(Error::Connection { server: wanted.server.address.clone(), source })
        });
        let record = Record { epoch, server: Some(wanted.server) };
        let done = match tried {
            Ok(()) => writer.replace(record, &timeline).await,
            Err(error) => Err(error),
        };
        // Whoever is on record now.
        writer.start(&timeline, &self.settings);
        match done {
            Ok(()) => {
                let end = timeline.ingested();
                tracing::info!(branch = name, epoch, %end, "compute attached");
                Ok(Attached { epoch, end })
            }
            Err(Error::Refused { message, hint }) => Err(BranchError::Refused(message, hint)),
            Err(error) => Err(error.into()),
        }
    }

    /// Follows nobody any more; answers where the branch ends. A compute that was attached gets nothing acknowledged
    /// from here on.
    pub async fn detach(&self, name: &str) -> Result<Attached, BranchError> {
        let (timeline, writer) = self.writer_of(name)?;
        writer.check_free(name)?;
        writer.detach(&timeline).await
    }

    /// Gives `main` up for lost by the server of the settings, for good: from here on computes can be attached to it.
    pub async fn release_main(&self) -> Result<Attached, BranchError> {
        let (timeline, writer) = self.writer_of(MAIN)?;
        writer.detach(&timeline).await
    }

    /// Where a branch ends: a compute that is to write it begins there.
    pub fn end_of(&self, name: &str) -> Result<Lsn, BranchError> {
        Ok(self.find(name)?.ingested())
    }

    /// How the writing of a branch stands.
    pub fn writing(&self, name: &str) -> Option<Writing> {
        let timeline = self.get(name)?;
        Some(self.writers.borrow().get(name)?.writing(&timeline, &self.settings))
    }

    /// Follows whoever writes each timeline, once what an earlier run has received is taken in: `main`'s is.
    pub(crate) async fn resume(&self) {
        let mut timelines = self.all();
        // What a branch has refers to its ancestor's.
        timelines.sort_by_key(|timeline| timeline.generation());
        for timeline in timelines {
            let Ok((_, writer)) = self.writer_of(&timeline.name) else { continue };
            match recover(&timeline).await {
                Ok(()) => writer.start(&timeline, &self.settings),
                Err(error) => {
                    tracing::error!(branch = timeline.name, %error, "the branch's WAL is not whole");
                    let hint = error.hint().map(str::to_owned);
                    *writer.broken.borrow_mut() =
                        Some(Problem { message: error.to_string(), hint });
                }
            }
        }
    }

    /// Ends all following; who is attached stays so.
    pub(crate) async fn stop(&self) {
        let writers: Vec<_> = self.writers.borrow().values().cloned().collect();
        writers.iter().for_each(|writer| writer.ask_to_stop());
        for writer in writers {
            writer.stop().await;
        }
    }

    /// How to log in to the server that writes a timeline, if there is one, and whether WAL comes from it.
    pub(super) async fn server_of(
        &self,
        timeline: &Timeline,
    ) -> Option<(Result<Login, Error>, bool)> {
        let writer = self.writers.borrow().get(&timeline.name).cloned()?;
        let login = match writer.source(timeline)? {
            Source::Settings => Login::of(&self.settings),
            Source::Compute(server) => server.login(&self.settings).await,
        };
        let writing = writer.writing(timeline, &self.settings);
        Some((login, writing.phase == Some(Phase::Streaming)))
    }

    fn writer_of(&self, name: &str) -> Result<(Rc<Timeline>, Rc<Writer>), BranchError> {
        let timeline = self.find(name)?;
        let writer = self.writers.borrow().get(name).cloned();
        Ok((timeline, writer.ok_or_else(|| super::unknown(name))?))
    }
}

impl Writer {
    pub(super) fn new(record: Record) -> Writer {
        Writer {
            record: RefCell::new(record),
            running: RefCell::default(),
            broken: RefCell::default(),
            changing: Cell::default(),
        }
    }

    /// One change at a time.
    pub(super) fn begin_change(&self) -> Result<Turn<'_>, BranchError> {
        if self.changing.replace(true) {
            let message = "another compute is being attached or detached".to_owned();
            return Err(BranchError::Refused(message, "try again"));
        }
        Ok(Turn(&self.changing))
    }

    /// Refuses `main` while it follows the server of the settings: nobody is to take that away by the way.
    fn check_free(&self, name: &str) -> Result<(), BranchError> {
        if name != MAIN || self.record.borrow().epoch > 0 {
            return Ok(());
        }
        let message = "\"main\" follows the server of the settings".to_owned();
        let hint = "make a branch of it; if that server is lost, release \"main\" first";
        Err(BranchError::Refused(message, hint))
    }

    async fn detach(&self, timeline: &Timeline) -> Result<Attached, BranchError> {
        let _turn = self.begin_change()?;
        // From its first epoch on, `main` does not follow the server of the settings any more.
        let epoch = self.record.borrow().epoch.max(u64::from(timeline.name == MAIN));
        self.stop().await;
        self.write(Record { epoch, server: None }, timeline).await?;
        let end = timeline.ingested();
        tracing::info!(branch = timeline.name, %end, "compute detached");
        Ok(Attached { epoch, end })
    }

    /// The epoch of a new attachment.
    fn epoch_for(&self, name: &str, wanted: Option<u64>) -> Result<u64, BranchError> {
        let newest = self.record.borrow().epoch;
        match wanted {
            None => Ok(newest + 1),
            Some(0) => Err(BranchError::Refused("epochs begin at 1".to_owned(), "leave it out")),
            Some(epoch) if epoch >= newest => Ok(epoch),
            Some(epoch) => Err(BranchError::Refused(
                format!("epoch {epoch} of branch \"{name}\" is over: the newest is {newest}"),
                "another compute has taken over; start one at the branch's end",
            )),
        }
    }

    /// A compute that was found to be right takes over. If it is not the one that was there, it writes something else
    /// behind the last whole record: what is here of another one goes. (Nothing behind a record's end was ever answered,
    /// nor can it be what a client was told to be committed: Postgres waits for the end of the commit's record.)
    async fn replace(&self, record: Record, timeline: &Timeline) -> Result<(), Error> {
        if record.epoch != self.record.borrow().epoch {
            let end = timeline.ingested();
            timeline.wal_layout.end_at(end).await?;
            timeline.wal.set_readable(end);
        }
        self.write(record, timeline).await
    }

    async fn write(&self, record: Record, timeline: &Timeline) -> Result<(), Error> {
        record.write(&timeline.layers).await?;
        *self.record.borrow_mut() = record;
        Ok(())
    }

    /// Whom to follow, if anybody.
    fn source(&self, timeline: &Timeline) -> Option<Source> {
        let record = self.record.borrow();
        match &record.server {
            Some(server) => Some(Source::Compute(server.clone())),
            None if timeline.name == MAIN && record.epoch == 0 => Some(Source::Settings),
            None => None,
        }
    }

    /// Follows whom it has, if anybody.
    pub(super) fn start(&self, timeline: &Rc<Timeline>, settings: &Settings) {
        let Some(source) = self.source(timeline) else { return };
        let link = Rc::new(Link::new(&timeline.name));
        let following = follow(Rc::clone(timeline), Rc::clone(&link), source, settings.clone());
        let task = executor::spawn(following);
        *self.running.borrow_mut() = Some(Running { link, task });
    }

    fn ask_to_stop(&self) {
        if let Some(running) = self.running.borrow().as_ref() {
            running.link.stop.raise(1);
        }
    }

    /// Ends the following: what has come is durable and taken in, and nothing more comes.
    pub(super) async fn stop(&self) {
        self.ask_to_stop();
        let running = self.running.take();
        if let Some(Running { task, .. }) = running {
            // A task that was aborted has nothing left to close.
            let _ended = task.await;
        }
    }

    fn writing(&self, timeline: &Timeline, settings: &Settings) -> Writing {
        let (record, running) = (self.record.borrow(), self.running.borrow());
        let link = running.as_ref().map(|running| &running.link);
        let problem = link.and_then(|link| link.problem());
        Writing {
            epoch: record.epoch,
            server: self.source(timeline).map(|source| match source {
                Source::Settings => settings.server.clone(),
                Source::Compute(server) => server.address,
            }),
            phase: link.map(|link| link.phase()),
            problem: problem.or_else(|| self.broken.borrow().clone()),
            server_end: link.map_or(Lsn::INVALID, |link| link.server_end()),
        }
    }
}

/// Ends a change when it goes.
pub(super) struct Turn<'w>(&'w Cell<bool>);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

async fn follow(timeline: Rc<Timeline>, link: Rc<Link>, source: Source, settings: Settings) {
    let mut intake = None;
    let durable = || Some(timeline.durable());
    link.run(durable, async || {
        Box::pin(follow_once(&timeline, &link, &source, &settings, &mut intake)).await
    })
    .await;
}

/// One connection's life. `Ok` only when stopped.
async fn follow_once(
    timeline: &Timeline,
    link: &Link,
    source: &Source,
    settings: &Settings,
    intake: &mut Option<Intake>,
) -> Result<(), Error> {
    let login = match source {
        Source::Settings => Login::of(settings)?,
        Source::Compute(server) => server.login(settings).await?,
    };
    let may_be_promoted = matches!(source, Source::Settings);
    let expected = Expected { timeline, end: timeline.durable(), may_be_promoted };
    timeline.check_store()?;
    let connecting = link.connect(&login, settings, Some(expected)).await?;
    let Some((mut connection, cluster)) = connecting else { return Ok(()) };
    let crossing = promotion::follow(&mut connection, timeline, cluster.timeline);
    let Some(crossed) = unless_stopped(&link.stop, crossing).await else { return Ok(()) };
    let intake = match intake {
        Some(intake) if !crossed? => intake,
        intake => intake.insert(Intake::resume(timeline).await?),
    };
    link.receive(&mut connection, timeline, intake, settings).await
}

/// Whether this compute's WAL goes on where the branch ends.
async fn probe(timeline: &Timeline, login: Login, settings: &Settings) -> Result<(), Error> {
    let login = Login { application_name: format!("{}_attach", login.application_name), ..login };
    let mut connection = Connection::connect(&login).await?;
    let expected = Expected { timeline, end: timeline.ingested(), may_be_promoted: false };
    identity::check(&mut connection, Some(expected)).await?;
    let intake = Intake::new(timeline, Ingest::new(timeline, timeline.ingested()));
    intake.probe(&mut connection, timeline, settings).await
}

/// What an earlier run has received for a branch is taken in.
async fn recover(timeline: &Timeline) -> Result<(), Error> {
    let Some((_, at)) = timeline.ancestor.as_ref() else { return Ok(()) };
    if timeline.wal_layout.has_head(*at).await {
        own_from_segment_start(timeline, *at);
    }
    ingest::recover(timeline).await.map(drop)
}

fn own_from_segment_start(timeline: &Timeline, at: Lsn) {
    let bytes = timeline.manifest.wal_segment_bytes;
    timeline.wal.set_own_from(SegmentName::of(1, at, bytes).start());
}

/// Makes the place for a branch's own WAL. Its first segment gets the ancestor's bytes up to the branch point, so that
/// every file is whole, unless those are gone.
async fn begin_wal(timeline: &Timeline) -> Result<(), BranchError> {
    let Some((ancestor, at)) = timeline.ancestor.as_ref() else { return Ok(()) };
    let layout = &timeline.wal_layout;
    let first = layout.segments().await?.first().map(|(first, _)| *first);
    let is_trimmed = first.is_some_and(|first| first > at.segment(layout.segment_bytes));
    if is_trimmed || first.is_some() && layout.has_segment_up_to(*at).await {
        return Ok(());
    }
    if timeline.last_record(*at).await?.is_some_and(|last| last.end != *at) {
        let message = format!("branch \"{}\" begins at {at}, where no record ends", timeline.name);
        return Err(BranchError::Refused(message, "make a new branch there"));
    }
    let made = fs::create_dir_all(&layout.directory).await;
    made.map_err(|source| Error::file("create directory", &layout.directory, source))?;
    let synced = fs::sync_dir(&timeline.layers).await;
    synced.map_err(|source| Error::file("sync", &timeline.layers, source))?;
    let mut next = SegmentName::of(1, *at, layout.segment_bytes).start();
    let _hold = ancestor.wal.hold(next);
    if ancestor.wal.oldest().await? > next {
        return Ok(());
    }
    let mut writer = WalWriter::new(layout.clone());
    while next < *at {
        let until = (*at).min(next + WAL_WRITE_BYTES_MAX as u64);
        let read = ancestor.wal.read(next, until).await;
        let wal = read.map_err(|source| Error::file("read WAL of", &timeline.layers, source))?;
        writer.append(next, wal).await.0?;
        next = until;
    }
    own_from_segment_start(timeline, *at);
    Ok(())
}
