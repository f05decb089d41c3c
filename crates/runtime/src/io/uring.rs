//! The io_uring driver: one system call per turn submits what the turn asked for and waits for what
//! comes of it.
//!
//! Invariants:
//! 1. A connection is armed once and receives until end of file, back-pressure or exhaustion. Bytes land in its
//!    queue, so a receive future owns nothing.
//! 2. `Slot::operations` counts what the kernel still has to report about an entry, cancellations included. The
//!    descriptor is closed and the entry freed at zero, so no report and no cancellation ever meets a reused one.
//! 3. Exhausted buffers park a connection until buffers have come back; it is armed again then, not before.
//! 4. Sockets are left blocking, or the kernel would answer "try again" instead of waiting; our own calls say
//!    `MSG_DONTWAIT`.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown, sockopt};

use super::slots::{Cancelling, Id, Kind, Slots};
use super::socket::{self, Sent};
use super::{Backend, Driver, FileToken};
use crate::buffer::{self, Chunk};
use crate::clock::{self, Time};
use crate::executor::remote::Bell;
use crate::fs::{Operation, Outcome};
use crate::limits::{
    ACCEPTED_MAX, DIRECT_SEND_BYTES, DIRECT_SEND_CONNECTIONS, RECEIVE_QUEUE_BYTES_MAX,
};
use crate::net::{Address, Detached, ListenOptions};
use crate::sys::ring::{Completion, Ring, Wait};

mod files;

pub(super) struct Uring {
    ring: Ring,
    bell: &'static Bell,
    files: files::Files,
    /// Connections that wait for buffers.
    starved: VecDeque<Id>,
    /// Below this many buffers with the kernel, bytes are copied and their buffer is given back at once.
    scarce: usize,
    completions: Vec<Completion>,
}

