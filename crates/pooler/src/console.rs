//! The console: a virtual database in which administrators look at the pooler and steer it.

pub mod snapshot;

/// Names of the virtual database; `pgbouncer` is there for existing tools.
pub const CONSOLE_DATABASES: [&str; 2] = ["howdah", "pgbouncer"];
