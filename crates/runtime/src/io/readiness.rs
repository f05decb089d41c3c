//! The driver for kernels that say when a descriptor is ready: everything except how one asks, which
//! is the [`Poller`]'s (epoll, kqueue, and a scripted one in the tests).
//!
//! Invariants:
//! 1. Events are edges: `readable` stays up until a read comes back short or empty, `writable` until a write does.
//!    After a hang-up only end of file or an error ends reading, for there will be no further edge.
//! 2. Bytes are read when the task asks for them, into the buffer given back last. So nothing is read that nobody
//!    wants, an idle connection holds no buffer, and back-pressure is the socket's own.
//! 3. A connection is registered when its task first waits, for reading. Writing is watched when it is stuck for the
//!    first time; on a Unix socket, which reports room after every read of the peer, only while it is stuck.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown, sockopt};

use super::slots::{Id, Kind, Slot, Slots};
use super::socket::{self, Sent};
use super::{Backend, Driver};
use crate::buffer::{self, Chunk};
use crate::clock::{self, Time};
use crate::executor::remote::Bell;
use crate::net::{Address, Detached, ListenOptions};

/// What is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    /// Edges of reading.
    Read,
    /// Edges of both directions.
    ReadWrite,
    /// The level of reading, reported once; then to be asked for again by `change`.
    ReadOnce,
}

/// What the kernel reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) token: u64,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// There will be no further edge of reading.
    pub(super) hangup: bool,
}

/// How readiness is asked for.
pub(super) trait Poller {
    fn backend(&self) -> Backend;

