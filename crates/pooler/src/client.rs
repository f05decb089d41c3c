//! A logged-in client: what is kept of it, and the task that moves its messages.
//!
//! The task is one future for both directions. Most clients are idle most of the time, so an idle one
//! holds no buffer, no map and no timer: only [`Client`] and its stream.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use pg::sqlstate::SqlState;
use pg::wire::error::Report;
use pg::wire::stream::Splitter;
use runtime::buffer::Chunk;
use runtime::clock::{self, Instant};
use runtime::tls::Transport;

use crate::applet::shutting_down;
use crate::census::Place;
use crate::limits::{
    CANCEL_KEY_BYTES, CLIENT_SEND_BYTES_HIGH, CLIENT_SEND_BYTES_LOW, HELD_BYTES_MAX,
    HELD_CHUNKS_MAX, SERVER_SEND_BYTES_LOW, TURN_PIECES_MAX,
};
use crate::parameters::{self, ParameterSet};
use crate::prepared::{ClientStatements, Statement};
use crate::relay::pending::Expect;
use crate::relay::reply::{self, Broken, micros};
use crate::relay::request::{self, Fed};
use crate::relay::rewrite::too_many_statements;
use crate::route::Route;
use crate::server::{Server, ServerState};
use crate::settings::PoolMode;
use crate::stats::failures::Failure;

pub(crate) struct Client {
    /// Where it stands in its core's list; with the core's number it is the client's process id.
    pub(crate) index: u32,
    pub(crate) cancel_key: [u8; CANCEL_KEY_BYTES],
    /// Whether it has been told all of the key; clients of protocol 3.0 know the first four bytes.
    pub(crate) long_key: bool,
    /// Unique in the process.
    pub(crate) id: u64,
    pub(crate) stream: Transport,
    pub(crate) route: Rc<Route>,
    /// Whom it logged in as; servers may be logged in to as somebody else.
    pub(crate) user: Rc<str>,
    pub(crate) connected_wall_micros: i64,
    pub(crate) state: Cell<ClientState>,
    /// Its own parameters are being set on the server; requests are held until they are.
    pub(crate) settling: Cell<bool>,
    pub(crate) notified: Cell<bool>,
    /// When the present state began: idle, waiting, or holding a server.
    pub(crate) since: Cell<Instant>,
    /// Since when the oldest unanswered request has been the oldest, and since when nothing has been owed.
    pub(crate) requested: Cell<Instant>,
    pub(crate) answered: Cell<Instant>,
    pub(crate) transaction_began: Cell<Instant>,
    pub(crate) server: RefCell<Option<Rc<Server>>>,
    pub(crate) parameters: RefCell<Rc<ParameterSet>>,
    pub(crate) statements: RefCell<Option<Box<ClientStatements>>>,
    pub(crate) input: RefCell<Input>,
    waker: Cell<Option<Waker>>,
    /// Somebody else decided that the session ends.
    ending: Cell<Option<Box<End>>>,
    _place: Place,
}

const _: () = assert!(size_of::<Client>() <= 264, "an idle client costs this and its stream");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientState {
    Idle,
    Waiting,
    /// Holds a server.
    Active,
}

