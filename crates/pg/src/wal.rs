//! The write-ahead log: from bytes to records, their blocks and what they tell besides page changes.
//!
//! Decoding follows the flags and block references that are present, not the version: minor releases
//! have changed which blocks a record names.

pub mod block;
pub mod cursor;
pub mod error;
pub mod image;
pub mod reader;
pub mod record;
pub mod rmgr;
pub mod segment;
