//! Integration tests of the versioned store.

mod bucket;
mod layer;
mod store;
