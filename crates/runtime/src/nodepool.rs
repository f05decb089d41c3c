//! The process as a pool of cores: one pinned thread each, the main thread the first, and the Apps on all of them.
//!
//! Invariants:
//! 1. App k+1 starts on no core before App k has started on every core. Stopping goes the other way round.
//! 2. When a start fails, everything started before is stopped, and the process ends with that error.
//! 3. Stopping is bounded: draining by [`NodepoolOptions::drain`], stopping now by [`NodepoolOptions::stop_now`].
//! 4. A panic on a core aborts the process: a core's services cannot be trusted half-alive.

mod affinity;
mod conductor;
mod control;
mod cores;
mod node;

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

pub use control::{Control, Phase};
pub use cores::{Cores, InvalidCores};
pub use node::NodeReport;

#[cfg(target_os = "linux")]
pub(crate) use affinity::inherited as inherited_affinity;
pub(crate) use affinity::release as release_affinity;

use crate::app::{self, App, Node};
use crate::executor;
use crate::io::Options;
use crate::limits::{COMMANDS_QUEUED_MAX, CORE_END_WAIT, DRAIN_WAIT, STOP_NOW_WAIT};
use crate::log;
use crate::mailbox::{self, Receiver, Sender};
use conductor::Conductor;
use node::Command;

/// How many cores, and how they work.
#[derive(Debug, Clone)]
pub struct NodepoolOptions {
    /// Which processors to use.
    pub cores: Cores,
    /// Whether each thread stays on its processor.
    pub pin: bool,
    /// How each core does its I/O.
    pub io: Options,
    /// How long [`Stop::Drain`](app::Stop::Drain) may take, over all Apps, before it becomes `Now`.
    pub drain: Duration,
    /// How long [`Stop::Now`](app::Stop::Now) may take, over all Apps, before the process ends without waiting.
    pub stop_now: Duration,
    /// Whether SIGTERM drains, SIGINT stops and SIGHUP reloads; off where somebody else handles signals.
    pub signals: bool,
}

impl Default for NodepoolOptions {
    fn default() -> Self {
        Self {
            cores: Cores::Auto,
            pin: true,
            io: Options::default(),
            drain: DRAIN_WAIT,
            stop_now: STOP_NOW_WAIT,
            signals: true,
        }
    }
}

/// Why the process ended other than by being asked to.
#[derive(Debug)]
pub enum Error {
    /// An App could not start; the rest was stopped.
    Start { app: &'static str, node: usize, error: app::Error },
    /// A core could not be made.
    Core { node: usize, error: io::Error },
    /// The process could not be set up.
    Setup { what: &'static str, error: io::Error },
    /// Cores that did not end in time; they die with the process.
    Stuck { cores: usize },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { app, node, error } => {
                write!(f, "could not start {app} on node {node}: {error}")
            }
            Self::Core { node, error } => write!(f, "could not run node {node}: {error}"),
            Self::Setup { what, error } => write!(f, "could not set up {what}: {error}"),
            Self::Stuck { cores } => write!(f, "{cores} cores did not stop in time"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Start { error, .. } => Some(error.as_ref()),
            Self::Core { error, .. } | Self::Setup { error, .. } => Some(error),
            Self::Stuck { .. } => None,
        }
    }
}

/// See [`Nodepool::run`].
#[derive(Debug)]
pub struct Nodepool;

impl Nodepool {
    /// Runs `apps` until somebody asks to stop. The calling thread becomes the first core.
    ///
    /// # Errors
    /// [`Error`] when the cores cannot be made or an App cannot start.
    ///
    /// # Panics
    /// When `control` ran a pool before.
    pub fn run(options: NodepoolOptions, apps: Vec<App>, control: Control) -> Result<(), Error> {
        let places = cores::place(&options.cores, options.pin)
            .map_err(|error| Error::Setup { what: "cores", error })?;
        let apps: Arc<[App]> = apps.into();
        let (senders, mut inboxes): (Vec<_>, Vec<_>) =
            places.iter().map(|_| mailbox::channel(COMMANDS_QUEUED_MAX)).unzip();
        let orders = control.attach(senders.clone());
        let make_core = |index: usize, inbox: Receiver<Command>| Core {
            node: Node {
                index,
                nodes: places.len(),
                cpu: places.get(index).copied().flatten(),
                control: control.clone(),
            },
            apps: Arc::clone(&apps),
            inbox,
        };
        let first = make_core(0, inboxes.remove(0));
        let mut others = Others::default();
        for (index, inbox) in (1..).zip(inboxes) {
            if let Err(error) = others.start(make_core(index, inbox), &options.io) {
                senders.iter().for_each(dismiss);
                return Err(Error::Core { node: index, error });
            }
        }
        let conductor = Conductor::new(senders, Arc::clone(&apps), orders, control, &options);
        let result = run_first(first, &options.io, others, conductor);
        affinity::release();
        result
    }
}

/// Ends a core that has nothing to stop.
fn dismiss(core: &Sender<Command>) {
    // One that has ended by itself needs no telling.
    core.try_send(Command::Exit).ok();
}

/// What a thread takes with it to become a core.
struct Core {
    node: Node,
    apps: Arc<[App]>,
    inbox: Receiver<Command>,
}

/// The threads of all cores but the first.
#[derive(Default)]
struct Others {
    threads: Vec<thread::JoinHandle<()>>,
    /// One per thread: how it came up.
    ready: Vec<mailbox::Pending<io::Result<()>>>,
}

impl Others {
    fn start(&mut self, core: Core, options: &Options) -> io::Result<()> {
        let options = options.clone();
        let (reply, ready) = mailbox::oneshot();
        let name = format!("howdah-{}", core.node.index);
        let thread = thread::Builder::new()
            .name(name)
            .spawn(move || abort_on_panic(|| run_other(core, &options, reply)))?;
        self.threads.push(thread);
        self.ready.push(ready);
        Ok(())
    }

