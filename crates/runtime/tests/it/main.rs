//! The runtime from outside: whole processes, real sockets.

mod descriptors;
mod nodepool;
mod scenarios;
