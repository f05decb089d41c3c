//! Integration tests of the versioned store.

mod bucket;
