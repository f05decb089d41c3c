//! A route: a database as clients know it and the user that servers are logged in as, on one core.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use pg::wire::error::Report;
use runtime::clock::Instant;

use crate::client::{Client, ClientState, End};
use crate::home::RouteName;
use crate::parameters::{ParameterSet, ParameterSets, Tracked};
use crate::pool::Pool;
use crate::prepared::Statements;
use crate::router::Router;
use crate::rules::{RouteRule, Rules};
use crate::settings::{PoolMode, enabled};
use crate::stats::PoolStats;
use crate::stats::failures::Failures;
use crate::target::Target;

/// What all routes of a core share.
pub(crate) struct PerCore {
    pub(crate) statements: Rc<Statements>,
    pub(crate) parameters: ParameterSets,
    pub(crate) tracked: RefCell<Tracked>,
    /// Requests that clients hold in receive buffers while they wait.
    pub(crate) held_chunks: Cell<usize>,
    /// For building messages; empty between uses.
    pub(crate) scratch: RefCell<Vec<u8>>,
    /// Clients go when their transaction ends.
    pub(crate) draining: Cell<bool>,
    /// Clients do nothing while they are quiet.
    pub(crate) suspended: Cell<bool>,
    pub(crate) failures: Failures,
}

impl PerCore {
    /// Those of reported parameters that follow clients.
    fn tracked_of(&self, parameters: &[(Rc<str>, Rc<str>)]) -> Rc<ParameterSet> {
        let names = self.tracked.borrow();
        let empty = self.parameters.empty();
        let set = parameters.iter().fold(empty, |set, (name, value)| match names.name(name) {
            Some(name) => self.parameters.with(&set, name, Some(value)),
            None => set,
        });
        set.accepted.set(true);
        set
    }
}

/// Database and server user.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RouteKey {
    pub(crate) database: Rc<str>,
    pub(crate) user: Rc<str>,
}

pub(crate) struct Route {
    pub(crate) key: RouteKey,
    pub(crate) router: Weak<Router>,
    pub(crate) per_core: Rc<PerCore>,
    config: Cell<Config>,
    pub(crate) rule: RefCell<Rc<RouteRule>>,
    pub(crate) pool: Pool,
    /// For a name with an `@`.
    pub(crate) target: Option<Target>,
    /// What a server of this route says of itself at login; known once one has been opened.
    pub(crate) welcome: RefCell<Option<Rc<Welcome>>>,
    pub(crate) stats: PoolStats,
    pub(crate) clients: Cell<u32>,
    /// Since when it has had neither client nor server.
    pub(crate) unused_since: Cell<Option<Instant>>,
}

/// The settings that are looked at with each message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    pub(crate) pool_mode: PoolMode,
    /// 0 when statements are not tracked: in session mode they need not be.
    pub(crate) max_prepared: usize,
    pub(crate) max_packet_size: u64,
    pub(crate) disable_pqexec: bool,
    pub(crate) reset_always: bool,
    pub(crate) server_fast_close: bool,
    /// The server that has been idle longest is next.
    pub(crate) round_robin: bool,
    /// The shortest time limits: of clients that wait, of pools whose clients wait, of clients that
    /// hold a server, of idle clients, of idle servers.
    pub(crate) waiting_limit: Option<Duration>,
    pub(crate) reserve_limit: Option<Duration>,
    pub(crate) active_limit: Option<Duration>,
    pub(crate) client_limit: Option<Duration>,
    pub(crate) server_limit: Option<Duration>,
}

/// ParameterStatus messages of a server at login.
pub(crate) struct Welcome {
    pub(crate) parameters: Vec<(Rc<str>, Rc<str>)>,
    /// Those that are tracked.
    pub(crate) tracked: Rc<ParameterSet>,
    /// What the last client was told.
    pub(crate) recent: RefCell<Option<Rc<Greeting>>>,
}

/// What a client is told that asked for certain parameters.
pub(crate) struct Greeting {
    pub(crate) asked: Vec<(String, String)>,
    /// The parameters of its session.
    pub(crate) parameters: Rc<ParameterSet>,
    /// The ParameterStatus messages.
    pub(crate) messages: Vec<u8>,
}

impl Welcome {
    /// A copy that can go to another core.
    pub(crate) fn owned(&self) -> Vec<(String, String)> {
        let owned = |(name, value): &(Rc<str>, Rc<str>)| (name.to_string(), value.to_string());
        self.parameters.iter().map(owned).collect()
    }
}

