//! From HTTP requests to answers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Query, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, ORIGIN,
    WWW_AUTHENTICATE,
};
use axum::http::{Method, StatusCode, Uri};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::connection::Bounded;
use super::token::Token;
use super::{ApiOptions, ApiState, Request, Response};
use crate::limits::API_NODES_WAIT;
use crate::mailbox::{self, Full};
use crate::metrics::Samples;
use crate::nodepool::{NodeReport, Phase};

type HttpRequest = axum::http::Request<Body>;
type HttpResponse = axum::http::Response<Body>;

struct Service {
    state: ApiState,
    token: Option<Token>,
    request_wait: Duration,
    body_bytes_max: usize,
}

/// Serves until `stopped` is dropped, then until the requests under way are answered.
pub(super) async fn serve(
    listener: TcpListener,
    options: ApiOptions,
    state: ApiState,
    stopped: tokio::sync::oneshot::Receiver<()>,
) {
    let ApiOptions { token, tls, request_wait, body_bytes_max, address: _ } = options;
    let service = Arc::new(Service { state, token, request_wait, body_bytes_max });
    let router = Router::new().fallback(answer).with_state(service);
    let stopped = async {
        stopped.await.ok();
    };
    let served = axum::serve(Bounded::new(listener, tls), router).with_graceful_shutdown(stopped);
    if let Err(error) = served.await {
        tracing::error!(target: "runtime", %error, "the API has stopped");
    }
}

async fn answer(State(service): State<Arc<Service>>, request: HttpRequest) -> HttpResponse {
    let wait = service.request_wait;
    match timeout(wait, service.route(request)).await {
        Ok(response) => response,
        Err(_elapsed) => json_response(
            Response::error(504, "timeout", "the request took too long")
                .detail(format_args!("the limit is {} seconds", wait.as_secs_f64())),
        ),
    }
}

impl Service {
    async fn route(&self, request: HttpRequest) -> HttpResponse {
        let known = matches!(request.uri().path(), "/healthz" | "/metrics" | "/v1/nodes");
        if let Some(refused) = self.refuse(request.uri(), request.headers()) {
            return refused;
        }
        if known && !matches!(*request.method(), Method::GET | Method::HEAD) {
            return json_response(Response::error(
                405,
                "method_not_allowed",
                "this resource can only be read",
            ));
        }
        match request.uri().path() {
            "/healthz" => json_response(self.health()),
            "/metrics" => self.metrics().await,
            "/v1/nodes" => json_response(self.nodes().await),
            _ => json_response(match self.forward(request).await {
                Ok(response) | Err(response) => response,
            }),
        }
    }

