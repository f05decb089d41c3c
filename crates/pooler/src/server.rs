//! A connection to PostgreSQL that has logged in, and everything known about its session.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use pg::wire::backend::TransactionStatus;
use pg::wire::error::Report;
use pg::wire::frontend::write;
use pg::wire::stream::Splitter;
use runtime::clock::Instant;
use runtime::tls::{DetachedTransport, Transport};

use crate::client::Client;
use crate::parameters::ParameterSet;
use crate::prepared::ServerStatements;
use crate::relay::pending::{Expect, Pending};
use crate::route::PerCore;

pub(crate) struct Server {
    /// Unique in the process.
    pub(crate) id: u64,
    pub(crate) stream: Transport,
    /// Which of the route's addresses this is a connection to.
    pub(crate) host: usize,
    pub(crate) process_id: u32,
    pub(crate) cancel_key: Box<[u8]>,
    /// Version of the settings that it was opened under.
    pub(crate) generation: u64,
    pub(crate) connected: Instant,
    pub(crate) connected_wall_micros: i64,
    /// When it was last lent, or came back.
    pub(crate) since: Cell<Instant>,
    pub(crate) state: Cell<ServerState>,
    pub(crate) status: Cell<TransactionStatus>,
    /// To be closed as soon as it is free.
    pub(crate) close_needed: Cell<bool>,
    /// Cancel requests on their way to this session. While there are any, nobody else may use it.
    pub(crate) cancels: Cell<u32>,
    pub(crate) client: RefCell<Weak<Client>>,
    pub(crate) pending: RefCell<Pending>,
    pub(crate) replies: RefCell<Replies>,
    pub(crate) statements: RefCell<ServerStatements>,
    pub(crate) parameters: RefCell<Rc<ParameterSet>>,
}

/// What a server is used for at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerState {
    /// Lent to a client.
    Active,
    /// In its pool.
    Idle,
    /// Running a query of ours: reset or check.
    Tested,
    /// Kept from others until cancel requests are done.
    BeingCanceled,
    Closed,
}

/// Where the stream of replies stands between two reads.
#[derive(Default)]
pub(crate) struct Replies {
    pub(crate) splitter: Splitter,
    /// What is done with the rest of the message that has begun.
    pub(crate) rest: Rest,
    /// Its body so far, if it must be seen whole.
    pub(crate) collected: Vec<u8>,
    /// How a query of ours failed.
    pub(crate) hidden_error: Option<Box<Report>>,
    /// The client has been told by the server itself why that ends the session.
    pub(crate) ended: bool,
    /// DISCARD ALL has been carried out, by whomever.
    pub(crate) discarded: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Rest {
    #[default]
    Forward,
    Swallow,
    /// Keep it until it is whole; then it is the client's, unless `hidden`.
    Collect {
        hidden: bool,
    },
}

/// What a server connection is made of when it has logged in.
pub(crate) struct Parts {
    pub(crate) id: u64,
    pub(crate) stream: Transport,
    pub(crate) host: usize,
    pub(crate) process_id: u32,
    pub(crate) cancel_key: Box<[u8]>,
    pub(crate) generation: u64,
    pub(crate) connected: Instant,
    pub(crate) connected_wall_micros: i64,
    pub(crate) parameters: Rc<ParameterSet>,
}

impl Server {
    pub(crate) fn new(parts: Parts) -> Server {
        Server {
            id: parts.id,
            stream: parts.stream,
            host: parts.host,
            process_id: parts.process_id,
            cancel_key: parts.cancel_key,
            generation: parts.generation,
            connected: parts.connected,
            connected_wall_micros: parts.connected_wall_micros,
            since: Cell::new(parts.connected),
            state: Cell::new(ServerState::Idle),
            status: Cell::new(TransactionStatus::Idle),
            close_needed: Cell::new(false),
            cancels: Cell::new(0),
            client: RefCell::new(Weak::new()),
            pending: RefCell::default(),
            replies: RefCell::default(),
            statements: RefCell::default(),
            parameters: RefCell::new(parts.parameters),
        }
    }

    /// Whether another client could use it now: nothing owed, no transaction, nothing broken.
    pub(crate) fn is_clean(&self) -> bool {
        !self.is_in_transaction()
            && self.pending.borrow().is_empty()
            && self.replies.borrow().splitter.is_between_messages()
    }

    /// In a transaction as far as is known: one that it has told of, or one that requests without a Sync have begun.
    pub(crate) fn is_in_transaction(&self) -> bool {
        self.status.get() != TransactionStatus::Idle || self.pending.borrow().needs_sync()
    }

    pub(crate) fn lent_to(&self) -> Option<Rc<Client>> {
        self.client.borrow().upgrade()
    }
}

/// A server connection on its way to another core.
pub(crate) struct Moving {
    detached: DetachedTransport,
    id: u64,
    host: usize,
    process_id: u32,
    cancel_key: Box<[u8]>,
    connected: Instant,
    connected_wall_micros: i64,
    parameters: Vec<(String, String)>,
    has_statements: bool,
}

impl Moving {
    /// Takes a clean server apart; gives it back if somebody else still holds it.
    pub(crate) fn take(server: Rc<Server>) -> Result<Option<Moving>, Rc<Server>> {
        let server = Rc::try_unwrap(server)?;
        let parameters = server.parameters.borrow();
        let parameters =
            parameters.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let has_statements = server.statements.borrow().len() > 0;
        Ok(server.stream.detach().ok().map(|detached| Moving {
            detached,
            id: server.id,
            host: server.host,
            process_id: server.process_id,
            cancel_key: server.cancel_key,
            connected: server.connected,
            connected_wall_micros: server.connected_wall_micros,
            parameters,
            has_statements,
        }))
    }

    /// Makes it a server of this core; `None` if the connection broke on the way.
    pub(crate) fn settle(self, per_core: &PerCore, generation: u64) -> Option<Server> {
        let stream = Transport::attach(self.detached).ok()?;
        let parameters =
            self.parameters.iter().fold(per_core.parameters.empty(), |set, (name, value)| {
                per_core.parameters.with(&set, &name.as_str().into(), Some(value))
            });
        parameters.accepted.set(true);
        let server = Server::new(Parts {
            id: self.id,
            stream,
            host: self.host,
            process_id: self.process_id,
            cancel_key: self.cancel_key,
            generation,
            connected: self.connected,
            connected_wall_micros: self.connected_wall_micros,
            parameters,
        });
        if self.has_statements {
            // Their names were the other core's; this one would never use them again.
            let mut out = Vec::new();
            write::query(&mut out, "DEALLOCATE ALL");
            server.pending.borrow_mut().push(Expect::HiddenQuery).ok()?;
            server.stream.queue(&out);
        }
        Some(server)
    }
}