/// Where the stream of requests stands between two reads.
#[derive(Default)]
pub(crate) struct Input {
    pub(crate) splitter: Splitter,
    /// What is done with the rest of the message that has begun.
    pub(crate) rest: InputRest,
    /// A message has begun and not ended.
    pub(crate) inside: bool,
    /// Its body so far, if it must be seen whole.
    #[expect(clippy::box_collection, reason = "8 bytes instead of 24 in every idle client")]
    pub(crate) gathered: Option<Box<Vec<u8>>>,
    /// Requests that have been received and must wait.
    held: Option<Chunk>,
    /// They lie in a receive buffer, of which there are not so many.
    pins_buffer: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum InputRest {
    #[default]
    Forward,
    Swallow,
    Gather,
}

impl Input {
    /// No message has begun, and none waits.
    pub(crate) fn is_between_messages(&self) -> bool {
        !self.inside && self.held.is_none()
    }
}

/// Why a session ends.
#[derive(Debug)]
pub(crate) enum End {
    /// The client said good-bye.
    Terminated,
    /// The client went away without a word.
    Vanished,
    /// The client is told why.
    Told(Report),
    /// The server went away; what it last said has been passed on.
    ServerGone,
    /// The server said something that it was not asked for.
    Desync,
}

impl End {
    /// For the log.
    pub(crate) fn reason(&self) -> String {
        match self {
            End::Terminated => "client close request".to_owned(),
            End::Vanished => "client unexpected eof".to_owned(),
            End::Told(report) => report.message.to_string(),
            End::ServerGone => "server conn crashed?".to_owned(),
            End::Desync => "server out of step".to_owned(),
        }
    }
}

/// What a client is told whose database is no longer there, or, in session mode, whose server has to go
/// (`server_fast_close`).
pub(crate) fn settings_changed() -> Report {
    Report::fatal(SqlState::ADMIN_SHUTDOWN, "database configuration changed")
}

impl From<Report> for End {
    fn from(report: Report) -> End {
        End::Told(report)
    }
}

impl From<Broken> for End {
    fn from(broken: Broken) -> End {
        match broken {
            Broken::Desync => End::Desync,
            Broken::Report(report) => End::Told(report),
        }
    }
}

/// What a client is made of when it has logged in.
pub(crate) struct Parts {
    pub(crate) index: u32,
    pub(crate) id: u64,
    pub(crate) cancel_key: [u8; CANCEL_KEY_BYTES],
    pub(crate) long_key: bool,
    pub(crate) route: Rc<Route>,
    pub(crate) user: Rc<str>,
    pub(crate) parameters: Rc<ParameterSet>,
    pub(crate) place: Place,
}

impl Client {
    pub(crate) fn new(parts: Parts, stream: Transport) -> Rc<Client> {
        let now = clock::now();
        Rc::new(Client {
            index: parts.index,
            cancel_key: parts.cancel_key,
            long_key: parts.long_key,
            id: parts.id,
            stream,
            route: parts.route,
            user: parts.user,
            connected_wall_micros: clock::wall_micros(),
            state: Cell::new(ClientState::Idle),
            settling: Cell::new(false),
            notified: Cell::new(false),
            since: Cell::new(now),
            requested: Cell::new(now),
            answered: Cell::new(now),
            transaction_began: Cell::new(now),
            server: RefCell::new(None),
            parameters: RefCell::new(parts.parameters),
            statements: RefCell::new(None),
            input: RefCell::default(),
            waker: Cell::new(None),
            ending: Cell::new(None),
            _place: parts.place,
        })
    }

