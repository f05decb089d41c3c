//! placeholder
pub mod mailbox;
pub mod bridge;
pub mod limits;
pub mod log;
pub mod metrics;
pub mod tls;
