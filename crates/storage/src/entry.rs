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

/// Bytes of an entry in a block beside its payload: key, version, flags, length.
pub const ENTRY_HEAD_BYTES: usize = Key::BYTES + 8 + 1 + 4;

impl Entry<'_> {
    /// Appends the entry's bytes: see DESIGN.md.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.key.to_bytes());
        out.extend_from_slice(&self.version.0.to_be_bytes());
        out.push(u8::from(self.whole));
        // A payload is bounded by the longest record.
        out.extend_from_slice(&(self.payload.len() as u32).to_be_bytes());
        out.extend_from_slice(self.payload);
    }

    pub fn to_owned(self) -> OwnedEntry {
        let Entry { key, version, whole, payload } = self;
        OwnedEntry { key, version, whole, payload: payload.to_vec() }
    }
}

impl<'a> Entry<'a> {
    /// Takes an entry from the front of a block; `None` if the bytes are none.
    pub fn take(block: &mut &'a [u8]) -> Option<Entry<'a>> {
        let (head, rest) = block.split_first_chunk::<ENTRY_HEAD_BYTES>()?;
        let key = Key::from_bytes(head.first_chunk()?);
        let version = Version(u64::from_be_bytes(*head[Key::BYTES..].first_chunk()?));
        let whole = head[Key::BYTES + 8] != 0;
        let length = u32::from_be_bytes(*head[Key::BYTES + 9..].first_chunk()?);
        let (payload, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        *block = rest;
        Some(Entry { key, version, whole, payload })
    }
}

impl OwnedEntry {
    pub fn borrow(&self) -> Entry<'_> {
        let OwnedEntry { key, version, whole, ref payload } = *self;
        Entry { key, version, whole, payload }
    }
}
