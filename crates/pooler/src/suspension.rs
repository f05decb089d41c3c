//! SUSPEND: no new clients, and nothing more read from clients and servers, between two messages.
//!
//! A client that is in the middle of a message, or waits for a server, goes on until it is not: then it is
//! *quiet* and its task does nothing. Log-ins under way come to their end. Who is not quiet after `suspend_timeout` is cut off;
//! somebody who logs in learns of that at the next message.

use std::rc::Rc;
use std::time::Duration;

use pg::sqlstate::SqlState;
use pg::wire::error::Report;
use runtime::clock;

use crate::client::{Client, ClientState, End};
use crate::command::{Answer, Command, Order};
use crate::router::{Phase, Router};
use crate::settings::enabled;

/// How often it is looked whether everybody is quiet: nothing says so by itself.
const GLANCE: Duration = Duration::from_millis(5);

impl Router {
    pub(crate) fn is_suspended(&self) -> bool {
        self.phase.get() == Phase::Suspended
    }

    /// Answers when all is quiet, or it has been resumed.
    pub(crate) async fn suspend(self: &Rc<Router>) -> Answer {
        self.phase.set(Phase::Suspended);
        self.per_core.suspended.set(true);
        let began = clock::now();
        let limit = enabled(self.rules().settings.suspend_timeout);
        while self.is_suspended() {
            let clients = self.clients.all();
            let mut loud = clients.iter().filter(|client| !client.is_flushed());
            if limit.is_some_and(|limit| began.elapsed() >= limit) {
                loud.for_each(|client| client.end(End::Told(timeout())));
                if self.logins.get() > 0 {
                    self.login_cuts.set(self.login_cuts.get() + 1);
                }
                break;
            }
            if loud.next().is_none() && self.logins.get() == 0 {
                break;
            }
            clock::sleep(GLANCE).await;
        }
        Answer::Done
    }

    /// Lets everybody go on; time limits count on.
    pub(crate) fn end_suspension(&self) {
        if !self.is_suspended() {
            return;
        }
        self.phase.set(Phase::Running);
        self.per_core.suspended.set(false);
        self.clients.all().iter().for_each(|client| client.wake());
        self.cron.look_now();
        self.wake_waiting_for_end();
    }

    /// Nobody could resume any longer: new administrators are not let in.
    pub(crate) async fn resume_if_nobody_can(self: &Rc<Router>) {
        if self.is_suspended() && self.links.has_no_administrators() {
            tracing::info!("the administrator has gone, the pooler resumes");
            let resume = Command::Order(Order::Resume { database: None });
            crate::orders::ask_all(self, &resume).await;
        }
    }
}

fn timeout() -> Report {
    Report::fatal(SqlState::ADMIN_SHUTDOWN, "suspend_timeout")
}

impl Client {
    /// Between messages in both directions, and waiting for nothing of ours.
    pub(crate) fn is_quiet(&self) -> bool {
        let held = self.server.borrow();
        let server_is_quiet = held
            .as_ref()
            .is_none_or(|server| server.replies.borrow().splitter.is_between_messages());
        server_is_quiet
            && self.state.get() != ClientState::Waiting
            && !self.settling.get()
            && self.input.borrow().is_between_messages()
    }

    /// Quiet, and nothing is on its way out.
    fn is_flushed(&self) -> bool {
        let server_is_flushed =
            self.server.borrow().as_ref().is_none_or(|server| server.stream.queued() == 0);
        self.is_quiet() && server_is_flushed && self.stream.queued() == 0
    }
}
