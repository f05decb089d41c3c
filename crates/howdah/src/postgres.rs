//! The supervised server: an applet of the first core that starts a stock `postgres`, starts it again when it dies,
//! forwards its log into ours, and stops it.
//!
//! 1. It has a session of its own: Ctrl-C reaches us, not it, so that the pooler can stop first.
//! 2. Fast shutdown on stop; immediate if that takes too long; killed if nothing helps.
//! 3. If we die, the kernel tells it to shut down fast.

pub mod binaries;
pub mod cluster;
pub mod files;
pub mod place;
pub(crate) mod readiness;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use runtime::app::{self, App, Applet, LocalFuture, Node, Stop};
use runtime::clock;
use runtime::executor::{self, JoinHandle};
use runtime::mailbox::{self, Receiver, Reply, Sender};
use runtime::process::{Child, Command, Output};
use runtime::signal::Signal;
use serde::Serialize;

use crate::error::{Result, While};
use crate::limits::{
    POSTGRES_FAST_WAIT, POSTGRES_IMMEDIATE_WAIT, POSTGRES_LOG_LINES, POSTGRES_RESTART_PAUSE_MAX,
    POSTGRES_RESTART_PAUSE_MIN, POSTGRES_STEADY, SUPERVISOR_QUEUE_MAX,
};
use cluster::Cluster;

/// The service's name in logs and in the nodepool.
const NAME: &str = "postgres";

/// What the server is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    #[default]
    Starting,
    Running,
    /// It died, and will be started again.
    Waiting,
    Stopping,
    Stopped,
}

/// The server at a glance.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    pub phase: Phase,
    pub pid: Option<u32>,
    /// Times it was started again after it had died.
    pub restarts: u64,
    /// How it ended last.
    pub last_exit: Option<String>,
}

/// What the supervisor can be told.
enum Order {
    Status(Reply<Status>),
    Stop(Reply<()>),
    Start(Reply<()>),
}

/// Asks and tells the supervisor, from anywhere in the process.
#[derive(Clone, Default)]
pub struct Handle {
    orders: Arc<OnceLock<Sender<Order>>>,
}

impl Handle {
    /// `None` if there is no supervisor (yet).
    pub async fn status(&self) -> Option<Status> {
        self.ask(Order::Status).await
    }

    /// Shuts the server down and leaves it so. Returns when it is down.
    pub async fn stop(&self) -> Option<()> {
        self.ask(Order::Stop).await
    }

    /// Starts it again after [`Handle::stop`].
    pub async fn start(&self) -> Option<()> {
        self.ask(Order::Start).await
    }

    async fn ask<T: Send>(&self, order: impl FnOnce(Reply<T>) -> Order) -> Option<T> {
        let (reply, pending) = mailbox::oneshot();
        self.orders.get()?.try_send(order(reply)).ok()?;
        pending.await.ok()
    }
}

/// The server as an applet.
pub struct Postgres {
    supervisor: Rc<Supervisor>,
    handle: Handle,
    tasks: RefCell<Vec<JoinHandle<()>>>,
}

impl Postgres {
    /// The app, and a handle to it. The cluster must exist and be configured.
    #[must_use]
    pub fn app(cluster: Cluster) -> (App, Handle) {
        let handle = Handle::default();
        let shared = handle.clone();
        let make = move |_node: &Node| Self {
            supervisor: Rc::new(Supervisor::new(cluster.clone())),
            handle: shared.clone(),
            tasks: RefCell::default(),
        };
        (App::new(NAME, make), handle)
    }

    async fn begin(&self) -> Result<()> {
        let (orders, inbox) = mailbox::channel(SUPERVISOR_QUEUE_MAX);
        if self.handle.orders.set(orders).is_err() {
            return Ok(());
        }
        self.supervisor.start().await?;
        let answering = executor::spawn(answer(Rc::clone(&self.supervisor), inbox));
        self.tasks.borrow_mut().push(answering);
        Ok(())
    }
}