    /// The answer to somebody who may not ask.
    fn refuse(&self, uri: &Uri, headers: &HeaderMap) -> Option<HttpResponse> {
        let Some(token) = &self.token else {
            let foreign = headers.contains_key(ORIGIN)
                || headers.get(HOST).is_some_and(|host| !is_literal_or_local(host));
            return foreign.then(|| {
                json_response(
                    Response::error(403, "forbidden", "requests from web pages are refused")
                        .hint("use \"localhost\" or an address, or configure an API token"),
                )
            });
        };
        if uri.path() == "/healthz" {
            return None;
        }
        let presented = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.as_bytes().split_first_chunk::<7>())
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer "))
            .map(|(_, presented)| presented.trim_ascii());
        if presented.is_some_and(|presented| token.is(presented)) {
            return None;
        }
        let message = match presented {
            Some(_) => "the API token is wrong",
            None => "an API token is required",
        };
        let mut response = json_response(Response::error(401, "unauthorized", message));
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        Some(response)
    }

    fn health(&self) -> Response {
        match self.state.control.phase() {
            Phase::Running => Response::ok(json!({"status": "ok"})),
            phase => Response { status: 503, body: json!({"status": phase.to_string()}) },
        }
    }

    async fn node_reports(&self) -> Vec<NodeReport> {
        // A core that does not answer must not hide the others from whoever looks for it, but asking is all or nothing.
        timeout(API_NODES_WAIT, self.state.control.nodes()).await.unwrap_or_default()
    }

    async fn nodes(&self) -> Response {
        let nodes = self.node_reports().await;
        let phase = self.state.control.phase().to_string();
        Response::ok(json!({"phase": phase, "nodes": nodes}))
    }

    async fn metrics(&self) -> HttpResponse {
        self.refresh_metrics().await;
        let mut samples = Samples::default();
        for report in self.node_reports().await {
            sample_node(&mut samples, &report);
        }
        let text = self.state.registry.encode_with(samples);
        let mut response = HttpResponse::new(Body::from(text));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OPENMETRICS));
        response
    }

    /// Lets the handler bring up to date what it counts elsewhere. What it does not, shows what it was.
    async fn refresh_metrics(&self) {
        let (reply, pending) = mailbox::oneshot();
        let request = Request {
            method: Method::GET.to_string(),
            path: "/metrics".to_owned(),
            query: Vec::new(),
            body: None,
            reply,
        };
        if self.state.handler.try_send(request).is_ok() {
            let _answered_or_not = timeout(API_NODES_WAIT, pending).await;
        }
    }

    /// Lets the handler answer.
    async fn forward(&self, request: HttpRequest) -> Result<Response, Response> {
        let (head, body) = request.into_parts();
        let query = Query::<Vec<(String, String)>>::try_from_uri(&head.uri).map_err(|error| {
            Response::error(400, "bad_query", "the query is malformed").detail(error)
        })?;
        let body = to_bytes(body, self.body_bytes_max).await.map_err(|error| {
            // Too long, or the caller went away, who will not see this.
            let limit = self.body_bytes_max;
            Response::error(413, "body_too_large", "the body could not be read")
                .detail(format_args!("{error}; the limit is {limit} bytes"))
        })?;
        let body: Option<Value> = if body.is_empty() {
            None
        } else {
            let parsed = serde_json::from_slice(&body).map_err(|error| {
                Response::error(400, "bad_body", "the body is not JSON").detail(error)
            })?;
            Some(parsed)
        };
        let (reply, pending) = mailbox::oneshot();
        let request = Request {
            method: head.method.to_string(),
            path: head.uri.path().to_owned(),
            query: query.0,
            body,
            reply,
        };
        let handler = &self.state.handler;
        handler.try_send(request).map_err(|Full(_request)| {
            if handler.is_closed() {
                Response::error(503, "stopping", "the service is stopping")
            } else {
                Response::error(503, "busy", "too many requests are waiting")
                    .hint("try again later")
            }
        })?;
        pending
            .await
            .map_err(|_dropped| Response::error(503, "no_answer", "the service gave no answer"))
    }
}

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

fn json_response(response: Response) -> HttpResponse {
    let mut http = HttpResponse::new(Body::from(response.body.to_string()));
    *http.status_mut() =
        StatusCode::from_u16(response.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    http.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    http.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    http
}

/// Whether a Host header cannot be a name that somebody else's name server made point here.
fn is_literal_or_local(host: &HeaderValue) -> bool {
    let Ok(host) = host.to_str() else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(address, _port)| address),
        None => host.split_once(':').map_or(host, |(name, _port)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[expect(clippy::cast_precision_loss, reason = "a metric may lose digits beyond 2^53")]
fn sample_node(samples: &mut Samples, report: &NodeReport) {
    let node = report.node.to_string();
    let labels = [("node", node.as_str()), ("backend", report.backend.as_str())];
    samples.gauge("core_tasks", "Tasks alive on a core", &labels, report.tasks as f64);
    samples.counter("core_turns", "Turns of a core's loop", &labels, report.turns as f64);
    samples.counter("core_polls", "Times a core ran a task", &labels, report.polls as f64);
    let help = "Times a core had nothing to do and waited in the kernel";
    samples.counter("core_parks", help, &labels, report.parks as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_hosts_without_a_token() {
        for (host, expected) in [
            ("localhost", true),
            ("LOCALHOST:6480", true),
            ("127.0.0.1:6480", true),
            ("[::1]:6480", true),
            ("[::1]", true),
            ("evil.example.org", false),
            ("evil.example.org:6480", false),
            ("127.0.0.1.evil.example.org", false),
            ("localhost.evil.example.org", false),
            ("[", false),
            ("", false),
        ] {
            let value = HeaderValue::from_str(host).unwrap();
            assert_eq!(is_literal_or_local(&value), expected, "{host}");
        }
    }
}
