//! Pages of 8 KiB: header, line pointers, tuples, checksum, and the operations that redo needs.

/// Bytes of a page (`BLCKSZ`); other sizes are refused where a server tells its own.
pub const PAGE_BYTES: usize = 8192;

/// A page's bytes.
pub type PageBytes = [u8; PAGE_BYTES];
