//! The client's side of an exchange: of us towards a Postgres server.

use base64::Engine as _;

use super::message::{Attributes, decode_key, is_nonce};
use super::{BASE64, Key, Keys, NONCE_BYTES, ScramError, hmac, sha256, xor};
use crate::auth::equal;
use crate::auth::sasl::ClientBinding;
use crate::limits::{SCRAM_ITERATIONS_MAX, SCRAM_SALT_BYTES_MAX};

/// What the client knows of the user.
#[derive(Clone)]
pub enum Credentials {
    /// The password; with keys from an earlier exchange, so that PBKDF2 need not run again if the
    /// server's salt is still the same.
    Password { password: Vec<u8>, cached: Option<Keys> },
    /// The keys alone: of a client's own log-in with us (pass-through).
    Keys(Keys),
}

/// One exchange. Calls go in the order of the methods; any other order is
/// [`ScramError::OutOfTurn`].
pub struct Client {
    credentials: Credentials,
    binding: ClientBinding,
    nonce: String,
    state: State,
}

enum State {
    BeforeFirst,
    Sent,
    /// The final message is sent; this is the signature to expect, and the keys used.
    Final {
        signature: Key,
        keys: Keys,
    },
    Done(Keys),
    Failed,
}

impl Client {
    /// `nonce` is random.
    pub fn new(
        credentials: Credentials,
        binding: ClientBinding,
        nonce: [u8; NONCE_BYTES],
    ) -> Client {
        Client { credentials, binding, nonce: BASE64.encode(nonce), state: State::BeforeFirst }
    }

    /// The mechanism's name for SASLInitialResponse.
    pub const fn mechanism(&self) -> &'static str {
        self.binding.mechanism()
    }

    /// The client-first-message, data of SASLInitialResponse.
    pub fn first(&mut self) -> Result<String, ScramError> {
        match self.state {
            State::BeforeFirst => self.state = State::Sent,
            _ => return Err(ScramError::OutOfTurn),
        }
        Ok(format!("{}{}", self.gs2_header(), self.first_bare()))
    }

    /// Takes the server-first-message; gives the client-final-message, data of SASLResponse.
    /// Costs PBKDF2 unless cached keys fit.
    pub fn on_server_first(&mut self, message: &[u8]) -> Result<String, ScramError> {
        if !matches!(self.state, State::Sent) {
            return Err(ScramError::OutOfTurn);
        }
        self.state = State::Failed;
        let demand = Demand::read(message, self.nonce.as_bytes())?;
        let keys = self.keys_for(&demand)?;

        let mut bound = self.gs2_header().into_bytes();
        if let ClientBinding::EndPoint(hash) = &self.binding {
            bound.extend_from_slice(hash);
        }
        let nonce = String::from_utf8_lossy(demand.nonce);
        let without_proof = format!("c={},r={nonce}", BASE64.encode(bound));

        let first_bare = self.first_bare();
        let auth_message: [&[u8]; 5] =
            [first_bare.as_bytes(), b",", message, b",", without_proof.as_bytes()];
        let stored_key = sha256(&keys.client_key);
        let proof = xor(&keys.client_key, &hmac(&stored_key, &auth_message));
        let signature = hmac(&keys.server_key, &auth_message);
        self.state = State::Final { signature, keys };
        Ok(format!("{without_proof},p={}", BASE64.encode(proof)))
    }

    /// Takes the server-final-message: the server proves that it knows the secret, too.
    pub fn on_server_final(&mut self, message: &[u8]) -> Result<(), ScramError> {
        let State::Final { signature, keys } = std::mem::replace(&mut self.state, State::Failed)
        else {
            return Err(ScramError::OutOfTurn);
        };
        if message.starts_with(b"e=") {
            return Err(ScramError::Refused);
        }
        let mut attributes = Attributes::new(message)?;
        let value = attributes.value(b'v', "Expected the server's signature.")?;
        let given = decode_key(value, "Malformed server signature.")?;
        if !equal(&given, &signature) {
            return Err(ScramError::WrongServer);
        }
        self.state = State::Done(keys);
        Ok(())
    }

    /// After success: the keys, to be kept for the next log-in of this user at this server.
    pub fn into_keys(self) -> Option<Keys> {
        match self.state {
            State::Done(keys) => Some(keys),
            _ => None,
        }
    }

    fn gs2_header(&self) -> String {
        match self.binding {
            ClientBinding::None => "n,,",
            ClientBinding::NotOffered => "y,,",
            ClientBinding::EndPoint(_) => "p=tls-server-end-point,,",
        }
        .to_owned()
    }

    fn first_bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    fn keys_for(&self, demand: &Demand<'_>) -> Result<Keys, ScramError> {
        let fit = |keys: &&Keys| keys.fit(&demand.salt, demand.iterations);
        match &self.credentials {
            Credentials::Keys(keys) => {
                Some(keys).filter(fit).cloned().ok_or(ScramError::OtherSecret)
            }
            Credentials::Password { password, cached } => Ok(cached
                .as_ref()
                .filter(fit)
                .cloned()
                .unwrap_or_else(|| Keys::of(password, &demand.salt, demand.iterations))),
        }
    }
}

/// A server-first-message.
struct Demand<'a> {
    /// Ours and the server's.
    nonce: &'a [u8],
    salt: Vec<u8>,
    iterations: u32,
}

impl<'a> Demand<'a> {
    fn read(message: &'a [u8], our_nonce: &[u8]) -> Result<Demand<'a>, ScramError> {
        let malformed = ScramError::Malformed;
        if message.starts_with(b"e=") {
            return Err(ScramError::Refused);
        }
        let mut attributes = Attributes::new(message)?;
        let nonce = attributes.value(b'r', "Expected a nonce.")?;
        if !nonce.starts_with(our_nonce) || nonce.len() == our_nonce.len() || !is_nonce(nonce) {
            return Err(malformed("Nonce does not match."));
        }
        let salt = attributes.value(b's', "Expected a salt.")?;
        let salt = BASE64.decode(salt).map_err(|_not_base64| malformed("Malformed salt."))?;
        if salt.is_empty() || salt.len() > SCRAM_SALT_BYTES_MAX {
            return Err(malformed("Malformed salt."));
        }
        let iterations = attributes.value(b'i', "Expected an iteration count.")?;
        let iterations = std::str::from_utf8(iterations)
            .ok()
            .and_then(|text| text.parse::<u32>().ok())
            .filter(|iterations| *iterations > 0)
            .ok_or(malformed("Malformed iteration count."))?;
        if iterations > SCRAM_ITERATIONS_MAX {
            return Err(ScramError::TooManyIterations);
        }
        Ok(Demand { nonce, salt, iterations })
    }
}
