//! A route's server connections on one core: lending, taking back, opening, closing.
//!
//! A server that comes back goes to the client that has waited longest, at once; only when nobody
//! waits does it become idle. So with waiters nobody overtakes, and no connection lies unused.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use pg::sqlstate::SqlState;
use pg::wire::error::Report;
use runtime::clock::{self, Instant};
use runtime::executor;

use crate::client::{Client, End, settings_changed};
use crate::limits::{OPENINGS_MAX, STARVED_MS};
use crate::lookup::Lookups;
use crate::queue::Queue;
use crate::relay::reply;
use crate::route::Route;
use crate::router::Phase;
use crate::server::{Server, ServerState};
use crate::settings::{PoolMode, enabled};
use crate::stats::failures::Failure;
use crate::{backend, cancel, orders, reset};

#[derive(Default)]
pub(crate) struct Pool {
    /// The most recently used at the back.
    idle: RefCell<VecDeque<Rc<Server>>>,
    /// All of them, whoever has them.
    servers: RefCell<Vec<Rc<Server>>>,
    pub(crate) queue: Queue,
    pub(crate) lookups: Lookups,
    /// Connections that are being opened, with a permit.
    pub(crate) opening: Cell<u32>,
    /// Permits asked for and not answered yet.
    pub(crate) asked: Cell<u32>,
    failure: RefCell<Option<LastFailure>>,
    pub(crate) paused: Cell<bool>,
    /// No rule leads here any more: nobody gets a server.
    retired: Cell<bool>,
    /// Servers of an older one are closed when they come free.
    pub(crate) generation: Cell<u64>,
    /// Log-ins that wait to learn what a server says of itself.
    pub(crate) logins: RefCell<Vec<std::task::Waker>>,
    pub(crate) logins_waiting: Cell<usize>,
}

/// Why the last attempt to open a connection failed.
struct LastFailure {
    at: Instant,
    report: Report,
}

impl Pool {
    /// Connections that exist or are being opened.
    pub(crate) fn total(&self) -> usize {
        self.servers.borrow().len() + self.opening.get() as usize
    }

    pub(crate) fn servers(&self) -> Vec<Rc<Server>> {
        self.servers.borrow().clone()
    }

    /// The servers that lie idle, oldest first.
    pub(crate) fn idle(&self) -> Vec<Rc<Server>> {
        self.idle.borrow().iter().cloned().collect()
    }

    /// Takes this server out of the idle ones; false if it is not there.
    pub(crate) fn take_this(&self, server: &Rc<Server>) -> bool {
        let mut idle = self.idle.borrow_mut();
        let at = idle.iter().position(|other| Rc::ptr_eq(other, server));
        at.and_then(|at| idle.remove(at)).is_some()
    }
}

impl Route {
    /// A server that is free, unless somebody waits already.
    pub(crate) fn take_idle(self: &Rc<Route>) -> Option<Rc<Server>> {
        let pool = &self.pool;
        if pool.paused.get() || !pool.queue.is_empty() {
            return None;
        }
        loop {
            let server = match self.config().round_robin {
                true => pool.idle.borrow_mut().pop_front()?,
                false => pool.idle.borrow_mut().pop_back()?,
            };
            if !self.needs_check(&server) {
                return Some(server);
            }
            reset::check(self, server);
        }
    }

    fn needs_check(&self, server: &Server) -> bool {
        let idle_for = clock::now() - server.since.get();
        // The usual case without looking at the rules.
        if idle_for.as_millis() < 1 {
            return false;
        }
        self.rules().is_some_and(|rules| {
            rules.settings.server_check().is_some() && idle_for > rules.settings.server_check_delay
        })
    }

    /// Puts a client in the queue.
    pub(crate) fn wait(self: &Rc<Route>, client: &Rc<Client>) -> Result<(), Report> {
        if let Some(report) = self.recent_failure() {
            return Err(report);
        }
        if self.router.upgrade().is_some_and(|router| router.phase.get() == Phase::Releasing) {
            return Err(orders::releasing());
        }
        self.pool.queue.push(client);
        self.tell_waiter(client);
        self.open_if_needed();
        if let Some(router) = self.router.upgrade() {
            router.expect_of_client(self.config().waiting_limit);
            router.expect(self.config().reserve_limit);
            if router.cores() > 1 {
                router.expect(Some(Duration::from_millis(STARVED_MS)));
            }
        }
        Ok(())
    }

