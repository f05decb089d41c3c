//! The pooler as an applet: what starts and stops on each core.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pg::sqlstate::SqlState;
use pg::wire::error::Report;
use runtime::app::{App, Applet, Error, LocalFuture, Node, Stop};
use runtime::executor::{self, JoinHandle};
use runtime::net::Address;

use crate::client::{ClientState, End};
use crate::command::{Answer, Command};
use crate::console::snapshot::Snapshot;
use crate::control::{self, PoolerOptions};
use crate::listener::Listeners;
use crate::router::links::Links;
use crate::router::{Phase, Router};
use crate::settings::PoolMode;
use crate::tls::TlsConfigs;

/// The App of the pooler.
pub fn app(options: PoolerOptions) -> App {
    let links = Links::new();
    App::new("pooler", move |_node| Pooler::new(options.clone(), Arc::clone(&links)))
}

/// The pooler on one core.
pub struct Pooler {
    options: PoolerOptions,
    links: Arc<Links>,
    running: RefCell<Option<Running>>,
}

struct Running {
    router: Rc<Router>,
    /// Mailbox, cron, watcher of idle servers, reloads, statistics.
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.router.listeners.borrow_mut().close();
        self.tasks.drain(..).for_each(|task| task.abort());
    }
}

impl Pooler {
    /// One core's part. All cores of a process share `links`.
    pub fn new(options: PoolerOptions, links: Arc<Links>) -> Pooler {
        Pooler { options, links, running: RefCell::default() }
    }

    /// The pooler of a process with one core that nobody else controls, as in tests.
    pub fn alone(options: PoolerOptions) -> Pooler {
        Pooler::new(options, Links::new())
    }

    /// Where this core listens, with the ports that the system chose.
    pub fn addresses(&self) -> Vec<Address> {
        let running = self.running.borrow();
        let addresses = |running: &Running| running.router.listeners.borrow().addresses.clone();
        running.as_ref().map(addresses).unwrap_or_default()
    }

    /// What every core knows of its pools, in the order of the cores. Empty unless it runs.
    pub async fn snapshots(&self) -> Vec<Snapshot> {
        let answers = self.order(&Command::Snapshot).await;
        let snapshots = answers.into_iter().filter_map(|answer| match answer {
            Answer::Snapshot(snapshot) => Some(*snapshot),
            _ => None,
        });
        snapshots.collect()
    }

    /// Targets that clients have asked for, and how many clients each has.
    pub async fn targets(&self) -> BTreeMap<String, u32> {
        let mut targets = BTreeMap::new();
        for answer in self.order(&Command::Targets).await {
            let Answer::Targets(ours) = answer else { continue };
            for (name, clients) in ours {
                *targets.entry(name).or_default() += clients;
            }
        }
        targets
    }

    /// A target's server has gone: its clients wait for the next one.
    pub async fn target_lost(&self, target: &str) {
        self.order(&Command::TargetLost { target: target.to_owned() }).await;
    }

    /// A target's server is to be stopped: its pools are closed. False if it has clients; then it must go on.
    pub async fn release_target(&self, target: &str) -> bool {
        let answers = self.order(&Command::ReleaseTarget { target: target.to_owned() }).await;
        !answers.iter().any(|answer| matches!(answer, Answer::Busy))
    }

    /// What all cores answer; nothing unless it runs.
    async fn order(&self, command: &Command) -> Vec<Answer> {
        let router = self.running.borrow().as_ref().map(|running| Rc::clone(&running.router));
        match router {
            Some(router) => crate::orders::ask_all(&router, command).await,
            None => Vec::new(),
        }
    }

    fn open(&self, node: &Node) -> Result<(), Error> {
        let rules = Arc::clone(&self.options.rules);
        let tls = TlsConfigs::load(&rules.settings, &self.options.provider)?;
        let addresses = rules.settings.listeners()?;
        let mailbox = self.links.open(node.index, node.nodes);
        let router = Router::new(
            node.index,
            Arc::clone(&self.links),
            self.options.clone(),
            Arc::new(tls),
            Some(node.control.clone()),
        );
        let mut tasks = vec![
            executor::spawn(Rc::clone(&router).serve(mailbox)),
            executor::spawn(Rc::clone(&router).run_cron()),
            executor::spawn(Rc::clone(&router).watch_idle()),
            executor::spawn(Rc::clone(&router).run_statistics()),
        ];
        if node.index == 0 {
            tasks.push(executor::spawn(reload_on_demand(Rc::clone(&router), node.clone())));
        }
        let listeners = Listeners::open(&router, &addresses)?;
        for address in &listeners.addresses {
            tracing::info!(%address, "pooler listening");
        }
        router.listeners.replace(listeners);
        self.running.replace(Some(Running { router, tasks }));
        Ok(())
    }

    async fn drain(&self) {
        let Some(router) = self.close_listeners() else { return };
        router.end_suspension();
        router.phase.set(Phase::Draining);
        router.per_core.draining.set(true);
        // They have no end of their own that one could wait for.
        router.end_replications(|_session| true);
        router
            .until(|router| {
                close_idle_clients(router);
                router.has_no_clients()
            })
            .await;
    }

    async fn stop_now(&self) {
        let Some(router) = self.close_listeners() else { return };
        router.end_suspension();
        router.phase.set(Phase::Draining);
        for client in router.clients.all() {
            client.end(End::Told(shutting_down()));
        }
        router.end_replications(|_session| true);
        router.administrators.borrow().values().for_each(|administrator| administrator.end());
        // They only have to say it; nobody waits for a client that does not listen.
        let gone = router.until(|router| router.clients.len() == 0);
        let _ = runtime::clock::timeout(Duration::from_secs(1), gone).await;
        for route in router.routes() {
            route.pool.paused.set(true);
            for server in route.pool.servers() {
                route.close(&server, "shutting down");
            }
        }
        self.running.replace(None);
    }

    fn close_listeners(&self) -> Option<Rc<Router>> {
        let running = self.running.borrow();
        let router = &running.as_ref()?.router;
        router.listeners.borrow_mut().close();
        Some(Rc::clone(router))
    }
}

pub(crate) fn shutting_down() -> Report {
    Report::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
}

/// Clients between transactions have nothing to finish (in session mode all have), and those that wait for
/// a server that they would not get.
fn close_idle_clients(router: &Router) {
    for client in router.clients.all() {
        let idle = client.state.get() == ClientState::Idle
            && client.route.config().pool_mode != PoolMode::Session;
        let waits_in_vain =
            client.state.get() == ClientState::Waiting && client.route.pool.paused.get();
        if idle || waits_in_vain {
            client.end(End::Told(shutting_down()));
        }
    }
}

async fn reload_on_demand(router: Rc<Router>, node: Node) {
    let mut reloads = node.control.reloads();
    while reloads.recv().await.is_some() {
        if let Err(errors) = control::reload(&router, None).await {
            for error in errors {
                tracing::error!(%error, "the settings are not changed");
            }
        }
    }
}

impl Applet for Pooler {
    fn name(&self) -> &'static str {
        "pooler"
    }

    fn start<'a>(&'a self, node: &'a Node) -> LocalFuture<'a, Result<(), Error>> {
        Box::pin(async move { self.open(node) })
    }

    fn stop<'a>(&'a self, how: Stop) -> LocalFuture<'a, ()> {
        Box::pin(async move {
            if how == Stop::Drain {
                self.drain().await;
            }
            self.stop_now().await;
        })
    }
}
