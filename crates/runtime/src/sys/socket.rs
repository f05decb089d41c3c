//! A socket option that rustix does not know.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// From `<netinet/in.h>` and `<linux/tcp.h>`: the same on every architecture.
const IPPROTO_TCP: c_int = 6;
const TCP_DEFER_ACCEPT: c_int = 9;

/// Of the option's value, a C int.
const LENGTH: u32 = 4;
const _: () = assert!(size_of::<c_int>() == LENGTH as usize);

unsafe extern "C" {
    /// POSIX setsockopt(2), of the C library that the standard library is linked with.
    fn setsockopt(
        socket: c_int,
        level: c_int,
        name: c_int,
        value: *const c_void,
        length: u32,
    ) -> c_int;
}

/// Has a listener's connections wait in the kernel until their first bytes have come, or `seconds` have passed
/// (tcp(7), `TCP_DEFER_ACCEPT`).
pub(crate) fn defer_accept(listener: BorrowedFd<'_>, seconds: u32) -> io::Result<()> {
    let value = c_int::try_from(seconds).unwrap_or(c_int::MAX);
    // SAFETY: the descriptor is open while it is borrowed, and the kernel reads `LENGTH` bytes of `value`, which is
    // that large and outlives the call.
    let result = unsafe {
        setsockopt(
            listener.as_raw_fd(),
            IPPROTO_TCP,
            TCP_DEFER_ACCEPT,
            (&raw const value).cast(),
            LENGTH,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