    pub(crate) fn stop_waiting(&self, client: &Client) {
        self.pool.queue.remove(client);
    }

    /// Takes a server back at the end of a transaction.
    pub(crate) fn release(self: &Rc<Route>, server: Rc<Server>) {
        server.client.replace(Weak::new());
        if self.config().reset_always {
            reset::reset(self, server);
        } else {
            self.put(server);
        }
    }

    /// Takes a clean server back at the end of a session.
    pub(crate) fn leave(self: &Rc<Route>, server: Rc<Server>) {
        server.client.replace(Weak::new());
        if self.config().reset_always || self.config().pool_mode == PoolMode::Session {
            reset::reset(self, server);
        } else {
            self.put(server);
        }
    }

    /// Gets rid of a server whose session nobody knows the state of. What it still runs is canceled.
    pub(crate) fn abandon(self: &Rc<Route>, server: &Rc<Server>, broken: bool) {
        server.client.replace(Weak::new());
        if !broken && !server.pending.borrow().is_empty() {
            cancel::cancel_abandoned(self, server);
        }
        self.close(server, "session ended in the middle of something");
    }

    /// Lends a clean server to the next client, or keeps it, or closes it if its time has come.
    pub(crate) fn put(self: &Rc<Route>, server: Rc<Server>) {
        if server.cancels.get() > 0 {
            // The one whose request it is waits for it, and calls again.
            server.state.set(ServerState::BeingCanceled);
            return;
        }
        if let Some(why) = self.must_close(&server) {
            self.close(&server, why);
            return;
        }
        let server = match self.router.upgrade() {
            Some(router) => match router.give_away(self, server) {
                Some(server) => server,
                None => return,
            },
            None => server,
        };
        let server = match self.pool.paused.get() {
            true => server,
            false => match self.pool.lookups.give(server) {
                Some(server) => server,
                None => return,
            },
        };
        if !self.pool.paused.get()
            && let Some(client) = self.pool.queue.pop()
        {
            client.give(&server);
            return;
        }
        self.keep(server);
    }

