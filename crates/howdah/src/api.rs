//! The HTTP API of this process, and the questions that commands ask a running one.

pub mod client;
