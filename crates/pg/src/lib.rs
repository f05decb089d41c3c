//! What PostgreSQL defines: wire protocol, authentication, WAL, pages, redo.
//!
//! Pure: bytes in, values or errors out. No I/O, no clock, no `unsafe`, no panic on any input.
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::panic, clippy::expect_used, clippy::unwrap_used)]

pub mod auth;
pub mod datadir;
pub mod limits;
pub mod lsn;
pub mod oid;
pub mod page;
pub mod redo;
pub mod replay;
pub mod sql;
pub mod sqlstate;
pub mod state;
pub mod version;
pub mod wal;
pub mod wire;
