//! `/v1/computes`: computes started, listed, stopped.

use pg::sqlstate::SqlState;
use runtime::api::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::routes::{not_here, value};
use crate::computes::{Handle, Refusal};

const PATH: &str = "/v1/computes";

/// The answer to a request, or `None` if it is about something else.
pub(super) async fn answer(
    method: &str,
    path: &str,
    query: &[(String, String)],
    body: Option<&Value>,
    computes: Option<&Handle>,
) -> Option<Response> {
    let rest = path.strip_prefix(PATH)?;
    let name = match rest {
        "" => None,
        rest => Some(unescaped(rest.strip_prefix('/')?)),
    };
    let Some(computes) = computes else { return Some(not_here("manager of computes")) };
    let response = match (method, name) {
        ("GET", None) => match computes.list().await {
            Some(list) => Response::ok(json!({ "computes": list })),
            None => not_here("manager of computes"),
        },
        ("POST", None) => match wanted(query, body) {
            Ok(target) => start(computes, target).await,
            Err(message) => Response::error(400, "bad_request", message),
        },
        ("DELETE", Some(name)) => match computes.stop(name.clone()).await {
            Some(true) => Response::ok(json!({ "stopped": name })),
            Some(false) => {
                Response::error(404, "not_found", format_args!("no compute \"{name}\" runs"))
            }
            None => not_here("manager of computes"),
        },
        _ => return None,
    };
    Some(response)
}

async fn start(computes: &Handle, target: String) -> Response {
    match computes.start(target).await {
        Some(Ok(line)) => Response::ok(json!(line)),
        Some(Err(refusal)) => refused(&refusal),
        None => not_here("manager of computes"),
    }
}

fn refused(refusal: &Refusal) -> Response {
    let status = match refusal.sqlstate {
        SqlState::INVALID_CATALOG_NAME => 404,
        _ => 503,
    };
    let error = &refusal.error;
    let mut response = Response::error(status, refusal.sqlstate.as_str(), &error.message);
    if let Some(detail) = &error.detail {
        response = response.detail(detail);
    }
    match &error.hint {
        Some(hint) => response.hint(hint),
        None => response,
    }
}

/// `{"branch", "lsn"?, "ephemeral"?, "replica"?}`; `lsn` may be a time, too.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    branch: String,
    lsn: Option<String>,
    #[serde(default)]
    ephemeral: bool,
    #[serde(default)]
    replica: bool,
}

/// The target as the pooler's clients would write it: `?target=` or a body.
fn wanted(query: &[(String, String)], body: Option<&Value>) -> Result<String, String> {
    if let Some(target) = value(query, "target") {
        return Ok(target.to_owned());
    }
    let body = body.ok_or("the body is missing: {\"branch\"}")?;
    let Body { branch, lsn, ephemeral, replica } =
        Body::deserialize(body).map_err(|error| error.to_string())?;
    let at = lsn.map_or_else(String::new, |lsn| format!("@{lsn}"));
    let option = match (ephemeral, replica) {
        (true, true) => return Err("a replica is never written: it is not ephemeral".to_owned()),
        (true, false) => "?ephemeral",
        (false, true) => "?replica",
        (false, false) => "",
    };
    Ok(format!("{branch}{at}{option}"))
}

/// Part of a path, percent-decoded; what is not an escape stays as it is.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = after.get(..2).filter(|_| byte == b'%');
        let escaped = escaped.and_then(|digits| str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::client::escaped;

    #[test]
    fn a_name_comes_through_a_path_as_it_was() {
        for name in ["feature", "main@0/16B3748?ephemeral", "100% ä"] {
            assert_eq!(unescaped(&escaped(name)), name);
        }
        assert_eq!(unescaped("50%"), "50%");
    }

    #[test]
    fn a_body_says_the_same_as_a_target() {
        let body = json!({ "branch": "a", "lsn": "0/10", "ephemeral": true });
        assert_eq!(wanted(&[], Some(&body)), Ok("a@0/10?ephemeral".to_owned()));
        let query = [("target".to_owned(), "a@0/10?ephemeral".to_owned())];
        assert_eq!(wanted(&query, None), wanted(&[], Some(&body)));
        let replica = json!({ "branch": "a", "replica": true });
        assert_eq!(wanted(&[], Some(&replica)), Ok("a?replica".to_owned()));
        assert!(wanted(&[], Some(&json!({ "brunch": "a" }))).is_err());
        assert!(wanted(&[], None).is_err());
    }
}