impl Route {
    pub(crate) fn new(
        key: RouteKey,
        router: &Rc<Router>,
        rules: &Arc<Rules>,
        rule: RouteRule,
        target: Option<Target>,
    ) -> Rc<Route> {
        Rc::new(Route {
            key,
            router: Rc::downgrade(router),
            per_core: Rc::clone(&router.per_core),
            config: Cell::new(Config::new(rules, &rule)),
            rule: RefCell::new(Rc::new(rule)),
            pool: Pool::default(),
            target,
            welcome: RefCell::new(None),
            stats: PoolStats::default(),
            clients: Cell::new(0),
            unused_since: Cell::new(None),
        })
    }

    pub(crate) fn name(&self) -> RouteName {
        RouteName { database: self.key.database.to_string(), user: self.key.user.to_string() }
    }

    #[inline]
    pub(crate) fn config(&self) -> Config {
        self.config.get()
    }

    pub(crate) fn rule(&self) -> Rc<RouteRule> {
        Rc::clone(&self.rule.borrow())
    }

    /// Takes what a reload changed.
    pub(crate) fn configure(&self, rules: &Arc<Rules>, rule: RouteRule) {
        self.config.set(Config::new(rules, &rule));
        self.rule.replace(Rc::new(rule));
        if let Some(welcome) = &*self.welcome.borrow() {
            welcome.recent.replace(None);
        }
    }

    /// Remembers what a server said at login, the first time.
    pub(crate) fn learn_welcome(&self, parameters: Vec<(Rc<str>, Rc<str>)>) -> Rc<ParameterSet> {
        let tracked = self.per_core.tracked_of(&parameters);
        let mut welcome = self.welcome.borrow_mut();
        if welcome.is_none() && !parameters.is_empty() {
            *welcome = Some(Rc::new(Welcome {
                parameters,
                tracked: Rc::clone(&tracked),
                recent: RefCell::new(None),
            }));
        }
        tracked
    }

    /// Something has begun that may last so long; usually nothing may.
    #[inline]
    pub(crate) fn expect(&self, limit: Option<Duration>) {
        if limit.is_some()
            && let Some(router) = self.router.upgrade()
        {
            router.expect(limit);
        }
    }

    /// The same of a client.
    #[inline]
    pub(crate) fn expect_of_client(&self, limit: Option<Duration>) {
        if limit.is_some()
            && let Some(router) = self.router.upgrade()
        {
            router.expect_of_client(limit);
        }
    }

    pub(crate) fn rules(&self) -> Option<Arc<Rules>> {
        self.router.upgrade().map(|router| router.rules())
    }

    /// A session has ended and its client is forgotten.
    pub(crate) fn client_gone(&self, client: &Client, end: &End) {
        self.clients.set(self.clients.get() - 1);
        self.expect(self.forget_after());
        let Some(router) = self.router.upgrade() else { return };
        router.clients.remove(client.index);
        router.client_gone(client, end);
    }

    /// How long it is remembered without clients and servers; `None`: for good.
    pub(crate) fn forget_after(&self) -> Option<Duration> {
        let rules = self.rules()?;
        let automatic = self.rule.borrow().automatic;
        let settings = &rules.settings;
        enabled(if automatic { settings.autodb_idle_timeout } else { settings.pool_idle_timeout })
    }

    /// What waiting clients are told when no server can be opened.
    pub(crate) fn fail_waiters(&self, report: &Report) {
        while let Some(client) = self.pool.queue.pop() {
            // It is out of the queue: its end must not take it out again.
            client.state.set(ClientState::Idle);
            client.end(End::Told(report.clone()));
        }
    }
}

impl Config {
    fn new(rules: &Arc<Rules>, rule: &RouteRule) -> Config {
        let settings = &rules.settings;
        let session = rule.pool_mode == PoolMode::Session;
        let max_prepared = usize::try_from(settings.max_prepared_statements).unwrap_or(usize::MAX);
        Config {
            pool_mode: rule.pool_mode,
            max_prepared: if session { 0 } else { max_prepared },
            max_packet_size: settings.max_packet_size,
            disable_pqexec: settings.disable_pqexec,
            reset_always: settings.server_reset_query_always,
            server_fast_close: settings.server_fast_close && session,
            round_robin: settings.server_round_robin,
            waiting_limit: shortest([rule.query_wait_timeout, enabled(settings.query_wait_notify)]),
            reserve_limit: (rule.reserve_pool_size > 0).then_some(settings.reserve_pool_timeout),
            active_limit: shortest([
                rule.query_timeout,
                rule.transaction_timeout,
                rule.idle_transaction_timeout,
                rule.client_idle_timeout.filter(|_| session),
            ]),
            client_limit: rule.client_idle_timeout,
            server_limit: shortest([
                enabled(settings.server_idle_timeout),
                enabled(rule.server_lifetime),
            ]),
        }
    }
}

fn shortest<const N: usize>(limits: [Option<Duration>; N]) -> Option<Duration> {
    limits.into_iter().flatten().min()
}
