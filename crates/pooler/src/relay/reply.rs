//! From a server to its client.

use std::cell::RefCell;
use std::rc::Rc;

use pg::sqlstate::SqlState;
use pg::wire::backend::{ParameterStatus, TransactionStatus, kind};
use pg::wire::error::{ErrorFields, Report};
use pg::wire::stream::{BACKEND, Piece};
use runtime::clock;

use super::pending::{Delivery, Desync, Expect, Pending};
use super::{Run, rewrite};
use crate::client::Client;
use crate::limits::COLLECTED_BYTES_MAX;
use crate::parameters::ParameterSet;
use crate::prepared;
use crate::route::PerCore;
use crate::server::{Replies, Rest, Server};
use crate::settings::PoolMode;
use crate::stats::failures::Failure;

/// Why a server cannot be used any longer; its client, if it has one, cannot either.
#[derive(Debug)]
pub(crate) enum Broken {
    /// It sent what it was not asked for, or what is no message.
    Desync,
    /// A query of ours failed, or the client did what its pool does not allow.
    Report(Report),
}

impl From<Desync> for Broken {
    fn from(Desync: Desync) -> Broken {
        Broken::Desync
    }
}

/// Handles what a server sent. `to` is the client that holds it; without one only answers to our
/// own queries and asynchronous messages are in order.
pub(crate) fn deliver(
    per_core: &PerCore,
    server: &Server,
    to: Option<&Client>,
    bytes: &[u8],
) -> Result<(), Broken> {
    let replies = &mut *server.replies.borrow_mut();
    let mut run = Run::new(bytes);
    let mut at = 0;
    while let Some(piece) = replies.splitter.split(&bytes[at..], &BACKEND).next() {
        let piece = piece.map_err(|_error| Broken::Desync)?;
        let start = at;
        at += piece.raw.len();
        if piece.begins() {
            replies.rest = begin(server, to, &piece)?;
        }
        match (replies.rest, to) {
            (Rest::Forward, None) => return Err(Broken::Desync),
            (Rest::Forward, Some(client)) => {
                if piece.carried > 0 {
                    run.flush(&client.stream);
                    client.stream.queue(&piece.header()[..usize::from(piece.carried)]);
                }
                run.add(start..at, &client.stream);
            }
            (Rest::Swallow, _) => {}
            (Rest::Collect { .. }, _) => collect(replies, &piece),
        }
        if piece.ends() && needs_body(piece.kind) {
            if let Some(client) = to {
                run.flush(&client.stream);
            }
            finish(per_core, server, to, replies, &piece)?;
        }
        if piece.ends()
            && let Some(client) = to
        {
            let mut pending = server.pending.borrow_mut();
            if let Some(fake) = pending.next_fake() {
                run.flush(&client.stream);
                send_fakes(client, &mut pending, fake);
            }
        }
    }
    if let Some(client) = to {
        run.flush(&client.stream);
    }
    Ok(())
}

/// Answers of ours that are due: `fake` and those behind it.
fn send_fakes(client: &Client, pending: &mut Pending, fake: u8) {
    let mut next = Some(fake);
    while let Some(kind) = next {
        client.stream.queue(&[kind, 0, 0, 0, 4]);
        next = pending.next_fake();
    }
}

/// Sends answers of ours that nothing is before of. Not while a reply is half sent.
pub(crate) fn send_due_fakes(client: &Client, server: &Server) {
    if !server.replies.borrow().splitter.is_between_messages() {
        return;
    }
    let mut pending = server.pending.borrow_mut();
    if let Some(fake) = pending.next_fake() {
        send_fakes(client, &mut pending, fake);
    }
}

/// What is to be done with the message that begins with this piece.
fn begin(server: &Server, to: Option<&Client>, piece: &Piece<'_>) -> Result<Rest, Broken> {
    let (hidden, failed) = {
        let mut pending = server.pending.borrow_mut();
        let hidden = match piece.kind {
            // Not answers to anything. While a query of ours runs they are about it.
            kind::NOTICE | kind::NOTIFICATION | kind::PARAMETER_STATUS => {
                to.is_none() || pending.head_is_hidden()
            }
            kind::ERROR => {
                let ours = pending.head() == Some(Expect::HiddenQuery) || to.is_none();
                pending.reply(piece.kind)?;
                ours
            }
            _ => pending.reply(piece.kind)? == Delivery::Swallow,
        };
        (hidden, pending.take_failed())
    };
    if !failed.is_empty() {
        rewrite::undo(server, to, failed);
    }
    let collected = needs_body(piece.kind) && (hidden || !piece.ends());
    if collected && piece.body_bytes > COLLECTED_BYTES_MAX {
        return if piece.kind == kind::ERROR { Ok(Rest::Forward) } else { Err(Broken::Desync) };
    }
    Ok(match (hidden, collected) {
        (_, true) => Rest::Collect { hidden },
        (true, false) => Rest::Swallow,
        (false, false) => Rest::Forward,
    })
}

fn collect(replies: &mut Replies, piece: &Piece<'_>) {
    if piece.begins() {
        replies.collected.clear();
    }
    replies.collected.extend_from_slice(piece.bytes());
}

/// The kinds that tell us something, too.
const fn needs_body(kind: u8) -> bool {
    matches!(
        kind,
        kind::READY_FOR_QUERY | kind::PARAMETER_STATUS | kind::ERROR | kind::COMMAND_COMPLETE
    )
}

