//! Integration tests of the page server.

mod cluster;
mod service;
mod tools;
mod wire;

/// Against a stock Postgres 15 that each test starts for itself.
mod postgres;
