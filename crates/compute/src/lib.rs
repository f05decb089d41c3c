//! A stock Postgres on a mounted branch of the page server. See README.md.

pub mod branch;
pub mod error;
pub mod file;
pub mod fuse;
pub mod limits;
pub mod mount;
mod open_files;
pub mod pages;
pub mod tree;
