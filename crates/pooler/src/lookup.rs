//! `auth_query`: what a server knows of a user whom no file names.
//!
//! Every log-in asks anew, on a pooled connection of `auth_user`, so a changed password or a dropped
//! role counts at once. Look-ups go before waiting clients: they are short, and log-ins have a deadline.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use pg::sqlstate::SqlState;
use pg::wire::backend::{TransactionStatus, data_row, kind};
use pg::wire::error::{ErrorFields, Report};
use pg::wire::frontend::write;

use crate::handshake::Handshake;
use crate::limits::STARVED_MS;
use crate::route::Route;
use crate::router::Router;
use crate::server::{Server, ServerState};
use crate::settings::Secret;

/// What `auth_query` says of `user`, for a client of `database`. `None`: there is no such user, or
/// nobody to ask (no `auth_user`, or no database to ask in).
///
/// # Errors
/// It could not be found out; the report is for the client.
pub(crate) async fn secret(
    router: &Rc<Router>,
    database: &str,
    user: &str,
) -> Result<Option<Secret>, Report> {
    let Some(lookup) = router.rules().lookup(database) else { return Ok(None) };
    let route = router.route_of(&lookup.database, lookup.rule);
    let loan = Loan::take(route).await?;
    ask(&loan, &lookup.query, user).await.map_err(|failed| {
        let Failed(why) = failed;
        tracing::warn!(database = lookup.database, user, error = %why, "auth_query failed");
        // What the server says of the query is the administrator's to read.
        Report::fatal(SqlState::CONNECTION_FAILURE, "could not look up the user (auth_query)")
    })
}

/// Look-ups that wait for a server.
#[derive(Default)]
pub(crate) struct Lookups {
    waiting: RefCell<VecDeque<Rc<Waiting>>>,
}

#[derive(Default)]
struct Waiting {
    server: RefCell<Option<Rc<Server>>>,
    waker: RefCell<Option<Waker>>,
}

