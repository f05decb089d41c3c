//! Command line, configuration, API and the wiring of pooler, page server and the supervised Postgres.
//!
//! In reading order: `cli` is what can be asked for; `up` and `node` are what runs; `postgres` supervises the
//! server; `computes` starts servers on branches and moments; `import` takes in a cluster that runs elsewhere; `api` answers over HTTP; `config` is `howdah.toml`.

pub mod api;
pub mod cli;
pub mod computes;
pub mod config;
pub mod error;
pub mod import;
pub mod limits;
pub mod node;
pub mod output;
pub mod pooling;
pub mod postgres;
pub mod up;
