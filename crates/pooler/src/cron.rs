//! Everything that happens because time passes, on one core: one task looks at all deadlines.
//!
//! It sleeps until the earliest deadline it saw, or one that came up since ([`Cron::by`]). Deadlines
//! are looked at with the coarseness of [`TICK`]; where there is none it sleeps for good, so an idle pooler costs nothing.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use pg::sqlstate::SqlState;
use pg::wire::error::Report;
use runtime::clock::{self, Instant};

use crate::client::{Client, ClientState, End};
use crate::limits::STARVED_MS;
use crate::route::Route;
use crate::router::Router;
use crate::settings::enabled;

/// Deadlines that are closer together are looked at together.
const TICK: Duration = Duration::from_millis(10);

#[derive(Default)]
pub(crate) struct Cron {
    /// When the task will look at pools next; `None`: when it is woken.
    next: Cell<Option<Instant>>,
    /// The same for clients, of whom there are many more.
    next_clients: Cell<Option<Instant>>,
    waker: RefCell<Option<Waker>>,
}

impl Cron {
    /// Makes sure that deadlines are looked at by then.
    pub(crate) fn by(&self, deadline: Instant) {
        self.advance(&self.next, deadline);
    }

    fn advance(&self, next: &Cell<Option<Instant>>, deadline: Instant) {
        if next.get().is_none_or(|next| deadline < next) {
            next.set(Some(deadline));
            self.wake();
        }
    }

