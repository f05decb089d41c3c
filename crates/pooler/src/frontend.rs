//! A client from its first byte to its session: start-up packet, TLS, proof of identity, welcome.
//!
//! All of it is one boxed future with one deadline, which is freed before the session begins.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use pg::auth::scram::Keys;
use pg::sqlstate::SqlState;
use pg::wire::backend::{Authentication, TransactionStatus, write};
use pg::wire::error::Report;
use pg::wire::startup::{
    self, Opening, Packet, ProtocolVersion, Replication, Startup, StartupError,
};
use runtime::clock;
use runtime::identity::User;
use runtime::net::{Address, Stream};

use crate::auth::{self, ClientAuth, Exchange, KeyCache, Known};
use crate::cancel::{self, CancelTarget};
use crate::census::{Full, Place, Whose};
use crate::client::{Client, Parts};
use crate::console::snapshot::Connection;
use crate::console::{CONSOLE_DATABASES, Console, WELCOME_PARAMETERS};
use crate::console_client::Administrator;
use crate::handshake::{Handshake, HandshakeError};
use crate::hba::{Attempt, Method, Origin};
use crate::limits::{CANCEL_KEY_BYTES, NEGOTIATIONS_MAX, STARTUP_PARAMETERS_MAX, STARVED_MS};
use crate::lookup;
use crate::parameters::{self, ParameterSet};
use crate::registry;
use crate::replication;
use crate::route::{Greeting, Route, RouteKey, Welcome};
use crate::router::Router;
use crate::rules::{ConsoleRight, Rules};
use crate::settings::{Secret, or_forever};
use crate::stats::failures::Failure;
use crate::target::Step;
use runtime::tls::{ALPN_POSTGRESQL, Transport};

/// Who has come in.
enum Arrived {
    Client(Rc<Client>),
    Console(Box<(Rc<Administrator>, Console, Transport)>),
    Replication(Rc<replication::Session>, Box<Transport>),
    /// A cancel request, or somebody who was turned away.
    Nobody,
}

/// Serves one connection from its beginning to its end.
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
        Arrived::Client(client) => {
            drop(router);
            client.serve().await;
        }
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
    /// It waits for us: see [`Aside`].
    waking: &'a Cell<bool>,
    /// It has been told that it has proved who it is.
    is_let_in: bool,
}

/// What a start-up packet asks for.
struct Wanted {
    version: ProtocolVersion,
    user: String,
    database: String,
    replication: Replication,
    parameters: Vec<(String, String)>,
}

/// What a log-in has shown that helps to log in to servers as the same user.
struct Proven {
    /// What `auth_query` said, if it was asked.
    found: Option<Secret>,
    keys: Option<Keys>,
}

impl Proven {
    fn remember(self, cache: &KeyCache, route: &RouteKey) {
        if let Some(secret) = self.found {
            cache.learn_found(route, secret);
        }
        if let Some(keys) = self.keys {
            cache.learn(route, keys);
        }
    }
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

    /// Reads packets up to the one that says what the connection is for; `None` if it was only for
    /// canceling.
    async fn opening(&mut self) -> Result<Option<Wanted>, Refused> {
        for _ in 0..=NEGOTIATIONS_MAX {
            self.handshake
                .opening(self.stream.as_ref().expect("no handshake is under way"))
                .await?;
            let (packet, bytes) = match startup::open(self.handshake.bytes())? {
                Opening::Packet(packet, bytes) => (packet, bytes),
                Opening::DirectTls => {
                    self.start_tls(true).await?;
                    continue;
                }
                Opening::More(_) => return Err(Refused::Silently),
            };
            if !packet.may_be_followed() && self.handshake.bytes().len() > bytes {
                return Err(fatal(
                    SqlState::PROTOCOL_VIOLATION,
                    "received unencrypted data after a request for encryption",
                ));
            }
            match packet {
                Packet::Ssl => {
                    self.handshake.consume(bytes);
                    if !self.offers_tls() {
                        self.stream().queue(b"N");
                    } else {
                        self.stream().queue(b"S");
                        self.start_tls(false).await?;
                    }
                }
                Packet::Gss => {
                    self.handshake.consume(bytes);
                    self.stream().queue(b"N");
                }
                Packet::Cancel(request) => {
                    let (process_id, key) = (request.process_id, request.key.to_vec());
                    cancel::dispatch(self.router, CancelTarget { process_id, key });
                    return Ok(None);
                }
                Packet::Startup(startup) => {
                    let wanted = self.read_startup(&startup)?;
                    self.handshake.consume(bytes);
                    return Ok(Some(wanted));
                }
            }
        }
        Err(Refused::Silently)
    }

