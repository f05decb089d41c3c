//! Replication connections: one client and one server of its own, passed through byte by byte.
//!
//! Whatever the pool mode, as in PgBouncer. A walsender cannot be used again for somebody else, so both
//! ends go together; the server counts it against `max_wal_senders`, not we against a pool.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use pg::sqlstate::SqlState;
use pg::wire::backend::{Authentication, TransactionStatus, write};
use pg::wire::error::Report;
use pg::wire::startup::Replication;
use runtime::tls::Transport;

use crate::backend;
use crate::cancel::Backend;
use crate::census::Place;
use crate::console::snapshot::{self, Connection};
use crate::limits::{
    CANCEL_KEY_BYTES, CLIENT_SEND_BYTES_HIGH, CLIENT_SEND_BYTES_LOW, SERVER_SEND_BYTES_HIGH,
    SERVER_SEND_BYTES_LOW, TURN_PIECES_MAX,
};
use crate::registry;
use crate::route::Route;
use crate::router::Router;

/// A replication connection that has logged in on both sides.
pub(crate) struct Session {
    pub(crate) id: u64,
    /// Where it stands among its core's clients.
    index: u32,
    /// What the client was told of its cancel key.
    key: Box<[u8]>,
    route: Rc<Route>,
    backend: Backend,
    server: Transport,
    /// What SHOW CLIENTS and SHOW SERVERS print of it.
    pub(crate) lines: (Connection, Connection),
    ended: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    _place: Place,
}

/// What a client asks for.
pub(crate) struct Asked {
    pub(crate) kind: Replication,
    pub(crate) parameters: Vec<(String, String)>,
    /// It speaks protocol 3.2, with longer cancel keys.
    pub(crate) long_key: bool,
    pub(crate) line: Connection,
    pub(crate) place: Place,
}

/// Opens the server's side, and tells the client that it is in.
///
/// # Errors
/// What the client is to be told.
pub(crate) async fn open(
    router: &Rc<Router>,
    route: Rc<Route>,
    client: &Transport,
    asked: Asked,
) -> Result<Rc<Session>, Report> {
    let Asked { kind, mut parameters, long_key, mut line, place } = asked;
    let value = if kind == Replication::Logical { "database" } else { "true" };
    parameters.push(("replication".to_owned(), value.to_owned()));
    let server = backend::open_replication(router, &route, &parameters).await?;
    let mut out = Vec::new();
    write::authentication(&mut out, Authentication::Ok);
    for (name, value) in &server.parameters {
        write::parameter_status(&mut out, &**name, &**value);
    }
    let index = router.clients.reserve().ok_or_else(|| {
        Report::fatal(SqlState::TOO_MANY_CONNECTIONS, "no more connections allowed")
    })?;
    let mut key = [0; CANCEL_KEY_BYTES];
    runtime::random::fill(&mut key);
    let told = if long_key { &key[..] } else { &key[..4] };
    write::backend_key_data(&mut out, registry::process_id(router.core, index), told);
    write::ready_for_query(&mut out, TransactionStatus::Idle);
    client.queue(&out);
    line.replication = match kind {
        Replication::None => snapshot::Replication::None,
        Replication::Logical => snapshot::Replication::Logical,
        Replication::Physical => snapshot::Replication::Physical,
    };
    let server_id = router.new_id();
    let mut server_line = Connection {
        id: server_id,
        user: route.key.user.to_string(),
        link: Some(line.id),
        remote_pid: server.backend.process_id,
        ..line.clone()
    };
    crate::orders::describe(&mut server_line, &server.stream);
    line.link = Some(server_id);
    crate::orders::describe(&mut line, client);
    Ok(Rc::new(Session {
        id: line.id,
        index,
        key: told.into(),
        route,
        backend: server.backend,
        server: server.stream,
        lines: (line, server_line),
        ended: Cell::new(false),
        waker: RefCell::default(),
        _place: place,
    }))
}

impl Session {
    pub(crate) fn database(&self) -> &str {
        &self.route.key.database
    }

    pub(crate) fn user(&self) -> &str {
        &self.route.key.user
    }

    /// Whether it is to this database; `None`: any.
    pub(crate) fn is_in(&self, database: Option<&str>) -> bool {
        database.is_none_or(|name| self.database() == name)
    }

    pub(crate) fn is_of(&self, route: &Rc<Route>) -> bool {
        Rc::ptr_eq(&self.route, route)
    }

    /// Whom to ask to cancel what the server runs, if this is the session of that key.
    pub(crate) fn canceled_by(&self, index: u32, key: &[u8]) -> Option<&Backend> {
        (self.index == index && pg::auth::equal(&self.key, key)).then_some(&self.backend)
    }

    /// Closes both sides. Nothing is said: it could be in the middle of a message.
    pub(crate) fn end(&self) {
        self.ended.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Passes everything on until one side ends, then ends the other.
    pub(crate) async fn relay(self: Rc<Session>, router: &Router, client: Transport) {
        self.route.clients.set(self.route.clients.get() + 1);
        router.replications.borrow_mut().insert(self.id, Rc::clone(&self));
        self.route.stats.count(|counters| counters.client_login_count += 1);
        poll_fn(|cx| self.turn(&client, cx)).await;
        router.replications.borrow_mut().remove(&self.id);
        router.clients.remove(self.index);
        self.route.clients.set(self.route.clients.get() - 1);
        self.route.expect(self.route.forget_after());
        router.wake_waiting_for_end();
    }

    fn turn(&self, client: &Transport, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.replace(Some(cx.waker().clone()));
        for _piece in 0..TURN_PIECES_MAX {
            if self.ended.get() {
                return Poll::Ready(());
            }
            let limits = (CLIENT_SEND_BYTES_HIGH, CLIENT_SEND_BYTES_LOW);
            let down = pass(&self.server, client, limits, cx);
            let limits = (SERVER_SEND_BYTES_HIGH, SERVER_SEND_BYTES_LOW);
            let up = pass(client, &self.server, limits, cx);
            match (down, up) {
                (Passed::Bytes(down), Passed::Bytes(up)) => {
                    if down + up == 0 {
                        return Poll::Pending;
                    }
                    self.route.stats.count(|counters| {
                        counters.server_bytes += down as u64;
                        counters.client_bytes += up as u64;
                    });
                }
                _ => return Poll::Ready(()),
            }
        }
        // Others of this core first.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

enum Passed {
    /// How many; 0: nothing can be done just now.
    Bytes(usize),
    End,
}

/// Moves one piece, unless the receiver has `high` bytes to take still; then not before it has less
/// than `low`.
fn pass(
    from: &Transport,
    to: &Transport,
    (high, low): (usize, usize),
    cx: &mut Context<'_>,
) -> Passed {
    if to.queued() >= high {
        match to.poll_writable(cx, low) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Passed::End,
            Poll::Pending => return Passed::Bytes(0),
        }
    }
    match from.poll_recv(cx) {
        Poll::Pending => Passed::Bytes(0),
        Poll::Ready(Ok(chunk)) if !chunk.is_empty() => {
            to.queue(&chunk);
            Passed::Bytes(chunk.len())
        }
        Poll::Ready(_) => Passed::End,
    }
}

impl Router {
    /// Ends the replication connections that `wanted` picks.
    pub(crate) fn end_replications(&self, wanted: impl Fn(&Session) -> bool) -> usize {
        let sessions: Vec<Rc<Session>> = self.replications.borrow().values().cloned().collect();
        let picked = sessions.iter().filter(|session| wanted(session));
        picked.map(|session| session.end()).count()
    }
}
