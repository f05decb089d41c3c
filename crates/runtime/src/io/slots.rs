//! The state of connections, listeners and watched descriptors that all drivers share: what has been
//! received, what is to be sent, who waits for which.
//!
//! Invariants:
//! 1. An [`Id`] names one entry for its whole life; events of an earlier entry in the same slot are told by
//!    its generation and dropped.
//! 2. Bytes live here, never in a future: dropping a future loses nothing.
//! 3. An idle connection holds no memory beyond its slot.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Waker};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;

use super::socket;
use crate::buffer::{self, Chunk};
use crate::net::{Address, Detached, Keepalive};

/// Names an entry. As a `u64` it travels through the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl Id {
    pub(crate) fn pack(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the word")]
    pub(crate) fn unpack(packed: u64) -> Self {
        Self { index: packed as u32, generation: (packed >> 32) as u32 }
    }
}

/// What an entry is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    #[default]
    Free,
    Stream,
    Listener,
    Watch,
    /// Closed by its owner, but the kernel still has something of it (io_uring).
    Closing,
    /// On its way to another core, likewise.
    Leaving,
}

/// Whether a cancellation is under way (io_uring).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Cancelling {
    #[default]
    No,
    Once,
    /// And another was asked for meanwhile.
    Again,
}

/// One connection, listener or watch. The order is for the cache: an event or a receive touches the first
/// two lines, a send the first and the last.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Slot {
    pub(crate) generation: u32,
    pub(crate) kind: Kind,
    /// A Unix socket.
    pub(crate) local: bool,
    /// Reading (or accepting) may get something.
    pub(crate) readable: bool,
    /// Writing may get something out.
    pub(crate) writable: bool,
    /// The peer has closed, or the connection broke: read until end of file, even after a short read.
    pub(crate) hangup: bool,
    /// End of file was read.
    pub(crate) eof: bool,
    /// Listed in [`Slots::dirty`].
    pub(crate) dirty: bool,
    pub(crate) connecting: bool,
    /// Driver's own: something of this entry is armed in the kernel.
    pub(crate) armed: bool,
    /// Readiness: the kernel reports room for sending, too.
    pub(crate) watches_room: bool,
    /// A listener whose connections come with their first bytes.
    pub(crate) deferred: bool,
    /// io_uring: a cancellation of everything on this descriptor is under way.
    pub(crate) cancelling: Cancelling,
    /// io_uring: waits for receive buffers.
    pub(crate) starved: bool,
    /// io_uring: reports about this entry that the kernel owes us.
    pub(crate) operations: u8,
    /// Why reading failed, for good.
    pub(crate) receive_error: Option<Errno>,
    /// Why sending failed, for good. What is queued from then on is thrown away.
    pub(crate) send_error: Option<Errno>,
    pub(crate) fd: Option<OwnedFd>,
    /// Bytes taken out of `out` that the kernel is sending (io_uring).
    pub(crate) in_flight: usize,
    pub(crate) received: Received,
    pub(crate) reader: Option<Waker>,
    pub(crate) writer: Option<Waker>,
    pub(crate) out: Outgoing,
    /// The writer waits until fewer bytes than this are queued.
    pub(crate) writer_below: usize,
    /// Connections accepted and not yet asked for (io_uring).
    #[expect(
        clippy::box_collection,
        reason = "listeners are few, and every slot is as large as this"
    )]
    pub(crate) accepted: Option<Box<VecDeque<OwnedFd>>>,
}

const _: () = assert!(size_of::<Slot>() <= 3 * 64, "an idle connection costs its slot");

impl Slot {
    /// Bytes queued and not yet taken by the system.
    pub(crate) fn queued(&self) -> usize {
        self.out.len() + self.in_flight
    }

    /// Nothing is queued and the socket may take something.
    pub(crate) fn can_send_direct(&self) -> bool {
        self.fd.is_some()
            && self.writable
            && !self.connecting
            && self.queued() == 0
            && self.send_error.is_none()
    }

    /// What a receive gets when there is nothing more to come: the error, or end of file as an empty chunk.
    pub(crate) fn receive_end(&self) -> Option<io::Result<Chunk>> {
        match self.receive_error {
            Some(error) => Some(Err(error.into())),
            None => self.eof.then(|| Ok(Chunk::empty())),
        }
    }

