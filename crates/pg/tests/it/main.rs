//! Integration tests of `pg`; those in modules named `postgres` start a real server.

mod auth;
mod cluster;
mod wal;
mod wire;
mod workload;
