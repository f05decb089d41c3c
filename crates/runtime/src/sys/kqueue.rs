//! kevent(2): telling the kernel what to watch and asking what happened.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::Timespec;
use rustix::event::kqueue::{Event, kevent_timespec};

/// Hands over `changes`, then appends to `events` (up to its capacity) what happens within `timeout`.
pub(crate) fn kevent(
    kqueue: &OwnedFd,
    changes: &[Event],
    events: &mut Vec<Event>,
    timeout: Option<&Timespec>,
) -> io::Result<()> {
    let found = rustix::buffer::spare_capacity(events);
    // SAFETY: the changes name descriptors that are open now, since callers borrow them; a kqueue forgets a descriptor
    // when it is closed, so a later one of the same number is not watched by mistake.
    unsafe { kevent_timespec(kqueue.as_fd(), changes, found, timeout) }?;
    Ok(())
}