    fn offers_tls(&self) -> bool {
        let plain = matches!(self.stream, Some(Transport::Plain(_)));
        plain && !self.stream().stream().is_unix() && self.router.tls.borrow().clients.is_some()
    }

    /// Goes on encrypted. A direct handshake, without a request before, must name the protocol, so
    /// that one for another protocol cannot be relayed to us.
    async fn start_tls(&mut self, direct: bool) -> Result<(), Refused> {
        let Some(tls) = self.router.tls.borrow().clients.clone() else {
            return Err(Refused::Silently);
        };
        let Some(Transport::Plain(stream)) = self.stream.take() else {
            return Err(Refused::Silently);
        };
        if let Some(hello) = std::mem::take(&mut self.handshake).into_rest() {
            stream.unrecv(hello);
        }
        let stream = match tls.accept(stream).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::info!(address = %self.address, %error, "TLS handshake failed");
                return Err(Refused::Silently);
            }
        };
        if direct && stream.alpn().as_deref() != Some(ALPN_POSTGRESQL) {
            return Err(Refused::Silently);
        }
        self.stream = Some(Transport::Tls(stream));
        Ok(())
    }

    fn read_startup(&self, startup: &Startup<'_>) -> Result<Wanted, Refused> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let user = text(startup.user()?);
        let database = text(startup.database()?);
        let replication = startup.replication()?;
        if startup.needs_negotiation(ProtocolVersion::LATEST) {
            let mut out = Vec::new();
            write::negotiate_protocol_version(
                &mut out,
                startup.version_to_speak(ProtocolVersion::LATEST),
                startup.protocol_options(),
            );
            self.stream().queue(&out);
        }
        let settings = &self.rules.settings;
        if settings.client_tls_sslmode.is_required()
            && !self.is_tls()
            && !self.stream().stream().is_unix()
        {
            return Err(fatal(
                SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
                "SSL connection is required",
            ));
        }
        let parameters = self.read_parameters(startup)?;
        let version = startup.version_to_speak(ProtocolVersion::LATEST);
        Ok(Wanted { version, user, database, replication, parameters })
    }

    /// Session parameters that the client asks for, checked.
    fn read_parameters(&self, startup: &Startup<'_>) -> Result<Vec<(String, String)>, Refused> {
        let ignored = &self.rules.settings.ignore_startup_parameters;
        let is_ignored = |name: &str| ignored.iter().any(|other| other.eq_ignore_ascii_case(name));
        let mut found = Vec::new();
        for (name, value) in startup.parameters() {
            let name = String::from_utf8_lossy(name);
            match &*name {
                "user" | "database" | "replication" => {}
                name if name.starts_with("_pq_.") || is_ignored(name) => {}
                "options" => {
                    let text = String::from_utf8_lossy(value);
                    let Some(options) = parameters::parse_options(&text) else {
                        return Err(fatal(
                            SqlState::PROTOCOL_VIOLATION,
                            "unsupported startup parameter in options",
                        ));
                    };
                    found.extend(options.into_iter().filter(|(name, _)| !is_ignored(name)));
                }
                name => found.push((name.to_owned(), String::from_utf8_lossy(value).into_owned())),
            }
        }
        let bad = |name: &str| !parameters::is_parameter_name(name);
        if let Some((name, _)) = found.iter().find(|(name, _)| bad(name)) {
            let message = format!("unsupported startup parameter: {name:?}");
            return Err(fatal(SqlState::PROTOCOL_VIOLATION, message));
        }
        if found.len() > STARTUP_PARAMETERS_MAX {
            return Err(fatal(SqlState::PROGRAM_LIMIT_EXCEEDED, "too many startup parameters"));
        }
        Ok(found)
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

    /// Has the client prove who it is.
    async fn prove(&mut self, wanted: &Wanted) -> Result<Proven, Refused> {
        let rules = Arc::clone(&self.rules);
        let origin = match self.address {
            Address::Tcp(address) => Origin::Tcp { address: address.ip(), tls: self.is_tls() },
            Address::Unix(_) => Origin::Unix,
        };
        // A connection to a database that streams its changes is one to this database, for Postgres too.
        let replication = wanted.replication == Replication::Physical;
        let database = self.router.base_of(&rules, &wanted.database);
        let attempt = Attempt { origin, database, user: &wanted.user, replication };
        let demand = rules.demand(&attempt).map_err(|refusal| {
            fatal(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, refusal.to_string())
        })?;
        let mut found = None;
        let asks_nothing = demand.method == Method::Reject
            || rules.settings.auth_type == crate::settings::AuthType::Any;
        if !asks_nothing && rules.secret(&wanted.user).is_none() {
            found = lookup::secret(self.router, database, &wanted.user).await?;
        }
        let exchange = match demand.method {
            Method::Trust => {
                let settings = &rules.settings;
                let any = settings.auth_type == crate::settings::AuthType::Any
                    || settings.trust_unknown_users;
                if any || rules.knows_user(&wanted.user) || found.is_some() {
                    return Ok(Proven { found, keys: None });
                }
                return Err(fatal(
                    SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
                    format!("no such user: \"{}\"", wanted.user),
                ));
            }
            Method::Password => Exchange::Clear,
            Method::Md5 => Exchange::Md5,
            Method::ScramSha256 => Exchange::Scram,
            Method::Cert | Method::Peer | Method::Reject => {
                let proven = self.proven_name(demand.method);
                if proven.is_some_and(|name| demand.permits(&name, &wanted.user)) {
                    return Ok(Proven { found, keys: None });
                }
                return Err(fatal(
                    SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
                    format!("authentication failed for user \"{}\"", wanted.user),
                ));
            }
        };
        let mut auth = ClientAuth {
            stream: self.stream.as_ref().expect("the TLS handshake is over"),
            user: &wanted.user,
            known: rules.secret(&wanted.user).or(found.as_ref()).map(Known::of),
            cache: &self.router.keys,
            iterations: rules.settings.scram_iterations,
            end_point: self.stream().tls().and_then(|tls| tls.end_point_hash()),
        };
        let keys = auth::authenticate(&mut auth, &mut self.handshake, exchange).await?;
        Ok(Proven { found, keys })
    }

    /// The name that the connection itself proves: of a certificate or a system user.
    fn proven_name(&self, method: Method) -> Option<String> {
        match method {
            Method::Cert => self.stream().peer_certificate()?.common_name,
            Method::Peer => {
                let uid = self.stream().stream().peer_credentials()?.uid;
                User::with_uid(uid).ok()?.map(|user| user.name)
            }
            _ => None,
        }
    }

    /// Tells the client that it is in, and makes a session of it.
    async fn welcome(
        &mut self,
        route: Rc<Route>,
        wanted: Wanted,
        place: Place,
    ) -> Result<Seat, Refused> {
        // Counted from here, so that its pool knows of it while it waits for the first server.
        let mut counted = Counted::new(&route);
        let seat = self.make_client(&route, wanted, place).await;
        counted.stays = seat.is_ok();
        seat
    }

    /// A connection that is passed through to a server of its own.
    async fn replicate(
        &mut self,
        route: Rc<Route>,
        wanted: Wanted,
        place: Place,
    ) -> Result<Seat, Refused> {
        self.await_resume(&route).await?;
        self.await_target(&route, Tell::Nothing).await?;
        let line = Connection {
            id: self.router.new_id(),
            user: wanted.user,
            database: wanted.database,
            connect_time_micros: clock::wall_micros(),
            ..Connection::default()
        };
        let client = self.stream();
        let asked = replication::Asked {
            kind: wanted.replication,
            parameters: wanted.parameters,
            long_key: wanted.version.has_long_cancel_keys(),
            line,
            place,
        };
        let session = replication::open(self.router, route, client, asked).await?;
        if let Some(rest) = std::mem::take(&mut self.handshake).into_rest() {
            self.stream().unrecv(rest);
        }
        Ok(Seat::Replication(session))
    }

    async fn make_client(
        &mut self,
        route: &Rc<Route>,
        wanted: Wanted,
        place: Place,
    ) -> Result<Seat, Refused> {
        let began = route.target_round();
        self.await_target(route, Tell::Notices).await?;
        await_welcome(route, began).await?;
        let Some(welcome) = route.welcome.borrow().clone() else { return Err(Refused::Silently) };
        let greeting = self.greeting(&welcome, &wanted)?;
        let index =
            self.router.clients.reserve().ok_or_else(|| {
                fatal(SqlState::TOO_MANY_CONNECTIONS, "no more connections allowed")
            })?;
        let mut cancel_key = [0; CANCEL_KEY_BYTES];
        runtime::random::fill(&mut cancel_key);
        self.let_in();
        self.stream().queue(&greeting.messages);
        let mut out = Vec::new();
        let long_key = wanted.version.has_long_cancel_keys();
        let key = if long_key { &cancel_key[..] } else { &cancel_key[..4] };
        write::backend_key_data(&mut out, registry::process_id(self.router.core, index), key);
        let notice = &self.rules.settings.login_notify_message;
        if !notice.is_empty() {
            Report::notice(notice.clone()).write(&mut out);
        }
        write::ready_for_query(&mut out, TransactionStatus::Idle);
        self.stream().queue(&out);
        if let Some(rest) = std::mem::take(&mut self.handshake).into_rest() {
            self.stream().unrecv(rest);
        }
        if self.rules.settings.log_connections {
            tracing::info!(
                address = %self.address, user = wanted.user, database = wanted.database,
                "client logged in"
            );
        }
        route.stats.count(|counters| counters.client_login_count += 1);
        Ok(Seat::Client(Box::new(Parts {
            index,
            id: self.router.new_id(),
            cancel_key,
            long_key,
            route: Rc::clone(route),
            user: wanted.user.as_str().into(),
            parameters: Rc::clone(&greeting.parameters),
            place,
        })))
    }

    /// Says that the proof was good; before that clients expect nothing but demands and errors.
    fn let_in(&mut self) {
        if !self.is_let_in {
            self.is_let_in = true;
            let mut out = Vec::new();
            write::authentication(&mut out, Authentication::Ok);
            self.stream().queue(&out);
        }
    }

    /// Waits until it is known where the target's server is.
    async fn await_target(&mut self, route: &Rc<Route>, tell: Tell) -> Result<(), Refused> {
        let mut told = tell == Tell::Nothing;
        let began = route.target_round();
        if route.has_address() {
            return Ok(());
        }
        let _aside = Aside::step(self.router, self.waking);
        let outcome = loop {
            match route.target_step(began, told).await {
                Step::Known => break Ok(()),
                Step::Refused(report) => break Err(Refused::Told(report)),
                Step::Notice(text) => {
                    told = true;
                    self.let_in();
                    let mut out = Vec::new();
                    Report::notice(text).write(&mut out);
                    self.stream().queue(&out);
                }
            }
        };
        self.router.until(|router| !router.is_suspended()).await;
        outcome
    }

    /// Waits while the database is paused, as other clients wait for a server.
    async fn await_resume(&self, route: &Rc<Route>) -> Result<(), Refused> {
        if !route.pool.paused.get() {
            return Ok(());
        }
        let _aside = Aside::step(self.router, self.waking);
        let limit = or_forever(self.rules.settings.query_wait_timeout);
        let waits = |router: &Router| route.pool.paused.get() || router.is_suspended();
        let resumed = self.router.until(|router| !waits(router) || router.is_finishing());
        let waited = clock::timeout(limit, resumed).await;
        if waited.is_ok() && !self.router.is_finishing() {
            return Ok(());
        }
        Err(fatal(SqlState::CANNOT_CONNECT_NOW, "the database is paused"))
    }

    /// What the client is told of its session. Clients that come one after the other mostly ask for the same.
    fn greeting(&self, welcome: &Welcome, wanted: &Wanted) -> Result<Rc<Greeting>, Refused> {
        // Where the client's address goes into a value, no two are the same.
        let shared = !self.rules.settings.application_name_add_host;
        let same = |recent: &&Rc<Greeting>| recent.asked == wanted.parameters;
        if shared && let Some(recent) = welcome.recent.borrow().as_ref().filter(same) {
            return Ok(Rc::clone(recent));
        }
        let parameters = self.parameters(welcome, wanted)?;
        let mut messages = Vec::new();
        for (name, value) in &welcome.parameters {
            let own = parameters.get(name);
            write::parameter_status(&mut messages, &**name, own.map_or(&**value, |own| own));
        }
        let greeting = Rc::new(Greeting { asked: wanted.parameters.clone(), parameters, messages });
        welcome.recent.replace(shared.then(|| Rc::clone(&greeting)));
        Ok(greeting)
    }

    /// The parameters of the new session: the server's, changed as the client asks.
    fn parameters(&self, welcome: &Welcome, wanted: &Wanted) -> Result<Rc<ParameterSet>, Refused> {
        let sets = &self.router.per_core.parameters;
        let tracked = self.router.per_core.tracked.borrow();
        let mut set = Rc::clone(&welcome.tracked);
        for (name, value) in &wanted.parameters {
            let value = parameters::clean_value(value.as_bytes()).ok_or_else(|| {
                fatal(
                    SqlState::INVALID_PARAMETER_VALUE,
                    format!("value of startup parameter \"{name}\" is too long"),
                )
            })?;
            let value = if self.rules.settings.application_name_add_host
                && name.eq_ignore_ascii_case("application_name")
            {
                format!("{value} - {}", self.address)
            } else {
                value
            };
            let name = tracked.name(name).cloned().unwrap_or_else(|| name.as_str().into());
            set = sets.with(&set, &name, Some(&value));
        }
        Ok(set)
    }

    /// A session of the console.
    async fn console(&mut self, wanted: Wanted) -> Result<Seat, Refused> {
        let right = self.rules.console_right(&wanted.user);
        let same_user = self.is_own_user();
        if !same_user {
            self.prove(&wanted).await?;
        }
        let right = right.or(same_user.then_some(ConsoleRight::Admin)).ok_or_else(|| {
            fatal(SqlState::INSUFFICIENT_PRIVILEGE, "not allowed to connect to the console")
        })?;
        let mut out = Vec::new();
        write::authentication(&mut out, Authentication::Ok);
        for (name, value) in WELCOME_PARAMETERS {
            write::parameter_status(&mut out, name, value);
        }
        let index =
            self.router.clients.reserve().ok_or_else(|| {
                fatal(SqlState::TOO_MANY_CONNECTIONS, "no more connections allowed")
            })?;
        let mut key = [0; CANCEL_KEY_BYTES];
        runtime::random::fill(&mut key);
        let key = if wanted.version.has_long_cancel_keys() { &key[..] } else { &key[..4] };
        write::backend_key_data(&mut out, registry::process_id(self.router.core, index), key);
        write::ready_for_query(&mut out, TransactionStatus::Idle);
        self.stream().queue(&out);
        if let Some(rest) = std::mem::take(&mut self.handshake).into_rest() {
            self.stream().unrecv(rest);
        }
        let console = Console::new(&wanted.user, right);
        let is_name = |(name, _): &&(String, String)| name.eq_ignore_ascii_case("application_name");
        let application_name = wanted.parameters.iter().find(is_name);
        let mut line = Connection {
            id: self.router.new_id(),
            user: wanted.user.clone(),
            database: wanted.database.clone(),
            connect_time_micros: clock::wall_micros(),
            application_name: application_name.map(|(_, value)| value.clone()).unwrap_or_default(),
            ..Connection::default()
        };
        crate::orders::describe(&mut line, self.stream());
        Ok(Seat::Console(Administrator::new(index, key, line), console))
    }

    /// PgBouncer lets whoever runs the pooler into its console without a password, by unix socket.
    fn is_own_user(&self) -> bool {
        self.stream()
            .stream()
            .peer_credentials()
            .is_some_and(|peer| peer.uid == self.router.own_uid)
    }
}

