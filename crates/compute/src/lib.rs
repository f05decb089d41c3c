//! A stock Postgres on a mounted branch of the page server. See README.md.

// The mount is the Linux kernel's FUSE.
#![cfg(target_os = "linux")]

pub mod boot_set;
pub mod branch;
pub mod carried;
pub mod error;
pub mod file;
pub mod fuse;
pub mod limits;
pub mod mount;
mod open_files;
pub mod pages;
pub mod places;
pub mod run;
pub mod server;
pub mod settings;
pub mod skeleton;
pub mod tree;
