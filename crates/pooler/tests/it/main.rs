//! Integration tests of the pooler, one binary.

mod settings;
