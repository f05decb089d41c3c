//! One version of one key.

use crate::key::Key;
use crate::version::Version;

/// A version that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedEntry {
    pub key: Key,
    pub version: Version,
    /// Nothing before it matters: it tells all of the value.
    pub whole: bool,
    /// The owner's bytes.
    pub payload: Vec<u8>,
}

/// The same, borrowed from the block that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub key: Key,
    pub version: Version,
    pub whole: bool,
    pub payload: &'a [u8],
}

impl Entry<'_> {
    pub fn to_owned(self) -> OwnedEntry {
        let Entry { key, version, whole, payload } = self;
        OwnedEntry { key, version, whole, payload: payload.to_vec() }
    }
}

impl OwnedEntry {
    pub fn borrow(&self) -> Entry<'_> {
        let OwnedEntry { key, version, whole, ref payload } = *self;
        Entry { key, version, whole, payload }
    }
}
