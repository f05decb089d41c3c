//! Tests with a server.

mod following;
