//! Proof of identity, both ways: what clients must show us, and what we show servers.
//!
//! No password or secret is logged, or part of an error. A user whom we do not know is asked for a
//! password like any other, and refused in the same words.

use std::borrow::Borrow;
use std::cell::RefCell;
use std::collections::BTreeMap;

use pg::auth::md5::Stored;
use pg::auth::sasl::{self, ClientBinding};
use pg::auth::scram::{self, Keys, ServerBinding};
use pg::sqlstate::SqlState;
use pg::wire::backend::{Authentication, write};
use pg::wire::error::Report;
use pg::wire::frontend::{self, SaslInitial};
use runtime::tls::Transport;

use crate::handshake::{Handshake, HandshakeError, Message};
use crate::limits::REMEMBERED_MAX;
use crate::route::RouteKey;
use crate::settings::Secret;

/// What a stored secret is.
pub(crate) enum Known {
    Plain(String),
    Md5(Stored),
    Scram(scram::Secret),
}

impl Known {
    pub(crate) fn of(secret: &Secret) -> Known {
        let text = secret.expose();
        if let Ok(secret) = text.parse() {
            return Known::Scram(secret);
        }
        Stored::parse(text).map_or_else(|| Known::Plain(text.to_owned()), Known::Md5)
    }
}

/// PBKDF2 results of one core: log-ins of the same user cost it once.
#[derive(Default)]
pub(crate) struct KeyCache {
    /// For plain passwords, each with the one it was made of: towards clients.
    verifiers: RefCell<BTreeMap<String, (Secret, Keys)>>,
    /// By database and server user: what a client's log-in proved, or what a server's salt made of a
    /// password. Databases may be of different servers, where the same name is another role.
    servers: RefCell<BTreeMap<RouteKey, Keys>>,
    /// What `auth_query` said of users who then proved themselves.
    found: RefCell<BTreeMap<RouteKey, Secret>>,
    /// Makes mock salts the same each time.
    nonce: [u8; 16],
}

impl KeyCache {
    pub(crate) fn new() -> KeyCache {
        let mut nonce = [0; 16];
        runtime::random::fill(&mut nonce);
        KeyCache { nonce, ..KeyCache::default() }
    }

    /// Forgets what new rules may contradict. What log-ins proved stays: clients that are there may
    /// need servers before anybody logs in again.
    pub(crate) fn clear(&self) {
        self.verifiers.borrow_mut().clear();
    }

    /// What the user proved to know, for logging in to servers as this user.
    pub(crate) fn learn(&self, route: &RouteKey, keys: Keys) {
        remember(&mut self.servers.borrow_mut(), route, keys);
    }

    pub(crate) fn for_server(&self, route: &RouteKey) -> Option<Keys> {
        self.servers.borrow().get(route).cloned()
    }

    /// What `auth_query` said of a user who has proved it, for the same purpose.
    pub(crate) fn learn_found(&self, route: &RouteKey, secret: Secret) {
        remember(&mut self.found.borrow_mut(), route, secret);
    }

    pub(crate) fn found(&self, route: &RouteKey) -> Option<Secret> {
        self.found.borrow().get(route).cloned()
    }

    fn verifier(&self, user: &str, password: &str, iterations: u32) -> scram::Secret {
        // What `auth_query` says may be another password each time, or in each database.
        if let Some((known, keys)) = self.verifiers.borrow().get(user)
            && pg::auth::equal(known.expose().as_bytes(), password.as_bytes())
        {
            return keys.secret();
        }
        let mut salt = [0; scram::SALT_BYTES];
        runtime::random::fill(&mut salt);
        let keys = Keys::of(password.as_bytes(), &salt, iterations.max(1));
        let secret = keys.secret();
        let made = (Secret::new(password), keys);
        remember(&mut self.verifiers.borrow_mut(), user, made);
        secret
    }
}

fn remember<K: Ord + Borrow<Q>, Q: Ord + ToOwned<Owned = K> + ?Sized, T>(
    map: &mut BTreeMap<K, T>,
    key: &Q,
    value: T,
) {
    if map.len() >= REMEMBERED_MAX && !map.contains_key(key) {
        map.pop_first();
    }
    map.insert(key.to_owned(), value);
}

/// A password method that a client must pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exchange {
    Clear,
    Md5,
    Scram,
}

/// One client's log-in.
pub(crate) struct ClientAuth<'a> {
    pub(crate) stream: &'a Transport,
    pub(crate) user: &'a str,
    /// `None`: we do not know the user.
    pub(crate) known: Option<Known>,
    pub(crate) cache: &'a KeyCache,
    pub(crate) iterations: u32,
    /// Hash of our certificate, over TLS.
    pub(crate) end_point: Option<Vec<u8>>,
}

fn failed(user: &str) -> Report {
    Report::fatal(
        SqlState::INVALID_PASSWORD,
        format!("password authentication failed for user \"{user}\""),
    )
}

