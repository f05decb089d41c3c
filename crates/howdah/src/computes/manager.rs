//! Starts computes when they are asked for, and stops them when nobody uses them.
//!
//! 1. One compute for each name, however many ask; who asks while it stops waits for its end and starts another.
//! 2. Only so many run, and start, at a time. Who must wait waits in order; a compute without clients makes room.
//! 3. A compute that dies is forgotten, and the pooler told: clients that wait ask for it, and so it is started again,
//!    at the end of what the page server has received.

mod crashes;
mod following;
mod idle;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use pg::lsn::Lsn;
use pg::sqlstate::SqlState;
use runtime::clock::{self, Instant};
use runtime::executor;
use runtime::fs::blocking::{self as fs, Lock};
use runtime::mailbox::Reply;

use super::latch::{First, Latch, first};
use super::permits::{Permit, Permits};
use super::process::{Launcher, Process, Ready, Spec};
use super::refusal::Refusal;
use super::target::Target;
use super::{Line, Phase, health, orphans};
use crate::error::{Error, Result as Outcome, While};
use crate::limits::{COMPUTES_MAX, POSTGRES_READY_WAIT};
use crate::pooling;
use crashes::Crashes;

/// Name of the file in the directory of computes that its Howdah holds.
pub(super) const LOCK: &str = "lock";

pub(super) struct Manager {
    launcher: Launcher,
    pub(super) pages: pageserver::api::Handle,
    pooler: pooling::Handle,
    computes: RefCell<BTreeMap<String, Rc<Compute>>>,
    running: Rc<Permits>,
    starting: Rc<Permits>,
    crashes: Crashes,
    /// When the compute of `main` died, until there is another.
    died: Cell<Option<Instant>>,
    numbers: Cell<u64>,
    /// The directory is this process's.
    lock: RefCell<Option<Lock>>,
    is_stopping: Cell<bool>,
}

/// A compute from when it is asked for to when it is gone.
pub(super) struct Compute {
    name: String,
    /// Of all that this process has started.
    number: u64,
    spec: Spec,
    is_read_only: bool,
    phase: Cell<Phase>,
    /// The ways in which the pooler's clients have asked for it.
    texts: RefCell<BTreeSet<String>>,
    /// When somebody asked for it, or was connected, last.
    used: Cell<Instant>,
    clients: Cell<u64>,
    up: Latch<Result<Ready, Refusal>>,
    stop: Latch<()>,
    /// Nothing is served or written by it any more; another one may be started.
    pub(super) left: Latch<()>,
    gone: Latch<()>,
}

impl Manager {
    pub(super) fn new(
        launcher: Launcher,
        pages: pageserver::api::Handle,
        pooler: pooling::Handle,
    ) -> Rc<Self> {
        let (running, starting) =
            (launcher.settings.max_running, launcher.settings.start_concurrency);
        Rc::new(Self {
            launcher,
            pages,
            pooler,
            computes: RefCell::default(),
            running: Permits::new(running),
            starting: Permits::new(starting),
            crashes: Crashes::default(),
            died: Cell::default(),
            numbers: Cell::new(1),
            lock: RefCell::default(),
            is_stopping: Cell::new(false),
        })
    }

    /// Makes the directory, and clears away what an earlier run left.
    pub(super) async fn prepare(&self) -> Outcome<()> {
        let directory = &self.launcher.directory;
        fs::create_dir_all(directory)
            .or_fail(format_args!("could not make \"{}\"", directory.display()))?;
        let shown = directory.display();
        let lock = Lock::take(directory.join(LOCK));
        let lock = lock.or_fail(format_args!("could not lock \"{shown}\""))?;
        // What runs there would be ended as what an earlier run left.
        let Some(lock) = lock else {
            return Err(Error::new(format!("another howdah runs computes in \"{shown}\""))
                .hint("compute.directory names another place."));
        };
        *self.lock.borrow_mut() = Some(lock);
        orphans::clean(directory, self.launcher.settings.stop_timeout).await
    }

    /// A compute that serves what `text` names: one that runs, or a new one. Returns when it takes connections.
    pub(super) async fn start(
        self: &Rc<Self>,
        text: &str,
        mut notice: Option<Reply<String>>,
    ) -> Result<(Rc<Compute>, Ready), Refusal> {
        let target = Target::parse(text)?;
        loop {
            let compute = match self.known(text) {
                Some(compute) => compute,
                None => self.find_or_begin(&target).await?,
            };
            if compute.phase.get() == Phase::Stopping {
                compute.gone.wait().await;
                continue;
            }
            compute.used.set(clock::now());
            compute.texts.borrow_mut().insert(text.to_owned());
            if compute.up.get().is_none()
                && let Some(notice) = notice.take()
            {
                // A client that has gone needs no notice.
                drop(notice.send(self.why_wait(&compute)));
            }
            return compute.up.wait().await.map(|ready| (compute, ready));
        }
    }

