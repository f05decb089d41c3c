//! Asks a running Howdah's API.

use serde_json::Value;

use crate::error::{Error, Result};

/// The answer to `GET path`.
pub fn get(api: &str, path: &str) -> Result<Value> {
    Err(Error::new(format!("could not ask {api} for {path}")))
}

/// Where the page service of that Howdah listens.
pub fn page_service(api: &str) -> Result<String> {
    let status = get(api, "/v1/status")?;
    let address = status.get("page_service").and_then(Value::as_str);
    address
        .map(str::to_owned)
        .ok_or_else(|| Error::new("there is no page server here").detail(format!("asked {api}")))
}