impl Lookups {
    pub(crate) fn len(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Gives a server to the one that has waited longest; gives it back if nobody waits.
    pub(crate) fn give(&self, server: Rc<Server>) -> Option<Rc<Server>> {
        let Some(waiting) = self.waiting.borrow_mut().pop_front() else { return Some(server) };
        server.state.set(ServerState::Active);
        waiting.server.replace(Some(server));
        waiting.wake();
        None
    }

    /// Has all look again whether the pool has failed.
    pub(crate) fn wake(&self) {
        self.waiting.borrow().iter().for_each(|waiting| waiting.wake());
    }
}

impl Waiting {
    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// A place in the queue, given up however the wait ends.
struct Place {
    route: Rc<Route>,
    waiting: Rc<Waiting>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queue = self.route.pool.lookups.waiting.borrow_mut();
        queue.retain(|other| !Rc::ptr_eq(other, &self.waiting));
        drop(queue);
        if let Some(server) = self.waiting.server.take() {
            self.route.release(server);
        }
    }
}

/// A server that a look-up has. It goes back when the query is over, and is closed when it is not.
struct Loan {
    route: Rc<Route>,
    server: Rc<Server>,
    /// No query is under way.
    finished: Cell<bool>,
}

impl Loan {
    async fn take(route: Rc<Route>) -> Result<Loan, Report> {
        if let Some(server) = route.take_idle() {
            server.state.set(ServerState::Active);
            return Ok(Loan { route, server, finished: Cell::new(true) });
        }
        let place = Place { route: Rc::clone(&route), waiting: Rc::default() };
        route.pool.lookups.waiting.borrow_mut().push_back(Rc::clone(&place.waiting));
        route.open_if_needed();
        route.expect(Some(Duration::from_millis(STARVED_MS)));
        let server = poll_fn(|cx| {
            if let Some(server) = place.waiting.server.take() {
                return Poll::Ready(Ok(server));
            }
            if let Some(report) = route.recent_failure() {
                return Poll::Ready(Err(report));
            }
            place.waiting.waker.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await?;
        drop(place);
        Ok(Loan { route, server, finished: Cell::new(true) })
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let server = Rc::clone(&self.server);
        if self.finished.get() {
            self.route.release(server);
        } else {
            server.close_needed.set(true);
            self.route.close(&server, "auth_query was broken off");
        }
        // A database that exists by `*` alone may be one that nobody asks for again.
        self.route.expect(self.route.forget_after());
    }
}

/// Why there is no answer. For the log; it never has a secret in it.
struct Failed(String);

/// Runs the query with the user as its parameter, and reads its one row.
async fn ask(loan: &Loan, query: &str, user: &str) -> Result<Option<Secret>, Failed> {
    let server = &loan.server;
    let mut out = Vec::new();
    write::parse(&mut out, "", query, &[]);
    write::bind(&mut out, "", "", &[], &[Some(user.as_bytes())], &[]);
    write::execute(&mut out, "", 0);
    write::sync(&mut out);
    server.statements.borrow_mut().unnamed = 0;
    loan.finished.set(false);
    server.stream.queue(&out);
    let mut answers = Handshake::default();
    let mut found = Ok(None);
    let mut rows = 0_u32;
    loop {
        let message = answers.message(&server.stream).await;
        let message = message.map_err(|error| Failed(error.to_string()))?;
        match message.kind {
            kind::DATA_ROW => {
                rows += 1;
                found = if rows == 1 { row(&message.body, user) } else { Err(many_rows()) };
            }
            kind::ERROR => {
                let text = ErrorFields::read(&message.body)
                    .map(|fields| String::from_utf8_lossy(fields.message).into_owned());
                found = Err(Failed(text.unwrap_or_else(|error| error.to_string())));
            }
            kind::READY_FOR_QUERY => {
                let idle = message.body == [TransactionStatus::Idle.code()];
                if !idle || !answers.bytes().is_empty() {
                    return Err(Failed("auth_query leaves a transaction open".to_owned()));
                }
                loan.finished.set(true);
                return found;
            }
            kind::COPY_IN | kind::COPY_OUT | kind::COPY_BOTH => {
                return Err(Failed("auth_query is a COPY".to_owned()));
            }
            _ => {}
        }
    }
}

fn many_rows() -> Failed {
    Failed("auth_query returned more than one row".to_owned())
}

/// The secret in a row of user and secret. NULL is one that no password fits.
fn row(body: &[u8], user: &str) -> Result<Option<Secret>, Failed> {
    let values = data_row(body).map_err(|error| Failed(error.to_string()))?;
    let values: Vec<Option<&[u8]>> = values.collect();
    let [name, secret] = values[..] else {
        return Err(Failed("auth_query must return two columns, user and password".to_owned()));
    };
    // A function with OUT parameters returns a row even of nobody.
    let Some(name) = name else { return Ok(None) };
    if name != user.as_bytes() {
        return Err(Failed("auth_query returned another user than was asked for".to_owned()));
    }
    let secret = str::from_utf8(secret.unwrap_or_default());
    let secret = secret.map_err(|_binary| Failed("the password is not UTF-8".to_owned()))?;
    Ok(Some(Secret::new(secret)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[Option<&[u8]>]) -> Result<Option<Secret>, String> {
        let mut out = Vec::new();
        pg::wire::backend::write::data_row(&mut out, values);
        row(&out[5..], "ann").map_err(|Failed(why)| why)
    }

    #[test]
    fn a_row_is_a_user_and_a_secret() {
        assert_eq!(read(&[Some(b"ann"), Some(b"apple")]), Ok(Some(Secret::new("apple"))));
        assert_eq!(read(&[Some(b"ann"), None]), Ok(Some(Secret::new(""))), "nothing fits it");
        assert_eq!(read(&[None, None]), Ok(None), "nobody");
        for wrong in [&[Some(&b"bob"[..]), Some(b"berry")][..], &[Some(b"ann")]] {
            let complaint = read(wrong).expect_err("no answer to what was asked");
            assert!(
                complaint.starts_with("auth_query returned another user")
                    || complaint.starts_with("auth_query must return two columns")
            );
            assert!(!complaint.contains("berry"), "a secret in an error");
        }
    }
}
