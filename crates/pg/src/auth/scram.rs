//! SCRAM-SHA-256 (RFC 5802, RFC 7677), as PostgreSQL speaks it: the user name inside the exchange
//! is empty, the one of the start-up packet counts.
//!
//! ```text
//! SaltedPassword = PBKDF2-HMAC-SHA-256(saslprep(password), salt, iterations)
//! ClientKey      = HMAC(SaltedPassword, "Client Key")      StoredKey = SHA-256(ClientKey)
//! ServerKey      = HMAC(SaltedPassword, "Server Key")
//! client's proof = ClientKey XOR HMAC(StoredKey, AuthMessage)
//! server's proof = HMAC(ServerKey, AuthMessage)
//! ```
//!
//! The server side knows StoredKey and learns ClientKey from a right proof. With it, it can log
//! in elsewhere as that user as long as the same secret is stored there: see [`Keys`].

pub mod client;
mod message;
pub mod server;

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

pub use client::Client;
pub use server::{Accepted, Server, ServerBinding};

use super::equal;
use crate::limits::{SCRAM_ITERATIONS_MAX, SCRAM_SALT_BYTES_MAX};
use crate::sqlstate::SqlState;

/// Random bytes of a nonce, before base64 (`SCRAM_RAW_NONCE_LEN`).
pub const NONCE_BYTES: usize = 18;
/// Bytes of a salt of ours (`SCRAM_DEFAULT_SALT_LEN`).
pub const SALT_BYTES: usize = 16;
/// PBKDF2 rounds of a secret of ours (`SCRAM_SHA_256_DEFAULT_ITERATIONS`).
pub const ITERATIONS: u32 = 4096;

type Key = [u8; 32];

/// What a server stores of a password: enough to verify, not to log in.
#[derive(Clone)]
pub struct Secret {
    pub iterations: u32,
    pub salt: Vec<u8>,
    stored_key: Key,
    server_key: Key,
}

impl Secret {
    /// The secret of a password: costs `iterations` rounds of PBKDF2 (about a millisecond for
    /// 4096), so it is for start-up or a thread of its own.
    pub fn of(password: &[u8], salt: &[u8], iterations: u32) -> Secret {
        Keys::of(password, salt, iterations).secret()
    }

    /// Whether this is the password; costs as much as [`Secret::of`].
    pub fn verify_clear(&self, password: &[u8]) -> bool {
        *self == Secret::of(password, &self.salt, self.iterations)
    }

    /// A secret for a user who does not exist (or has none), so that the exchange looks as usual
    /// until it fails. It is the same each time for a user, from a nonce that is the
    /// installation's own and secret; nobody's password fits it.
    pub fn mock(user: &[u8], installation_nonce: &[u8]) -> Secret {
        let hash = Sha256::new().chain_update(user).chain_update(installation_nonce).finalize();
        let salt = hash.get(..SALT_BYTES).unwrap_or_default().to_vec();
        Secret { iterations: ITERATIONS, salt, stored_key: [0; 32], server_key: [0; 32] }
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        let same =
            equal(&self.stored_key, &other.stored_key) & equal(&self.server_key, &other.server_key);
        same && self.iterations == other.iterations && self.salt == other.salt
    }
}

impl Eq for Secret {}

/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, as in `pg_authid`. Not for a log.
impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (stored, server) = (BASE64.encode(self.stored_key), BASE64.encode(self.server_key));
        let salt = BASE64.encode(&self.salt);
        write!(f, "SCRAM-SHA-256${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The text is not a SCRAM secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidSecret;

impl fmt::Display for InvalidSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid SCRAM secret")
    }
}

impl std::error::Error for InvalidSecret {}

impl FromStr for Secret {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Secret, InvalidSecret> {
        parse_secret(text).ok_or(InvalidSecret)
    }
}