    fn add(&mut self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()>;

    /// Reports again what is ready now.
    fn change(&mut self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()>;

    fn remove(&mut self, fd: BorrowedFd<'_>);

    /// Appends what happens within `timeout`; `None` waits for ever.
    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()>;
}

/// Token of the bell; no entry has this id.
const BELL: u64 = u64::MAX;

pub(super) struct ReadinessDriver<P> {
    poller: P,
    events: Vec<Event>,
    bell: &'static Bell,
}

impl<P: Poller> ReadinessDriver<P> {
    pub(super) fn new(mut poller: P, bell: &'static Bell) -> io::Result<Self> {
        poller.add(bell.as_fd(), BELL, Interest::Read)?;
        Ok(Self { poller, events: Vec::new(), bell })
    }

    fn handle(&mut self, slots: &mut Slots, event: Event) {
        if event.token == BELL {
            self.bell.hush();
            return;
        }
        let id = Id::unpack(event.token);
        let Some(slot) = slots.find(id) else { return };
        if event.readable {
            slot.readable = true;
            slot.hangup |= event.hangup;
            slot.wake_reader();
        }
        // A foreign pipe that hung up is reported as writable as well; only our sockets have something to flush.
        if event.writable && !slot.writable && slot.fd.is_some() {
            slot.writable = true;
            if slot.connecting {
                slot.wake_writer();
            } else {
                self.flush(slots, id);
                self.stop_watching_room(slots.get_mut(id), id);
            }
        }
    }

    /// The kernel takes no more: ask to be told when it does.
    fn watch_room(&mut self, slot: &mut Slot, id: Id) {
        if slot.watches_room {
            return;
        }
        slot.watches_room = true;
        let (fd, token) = (slot.socket().as_fd(), id.pack());
        let asked = if slot.armed {
            self.poller.change(fd, token, Interest::ReadWrite)
        } else {
            self.poller.add(fd, token, Interest::ReadWrite)
        };
        match asked {
            Ok(()) => slot.armed = true,
            Err(error) => slot.fail_sending(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }

    fn stop_watching_room(&mut self, slot: &mut Slot, id: Id) {
        if slot.local && slot.watches_room && slot.out.is_empty() {
            slot.watches_room = false;
            // On failure room is reported for nothing, that is all.
            let _tolerated = self.poller.change(slot.socket().as_fd(), id.pack(), Interest::Read);
        }
    }
}

impl<P: Poller> Driver for ReadinessDriver<P> {
    fn backend(&self) -> Backend {
        self.poller.backend()
    }

    fn time(&self) -> Time {
        Time { monotonic: clock::monotonic(), wall_micros: clock::wall() }
    }

    fn now(&self) -> u64 {
        clock::monotonic()
    }

    fn listen(
        &mut self,
        slots: &mut Slots,
        address: &Address,
        options: &ListenOptions,
    ) -> io::Result<Id> {
        let (fd, deferred) = socket::listening(address, options)?;
        let id = slots.insert_listener(fd, address, deferred);
        let slot = slots.get_mut(id);
        if let Err(error) = self.poller.add(slot.socket().as_fd(), id.pack(), Interest::Read) {
            drop(slots.remove(id));
            return Err(error);
        }
        Ok(id)
    }

    fn poll_accept(
        &mut self,
        slots: &mut Slots,
        listener: Id,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Id, Address)>> {
        let slot = slots.get_mut(listener);
        let (local, deferred) = (slot.local, slot.deferred);
        while slot.readable {
            match socket::accept(slot.socket(), local) {
                Ok((fd, address)) => {
                    let id = slots.insert_stream(fd, local);
                    slots.get_mut(id).readable = deferred;
                    return Poll::Ready(Ok((id, address)));
                }
                Err(Errno::AGAIN) => slot.readable = false,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        slot.wait_to_read(Some(cx));
        Poll::Pending
    }

    fn connect(&mut self, slots: &mut Slots, address: &Address) -> io::Result<Id> {
        let (fd, connected) = socket::connecting(address)?;
        let id = slots.insert_stream(fd, matches!(address, Address::Unix(_)));
        let slot = slots.get_mut(id);
        slot.connecting = !connected;
        slot.writable = connected;
        if slot.connecting {
            self.watch_room(slot, id);
        }
        Ok(id)
    }

    fn poll_connect(
        &mut self,
        slots: &mut Slots,
        id: Id,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let slot = slots.get_mut(id);
        if slot.connecting && !slot.writable {
            slot.wait_to_write(cx, 0);
            return Poll::Pending;
        }
        slot.connecting = false;
        Poll::Ready(sockopt::socket_error(slot.socket())?.map_err(io::Error::from))
    }

    fn poll_recv(
        &mut self,
        slots: &mut Slots,
        id: Id,
        cx: Option<&mut Context<'_>>,
    ) -> Poll<io::Result<Chunk>> {
        let slot = slots.get_mut(id);
        if let Some(end) = slot.receive_end() {
            return Poll::Ready(end);
        }
        while slot.readable {
            let mut bytes = buffer::take();
            let result = recv(slot.socket(), &mut *bytes, RecvFlags::DONTWAIT);
            match result {
                Ok((0, _)) => {
                    buffer::give(bytes);
                    slot.eof = true;
                    return Poll::Ready(Ok(Chunk::empty()));
                }
                Ok((count, _)) => {
                    slot.readable = slot.hangup || count == bytes.len();
                    return Poll::Ready(Ok(Chunk::filled(bytes, count)));
                }
                Err(Errno::AGAIN) => slot.readable = false,
                Err(Errno::INTR) => {}
                Err(error) => {
                    slot.eof = true;
                    slot.receive_error = Some(error);
                    buffer::give(bytes);
                    return Poll::Ready(Err(error.into()));
                }
            }
            buffer::give(bytes);
        }
        if !slot.armed {
            // What is there already is reported, too.
            self.poller.add(slot.socket().as_fd(), id.pack(), Interest::Read)?;
            slot.armed = true;
        }
        slot.wait_to_read(cx);
        Poll::Pending
    }

    fn flush(&mut self, slots: &mut Slots, id: Id) {
        let slot = slots.get_mut(id);
        if slot.writable && !slot.connecting && socket::send_queued(slot) == Sent::Full {
            self.watch_room(slot, id);
        }
    }

    fn flush_dirty(&mut self, slots: &mut Slots) {
        slots.drain_dirty(|slots, id| self.flush(slots, id));
    }

    fn shutdown(&mut self, slots: &mut Slots, id: Id) -> io::Result<()> {
        Ok(shutdown(slots.get_mut(id).socket(), Shutdown::Write)?)
    }

    fn close(&mut self, slots: &mut Slots, id: Id, abort: bool) {
        slots.get_mut(id).begin_close(abort);
        // Closing the last descriptor of a socket takes it out of the kernel's lists.
        let mut slot = slots.remove(id);
        slot.out.clear();
    }

    fn detach(&mut self, slots: &mut Slots, id: Id) -> io::Result<Detached> {
        let mut slot = slots.remove(id);
        if slot.armed
            && let Some(fd) = &slot.fd
        {
            self.poller.remove(fd.as_fd());
        }
        Detached::of(&mut slot)
    }

    fn attach(&mut self, slots: &mut Slots, detached: Detached) -> io::Result<Id> {
        socket::set_nonblocking(&detached.fd, true)?;
        Ok(slots.insert_detached(detached))
    }

    fn watch(&mut self, slots: &mut Slots, fd: BorrowedFd<'_>) -> io::Result<Id> {
        let id = slots.insert(Kind::Watch, None);
        let added = self.poller.add(fd, id.pack(), Interest::ReadOnce);
        match added {
            Ok(()) => {
                slots.get_mut(id).armed = true;
                Ok(id)
            }
            Err(error) => {
                drop(slots.remove(id));
                Err(error)
            }
        }
    }

    fn poll_readable(
        &mut self,
        slots: &mut Slots,
        id: Id,
        fd: BorrowedFd<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let slot = slots.get_mut(id);
        if std::mem::take(&mut slot.readable) {
            slot.armed = false;
            return Poll::Ready(Ok(()));
        }
        slot.wait_to_read(Some(cx));
        if !slot.armed {
            self.poller.change(fd, id.pack(), Interest::ReadOnce)?;
            slot.armed = true;
        }
        Poll::Pending
    }

    fn unwatch(&mut self, slots: &mut Slots, id: Id, fd: BorrowedFd<'_>) {
        self.poller.remove(fd);
        drop(slots.remove(id));
    }

    fn turn(&mut self, slots: &mut Slots, until: Option<u64>) -> io::Result<()> {
        let wait = until.map(|until| match until {
            0 => Duration::ZERO,
            until => Duration::from_nanos(until.saturating_sub(clock::monotonic())),
        });
        let mut events = std::mem::take(&mut self.events);
        let result = self.poller.wait(wait, &mut events);
        for event in events.drain(..) {
            self.handle(slots, event);
        }
        self.events = events;
        result
    }
}

#[cfg(test)]
mod tests;