    /// Serves the client until its session ends.
    pub(crate) fn serve(self: Rc<Client>) -> impl Future<Output = ()> {
        self.route.expect_of_client(self.route.config().client_limit);
        poll_fn(move |cx| match self.turn(cx) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(())) => Poll::Ready(()),
            Err(end) => {
                self.finish(end);
                Poll::Ready(())
            }
        })
    }

    /// Ends the session from outside.
    pub(crate) fn end(&self, end: End) {
        self.ending.set(Some(Box::new(end)));
        self.wake();
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake_by_ref();
            self.waker.set(Some(waker));
        }
    }

    fn turn(self: &Rc<Client>, cx: &mut Context<'_>) -> Result<Poll<()>, End> {
        if let Some(end) = self.ending.take() {
            return Err(*end);
        }
        let known = self.waker.take();
        let known = known.filter(|waker| waker.will_wake(cx.waker()));
        self.waker.set(Some(known.unwrap_or_else(|| cx.waker().clone())));
        if self.route.per_core.suspended.get() {
            return self.turn_suspended(cx);
        }
        for _ in 0..TURN_PIECES_MAX {
            let replied = self.poll_replies(cx)?;
            let requested = self.poll_requests(cx)?;
            if !replied && !requested {
                return Ok(Poll::Pending);
            }
        }
        // Others of this core first.
        cx.waker().wake_by_ref();
        Ok(Poll::Pending)
    }

    /// Brings to its end what has begun, and goes no further.
    #[cold]
    fn turn_suspended(self: &Rc<Client>, cx: &mut Context<'_>) -> Result<Poll<()>, End> {
        for _ in 0..TURN_PIECES_MAX {
            if self.is_quiet() {
                return Ok(Poll::Pending);
            }
            let replied = self.poll_replies(cx)?;
            let requested = !self.is_quiet() && self.poll_requests(cx)?;
            if !replied && !requested {
                return Ok(Poll::Pending);
            }
        }
        cx.waker().wake_by_ref();
        Ok(Poll::Pending)
    }

    /// Moves one piece from the server to the client; false if there is nothing to move.
    fn poll_replies(self: &Rc<Client>, cx: &mut Context<'_>) -> Result<bool, End> {
        let held = self.server.borrow();
        let Some(server) = &*held else { return Ok(false) };
        if self.stream.queued() >= CLIENT_SEND_BYTES_HIGH {
            match self.stream.poll_writable(cx, CLIENT_SEND_BYTES_LOW) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Err(End::Vanished),
                Poll::Pending => return Ok(false),
            }
        }
        let chunk = match server.stream.poll_recv(cx) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(chunk)) if !chunk.is_empty() => chunk,
            Poll::Ready(_) => return Err(End::ServerGone),
        };
        self.route.stats.count(|counters| counters.server_bytes += chunk.len() as u64);
        let owed = !server.pending.borrow().is_empty();
        reply::deliver(&self.route.per_core, server, Some(self), &chunk)?;
        if owed && server.pending.borrow().is_empty() {
            self.answered.set(clock::now());
            self.route.expect_of_client(self.route.config().active_limit);
        }
        drop(held);
        let released = self.release_if_free()?;
        if self.route.config().pool_mode == PoolMode::Session {
            self.set_parameters_again()?;
        }
        if !released && self.route.config().server_fast_close && self.holds_an_old_server() {
            return Err(End::Told(settings_changed()));
        }
        Ok(true)
    }

    /// Sends a request to its server, which owes it nothing.
    pub(crate) fn requesting(&self, server: &Server) {
        let now = clock::now();
        self.requested.set(now);
        if !server.is_in_transaction() {
            self.transaction_began.set(now);
        }
        self.route.expect_of_client(self.route.config().active_limit);
    }

    /// Gives the server back if its transaction is over; false if it is not.
    fn release_if_free(&self) -> Result<bool, End> {
        let free = self.server.borrow().as_ref().is_some_and(|server| self.may_release(server));
        if free && let Some(server) = self.take_server() {
            self.route.release(server);
            if self.route.per_core.draining.get() {
                return Err(End::Told(shutting_down()));
            }
        }
        Ok(free)
    }

    /// Whether the server goes back to its pool after what was just answered.
    fn may_release(&self, server: &Server) -> bool {
        self.route.config().pool_mode != PoolMode::Session && server.is_clean() && {
            let input = self.input.borrow();
            !input.inside && input.held.is_none()
        }
    }

    /// Whether it has a server, and is between transactions, that RECONNECT wants closed.
    pub(crate) fn holds_an_old_server(&self) -> bool {
        self.server.borrow().as_ref().is_some_and(|server| {
            server.generation != self.route.pool.generation.get() && server.is_clean()
        })
    }

    /// Takes the server from the client, which is idle then.
    fn take_server(&self) -> Option<Rc<Server>> {
        let server = self.server.take()?;
        self.state.set(ClientState::Idle);
        self.since.set(clock::now());
        self.route.expect_of_client(self.route.config().client_limit);
        Some(server)
    }

    /// Moves one piece from the client to the server; false if there is nothing to move.
    fn poll_requests(self: &Rc<Client>, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.state.get() == ClientState::Waiting || self.settling.get() {
            return self.poll_while_waiting(cx);
        }
        let mut chunk = match self.take_held() {
            Some(chunk) => chunk,
            None => match self.stream.poll_recv(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(chunk)) if !chunk.is_empty() => {
                    self.route.stats.count(|counters| counters.client_bytes += chunk.len() as u64);
                    chunk
                }
                Poll::Ready(_) => return Err(End::Vanished),
            },
        };
        let (at, go_on) = match request::feed(self, &chunk)? {
            Fed::All => {
                // What was left of a COPY that has failed, for one, is answered by nothing.
                self.release_if_free()?;
                return Ok(true);
            }
            Fed::Terminate => return Err(End::Terminated),
            Fed::Waits(at) => (at, true),
            Fed::Full(at) => (at, self.poll_room(cx)?),
        };
        chunk.advance(at);
        self.hold(chunk);
        Ok(go_on)
    }

    fn take_held(&self) -> Option<Chunk> {
        let mut input = self.input.borrow_mut();
        if std::mem::take(&mut input.pins_buffer) {
            let pinned = &self.route.per_core.held_chunks;
            pinned.set(pinned.get() - 1);
        }
        input.held.take()
    }

    /// Keeps requests for later. Only so many receive buffers may be kept; then they are copied.
    fn hold(&self, chunk: Chunk) {
        let mut input = self.input.borrow_mut();
        let pinned = &self.route.per_core.held_chunks;
        if pinned.get() < HELD_CHUNKS_MAX {
            pinned.set(pinned.get() + 1);
            input.pins_buffer = true;
            input.held = Some(chunk);
        } else {
            input.held = Some(Chunk::copy_of(&chunk));
        }
    }

    /// Whether the server can take more; if not, this task is woken when it can. Where only its
    /// answers are waited for, they wake it.
    fn poll_room(&self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.settling.get() {
            // Round again, to wait for the server's answer.
            return Ok(true);
        }
        let held = self.server.borrow();
        let Some(server) = &*held else { return Ok(true) };
        match server.stream.poll_writable(cx, SERVER_SEND_BYTES_LOW) {
            Poll::Ready(Ok(())) => {
                Ok(server.pending.borrow().len() < crate::limits::PENDING_REQUESTS_MAX)
            }
            Poll::Ready(Err(_)) => Err(End::ServerGone),
            Poll::Pending => Ok(false),
        }
    }

    /// Reads on, to notice if the client goes away; what it sends meanwhile is kept, up to a bound.
    fn poll_while_waiting(&self, cx: &mut Context<'_>) -> Result<bool, End> {
        let held = self.input.borrow().held.as_ref().map_or(0, |held| held.len());
        if held >= HELD_BYTES_MAX {
            return Ok(false);
        }
        let chunk = match self.stream.poll_recv(cx) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(chunk)) if !chunk.is_empty() => chunk,
            Poll::Ready(_) => return Err(End::Vanished),
        };
        self.route.stats.count(|counters| counters.client_bytes += chunk.len() as u64);
        let first = self.take_held();
        let bytes = [first.as_deref().unwrap_or_default(), &chunk].concat();
        self.input.borrow_mut().held = Some(Chunk::copy_of(&bytes));
        Ok(true)
    }

    /// A server for this client, now if there is one; if not, the client is put in the queue.
    pub(crate) fn acquire(self: &Rc<Client>) -> Result<Option<Rc<Server>>, Report> {
        let now = clock::now();
        if let Some(server) = self.route.take_idle() {
            self.attach(&server, now, 0)?;
            return Ok(Some(server));
        }
        self.state.set(ClientState::Waiting);
        self.since.set(now);
        self.notified.set(false);
        if let Err(report) = self.route.wait(self) {
            self.state.set(ClientState::Idle);
            return Err(report);
        }
        Ok(None)
    }

    /// Hands this waiting client its server.
    pub(crate) fn give(self: &Rc<Client>, server: &Rc<Server>) {
        let now = clock::now();
        let waited = micros(now - self.since.get());
        if let Err(report) = self.attach(server, now, waited) {
            self.end(End::Told(report));
        }
        self.wake();
    }

    fn attach(
        self: &Rc<Client>,
        server: &Rc<Server>,
        now: Instant,
        waited: u64,
    ) -> Result<(), Report> {
        self.state.set(ClientState::Active);
        self.since.set(now);
        self.route.expect_of_client(self.route.config().active_limit);
        self.transaction_began.set(now);
        self.requested.set(now);
        self.answered.set(now);
        server.state.set(ServerState::Active);
        server.since.set(now);
        server.client.replace(Rc::downgrade(self));
        self.route.stats.count(|counters| {
            counters.server_assignment_count += 1;
            counters.wait_time += waited;
        });
        self.set_parameters(server)?;
        self.server.replace(Some(Rc::clone(server)));
        Ok(())
    }

    /// Has a clean server set as this client wants it.
    fn set_parameters(&self, server: &Server) -> Result<(), Report> {
        let wanted = self.parameters.borrow();
        if Rc::ptr_eq(&wanted, &server.parameters.borrow()) {
            return Ok(());
        }
        let sql = parameters::difference(&server.parameters.borrow(), &wanted);
        if let Some(sql) = sql {
            let mut out = Vec::with_capacity(sql.len() + 8);
            pg::wire::frontend::write::query(&mut out, &sql);
            server.stream.queue(&out);
            server.statements.borrow_mut().unnamed = 0;
            server.pending.borrow_mut().push(Expect::HiddenQuery)?;
            // Values that were accepted before need not be waited for.
            self.settling.set(!wanted.accepted.get());
        }
        server.parameters.replace(Rc::clone(&wanted));
        Ok(())
    }

    /// In session mode a client goes on with the server that its DISCARD ALL has reset.
    fn set_parameters_again(&self) -> Result<(), Report> {
        match &*self.server.borrow() {
            Some(server) if server.is_clean() && !self.input.borrow().inside => {
                self.set_parameters(server)
            }
            _ => Ok(()),
        }
    }

    /// Tells a client that waits something; between messages, for it has no server.
    pub(crate) fn notify(&self, text: &str) {
        let mut out = Vec::new();
        Report::notice(text.to_owned()).write(&mut out);
        self.stream.queue(&out);
    }

    pub(crate) fn statement(&self, name: &[u8]) -> Option<Rc<Statement>> {
        self.statements.borrow().as_ref().and_then(|statements| statements.get(name)).cloned()
    }

    pub(crate) fn name_statement(
        &self,
        name: &[u8],
        statement: &Rc<Statement>,
    ) -> Result<(), Report> {
        let mut statements = self.statements.borrow_mut();
        let statements = statements.get_or_insert_default();
        if statements.insert(name, Rc::clone(statement)) {
            return Ok(());
        }
        Err(too_many_statements())
    }

    /// The session is over: the client is told why, its server goes where it can do no harm.
    fn finish(self: &Rc<Client>, end: End) {
        if self.state.get() == ClientState::Waiting {
            self.route.stop_waiting(self);
        }
        if let Some(report) = self.farewell(&end) {
            self.route.per_core.failures.count(Failure::pooler_error(&report));
            let mut out = Vec::new();
            report.write(&mut out);
            self.stream.queue(&out);
        }
        drop(self.take_held());
        let inside = self.input.borrow().inside;
        if let Some(server) = self.take_server() {
            let broken = matches!(end, End::ServerGone | End::Desync);
            if !broken && !inside && server.is_clean() {
                self.route.leave(server);
            } else {
                self.route.abandon(&server, broken);
            }
        }
        self.route.client_gone(self, &end);
    }

    fn farewell(&self, end: &End) -> Option<Report> {
        let mut is_explained = false;
        if let Some(server) = &*self.server.borrow() {
            let replies = server.replies.borrow();
            if !replies.splitter.is_between_messages() {
                // In the middle of a message nothing else can be said.
                return None;
            }
            is_explained = replies.ended;
        }
        match end {
            End::Terminated | End::Vanished => None,
            // Drivers show the last that they are told, and the server has said more than we know.
            End::ServerGone if is_explained => None,
            End::Told(report) => Some(report.clone()),
            End::ServerGone => Some(Report::fatal(
                SqlState::CONNECTION_FAILURE,
                "server closed the connection unexpectedly",
            )),
            End::Desync => Some(Report::fatal(
                SqlState::CONNECTION_FAILURE,
                "server sent a message that nobody asked for",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_task_of_a_client_is_no_more_than_a_pointer_to_it() {
        fn bytes<F>(_serve: fn(Rc<Client>) -> F) -> usize {
            size_of::<F>()
        }
        assert_eq!(bytes(Client::serve), size_of::<Rc<Client>>());
    }
}
