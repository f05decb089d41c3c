//! Opening a server connection: connect, TLS, log in, learn what the server says of itself.

use std::cell::Cell;
use std::rc::Rc;

use pg::sqlstate::SqlState;
use pg::wire::backend::{Authentication, BackendKeyData, ParameterStatus, kind};
use pg::wire::error::{ErrorFields, Report};
use pg::wire::startup::{self, ProtocolVersion};
use runtime::clock;
use runtime::net::{Address, Keepalive, Stream};

use crate::auth::{Known, ServerAuth};
use crate::cancel::Backend;
use crate::handshake::{Handshake, HandshakeError};
use crate::limits::SERVER_PARAMETERS_MAX;
use crate::reset;
use crate::route::Route;
use crate::router::Router;
use crate::rules::RouteRule;
use crate::server::{Parts, Server};
use crate::settings::{LoadBalanceHosts, ServerAddress, Settings, enabled, or_forever};
use runtime::tls::{SslMode, Transport};

thread_local! {
    /// Which of several hosts is next.
    static TURN: Cell<usize> = const { Cell::new(0) };
}

fn unreachable(message: impl Into<std::borrow::Cow<'static, str>>) -> Report {
    Report::fatal(SqlState::CONNECTION_FAILURE, message)
}

/// Opens one connection of a route. The error is what a waiting client is told.
pub(crate) async fn open(route: &Rc<Route>) -> Result<Server, Report> {
    let Some(router) = route.router.upgrade() else { return Err(unreachable("shutting down")) };
    let limit = or_forever(router.rules().settings.server_connect_timeout);
    let opened = clock::timeout(limit, Box::pin(try_open(&router, route))).await;
    opened.unwrap_or_else(|_elapsed| Err(unreachable("server_connect_timeout")))
}

async fn try_open(router: &Rc<Router>, route: &Rc<Route>) -> Result<Server, Report> {
    let rule = route.rule();
    let rules = router.rules();
    let generation = route.pool.generation.get();
    let (host, stream, login) = log_in(router, route, &rule, &[]).await?;
    let tracked = route.learn_welcome(login.parameters);
    let parts = Parts {
        id: router.new_id(),
        stream,
        host,
        process_id: login.process_id,
        cancel_key: login.cancel_key,
        generation,
        connected: clock::now(),
        connected_wall_micros: clock::wall_micros(),
        parameters: tracked,
    };
    let server = Server::new(parts);
    if let Some(query) = &rule.connect_query {
        let done = reset::run(route, &server, query).await;
        done.map_err(|_failed| unreachable("connect_query failed"))?;
    }
    if rules.settings.log_connections {
        tracing::info!(
            server = server.id,
            database = &*route.key.database,
            user = &*route.key.user,
            process = server.process_id,
            "new server connection"
        );
    }
    Ok(server)
}

/// A walsender that has logged in.
pub(crate) struct Walsender {
    pub(crate) stream: Transport,
    pub(crate) backend: Backend,
    pub(crate) parameters: Vec<(Rc<str>, Rc<str>)>,
}

/// Opens a connection for one client alone, with its start-up parameters.
pub(crate) async fn open_replication(
    router: &Rc<Router>,
    route: &Rc<Route>,
    parameters: &[(String, String)],
) -> Result<Walsender, Report> {
    let rule = route.rule();
    let limit = or_forever(router.rules().settings.server_connect_timeout);
    let opened = clock::timeout(limit, Box::pin(log_in(router, route, &rule, parameters))).await;
    let opened = opened.unwrap_or_else(|_elapsed| Err(unreachable("server_connect_timeout")));
    let (host, stream, login) = opened?;
    let backend = Backend {
        address: cancel_address(&rule, host, &stream),
        process_id: login.process_id,
        key: login.cancel_key,
    };
    Ok(Walsender { stream, backend, parameters: login.parameters })
}

/// Where cancel requests for a session go: to the same server, whatever a name stands for by now.
/// `None` if the connection is broken.
pub(crate) fn cancel_address(rule: &RouteRule, host: usize, stream: &Transport) -> Option<Address> {
    match rule.servers.get(host) {
        Some(ServerAddress::Unix(path)) => Some(Address::Unix(path.clone())),
        _ => stream.stream().peer_address().ok(),
    }
}

