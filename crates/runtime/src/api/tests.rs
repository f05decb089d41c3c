//! The API over real sockets, spoken to in raw HTTP.

use std::future::Future;
use std::path::PathBuf;

use super::*;
use crate::executor::{block_on, spawn, spawn_detached};
use crate::io::Options;
use crate::mailbox::{self, Receiver};
use crate::net::{Address, Stream};
use crate::nodepool::Phase;
use crate::tls::test_certificates::{Authority, provider};
use crate::tls::{ClientTls, ClientTlsOptions, ServerTlsOptions, SslMode, Transport};

fn on_core<F: Future>(future: F) -> F::Output {
    block_on(&Options::default(), async {
        clock::timeout(Duration::from_secs(60), future).await.expect("no test takes a minute")
    })
    .unwrap()
}

/// A running API with its handler's mailbox.
struct Api {
    _bridge: Bridge,
    server: ApiServer,
    state: ApiState,
    requests: Option<Receiver<Request>>,
}

fn loopback() -> ApiOptions {
    ApiOptions::new("127.0.0.1:0".parse().unwrap())
}

impl Api {
    fn start(options: ApiOptions) -> Self {
        let (handler, requests) = mailbox::channel(1);
        let state = ApiState { control: Control::new(), registry: Registry::new(), handler };
        let bridge = Bridge::start().unwrap();
        let server = ApiServer::start(&bridge, options, state.clone()).unwrap();
        Self { _bridge: bridge, server, state, requests: Some(requests) }
    }

    async fn connect(&self) -> Stream {
        Stream::connect(&Address::Tcp(self.server.address())).await.unwrap()
    }

    /// Sends these lines and an empty one, and reads to the end.
    async fn ask(&self, head: &str) -> String {
        let stream = self.connect().await;
        talk(&Transport::Plain(stream), head, "").await
    }

    async fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost")).await
    }
}

async fn talk(transport: &Transport, head: &str, body: &str) -> String {
    let length = body.len();
    let request = format!("{head}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    transport.send(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    loop {
        let chunk = transport.recv().await.unwrap();
        if chunk.is_empty() {
            return String::from_utf8(answer).unwrap();
        }
        answer.extend_from_slice(&chunk);
    }
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap_or_else(|| panic!("no status in {answer:?}")).parse().unwrap()
}

fn body(answer: &str) -> Value {
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error} in {answer}"))
}

fn error_code(answer: &str) -> String {
    let body = body(answer);
    assert!(body["error"]["message"].is_string(), "{body}");
    assert!(body["error"].get("detail").is_some() && body["error"].get("hint").is_some());
    body["error"]["code"].as_str().unwrap().to_owned()
}

#[test]
fn health_follows_the_life_of_the_process() {
    on_core(async {
        let api = Api::start(loopback());
        for (phase, expected, word) in [
            (Phase::Starting, 503, "starting"),
            (Phase::Running, 200, "ok"),
            (Phase::Stopping, 503, "stopping"),
        ] {
            api.state.control.set_phase(phase);
            let answer = api.get("/healthz").await;
            assert_eq!(status(&answer), expected);
            assert_eq!(body(&answer), json!({"status": word}));
        }
        let head = "HEAD /healthz HTTP/1.1\r\nHost: 127.0.0.1";
        assert_eq!(status(&api.ask(head).await), 503);
        let answer = api.ask("POST /healthz HTTP/1.1\r\nHost: localhost").await;
        assert_eq!((status(&answer), error_code(&answer).as_str()), (405, "method_not_allowed"));
    });
}

#[test]
fn metrics_and_nodes_are_shown() {
    on_core(async {
        let api = Api::start(loopback());
        api.state.registry.counter("queries", "Queries seen", &[]).add(7);
        let answer = api.get("/metrics").await;
        assert_eq!(status(&answer), 200);
        assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"));
        assert!(answer.contains("\nhowdah_queries_total 7\n"), "{answer}");
        assert!(answer.ends_with("# EOF\n"), "{answer}");
        let answer = api.get("/v1/nodes").await;
        assert_eq!(body(&answer), json!({"phase": "starting", "nodes": []}));
    });
}

