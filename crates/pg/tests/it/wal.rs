//! Decoding of the WAL: against `pg_waldump`, and under damage.

mod postgres;
mod stream;
mod writer;
