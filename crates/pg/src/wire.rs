//! The frontend/backend protocol, versions 3.0 and 3.2: views over received bytes, builders that
//! append to a vector. Nothing is copied on the way in.
//!
//! A view is made by `read(body)`, where the body is what follows the kind byte and the length
//! word; it checks everything it can check without a session. Formats are those of the chapter
//! "Frontend/Backend Protocol" of the PostgreSQL documentation, sections "Message Formats" and
//! "Streaming Replication Protocol"; error texts are those of `pqformat.c`, `postgres.c` and
//! `backend_startup.c`, so that a client sees from us what it would see from Postgres.

pub mod backend;
pub mod error;
pub mod frontend;
pub mod pagestream;
pub mod read;
pub mod replication;
pub mod startup;
pub mod stream;
pub mod write;

use std::fmt;

use crate::sqlstate::SqlState;

/// A message whose bytes do not follow the protocol. After one of these the connection cannot be
/// trusted to be in step; every one is a protocol violation, 08P01.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A field reaches beyond the end of the message.
    TooShort,
    /// Bytes are left after the last field.
    TrailingBytes,
    /// A string has no terminating zero byte.
    UnterminatedString,
    /// A length is negative where only −1 (NULL) may be.
    NegativeLength,
    /// A Describe or Close that names neither a statement (`S`) nor a portal (`P`).
    Subtype { message: &'static str, subtype: u8 },
    /// Parameter formats are neither none, nor one for all, nor one for each.
    ParameterFormats { formats: usize, parameters: usize },
    /// A value outside what the field can mean.
    Field { message: &'static str, field: &'static str },
    /// No message of this kind goes in this direction.
    Kind(u8),
}

impl Malformed {
    pub const fn sqlstate(&self) -> SqlState {
        SqlState::PROTOCOL_VIOLATION
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::TooShort => f.write_str("insufficient data left in message"),
            Malformed::TrailingBytes | Malformed::NegativeLength => {
                f.write_str("invalid message format")
            }
            Malformed::UnterminatedString => f.write_str("invalid string in message"),
            Malformed::Subtype { message, subtype } => {
                write!(f, "invalid {message} message subtype {subtype}")
            }
            Malformed::ParameterFormats { formats, parameters } => write!(
                f,
                "bind message has {formats} parameter formats but {parameters} parameters"
            ),
            Malformed::Field { message, field } => {
                write!(f, "invalid {field} in {message} message")
            }
            Malformed::Kind(kind) => write!(f, "invalid message type {kind}"),
        }
    }
}

impl std::error::Error for Malformed {}
