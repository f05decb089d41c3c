//! The attributes of SCRAM messages: `x=value`, separated by commas (RFC 5802, section 5.1).

use base64::Engine as _;

use super::{BASE64, Key, ScramError};
use crate::limits::SCRAM_MESSAGE_BYTES_MAX;

/// Reads attributes in the order in which they must stand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub(super) const fn new(message: &'a [u8]) -> Result<Attributes<'a>, ScramError> {
        if message.len() > SCRAM_MESSAGE_BYTES_MAX {
            return Err(ScramError::Malformed("The message is too long."));
        }
        Ok(Attributes { rest: message })
    }

    /// Everything up to the next comma, which is taken as well.
    pub(super) fn part(&mut self) -> &'a [u8] {
        let end = self.rest.iter().position(|b| *b == b',').unwrap_or(self.rest.len());
        let (part, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, &[]));
        self.rest = rest.get(1..).unwrap_or_default();
        part
    }

    /// The value of the next attribute, which must be this one.
    pub(super) fn value(
        &mut self,
        name: u8,
        otherwise: &'static str,
    ) -> Result<&'a [u8], ScramError> {
        match self.part() {
            [first, b'=', value @ ..] if *first == name => Ok(value),
            _ => Err(ScramError::Malformed(otherwise)),
        }
    }

    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

/// A nonce: printable ASCII without comma, at least one character.
pub(super) fn is_nonce(nonce: &[u8]) -> bool {
    !nonce.is_empty() && nonce.iter().all(|b| matches!(b, 0x21..=0x2B | 0x2D..=0x7E))
}

pub(super) fn decode_key(value: &[u8], otherwise: &'static str) -> Result<Key, ScramError> {
    let bytes = BASE64.decode(value).map_err(|_not_base64| ScramError::Malformed(otherwise))?;
    bytes.try_into().map_err(|_other_length| ScramError::Malformed(otherwise))
}
