//! Client connections in, server connections out: the connection pooler.
//!
//! Reading order: `listener` accepts, `frontend` brings a client through start-up and log-in,
//! `router` finds its `route`, `client` is what remains of it, `relay` moves its messages to and
//! from a `server` that its route's `pool` lends it and `backend` has opened. README.md has the rules.

mod applet;
mod auth;
mod backend;
mod cancel;
mod census;
mod client;
pub mod command;
pub mod console;
mod console_client;
mod control;
mod cron;
mod frontend;
mod handshake;
pub mod hba;
mod home;
mod limits;
mod listener;
mod lookup;
mod names;
mod orders;
mod parameters;
pub mod pgbouncer_ini;
mod pool;
mod prepared;
mod queue;
mod registry;
mod relay;
mod replication;
mod reset;
pub mod resolver;
mod route;
mod router;
pub mod rules;
mod server;
pub mod settings;
mod spelling;
pub mod stats;
mod suspension;
mod target;
mod tls;
pub mod userlist;

pub use applet::{Pooler, app};
pub use control::{Load, PoolerOptions};
pub use router::links::Links;