fn parse_secret(text: &str) -> Option<Secret> {
    let (head, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
    let (iterations, salt) = head.split_once(':')?;
    let (stored_key, server_key) = keys.split_once(':')?;
    let iterations = iterations.parse().ok()?;
    let salt = BASE64.decode(salt).ok()?;
    if !(1..=SCRAM_ITERATIONS_MAX).contains(&iterations) || salt.len() > SCRAM_SALT_BYTES_MAX {
        return None;
    }
    Some(Secret {
        iterations,
        salt,
        stored_key: BASE64.decode(stored_key).ok()?.try_into().ok()?,
        server_key: BASE64.decode(server_key).ok()?.try_into().ok()?,
    })
}

/// What logs a user in without the password: ClientKey, with ServerKey to know the server by.
/// Good for one salt and iteration count. As secret as the password, for that one secret.
#[derive(Clone)]
pub struct Keys {
    pub iterations: u32,
    pub salt: Vec<u8>,
    client_key: Key,
    server_key: Key,
}

impl Keys {
    /// The keys of a password: costs `iterations` rounds of PBKDF2.
    pub fn of(password: &[u8], salt: &[u8], iterations: u32) -> Keys {
        let mut salted = [0; 32];
        let prepared = prepare(password);
        pbkdf2::pbkdf2_hmac::<Sha256>(&prepared, salt, iterations, &mut salted);
        let client_key = hmac(&salted, &[b"Client Key"]);
        let server_key = hmac(&salted, &[b"Server Key"]);
        Keys { iterations, salt: salt.to_vec(), client_key, server_key }
    }

    /// Whether they are for this salt and iteration count.
    pub fn fit(&self, salt: &[u8], iterations: u32) -> bool {
        self.salt == salt && self.iterations == iterations
    }

    /// What a server stores for them.
    pub fn secret(&self) -> Secret {
        Secret {
            iterations: self.iterations,
            salt: self.salt.clone(),
            stored_key: sha256(&self.client_key),
            server_key: self.server_key,
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// SASLprep (RFC 4013) as Postgres applies it: a password that is not UTF-8, or that it
/// prohibits, is taken as it stands.
fn prepare(password: &[u8]) -> Vec<u8> {
    let prepared = std::str::from_utf8(password).ok().and_then(|text| {
        let prepared = stringprep::saslprep(text).ok()?;
        (!prepared.is_empty()).then(|| prepared.into_owned().into_bytes())
    });
    prepared.unwrap_or_else(|| password.to_vec())
}

fn hmac(key: &Key, parts: &[&[u8]]) -> Key {
    // A key shorter than a block is padded with zeros by definition (RFC 2104): so this is the
    // constructor that cannot fail.
    let mut block = [0; 64];
    block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    let mut mac = Hmac::<Sha256>::new(&block.into());
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

fn sha256(bytes: &[u8]) -> Key {
    Sha256::digest(bytes).into()
}

fn xor(left: &Key, right: &Key) -> Key {
    let mut result = *left;
    result.iter_mut().zip(right).for_each(|(to, from)| *to ^= *from);
    result
}

/// Why an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScramError {
    /// The other side does not follow RFC 5802; the text says where.
    Malformed(&'static str),
    /// It uses something of the RFC that Postgres and we don't have.
    Unsupported(&'static str),
    /// The channel bindings differ: someone may sit in between.
    ChannelBinding(&'static str),
    /// As a server: the client does not know the password.
    WrongPassword,
    /// As a client: the server does not know the password, so it is not the one we want.
    WrongServer,
    /// As a client with [`Keys`] but no password: the server stores another secret.
    OtherSecret,
    /// As a client: the server demands more rounds than [`SCRAM_ITERATIONS_MAX`].
    TooManyIterations,
    /// As a client: the server reports an error of its own.
    Refused,
    /// A message came when it was not its turn.
    OutOfTurn,
}

impl ScramError {
    /// The state under which a server reports it. [`ScramError::WrongPassword`] is reported with
    /// the text of any other failed log-in.
    pub const fn sqlstate(&self) -> SqlState {
        match self {
            ScramError::WrongPassword => SqlState::INVALID_PASSWORD,
            ScramError::ChannelBinding(_) => SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            ScramError::Unsupported(_) => SqlState::FEATURE_NOT_SUPPORTED,
            _ => SqlState::PROTOCOL_VIOLATION,
        }
    }

    /// The detail to go with the message, if any.
    pub const fn detail(&self) -> Option<&'static str> {
        match self {
            ScramError::Malformed(detail) | ScramError::ChannelBinding(detail) => Some(detail),
            _ => None,
        }
    }
}

impl fmt::Display for ScramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ScramError::Malformed(_) => "malformed SCRAM message",
            ScramError::Unsupported(what) => what,
            ScramError::ChannelBinding(_) => "SCRAM channel binding check failed",
            ScramError::WrongPassword => "password authentication failed",
            ScramError::WrongServer => "incorrect server signature",
            ScramError::OtherSecret => "the server stores another SCRAM secret for this user",
            ScramError::TooManyIterations => "the server demands too many SCRAM iterations",
            ScramError::Refused => "the server ended the SCRAM exchange with an error",
            ScramError::OutOfTurn => "unexpected SCRAM message",
        })
    }
}

impl std::error::Error for ScramError {}

#[cfg(test)]
mod tests;
