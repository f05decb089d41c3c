//! The server's side of an exchange: of us towards an application.

use base64::Engine as _;

use super::message::{Attributes, decode_key, is_nonce};
use super::{BASE64, Keys, NONCE_BYTES, ScramError, Secret, hmac, sha256, xor};
use crate::auth::equal;
use crate::auth::sasl::{SCRAM_SHA_256, SCRAM_SHA_256_PLUS};

/// What the server can bind an exchange to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerBinding {
    /// Not TLS (or a certificate without a usable hash): only SCRAM-SHA-256 was offered.
    None,
    /// TLS, with [`crate::auth::sasl::server_end_point`] of our certificate; both were offered.
    EndPoint(Vec<u8>),
}

/// One exchange. Calls go in the order of the methods.
pub struct Server {
    secret: Secret,
    /// The user does not exist: go on as if, and refuse at the end.
    doomed: bool,
    binding: ServerBinding,
    pub(super) nonce: String,
    state: State,
}

enum State {
    BeforeFirst,
    Sent(Sent),
    Done,
}

/// What the final message is checked against.
struct Sent {
    /// The client's gs2 header and, with channel binding, our certificate's hash.
    bound: Vec<u8>,
    with_binding: bool,
    /// Both nonces.
    nonce: String,
    client_first_bare: Vec<u8>,
    server_first: String,
}

/// A client that knows the password.
#[derive(Debug)]
pub struct Accepted {
    /// The server-final-message, data of AuthenticationSASLFinal.
    pub server_final: String,
    /// With these we can log in as this user wherever the same secret is stored.
    pub keys: Keys,
}

impl Server {
    /// `nonce` is random.
    pub fn new(secret: Secret, binding: ServerBinding, nonce: [u8; NONCE_BYTES]) -> Server {
        let nonce = BASE64.encode(nonce);
        Server { secret, doomed: false, binding, nonce, state: State::BeforeFirst }
    }

    /// For a user who does not exist or cannot use SCRAM: the exchange runs as with any other and
    /// ends with [`ScramError::WrongPassword`]. `installation_nonce` is random but always the same.
    pub fn mock(
        user: &[u8],
        installation_nonce: &[u8],
        binding: ServerBinding,
        nonce: [u8; NONCE_BYTES],
    ) -> Server {
        let server = Server::new(Secret::mock(user, installation_nonce), binding, nonce);
        Server { doomed: true, ..server }
    }

    /// Takes the mechanism and the client-first-message of SASLInitialResponse; gives the
    /// server-first-message, data of AuthenticationSASLContinue.
    ///
    /// A client that sends no data with SASLInitialResponse gets an empty
    /// AuthenticationSASLContinue and its first message comes as SASLResponse.
    pub fn on_client_first(
        &mut self,
        mechanism: &[u8],
        message: &[u8],
    ) -> Result<String, ScramError> {
        if !matches!(self.state, State::BeforeFirst) {
            return Err(ScramError::OutOfTurn);
        }
        self.state = State::Done;
        let plus = match self.binding {
            _ if mechanism == SCRAM_SHA_256.as_bytes() => false,
            ServerBinding::EndPoint(_) if mechanism == SCRAM_SHA_256_PLUS.as_bytes() => true,
            _ => {
                return Err(ScramError::Malformed(
                    "The client selected an authentication mechanism that was not offered.",
                ));
            }
        };
        let first = ClientFirst::read(message)?;
        let bound = self.bound(first.flag, plus)?;
        let nonce = format!("{}{}", first.nonce, self.nonce);
        let salt = BASE64.encode(&self.secret.salt);
        let server_first = format!("r={nonce},s={salt},i={}", self.secret.iterations);
        self.state = State::Sent(Sent {
            bound,
            with_binding: plus,
            nonce,
            client_first_bare: first.bare.to_vec(),
            server_first: server_first.clone(),
        });
        Ok(server_first)
    }

    /// Takes the client-final-message, data of SASLResponse, and decides.
    pub fn on_client_final(&mut self, message: &[u8]) -> Result<Accepted, ScramError> {
        let State::Sent(sent) = std::mem::replace(&mut self.state, State::Done) else {
            return Err(ScramError::OutOfTurn);
        };
        let last = ClientFinal::read(message)?;
        let bound = BASE64.encode(&sent.bound);
        if !equal(last.bound, bound.as_bytes()) {
            return Err(if sent.with_binding {
                ScramError::ChannelBinding("The client is bound to another certificate.")
            } else {
                ScramError::Malformed(
                    "Unexpected channel-binding attribute in client-final-message.",
                )
            });
        }
        if !equal(last.nonce, sent.nonce.as_bytes()) {
            return Err(ScramError::Malformed("Nonce does not match."));
        }
        let proof = decode_key(last.proof, "Malformed proof in client-final-message.")?;

        let auth_message: [&[u8]; 5] =
            [&sent.client_first_bare, b",", sent.server_first.as_bytes(), b",", last.without_proof];
        let client_key = xor(&proof, &hmac(&self.secret.stored_key, &auth_message));
        if !equal(&sha256(&client_key), &self.secret.stored_key) || self.doomed {
            return Err(ScramError::WrongPassword);
        }
        let signature = hmac(&self.secret.server_key, &auth_message);
        let keys = Keys {
            iterations: self.secret.iterations,
            salt: self.secret.salt.clone(),
            client_key,
            server_key: self.secret.server_key,
        };
        Ok(Accepted { server_final: format!("v={}", BASE64.encode(signature)), keys })
    }

