//! `/v1/branches`, `/v1/lsn-at` and `/v1/scrub`: the page server's timelines.

use std::path::PathBuf;

use pageserver::api::{Handle, Problem};
use pageserver::attachment::{Attachment, Server};
use pg::lsn::Lsn;
use runtime::api::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::routes::{not_here, value};
use crate::node::Parts;

/// The answer to a request, or `None` if it is about something else.
pub(super) async fn answer(
    method: &str,
    path: &str,
    query: &[(String, String)],
    body: Option<&Value>,
    parts: &Parts,
) -> Option<Response> {
    let of_one = path.strip_prefix("/v1/branches/").and_then(|rest| rest.split_once('/'));
    if of_one.is_none() && !matches!(path, "/v1/branches" | "/v1/lsn-at" | "/v1/scrub") {
        return None;
    }
    let Some(pages) = &parts.pages else { return Some(not_here("page server")) };
    if let Some((name, what)) = of_one {
        return of_branch((method, name, what), query, body, pages).await;
    }
    let text = |name: &str| value(query, name).unwrap_or_default().to_owned();
    let branch_or_main = |name: &str| value(query, name).unwrap_or("main").to_owned();
    let response = match (method, path) {
        ("GET", "/v1/branches") => match pages.branches().await {
            Some(branches) => Response::ok(json!({ "branches": branches })),
            None => Response::error(503, "not_ready", "there is no base backup yet"),
        },
        ("POST", "/v1/branches") => {
            let made = pages.create_branch(text("name"), branch_or_main("from"), text("at"));
            outcome(made.await)
        }
        ("DELETE", "/v1/branches") => {
            let is_forced = value(query, "force").is_some_and(|force| force == "true");
            match free(parts, &text("name"), is_forced).await {
                Ok(()) => outcome(pages.delete_branch(text("name")).await),
                Err(response) => response,
            }
        }
        ("GET", "/v1/lsn-at") => outcome(pages.lsn_at(branch_or_main("branch"), text("at")).await),
        ("POST", "/v1/scrub") => outcome(pages.begin_scrub().await.map(Ok)),
        ("GET", "/v1/scrub") => outcome(pages.scrub().await.map(Ok)),
        _ => return None,
    };
    Some(response)
}

/// A branch that computes serve is not deleted under them: they are stopped first if that is wanted.
async fn free(parts: &Parts, branch: &str, is_forced: bool) -> Result<(), Response> {
    let Some(computes) = &parts.computes else { return Ok(()) };
    let names = computes.of_branch(branch.to_owned()).await.unwrap_or_default();
    if !names.is_empty() && !is_forced {
        let message = format!("branch \"{branch}\" is in use");
        return Err(Response::error(409, "in_use", message)
            .detail(format!("computes serve it: {}", names.join(", ")))
            .hint("stop them (howdah compute stop NAME), or delete the branch with --force"));
    }
    for name in names {
        let _ended_by_itself = computes.stop(name).await;
    }
    Ok(())
}

/// `/v1/branches/NAME/…`.
async fn of_branch(
    (method, name, what): (&str, &str, &str),
    query: &[(String, String)],
    body: Option<&Value>,
    pages: &Handle,
) -> Option<Response> {
    let name = name.to_owned();
    let response = match (method, what) {
        ("POST", "attach") => match attachment(body) {
            Ok(wanted) => outcome(pages.attach(name, wanted).await),
            Err(message) => Response::error(400, "bad_request", message),
        },
        ("POST", "release") if name == "main" => outcome(pages.release_main().await),
        ("POST", "detach") => outcome(pages.detach(name).await),
        ("GET", "leases") => {
            let leases = pages.leases(name).await;
            outcome(leases.map(|leases| leases.map(|leases| json!({ "leases": leases }))))
        }
        ("POST" | "DELETE", "leases") => match Lease::read(query, body) {
            Ok(wanted) => leased(method, name, wanted, pages).await,
            Err(message) => Response::error(400, "bad_request", message),
        },
        _ => return None,
    };
    Some(response)
}