    pub(crate) fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    pub(crate) fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }

    /// Wakes the writer if what it waits for has come.
    pub(crate) fn sent_some(&mut self) {
        if self.queued() < self.writer_below || self.send_error.is_some() {
            self.wake_writer();
        }
    }

    pub(crate) fn fail_sending(&mut self, error: Errno) {
        self.send_error = Some(error);
        self.out.clear();
        self.wake_writer();
    }

    pub(crate) fn wait_to_read(&mut self, cx: Option<&mut Context<'_>>) {
        if let Some(cx) = cx {
            keep_waker(&mut self.reader, cx);
        }
    }

    pub(crate) fn wait_to_write(&mut self, cx: &Context<'_>, below: usize) {
        self.writer_below = below;
        keep_waker(&mut self.writer, cx);
    }

    /// The closing of a connection begins: what is queued goes out as far as the socket takes it now, or, with
    /// `abort`, is thrown away and the peer sees a reset.
    pub(crate) fn begin_close(&mut self, abort: bool) {
        if abort {
            let _gone = sockopt::set_socket_linger(self.socket(), Some(Duration::ZERO));
            self.out.clear();
        } else if self.kind == Kind::Stream && !self.connecting && self.in_flight == 0 {
            socket::send_queued(self);
        }
    }

    /// Sets how a connection, or each that a listener accepts from now on, is probed when it is silent.
    pub(crate) fn set_keepalive(&self, keepalive: Option<&Keepalive>) -> io::Result<()> {
        let Some(fd) = self.fd.as_ref().filter(|_| !self.local) else { return Ok(()) };
        sockopt::set_socket_keepalive(fd, keepalive.is_some())?;
        let Some(keepalive) = keepalive else { return Ok(()) };
        if let Some(idle) = keepalive.idle {
            sockopt::set_tcp_keepidle(fd, idle)?;
        }
        if let Some(interval) = keepalive.interval {
            sockopt::set_tcp_keepintvl(fd, interval)?;
        }
        if let Some(count) = keepalive.count {
            sockopt::set_tcp_keepcnt(fd, count)?;
        }
        #[cfg(target_os = "linux")]
        if let Some(limit) = keepalive.user_timeout {
            let millis = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
            sockopt::set_tcp_user_timeout(fd, millis)?;
        }
        Ok(())
    }

    /// The socket.
    ///
    /// # Panics
    /// When the entry has none, which is a mistake of the driver.
    pub(crate) fn socket(&self) -> &OwnedFd {
        self.fd.as_ref().expect("a connection has a descriptor while it is open")
    }
}

fn keep_waker(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

/// Chunks received and not yet read. The first stays inline: most often there is one, and then no memory is needed.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Received {
    first: Option<Chunk>,
    bytes: usize,
    rest: VecDeque<Chunk>,
}

impl Received {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn push(&mut self, chunk: Chunk) {
        self.bytes += chunk.len();
        if self.first.is_none() {
            self.first = Some(chunk);
        } else {
            self.rest.push_back(chunk);
        }
    }

    /// Puts the unread rest of a chunk back.
    pub(crate) fn push_front(&mut self, chunk: Chunk) {
        self.bytes += chunk.len();
        if let Some(second) = self.first.replace(chunk) {
            self.rest.push_front(second);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Chunk> {
        let chunk = self.first.take()?;
        self.bytes -= chunk.len();
        self.first = self.rest.pop_front();
        if self.rest.is_empty() && self.rest.capacity() > 0 {
            self.rest = VecDeque::new();
        }
        Some(chunk)
    }
}

/// Bytes to be sent. The memory comes from the core's pool and returns to it when all is sent.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.bytes.capacity() == 0 {
            self.bytes = buffer::take_send();
        } else if self.sent > self.bytes.len() / 2 {
            // Bounds the memory of a queue that is never quite empty; each byte moves once at most on average.
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The first `count` unsent bytes are out.
    pub(crate) fn advance(&mut self, count: usize) {
        self.sent += count;
        debug_assert!(self.sent <= self.bytes.len(), "sent more than was queued");
        if self.sent >= self.bytes.len() {
            self.clear();
        }
    }

    /// Takes the memory, with the position up to which it is sent.
    pub(crate) fn take(&mut self) -> (Vec<u8>, usize) {
        (std::mem::take(&mut self.bytes), std::mem::take(&mut self.sent))
    }

    /// Memory that was taken comes back, sent up to `sent`, to go before what was queued meanwhile.
    pub(crate) fn put_back(&mut self, mut bytes: Vec<u8>, sent: usize) {
        if sent >= bytes.len() {
            buffer::give_send(bytes);
            return;
        }
        bytes.extend_from_slice(self.unsent());
        self.clear();
        self.bytes = bytes;
        self.sent = sent;
    }

    pub(crate) fn clear(&mut self) {
        self.sent = 0;
        buffer::give_send(std::mem::take(&mut self.bytes));
    }
}

/// All entries of a core.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    entries: Vec<Slot>,
    free: Vec<u32>,
    /// Connections on which something was queued in this turn.
    pub(crate) dirty: Vec<Id>,
}