    /// What waiting clients are told.
    fn why_wait(&self, compute: &Compute) -> String {
        let name = &compute.name;
        if compute.phase.get() == Phase::Queued {
            let most = self.launcher.settings.max_running;
            return format!(
                "compute for \"{name}\" waits: {most} computes run, which is the limit"
            );
        }
        format!("starting compute for \"{name}\"")
    }

    fn known(&self, text: &str) -> Option<Rc<Compute>> {
        let computes = self.computes.borrow();
        computes.values().find(|compute| compute.texts.borrow().contains(text)).cloned()
    }

    async fn find_or_begin(self: &Rc<Self>, target: &Target) -> Result<Rc<Compute>, Refusal> {
        let (name, spec) = self.locate(target).await?;
        if let Some(compute) = self.computes.borrow().get(&name) {
            return Ok(Rc::clone(compute));
        }
        if self.is_stopping.get() {
            return Err(Refusal::not_now("Howdah is shutting down"));
        }
        let is_primary = self.launcher.primary_of(&spec).is_some();
        if self.computes.borrow().len() >= COMPUTES_MAX && !is_primary {
            let message = "too many computes are running or waiting";
            return Err(Refusal::new(SqlState::TOO_MANY_CONNECTIONS, message)
                .detail(format!("There are {COMPUTES_MAX}.")));
        }
        let has_room = is_primary || self.has_room();
        let compute = Rc::new(Compute {
            name: name.clone(),
            number: self.numbers.replace(self.numbers.get() + 1),
            is_read_only: !spec.writes_branch() && !target.is_ephemeral,
            spec,
            phase: Cell::new(if has_room { Phase::Starting } else { Phase::Queued }),
            texts: RefCell::default(),
            used: Cell::new(clock::now()),
            clients: Cell::new(0),
            up: Latch::default(),
            stop: Latch::default(),
            left: Latch::default(),
            gone: Latch::default(),
        });
        self.computes.borrow_mut().insert(name, Rc::clone(&compute));
        executor::spawn_detached(Rc::clone(self).live(Rc::clone(&compute)));
        Ok(compute)
    }

    /// Finds out what a target is now: its compute's name, and what that serves.
    async fn locate(&self, target: &Target) -> Result<(String, Spec), Refusal> {
        let absent = || Refusal::not_now("the page server has nothing to start a compute from yet");
        let branch = target.branch.clone();
        let all = self.pages.branches().await.ok_or_else(absent)?;
        let found = all.iter().find(|other| other.name == branch);
        let found = found.ok_or_else(|| {
            Refusal::unknown(format!("branch \"{branch}\" does not exist"))
                .hint(format!("Make it: howdah branch create {branch}"))
        })?;
        // A copy is one of what the branch has by now, not only of what has arrived.
        let at = target.at.clone().or_else(|| target.is_ephemeral.then(String::new));
        let lsn = if let Some(at) = at {
            let moment = self.pages.lsn_at(branch.clone(), at).await.ok_or_else(absent)?;
            let lsn = moment.map_err(Refusal::of_page_server)?.lsn;
            let newest = self.newest(&branch).await.ok_or_else(absent)?;
            if is_later(&lsn, &newest) {
                return Err(Refusal::unknown(format!("LSN {lsn} has not come yet"))
                    .detail(format!("Branch \"{branch}\" ends at {newest}.")));
            }
            Some(lsn)
        } else {
            let is_ours = self.launcher.primary.is_some();
            if found.from.is_none() && !is_ours && !target.is_replica {
                return Err(Refusal::unknown(format!(
                    "branch \"{branch}\" is written by the server that Howdah follows"
                ))
                .hint(format!(
                    "Connect without \"@{branch}\", or to \"{branch}?replica\" or \"{branch}?ephemeral\"."
                )));
            }
            None
        };
        let name = target.name(lsn.as_deref());
        Ok((name, Spec { branch, lsn, is_replica: target.is_replica }))
    }

    /// Where a branch ends now.
    async fn newest(&self, branch: &str) -> Option<String> {
        let all = self.pages.branches().await?;
        all.into_iter().find(|other| other.name == branch).map(|found| found.newest_lsn)
    }