impl Uring {
    pub(super) fn new(
        buffers: usize,
        buffer_bytes: usize,
        bell: &'static Bell,
    ) -> io::Result<Self> {
        let count = u16::try_from(buffers).ok().filter(|count| count.is_power_of_two());
        let invalid = || {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "buffers must be a power of two up to 32768",
            )
        };
        let mut ring = Ring::open(count.ok_or_else(invalid)?)?;
        for _ in 0..buffers {
            // Written to, so that the memory is there before the first connection needs it.
            let mut buffer = vec![0; buffer_bytes].into_boxed_slice();
            buffer.fill(1);
            if ring.lend(buffer).is_err() {
                break;
            }
        }
        ring.publish();
        ring.watch_bell(bell.as_fd());
        let (files, starved) = (files::Files::default(), VecDeque::new());
        Ok(Self { ring, bell, files, starved, scarce: buffers / 4, completions: Vec::new() })
    }

    fn arm(&mut self, slots: &mut Slots, id: Id) {
        let slot = slots.get_mut(id);
        if slot.armed || slot.eof || slot.kind != Kind::Stream {
            return;
        }
        slot.armed = true;
        slot.operations += 1;
        self.ring.receive(id, slot.socket().as_fd());
    }

    /// Ends whatever the kernel does for the entry.
    fn cancel(&mut self, slots: &mut Slots, id: Id) {
        let slot = slots.get_mut(id);
        if slot.cancelling != Cancelling::No {
            slot.cancelling = Cancelling::Again;
            return;
        }
        slot.cancelling = Cancelling::Once;
        let receives_only = slot.armed && slot.operations == 1;
        slot.operations += 1;
        match &slot.fd {
            None => self.ring.cancel_poll(id),
            Some(_) if receives_only => self.ring.cancel_receive(id),
            Some(fd) => self.ring.cancel_all(id, fd.as_fd()),
        }
    }

    /// Hands the send queue to the kernel, if it has nothing of this connection yet.
    fn submit_send(&mut self, slots: &mut Slots, id: Id) {
        let slot = slots.get_mut(id);
        if slot.in_flight > 0 || slot.out.is_empty() {
            return;
        }
        slot.in_flight = slot.out.len();
        slot.operations += 1;
        let (bytes, sent) = slot.out.take();
        self.ring.send(id, slot.socket().as_fd(), bytes, sent);
    }

    /// Buffers that tasks have given back go to the kernel, and those who waited for them are armed again.
    fn lend_buffers(&mut self, slots: &mut Slots) {
        let mut lent = false;
        while let Some(buffer) = buffer::take_free() {
            if let Err(surplus) = self.ring.lend(buffer) {
                buffer::give(surplus);
                break;
            }
            lent = true;
        }
        if lent {
            self.ring.publish();
        }
        let mut available = self.ring.buffers_available();
        while available > 0
            && let Some(id) = self.starved.pop_front()
        {
            available -= 1;
            if let Some(slot) = slots.find(id) {
                slot.starved = false;
                self.arm(slots, id);
            }
        }
    }

    fn reap(&mut self, slots: &mut Slots) {
        let mut completions = std::mem::take(&mut self.completions);
        self.ring.completions(&mut completions);
        for completion in completions.drain(..) {
            self.handle(slots, completion);
        }
        self.completions = completions;
        self.ring.publish();
    }

    fn handle(&mut self, slots: &mut Slots, completion: Completion) {
        match completion {
            Completion::Received { id, result, buffer, more } => {
                self.received(slots, id, result, buffer, more)
            }
            Completion::Sent { id, result, bytes, sent } => {
                self.sent(slots, id, result, bytes, sent)
            }
            Completion::Accepted { id, result, more } => self.accepted(slots, id, result, more),
            Completion::Polled { id, more } => {
                if let Some(slot) = slots.find(id) {
                    slot.readable = true;
                    slot.writable = true;
                    slot.wake_reader();
                    slot.wake_writer();
                }
                self.ended(slots, id, more);
            }
            Completion::Cancelled { id, missed } => {
                if let Some(slot) = slots.find(id) {
                    if missed && slot.operations > 1 {
                        // It was not the receive, or the kernel had it in hand: by descriptor it is found.
                        self.ring.cancel_all(id, slot.socket().as_fd());
                        return;
                    }
                    let again = slot.cancelling == Cancelling::Again;
                    slot.cancelling = Cancelling::No;
                    slot.operations -= 1;
                    // What was begun after the cancellation has to be cancelled too.
                    if again && slot.kind == Kind::Closing && slot.operations > 0 {
                        self.cancel(slots, id);
                    }
                    self.settle(slots, id);
                }
            }
            Completion::Rung { more } => {
                self.bell.hush();
                if !more {
                    self.ring.watch_bell(self.bell.as_fd());
                }
            }
            Completion::File { id, result, work } => {
                self.files.completed(&mut self.ring, id, result, work)
            }
        }
    }

    fn received(
        &mut self,
        slots: &mut Slots,
        id: Id,
        result: Result<usize, Errno>,
        buffer: Option<Box<[u8]>>,
        more: bool,
    ) {
        let chunk = match (buffer, result) {
            (Some(buffer), Ok(count)) if count > 0 => Some(self.chunk(buffer, count)),
            (Some(buffer), _) => {
                buffer::give(buffer);
                None
            }
            (None, _) => None,
        };
        let Some(slot) = slots.find(id) else { return };
        let closing = slot.kind == Kind::Closing;
        match (result, chunk) {
            (Ok(_), Some(chunk)) if !closing => {
                slot.received.push(chunk);
                slot.wake_reader();
                if more && slot.received.bytes() > RECEIVE_QUEUE_BYTES_MAX {
                    self.cancel(slots, id);
                }
            }
            (Ok(0), _) => {
                slot.eof = true;
                slot.wake_reader();
            }
            (Err(Errno::NOBUFS), _) if !closing => {
                slot.starved = true;
                self.starved.push_back(id);
            }
            (Err(Errno::CANCELED | Errno::INTR | Errno::AGAIN | Errno::NOBUFS) | Ok(_), _) => {}
            (Err(error), _) => {
                slot.eof = true;
                slot.receive_error = Some(error);
                slot.wake_reader();
            }
        }
        self.ended(slots, id, more);
        // A receive that ended by itself while somebody waits for it goes on.
        if !more
            && !matches!(result, Err(Errno::NOBUFS))
            && let Some(slot) = slots.find(id)
            && slot.reader.is_some()
        {
            self.arm(slots, id);
        }
    }

    /// The bytes received; copied, and their buffer lent again, when buffers are scarce.
    fn chunk(&mut self, buffer: Box<[u8]>, count: usize) -> Chunk {
        if self.ring.buffers_available() >= self.scarce {
            return Chunk::filled(buffer, count);
        }
        let chunk = Chunk::copy_of(&buffer[..count]);
        if let Err(surplus) = self.ring.lend(buffer) {
            buffer::give(surplus);
        }
        chunk
    }

    fn sent(
        &mut self,
        slots: &mut Slots,
        id: Id,
        result: Result<usize, Errno>,
        bytes: Vec<u8>,
        sent: usize,
    ) {
        let Some(slot) = slots.find(id) else { return };
        slot.operations -= 1;
        slot.in_flight = 0;
        let count = match result {
            Ok(count) => count,
            Err(Errno::CANCELED | Errno::INTR | Errno::AGAIN) => 0,
            Err(error) => {
                slot.fail_sending(error);
                0
            }
        };
        if slot.send_error.is_none() {
            slot.out.put_back(bytes, sent + count);
            slot.sent_some();
            if slot.kind == Kind::Stream {
                self.submit_send(slots, id);
            }
        }
        self.settle(slots, id);
    }

    fn accepted(&mut self, slots: &mut Slots, id: Id, result: Result<OwnedFd, Errno>, more: bool) {
        let Some(slot) = slots.find(id) else { return };
        match result {
            Ok(fd) => {
                let accepted = slot.accepted.get_or_insert_default();
                accepted.push_back(fd);
                if more && accepted.len() >= ACCEPTED_MAX {
                    self.cancel(slots, id);
                }
            }
            Err(Errno::CANCELED | Errno::INTR | Errno::CONNABORTED | Errno::AGAIN) => {}
            Err(error) => slot.receive_error = Some(error),
        }
        if let Some(slot) = slots.find(id) {
            slot.wake_reader();
        }
        self.ended(slots, id, more);
    }

    /// A request that reports more than once has reported.
    fn ended(&mut self, slots: &mut Slots, id: Id, more: bool) {
        if !more && let Some(slot) = slots.find(id) {
            slot.armed = false;
            slot.operations -= 1;
            self.settle(slots, id);
        }
    }

    /// Lets a closed entry go once the kernel is done with it.
    fn settle(&mut self, slots: &mut Slots, id: Id) {
        let slot = slots.get_mut(id);
        if slot.kind == Kind::Closing && slot.operations == 0 {
            socket::send_queued(slot);
            let mut slot = slots.remove(id);
            slot.out.clear();
        }
    }
}

