//! The versioned store: what is kept on disk and in an object store. Knows no Postgres. See README.md.

pub mod bucket;
mod cache;
pub mod entry;
pub mod key;
pub mod layer;
pub mod layer_map;
pub mod limits;
pub mod manifest;
pub mod store;
pub mod turn;
pub mod version;