#[test]
fn other_requests_reach_the_handler_and_its_answer_comes_back() {
    on_core(async {
        let mut api = Api::start(loopback());
        let mut requests = api.requests.take().unwrap();
        spawn_detached(async move {
            while let Some(request) = requests.recv().await {
                let Request { method, path, query, body, reply } = request;
                let seen = json!({"method": method, "path": path, "query": query, "body": body});
                reply.send(Response { status: 201, body: seen }).unwrap();
            }
        });
        let transport = Transport::Plain(api.connect().await);
        let head = "POST /v1/pools/a%20b?x=1&y=a%26b HTTP/1.1\r\nHost: localhost";
        let answer = talk(&transport, head, "{\"size\": 3}").await;
        assert_eq!(status(&answer), 201);
        assert_eq!(
            body(&answer),
            json!({
                "method": "POST", "path": "/v1/pools/a%20b",
                "query": [["x", "1"], ["y", "a&b"]], "body": {"size": 3}
            })
        );
        let answer = api.get("/v1/pools").await;
        assert_eq!(body(&answer)["body"], Value::Null);
    });
}

#[test]
fn bad_requests_are_answered_in_json() {
    on_core(async {
        let api = Api::start(ApiOptions { body_bytes_max: 100, ..loopback() });
        let post = "POST /v1/x HTTP/1.1\r\nHost: localhost";
        for (text, expected, code) in
            [("{not json".to_owned(), 400, "bad_body"), ("9".repeat(101), 413, "body_too_large")]
        {
            let transport = Transport::Plain(api.connect().await);
            let answer = talk(&transport, post, &text).await;
            assert_eq!((status(&answer), error_code(&answer).as_str()), (expected, code));
        }
    });
}

#[test]
fn a_handler_that_is_slow_busy_or_gone_is_an_error() {
    on_core(async {
        let mut api =
            Api::start(ApiOptions { request_wait: Duration::from_millis(100), ..loopback() });
        let answer = api.get("/v1/slow").await;
        assert_eq!((status(&answer), error_code(&answer).as_str()), (504, "timeout"));
        // The slow one is still in the mailbox, which holds one.
        let answer = api.get("/v1/busy").await;
        assert_eq!((status(&answer), error_code(&answer).as_str()), (503, "busy"));
        let mut requests = api.requests.take().unwrap();
        assert!(requests.recv().await.unwrap().reply.is_closed(), "nobody waits any more");
        let dropping = spawn(async move { drop(requests.recv().await) });
        let answer = api.get("/v1/dropped").await;
        assert_eq!((status(&answer), error_code(&answer).as_str()), (503, "no_answer"));
        dropping.await.unwrap();
        let answer = api.get("/v1/gone").await;
        assert_eq!((status(&answer), error_code(&answer).as_str()), (503, "stopping"));
    });
}

fn token(name: &str) -> Token {
    use std::os::unix::fs::PermissionsExt;
    let path: PathBuf =
        std::env::temp_dir().join(format!("howdah-api-{}-{name}", std::process::id()));
    std::fs::write(&path, "correct-horse-battery").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let token = Token::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    token
}

#[test]
fn the_token_opens_everything_but_health_which_is_open() {
    on_core(async {
        let api = Api::start(ApiOptions { token: Some(token("opens")), ..loopback() });
        assert_eq!(status(&api.get("/healthz").await), 503);
        for (line, expected) in [
            ("", 401),
            ("\r\nAuthorization: Bearer correct-horse-batterz", 401),
            ("\r\nAuthorization: Bearer ", 401),
            ("\r\nAuthorization: Basic correct-horse-battery", 401),
            ("\r\nAuthorization: correct-horse-battery", 401),
            ("\r\nAuthorization: Bearer correct-horse-battery", 200),
            ("\r\nauthorization: bearer correct-horse-battery", 200),
        ] {
            for path in ["/metrics", "/v1/nodes"] {
                let answer =
                    api.ask(&format!("GET {path} HTTP/1.1\r\nHost: any.example.org{line}")).await;
                assert_eq!(status(&answer), expected, "{line}");
                if expected == 401 {
                    assert_eq!(error_code(&answer), "unauthorized");
                    assert!(answer.contains("www-authenticate: Bearer"), "{answer}");
                }
            }
        }
        let answer = api.ask("GET /v1/other HTTP/1.1\r\nHost: localhost").await;
        assert_eq!(status(&answer), 401, "nothing reaches the handler");
    });
}