/// Asks a client for its proof. SCRAM yields the keys that log in elsewhere as this user.
pub(crate) async fn authenticate(
    auth: &mut ClientAuth<'_>,
    handshake: &mut Handshake,
    exchange: Exchange,
) -> Result<Option<Keys>, Report> {
    match exchange {
        Exchange::Clear => clear(auth, handshake).await.map(|()| None),
        // What is stored as SCRAM cannot be checked by md5; Postgres does the same.
        Exchange::Md5 if !matches!(auth.known, Some(Known::Scram(_))) => {
            md5(auth, handshake).await.map(|()| None)
        }
        Exchange::Md5 | Exchange::Scram => scram(auth, handshake).await.map(Some),
    }
}

async fn demand(
    auth: &ClientAuth<'_>,
    handshake: &mut Handshake,
    ask: impl FnOnce(&mut Vec<u8>),
) -> Result<Message, Report> {
    let mut out = Vec::new();
    ask(&mut out);
    auth.stream.queue(&out);
    let message = handshake.message(auth.stream).await.map_err(|error| {
        let sqlstate = match error {
            HandshakeError::Malformed => SqlState::PROTOCOL_VIOLATION,
            HandshakeError::Io(_) | HandshakeError::Closed => SqlState::CONNECTION_FAILURE,
        };
        Report::fatal(sqlstate, format!("log-in broken off: {error}"))
    })?;
    if message.kind == frontend::kind::PASSWORD {
        return Ok(message);
    }
    Err(Report::fatal(
        SqlState::PROTOCOL_VIOLATION,
        format!("expected password response, got message type {}", message.kind),
    ))
}

fn malformed(error: impl std::fmt::Display) -> Report {
    Report::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string())
}

async fn clear(auth: &mut ClientAuth<'_>, handshake: &mut Handshake) -> Result<(), Report> {
    let message = demand(auth, handshake, |out| {
        write::authentication(out, Authentication::CleartextPassword);
    })
    .await?;
    let given = frontend::password(&message.body).map_err(malformed)?;
    let right = match &auth.known {
        None => false,
        Some(Known::Plain(password)) => {
            !password.is_empty() && pg::auth::equal(password.as_bytes(), given)
        }
        Some(Known::Md5(stored)) => Stored::of(given, auth.user.as_bytes()) == *stored,
        Some(Known::Scram(secret)) => secret.verify_clear(given),
    };
    if right { Ok(()) } else { Err(failed(auth.user)) }
}

async fn md5(auth: &mut ClientAuth<'_>, handshake: &mut Handshake) -> Result<(), Report> {
    let mut salt = [0; 4];
    runtime::random::fill(&mut salt);
    let message = demand(auth, handshake, |out| {
        write::authentication(out, Authentication::Md5Password { salt });
    })
    .await?;
    let given = frontend::password(&message.body).map_err(malformed)?;
    let right = match &auth.known {
        Some(Known::Plain(password)) if !password.is_empty() => {
            Stored::of(password.as_bytes(), auth.user.as_bytes()).verify(salt, given)
        }
        Some(Known::Md5(stored)) => stored.verify(salt, given),
        _ => false,
    };
    if right { Ok(()) } else { Err(failed(auth.user)) }
}

async fn scram(auth: &mut ClientAuth<'_>, handshake: &mut Handshake) -> Result<Keys, Report> {
    let mut nonce = [0; scram::NONCE_BYTES];
    runtime::random::fill(&mut nonce);
    let binding = match &auth.end_point {
        Some(hash) => ServerBinding::EndPoint(hash.clone()),
        None => ServerBinding::None,
    };
    let secret = match &auth.known {
        Some(Known::Scram(secret)) => Some(secret.clone()),
        Some(Known::Plain(password)) if !password.is_empty() => {
            Some(auth.cache.verifier(auth.user, password, auth.iterations))
        }
        _ => None,
    };
    let mut server = match secret {
        Some(secret) => scram::Server::new(secret, binding, nonce),
        None => scram::Server::mock(auth.user.as_bytes(), &auth.cache.nonce, binding, nonce),
    };
    let refuse = |error: scram::ScramError| {
        if error == scram::ScramError::WrongPassword {
            return failed(auth.user);
        }
        let report = Report::fatal(error.sqlstate(), error.to_string());
        error.detail().map_or(report.clone(), |detail| report.with_detail(detail))
    };
    let offer = sasl::offer(auth.end_point.is_some());
    let message = demand(auth, handshake, |out| write::sasl(out, offer)).await?;
    let initial = SaslInitial::read(&message.body).map_err(malformed)?;
    let first = match initial.data {
        Some(data) => data.to_vec(),
        None => {
            demand(auth, handshake, |out| {
                write::authentication(out, Authentication::SaslContinue(b""));
            })
            .await?
            .body
        }
    };
    let challenge = server.on_client_first(initial.mechanism, &first).map_err(refuse)?;
    let message = demand(auth, handshake, |out| {
        write::authentication(out, Authentication::SaslContinue(challenge.as_bytes()));
    })
    .await?;
    let accepted =
        server.on_client_final(frontend::sasl_response(&message.body)).map_err(refuse)?;
    let mut out = Vec::new();
    write::authentication(&mut out, Authentication::SaslFinal(accepted.server_final.as_bytes()));
    auth.stream.queue(&out);
    Ok(accepted.keys)
}

