//! One core's part of the pooler: its routes and clients.
//!
//! A client finds its route here, a route its permits to open connections (`permits`); the other cores are a mailbox
//! away (`links`). What is exact for the process is decided by [`Home`] on core 0.

pub(crate) mod links;
mod permits;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

use pg::sqlstate::SqlState;
use pg::wire::error::Report;
use runtime::clock::Instant;
use runtime::mailbox::oneshot;
use runtime::nodepool::Control;

use crate::auth::KeyCache;
use crate::census::{Census, Counter, Counters, Whose};
use crate::client::{Client, End};
use crate::console::CONSOLE_DATABASES;
use crate::console_client::Administrator;
use crate::control::PoolerOptions;
use crate::cron::Cron;
use crate::home::{Home, RouteName};
use crate::limits::TARGET_ROUTES_MAX;
use crate::listener::Listeners;
use crate::names::Names;
use crate::orders::now_micros;
use crate::parameters::{ParameterSets, Tracked};
use crate::prepared::Statements;
use crate::registry::Registry;
use crate::replication;
use crate::route::{PerCore, Route, RouteKey};
use crate::rules::{RouteRule, Rules};
use crate::stats::Period;
use crate::stats::failures::{Failure, Failures};
use crate::target::Target;
use crate::tls::TlsConfigs;

use links::{Links, Message};

pub(crate) struct Router {
    pub(crate) core: usize,
    pub(crate) per_core: Rc<PerCore>,
    pub(crate) links: Arc<Links>,
    rules: RefCell<Arc<Rules>>,
    pub(crate) tls: RefCell<Arc<TlsConfigs>>,
    routes: RefCell<BTreeMap<RouteKey, Rc<Route>>>,
    pub(crate) clients: Registry,
    /// By number.
    pub(crate) replications: RefCell<BTreeMap<u64, Rc<replication::Session>>>,
    pub(crate) administrators: RefCell<BTreeMap<u64, Rc<Administrator>>>,
    pub(crate) listeners: RefCell<Listeners>,
    pub(crate) keys: KeyCache,
    pub(crate) names: Names,
    /// The account of connections; on core 0 only.
    home: Option<RefCell<Home>>,
    /// The account of clients; on core 0 only.
    census: Option<RefCell<Census>>,
    counters: Counters,
    /// Other cores' clients that wait for a server of ours, by route, oldest first.
    debts: RefCell<BTreeMap<RouteName, Vec<(Instant, usize)>>>,
    pub(crate) cron: Cron,
    /// Woken when an idle server sends something.
    pub(crate) watcher: RefCell<Waker>,
    next_id: Cell<u64>,
    pub(crate) logins: Cell<usize>,
    /// How often those who were logging in have been cut off.
    pub(crate) login_cuts: Cell<u64>,
    pub(crate) phase: Cell<Phase>,
    /// Databases that refuse new clients, and those that are paused, present and future routes alike.
    pub(crate) disabled: RefCell<std::collections::BTreeSet<String>>,
    pub(crate) paused: RefCell<std::collections::BTreeSet<String>>,
    pub(crate) all_paused: Cell<bool>,
    /// Woken when a client or server is gone, for those who wait for the last one.
    waiting_for_end: RefCell<Vec<Waker>>,
    pub(crate) period: Cell<Period>,
    pub(crate) own_uid: u32,
    pub(crate) options: PoolerOptions,
    /// Stops the process.
    pub(crate) control: Option<Control>,
}

/// Whether the pooler takes clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// No new clients; those that are there finish their transactions, or (the console's SHUTDOWN
    /// WAIT_FOR_CLIENTS) their sessions.
    Draining,
    /// No new clients, and nobody waits for a server: SHUTDOWN WAIT_FOR_SERVERS.
    Releasing,
    Suspended,
}

