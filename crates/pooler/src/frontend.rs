//! A client from its first byte to its session: start-up packet, TLS, proof of identity, welcome.
//!
//! All of it is one boxed future with one deadline, which is freed before the session begins. The session of a client is
//! another task: this one's future has the size of what a log-in needs.

mod opening;
mod proof;
mod seat;
mod waiting;

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use pg::sqlstate::SqlState;
use pg::wire::error::Report;
use pg::wire::startup::{Replication, StartupError};
use runtime::net::{Address, Stream};
use runtime::tls::Transport;
use runtime::{clock, executor};

use crate::census::{Full, Place, Whose};
use crate::client::{Client, Parts};
use crate::console::{CONSOLE_DATABASES, Console};
use crate::console_client::Administrator;
use crate::handshake::{Handshake, HandshakeError};
use crate::replication;
use crate::router::Router;
use crate::rules::Rules;
use crate::settings::or_forever;
use crate::stats::failures::Failure;

use opening::Wanted;

/// Who has come in.
enum Arrived {
    Client(Rc<Client>),
    Console(Box<(Rc<Administrator>, Console, Transport)>),
    Replication(Rc<replication::Session>, Box<Transport>),
    /// A cancel request, or somebody who was turned away.
    Nobody,
}

/// Serves one connection: to its end, or until it is a client's, which is served by a task of its own.
pub(crate) async fn serve(router: Rc<Router>, stream: Stream, address: Address) {
    let arrived = {
        router.links.clients.fetch_add(1, Ordering::Relaxed);
        router.logins.set(router.logins.get() + 1);
        let limit = or_forever(router.rules().settings.client_login_timeout);
        let waking = Cell::new(false);
        let mut login = Box::pin(arrive(&router, stream, &address, &waking));
        let cuts = Cell::new(router.login_cuts.get());
        let mut unless_cut = poll_fn(|cx| {
            if waking.get() {
                // It is in nobody's way.
                cuts.set(router.login_cuts.get());
            }
            if router.login_cuts.get() == cuts.get() {
                return login.as_mut().poll(cx);
            }
            router.per_core.failures.count(Failure::Login("not_now"));
            Poll::Ready(Arrived::Nobody)
        });
        let arrived = loop {
            match clock::timeout(limit, &mut unless_cut).await {
                Ok(arrived) => break arrived,
                // It waits for us; how long that may take is not its log-in's time.
                Err(_elapsed) if waking.get() => {}
                // Too slow: closed without a word, for it may be anybody.
                Err(_elapsed) => {
                    router.per_core.failures.count(Failure::Login("timeout"));
                    break Arrived::Nobody;
                }
            }
        };
        router.logins.set(router.logins.get() - 1);
        arrived
    };
    match arrived {
        Arrived::Client(client) => executor::spawn_detached(client.serve()),
        Arrived::Console(console) => {
            let (administrator, console, stream) = *console;
            Box::pin(administrator.serve(&router, console, stream)).await;
            router.links.clients.fetch_sub(1, Ordering::Relaxed);
        }
        Arrived::Replication(session, stream) => {
            Box::pin(session.relay(&router, *stream)).await;
            router.links.clients.fetch_sub(1, Ordering::Relaxed);
        }
        Arrived::Nobody => {
            router.links.clients.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

async fn arrive(
    router: &Rc<Router>,
    stream: Stream,
    address: &Address,
    waking: &Cell<bool>,
) -> Arrived {
    let rules = router.rules();
    let mut arrival = Arrival {
        router,
        rules,
        address,
        handshake: Handshake::default(),
        stream: Some(Transport::Plain(stream)),
        waking,
        is_let_in: false,
    };
    match arrival.run().await {
        Ok(Seat::Client(parts)) => {
            let Some(stream) = arrival.stream else { return Arrived::Nobody };
            let client = Client::new(*parts, stream);
            router.clients.insert(&client);
            if router.is_finishing() {
                // It has begun since: whoever waits for the last client is to see this one.
                router.wake_waiting_for_end();
            }
            Arrived::Client(client)
        }
        Ok(Seat::Console(administrator, console)) => match arrival.stream {
            Some(stream) => Arrived::Console(Box::new((administrator, console, stream))),
            None => Arrived::Nobody,
        },
        Ok(Seat::Replication(session)) => match arrival.stream {
            Some(stream) => Arrived::Replication(session, Box::new(stream)),
            None => Arrived::Nobody,
        },
        Ok(Seat::None) => Arrived::Nobody,
        Err(Refused::Silently) => {
            router.per_core.failures.count(Failure::Login("broken_off"));
            Arrived::Nobody
        }
        Err(Refused::Told(report)) => {
            router.per_core.failures.count(Failure::login(&report));
            router.per_core.failures.count(Failure::pooler_error(&report));
            if arrival.rules.settings.log_pooler_errors {
                tracing::info!(%address, error = %report, "client refused");
            }
            let mut out = Vec::new();
            report.write(&mut out);
            if let Some(stream) = &arrival.stream {
                stream.queue(&out);
            }
            Arrived::Nobody
        }
    }
}

/// What a client has been let in to.
enum Seat {
    Client(Box<Parts>),
    Console(Rc<Administrator>, Console),
    Replication(Rc<replication::Session>),
    None,
}

enum Refused {
    /// It is no client, or has gone.
    Silently,
    Told(Report),
}

impl From<Report> for Refused {
    fn from(report: Report) -> Refused {
        Refused::Told(report)
    }
}

impl From<HandshakeError> for Refused {
    fn from(_error: HandshakeError) -> Refused {
        Refused::Silently
    }
}

impl From<StartupError> for Refused {
    fn from(error: StartupError) -> Refused {
        if !error.deserves_answer() {
            return Refused::Silently;
        }
        Refused::Told(Report::fatal(error.sqlstate(), error.to_string()))
    }
}

fn fatal(sqlstate: SqlState, message: impl Into<std::borrow::Cow<'static, str>>) -> Refused {
    Refused::Told(Report::fatal(sqlstate, message))
}

struct Arrival<'a> {
    router: &'a Rc<Router>,
    rules: Arc<Rules>,
    address: &'a Address,
    handshake: Handshake,
    /// `None` only while it becomes an encrypted one.
    stream: Option<Transport>,
    /// It waits for us: see `waiting`.
    waking: &'a Cell<bool>,
    /// It has been told that it has proved who it is.
    is_let_in: bool,
}

impl Arrival<'_> {
    fn stream(&self) -> &Transport {
        self.stream.as_ref().expect("the stream is away only during the TLS handshake")
    }

    fn is_tls(&self) -> bool {
        self.stream().tls().is_some()
    }

    async fn run(&mut self) -> Result<Seat, Refused> {
        let Some(wanted) = self.opening().await? else { return Ok(Seat::None) };
        self.check_limits()?;
        if CONSOLE_DATABASES.contains(&wanted.database.as_str()) {
            return self.console(wanted).await;
        }
        if self.router.is_finishing() {
            return Err(fatal(SqlState::CANNOT_CONNECT_NOW, "the pooler is shutting down"));
        }
        let base = self.router.base_of(&self.rules, &wanted.database);
        let is_disabled = |name: &str| self.router.disabled.borrow().contains(name);
        if is_disabled(&wanted.database) || is_disabled(base) {
            let message = format!("database \"{}\" is disabled", wanted.database);
            return Err(fatal(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message));
        }
        // Unknown databases are refused after the proof, lest anybody can try names; and nothing is
        // kept of who has proved nothing.
        let proven = self.prove(&wanted).await?;
        self.router.route(&wanted.database, &wanted.user)?;
        let place = self.take_place(&wanted).await?;
        // Again, for it may have been forgotten meanwhile.
        let route = self.router.route(&wanted.database, &wanted.user)?;
        if *route.key.user == *wanted.user {
            proven.remember(&self.router.keys, &route.key);
        }
        if wanted.replication != Replication::None {
            return self.replicate(route, wanted, place).await;
        }
        self.welcome(route, wanted, place).await
    }

    fn check_limits(&self) -> Result<(), Refused> {
        let clients = self.router.links.clients.load(Ordering::Relaxed);
        if clients > self.rules.settings.max_client_conn {
            return Err(fatal(
                SqlState::TOO_MANY_CONNECTIONS,
                "no more connections allowed (max_client_conn)",
            ));
        }
        Ok(())
    }

    /// A place among the clients of the database and of the user.
    async fn take_place(&self, wanted: &Wanted) -> Result<Place, Refused> {
        let (database, user) = (wanted.database.clone(), wanted.user.clone());
        let database = self.router.counter(Whose::Database(database)).await;
        let user = self.router.counter(Whose::User(user)).await;
        let (Some(database), Some(user)) = (database, user) else { return Err(Refused::Silently) };
        let base = self.router.base_of(&self.rules, &wanted.database);
        let limits = self.rules.client_limits(base, &wanted.user);
        Place::take(database, user, limits).map_err(|Full(name)| {
            fatal(SqlState::TOO_MANY_CONNECTIONS, format!("client connections exceeded ({name})"))
        })
    }
}
