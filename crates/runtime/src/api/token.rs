//! The bearer token: a secret in a file that only its owner can read.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use axum::http::HeaderValue;
use subtle::ConstantTimeEq;

use super::ApiError;
use crate::limits::{API_TOKEN_BYTES_MAX, API_TOKEN_BYTES_MIN};

/// A secret that callers of the API present. Never shown.
#[derive(Clone)]
pub struct Token(Vec<u8>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// Reads it from a file of mode 0600 (or less). White space around it does not count.
    ///
    /// # Errors
    /// [`ApiError::Token`] when the file cannot be read, others could read it, or what it holds is no token.
    pub fn read(path: &Path) -> Result<Self, ApiError> {
        read(path).map_err(|reason| ApiError::Token { path: path.to_owned(), reason })
    }

    /// Whether this is what a caller presented. Takes as long for a nearly right guess as for a wrong one.
    #[must_use]
    pub fn is(&self, presented: &[u8]) -> bool {
        bool::from(self.0.as_slice().ct_eq(presented))
    }

    /// The value of the header that presents it; marked so that nobody logs it.
    pub(super) fn header(&self) -> HeaderValue {
        let text = [b"Bearer ", self.0.as_slice()].concat();
        let mut value = HeaderValue::from_bytes(&text).expect("a token is visible ASCII");
        value.set_sensitive(true);
        value
    }
}

fn read(path: &Path) -> Result<Token, String> {
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    // Asked of the open file, so that nobody can exchange it in between.
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o177 != 0 {
        return Err(format!("its mode is {mode:04o}, it must be 0600"));
    }
    let mut text = Vec::new();
    let most = API_TOKEN_BYTES_MAX as u64 + 1;
    Read::by_ref(&mut file).take(most).read_to_end(&mut text).map_err(|error| error.to_string())?;
    let token = text.trim_ascii();
    if !(API_TOKEN_BYTES_MIN..=API_TOKEN_BYTES_MAX).contains(&token.len()) {
        return Err(format!(
            "it must hold {API_TOKEN_BYTES_MIN} to {API_TOKEN_BYTES_MAX} characters"
        ));
    }
    if !token.iter().all(u8::is_ascii_graphic) {
        return Err("it may hold visible ASCII characters only".to_owned());
    }
    Ok(Token(token.to_vec()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn read_with(name: &str, contents: &str, mode: u32) -> Result<Token, String> {
        let path = std::env::temp_dir().join(format!("howdah-{}-{name}", std::process::id()));
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let result = Token::read(&path).map_err(|error| error.to_string());
        fs::remove_file(&path).unwrap();
        result
    }

    #[test]
    fn a_private_file_gives_a_token_that_compares() {
        let token = read_with("good", " 0123456789abcdef\n", 0o600).unwrap();
        assert!(token.is(b"0123456789abcdef"));
        for wrong in [&b""[..], b"0123456789abcde", b"0123456789abcdeg", b"0123456789abcdef\n"] {
            assert!(!token.is(wrong));
        }
        assert_eq!(format!("{token:?}"), "Token(..)");
        assert!(read_with("read-only", "0123456789abcdef", 0o400).is_ok());
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        for mode in [0o640, 0o604, 0o644, 0o700, 0o620] {
            let error = read_with(&format!("mode{mode}"), "0123456789abcdef", mode).unwrap_err();
            assert!(
                error.ends_with(&format!("its mode is {mode:04o}, it must be 0600")),
                "{error}"
            );
        }
    }

    #[test]
    fn what_is_no_token_is_refused() {
        assert!(read_with("short", "0123456789abcde", 0o600).is_err());
        assert!(read_with("long", &"x".repeat(API_TOKEN_BYTES_MAX + 1), 0o600).is_err());
        assert!(read_with("spaces", "0123 456789abcdef", 0o600).is_err());
        assert!(Token::read(Path::new("/nonexistent")).is_err());
        assert!(Token::read(Path::new("/tmp")).is_err());
    }
}