impl Applet for Postgres {
    fn name(&self) -> &'static str {
        NAME
    }

    fn start<'a>(&'a self, node: &'a Node) -> LocalFuture<'a, std::result::Result<(), app::Error>> {
        Box::pin(async {
            if node.index != 0 {
                return Ok(());
            }
            self.begin().await.map_err(app::Error::from)
        })
    }

    fn stop<'a>(&'a self, _how: Stop) -> LocalFuture<'a, ()> {
        Box::pin(async {
            for task in self.tasks.take() {
                task.abort();
            }
            self.supervisor.stop().await;
        })
    }
}

async fn answer(supervisor: Rc<Supervisor>, mut orders: Receiver<Order>) {
    while let Some(order) = orders.recv().await {
        // Whoever asked may have gone away meanwhile.
        match order {
            Order::Status(reply) => drop(reply.send(supervisor.status())),
            Order::Stop(reply) => {
                supervisor.stop().await;
                drop(reply.send(()));
            }
            Order::Start(reply) => {
                if let Err(error) = supervisor.start().await {
                    tracing::error!(target: "postgres", %error, "could not start the server");
                }
                drop(reply.send(()));
            }
        }
    }
}

/// Keeps one server running.
struct Supervisor {
    cluster: Cluster,
    status: RefCell<Status>,
    child: RefCell<Option<Rc<Child>>>,
    watching: RefCell<Option<JoinHandle<()>>>,
    stopping: Cell<bool>,
    /// The last lines of the server's log.
    said: Rc<RefCell<VecDeque<String>>>,
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Supervisor").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl Supervisor {
    fn new(cluster: Cluster) -> Self {
        Self {
            cluster,
            status: RefCell::default(),
            child: RefCell::default(),
            watching: RefCell::default(),
            stopping: Cell::new(false),
            said: Rc::default(),
        }
    }

    fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    fn set_phase(&self, phase: Phase) {
        self.status.borrow_mut().phase = phase;
    }

    /// Starts the server, returns when it takes connections, and watches it from then on.
    async fn start(self: &Rc<Self>) -> Result<()> {
        if self.watching.borrow().is_some() {
            return Ok(());
        }
        self.stopping.set(false);
        self.set_phase(Phase::Starting);
        readiness::old_server_gone(&self.cluster).await?;
        let child = Rc::new(self.spawn()?);
        let ready = readiness::ready(&self.cluster.data, &child).await;
        if let Err(error) = ready {
            self.end(&child).await;
            let said: Vec<String> = self.said.borrow().iter().cloned().collect();
            let error = if said.is_empty() { error } else { error.detail(said.join("\n        ")) };
            return Err(error);
        }
        self.run(&child);
        let supervisor = Rc::clone(self);
        *self.watching.borrow_mut() =
            Some(executor::spawn(async move { supervisor.watch(child).await }));
        Ok(())
    }

    fn run(&self, child: &Rc<Child>) {
        let mut status = self.status.borrow_mut();
        status.pid = Some(child.pid());
        status.phase = Phase::Running;
        *self.child.borrow_mut() = Some(Rc::clone(child));
        tracing::info!(target: "postgres", pid = child.pid(), "the server takes connections");
    }

    fn spawn(&self) -> Result<Child> {
        let program = self.cluster.binaries.program("postgres");
        let said = Rc::clone(&self.said);
        said.borrow_mut().clear();
        let each = move |line: &str| {
            forward(line);
            let mut said = said.borrow_mut();
            if said.len() == POSTGRES_LOG_LINES {
                said.pop_front();
            }
            said.push_back(files::log_line(line).2.to_owned());
        };
        Command::new(&program)
            .arg("-D")
            .arg(&self.cluster.data)
            .current_dir(&self.cluster.data)
            .new_session()
            .death_signal(Signal::Interrupt)
            .signal_on_drop(Signal::Interrupt)
            .stdout(Output::Null)
            .stderr(Output::lines(each))
            .spawn()
            .or_fail(format_args!("could not start \"{}\"", program.display()))
    }

