//! A route to a target: its server's address is asked for when a client needs it, and forgotten when the server is
//! gone. Clients wait meanwhile, as they do for a free server, and are told so.
//!
//! 1. Nothing is opened without an address, so a client that waits is held, however long the target is away.
//! 2. There is one question at a time for each route of a core; whoever answers sees to it that a target starts once.
//! 3. A refusal is told to those who wait, and is not remembered: the next client asks anew.
//! 4. What a dying server says to a connection that is being opened is not told to anybody: the next one will say better.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use pg::sqlstate::SqlState;
use pg::wire::error::Report;
use runtime::clock::{self, Instant};
use runtime::executor;
use runtime::mailbox::oneshot;

use crate::client::Client;
use crate::console::snapshot;
use crate::limits::{TARGET_HELD_MAX, TARGET_RETRY};
use crate::resolver::{Place, Resolve};
use crate::route::Route;
use crate::router::Router;
use crate::rules::{RouteRule, Rules};

/// What a route to a target has besides others.
pub(crate) struct Target {
    /// The database in its server, as clients would name it.
    pub(crate) base: String,
    pub(crate) name: String,
    /// Clients name the database alone: [`crate::PoolerOptions::default_target`].
    pub(crate) is_default: bool,
    state: RefCell<State>,
    /// Questions that have been answered.
    round: Cell<u64>,
    /// What the last one came to, if it was refused.
    refusal: RefCell<Option<Report>>,
    /// What those who wait are told.
    notice: RefCell<Option<String>>,
    /// Log-ins that wait for the address.
    logins: RefCell<Vec<Waker>>,
    /// How many servers of it have gone.
    losses: Cell<u64>,
    /// Connections being opened, which are given up when their server goes.
    openings: RefCell<Vec<Waker>>,
    /// Since when the server, wherever it was said to be, has let nobody in.
    unreachable_since: Cell<Option<Instant>>,
}

enum State {
    Unknown,
    Asked,
    Known(Place),
}

/// What a log-in that waits learns.
pub(crate) enum Step {
    Known,
    /// It takes time: this is why.
    Notice(String),
    Refused(Report),
}

impl Target {
    pub(crate) fn new(base: &str, name: &str) -> Target {
        Target {
            base: base.to_owned(),
            name: name.to_owned(),
            is_default: false,
            state: RefCell::new(State::Unknown),
            round: Cell::new(0),
            refusal: RefCell::default(),
            notice: RefCell::default(),
            logins: RefCell::default(),
            losses: Cell::new(0),
            openings: RefCell::default(),
            unreachable_since: Cell::new(None),
        }
    }

    /// The rule of its pool: that of the database, but for the address.
    pub(crate) fn rule(&self, rules: &Rules, server_user: &str) -> Option<RouteRule> {
        let mut rule = rules.pool(&self.base, server_user)?;
        rule.automatic |= !self.is_default;
        rule.servers.clear();
        if let State::Known(place) = &*self.state.borrow() {
            rule.servers.push(place.server.clone());
            rule.startup_parameters.extend(place.parameters.iter().cloned());
        }
        Some(rule)
    }

    /// What SHOW DATABASES prints.
    pub(crate) fn line(&self) -> snapshot::Target {
        let server = match &*self.state.borrow() {
            State::Known(place) => Some(place.server.host_and_port()),
            State::Unknown | State::Asked => None,
        };
        snapshot::Target { base: self.base.clone(), server }
    }

    fn wake(&self) {
        for waker in self.logins.take() {
            waker.wake();
        }
    }

    /// What a log-in does next, when that changes; `told` is what it has said to its client.
    fn poll_step(&self, cx: &Context<'_>, began: u64, told: bool) -> Poll<Step> {
        if let State::Known(_) = *self.state.borrow() {
            return Poll::Ready(Step::Known);
        }
        if self.round.get() > began
            && let Some(report) = &*self.refusal.borrow()
        {
            return Poll::Ready(Step::Refused(report.clone()));
        }
        if let Some(notice) = self.notice.borrow().as_ref().filter(|_| !told) {
            return Poll::Ready(Step::Notice(notice.clone()));
        }
        self.logins.borrow_mut().push(cx.waker().clone());
        Poll::Pending
    }
}

impl Route {
    /// Whether connections may be opened: always, but for a target whose address is not known.
    pub(crate) fn has_address(&self) -> bool {
        let known = |target: &Target| matches!(*target.state.borrow(), State::Known(_));
        self.target.as_ref().is_none_or(known)
    }

