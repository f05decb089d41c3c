//! `howdah up` with a real server.

mod computes;
mod life;
mod mounted;
mod pages;
mod primary;
mod replicas;
