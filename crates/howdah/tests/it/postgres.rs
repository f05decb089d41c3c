//! `howdah up` with a real server.

mod computes;
mod import;
mod life;
mod mounted;
mod pages;
mod primary;
mod readme;
mod replicas;
mod restores;
mod s3;
mod slots;
mod subscriptions;
mod wal;
