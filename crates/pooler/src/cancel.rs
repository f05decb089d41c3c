//! Cancel requests: from a client's key to the server that runs its query.
//!
//! A request is passed on only while the client holds a server, and that server goes to nobody else
//! until the request has been delivered: it can never hit another client's query.

use std::cell::Cell;
use std::rc::Rc;

use pg::wire::startup;
use runtime::net::{Address, Stream};
use runtime::{clock, executor};

use crate::limits::CANCELS_MAX;
use crate::registry;
use crate::route::Route;
use crate::router::{Message, Router};
use crate::server::{Server, ServerState};
use crate::settings::{ServerAddress, or_forever};

/// Whose query is to be canceled: as the request has it.
pub(crate) struct CancelTarget {
    pub(crate) process_id: u32,
    pub(crate) key: Vec<u8>,
}

thread_local! {
    /// Requests of this core that are under way to servers.
    static UNDER_WAY: Cell<usize> = const { Cell::new(0) };
}

/// Sends a request to the core of the client it is about.
pub(crate) fn dispatch(router: &Rc<Router>, target: CancelTarget) {
    match registry::locate(target.process_id) {
        Some((core, _)) if core == router.core => cancel_client(router, &target),
        // If its mailbox is full the request is lost, as one may be on its way to Postgres.
        Some((core, _)) => drop(router.post(core, Message::Cancel(target))),
        None => {}
    }
}

/// Cancels what a client of this core runs, if the key is right.
pub(crate) fn cancel_client(router: &Rc<Router>, target: &CancelTarget) {
    let Some((_, index)) = registry::locate(target.process_id) else { return };
    let Some(client) = router.clients.get(index) else { return };
    let long = pg::auth::equal(&client.cancel_key, &target.key);
    let short = pg::auth::equal(&client.cancel_key[..4], &target.key);
    let right = if client.long_key { long } else { short };
    if !right {
        tracing::debug!(client = client.id, "cancel request with a wrong key");
        return;
    }
    let server = client.server.borrow().clone();
    let Some(server) = server.filter(|server| !server.pending.borrow().is_empty()) else { return };
    deliver(&client.route, server);
}

/// Cancels what a server runs whose client has gone, before the connection is closed.
pub(crate) fn cancel_abandoned(route: &Rc<Route>, server: &Rc<Server>) {
    deliver(route, Rc::clone(server));
}

fn deliver(route: &Rc<Route>, server: Rc<Server>) {
    if UNDER_WAY.get() >= CANCELS_MAX {
        tracing::warn!("too many cancel requests under way, one is dropped");
        return;
    }
    UNDER_WAY.set(UNDER_WAY.get() + 1);
    server.cancels.set(server.cancels.get() + 1);
    let route = Rc::clone(route);
    executor::spawn_detached(async move {
        let limit =
            route.rules().map(|rules| rules.settings.cancel_wait_timeout).unwrap_or_default();
        let sent = clock::timeout(or_forever(limit), send(&route, &server)).await;
        if !matches!(sent, Ok(Ok(()))) {
            tracing::debug!(server = server.id, "cancel request could not be delivered");
        }
        UNDER_WAY.set(UNDER_WAY.get() - 1);
        server.cancels.set(server.cancels.get() - 1);
        if server.state.get() == ServerState::BeingCanceled {
            route.put(server);
        }
    });
}

/// Postgres closes the connection when the signal has been sent.
async fn send(route: &Route, server: &Server) -> std::io::Result<()> {
    let address = match route.rule().servers.get(server.host) {
        Some(ServerAddress::Unix(path)) => Address::Unix(path.clone()),
        // A name may be another server's by now.
        _ => server.stream.stream().peer_address()?,
    };
    let stream = Stream::connect(&address).await?;
    let mut out = Vec::new();
    startup::write_cancel_request(&mut out, server.process_id, &server.cancel_key);
    stream.queue(&out);
    while !stream.recv().await?.is_empty() {}
    Ok(())
}
