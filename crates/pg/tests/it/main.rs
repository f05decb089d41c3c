//! Integration tests of `pg`; those in modules named `postgres` start a real server.

mod auth;
#[cfg(test)]
mod boot;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod datadir;
#[cfg(test)]
mod redo;
#[cfg(test)]
mod state;
#[cfg(test)]
mod wal;
mod wire;
#[cfg(test)]
mod workload;
