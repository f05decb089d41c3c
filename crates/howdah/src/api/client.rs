//! Asks a running Howdah's API, for the commands that talk to one.

use std::path::PathBuf;

use runtime::api::Token;
use runtime::api::client::Call;
use runtime::bridge::Bridge;
use runtime::executor::block_on;
use runtime::io::Options;
use serde_json::Value;

use super::credentials::Credentials;
use crate::error::{Error, Result, While};

/// Where the API is, and what it wants to see.
#[derive(Clone, Debug)]
pub struct Api {
    pub address: String,
    /// File with the bearer token, if it needs one.
    pub token_file: Option<PathBuf>,
    /// Who we are to the page service.
    pub credentials: Credentials,
}

impl Api {
    /// The answer to `GET path`.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.call("GET", path)
    }

    /// The answer to `POST path`.
    pub fn post(&self, path: &str) -> Result<Value> {
        self.call("POST", path)
    }

    /// The answer to `DELETE path`.
    pub fn delete(&self, path: &str) -> Result<Value> {
        self.call("DELETE", path)
    }

    /// Where the page service of that Howdah listens.
    pub fn page_service(&self) -> Result<String> {
        let status = self.get("/v1/status")?;
        let address = status.get("page_service").and_then(Value::as_str);
        let missing = || {
            Error::new("there is no page server here")
                .detail(format!("asked the API at {}", self.address))
        };
        address.map(str::to_owned).ok_or_else(missing)
    }

    fn call(&self, method: &'static str, path: &str) -> Result<Value> {
        let token = self.token_file.as_deref().map(Token::read).transpose();
        let token = token.map_err(|error| Error::new(error.to_string()))?;
        let call = Call {
            address: self.address.clone(),
            method,
            path: path.to_owned(),
            token,
            wait: None,
        };
        let asked = block_on(&Options::default(), async {
            let bridge = Bridge::start().or_fail("could not start a thread")?;
            call.send(&bridge).await.map_err(|error| {
                Error::new(error.to_string())
                    .hint("is howdah running? --api or HOWDAH_API names the address of its API")
            })
        });
        let (status, body) = asked.or_fail("could not start an I/O loop")??;
        if status < 400 { Ok(body) } else { Err(refused(&body)) }
    }
}

/// A text as the value of a query's parameter: everything but letters, digits and a few others percent-encoded.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'-' | b'_' | b'.' | b'~' => escaped.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => escaped.push(char::from(byte)),
            _ => {
                let digit = |nibble: u8| char::from(b"0123456789ABCDEF"[usize::from(nibble)]);
                escaped.extend(['%', digit(byte >> 4), digit(byte & 15)]);
            }
        }
    }
    escaped
}

/// `{"error": {"message", "detail", "hint"}}` as an error of ours.
fn refused(body: &Value) -> Error {
    let text = |key: &str| body.get("error")?.get(key)?.as_str().map(str::to_owned);
    Error {
        message: text("message").unwrap_or_else(|| "the API refused".to_owned()),
        detail: text("detail"),
        hint: text("hint"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_means_something_in_a_query() {
        assert_eq!(escaped("a-b_C.9~"), "a-b_C.9~");
        assert_eq!(escaped("10:00+01 ä&="), "10%3A00%2B01%20%C3%A4%26%3D");
    }

    #[test]
    fn an_error_of_the_api_keeps_its_parts() {
        let body = serde_json::json!({"error": {"code": "x", "message": "no", "detail": null, "hint": "yes"}});
        assert_eq!(refused(&body), Error::new("no").hint("yes"));
        assert_eq!(refused(&Value::Null).message, "the API refused");
    }
}
