//! Integration tests of `pg`; those in modules named `postgres` start a real server.

mod cluster;
mod wal;
mod workload;