/// Our log-in with one server.
pub(crate) struct ServerAuth {
    pub(crate) user: String,
    pub(crate) known: Option<Known>,
    /// From an earlier log-in, ours or the client's.
    pub(crate) keys: Option<Keys>,
    /// Hash of the server's certificate, over TLS.
    pub(crate) end_point: Option<Vec<u8>>,
    scram: Option<scram::Client>,
    proven: bool,
}

impl ServerAuth {
    pub(crate) fn new(
        user: String,
        known: Option<Known>,
        keys: Option<Keys>,
        end_point: Option<Vec<u8>>,
    ) -> ServerAuth {
        ServerAuth { user, known, keys, end_point, scram: None, proven: false }
    }

    /// The answer to a server's demand; `None` if it wants none.
    pub(crate) fn answer(&mut self, demand: Authentication<'_>) -> Result<Option<Vec<u8>>, Report> {
        let mut out = Vec::new();
        match demand {
            Authentication::Ok if self.scram.is_some() && !self.proven => {
                return Err(refusal("server skipped the end of SCRAM authentication"));
            }
            Authentication::Ok => return Ok(None),
            Authentication::CleartextPassword => match &self.known {
                Some(Known::Plain(password)) => frontend::write::password(&mut out, password),
                _ => return Err(self.cannot("password")),
            },
            Authentication::Md5Password { salt } => {
                let stored = match &self.known {
                    Some(Known::Plain(password)) => {
                        Stored::of(password.as_bytes(), self.user.as_bytes())
                    }
                    Some(Known::Md5(stored)) => *stored,
                    _ => return Err(self.cannot("md5")),
                };
                frontend::write::password(&mut out, stored.response(salt));
            }
            Authentication::Sasl(mechanisms) => {
                let names = mechanisms.names();
                let binding = ClientBinding::choose(names, self.end_point.take())
                    .ok_or_else(|| refusal("server offers no SASL mechanism that we know"))?;
                let mut client =
                    scram::Client::new(self.scram_credentials()?, binding, random_nonce());
                let first = client.first().map_err(scram_failed)?;
                frontend::write::sasl_initial(&mut out, client.mechanism(), Some(first.as_bytes()));
                self.scram = Some(client);
            }
            Authentication::SaslContinue(data) => {
                let answer = self.exchange()?.on_server_first(data).map_err(scram_failed)?;
                frontend::write::sasl_response(&mut out, answer.as_bytes());
            }
            Authentication::SaslFinal(data) => {
                self.exchange()?.on_server_final(data).map_err(scram_failed)?;
                self.proven = true;
                return Ok(None);
            }
            _ => return Err(refusal("server wants an authentication method that we do not know")),
        }
        Ok(Some(out))
    }

    /// The keys to keep for the next log-in.
    pub(crate) fn into_keys(self) -> Option<Keys> {
        self.scram.and_then(|client| client.into_keys())
    }

    fn exchange(&mut self) -> Result<&mut scram::Client, Report> {
        self.scram.as_mut().ok_or_else(|| refusal("server sent a SASL message out of turn"))
    }

    fn scram_credentials(&mut self) -> Result<scram::client::Credentials, Report> {
        match (&self.known, self.keys.take()) {
            (Some(Known::Plain(password)), cached) => {
                let password = password.clone().into_bytes();
                Ok(scram::client::Credentials::Password { password, cached })
            }
            (_, Some(keys)) => Ok(scram::client::Credentials::Keys(keys)),
            (_, None) => Err(self.cannot("SCRAM")),
        }
    }

    fn cannot(&self, method: &str) -> Report {
        refusal(format!(
            "server wants {method} authentication for user \"{}\" and nothing suitable is known",
            self.user
        ))
    }
}

fn random_nonce() -> [u8; scram::NONCE_BYTES] {
    let mut nonce = [0; scram::NONCE_BYTES];
    runtime::random::fill(&mut nonce);
    nonce
}

fn refusal(message: impl Into<std::borrow::Cow<'static, str>>) -> Report {
    Report::fatal(SqlState::SQLSERVER_REJECTED_ESTABLISHMENT_OF_SQLCONNECTION, message)
}

fn scram_failed(error: scram::ScramError) -> Report {
    refusal(format!("log-in to the server failed: {error}"))
}