impl Slots {
    pub(crate) fn insert(&mut self, kind: Kind, fd: Option<OwnedFd>) -> Id {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Slot::default());
            u32::try_from(self.entries.len() - 1).expect("descriptors end before 2^32 entries")
        });
        let slot = &mut self.entries[index as usize];
        debug_assert_eq!(slot.kind, Kind::Free, "a slot is given to two entries");
        slot.kind = kind;
        slot.fd = fd;
        Id { index, generation: slot.generation }
    }

    /// Adds a connection, of which nothing is known yet.
    pub(crate) fn insert_stream(&mut self, fd: OwnedFd, local: bool) -> Id {
        let id = self.insert(Kind::Stream, Some(fd));
        let slot = self.get_mut(id);
        slot.local = local;
        slot.writable = true;
        id
    }

    /// Adds a connection that another core gave away.
    pub(crate) fn insert_detached(&mut self, detached: Detached) -> Id {
        let local = socket::is_local(detached.fd.as_fd());
        let id = self.insert_stream(detached.fd, local);
        if !detached.unread.is_empty() {
            self.get_mut(id).received.push(Chunk::copy_of(&detached.unread));
        }
        self.queue(id, &detached.unsent);
        id
    }

    /// Adds a listener.
    pub(crate) fn insert_listener(&mut self, fd: OwnedFd, address: &Address, deferred: bool) -> Id {
        let id = self.insert(Kind::Listener, Some(fd));
        let slot = self.get_mut(id);
        slot.local = matches!(address, Address::Unix(_));
        slot.deferred = deferred;
        id
    }

    /// Takes the entry out; its id is stale from now on.
    pub(crate) fn remove(&mut self, id: Id) -> Slot {
        let generation = id.generation.wrapping_add(1);
        let slot = std::mem::replace(self.get_mut(id), Slot { generation, ..Slot::default() });
        self.free.push(id.index);
        slot
    }

    /// The entry an event is for; `None` when it is gone.
    pub(crate) fn find(&mut self, id: Id) -> Option<&mut Slot> {
        let slot = self.entries.get_mut(id.index as usize)?;
        (slot.generation == id.generation && slot.kind != Kind::Free).then_some(slot)
    }

    /// The entry of an owner.
    ///
    /// # Panics
    /// When it is gone: owners remove their entries themselves.
    pub(crate) fn get_mut(&mut self, id: Id) -> &mut Slot {
        self.find(id).expect("an entry lives as long as its owner")
    }

    /// Appends to the send queue, to go out at the end of the turn.
    pub(crate) fn queue(&mut self, id: Id, bytes: &[u8]) {
        let slot = self.get_mut(id);
        if bytes.is_empty() || slot.send_error.is_some() {
            return;
        }
        slot.out.push(bytes);
        if !std::mem::replace(&mut slot.dirty, true) {
            self.dirty.push(id);
        }
    }

    /// Calls `send` with each entry on which something was queued in this turn.
    pub(crate) fn drain_dirty(&mut self, mut send: impl FnMut(&mut Slots, Id)) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            if let Some(slot) = self.find(id) {
                slot.dirty = false;
                send(self, id);
            }
        }
        // The memory is kept for the next turn, unless a waker queued something meanwhile.
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }

    /// The entries still open.
    pub(crate) fn ids(&self) -> Vec<Id> {
        let open = self.entries.iter().enumerate().filter(|(_, slot)| slot.kind != Kind::Free);
        let id = |(index, slot): (usize, &Slot)| {
            Some(Id { index: u32::try_from(index).ok()?, generation: slot.generation })
        };
        open.filter_map(id).collect()
    }
}