    /// Somebody needs a server and there is no address: asks for it, unless that has been done.
    pub(crate) fn seek(self: &Rc<Route>) {
        let Some(target) = &self.target else { return };
        if !matches!(*target.state.borrow(), State::Unknown) {
            return;
        }
        target.state.replace(State::Asked);
        let route = Rc::clone(self);
        executor::spawn_detached(async move { route.ask(false).await });
    }

    /// A connection could not be opened. True if clients are to be held until the target is back.
    pub(crate) fn target_failed(self: &Rc<Route>, report: &Report) -> bool {
        let Some(target) = &self.target else { return false };
        if !is_of_a_dying_server(report.sqlstate) {
            return false;
        }
        let since = target.unreachable_since.get().unwrap_or(clock::now());
        target.unreachable_since.set(Some(since));
        if since.elapsed() > TARGET_HELD_MAX {
            target.unreachable_since.set(None);
            return false;
        }
        if matches!(*target.state.borrow(), State::Known(_)) {
            target.state.replace(State::Asked);
            let route = Rc::clone(self);
            executor::spawn_detached(async move {
                clock::sleep(TARGET_RETRY).await;
                route.ask(true).await;
            });
        }
        true
    }

    /// What the opening of a connection comes to; `None` if its server is gone before that.
    pub(crate) async fn unless_lost<T>(&self, opening: impl Future<Output = T>) -> Option<T> {
        let Some(target) = &self.target else { return Some(opening.await) };
        let losses = target.losses.get();
        let mut opening = pin!(opening);
        poll_fn(|cx| {
            if target.losses.get() != losses {
                return Poll::Ready(None);
            }
            let opened = opening.as_mut().poll(cx).map(Some);
            // One that is open has nothing to wait for: the list is as long as there are openings under way.
            let mut waiting = target.openings.borrow_mut();
            waiting.retain(|waker| !waker.will_wake(cx.waker()));
            if opened.is_pending() {
                waiting.push(cx.waker().clone());
            }
            opened
        })
        .await
    }

    pub(crate) fn target_reached(&self) {
        if let Some(target) = &self.target {
            target.unreachable_since.set(None);
        }
    }

    async fn ask(self: &Rc<Route>, is_unreachable: bool) {
        let Some(target) = &self.target else { return };
        let outcome = self.resolve(target, is_unreachable).await;
        target.round.set(target.round.get() + 1);
        target.notice.replace(None);
        match outcome {
            Ok(place) => {
                target.refusal.replace(None);
                target.state.replace(State::Known(place));
                if let Some(rules) = self.rules()
                    && let Some(rule) = target.rule(&rules, &self.key.user)
                {
                    self.configure(&rules, rule);
                }
                self.open_if_needed();
            }
            Err(report) => {
                tracing::info!(database = &*self.key.database, error = %report, "no server of this target");
                target.state.replace(State::Unknown);
                target.refusal.replace(Some(report.clone()));
                self.fail_waiters(&report);
                self.wake_logins();
            }
        }
        target.wake();
    }

