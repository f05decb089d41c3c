//! The resources under `/v1`, each a function from the query to an answer.

use pageserver::client::{Client, ClientError};
use pageserver::connection::Login;
use pg::lsn::Lsn;
use pooler::console::snapshot::Pool;
use runtime::api::Response;
use runtime::app::Stop;
use runtime::nodepool::Control;
use serde_json::{Value, json};

use super::{branches, computes};
use crate::cli::page;
use crate::node::Parts;

/// The answer to one request.
pub(super) async fn answer(
    method: &str,
    path: &str,
    query: &[(String, String)],
    body: Option<&Value>,
    parts: &Parts,
    control: &Control,
) -> Response {
    if let Some(response) = branches::answer(method, path, query, body, parts).await {
        return response;
    }
    let computes = parts.computes.as_ref();
    if let Some(response) = computes::answer(method, path, query, body, computes).await {
        return response;
    }
    match (method, path) {
        ("GET", "/v1/status") => status(parts).await,
        ("GET", "/v1/timelines") => timelines(parts).await,
        ("GET", "/v1/pools") => pools(parts).await,
        ("GET", "/v1/page") => page_at(query, parts).await,
        ("POST", "/v1/reload") => {
            control.reload();
            Response::ok(json!({ "reload": "asked for; the log tells the outcome" }))
        }
        ("POST", "/v1/shutdown") => {
            let (mode, stop) = match value(query, "mode") {
                Some("now") => ("now", Stop::Now),
                None | Some("drain") => ("drain", Stop::Drain),
                Some(other) => {
                    let message = format_args!("\"{other}\" is not a mode of shutdown: now, drain");
                    return Response::error(400, "bad_query", message);
                }
            };
            control.stop(stop);
            Response::ok(json!({ "shutdown": mode }))
        }
        ("POST", "/v1/postgres/stop" | "/v1/postgres/start") => postgres(path, parts).await,
        _ => unknown(path),
    }
}

fn unknown(path: &str) -> Response {
    let known = [
        "/v1/status",
        "/v1/timelines",
        "/v1/pools",
        "/v1/page",
        "/v1/branches",
        "/v1/computes",
        "/v1/lsn-at",
        "/v1/scrub",
        "/v1/reload",
        "/v1/shutdown",
        "/v1/postgres/stop",
        "/v1/postgres/start",
    ];
    if known.contains(&path) {
        return Response::error(
            405,
            "method_not_allowed",
            format_args!("{path} takes another method"),
        );
    }
    Response::error(404, "not_found", format_args!("there is no {path}"))
}

pub(super) fn value<'a>(query: &'a [(String, String)], name: &str) -> Option<&'a str> {
    query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

pub(super) fn not_here(what: &str) -> Response {
    Response::error(404, "not_here", format_args!("there is no {what} in this process"))
}

async fn status(parts: &Parts) -> Response {
    let pages = match &parts.pages {
        Some(pages) => pages.status().await,
        None => None,
    };
    let postgres = match &parts.postgres {
        Some(postgres) => postgres.status().await,
        None => None,
    };
    Response::ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "pooler": parts.pooler.as_ref().map(|pooler| pooler.addresses()),
        "page_service": pages.as_ref().map(|pages| &pages.listen),
        "page_server_phase": pages.as_ref().map(|pages| pages.phase),
        "postgres": postgres,
        "place": parts.place.as_ref().map(|choice| {
            json!({ "main": choice.place(), "reason": choice.why })
        }),
    }))
}

async fn timelines(parts: &Parts) -> Response {
    let Some(pages) = &parts.pages else { return Response::ok(json!({ "timelines": [] })) };
    let Some(status) = pages.status().await else { return not_here("page server") };
    Response::ok(json!({ "timelines": [status] }))
}

async fn pools(parts: &Parts) -> Response {
    let Some(pooler) = &parts.pooler else { return Response::ok(json!({ "pools": [] })) };
    let Some(snapshots) = pooler.snapshots().await else { return not_here("pooler") };
    let rows = snapshots
        .iter()
        .flat_map(|snapshot| snapshot.pools.iter().map(|pool| row(snapshot.core, pool)));
    Response::ok(json!({ "pools": rows.collect::<Vec<Value>>() }))
}

fn row(core: usize, pool: &Pool) -> Value {
    json!({
        "node": core,
        "database": pool.database,
        "user": pool.user,
        "mode": pool.mode.to_string(),
        "clients_active": pool.cl_active,
        "clients_waiting": pool.cl_waiting,
        "servers_active": pool.sv_active,
        "servers_idle": pool.sv_idle,
        "servers_login": pool.sv_login,
        "longest_wait_us": pool.maxwait_micros,
        "transactions": pool.stats.xact_count,
        "queries": pool.stats.query_count,
    })
}

async fn postgres(path: &str, parts: &Parts) -> Response {
    let Some(postgres) = &parts.postgres else {
        let response = not_here("supervised server");
        return match parts.place {
            Some(_) => {
                response.hint("\"main\" is a compute: howdah compute stop main starts it anew")
            }
            None => response,
        };
    };
    let done = if path.ends_with("stop") { postgres.stop().await } else { postgres.start().await };
    match (done, postgres.status().await) {
        (Some(()), Some(status)) => Response::ok(json!({ "postgres": status })),
        _ => Response::error(503, "stopping", "the supervisor does not answer"),
    }
}

async fn page_at(query: &[(String, String)], parts: &Parts) -> Response {
    let status = match &parts.pages {
        Some(pages) => pages.status().await,
        None => None,
    };
    let Some(status) = status else { return not_here("page server") };
    match PageQuery::read(query) {
        Ok(question) => question.ask(&status.listen).await,
        Err(message) => Response::error(400, "bad_query", message),
    }
}

struct PageQuery {
    tag: pg::datadir::relation::RelTag,
    block: u32,
    lsn: Lsn,
    branch: String,
}

impl PageQuery {
    fn read(query: &[(String, String)]) -> Result<Self, String> {
        let rel = page::relation(value(query, "rel").ok_or("rel is missing")?)?;
        let fork = page::fork(value(query, "fork").unwrap_or("main"))?;
        let block = value(query, "block").ok_or("block is missing")?;
        let block = block.parse().map_err(|error| format!("block: {error}"))?;
        let lsn = match value(query, "lsn") {
            Some(text) => text.parse().map_err(|error| format!("lsn: {error}"))?,
            None => Lsn::MAX,
        };
        let branch = value(query, "branch").unwrap_or("main").to_owned();
        Ok(Self { tag: rel.fork(fork), block, lsn, branch })
    }

    async fn ask(&self, service: &str) -> Response {
        let fetch = async {
            let database = self.branch.clone();
            let login = Login { database, ..Login::within_process(service) };
            let client = Client::log_in(&login).await?;
            client.into_stream().await?.pages(self.tag, &[self.block], self.lsn).await
        };
        match fetch.await {
            Ok(bytes) => {
                let (relation, hex) = (self.tag.to_string(), page::hex(&bytes));
                Response::ok(json!({ "relation": relation, "block": self.block, "hex": hex }))
            }
            Err(ClientError::Refused { message, detail, sqlstate }) => {
                let response = Response::error(409, &sqlstate.to_string(), message);
                if detail.is_empty() { response } else { response.detail(detail) }
            }
            Err(error) => Response::error(502, "page_service", error),
        }
    }
}
