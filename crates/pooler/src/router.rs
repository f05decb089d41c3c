//! One core's part of the pooler: its routes and clients, and its mailbox to the other cores.
//!
//! A client finds its route here, a route its permits to open connections; orders of administrators
//! are carried out here. What is exact for the process is decided by [`Home`] on core 0.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use pg::sqlstate::SqlState;
use pg::wire::error::Report;
use runtime::clock::{self, Instant};
use runtime::executor;
use runtime::mailbox::{Receiver, Reply, Sender, oneshot};
use runtime::net::{Address, Detached};
use runtime::nodepool::Control;

use crate::auth::KeyCache;
use crate::cancel::CancelTarget;
use crate::census::{Census, Counter, Counters, Whose};
use crate::client::{Client, End};
use crate::command::{Answer, Command};
use crate::console::CONSOLE_DATABASES;
use crate::console_client::Administrator;
use crate::control::PoolerOptions;
use crate::cron::Cron;
use crate::home::{Ask, Full, Home, Limits, Refused, RouteName};
use crate::limits::{MAILBOX_CAPACITY, TARGET_ROUTES_MAX};
use crate::listener::Listeners;
use crate::names::Names;
use crate::orders::now_micros;
use crate::parameters::{ParameterSets, Tracked};
use crate::prepared::Statements;
use crate::registry::Registry;
use crate::replication;
use crate::route::{PerCore, Route, RouteKey};
use crate::rules::{RouteRule, Rules};
use crate::server::{Moving, Server};
use crate::stats::Period;
use crate::stats::failures::{Failure, Failures};
use crate::target::Target;
use crate::tls::TlsConfigs;

/// What cores tell each other.
pub(crate) enum Message {
    /// An accepted connection to be served here.
    Connection(Detached, Address),
    /// Cancel what this client of yours runs.
    Cancel(CancelTarget),
    /// To core 0: may I open a connection?
    Ask(Ask),
    /// From core 0: yes.
    Granted(RouteName),
    /// From core 0: not now.
    Refused(RouteName),
    /// To core 0: a connection is no more.
    Closed {
        core: usize,
        route: RouteName,
    },
    /// To core 0: a connection has moved.
    Moved {
        from: usize,
        to: usize,
        route: RouteName,
    },
    /// From core 0: that core's clients wait since then; give it a connection when it is its turn.
    Share {
        route: RouteName,
        to: usize,
        since: Instant,
        wants_welcome: bool,
    },
    /// Close an idle connection for this route's sake, or pass it on.
    Evict(RouteName, Full),
    /// What servers of this route say at login, to a core that asked.
    Welcome(RouteName, Vec<(String, String)>),
    /// A connection that moves in, and what servers of its route say at login.
    Server(RouteName, Box<Moving>, Vec<(String, String)>),
    Command(Command, Reply<Answer>),
    /// To core 0: the counter of these clients.
    Counter(Whose, Reply<Counter>),
}

/// The mailboxes of all cores, and what little they share.
pub struct Links {
    senders: OnceLock<Box<[OnceLock<Sender<Message>>]>>,
    /// Clients of all cores, those that are logging in included.
    pub(crate) clients: AtomicU32,
    /// Of these, clients of the console.
    pub(crate) administrators: AtomicU32,
}

impl Links {
    pub fn new() -> Arc<Links> {
        Arc::new(Links {
            senders: OnceLock::new(),
            clients: AtomicU32::new(0),
            administrators: AtomicU32::new(0),
        })
    }

    /// Makes the mailbox of one core.
    pub(crate) fn open(&self, core: usize, cores: usize) -> Receiver<Message> {
        let (sender, receiver) = runtime::mailbox::channel(MAILBOX_CAPACITY);
        let senders = self.senders.get_or_init(|| (0..cores).map(|_| OnceLock::new()).collect());
        if let Some(slot) = senders.get(core) {
            // Each core opens its own, once.
            let _first = slot.set(sender);
        }
        receiver
    }

    pub(crate) fn to(&self, core: usize) -> Option<&Sender<Message>> {
        self.senders.get()?.get(core)?.get()
    }

    pub(crate) fn has_no_administrators(&self) -> bool {
        self.administrators.load(Ordering::Relaxed) == 0
    }