    async fn resolve(
        self: &Rc<Route>,
        target: &Target,
        is_unreachable: bool,
    ) -> Result<Place, Report> {
        let nobody = || {
            Report::fatal(SqlState::CANNOT_CONNECT_NOW, "nothing starts computes at the moment")
                .with_hint("Howdah is starting or stopping.")
        };
        let router = self.router.upgrade().ok_or_else(nobody)?;
        let resolver = router.options.resolver.clone().ok_or_else(nobody)?;
        drop(router);
        let ((notice, heard), (reply, answer)) = (oneshot(), oneshot());
        resolver(Resolve { target: target.name.clone(), is_unreachable, notice, reply });
        let (mut heard, mut answer) = (pin!(heard), pin!(answer));
        let mut listens = true;
        poll_fn(|cx| {
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(answer.unwrap_or_else(|_dropped| Err(nobody())));
            }
            if listens && let Poll::Ready(heard) = Pin::as_mut(&mut heard).poll(cx) {
                listens = false;
                if let Ok(text) = heard {
                    self.tell_waiters(target, text);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Tells clients that wait why they do; those that come later are told when they come.
    fn tell_waiters(&self, target: &Target, text: String) {
        for client in self.pool.queue.all() {
            client.notify(&text);
        }
        target.notice.replace(Some(text));
        target.wake();
    }

    /// A client begins to wait.
    pub(crate) fn tell_waiter(&self, client: &Client) {
        if let Some(target) = &self.target
            && let Some(text) = &*target.notice.borrow()
        {
            client.notify(text);
        }
    }

    /// For log-ins: waits until the address is known or refused, or there is something to tell.
    pub(crate) async fn target_step(self: &Rc<Route>, began: u64, told: bool) -> Step {
        let Some(target) = &self.target else { return Step::Known };
        poll_fn(|cx| {
            if target.round.get() == began {
                self.seek();
            }
            target.poll_step(cx, began, told)
        })
        .await
    }

    /// Why the target is not there, if that was found out after `began`.
    pub(crate) fn target_refusal(&self, began: u64) -> Option<Report> {
        let target = self.target.as_ref().filter(|target| target.round.get() > began)?;
        target.refusal.borrow().clone()
    }

    /// The number that [`Route::target_step`] wants to know: how many questions were answered before.
    pub(crate) fn target_round(&self) -> u64 {
        self.target.as_ref().map_or(0, |target| target.round.get())
    }

    /// The target's server is gone: its connections are closed, clients wait for the next address.
    fn target_lost(self: &Rc<Route>) {
        let Some(target) = &self.target else { return };
        if matches!(*target.state.borrow(), State::Known(_)) {
            target.state.replace(State::Unknown);
        }
        self.welcome.replace(None);
        self.pool.generation.set(self.pool.generation.get() + 1);
        target.losses.set(target.losses.get() + 1);
        for waker in target.openings.take() {
            waker.wake();
        }
        self.close_idle("the target's server is gone");
        self.open_if_needed();
    }

    /// Clients that use it or are about to.
    fn target_users(&self) -> u32 {
        let asks = self.target.as_ref().is_some_and(|target| {
            matches!(*target.state.borrow(), State::Asked) || !target.logins.borrow().is_empty()
        });
        self.clients.get().max(u32::from(asks))
    }
}

/// Whether a log-in was refused by a server that is on its way down, or up, or whose files have been taken away: PostgreSQL
/// reports the errors of a file system that is gone as internal ones (`errcode_for_file_access` of its `elog.c`).
fn is_of_a_dying_server(sqlstate: SqlState) -> bool {
    let states = [
        SqlState::CONNECTION_FAILURE,
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::INTERNAL_ERROR,
    ];
    states.contains(&sqlstate) || sqlstate.class() == *b"58"
}

impl Router {
    /// The database and the target that a client's name asks for. A configured database of that name comes first.
    pub(crate) fn target_of<'a>(&self, rules: &Rules, name: &'a str) -> Option<(&'a str, &'a str)> {
        self.options.resolver.as_ref()?;
        crate::resolver::split(name).filter(|_| !rules.settings.databases.contains_key(name))
    }

    /// The database by whose rules a client of `name` is let in.
    pub(crate) fn base_of<'a>(&self, rules: &Rules, name: &'a str) -> &'a str {
        self.target_of(rules, name).map_or(name, |(base, _target)| base)
    }

    /// The target of a plain name, if its database's entry names no host and there is one for such.
    pub(crate) fn default_target(&self, rules: &Rules, database: &str) -> Option<Target> {
        let name = self.options.default_target.as_ref()?;
        let entry = rules.settings.database(database)?;
        let target = || Target { is_default: true, ..Target::new(database, name) };
        entry.host.is_empty().then(target)
    }

    fn routes_of_target(&self, name: &str) -> impl Iterator<Item = Rc<Route>> {
        let routes = self.routes().into_iter();
        routes.filter(move |route| route.target.as_ref().is_some_and(|target| target.name == name))
    }

    /// How many routes lead to targets that clients have named.
    pub(crate) fn target_routes(&self) -> usize {
        let is_named = |target: &Target| !target.is_default;
        self.routes().iter().filter(|route| route.target.as_ref().is_some_and(is_named)).count()
    }

    /// Targets and their clients on this core.
    pub(crate) fn targets_in_use(&self) -> Vec<(String, u32)> {
        let routes = self.routes();
        let targets = routes.iter().filter_map(|route| {
            let target = route.target.as_ref()?;
            Some((target.name.clone(), route.target_users()))
        });
        targets.collect()
    }

    /// The target's server has died, or will.
    pub(crate) fn target_lost(self: &Rc<Router>, name: &str) {
        for route in self.routes_of_target(name) {
            route.target_lost();
        }
    }

    /// The target's server is to be stopped: forgets its routes, unless one has a client. False then.
    pub(crate) fn release_target(self: &Rc<Router>, name: &str) -> bool {
        let routes: Vec<Rc<Route>> = self.routes_of_target(name).collect();
        if routes.iter().any(|route| route.target_users() > 0) {
            return false;
        }
        for route in routes {
            route.target_lost();
            self.forget_route(&route.key);
        }
        true
    }
}