    fn must_close(&self, server: &Server) -> Option<&'static str> {
        if server.close_needed.get() {
            return Some("no longer in order");
        }
        if server.generation != self.pool.generation.get() {
            return Some("connection settings changed or RECONNECT");
        }
        if self.pool.paused.get() {
            return Some("PAUSE");
        }
        let age = clock::now() - server.connected;
        (age > self.rule.borrow().server_lifetime).then_some("server_lifetime")
    }

    fn keep(self: &Rc<Route>, server: Rc<Server>) {
        server.state.set(ServerState::Idle);
        server.since.set(clock::now());
        if let Some(router) = self.router.upgrade() {
            let watcher = router.watcher.borrow().clone();
            let mut cx = Context::from_waker(&watcher);
            if !self.still_idle(&server, &mut cx) {
                self.close(&server, "server closed the connection");
                return;
            }
            router.expect(self.config().server_limit);
        }
        self.pool.idle.borrow_mut().push_back(server);
    }

    /// Reads what a server sends without having been asked; false if it cannot be used any longer.
    pub(crate) fn still_idle(&self, server: &Rc<Server>, cx: &mut Context<'_>) -> bool {
        loop {
            match server.stream.poll_recv(cx) {
                Poll::Pending => return true,
                Poll::Ready(Ok(chunk)) if !chunk.is_empty() => {
                    let delivered = reply::deliver(&self.per_core, server, None, &chunk);
                    if delivered.is_err() || server.close_needed.get() {
                        return false;
                    }
                }
                Poll::Ready(_) => return false,
            }
        }
    }

    /// Closes a server and forgets it. Whoever else holds it sees its stream end.
    pub(crate) fn close(self: &Rc<Route>, server: &Rc<Server>, why: &'static str) {
        if server.state.replace(ServerState::Closed) == ServerState::Closed {
            return;
        }
        tracing::debug!(server = server.id, why, "closing server connection");
        self.per_core.failures.count(Failure::ServerClosed(why));
        if server.is_clean() {
            server.stream.queue(b"X\0\0\0\x04");
        }
        self.pool.servers.borrow_mut().retain(|other| !Rc::ptr_eq(other, server));
        if let Some(router) = self.router.upgrade() {
            router.server_closed(self);
        }
        self.open_if_needed();
    }

    /// Opens as many connections as clients wait for, within all limits.
    pub(crate) fn open_if_needed(self: &Rc<Route>) {
        let pool = &self.pool;
        let first = usize::from(pool.logins_waiting.get() > 0 && self.welcome.borrow().is_none());
        let minimum = if self.clients.get() > 0 {
            (self.rule.borrow().min_pool_size as usize).saturating_sub(pool.total())
        } else {
            0
        };
        let waiting = pool.queue.len() + pool.lookups.len() + first;
        if !self.has_address() {
            if waiting > 0 && !pool.paused.get() {
                self.seek();
            }
            return;
        }
        let demand = waiting.max(minimum);
        while !pool.paused.get() && self.recent_failure().is_none() {
            let coming = (pool.opening.get() + pool.asked.get()) as usize;
            if coming >= demand.min(OPENINGS_MAX) {
                return;
            }
            let Some(router) = self.router.upgrade() else { return };
            if !router.ask_permit(self) {
                return;
            }
        }
    }

    /// A permit has been given: opens one connection.
    pub(crate) fn open_one(self: &Rc<Route>) {
        self.pool.opening.set(self.pool.opening.get() + 1);
        let route = Rc::clone(self);
        executor::spawn_detached(async move {
            let opened = route.unless_lost(backend::open(&route)).await;
            route.pool.opening.set(route.pool.opening.get() - 1);
            match opened {
                Some(Ok(server)) => route.opened(server),
                Some(Err(report)) => route.open_failed(report),
                None => {
                    if let Some(router) = route.router.upgrade() {
                        router.server_closed(&route);
                    }
                    route.open_if_needed();
                }
            }
        });
    }

    fn opened(self: &Rc<Route>, server: Server) {
        let server = Rc::new(server);
        self.pool.failure.replace(None);
        self.target_reached();
        self.pool.servers.borrow_mut().push(Rc::clone(&server));
        self.wake_logins();
        self.put(server);
        self.open_if_needed();
    }

    /// A connection of another core's moves in. It counts already.
    pub(crate) fn adopt(self: &Rc<Route>, server: Server) {
        let server = Rc::new(server);
        self.pool.servers.borrow_mut().push(Rc::clone(&server));
        self.wake_logins();
        self.put(server);
    }

    pub(crate) fn own(&self, server: &Rc<Server>) {
        self.pool.servers.borrow_mut().push(Rc::clone(server));
    }

    /// Forgets a connection that moves to another core, where it goes on counting.
    pub(crate) fn disown(&self, server: &Rc<Server>) {
        self.pool.servers.borrow_mut().retain(|other| !Rc::ptr_eq(other, server));
    }

    fn open_failed(self: &Rc<Route>, report: Report) {
        tracing::warn!(
            database = &*self.key.database, user = &*self.key.user, error = %report,
            "could not open a server connection"
        );
        self.per_core.failures.count(Failure::server_login(&report));
        if self.target_failed(&report) {
            if let Some(router) = self.router.upgrade() {
                router.server_closed(self);
            }
            return;
        }
        self.pool.failure.replace(Some(LastFailure { at: clock::now(), report: report.clone() }));
        if let Some(router) = self.router.upgrade() {
            router.server_closed(self);
        }
        if self.pool.total() == 0 {
            self.fail_waiters(&report);
        }
        self.wake_logins();
        if let Some(router) = self.router.upgrade()
            && let Some(retry) = self.retry_at()
        {
            router.cron.by(retry);
        }
    }

    pub(crate) fn wake_logins(&self) {
        for waker in self.pool.logins.take() {
            waker.wake();
        }
        self.pool.lookups.wake();
    }

    /// The failure that keeps this pool from trying again just now, if it has no server either.
    pub(crate) fn recent_failure(&self) -> Option<Report> {
        if self.pool.retired.get() {
            return Some(settings_changed());
        }
        let failure = self.pool.failure.borrow();
        let failure = failure.as_ref()?;
        if self.pool.total() > 0 {
            return None;
        }
        let retry = self.rules().map(|rules| rules.settings.server_login_retry).unwrap_or_default();
        (clock::now() - failure.at < retry).then(|| failure.report.clone())
    }

    /// When the next attempt after a failure may be made, if clients wait for it.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        let failure = self.pool.failure.borrow();
        let failure = failure.as_ref().filter(|_| !self.pool.queue.is_empty())?;
        let retry = self.rules().map(|rules| rules.settings.server_login_retry).unwrap_or_default();
        Some(failure.at + retry)
    }

    pub(crate) fn forget_failure(&self) {
        self.pool.failure.replace(None);
    }

    /// Closes every server that is free, for PAUSE, RECONNECT and after a reload.
    pub(crate) fn close_idle(self: &Rc<Route>, why: &'static str) {
        let idle = self.pool.idle.take();
        for server in idle {
            self.close(&server, why);
        }
    }

    /// Closes all servers when they come free, those that are free at once.
    pub(crate) fn reconnect(self: &Rc<Route>) {
        self.pool.generation.set(self.pool.generation.get() + 1);
        self.close_idle("RECONNECT");
        if !self.config().server_fast_close {
            return;
        }
        for client in self.pool.servers().iter().filter_map(|server| server.lent_to()) {
            if client.holds_an_old_server() {
                client.end(End::Told(settings_changed()));
            }
        }
    }

    /// Has been forgotten: clients end what they have begun, and are told when they want to begin something.
    pub(crate) fn retire(self: &Rc<Route>) {
        self.pool.retired.set(true);
        self.reconnect();
        self.fail_waiters(&settings_changed());
        self.wake_logins();
    }

    /// Drops all clients and servers.
    pub(crate) fn kill(self: &Rc<Route>, clients: &[Rc<Client>]) {
        self.pool.paused.set(true);
        self.pool.generation.set(self.pool.generation.get() + 1);
        let report =
            || Report::fatal(SqlState::ADMIN_SHUTDOWN, "database was killed by an administrator");
        for client in clients.iter().filter(|client| Rc::ptr_eq(&client.route, self)) {
            client.end(End::Told(report()));
        }
        self.close_idle("KILL");
    }

    /// Lets waiting clients go on after a pause.
    pub(crate) fn resume(self: &Rc<Route>) {
        self.pool.paused.set(false);
        while !self.pool.queue.is_empty() {
            let Some(server) = self.pool.idle.borrow_mut().pop_back() else { break };
            self.put(server);
        }
        self.open_if_needed();
        self.wake_logins();
    }

    /// Whether a connection that may be opened now would have a use.
    pub(crate) fn wants_server(&self) -> bool {
        let pool = &self.pool;
        let login = pool.logins_waiting.get() > 0 && self.welcome.borrow().is_none();
        let minimum = self.rule.borrow().min_pool_size as usize;
        let short = self.clients.get() > 0 && pool.total() < minimum;
        let waiting = pool.queue.len() + pool.lookups.len();
        !pool.paused.get()
            && self.has_address()
            && (login || short || waiting > pool.opening.get() as usize)
    }

    /// The oldest waiting client's time in the queue.
    pub(crate) fn waiting_since(&self) -> Option<Instant> {
        self.pool.queue.front().map(|client| client.since.get())
    }

    /// Closes servers idle for longer than `server_idle_timeout` or older than `server_lifetime`,
    /// but leaves `min_pool_size`; gives the time to look again.
    pub(crate) fn expire_idle(self: &Rc<Route>, now: Instant) -> Option<Instant> {
        let settings_timeout =
            self.rules().map(|rules| rules.settings.server_idle_timeout).unwrap_or_default();
        let (lifetime, minimum) = {
            let rule = self.rule();
            (rule.server_lifetime, rule.min_pool_size as usize)
        };
        let mut next: Option<Instant> = None;
        for server in self.pool.idle() {
            let idle_end = enabled(settings_timeout)
                .filter(|_| self.pool.total() > minimum)
                .map(|timeout| server.since.get() + timeout);
            let age_end = enabled(lifetime).map(|lifetime| server.connected + lifetime);
            let end = [idle_end, age_end].into_iter().flatten().min();
            match end {
                Some(end) if end <= now => {
                    self.pool.take_this(&server);
                    self.close(&server, "idle or old");
                }
                Some(end) => next = Some(next.map_or(end, |next| next.min(end))),
                None => {}
            }
        }
        next
    }
}
