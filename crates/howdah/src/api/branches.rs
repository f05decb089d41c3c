//! `/v1/branches`, `/v1/lsn-at` and `/v1/scrub`: the page server's timelines.

use pageserver::api::{Handle, Problem};
use runtime::api::Response;
use serde::Serialize;
use serde_json::json;

use super::routes::{not_here, value};

/// The answer to a request, or `None` if it is about something else.
pub(super) async fn answer(
    method: &str,
    path: &str,
    query: &[(String, String)],
    pages: Option<&Handle>,
) -> Option<Response> {
    if !matches!(path, "/v1/branches" | "/v1/lsn-at" | "/v1/scrub") {
        return None;
    }
    let Some(pages) = pages else { return Some(not_here("page server")) };
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
        ("DELETE", "/v1/branches") => outcome(pages.delete_branch(text("name")).await),
        ("GET", "/v1/lsn-at") => outcome(pages.lsn_at(branch_or_main("branch"), text("at")).await),
        ("POST", "/v1/scrub") => outcome(pages.begin_scrub().await.map(Ok)),
        ("GET", "/v1/scrub") => outcome(pages.scrub().await.map(Ok)),
        _ => return None,
    };
    Some(response)
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
