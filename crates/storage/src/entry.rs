//! One version of one key.

use std::rc::Rc;

use crate::key::Key;
use crate::layer::block::Block;
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

/// A version where it was read: it keeps the block that it is in in memory.
#[derive(Clone, Debug)]
pub struct FoundEntry {
    block: Rc<Block>,
    number: usize,
    pub version: Version,
    pub whole: bool,
}

impl FoundEntry {
    /// Entry `number` of a block, if it has so many.
    pub(crate) fn new(block: &Rc<Block>, number: usize) -> Option<FoundEntry> {
        let Entry { version, whole, .. } = block.get(number)?;
        Some(FoundEntry { block: Rc::clone(block), number, version, whole })
    }

    pub fn entry(&self) -> Entry<'_> {
        self.block.get(self.number).expect("a block never loses an entry")
    }
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
