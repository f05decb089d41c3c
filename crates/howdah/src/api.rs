//! The HTTP API of this process: an applet of the first core. Health, metrics and cores are `runtime`'s; the rest
//! is answered here.

mod branches;
pub mod client;
mod computes;
pub mod credentials;
mod routes;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use pooler::stats::export::Export;
use runtime::api::{ApiOptions, ApiServer, ApiState, Request, Response, Token};
use runtime::app::{App, Applet, Error, LocalFuture, Node, Stop};
use runtime::bridge::Bridge;
use runtime::executor::{self, JoinHandle};
use runtime::mailbox::{self, Receiver};
use runtime::metrics::Registry;

use crate::limits::API_QUEUE_MAX;
use crate::node::Parts;

/// The service's name in logs and in the nodepool.
const NAME: &str = "api";
/// What the API asks for before it prints the metrics.
const METRICS: &str = "/metrics";

/// Where the API listens, once it does.
#[derive(Clone, Debug, Default)]
pub struct Address(Arc<OnceLock<SocketAddr>>);

impl Address {
    #[must_use]
    pub fn get(&self) -> Option<String> {
        self.0.get().map(ToString::to_string)
    }
}

/// What the API is told about the process around it.
#[derive(Clone)]
pub struct Options {
    pub listen: SocketAddr,
    pub token_file: Option<PathBuf>,
    pub registry: Registry,
    pub parts: Parts,
}

/// The app. It fills in `options.parts.api` when it listens.
#[must_use]
pub fn app(options: Options) -> App {
    App::new(NAME, move |_node| Api { options: options.clone(), running: RefCell::default() })
}

struct Api {
    options: Options,
    running: RefCell<Option<Running>>,
}

struct Running {
    server: ApiServer,
    /// Stops the side runtime when it goes.
    _bridge: Bridge,
    handler: JoinHandle<()>,
}

impl Api {
    fn open(&self, node: &Node) -> Result<(), Error> {
        let Options { listen, token_file, registry, parts } = &self.options;
        let token = token_file.as_deref().map(Token::read).transpose()?;
        let bridge = Bridge::start()?;
        let (handler, requests) = mailbox::channel(API_QUEUE_MAX);
        let state = ApiState { control: node.control.clone(), registry: registry.clone(), handler };
        let server =
            ApiServer::start(&bridge, ApiOptions { token, ..ApiOptions::new(*listen) }, state)?;
        tracing::info!(address = %server.address(), "API listens");
        if let Some(address) = &parts.api {
            // Only the first core tells, once.
            let _told = address.0.set(server.address());
        }
        let metrics = Rc::new(RefCell::new(Metrics::new(registry)));
        let handler = executor::spawn(serve(requests, parts.clone(), node.clone(), metrics));
        *self.running.borrow_mut() = Some(Running { server, _bridge: bridge, handler });
        Ok(())
    }
}

impl Applet for Api {
    fn name(&self) -> &'static str {
        NAME
    }

    fn start<'a>(&'a self, node: &'a Node) -> LocalFuture<'a, Result<(), Error>> {
        Box::pin(async { if node.index == 0 { self.open(node) } else { Ok(()) } })
    }

    fn stop<'a>(&'a self, _how: Stop) -> LocalFuture<'a, ()> {
        Box::pin(async {
            let running = self.running.take();
            if let Some(Running { server, _bridge, handler }) = running {
                server.stop().await;
                handler.abort();
            }
        })
    }
}

/// The metrics that are brought up to date when somebody asks for them.
struct Metrics {
    pools: Export,
    pages: pageserver::metrics::Export,
    /// The page server counts the times of reads there.
    measures: bool,
}

impl Metrics {
    fn new(registry: &Registry) -> Metrics {
        let pages = pageserver::metrics::Export::new(registry);
        Metrics { pools: Export::new(registry), pages, measures: false }
    }
}

/// Brings the metrics of the parts up to date; the API itself prints them.
async fn refresh(parts: &Parts, metrics: &RefCell<Metrics>) -> Response {
    if let Some(pooler) = &parts.pooler
        && let Some(snapshots) = pooler.snapshots().await
    {
        metrics.borrow_mut().pools.publish(&snapshots);
    }
    if let Some(pages) = &parts.pages {
        if !metrics.borrow().measures {
            let page_seconds = metrics.borrow().pages.page_seconds();
            metrics.borrow_mut().measures = pages.measure(page_seconds).await.is_some();
        }
        if let Some(status) = pages.status().await {
            metrics.borrow_mut().pages.publish(&status);
        }
    }
    Response::ok(serde_json::Value::Null)
}

/// Each request in a task of its own: one that waits must not keep others.
async fn serve(
    mut requests: Receiver<Request>,
    parts: Parts,
    node: Node,
    metrics: Rc<RefCell<Metrics>>,
) {
    while let Some(request) = requests.recv().await {
        let (parts, node, metrics) = (parts.clone(), node.clone(), Rc::clone(&metrics));
        executor::spawn_detached(async move {
            let Request { method, path, query, body, reply } = request;
            let response = if path == METRICS {
                refresh(&parts, &metrics).await
            } else {
                let body = body.as_ref();
                routes::answer(&method, &path, &query, body, &parts, &node.control).await
            };
            // The caller may have gone away meanwhile.
            drop(reply.send(response));
        });
    }
}
