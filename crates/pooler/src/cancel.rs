//! Cancel requests: from a client's key to the server that runs its query.
//!
//! A request is passed on only while the client holds a server, and that server goes to nobody else
//! until the request has been delivered: it can never hit another client's query.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use pg::wire::startup;
use runtime::net::{Address, Stream};
use runtime::{clock, executor};

use crate::backend::cancel_address;
use crate::limits::CANCELS_MAX;
use crate::registry;
use crate::route::Route;
use crate::router::Router;
use crate::router::links::Message;
use crate::server::{Server, ServerState};
use crate::settings::or_forever;

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

/// A server's session, as cancel requests name it.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    /// `None`: nowhere.
    pub(crate) address: Option<Address>,
    pub(crate) process_id: u32,
    pub(crate) key: Box<[u8]>,
}

/// Cancels what a client of this core runs, if the key is right.
pub(crate) fn cancel_client(router: &Rc<Router>, target: &CancelTarget) {
    let Some((_, index)) = registry::locate(target.process_id) else { return };
    let Some(client) = router.clients.get(index) else {
        return cancel_replication(router, index, &target.key);
    };
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

/// The server of a replication connection is nobody else's: nothing has to wait for the request.
fn cancel_replication(router: &Rc<Router>, index: u32, key: &[u8]) {
    let sessions = router.replications.borrow();
    let found = sessions.values().find_map(|session| session.canceled_by(index, key).cloned());
    drop(sessions);
    let Some(backend) = found else { return router.cancel_administrator(index, key) };
    let limit = router.rules().settings.cancel_wait_timeout;
    let Some(under_way) = UnderWay::begin() else { return };
    executor::spawn_detached(async move {
        send(&backend, limit).await;
        drop(under_way);
    });
}

fn deliver(route: &Rc<Route>, server: Rc<Server>) {
    let Some(under_way) = UnderWay::begin() else { return };
    server.cancels.set(server.cancels.get() + 1);
    let route = Rc::clone(route);
    executor::spawn_detached(async move {
        let limit =
            route.rules().map(|rules| rules.settings.cancel_wait_timeout).unwrap_or_default();
        let backend = Backend {
            address: cancel_address(&route.rule(), server.host, &server.stream),
            process_id: server.process_id,
            key: server.cancel_key.clone(),
        };
        send(&backend, limit).await;
        drop(under_way);
        server.cancels.set(server.cancels.get() - 1);
        if server.state.get() == ServerState::BeingCanceled {
            route.put(server);
        }
    });
}

/// One of so many requests.
struct UnderWay;

impl UnderWay {
    fn begin() -> Option<UnderWay> {
        if UNDER_WAY.get() >= CANCELS_MAX {
            tracing::warn!("too many cancel requests under way, one is dropped");
            return None;
        }
        UNDER_WAY.set(UNDER_WAY.get() + 1);
        Some(UnderWay)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        UNDER_WAY.set(UNDER_WAY.get() - 1);
    }
}

async fn send(backend: &Backend, limit: Duration) {
    let sent = clock::timeout(or_forever(limit), try_send(backend)).await;
    if !matches!(sent, Ok(Ok(()))) {
        tracing::debug!(process = backend.process_id, "cancel request could not be delivered");
    }
}

/// Postgres closes the connection when the signal has been sent.
async fn try_send(backend: &Backend) -> std::io::Result<()> {
    let address = backend.address.as_ref().ok_or(std::io::ErrorKind::NotConnected)?;
    let stream = Stream::connect(address).await?;
    let mut out = Vec::new();
    startup::write_cancel_request(&mut out, backend.process_id, &backend.key);
    stream.queue(&out);
    while !stream.recv().await?.is_empty() {}
    Ok(())
}