    /// A compute's life.
    async fn live(self: Rc<Self>, compute: Rc<Compute>) {
        // Until it is gone, and not listed any more, it takes up its room.
        let permit = RefCell::new(None);
        match self.bring_up(&compute, &permit).await {
            Ok(process) => {
                tracing::info!(
                    compute = compute.name,
                    pid = process.ready.pid,
                    mode = process.ready.mode,
                    lsn = process.ready.lsn,
                    "compute runs"
                );
                compute.phase.set(Phase::Running);
                compute.used.set(clock::now());
                compute.up.set(Ok(process.ready.clone()));
                self.tell_takeover(&compute);
                self.serve(&compute, &process).await;
                self.detach(&compute).await;
                self.forget(&compute);
                compute.left.set(());
                self.end_lease(&compute).await;
                drop(permit.take());
                self.lost(&compute).await;
                process.clean().await;
            }
            Err(refusal) => {
                tracing::warn!(compute = compute.name, error = %refusal.error, "no compute");
                self.end_lease(&compute).await;
                self.forget(&compute);
                drop(permit.take());
                compute.left.set(());
                compute.up.set(Err(refusal));
            }
        }
        compute.gone.set(());
    }

    async fn bring_up(
        self: &Rc<Self>,
        compute: &Rc<Compute>,
        permit: &RefCell<Option<Permit>>,
    ) -> Result<Process, Refusal> {
        let mut patience = self.launcher.settings.start_timeout;
        if self.is_primary(compute) {
            // As long as a server has that is started in a directory.
            patience = patience.max(POSTGRES_READY_WAIT);
        }
        let place = Latch::default();
        let up = clock::timeout(patience, self.start_process(compute, &place, permit));
        let refusal = match first(up, compute.stop.wait()).await {
            First::A(Ok(Ok(started))) => return Ok(started),
            First::A(Ok(Err(refusal))) => refusal,
            First::A(Err(_elapsed)) => self.too_late(compute),
            First::B(()) => Refusal::not_now(format!("compute \"{}\" was stopped", compute.name)),
        };
        if let Some(place) = place.get() {
            orphans::clear(&place, self.launcher.settings.stop_timeout).await;
        }
        Err(refusal)
    }

    fn too_late(&self, compute: &Compute) -> Refusal {
        let settings = &self.launcher.settings;
        let waited = pooler::settings::units::format_duration(settings.start_timeout);
        if compute.phase.get() == Phase::Queued {
            return Refusal::new(SqlState::TOO_MANY_CONNECTIONS, "too many computes are running")
                .detail(format!("{} run, and none was idle within {waited}.", settings.max_running))
                .hint("compute.max_running and compute.start_timeout set these limits.");
        }
        let log = self.launcher.log(&compute.name);
        Refusal::not_now(format!("compute for \"{}\" did not start in time", compute.name))
            .detail(format!("It had {waited}; its log is {}.", log.display()))
    }

    async fn start_process(
        self: &Rc<Self>,
        compute: &Rc<Compute>,
        place: &Latch<std::path::PathBuf>,
        permit: &RefCell<Option<Permit>>,
    ) -> Result<Process, Refusal> {
        let failed = |error: Error| {
            let name = &compute.name;
            let refusal = Refusal::not_now(format!("could not start a compute for \"{name}\""));
            let detail = error.detail.map_or_else(String::new, |detail| format!(" ({detail})"));
            refusal.detail(format!("{}{detail}", error.message))
        };
        clock::sleep(self.crashes.pause(&compute.name)).await;
        let _starting = match self.launcher.primary_of(&compute.spec) {
            // It waits for nobody.
            Some(primary) => {
                primary.old_server_gone().await;
                None
            }
            None => {
                if !self.running.has_free() {
                    self.look().await;
                }
                let own = self.running.acquire().await;
                *permit.borrow_mut() = Some(own);
                Some(self.starting.acquire().await)
            }
        };
        compute.phase.set(Phase::Starting);
        let status = self.pages.status().await;
        let service = status.map(|status| status.listen).unwrap_or_default();
        // What it begins with must not be thrown away before it is there.
        if let Some(lsn) = &compute.spec.lsn {
            self.lease(compute, lsn).await?;
        }
        let own = self.launcher.place().map_err(failed)?;
        place.set(own.clone());
        if self.is_attached(compute).await {
            self.detach(compute).await;
        }
        let process = self.launcher.start(own, &compute.name, &compute.spec, &service).await;
        let process = process.map_err(failed)?;
        if compute.spec.lsn.is_none() {
            self.lease(compute, &process.ready.lsn).await?;
        }
        self.attach(compute, &process.ready).await?;
        Ok(process)
    }

    /// Whether it serves `main`.
    fn is_primary(&self, compute: &Compute) -> bool {
        self.launcher.primary_of(&compute.spec).is_some()
    }