/// Makes a lease, or ends one.
async fn leased(method: &str, name: String, wanted: Lease, pages: &Handle) -> Response {
    let Lease { at, holder, seconds } = wanted;
    let lsn = if at.parse::<Lsn>().is_ok() {
        at
    } else {
        match pages.lsn_at(name.clone(), at).await {
            Some(Ok(moment)) => moment.lsn,
            other => return outcome(other),
        }
    };
    match (method, seconds) {
        ("POST", Some(seconds)) => outcome(pages.lease(name, lsn, holder, seconds).await),
        ("DELETE", None) => outcome(pages.end_lease(name, lsn, holder).await),
        _ => {
            let message = "\"seconds\" says how long a lease lasts: in a POST, not in a DELETE";
            Response::error(400, "bad_request", message)
        }
    }
}

/// `{"at", "seconds", "holder"?}`, or the same in the query; of one that is to end, without `seconds`.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lease {
    /// An LSN, a time or a restore point.
    #[serde(alias = "lsn")]
    at: String,
    #[serde(default)]
    holder: String,
    seconds: Option<u32>,
}

impl Lease {
    fn read(query: &[(String, String)], body: Option<&Value>) -> Result<Lease, String> {
        if let Some(body) = body {
            return Lease::deserialize(body).map_err(|error| error.to_string());
        }
        let at = value(query, "at").or_else(|| value(query, "lsn"));
        let at = at.filter(|at| !at.is_empty()).ok_or("\"at\" says which moment")?.to_owned();
        let holder = value(query, "holder").unwrap_or_default().to_owned();
        let seconds = value(query, "seconds").map(str::parse).transpose();
        let seconds = seconds.map_err(|error| format!("seconds: {error}"))?;
        Ok(Lease { at, holder, seconds })
    }
}

/// `{"host", "port", "user"?, "password_file"?, "epoch"?}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Compute {
    /// A numeric address, or the directory of a unix socket.
    host: String,
    port: u16,
    #[serde(default)]
    user: String,
    password_file: Option<PathBuf>,
    epoch: Option<u64>,
}

fn attachment(body: Option<&Value>) -> Result<Attachment, String> {
    let body = body.ok_or("the body is missing: {\"host\", \"port\"}")?;
    let Compute { host, port, user, password_file, epoch } =
        Compute::deserialize(body).map_err(|error| error.to_string())?;
    Ok(Attachment { server: Server { user, password_file, ..Server::at(&host, port) }, epoch })
}

fn outcome(result: Option<Result<impl Serialize, Problem>>) -> Response {
    match result {
        Some(Ok(value)) => Response::ok(json!(value)),
        Some(Err(Problem { message, hint })) => {
            let response = Response::error(409, "refused", message);
            match hint {
                Some(hint) => response.hint(hint),
                None => response,
            }
        }
        None => not_here("page server"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_read_from_the_body_or_the_query() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let query = [pair("at", "now"), pair("holder", "me"), pair("seconds", "60")];
        let wanted = Lease { at: "now".to_owned(), holder: "me".to_owned(), seconds: Some(60) };
        assert_eq!(Lease::read(&query, None), Ok(wanted));
        let body = json!({ "lsn": "0/10" });
        let wanted = Lease { at: "0/10".to_owned(), holder: String::new(), seconds: None };
        assert_eq!(Lease::read(&[], Some(&body)), Ok(wanted));
        assert!(Lease::read(&[], None).is_err(), "no moment");
        assert!(Lease::read(&[pair("at", "now"), pair("seconds", "long")], None).is_err());
        assert!(Lease::read(&[], Some(&json!({ "at": "now", "hours": 1 }))).is_err());
    }

    #[test]
    fn a_compute_is_attached_by_host_and_port() {
        let body = json!({ "host": "/run/x", "port": 5499, "user": "u", "epoch": 7 });
        let wanted = attachment(Some(&body)).expect("it is complete");
        let Attachment { server, epoch } = wanted;
        assert_eq!((server.address.as_str(), epoch), ("/run/x/.s.PGSQL.5499", Some(7)));
        assert_eq!((server.user.as_str(), server.password_file), ("u", None));
        let password = json!({ "host": "::1", "port": 5499, "password": "geheim" });
        for wrong in [None, Some(&json!({ "host": "x" })), Some(&password)] {
            assert!(attachment(wrong).is_err(), "{wrong:?}");
        }
    }
}