    /// Waits for the server's end; unless we ended it, starts another, with a pause that grows while that fails.
    async fn watch(&self, first: Rc<Child>) {
        let mut child = first;
        let mut pause = POSTGRES_RESTART_PAUSE_MIN;
        loop {
            let since = clock::now();
            let exit = child
                .wait()
                .await
                .map_or_else(|error| error.to_string(), |status| status.to_string());
            self.gone(&exit);
            if self.stopping.get() {
                return;
            }
            if since.elapsed() >= POSTGRES_STEADY {
                pause = POSTGRES_RESTART_PAUSE_MIN;
            }
            tracing::error!(target: "postgres", exit, pause = ?pause, "the server died; it will be started again");
            child = self.again(&mut pause).await;
        }
    }

    fn gone(&self, exit: &str) {
        *self.child.borrow_mut() = None;
        let mut status = self.status.borrow_mut();
        status.pid = None;
        status.last_exit = Some(exit.to_owned());
        status.phase = Phase::Waiting;
    }

    /// Starts it until that works.
    async fn again(&self, pause: &mut Duration) -> Rc<Child> {
        loop {
            clock::sleep(*pause).await;
            *pause = (*pause * 2).min(POSTGRES_RESTART_PAUSE_MAX);
            self.status.borrow_mut().restarts += 1;
            self.set_phase(Phase::Starting);
            match self.spawn() {
                Ok(child) => {
                    let child = Rc::new(child);
                    *self.child.borrow_mut() = Some(Rc::clone(&child));
                    if readiness::ready(&self.cluster.data, &child).await.is_ok() {
                        self.run(&child);
                    }
                    // If it ended instead, waiting for its end will tell so at once.
                    return child;
                }
                Err(error) => {
                    tracing::error!(target: "postgres", %error, "could not start the server")
                }
            }
        }
    }

    /// Shuts the server down. May be dropped half-way and called again.
    async fn stop(&self) {
        self.stopping.set(true);
        self.set_phase(Phase::Stopping);
        let child = self.child.borrow().clone();
        if let Some(child) = child {
            self.end(&child).await;
        }
        let watching = self.watching.borrow_mut().take();
        if let Some(watching) = watching {
            // It may be in the pause before another start.
            watching.abort();
        }
        self.set_phase(Phase::Stopped);
    }

    /// Fast shutdown, then immediate, then kill.
    async fn end(&self, child: &Child) {
        let steps = [
            (Signal::Interrupt, POSTGRES_FAST_WAIT),
            (Signal::Quit, POSTGRES_IMMEDIATE_WAIT),
            (Signal::Kill, POSTGRES_IMMEDIATE_WAIT),
        ];
        for (signal, patience) in steps {
            if let Err(error) = child.signal(signal) {
                tracing::error!(target: "postgres", %signal, %error, "could not signal the server");
            }
            if let Ok(exit) = clock::timeout(patience, child.wait()).await {
                let exit = exit.map_or_else(|error| error.to_string(), |status| status.to_string());
                tracing::info!(target: "postgres", exit, "the server has stopped");
                return;
            }
            tracing::warn!(target: "postgres", %signal, ?patience, "the server did not stop in time");
        }
    }
}

/// One line of the server's log as an event of ours.
fn forward(line: &str) {
    let (severity, backend, text) = files::log_line(line);
    match severity {
        files::Severity::Debug => tracing::debug!(target: "postgres", backend, "{text}"),
        files::Severity::Info => tracing::info!(target: "postgres", backend, "{text}"),
        files::Severity::Warning => tracing::warn!(target: "postgres", backend, "{text}"),
        // An error of a statement is its client's business; the server goes on.
        files::Severity::Error => tracing::warn!(target: "postgres", backend, "{text}"),
    }
}
