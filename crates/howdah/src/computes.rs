//! Computes: stock servers on branches and moments, started when somebody asks for one. An applet of the first core.
//!
//! The pooler asks for the server of `shop@feature` ([`Handle::resolver`]), the API for a list of what runs; each compute
//! is a process of its own, `howdah compute run`.

pub mod directory;
mod health;
mod helped;
mod latch;
mod log;
mod manager;
pub mod mounted;
mod orphans;
mod permits;
pub mod primary;
mod process;
mod refusal;
pub mod settings;
pub mod starter;
mod target;

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use pooler::resolver::{Place, Resolve, Resolver};
use runtime::app::{self, App, Applet, LocalFuture, Node, Stop};
use runtime::executor::{self, JoinHandle};
use runtime::mailbox::{self, Receiver, Reply, Sender};
use serde::{Deserialize, Serialize};

pub use primary::Primary;
pub use process::Ready;
pub use refusal::Refusal;

use crate::limits::COMPUTE_ORDERS_MAX;
use crate::pooling;
use manager::Manager;
use primary::MAIN;
use process::Launcher;
use settings::Settings;

/// The service's name in logs and in the nodepool.
const NAME: &str = "computes";

/// A compute at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// What it is stopped by.
    pub name: String,
    pub branch: String,
    pub lsn: Option<String>,
    pub phase: Phase,
    /// It refuses to be written, for it is a moment of the past, or follows the branch.
    pub read_only: bool,
    /// What is written to it stays; otherwise it is thrown away.
    pub writes_branch: bool,
    /// It follows the branch.
    #[serde(default)]
    pub replica: bool,
    /// Of the pooler.
    pub clients: u64,
    /// Since somebody asked for it or was connected.
    pub idle_seconds: u64,
    /// These once it takes connections: the folder and the number of its unix socket, its process and its server's,
    /// `fuse` or `directory`.
    pub socket_dir: Option<PathBuf>,
    pub port: Option<u16>,
    pub pid: Option<u32>,
    pub postgres_pid: Option<u32>,
    pub mode: Option<String>,
    /// What it writes to its log.
    pub log: PathBuf,
}

/// What a compute is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// As many run as may.
    Queued,
    Starting,
    Running,
    Stopping,
}

/// What the manager can be told.
enum Order {
    Resolve(Resolve),
    Start(String, Reply<Result<Line, Refusal>>),
    Stop(String, Reply<bool>),
    OfBranch(String, Reply<Vec<String>>),
    List(Reply<Vec<Line>>),
}

/// Asks and tells the manager, from anywhere in the process.
#[derive(Clone, Default)]
pub struct Handle {
    orders: Arc<OnceLock<Sender<Order>>>,
    /// `main` is one of them.
    keeps_main: bool,
}

impl Handle {
    /// `keeps_main`: plain database names lead to a compute, too.
    #[must_use]
    pub fn new(keeps_main: bool) -> Self {
        Self { keeps_main, ..Self::default() }
    }

    /// Where databases are that name no host of their own.
    #[must_use]
    pub fn default_target(&self) -> Option<String> {
        self.keeps_main.then(|| MAIN.to_owned())
    }

    /// Starts a compute of a branch, an LSN, a time, `BRANCH@LSN` or `BRANCH@TIME`, with or without `?ephemeral` or
    /// `?replica`, unless it runs; answers when it takes connections. `None` if nothing starts computes here (yet).
    pub async fn start(&self, target: String) -> Option<Result<Line, Refusal>> {
        self.ask(|reply| Order::Start(target, reply)).await
    }

    /// Stops one; false if it does not run.
    pub async fn stop(&self, name: String) -> Option<bool> {
        self.ask(|reply| Order::Stop(name, reply)).await
    }

    /// The names of a branch's computes.
    pub async fn of_branch(&self, branch: String) -> Option<Vec<String>> {
        self.ask(|reply| Order::OfBranch(branch, reply)).await
    }

    pub async fn list(&self) -> Option<Vec<Line>> {
        self.ask(Order::List).await
    }

    /// What the pooler asks. A question that finds nobody is dropped, which the pooler understands.
    #[must_use]
    pub fn resolver(&self) -> Arc<Resolver> {
        let orders = Arc::clone(&self.orders);
        Arc::new(move |question| {
            if let Some(orders) = orders.get() {
                drop(orders.try_send(Order::Resolve(question)));
            }
        })
    }

    async fn ask<T: Send>(&self, order: impl FnOnce(Reply<T>) -> Order) -> Option<T> {
        let (reply, pending) = mailbox::oneshot();
        self.orders.get()?.try_send(order(reply)).ok()?;
        pending.await.ok()
    }
}

