//! The JSON-over-HTTP API of the process: health, metrics, the state of the cores; everything else goes to a handler.
//!
//! It runs on the side runtime (axum), so nothing here is on a hot path. Invariants:
//! 1. Off loopback it listens only with TLS and a bearer token.
//! 2. An error is always JSON: `{"error": {"code", "message", "detail", "hint"}}`.
//! 3. Connections, requests, bodies and waits are bounded.
//! 4. Without a token a browser cannot be tricked into calling it: a foreign host name or origin is refused.

pub mod client;
mod connection;
mod service;
mod token;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

pub use token::Token;

use crate::bridge::Bridge;
use crate::clock;
use crate::limits::{API_BODY_BYTES_MAX, API_REQUEST_WAIT, API_STOP_WAIT};
use crate::mailbox::{Pending, Reply, Sender};
use crate::metrics::Registry;
use crate::nodepool::Control;
use crate::tls::ServerTls;

/// Where and how the API listens.
#[derive(Debug)]
pub struct ApiOptions {
    /// The address to listen on; port 0 picks one.
    pub address: SocketAddr,
    /// What callers must present, `Authorization: Bearer ...`, except for `/healthz`.
    pub token: Option<Token>,
    /// Serves HTTPS. The configuration's ALPN list, if any, must hold `http/1.1`.
    pub tls: Option<ServerTls>,
    /// How long a request may take, its body included.
    pub request_wait: Duration,
    /// Largest body.
    pub body_bytes_max: usize,
}

impl ApiOptions {
    /// Plain HTTP without a token, for loopback.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            token: None,
            tls: None,
            request_wait: API_REQUEST_WAIT,
            body_bytes_max: API_BODY_BYTES_MAX,
        }
    }
}

/// What the API shows and whom it asks.
#[derive(Debug, Clone)]
pub struct ApiState {
    /// For `/healthz` and `/v1/nodes`.
    pub control: Control,
    /// For `/metrics`.
    pub registry: Registry,
    /// Gets every other request.
    pub handler: Sender<Request>,
}

/// A request for the handler.
#[derive(Debug)]
pub struct Request {
    /// `GET`, `POST`, ...
    pub method: String,
    /// The path, `/v1/...`, as it was sent.
    pub path: String,
    /// The query's parameters in order, decoded.
    pub query: Vec<(String, String)>,
    /// The body, if there was one.
    pub body: Option<Value>,
    /// Takes the answer. The caller has gone when nobody waits for it.
    pub reply: Reply<Response>,
}

/// The handler's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// JSON body.
    pub body: Value,
}

impl Response {
    /// 200 with this body.
    #[must_use]
    pub fn ok(body: Value) -> Self {
        Self { status: 200, body }
    }

    /// An error. `code` is a word for programs, `message` a sentence for people, in PostgreSQL's style.
    #[must_use]
    pub fn error(status: u16, code: &str, message: impl fmt::Display) -> Self {
        let message = message.to_string();
        let body =
            json!({"error": {"code": code, "message": message, "detail": null, "hint": null}});
        Self { status, body }
    }

    /// Adds a detail to an error.
    #[must_use]
    pub fn detail(self, detail: impl fmt::Display) -> Self {
        self.with("detail", detail)
    }

    /// Adds a hint to an error.
    #[must_use]
    pub fn hint(self, hint: impl fmt::Display) -> Self {
        self.with("hint", hint)
    }

    fn with(mut self, key: &str, text: impl fmt::Display) -> Self {
        if let Some(error) = self.body.get_mut("error").and_then(Value::as_object_mut) {
            error.insert(key.to_owned(), text.to_string().into());
        }
        self
    }
}

/// Why the API does not listen.
#[derive(Debug)]
pub enum ApiError {
    /// The token file cannot be used.
    Token { path: PathBuf, reason: String },
    /// The address is reachable from elsewhere, and what protects it there is missing.
    Exposed { address: SocketAddr, missing: &'static str },
    /// The system refuses the address.
    Listen { address: SocketAddr, error: io::Error },
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token { path, reason } => {
                write!(f, "could not use API token file \"{}\": {reason}", path.display())
            }
            Self::Exposed { address, missing } => write!(
                f,
                "refusing to serve the API on {address}: off loopback it needs TLS and a token, {missing} is missing"
            ),
            Self::Listen { address, error } => {
                write!(f, "could not listen for the API on {address}: {error}")
            }
        }
    }
}

impl std::error::Error for ApiError {}

/// The listening API. Dropping it stops it without waiting.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    ended: Option<Pending<()>>,
}

impl ApiServer {
    /// Listens and serves on the bridge's thread.
    ///
    /// # Errors
    /// [`ApiError`] when it must not or cannot listen there.
    pub fn start(bridge: &Bridge, options: ApiOptions, state: ApiState) -> Result<Self, ApiError> {
        let address = options.address;
        if !address.ip().is_loopback() {
            let missing = match (&options.tls, &options.token) {
                (None, None) => Some("both"),
                (None, Some(_)) => Some("TLS"),
                (Some(_), None) => Some("the token"),
                (Some(_), Some(_)) => None,
            };
            if let Some(missing) = missing {
                return Err(ApiError::Exposed { address, missing });
            }
        }
        let listen = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            let _on_runtime = bridge.handle().enter();
            Ok((tokio::net::TcpListener::from_std(listener)?, address))
        };
        let (listener, address) = listen().map_err(|error| ApiError::Listen { address, error })?;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let ended = bridge.run(service::serve(listener, options, state, stopped));
        Ok(Self { address, stop: Some(stop), ended: Some(ended) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, lets requests under way end, and closes.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        if let Some(ended) = self.ended.take() {
            // In time or not, nobody is served any more after this.
            clock::timeout(API_STOP_WAIT, ended).await.ok();
        }
    }
}

#[cfg(test)]
mod tests;
