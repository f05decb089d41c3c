//! What log-ins wait for that is not their doing: a target, RESUME, the first server of a pool.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use pg::sqlstate::SqlState;
use pg::wire::error::Report;
use runtime::clock;

use super::{Arrival, Refused, fatal};
use crate::limits::STARVED_MS;
use crate::route::Route;
use crate::router::Router;
use crate::settings::or_forever;
use crate::target::Step;

impl Arrival<'_> {
    /// Waits until it is known where the target's server is.
    pub(super) async fn await_target(
        &mut self,
        route: &Rc<Route>,
        tell: Tell,
    ) -> Result<(), Refused> {
        let mut told = tell == Tell::Nothing;
        let began = route.target_round();
        if route.has_address() {
            return Ok(());
        }
        let _aside = Aside::step(self.router, self.waking);
        let outcome = loop {
            match route.target_step(began, told).await {
                Step::Known => break Ok(()),
                Step::Refused(report) => break Err(Refused::Told(report)),
                Step::Notice(text) => {
                    told = true;
                    self.let_in();
                    let mut out = Vec::new();
                    Report::notice(text).write(&mut out);
                    self.stream().queue(&out);
                }
            }
        };
        self.router.until(|router| !router.is_suspended()).await;
        outcome
    }

    /// Waits while the database is paused, as other clients wait for a server.
    pub(super) async fn await_resume(&self, route: &Rc<Route>) -> Result<(), Refused> {
        if !route.pool.paused.get() {
            return Ok(());
        }
        let _aside = Aside::step(self.router, self.waking);
        let limit = or_forever(self.rules.settings.query_wait_timeout);
        let waits = |router: &Router| route.pool.paused.get() || router.is_suspended();
        let resumed = self.router.until(|router| !waits(router) || router.is_finishing());
        let waited = clock::timeout(limit, resumed).await;
        if waited.is_ok() && !self.router.is_finishing() {
            return Ok(());
        }
        Err(fatal(SqlState::CANNOT_CONNECT_NOW, "the database is paused"))
    }
}

/// Whether a client can be told why it waits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tell {
    Notices,
    Nothing,
}

/// Waits until a server of the route has said what clients are to be told. `began`: see [`Route::target_round`].
pub(super) async fn await_welcome(route: &Rc<Route>, began: u64) -> Result<(), Refused> {
    if route.welcome.borrow().is_some() {
        return Ok(());
    }
    let waiting = &route.pool.logins_waiting;
    waiting.set(waiting.get() + 1);
    let _left = OnDrop(|| waiting.set(waiting.get() - 1));
    route.open_if_needed();
    route.expect(Some(Duration::from_millis(STARVED_MS)));
    poll_fn(|cx| {
        if route.welcome.borrow().is_some() {
            return Poll::Ready(Ok(()));
        }
        if let Some(report) = route.recent_failure().or_else(|| route.target_refusal(began)) {
            return Poll::Ready(Err(Refused::Told(report)));
        }
        route.pool.logins.borrow_mut().push(cx.waker().clone());
        Poll::Pending
    })
    .await
}

/// A log-in that waits for us, however long: its time does not count, and nobody waits for its end.
struct Aside<'a> {
    router: &'a Router,
    waking: &'a Cell<bool>,
}

impl<'a> Aside<'a> {
    fn step(router: &'a Router, waking: &'a Cell<bool>) -> Aside<'a> {
        waking.set(true);
        router.logins.set(router.logins.get() - 1);
        Aside { router, waking }
    }
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        self.router.logins.set(self.router.logins.get() + 1);
        self.waking.set(false);
    }
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