impl Router {
    pub(crate) fn new(
        core: usize,
        links: Arc<Links>,
        options: PoolerOptions,
        tls: Arc<TlsConfigs>,
        control: Option<Control>,
    ) -> Rc<Router> {
        let rules = Arc::clone(&options.rules);
        let per_core = Rc::new(PerCore {
            statements: Statements::new(core),
            parameters: ParameterSets::new(),
            tracked: RefCell::new(Tracked::new(&rules.settings)),
            held_chunks: Cell::new(0),
            scratch: RefCell::default(),
            draining: Cell::new(false),
            suspended: Cell::new(false),
            failures: Failures::default(),
        });
        let first_id = ((core as u64) << 40) | 1;
        Rc::new(Router {
            core,
            per_core,
            links,
            rules: RefCell::new(rules),
            tls: RefCell::new(tls),
            routes: RefCell::default(),
            clients: Registry::default(),
            replications: RefCell::default(),
            administrators: RefCell::default(),
            listeners: RefCell::default(),
            keys: KeyCache::new(),
            names: Names::default(),
            home: (core == 0).then(RefCell::default),
            census: (core == 0).then(RefCell::default),
            counters: Counters::default(),
            debts: RefCell::default(),
            cron: Cron::default(),
            watcher: RefCell::new(Waker::noop().clone()),
            next_id: Cell::new(first_id),
            logins: Cell::new(0),
            login_cuts: Cell::new(0),
            phase: Cell::new(Phase::Running),
            disabled: RefCell::default(),
            paused: RefCell::default(),
            all_paused: Cell::new(false),
            waiting_for_end: RefCell::default(),
            period: Cell::new(Period::starting(now_micros())),
            own_uid: runtime::identity::effective_uid(),
            options,
            control,
        })
    }