    /// Waits until each of them is a core.
    async fn ready(&mut self) -> Result<(), Error> {
        for (node, ready) in (1..).zip(self.ready.drain(..)) {
            let outcome = ready.await.unwrap_or_else(|_dropped| {
                Err(io::Error::other("its thread ended before it was a core"))
            });
            outcome.map_err(|error| Error::Core { node, error })?;
        }
        Ok(())
    }

    /// Waits for the threads to end, within a bound.
    fn join(self) -> Result<(), Error> {
        let step = Duration::from_millis(1);
        let mut patience = CORE_END_WAIT;
        while self.threads.iter().any(|thread| !thread.is_finished()) && !patience.is_zero() {
            thread::sleep(step);
            patience = patience.saturating_sub(step);
        }
        let (ended, stuck): (Vec<_>, Vec<_>) =
            self.threads.into_iter().partition(thread::JoinHandle::is_finished);
        for thread in ended {
            // A panic has aborted the process already.
            thread.join().ok();
        }
        if stuck.is_empty() { Ok(()) } else { Err(Error::Stuck { cores: stuck.len() }) }
    }
}

fn run_first(
    core: Core,
    options: &Options,
    mut others: Others,
    conductor: Conductor,
) -> Result<(), Error> {
    prepare_thread(&core.node);
    let outcome = abort_on_panic(|| {
        executor::block_on(options, async {
            tracing::debug!(target: "runtime", backend = %crate::io::backend(), "core runs");
            let serve = executor::spawn(node::serve(core.node, core.apps, core.inbox));
            let ready = others.ready().await;
            let result = conductor.run(ready).await;
            // Told to exit like every core; an abort means that it did so by itself.
            serve.await.ok();
            result
        })
    });
    log::set_node(None);
    let result = match outcome {
        Ok(result) => result,
        Err(error) => Err(Error::Core { node: 0, error }),
    };
    result.and(others.join())
}

fn run_other(core: Core, options: &Options, ready: mailbox::Reply<io::Result<()>>) {
    prepare_thread(&core.node);
    let index = core.node.index;
    let ready = std::cell::Cell::new(Some(ready));
    let ended = executor::block_on(options, async {
        if let Some(reply) = ready.take() {
            // Nobody waits only if another core failed first.
            reply.send(Ok(())).ok();
        }
        tracing::debug!(target: "runtime", backend = %crate::io::backend(), "core runs");
        node::serve(core.node, core.apps, core.inbox).await;
    });
    match (ended, ready.take()) {
        (Ok(()), _) => {}
        (Err(error), Some(reply)) => drop(reply.send(Err(error))),
        (Err(error), None) => {
            tracing::error!(target: "runtime", node = index, %error, "core lost its I/O driver");
            std::process::abort();
        }
    }
}

fn prepare_thread(node: &Node) {
    log::set_node(Some(node.index));
    let Some(cpu) = node.cpu else { return };
    if let Err(error) = affinity::pin(cpu) {
        tracing::warn!(target: "runtime", cpu, %error, "could not pin the core's thread");
    }
}

/// A release build aborts by itself; this makes the others do the same.
fn abort_on_panic<T>(work: impl FnOnce() -> T) -> T {
    // Whatever it left half-done dies with the process.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_panic| std::process::abort())
}
