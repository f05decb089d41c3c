//! The versioned store: what is kept on disk and in an object store. Knows no Postgres. See README.md.

pub mod bucket;
pub mod limits;
