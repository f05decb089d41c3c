//! `howdah wal`: what is in WAL segments, and whether we make the same of it as Postgres.

pub(super) mod dump;
mod segments;
pub(super) mod state;
pub(super) mod verify;
