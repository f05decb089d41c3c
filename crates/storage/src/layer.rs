//! Layer files: entries sorted by key and version, in compressed blocks, with an index of the blocks at the end.
//!
//! Written once, never changed. Bytes in DESIGN.md. Every block, the index and the footer bear a CRC-32C; whatever does not
//! match is an error that names file and place, never an answer.

use std::io;
use std::path::{Path, PathBuf};

use crate::key::Key;
use crate::version::Version;

pub mod block;
pub(crate) mod index;
pub mod reader;
pub mod writer;

/// What a layer says about its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Versions as they came; wide, and merged with its like before long.
    Level0,
    /// Versions, in a range of keys beside which its like have others.
    Delta,
    /// Of every key in its range, all that a reader at its version or later needs of this version and earlier: a key that it
    /// does not have has no earlier version in this store.
    Image,
}

impl Kind {
    pub(crate) fn to_byte(self) -> u8 {
        match self {
            Kind::Level0 => 0,
            Kind::Delta => 1,
            Kind::Image => 2,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Kind> {
        [Kind::Level0, Kind::Delta, Kind::Image].into_iter().find(|kind| kind.to_byte() == byte)
    }
}

/// Where a layer's file is. At least one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// In the timeline's directory.
    pub local: bool,
    /// In the object store.
    pub remote: bool,
}

impl Place {
    pub const LOCAL: Place = Place { local: true, remote: false };
}

/// What a layer covers and what it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerInfo {
    /// Of its file's name; never used again.
    pub number: u64,
    pub kind: Kind,
    pub place: Place,
    /// The range of keys, both ends in it.
    pub first: Key,
    pub last: Key,
    /// The range of versions, both ends in it. An image has one: its own, though the entries in it may be older.
    pub oldest: Version,
    pub newest: Version,
    /// Of the file.
    pub bytes: u64,
    /// Of the entries before compression.
    pub raw_bytes: u64,
    pub entries: u64,
}

impl LayerInfo {
    pub fn covers(&self, key: Key) -> bool {
        self.first <= key && key <= self.last
    }
}

/// The file of the layer of this number.
pub fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:016x}.layer"))
}

/// The number in a layer file's name.
pub fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".layer").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

fn damaged(path: &Path, what: &str) -> io::Error {
    let message = format!("layer \"{}\" {what}", path.display());
    io::Error::new(io::ErrorKind::InvalidData, message)
}