    /// Says how long `main` was away, if it was.
    fn tell_takeover(&self, compute: &Compute) {
        if self.is_primary(compute)
            && let Some(died) = self.died.take()
        {
            // From here on commits are acknowledged.
            tracing::info!(away = ?died.elapsed(), "main runs again");
        }
    }

    /// Until it dies or is stopped.
    async fn serve(&self, compute: &Compute, process: &Process) {
        let since = clock::now();
        let ended = async {
            match first(process.end(), health::hangs(&process.ready)).await {
                First::A(exit) => exit,
                First::B(()) => {
                    tracing::error!(compute = compute.name, "a compute is stopped: it is killed");
                    process.kill().await;
                    "it did not go on after it was stopped".to_owned()
                }
            }
        };
        match first(ended, compute.stop.wait()).await {
            First::A(exit) => {
                let log = self.launcher.log(&compute.name);
                tracing::error!(compute = compute.name, exit, log = %log.display(), "a compute died");
                compute.phase.set(Phase::Stopping);
                if self.is_primary(compute) {
                    self.died.set(Some(clock::now()));
                }
                self.crashes.remember(&compute.name, since.elapsed());
            }
            First::B(()) => {
                compute.phase.set(Phase::Stopping);
                process.stop(self.launcher.settings.stop_timeout).await;
                tracing::info!(compute = compute.name, "compute stopped");
            }
        }
    }

    fn forget(&self, compute: &Rc<Compute>) {
        let mut computes = self.computes.borrow_mut();
        if computes.get(&compute.name).is_some_and(|other| Rc::ptr_eq(other, compute)) {
            computes.remove(&compute.name);
        }
    }

    /// Tells the pooler that its server is gone.
    async fn lost(&self, compute: &Compute) {
        let texts = compute.texts.borrow().clone();
        for text in texts {
            self.pooler.target_lost(text).await;
        }
    }

    /// Stops the compute of this name, whoever uses it; false if there is none.
    pub(super) async fn stop(&self, name: &str) -> bool {
        let found = self.computes.borrow().get(name).cloned();
        let Some(compute) = found.or_else(|| self.known(name)) else { return false };
        compute.stop.set(());
        compute.gone.wait().await;
        true
    }

    /// The computes of a branch.
    pub(super) fn of_branch(&self, branch: &str) -> Vec<String> {
        let computes = self.computes.borrow();
        let ours = computes.values().filter(|compute| compute.spec.branch == branch);
        ours.map(|compute| compute.name.clone()).collect()
    }

    /// Stops all of them, at the end.
    pub(super) async fn stop_all(&self) {
        self.is_stopping.set(true);
        let all: Vec<Rc<Compute>> = self.computes.borrow().values().cloned().collect();
        for compute in &all {
            compute.stop.set(());
        }
        for compute in all {
            compute.gone.wait().await;
        }
    }

    pub(super) fn line(&self, compute: &Compute) -> Line {
        compute.line(&self.launcher)
    }

    pub(super) fn list(&self) -> Vec<Line> {
        self.computes.borrow().values().map(|compute| self.line(compute)).collect()
    }
}

/// Both are texts of the page server's.
fn is_later(lsn: &str, than: &str) -> bool {
    matches!((lsn.parse::<Lsn>(), than.parse::<Lsn>()), (Ok(lsn), Ok(than)) if lsn > than)
}

impl Compute {
    pub(super) fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// Where it began, or will.
    fn lsn(&self) -> Option<String> {
        let ready = self.up.get().and_then(Result::ok);
        ready.map(|ready| ready.lsn).or_else(|| self.spec.lsn.clone())
    }

    /// Whose lease it is.
    fn holder(&self) -> String {
        format!("compute {}", self.number)
    }

    fn line(&self, launcher: &Launcher) -> Line {
        let ready = self.up.get().and_then(Result::ok);
        Line {
            name: self.name.clone(),
            branch: self.spec.branch.clone(),
            lsn: ready.as_ref().map(|ready| ready.lsn.clone()).or_else(|| self.spec.lsn.clone()),
            phase: self.phase.get(),
            read_only: self.is_read_only,
            writes_branch: self.spec.writes_branch(),
            replica: self.spec.is_replica,
            clients: self.clients.get(),
            idle_seconds: self.used.get().elapsed().as_secs(),
            socket_dir: ready.as_ref().map(|ready| ready.socket_dir.clone()),
            port: ready.as_ref().map(|ready| ready.port),
            pid: ready.as_ref().map(|ready| ready.pid),
            postgres_pid: ready.as_ref().map(|ready| ready.postgres_pid),
            mode: ready.map(|ready| ready.mode),
            log: launcher.log(&self.name),
        }
    }
}
