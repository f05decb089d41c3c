//! One timeline's link to the server that writes its WAL: how it is, and trying again when it breaks.

use std::cell::{Cell, RefCell};

use pg::lsn::Lsn;
use runtime::clock;

use crate::api::{Phase, Problem};
use crate::basebackup::Cluster;
use crate::connection::{Connection, Login};
use crate::error::Error;
use crate::identity::{self, Expected};
use crate::ingest::Ingest;
use crate::limits::{RETRY_PAUSE_MAX, RETRY_PAUSE_MIN};
use crate::maintenance;
use crate::settings::Settings;
use crate::timeline::Timeline;
use crate::wal_store::writer::WalWriter;
use crate::walreceiver::{Position, WalReceiver};
use crate::watch::{Watch, unless_stopped};

/// The state of a link. It is run once.
pub struct Link {
    /// The timeline's name, for the log.
    name: String,
    phase: Cell<Phase>,
    problem: RefCell<Option<Problem>>,
    server_end: Cell<Lsn>,
    /// Raised to 1 when it is to end.
    pub stop: Watch,
}

/// Where received WAL goes: what continues from connection to connection.
pub struct Intake {
    writer: WalWriter,
    ingest: Ingest,
}

impl Intake {
    /// Goes on where `ingest` is.
    pub fn new(timeline: &Timeline, ingest: Ingest) -> Intake {
        Intake { writer: WalWriter::of_stream(timeline.wal_layout.clone()), ingest }
    }

    /// Goes on at the durable end; what there is of a record behind the last whole one is taken in again.
    pub async fn resume(timeline: &Timeline) -> Result<Intake, Error> {
        if let Some((ancestor, at)) = &timeline.ancestor {
            ancestor.ingested.reaches(at.0).await;
        }
        timeline.begin_state().await?;
        let (start, end) = (timeline.ingested(), timeline.durable());
        if start > end {
            // The unused rest of a segment after a switch: zeroes, here as there.
            timeline.wal_layout.end_at(start).await?;
            timeline.wal.set_readable(start);
        }
        let mut ingest = Ingest::new(timeline, start);
        if start < end {
            let directory = &timeline.wal_layout.directory;
            let read = timeline.wal.read(start, end).await;
            let wal = read.map_err(|source| Error::file("read WAL in", directory, source))?;
            ingest.feed(timeline, &wal)?;
        }
        Ok(Intake::new(timeline, ingest))
    }

    /// Whether the server's WAL goes on behind the timeline's last whole record; nothing of it is taken in.
    pub async fn probe(
        mut self,
        connection: &mut Connection,
        timeline: &Timeline,
        settings: &Settings,
    ) -> Result<(), Error> {
        let interval = settings.status_interval();
        WalReceiver::new(timeline, &mut self.writer, &mut self.ingest, interval)
            .probe(connection)
            .await
    }
}

impl Link {
    pub fn new(name: &str) -> Link {
        Link {
            name: name.to_owned(),
            phase: Cell::new(Phase::Starting),
            problem: RefCell::default(),
            server_end: Cell::default(),
            stop: Watch::default(),
        }
    }

    /// Runs `follow`, which ends well only when stopped, until then or until an error that waiting does not cure.
    /// `durable` tells how far it has come.
    pub async fn run(
        &self,
        durable: impl Fn() -> Option<Lsn>,
        mut follow: impl AsyncFnMut() -> Result<(), Error>,
    ) {
        let mut pause = RETRY_PAUSE_MIN;
        loop {
            let before = durable();
            let error = match follow().await {
                Ok(()) => return self.enter(Phase::Stopped),
                Err(error) => error,
            };
            self.note_problem(&error);
            if !error.is_passing() {
                return self.enter(Phase::Failed);
            }
            self.enter(Phase::Connecting);
            if durable() != before {
                pause = RETRY_PAUSE_MIN;
            }
            if unless_stopped(&self.stop, clock::sleep(pause)).await.is_none() {
                return self.enter(Phase::Stopped);
            }
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }

    /// A connection to a server that is as expected, with our slot there; `None` when stopped.
    pub async fn connect(
        &self,
        login: &Login,
        settings: &Settings,
        expected: Option<Expected<'_>>,
    ) -> Result<Option<(Connection, Cluster)>, Error> {
        self.enter(Phase::Connecting);
        let connecting = async {
            let mut connection = Connection::connect(login).await?;
            let cluster = identity::check(&mut connection, expected).await?;
            connection.create_slot(&settings.slot).await?;
            Ok((connection, cluster))
        };
        unless_stopped(&self.stop, connecting).await.transpose()
    }

    /// Receives WAL until stopped (then `Ok`) or until something goes wrong, and writes layers meanwhile.
    pub async fn receive(
        &self,
        connection: &mut Connection,
        timeline: &Timeline,
        intake: &mut Intake,
        settings: &Settings,
    ) -> Result<(), Error> {
        let interval = settings.status_interval();
        let receiver = WalReceiver::new(timeline, &mut intake.writer, &mut intake.ingest, interval);
        let report = |position| {
            self.enter(Phase::Streaming);
            self.note(position);
        };
        let receiving = receiver.run(connection, &settings.slot, &self.stop, report);
        maintenance::beside(receiving, timeline, settings).await
    }

    pub fn enter(&self, phase: Phase) {
        self.phase.set(phase);
    }

    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// What is wrong at the moment, if something is.
    pub fn problem(&self) -> Option<Problem> {
        self.problem.borrow().clone()
    }

    /// The server's end of WAL, as it said last.
    pub fn server_end(&self) -> Lsn {
        self.server_end.get()
    }

    /// WAL comes.
    pub fn note(&self, position: Position) {
        self.server_end.set(position.sender_end);
        if self.problem.borrow_mut().take().is_some() {
            tracing::info!(
                timeline = self.name,
                lsn = %position.durable,
                "the page server follows Postgres again"
            );
        }
    }

    /// Logs a problem the first time; the status has it as long as it lasts.
    pub fn note_problem(&self, error: &Error) {
        let hint = error.hint();
        let problem = Problem { message: error.to_string(), hint: hint.map(str::to_owned) };
        if self.problem.borrow().as_ref() != Some(&problem) {
            let timeline = self.name.as_str();
            if error.is_a_pause() {
                tracing::info!(timeline, reason = %error, "the page server waits for Postgres");
            } else {
                let message = "the page server does not follow Postgres";
                tracing::error!(timeline, %error, hint, message);
            }
        }
        *self.problem.borrow_mut() = Some(problem);
    }
}