/// A whole message of those kinds.
fn finish(
    per_core: &PerCore,
    server: &Server,
    to: Option<&Client>,
    replies: &mut Replies,
    piece: &Piece<'_>,
) -> Result<(), Broken> {
    let collected = std::mem::take(&mut replies.collected);
    let (body, hidden) = match replies.rest {
        Rest::Collect { hidden } => (&*collected, hidden),
        Rest::Forward | Rest::Swallow => match piece.whole() {
            Some(body) => (body, false),
            None => return Ok(()),
        },
    };
    if replies.rest == (Rest::Collect { hidden: false })
        && let Some(client) = to
    {
        client.stream.queue(&piece.header());
        client.stream.queue(body);
    }
    match piece.kind {
        kind::READY_FOR_QUERY => {
            let status = TransactionStatus::read(body).map_err(|_malformed| Broken::Desync)?;
            server.status.set(status);
            match to {
                _ if hidden => hidden_query_ended(replies, server, to)?,
                Some(client) => query_ended(client, server, status)?,
                None => {}
            }
        }
        kind::PARAMETER_STATUS => {
            let status = ParameterStatus::read(body).map_err(|_malformed| Broken::Desync)?;
            parameter_changed(per_core, server, to.filter(|_| !hidden), &status);
        }
        kind::ERROR => {
            let sqlstate = error(replies, server, body, hidden);
            if !hidden {
                per_core.failures.count(Failure::server_error(sqlstate));
            }
        }
        // One of ours with a client behind it came before all that is known of the server's statements.
        kind::COMMAND_COMPLETE
            if hidden == to.is_none() && prepared::drops_all_statements(body) =>
        {
            statements_dropped(server, to);
            if prepared::discards_all(body) {
                replies.discarded = true;
                to.into_iter().for_each(|client| parameters_discarded(per_core, server, client));
            }
        }
        _ => {}
    }
    replies.collected = collected;
    Ok(())
}

fn query_ended(client: &Client, server: &Server, status: TransactionStatus) -> Result<(), Broken> {
    let now = clock::now();
    let idle = status == TransactionStatus::Idle;
    client.route.stats.count(|counters| {
        counters.query_count += 1;
        counters.query_time += micros(now - client.requested.get());
        if idle {
            counters.xact_count += 1;
            counters.xact_time += micros(now - client.transaction_began.get());
        }
    });
    // Of those that were sent behind it, the next one begins now.
    client.requested.set(now);
    if idle {
        client.transaction_began.set(now);
    } else if client.route.config().pool_mode == PoolMode::Statement {
        server.close_needed.set(true);
        return Err(Broken::Report(Report::fatal(
            SqlState::PROTOCOL_VIOLATION,
            "transaction blocks not allowed in statement pooling mode",
        )));
    }
    Ok(())
}

pub(crate) fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The query that sets a server's parameters as its client wants them is done, or (without a
/// client) one that resets or checks it.
fn hidden_query_ended(
    replies: &mut Replies,
    server: &Server,
    to: Option<&Client>,
) -> Result<(), Broken> {
    if let Some(report) = replies.hidden_error.take() {
        // It is not set as we have noted.
        server.close_needed.set(true);
        return Err(Broken::Report(*report));
    }
    if let Some(client) = to {
        // As the server spells the values: comparing them is a comparison of pointers next time.
        let settled = Rc::clone(&server.parameters.borrow());
        settled.accepted.set(true);
        client.parameters.replace(settled);
        client.settling.set(false);
    }
    Ok(())
}

fn parameter_changed(
    per_core: &PerCore,
    server: &Server,
    to: Option<&Client>,
    status: &ParameterStatus<'_>,
) {
    let (Ok(name), Ok(value)) = (str::from_utf8(status.name), str::from_utf8(status.value)) else {
        return;
    };
    let Some(name) = per_core.tracked.borrow().name(name).cloned() else { return };
    let change = |set: &RefCell<Rc<ParameterSet>>| {
        let changed = per_core.parameters.with(&set.borrow(), &name, Some(value));
        changed.accepted.set(true);
        set.replace(changed);
    };
    change(&server.parameters);
    if let Some(client) = to {
        change(&client.parameters);
    }
}

/// A client's DISCARD ALL has reset what the server does not report, too. What its start-up packet asked for is set again
/// when it next has a server, as a session of its own would have it.
fn parameters_discarded(per_core: &PerCore, server: &Server, client: &Client) {
    if let Some(welcome) = &*client.route.welcome.borrow() {
        let left = per_core.parameters.only(&server.parameters.borrow(), &welcome.tracked);
        server.parameters.replace(left);
    }
}

/// Takes note of an error; gives its SQLSTATE.
fn error(replies: &mut Replies, server: &Server, body: &[u8], hidden: bool) -> Option<SqlState> {
    let Ok(fields) = ErrorFields::read(body) else {
        server.close_needed.set(true);
        return None;
    };
    if fields.ends_session() {
        server.close_needed.set(true);
        replies.ended = !hidden;
    }
    if hidden {
        let sqlstate = fields.sqlstate.unwrap_or(SqlState::INTERNAL_ERROR);
        let message = String::from_utf8_lossy(fields.message).into_owned();
        replies.hidden_error = Some(Box::new(Report::fatal(sqlstate, message)));
    }
    fields.sqlstate
}

fn statements_dropped(server: &Server, to: Option<&Client>) {
    server.statements.borrow_mut().clear();
    if server.pending.borrow().has_notes() {
        // Statements prepared behind this command are lost count of.
        server.close_needed.set(true);
    } else if let Some(client) = to {
        client.statements.replace(None);
    }
}
