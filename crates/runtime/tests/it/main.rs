//! The runtime from outside: whole processes, real sockets.

mod nodepool;
mod scenarios;
