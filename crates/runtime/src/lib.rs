//! The per-core machine: I/O drivers, tasks, clocks, messages. Knows no Postgres. See README.md.

pub mod api;
pub mod app;
pub mod bridge;
pub mod buffer;
pub mod clock;
pub mod collections;
pub mod executor;
pub mod fs;
#[cfg(target_os = "linux")]
pub mod fuse;
pub mod identity;
pub mod io;
pub mod limits;
pub mod log;
pub mod mailbox;
pub mod metrics;
pub mod net;
pub mod nodepool;
pub mod process;
pub mod random;
pub mod signal;
mod sys;
pub mod tls;
pub mod watchdog;