#[test]
fn web_pages_cannot_call_an_open_api() {
    on_core(async {
        let api = Api::start(loopback());
        for head in [
            "GET /v1/nodes HTTP/1.1\r\nHost: evil.example.org",
            "GET /v1/nodes HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example.org",
        ] {
            let answer = api.ask(head).await;
            assert_eq!((status(&answer), error_code(&answer).as_str()), (403, "forbidden"));
        }
    });
}

#[test]
fn off_loopback_it_needs_tls_and_a_token() {
    let authority = Authority::new();
    let tls = || {
        let options =
            ServerTlsOptions { alpn: Vec::new(), ..ServerTlsOptions::new(authority.identity("x")) };
        Some(ServerTls::new(&options, provider()).unwrap())
    };
    let try_start = |token, tls| {
        let (handler, _requests) = mailbox::channel(1);
        let state = ApiState { control: Control::new(), registry: Registry::new(), handler };
        let options = ApiOptions { token, tls, ..ApiOptions::new("0.0.0.0:0".parse().unwrap()) };
        ApiServer::start(&Bridge::start().unwrap(), options, state)
    };
    for (token, tls, missing) in
        [(None, None, "both"), (None, tls(), "the token"), (Some(token("exposed")), None, "TLS")]
    {
        let error = try_start(token, tls).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "refusing to serve the API on 0.0.0.0:0: off loopback it needs TLS and a token, {missing} is missing"
            )
        );
    }
    assert!(try_start(Some(token("guarded")), tls()).is_ok());
}

#[test]
fn https_works_and_plain_http_does_not_reach_it() {
    on_core(async {
        let authority = Authority::new();
        let options = ServerTlsOptions {
            alpn: Vec::new(),
            ..ServerTlsOptions::new(authority.identity("localhost"))
        };
        let tls = Some(ServerTls::new(&options, provider()).unwrap());
        let mut api = Api::start(ApiOptions { tls, ..loopback() });
        let client_options = ClientTlsOptions {
            authorities: Some(authority.pem()),
            alpn: Vec::new(),
            ..ClientTlsOptions::new(SslMode::VerifyFull)
        };
        let client = ClientTls::new(&client_options, provider()).unwrap();
        let mut requests = api.requests.take().unwrap();
        spawn_detached(async move {
            while let Some(request) = requests.recv().await {
                // Large both ways, so that records are cut and the socket fills up.
                request.reply.send(Response::ok(request.body.unwrap_or_default())).unwrap();
            }
        });
        let stream = client.connect(api.connect().await, "localhost").await.unwrap();
        let text = Value::from("x".repeat(900_000)).to_string();
        let answer = talk(&stream.into(), "PUT /v1/echo HTTP/1.1\r\nHost: localhost", &text).await;
        assert_eq!(status(&answer), 200);
        assert_eq!(body(&answer).as_str().unwrap().len(), 900_000);

        let plain = api.connect().await;
        plain.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let answer = plain.recv().await.unwrap();
        assert!(!answer.starts_with(b"HTTP"), "an alert at most: {answer:?}");
    });
}

#[test]
fn stopping_lets_a_request_end_and_then_nobody_listens() {
    on_core(async {
        let mut api = Api::start(loopback());
        let mut requests = api.requests.take().unwrap();
        let address = Address::Tcp(api.server.address());
        let transport = Transport::Plain(api.connect().await);
        let asking = spawn(async move {
            talk(&transport, "GET /v1/late HTTP/1.1\r\nHost: localhost", "").await
        });
        let request = requests.recv().await.unwrap();
        let stopping = spawn(api.server.stop());
        // The listener is gone before the request is answered.
        while Stream::connect(&address).await.is_ok() {
            clock::sleep(Duration::from_millis(1)).await;
        }
        assert!(!stopping.is_finished());
        request.reply.send(Response::ok(json!("late"))).unwrap();
        assert_eq!(body(&asking.await.unwrap()), json!("late"));
        stopping.await.unwrap();
    });
}

#[test]
fn an_address_in_use_is_an_error() {
    on_core(async {
        let api = Api::start(loopback());
        let address = api.server.address();
        let bridge = Bridge::start().unwrap();
        let error = ApiServer::start(&bridge, ApiOptions::new(address), api.state).unwrap_err();
        assert!(
            error.to_string().starts_with(&format!("could not listen for the API on {address}: "))
        );
    });
}