    pub(crate) fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.borrow())
    }

    pub(crate) fn cores(&self) -> usize {
        self.links.cores().max(1)
    }

    /// A number that nothing else in the process has.
    pub(crate) fn new_id(&self) -> u64 {
        self.next_id.replace(self.next_id.get() + 1)
    }

    pub(crate) fn routes(&self) -> Vec<Rc<Route>> {
        self.routes.borrow().values().cloned().collect()
    }

    /// The route of a client: made when the first one asks.
    pub(crate) fn route(
        self: &Rc<Router>,
        database: &str,
        user: &str,
    ) -> Result<Rc<Route>, Report> {
        // Usually servers are logged in to as the client's user, and somebody has come before.
        let key = RouteKey { database: database.into(), user: user.into() };
        if let Some(route) = self.routes.borrow().get(&key)
            && route.rule.borrow().server_user == user
        {
            return Ok(Rc::clone(route));
        }
        let rules = self.rules();
        let target = self.target_of(&rules, database);
        let asked = target.map_or(database, |(base, _target)| base);
        let is_console = target.is_some() && CONSOLE_DATABASES.contains(&asked);
        let known = Some(asked).filter(|_| !is_console);
        let rule = known.and_then(|name| rules.route(name, user)).ok_or_else(|| {
            Report::fatal(
                SqlState::INVALID_CATALOG_NAME,
                format!("database \"{asked}\" does not exist"),
            )
        })?;
        match target {
            Some((base, target)) => self.route_of_target(database, Target::new(base, target), rule),
            None => Ok(self.route_of(database, rule)),
        }
    }

    fn route_of_target(
        self: &Rc<Router>,
        database: &str,
        target: Target,
        rule: RouteRule,
    ) -> Result<Rc<Route>, Report> {
        let key = RouteKey { database: database.into(), user: rule.server_user.as_str().into() };
        if let Some(route) = self.routes.borrow().get(&key) {
            return Ok(Rc::clone(route));
        }
        let rules = self.rules();
        let rule = target
            .rule(&rules, &rule.server_user)
            .filter(|_| self.target_routes() < TARGET_ROUTES_MAX);
        let rule = rule.ok_or_else(|| {
            Report::fatal(
                SqlState::TOO_MANY_CONNECTIONS,
                "too many branches and moments are in use",
            )
            .with_detail(format!("The pooler leads to at most {TARGET_ROUTES_MAX} at once."))
        })?;
        Ok(self.new_route(key, rule, Some(target)))
    }

    /// The route of a database and the rule's server user.
    pub(crate) fn route_of(self: &Rc<Router>, database: &str, rule: RouteRule) -> Rc<Route> {
        let key = RouteKey { database: database.into(), user: rule.server_user.as_str().into() };
        if let Some(route) = self.routes.borrow().get(&key) {
            return Rc::clone(route);
        }
        let rules = self.rules();
        let target = self.default_target(&rules, database);
        let elsewhere = target.as_ref().and_then(|target| target.rule(&rules, &rule.server_user));
        self.new_route(key, elsewhere.unwrap_or(rule), target)
    }

    fn new_route(
        self: &Rc<Router>,
        key: RouteKey,
        rule: RouteRule,
        target: Option<Target>,
    ) -> Rc<Route> {
        let route = Route::new(key.clone(), self, &self.rules(), rule, target);
        route.pool.paused.set(self.is_paused(&key.database));
        self.routes.borrow_mut().insert(key, Rc::clone(&route));
        route
    }

    pub(crate) fn is_paused(&self, database: &str) -> bool {
        self.all_paused.get() || self.paused.borrow().contains(database)
    }

    pub(crate) fn forget_route(&self, key: &RouteKey) {
        self.routes.borrow_mut().remove(key);
    }

    fn named(&self, name: &RouteName) -> Option<Rc<Route>> {
        let key =
            RouteKey { database: name.database.as_str().into(), user: name.user.as_str().into() };
        self.routes.borrow().get(&key).cloned()
    }

    /// The process-wide counter of these clients; `None` if the process is ending.
    pub(crate) async fn counter(&self, whose: Whose) -> Option<Counter> {
        if let Some(counter) = self.counters.get(&whose) {
            return Some(counter);
        }
        let counter = match &self.census {
            Some(census) => census.borrow_mut().counter(whose.clone()),
            None => {
                let (reply, answer) = oneshot();
                self.post_surely(0, Message::Counter(whose.clone(), reply));
                answer.await.ok()?
            }
        };
        self.counters.learn(whose, &counter);
        Some(counter)
    }

    /// A client's session has ended.
    pub(crate) fn client_gone(&self, client: &Client, end: &End) {
        self.per_core.failures.count(Failure::client_closed(end));
        self.links.clients.fetch_sub(1, Ordering::Relaxed);
        if self.rules.borrow().settings.log_disconnections {
            tracing::info!(
                client = client.id,
                user = &*client.user,
                database = &*client.route.key.database,
                reason = end.reason(),
                "client disconnected"
            );
        }
        self.wake_waiting_for_end();
    }

    pub(crate) fn wake_waiting_for_end(&self) {
        for waker in self.waiting_for_end.take() {
            waker.wake();
        }
    }

    /// Waits until `done` holds; it is asked again whenever a client or server is gone.
    pub(crate) async fn until(&self, mut done: impl FnMut(&Router) -> bool) {
        std::future::poll_fn(|cx| {
            if done(self) {
                return std::task::Poll::Ready(());
            }
            self.waiting_for_end.borrow_mut().push(cx.waker().clone());
            std::task::Poll::Pending
        })
        .await;
    }

    /// Reads what idle servers send, whenever one does.
    pub(crate) async fn watch_idle(self: Rc<Router>) {
        std::future::poll_fn(|cx| {
            self.watcher.replace(cx.waker().clone());
            for route in self.routes() {
                for server in route.pool.idle() {
                    if !route.still_idle(&server, cx) && route.pool.take_this(&server) {
                        route.close(&server, "server closed the connection");
                    }
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    /// Takes new rules; routes whose servers would now be others' are reconnected. Of two reloads at once the one that was
    /// begun last counts, on every core.
    pub(crate) fn reload(self: &Rc<Router>, rules: Arc<Rules>, tls: Arc<TlsConfigs>) {
        if rules.version < self.rules().version {
            return;
        }
        let old = self.rules.replace(Arc::clone(&rules));
        self.tls.replace(tls);
        self.keys.clear();
        self.per_core.tracked.replace(Tracked::new(&rules.settings));
        for route in self.routes() {
            let user = &*route.key.user;
            let leads_to_default = self.default_target(&rules, &route.key.database).is_some();
            let (database, rule) = match &route.target {
                // The entry has got a host, or lost it: new clients get another route.
                Some(target) if target.is_default && !leads_to_default => (&*target.base, None),
                None if leads_to_default => (&*route.key.database, None),
                Some(target) => (target.base.as_str(), target.rule(&rules, user)),
                None => (&*route.key.database, rules.pool(&route.key.database, user)),
            };
            match rule {
                Some(rule) => route.configure(&rules, rule),
                // New clients find it no longer, and the other cores do not either.
                None => {
                    self.forget_route(&route.key);
                    route.retire();
                }
            }
            if !old.servers_survive(&rules, database, user) {
                route.welcome.replace(None);
                route.reconnect();
                self.end_replications(|session| session.is_of(&route));
            }
            route.open_if_needed();
        }
        self.cron.wake();
    }
}
