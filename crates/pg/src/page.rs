//! Pages of 8 KiB: header, line pointers, tuples, checksum, and the operations that redo needs.
//!
//! Operations place every tuple exactly where Postgres' own (`storage/page/bufpage.c`) would: a rebuilt
//! page must equal the original byte by byte.

pub mod checksum;
pub mod compact;
pub mod diff;
pub mod header;
pub mod item;
pub mod mask;
pub mod tuple;
pub mod vm;

use std::fmt;

/// Bytes of a page (`BLCKSZ`); other sizes are refused where a server tells its own.
pub const PAGE_BYTES: usize = 8192;

/// A page's bytes.
pub type PageBytes = [u8; PAGE_BYTES];

/// A page being read or changed.
#[derive(Debug)]
pub struct Page<'p> {
    pub(crate) bytes: &'p mut PageBytes,
}

impl<'p> Page<'p> {
    pub const fn new(bytes: &'p mut PageBytes) -> Page<'p> {
        Page { bytes }
    }

    /// All of it.
    pub const fn bytes(&self) -> &PageBytes {
        self.bytes
    }
}

/// What is wrong with a page, or with an operation on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageError(pub &'static str);

impl fmt::Display for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for PageError {}
