//! Namespaces of the process's own.

use std::io;

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Parts from the mounts of others, and if asked from their users too.
///
/// # Errors
/// What the system says.
pub(crate) fn unshare_mounts(users_too: bool) -> io::Result<()> {
    let users = if users_too { UnshareFlags::NEWUSER } else { UnshareFlags::empty() };
    // SAFETY: the danger is in parting with the table of open files, of which other code believes that all threads
    // share it. Neither mounts nor users are such: descriptors stay what they are.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWNS | users) }?)
}
