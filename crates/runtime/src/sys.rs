//! The only unsafe code of the repository: what the compiler cannot check about the kernel and about
//! task handles, wrapped so that the rest of the crate can be safe.

#![expect(
    unsafe_code,
    reason = "the kernel's and the waker's contracts are kept here, block by block"
)]

#[cfg(not(target_os = "linux"))]
pub(crate) mod kqueue;
#[cfg(target_os = "linux")]
pub(crate) mod namespace;
pub(crate) mod process;
#[cfg(target_os = "linux")]
mod provided;
#[cfg(target_os = "linux")]
pub(crate) mod ring;
#[cfg(target_os = "linux")]
pub(crate) mod socket;
pub(crate) mod waker;
