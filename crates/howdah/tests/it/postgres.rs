//! `howdah up` with a real server.

mod computes;
mod life;
mod pages;