/// What is different from process to process.
#[derive(Clone, Debug)]
pub struct Site {
    /// Scratch of computes, and their logs.
    pub folder: PathBuf,
    /// Socket of what starts computes as root, if there is one.
    pub starter: Option<PathBuf>,
    /// How `main` is served, if by a compute.
    pub primary: Option<Primary>,
}

/// What the manager needs to know of the process around it.
#[derive(Clone)]
pub struct Options {
    /// This program, which is also that of computes.
    pub program: PathBuf,
    /// Folder of PostgreSQL's programs.
    pub binaries: PathBuf,
    pub directory: PathBuf,
    /// Socket of what starts computes as root, if there is one.
    pub starter: Option<PathBuf>,
    pub settings: Settings,
    /// How `main` is served; `None`: by a server of its own, which is no compute.
    pub primary: Option<Primary>,
    /// The page server's application_name: who must have received a commit on a branch.
    pub standby: String,
    pub pages: pageserver::api::Handle,
    /// Filled in when the pooler is made, which comes after.
    pub pooler: pooling::Handle,
}

/// The app, for `handle`.
#[must_use]
pub fn app(options: Options, handle: Handle) -> App {
    App::new(NAME, move |_node| Computes {
        options: options.clone(),
        handle: handle.clone(),
        running: RefCell::default(),
    })
}

struct Computes {
    options: Options,
    handle: Handle,
    running: RefCell<Option<Running>>,
}

struct Running {
    manager: Rc<Manager>,
    /// Orders, the look at who is idle, and who keeps `main` running.
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    async fn end(&mut self) {
        self.tasks.drain(..).for_each(|task| task.abort());
        self.manager.stop_all().await;
    }
}

impl Computes {
    async fn open(&self) -> crate::error::Result<()> {
        let Options { pages, pooler, primary, .. } = self.options.clone();
        let Options { program, binaries, directory, starter, settings, standby, .. } =
            self.options.clone();
        let launcher = Launcher {
            program,
            binaries,
            directory,
            starter,
            standby,
            settings,
            primary: primary.clone(),
        };
        let manager = Manager::new(launcher, pages, pooler);
        manager.prepare().await?;
        let (orders, inbox) = mailbox::channel(COMPUTE_ORDERS_MAX);
        if self.handle.orders.set(orders).is_err() {
            return Ok(());
        }
        let tasks = vec![
            executor::spawn(answer(Rc::clone(&manager), inbox)),
            executor::spawn(Rc::clone(&manager).watch()),
        ];
        let mut running = Running { manager: Rc::clone(&manager), tasks };
        if let Some(primary) = primary {
            if let Err(error) = manager.raise_main(&primary).await {
                // A start that fails leaves nothing behind.
                running.end().await;
                return Err(error);
            }
            running.tasks.push(executor::spawn(manager.keep_main()));
        }
        *self.running.borrow_mut() = Some(running);
        Ok(())
    }
}

impl Applet for Computes {
    fn name(&self) -> &'static str {
        NAME
    }

    fn start<'a>(&'a self, node: &'a Node) -> LocalFuture<'a, Result<(), app::Error>> {
        Box::pin(async {
            if node.index != 0 {
                return Ok(());
            }
            self.open().await.map_err(app::Error::from)
        })
    }

    fn stop<'a>(&'a self, _how: Stop) -> LocalFuture<'a, ()> {
        Box::pin(async {
            let running = self.running.take();
            if let Some(mut running) = running {
                running.end().await;
            }
        })
    }
}

/// Each order in a task of its own: most wait for something.
async fn answer(manager: Rc<Manager>, mut orders: Receiver<Order>) {
    while let Some(order) = orders.recv().await {
        let manager = Rc::clone(&manager);
        executor::spawn_detached(async move { carry_out(&manager, order).await });
    }
}

async fn carry_out(manager: &Rc<Manager>, order: Order) {
    // Whoever asked may have gone away meanwhile.
    match order {
        Order::Resolve(Resolve { target, is_unreachable: _, notice, reply }) => {
            // Who names no branch knows of no computes.
            let notice = Some(notice).filter(|_| target != MAIN);
            let started = manager.start(&target, notice).await;
            let place = started.map(|(compute, ready)| Place {
                server: ready.address(),
                parameters: match compute.is_read_only() {
                    true => vec![("default_transaction_read_only", "on".to_owned())],
                    false => Vec::new(),
                },
            });
            drop(reply.send(place.map_err(|refusal| refusal.report())));
        }
        Order::Start(target, reply) => {
            let started = manager.start(&target, None).await;
            drop(reply.send(started.map(|(compute, _ready)| manager.line(&compute))));
        }
        Order::Stop(name, reply) => drop(reply.send(manager.stop(&name).await)),
        Order::OfBranch(branch, reply) => drop(reply.send(manager.of_branch(&branch))),
        Order::List(reply) => drop(reply.send(manager.list())),
    }
}
