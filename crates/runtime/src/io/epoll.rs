//! Linux readiness.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

use super::Backend;
use super::readiness::{Event, Interest, Poller};
use crate::limits::EVENTS_PER_TURN_MAX;

pub(super) struct Epoll {
    epoll: OwnedFd,
    ready: Vec<epoll::Event>,
}

impl Epoll {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, ready: Vec::with_capacity(EVENTS_PER_TURN_MAX) })
    }
}

fn flags(interest: Interest) -> EventFlags {
    let edges = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
    match interest {
        Interest::Read => edges,
        Interest::ReadWrite => edges | EventFlags::OUT,
        Interest::ReadOnce => EventFlags::IN | EventFlags::ONESHOT,
    }
}

impl Poller for Epoll {
    fn backend(&self) -> Backend {
        Backend::Epoll
    }

    fn add(&mut self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(token), flags(interest))?)
    }

    fn change(&mut self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, fd, EventData::new_u64(token), flags(interest))?)
    }

    fn remove(&mut self, fd: BorrowedFd<'_>) {
        let _gone = epoll::delete(&self.epoll, fd);
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        // Rounded up to what epoll_pwait takes, or a core would spin through the last millisecond.
        let timeout = timeout.map(|wait| {
            let millis = i64::try_from(wait.as_nanos().div_ceil(1_000_000))
                .unwrap_or(i64::MAX)
                .min(WAIT_MILLIS_MAX);
            Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 }
        });
        self.ready.clear();
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut self.ready),
            timeout.as_ref(),
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        events.extend(self.ready.iter().map(|event| {
            let flags = event.flags;
            let broken = flags.intersects(EventFlags::HUP | EventFlags::ERR);
            Event {
                token: event.data.u64(),
                readable: broken || flags.intersects(EventFlags::IN | EventFlags::RDHUP),
                writable: broken || flags.contains(EventFlags::OUT),
                hangup: broken || flags.contains(EventFlags::RDHUP),
            }
        }));
        Ok(())
    }
}

/// About three days, below what the kernel's argument holds; waking up that often costs nothing.
const WAIT_MILLIS_MAX: i64 = 1 << 28;
