//! Readiness on FreeBSD and macOS. Type-checked by us, run by nobody yet; all it shares with epoll is
//! tested there and under a scripted poller.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::kqueue::{self, EventFilter, EventFlags};
use rustix::io::Errno;

use super::Backend;
use super::readiness::{Event, Interest, Poller};
use crate::limits::EVENTS_PER_TURN_MAX;
use crate::sys::kqueue::kevent;

pub(super) struct Kqueue {
    kqueue: OwnedFd,
    ready: Vec<kqueue::Event>,
}

impl Kqueue {
    pub(super) fn new() -> io::Result<Self> {
        let kqueue = kqueue::kqueue()?;
        rustix::io::fcntl_setfd(&kqueue, rustix::io::FdFlags::CLOEXEC)?;
        Ok(Self { kqueue, ready: Vec::with_capacity(EVENTS_PER_TURN_MAX) })
    }

    fn change(&self, filter: EventFilter, flags: EventFlags, token: u64) -> io::Result<()> {
        let data = std::ptr::without_provenance_mut(token as usize);
        kevent(&self.kqueue, &[kqueue::Event::new(filter, flags, data)], &mut Vec::new(), None)
    }

    /// Adding a filter again changes it, and reports again what is ready now.
    fn watch(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        let fd = fd.as_raw_fd();
        let edges = EventFlags::ADD | EventFlags::CLEAR;
        match interest {
            Interest::Read => self.change(EventFilter::Read(fd), edges, token),
            Interest::ReadOnce => {
                self.change(EventFilter::Read(fd), EventFlags::ADD | EventFlags::ONESHOT, token)
            }
            Interest::ReadWrite => {
                self.change(EventFilter::Read(fd), edges, token)?;
                self.change(EventFilter::Write(fd), edges, token)
            }
        }
    }
}

impl Poller for Kqueue {
    fn backend(&self) -> Backend {
        Backend::Kqueue
    }

    fn add(&mut self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        self.watch(fd, token, interest)
    }

    fn change(&mut self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        if interest != Interest::ReadWrite {
            // It may not be there, which is what is wanted.
            let _absent =
                Self::change(self, EventFilter::Write(fd.as_raw_fd()), EventFlags::DELETE, token);
        }
        self.watch(fd, token, interest)
    }

    fn remove(&mut self, fd: BorrowedFd<'_>) {
        for filter in [EventFilter::Read(fd.as_raw_fd()), EventFilter::Write(fd.as_raw_fd())] {
            let _absent = Self::change(self, filter, EventFlags::DELETE, 0);
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let timeout = timeout.map(|wait| Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(WAIT_SECONDS_MAX).min(WAIT_SECONDS_MAX),
            tv_nsec: wait.subsec_nanos().into(),
        });
        self.ready.clear();
        match kevent(&self.kqueue, &[], &mut self.ready, timeout.as_ref()) {
            Ok(()) => {}
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        events.extend(self.ready.iter().map(|event| {
            let reading = matches!(event.filter(), EventFilter::Read(_));
            let ended = event.flags().contains(EventFlags::EOF);
            Event {
                token: event.udata().addr() as u64,
                readable: reading,
                writable: !reading,
                hangup: reading && ended,
            }
        }));
        Ok(())
    }
}

/// About a day: systems refuse very long waits, and waking up that often costs nothing.
const WAIT_SECONDS_MAX: i64 = 1 << 17;