impl Driver for Uring {
    fn backend(&self) -> Backend {
        Backend::IoUring
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
        socket::set_nonblocking(&fd, false)?;
        Ok(slots.insert_listener(fd, address, deferred))
    }

    fn poll_accept(
        &mut self,
        slots: &mut Slots,
        listener: Id,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Id, Address)>> {
        let slot = slots.get_mut(listener);
        let local = slot.local;
        if let Some(fd) = slot.accepted.as_mut().and_then(|accepted| accepted.pop_front()) {
            let address = socket::peer(&fd, local);
            return Poll::Ready(Ok((slots.insert_stream(fd, local), address)));
        }
        if let Some(error) = slot.receive_error.take() {
            return Poll::Ready(Err(error.into()));
        }
        slot.wait_to_read(Some(cx));
        if !slot.armed {
            slot.armed = true;
            slot.operations += 1;
            self.ring.accept(listener, slot.socket().as_fd());
        }
        Poll::Pending
    }

    fn connect(&mut self, slots: &mut Slots, address: &Address) -> io::Result<Id> {
        let (fd, connected) = socket::connecting(address)?;
        let id = slots.insert_stream(fd, matches!(address, Address::Unix(_)));
        let slot = slots.get_mut(id);
        slot.connecting = true;
        slot.writable = connected;
        if !connected {
            slot.operations += 1;
            self.ring.poll(id, slot.socket().as_fd(), true);
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
        if std::mem::take(&mut slot.connecting) {
            socket::set_nonblocking(slot.socket(), false)?;
        }
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
        slot.wait_to_read(cx);
        if !slot.armed && !slot.starved {
            self.arm(slots, id);
        }
        Poll::Pending
    }

    fn flush(&mut self, slots: &mut Slots, id: Id) {
        let slot = slots.get_mut(id);
        if slot.in_flight == 0 && !slot.connecting && socket::send_queued(slot) == Sent::Full {
            slot.writable = true;
            self.submit_send(slots, id);
        }
    }

    fn flush_dirty(&mut self, slots: &mut Slots) {
        let few = slots.dirty.len() < DIRECT_SEND_CONNECTIONS;
        slots.drain_dirty(|slots, id| {
            let slot = slots.get_mut(id);
            if slot.kind != Kind::Stream || slot.connecting {
                return;
            }
            if few || slot.out.len() >= DIRECT_SEND_BYTES {
                self.flush(slots, id);
            } else {
                self.submit_send(slots, id);
            }
        });
    }

    fn shutdown(&mut self, slots: &mut Slots, id: Id) -> io::Result<()> {
        Ok(shutdown(slots.get_mut(id).socket(), Shutdown::Write)?)
    }

    fn close(&mut self, slots: &mut Slots, id: Id, abort: bool) {
        let slot = slots.get_mut(id);
        slot.begin_close(abort);
        slot.kind = Kind::Closing;
        slot.reader = None;
        slot.writer = None;
        slot.accepted = None;
        slot.received = super::slots::Received::default();
        if slot.operations > 0 {
            self.cancel(slots, id);
        } else {
            slot.out.clear();
            drop(slots.remove(id));
        }
    }

    fn detach(&mut self, slots: &mut Slots, id: Id) -> io::Result<Detached> {
        slots.get_mut(id).kind = Kind::Leaving;
        while slots.get_mut(id).operations > 0 {
            self.cancel(slots, id);
            self.ring.enter(Wait::AtMost(Duration::from_millis(100)))?;
            self.reap(slots);
        }
        Detached::of(&mut slots.remove(id))
    }

    fn attach(&mut self, slots: &mut Slots, detached: Detached) -> io::Result<Id> {
        socket::set_nonblocking(&detached.fd, false)?;
        Ok(slots.insert_detached(detached))
    }

    fn watch(&mut self, slots: &mut Slots, _fd: BorrowedFd<'_>) -> io::Result<Id> {
        Ok(slots.insert(Kind::Watch, None))
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
            return Poll::Ready(Ok(()));
        }
        slot.wait_to_read(Some(cx));
        if !slot.armed {
            slot.armed = true;
            slot.operations += 1;
            self.ring.poll(id, fd, false);
        }
        Poll::Pending
    }