async fn log_in<'a>(
    router: &'a Rc<Router>,
    route: &'a Rc<Route>,
    rule: &'a RouteRule,
    more: &'a [(String, String)],
) -> Result<(usize, Transport, Login<'a>), Report> {
    let (host, stream) = connect(router, rule, &router.rules().settings).await?;
    let stream = encrypt(router, rule, host, stream).await?;
    let mut login = Login {
        router,
        route,
        rule,
        more,
        handshake: Handshake::default(),
        process_id: 0,
        cancel_key: Box::default(),
        parameters: Vec::new(),
    };
    login.run(&stream).await?;
    if let Some(rest) = std::mem::take(&mut login.handshake).into_rest() {
        stream.unrecv(rest);
    }
    Ok((host, stream, login))
}

/// Where one of a route's servers may be, in the order to try.
async fn addresses(
    router: &Router,
    rule: &RouteRule,
    host: usize,
    settings: &Settings,
) -> std::io::Result<Vec<Address>> {
    match rule.servers.get(host) {
        Some(ServerAddress::Unix(path)) => Ok(vec![Address::Unix(path.clone())]),
        Some(ServerAddress::Tcp { host, port }) => {
            router.names.addresses(host, *port, settings).await
        }
        None => Err(std::io::Error::other("no server is configured")),
    }
}

async fn connect(
    router: &Router,
    rule: &RouteRule,
    settings: &Settings,
) -> Result<(usize, Stream), Report> {
    let count = rule.servers.len().max(1);
    let first = match rule.load_balance_hosts {
        LoadBalanceHosts::RoundRobin if count > 1 => TURN.replace(TURN.get().wrapping_add(1)),
        _ => 0,
    };
    let mut error = None;
    for host in (0..count).map(|offset| first.wrapping_add(offset) % count) {
        let candidates = addresses(router, rule, host, settings).await;
        let candidates = candidates.unwrap_or_else(|failed| {
            error = Some(failed);
            Vec::new()
        });
        for address in candidates {
            match Stream::connect(&address).await {
                Ok(stream) => {
                    if settings.tcp_keepalive && !stream.is_unix() {
                        // A connection without probes still works.
                        let _refused = stream.set_keepalive(Some(&keepalive(settings)));
                    }
                    return Ok((host, stream));
                }
                Err(failed) => error = Some(failed),
            }
        }
    }
    let error = error.map_or_else(String::new, |error| error.to_string());
    Err(unreachable(format!("could not connect to the server: {error}")))
}

/// How connections are probed.
pub(crate) fn keepalive(settings: &Settings) -> Keepalive {
    Keepalive {
        idle: enabled(settings.tcp_keepidle),
        interval: enabled(settings.tcp_keepintvl),
        count: (settings.tcp_keepcnt > 0).then_some(settings.tcp_keepcnt),
        user_timeout: enabled(settings.tcp_user_timeout),
    }
}

/// Asks the server for TLS, if the settings want it and the connection leaves the machine.
async fn encrypt(
    router: &Router,
    rule: &RouteRule,
    host: usize,
    stream: Stream,
) -> Result<Transport, Report> {
    let tls = router.tls.borrow().servers.clone();
    let Some(tls) = tls.filter(|_| !stream.is_unix()) else { return Ok(Transport::Plain(stream)) };
    let mut out = Vec::new();
    startup::write_ssl_request(&mut out);
    stream.queue(&out);
    let transport = Transport::Plain(stream);
    let mut handshake = Handshake::default();
    let answer = handshake.byte(&transport).await.map_err(broken)?;
    // Bytes behind the answer would be plain ones that pass for encrypted ones.
    let Transport::Plain(stream) = transport else { return Err(broken(HandshakeError::Malformed)) };
    if !handshake.bytes().is_empty() {
        return Err(broken(HandshakeError::Malformed));
    }
    match answer {
        b'S' => {
            let name = match rule.servers.get(host) {
                Some(ServerAddress::Tcp { host, .. }) => host.as_str(),
                _ => "",
            };
            let encrypted = tls.connect(stream, name).await;
            encrypted
                .map(Transport::Tls)
                .map_err(|error| unreachable(format!("TLS with the server failed: {error}")))
        }
        b'N' if tls.mode() < SslMode::Require => Ok(Transport::Plain(stream)),
        b'N' => Err(unreachable("server does not support SSL, but SSL was required")),
        _ => Err(broken(HandshakeError::Malformed)),
    }
}