    fn cores(&self) -> usize {
        self.senders.get().map_or(0, |senders| senders.len())
    }
}

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

    /// Asks for permission to open a connection. False if the answer is no already.
    pub(crate) fn ask_permit(self: &Rc<Router>, route: &Rc<Route>) -> bool {
        let rule = route.rule();
        let since = route.waiting_since().unwrap_or(clock::now());
        let timeout = self.rules.borrow().settings.reserve_pool_timeout;
        let starving = clock::now() - since >= timeout;
        let reserve = if starving { rule.reserve_pool_size } else { 0 };
        let ask = Ask {
            core: self.core,
            route: route.name(),
            limits: Limits {
                pool: rule.pool_size + reserve,
                database: rule.max_db_connections,
                user: rule.max_user_connections,
            },
            since,
            wants_welcome: route.welcome.borrow().is_none(),
        };
        if self.home.is_none() {
            // A full mailbox is a core in trouble; the cron asks again.
            if self.post(0, Message::Ask(ask)) {
                route.pool.asked.set(route.pool.asked.get() + 1);
                return true;
            }
            return false;
        }
        if self.decide(ask) {
            route.open_one();
            return true;
        }
        false
    }

    /// Core 0: gives a permit, or sees to it that the core that asks gets a server otherwise.
    fn decide(self: &Rc<Router>, ask: Ask) -> bool {
        let Some(home) = &self.home else { return false };
        let refused = home.borrow_mut().ask(ask.clone());
        match refused {
            Ok(()) => true,
            Err(Refused::Pool { richest: Some(richest) }) => {
                let Ask { core: to, route, since, wants_welcome, .. } = ask;
                self.post(richest, Message::Share { route, to, since, wants_welcome });
                false
            }
            Err(Refused::Pool { richest: None }) => false,
            Err(Refused::Shared(full)) => {
                self.evict(ask.route, full);
                false
            }
        }
    }

    /// A database or user is at its limit: an idle connection of another of its pools must go, of this core's or else
    /// of the next one's that has one.
    fn evict(self: &Rc<Router>, name: RouteName, full: Full) {
        let is_victim = |route: &&Rc<Route>| {
            let same_database = *route.key.database == *name.database;
            let same_user = *route.key.user == *name.user;
            same_database != same_user && (full.database && same_database || full.user && same_user)
        };
        let routes = self.routes();
        let idle = |route: &Rc<Route>| route.pool.idle().into_iter().next();
        let victim = routes
            .iter()
            .filter(is_victim)
            .find_map(|route| idle(route).map(|server| (Rc::clone(route), server)));
        if let Some((route, server)) = victim {
            route.pool.take_this(&server);
            // Not now: whoever asked is not remembered as waiting until it returns.
            executor::spawn_detached(async move { route.close(&server, "evicted") });
        } else if self.core + 1 < self.cores() {
            // If it does not arrive: whoever waits asks again.
            self.post(self.core + 1, Message::Evict(name, full));
        }
    }

    /// A permit comes back.
    pub(crate) fn server_closed(self: &Rc<Router>, route: &Route) {
        self.permit_back(self.core, route.name());
        self.wake_waiting_for_end();
    }

    fn permit_back(self: &Rc<Router>, core: usize, name: RouteName) {
        let Some(home) = &self.home else {
            self.post_surely(0, Message::Closed { core, route: name });
            return;
        };
        let next = home.borrow_mut().closed(core, &name);
        let Some(ask) = next else { return };
        if ask.core == self.core {
            self.granted(&ask.route);
        } else {
            self.post_surely(ask.core, Message::Granted(ask.route));
        }
    }

    /// A permit arrives that was asked for some time ago.
    fn granted(self: &Rc<Router>, name: &RouteName) {
        match self.named(name) {
            Some(route) if route.wants_server() => route.open_one(),
            _ => {
                let (router, name) = (Rc::clone(self), name.clone());
                executor::spawn_detached(async move { router.permit_back(router.core, name) });
            }
        }
    }

    /// Hands a free server to another core if a client there has waited longer than any here.
    /// Gives it back if nobody has.
    pub(crate) fn give_away(
        self: &Rc<Router>,
        route: &Rc<Route>,
        server: Rc<Server>,
    ) -> Option<Rc<Server>> {
        if self.debts.borrow().is_empty() || !server.is_clean() {
            return Some(server);
        }
        let name = route.name();
        let mut debts = self.debts.borrow_mut();
        let Some(waiting) = debts.get_mut(&name) else { return Some(server) };
        let Some((since, to)) = waiting.first().copied() else { return Some(server) };
        if route.waiting_since().is_some_and(|ours| ours <= since) {
            return Some(server);
        }
        waiting.remove(0);
        if waiting.is_empty() {
            debts.remove(&name);
        }
        drop(debts);
        route.disown(&server);
        match Moving::take(server) {
            Ok(Some(moving)) => {
                self.post_surely(0, Message::Moved { from: self.core, to, route: name.clone() });
                let welcome = route.welcome.borrow().as_ref().map(|welcome| welcome.owned());
                let welcome = welcome.unwrap_or_default();
                self.post_surely(to, Message::Server(name, Box::new(moving), welcome));
            }
            Ok(None) => self.permit_back(self.core, name),
            Err(server) => {
                route.own(&server);
                return Some(server);
            }
        }
        None
    }

    fn owe(self: &Rc<Router>, name: RouteName, to: usize, since: Instant) {
        let route = self.named(&name);
        {
            let mut debts = self.debts.borrow_mut();
            let waiting = debts.entry(name).or_default();
            waiting.retain(|(_, other)| *other != to);
            let at = waiting.partition_point(|(other, _)| *other <= since);
            waiting.insert(at, (since, to));
        }
        if let Some(route) = route
            && let Some(server) = route.pool.idle().into_iter().next()
            && route.pool.take_this(&server)
        {
            route.put(server);
        }
    }

    /// All servers of a route may be in use for long; its clients can log in nevertheless.
    fn tell_welcome(&self, name: &RouteName, to: usize) {
        let Some(route) = self.named(name) else { return };
        let welcome = route.welcome.borrow().as_ref().map(|welcome| welcome.owned());
        if let Some(welcome) = welcome {
            self.post(to, Message::Welcome(name.clone(), welcome));
        }
    }

    /// Sends to another core (or this one); false if it does not take it.
    pub(crate) fn post(&self, core: usize, message: Message) -> bool {
        self.links.to(core).is_some_and(|sender| sender.try_send(message).is_ok())
    }

    /// Sends what must arrive, however full the mailbox is.
    pub(crate) fn post_surely(&self, core: usize, message: Message) {
        let Some(sender) = self.links.to(core).cloned() else { return };
        if let Err(full) = sender.try_send(message) {
            executor::spawn_detached(async move {
                // A core that is gone needs no message.
                let _gone = sender.send(full.0).await;
            });
        }
    }

    /// Reads the mailbox for as long as the core runs.
    pub(crate) async fn serve(self: Rc<Router>, mut mailbox: Receiver<Message>) {
        while let Some(message) = mailbox.recv().await {
            self.handle(message);
        }
    }

    fn handle(self: &Rc<Router>, message: Message) {
        match message {
            Message::Connection(detached, address) => {
                crate::listener::attach(self, detached, address);
            }
            Message::Cancel(target) => crate::cancel::cancel_client(self, &target),
            Message::Ask(ask) => {
                let (core, route) = (ask.core, ask.route.clone());
                let answer = if self.decide(ask) {
                    Message::Granted(route)
                } else {
                    Message::Refused(route)
                };
                self.post_surely(core, answer);
            }
            Message::Granted(name) => {
                self.answered(&name);
                self.granted(&name);
            }
            Message::Refused(name) => self.answered(&name),
            Message::Closed { core, route } => self.permit_back(core, route),
            Message::Moved { from, to, route } => {
                if let Some(home) = &self.home {
                    home.borrow_mut().moved(from, to, &route);
                }
            }
            Message::Share { route, to, since, wants_welcome } => {
                if wants_welcome {
                    self.tell_welcome(&route, to);
                }
                self.owe(route, to, since);
            }
            Message::Evict(name, full) => self.evict(name, full),
            Message::Welcome(name, welcome) => {
                if let Some(route) = self.named(&name) {
                    learn_welcome(&route, &welcome);
                    route.wake_logins();
                }
            }
            Message::Server(name, moving, welcome) => self.adopt(&name, *moving, &welcome),
            Message::Counter(whose, reply) => {
                if let Some(census) = &self.census {
                    // Whoever asked may have gone.
                    let _unwanted = reply.send(census.borrow_mut().counter(whose));
                }
            }
            Message::Command(command, reply) => {
                let router = Rc::clone(self);
                executor::spawn_detached(async move {
                    // Nobody waits for the answer any longer: then it does not matter.
                    let _unwanted = reply.send(router.carry_out(command).await);
                });
            }
        }
    }

    fn answered(&self, name: &RouteName) {
        if let Some(route) = self.named(name) {
            route.pool.asked.set(route.pool.asked.get().saturating_sub(1));
        }
    }

    fn adopt(self: &Rc<Router>, name: &RouteName, moving: Moving, welcome: &[(String, String)]) {
        let route = self.named(name);
        if let Some(route) = &route {
            learn_welcome(route, welcome);
        }
        let generation = route.as_ref().map_or(0, |route| route.pool.generation.get());
        let server = moving.settle(&self.per_core, generation);
        match (route, server) {
            (Some(route), Some(server)) => route.adopt(server),
            _ => self.permit_back(self.core, name.clone()),
        }
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

    /// Takes new rules; routes whose servers would now be others' are reconnected.
    pub(crate) fn reload(self: &Rc<Router>, rules: Arc<Rules>, tls: Arc<TlsConfigs>) {
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
                // Its clients may stay; new ones find it no longer.
                None => self.forget_route(&route.key),
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

/// What another core was told by a server of the route.
fn learn_welcome(route: &Route, welcome: &[(String, String)]) {
    let parameters = welcome.iter();
    let parameters = parameters.map(|(name, value)| (name.as_str().into(), value.as_str().into()));
    route.learn_welcome(parameters.collect());
}
