//! `howdah up` with a real server.

mod life;
mod pages;