struct Login<'a> {
    router: &'a Router,
    route: &'a Route,
    rule: &'a RouteRule,
    /// Start-up parameters besides those of the rule.
    more: &'a [(String, String)],
    handshake: Handshake,
    process_id: u32,
    cancel_key: Box<[u8]>,
    parameters: Vec<(Rc<str>, Rc<str>)>,
}

impl Login<'_> {
    async fn run(&mut self, stream: &Transport) -> Result<(), Report> {
        self.start(stream);
        let user = self.rule.server_user.clone();
        let found = self.router.keys.found(&self.route.key);
        let known = self.rule.server_secret.as_ref().or(found.as_ref()).map(Known::of);
        let keys = self.router.keys.for_server(&self.route.key);
        let end_point = stream.tls().and_then(|tls| tls.end_point_hash());
        let mut auth = ServerAuth::new(user, known, keys, end_point);
        loop {
            let message = self.handshake.message(stream).await.map_err(broken)?;
            match message.kind {
                kind::AUTHENTICATION => {
                    let demand = Authentication::read(&message.body).map_err(malformed)?;
                    if let Some(answer) = auth.answer(demand)? {
                        stream.queue(&answer);
                    }
                }
                kind::BACKEND_KEY_DATA => {
                    let data = BackendKeyData::read(&message.body).map_err(malformed)?;
                    (self.process_id, self.cancel_key) = (data.process_id, data.key.into());
                }
                kind::PARAMETER_STATUS => self.parameter(&message.body)?,
                kind::READY_FOR_QUERY => {
                    if let Some(keys) = auth.into_keys() {
                        self.router.keys.learn(&self.route.key, keys);
                    }
                    return Ok(());
                }
                kind::ERROR => return Err(refused(&message.body)),
                kind::NOTICE | kind::NEGOTIATE_PROTOCOL_VERSION => {}
                _ => return Err(broken(HandshakeError::Malformed)),
            }
        }
    }

    fn start(&self, stream: &Transport) {
        let own = self.rule.startup_parameters.iter();
        let own = own.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let who: [(&[u8], &[u8]); 2] = [
            (b"user", self.rule.server_user.as_bytes()),
            (b"database", self.rule.server_database.as_bytes()),
        ];
        let mut out = Vec::new();
        let more = self.more.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let all = who.into_iter().chain(own).chain(more);
        startup::write_startup(&mut out, ProtocolVersion::V3_0, all);
        stream.queue(&out);
    }

    fn parameter(&mut self, body: &[u8]) -> Result<(), Report> {
        let status = ParameterStatus::read(body).map_err(malformed)?;
        let (Ok(name), Ok(value)) = (str::from_utf8(status.name), str::from_utf8(status.value))
        else {
            return Ok(());
        };
        if self.parameters.len() >= SERVER_PARAMETERS_MAX {
            return Err(broken(HandshakeError::Malformed));
        }
        // Servers of a route say the same: their words are kept once.
        let same = self.route.welcome.borrow().as_ref().and_then(|welcome| {
            welcome.parameters.iter().find(|pair| *pair.0 == *name && *pair.1 == *value).cloned()
        });
        self.parameters.push(same.unwrap_or_else(|| (name.into(), value.into())));
        Ok(())
    }
}

fn broken(error: HandshakeError) -> Report {
    unreachable(format!("log-in to the server failed: {error}"))
}

fn malformed(error: pg::wire::Malformed) -> Report {
    unreachable(format!("log-in to the server failed: {error}"))
}

/// What the server says is what the client is told.
fn refused(body: &[u8]) -> Report {
    match ErrorFields::read(body) {
        Ok(fields) => Report::fatal(
            fields.sqlstate.unwrap_or(SqlState::CONNECTION_FAILURE),
            String::from_utf8_lossy(fields.message).into_owned(),
        ),
        Err(error) => malformed(error),
    }
}
