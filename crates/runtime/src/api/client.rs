//! Asks another process's API: one request on one connection, plain HTTP, with a bound on time and answer.

use std::fmt;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONNECTION, HOST};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Token;
use crate::bridge::Bridge;
use crate::limits::{API_ANSWER_BYTES_MAX, API_REQUEST_WAIT};

/// Longer than the server's own limit, so that its answer about that is the one to be seen.
const WAIT: Duration = Duration::from_secs(API_REQUEST_WAIT.as_secs() + 5);

/// What to ask, and whom.
#[derive(Debug, Clone)]
pub struct Call {
    /// `host:port`.
    pub address: String,
    /// `GET`, `POST`.
    pub method: &'static str,
    /// The path with its query.
    pub path: String,
    pub token: Option<Token>,
    /// How long it may take; `None`: as long as the API lets any request take.
    pub wait: Option<Duration>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum CallError {
    /// Nobody listens there, or not somebody who speaks HTTP and JSON.
    Unreachable { address: String, reason: String },
    /// It took too long.
    Timeout { address: String },
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { address, reason } => {
                write!(f, "could not ask the API at {address}: {reason}")
            }
            Self::Timeout { address } => write!(f, "the API at {address} does not answer in time"),
        }
    }
}

impl std::error::Error for CallError {}

impl Call {
    /// Asks, from a core. Returns the HTTP status and the JSON of the answer.
    ///
    /// # Errors
    /// [`CallError`] when there is no answer; an answer that is an error is one.
    pub async fn send(self, bridge: &Bridge) -> Result<(u16, Value), CallError> {
        let address = self.address.clone();
        let unreachable =
            |reason: String| CallError::Unreachable { address: address.clone(), reason };
        let wait = self.wait.unwrap_or(WAIT);
        let asked = bridge.run(async move { timeout(wait, exchange(&self)).await });
        match asked.await {
            Ok(Ok(answer)) => answer.map_err(|error| unreachable(error.to_string())),
            Ok(Err(_elapsed)) => Err(CallError::Timeout { address }),
            Err(dropped) => Err(unreachable(dropped.to_string())),
        }
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(call: &Call) -> Result<(u16, Value), AnyError> {
    let stream = TcpStream::connect(&call.address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the answer, and its errors reach us through the answer.
    drop(tokio::spawn(connection));
    let mut request = hyper::Request::builder()
        .method(call.method)
        .uri(&call.path)
        .header(HOST, &call.address)
        .header(CONNECTION, "close");
    if let Some(token) = &call.token {
        request = request.header(AUTHORIZATION, token.header());
    }
    let response = sender.send_request(request.body(Full::<Bytes>::default())?).await?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), API_ANSWER_BYTES_MAX).collect().await?;
    Ok((status, serde_json::from_slice(&body.to_bytes())?))
}