    /// What the client must name as `c=`: its own gs2 header, then our certificate's hash.
    fn bound(&self, flag: Flag, plus: bool) -> Result<Vec<u8>, ScramError> {
        match (flag, &self.binding) {
            (Flag::EndPoint, ServerBinding::EndPoint(hash)) if plus => {
                Ok([b"p=tls-server-end-point,,", hash.as_slice()].concat())
            }
            (Flag::EndPoint, _) => Err(ScramError::Malformed(
                "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel binding data.",
            )),
            (Flag::None | Flag::NotOffered, _) if plus => Err(ScramError::Malformed(
                "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data.",
            )),
            (Flag::NotOffered, ServerBinding::EndPoint(_)) => Err(ScramError::ChannelBinding(
                "The client supports SCRAM channel binding but thinks the server does not.  However, this server does support channel binding.",
            )),
            (Flag::NotOffered, ServerBinding::None) => Ok(b"y,,".to_vec()),
            (Flag::None, _) => Ok(b"n,,".to_vec()),
        }
    }
}

/// What the client says of channel binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flag {
    None,
    NotOffered,
    EndPoint,
}

struct ClientFirst<'a> {
    flag: Flag,
    nonce: &'a str,
    /// All after the gs2 header.
    bare: &'a [u8],
}

impl<'a> ClientFirst<'a> {
    fn read(message: &'a [u8]) -> Result<ClientFirst<'a>, ScramError> {
        let malformed = ScramError::Malformed;
        let mut attributes = Attributes::new(message)?;
        let flag = match attributes.part() {
            b"n" => Flag::None,
            b"y" => Flag::NotOffered,
            b"p=tls-server-end-point" => Flag::EndPoint,
            [b'p', b'=', ..] => return Err(malformed("Unsupported channel-binding type.")),
            _ => return Err(malformed("Unexpected channel-binding flag.")),
        };
        match attributes.part() {
            b"" => {}
            [b'a', b'=', ..] => {
                return Err(ScramError::Unsupported(
                    "client uses authorization identity, but it is not supported",
                ));
            }
            _ => return Err(malformed("Unexpected attribute in client-first-message.")),
        }
        let bare = attributes.rest();
        if bare.starts_with(b"m=") {
            return Err(ScramError::Unsupported("client requires an unsupported SCRAM extension"));
        }
        attributes.value(b'n', "Expected a user name.")?;
        let nonce = attributes.value(b'r', "Expected a nonce.")?;
        match std::str::from_utf8(nonce) {
            Ok(nonce) if is_nonce(nonce.as_bytes()) => Ok(ClientFirst { flag, nonce, bare }),
            _ => Err(malformed("Non-printable characters in SCRAM nonce.")),
        }
    }
}

struct ClientFinal<'a> {
    bound: &'a [u8],
    nonce: &'a [u8],
    proof: &'a [u8],
    /// All before the proof and its comma.
    without_proof: &'a [u8],
}

impl<'a> ClientFinal<'a> {
    fn read(message: &'a [u8]) -> Result<ClientFinal<'a>, ScramError> {
        let mut attributes = Attributes::new(message)?;
        let bound = attributes.value(b'c', "Expected a channel binding.")?;
        let nonce = attributes.value(b'r', "Expected a nonce.")?;
        // Extensions may follow and are ignored; the proof is always the last.
        loop {
            let before = attributes.rest();
            let without = message.len().saturating_sub(before.len() + 1);
            match attributes.part() {
                [b'p', b'=', proof @ ..] if attributes.rest().is_empty() => {
                    let without_proof = message.get(..without).unwrap_or_default();
                    return Ok(ClientFinal { bound, nonce, proof, without_proof });
                }
                [name, b'=', ..] if *name != b'p' && name.is_ascii_alphabetic() => {}
                _ => {
                    return Err(ScramError::Malformed(
                        "Expected a proof at the end of client-final-message.",
                    ));
                }
            }
        }
    }
}