/// A client of the route's, unless its log-in ends before it is one.
struct Counted<'a> {
    route: &'a Route,
    stays: bool,
}

impl Counted<'_> {
    fn new(route: &Route) -> Counted<'_> {
        route.clients.set(route.clients.get() + 1);
        Counted { route, stays: false }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if !self.stays {
            self.route.clients.set(self.route.clients.get() - 1);
            self.route.expect(self.route.forget_after());
        }
    }
}

/// A log-in that waits for us, however long: its time does not count, and nobody waits for its end.
struct Aside<'a> {
    router: &'a Router,
    waking: &'a Cell<bool>,
}

impl<'a> Aside<'a> {
    fn step(router: &'a Router, waking: &'a Cell<bool>) -> Aside<'a> {
        waking.set(true);
        router.logins.set(router.logins.get() - 1);
        Aside { router, waking }
    }
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        self.router.logins.set(self.router.logins.get() + 1);
        self.waking.set(false);
    }
}

/// Whether a client can be told why it waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tell {
    Notices,
    Nothing,
}

/// Waits until a server of the route has said what clients are to be told. `began`: see [`Route::target_round`].
async fn await_welcome(route: &Rc<Route>, began: u64) -> Result<(), Refused> {
    if route.welcome.borrow().is_some() {
        return Ok(());
    }
    let waiting = &route.pool.logins_waiting;
    waiting.set(waiting.get() + 1);
    let _left = OnDrop(|| waiting.set(waiting.get() - 1));
    route.open_if_needed();
    route.expect(Some(Duration::from_millis(STARVED_MS)));
    poll_fn(|cx| {
        if route.welcome.borrow().is_some() {
            return Poll::Ready(Ok(()));
        }
        if let Some(report) = route.recent_failure().or_else(|| route.target_refusal(began)) {
            return Poll::Ready(Err(Refused::Told(report)));
        }
        route.pool.logins.borrow_mut().push(cx.waker().clone());
        Poll::Pending
    })
    .await
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
