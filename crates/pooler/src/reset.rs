//! Queries of our own on a server that nobody holds: reset after a session, check before use.

use std::rc::Rc;
use std::time::Duration;

use pg::wire::frontend::write;
use runtime::{clock, executor};

use crate::parameters;
use crate::relay::pending::Expect;
use crate::relay::reply;
use crate::route::Route;
use crate::server::{Server, ServerState};
use crate::settings::or_forever;

/// Resets a server's session state; then it goes to the next client.
pub(crate) fn reset(route: &Rc<Route>, server: Rc<Server>) {
    let query =
        route.rules().map(|rules| rules.settings.server_reset_query.clone()).unwrap_or_default();
    if query.is_empty() {
        route.put(server);
        return;
    }
    run_aside(route, server, query, true);
}

/// Asks a server that has been idle for long whether it is still there; then it goes to the next
/// client.
pub(crate) fn check(route: &Rc<Route>, server: Rc<Server>) {
    let query = route
        .rules()
        .and_then(|rules| rules.settings.server_check().map(str::to_owned))
        .unwrap_or_default();
    run_aside(route, server, query, false);
}

fn run_aside(route: &Rc<Route>, server: Rc<Server>, query: String, resets: bool) {
    server.state.set(ServerState::Tested);
    let route = Rc::clone(route);
    executor::spawn_detached(async move {
        let limit = route
            .rules()
            .map_or(Duration::from_secs(15), |rules| rules.settings.server_connect_timeout);
        let whole = async {
            server.replies.borrow_mut().discarded = false;
            run(&route, &server, &query).await?;
            match resets {
                true => settle(&route, &server).await,
                false => Ok(()),
            }
        };
        let done = clock::timeout(or_forever(limit), whole).await;
        if !matches!(done, Ok(Ok(()))) || !server.is_clean() {
            route.close(&server, "reset or check query failed");
            return;
        }
        route.put(server);
    });
}

/// Parameters that servers do not report are, after a reset, as a new connection has them: by DISCARD ALL, or by us.
async fn settle(route: &Route, server: &Server) -> Result<(), Failed> {
    let wanted = route.welcome.borrow().as_ref().map(|welcome| Rc::clone(&welcome.tracked));
    let Some(wanted) = wanted else { return Ok(()) };
    if server.parameters.borrow().len() == wanted.len() {
        return Ok(());
    }
    if !server.replies.borrow().discarded {
        let sql = parameters::difference(&server.parameters.borrow(), &wanted);
        if let Some(sql) = sql {
            run(route, server, sql).await?;
        }
    }
    server.parameters.replace(wanted);
    Ok(())
}

/// Runs a query on a server and throws its result away.
pub(crate) async fn run(
    route: &Route,
    server: &Server,
    query: impl AsRef<[u8]>,
) -> Result<(), Failed> {
    let mut out = Vec::new();
    write::query(&mut out, query);
    server.statements.borrow_mut().unnamed = 0;
    server.pending.borrow_mut().push(Expect::HiddenQuery).map_err(|_desync| Failed)?;
    server.stream.queue(&out);
    while !server.is_clean() {
        let chunk = server.stream.recv().await.map_err(|_error| Failed)?;
        if chunk.is_empty() {
            return Err(Failed);
        }
        reply::deliver(&route.per_core, server, None, &chunk).map_err(|_broken| Failed)?;
    }
    Ok(())
}

/// The query failed, or the connection did.
pub(crate) struct Failed;