    fn unwatch(&mut self, slots: &mut Slots, id: Id, _fd: BorrowedFd<'_>) {
        let slot = slots.get_mut(id);
        slot.reader = None;
        if slot.operations == 0 {
            drop(slots.remove(id));
            return;
        }
        slot.kind = Kind::Closing;
        self.cancel(slots, id);
        // Now, while the descriptor is open: a poll still in the queue would meet whatever takes its number.
        if let Err(error) = self.ring.submit() {
            tracing::debug!(%error, "cannot submit a cancellation");
        }
    }

    fn begin_file(&mut self, operation: Operation) -> Result<FileToken, Operation> {
        self.files.begin(&mut self.ring, operation)
    }

    fn poll_file(&mut self, token: FileToken, cx: &mut Context<'_>) -> Poll<io::Result<Outcome>> {
        self.files.poll(token, cx)
    }

    fn abandon_file(&mut self, token: FileToken) {
        self.files.abandon(token);
    }

    fn turn(&mut self, slots: &mut Slots, until: Option<u64>) -> io::Result<()> {
        self.lend_buffers(slots);
        let wait = match until {
            None => Wait::ForEver,
            Some(0) => Wait::Not,
            Some(until) => match until.saturating_sub(clock::monotonic()) {
                0 => Wait::Not,
                nanoseconds => Wait::AtMost(Duration::from_nanos(nanoseconds)),
            },
        };
        self.ring.enter(wait)?;
        self.reap(slots);
        Ok(())
    }

    fn shut(&mut self, slots: &mut Slots) {
        // Tasks have dropped their streams; let the kernel see the last sends and closes.
        for _ in 0..SHUT_TURNS_MAX {
            if !slots
                .ids()
                .into_iter()
                .any(|id| slots.find(id).is_some_and(|slot| slot.kind == Kind::Closing))
            {
                break;
            }
            if self.ring.enter(Wait::AtMost(Duration::from_millis(10))).is_err() {
                break;
            }
            self.reap(slots);
        }
    }
}

/// Cancellations are reported within a turn or two.
const SHUT_TURNS_MAX: usize = 100;
