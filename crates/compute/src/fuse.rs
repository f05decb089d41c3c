//! The kernel's file system protocol: requests as types, answers as bytes.
//!
//! Source: `include/uapi/linux/fuse.h` of Linux, protocol 7.31 and up. All numbers are in the machine's own order.

pub use reply::{Attributes, DirectoryPage, Reply};
pub use request::{Operation, Request, SetAttributes};

mod reply;
mod request;

/// The protocol that we speak; a newer kernel steps down to it.
pub const MAJOR: u32 = 7;
pub const MINOR: u32 = 31;

/// The node that is the root of the mount.
pub const ROOT: u64 = 1;

/// Errors of the kernel's that an answer may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errno {
    NoEntry,
    Io,
    Exists,
    NotDirectory,
    IsDirectory,
    Invalid,
    NoSpace,
    NotPermitted,
    NotImplemented,
    NotEmpty,
    NotSupported,
    Stale,
}

impl Errno {
    /// The number, the same on every architecture that we build for (`asm-generic/errno.h`).
    #[must_use]
    pub const fn number(self) -> i32 {
        match self {
            Errno::NotPermitted => 1,
            Errno::NoEntry => 2,
            Errno::Io => 5,
            Errno::Exists => 17,
            Errno::NotDirectory => 20,
            Errno::IsDirectory => 21,
            Errno::Invalid => 22,
            Errno::NoSpace => 28,
            Errno::NotImplemented => 38,
            Errno::NotEmpty => 39,
            Errno::NotSupported => 95,
            Errno::Stale => 116,
        }
    }

    /// What a local file operation ended with.
    #[must_use]
    pub fn of(error: &std::io::Error) -> Errno {
        match error.kind() {
            std::io::ErrorKind::NotFound => Errno::NoEntry,
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Errno::NoSpace,
            _ => Errno::Io,
        }
    }
}