    /// Looks at everything, whatever was due.
    pub(crate) fn look_now(&self) {
        self.next.set(Some(clock::now()));
        self.next_clients.set(Some(clock::now()));
        self.wake();
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

impl Router {
    /// Something has begun that may last so long.
    #[inline]
    pub(crate) fn expect(&self, limit: Option<Duration>) {
        if let Some(limit) = limit {
            self.cron.by(clock::now() + limit.max(TICK));
        }
    }

    /// The same, of a client.
    #[inline]
    pub(crate) fn expect_of_client(&self, limit: Option<Duration>) {
        if let Some(limit) = limit {
            self.cron.advance(&self.cron.next_clients, clock::now() + limit.max(TICK));
        }
    }

    /// Looks at deadlines when they come, for as long as the core runs.
    pub(crate) async fn run_cron(self: Rc<Router>) {
        loop {
            self.sleep_until_due().await;
            // Nobody's time counts who must do nothing; afterwards all is looked at again.
            self.until(|router| !router.is_suspended()).await;
            let now = clock::now();
            if self.cron.next_clients.get().is_some_and(|at| at <= now) {
                self.cron.next_clients.set(None);
                let mut next = Next { at: None };
                self.clients.all().iter().for_each(|client| next.add(client.expire(now)));
                if let Some(at) = next.at {
                    self.cron.advance(&self.cron.next_clients, at.max(now + TICK));
                }
            }
            self.cron.next.set(None);
            let mut next = Next { at: None };
            for route in self.routes() {
                next.add(route.look(&self, now));
                next.add(self.forget_if_unused(&route, now));
            }
            if let Some(at) = next.at {
                self.cron.by(at.max(now + TICK));
            }
        }
    }

    /// Forgets a route that has had neither client nor server for long; gives the time to look again.
    fn forget_if_unused(&self, route: &Route, now: Instant) -> Option<Instant> {
        let used = route.clients.get() > 0 || route.pool.total() > 0;
        if used {
            route.unused_since.set(None);
            return None;
        }
        let since = route.unused_since.get().unwrap_or(now);
        route.unused_since.set(Some(since));
        let end = since + route.forget_after()?;
        if end <= now {
            self.forget_route(&route.key);
            return None;
        }
        Some(end)
    }

    async fn sleep_until_due(&self) {
        let mut sleep: Option<clock::Sleep> = None;
        std::future::poll_fn(|cx| {
            self.cron.waker.replace(Some(cx.waker().clone()));
            let due = [self.cron.next.get(), self.cron.next_clients.get()];
            let Some(next) = due.into_iter().flatten().min() else { return Poll::Pending };
            let sleep = sleep.get_or_insert_with(|| clock::sleep_until(next));
            sleep.reset(next);
            std::pin::Pin::new(sleep).poll(cx)
        })
        .await;
    }
}

/// The earliest of several times.
struct Next {
    at: Option<Instant>,
}

impl Next {
    fn add(&mut self, other: Option<Instant>) {
        self.at = match (self.at, other) {
            (Some(at), Some(other)) => Some(at.min(other)),
            (at, other) => at.or(other),
        };
    }
}

impl Client {
    /// Ends the session if a time limit has passed; gives the time of the next one.
    fn expire(self: &Rc<Client>, now: Instant) -> Option<Instant> {
        let rule = self.route.rule();
        let mut next = Next { at: None };
        let mut limit = |since: Instant, limit: Option<Duration>, state: SqlState, what| {
            let Some(limit) = limit else { return };
            let end = since + limit;
            if end <= now {
                self.end(End::Told(Report::fatal(state, what)));
            } else {
                next.add(Some(end));
            }
        };
        match self.state.get() {
            ClientState::Idle => limit(
                self.since.get(),
                rule.client_idle_timeout,
                SqlState::IDLE_SESSION_TIMEOUT,
                "client_idle_timeout",
            ),
            ClientState::Waiting => {
                limit(
                    self.since.get(),
                    rule.query_wait_timeout,
                    SqlState::TOO_MANY_CONNECTIONS,
                    "query_wait_timeout",
                );
                next.add(self.notify_waiting(now));
            }
            ClientState::Active => {
                let server = self.server.borrow().clone()?;
                let in_transaction = server.is_in_transaction();
                if !server.pending.borrow().is_empty() {
                    limit(
                        self.requested.get(),
                        rule.query_timeout,
                        SqlState::QUERY_CANCELED,
                        "query_timeout",
                    );
                } else if in_transaction {
                    limit(
                        self.answered.get(),
                        rule.idle_transaction_timeout,
                        SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
                        "idle_transaction_timeout",
                    );
                } else {
                    limit(
                        self.answered.get(),
                        rule.client_idle_timeout,
                        SqlState::IDLE_SESSION_TIMEOUT,
                        "client_idle_timeout",
                    );
                }
                if in_transaction || !server.pending.borrow().is_empty() {
                    limit(
                        self.transaction_began.get(),
                        rule.transaction_timeout,
                        SqlState::TRANSACTION_TIMEOUT,
                        "transaction_timeout",
                    );
                }
            }
        }
        next.at
    }

    /// Tells a client that has waited for long that it waits.
    fn notify_waiting(&self, now: Instant) -> Option<Instant> {
        let after = enabled(self.route.rules()?.settings.query_wait_notify)?;
        if self.notified.get() {
            return None;
        }
        let at = self.since.get() + after;
        if at > now {
            return Some(at);
        }
        self.notified.set(true);
        let mut out = Vec::new();
        Report::notice("no server connection available in postgres, client being queued")
            .write(&mut out);
        self.stream.queue(&out);
        None
    }
}

impl Route {
    /// Closes what has been idle for too long, opens what is missing.
    fn look(self: &Rc<Route>, router: &Rc<Router>, now: Instant) -> Option<Instant> {
        let mut next = Next { at: self.expire_idle(now) };
        if let Some(at) = self.retry_at() {
            if at <= now {
                self.forget_failure();
            } else {
                next.add(Some(at));
            }
        }
        let login_waits = self.pool.logins_waiting.get() > 0 && self.welcome.borrow().is_none();
        let login_waits = login_waits || self.pool.lookups.len() > 0;
        if login_waits && router.cores() > 1 {
            next.add(Some(now + Duration::from_millis(STARVED_MS)));
        }
        if let Some(since) = self.waiting_since() {
            let settings = router.rules();
            let reserve = since + settings.settings.reserve_pool_timeout;
            if reserve > now && self.rule().reserve_pool_size > 0 {
                next.add(Some(reserve));
            }
            if router.cores() > 1 {
                next.add(Some(now + Duration::from_millis(STARVED_MS)));
            }
        }
        self.open_if_needed();
        next.at
    }
}
