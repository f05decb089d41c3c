//! A connection: bytes in and out of one socket, through whichever driver the core has.

use std::future::poll_fn;
use std::io;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;

use super::Address;
use crate::buffer::Chunk;
use crate::clock;
use crate::executor::{try_with_reactor, with_core, with_reactor};
use crate::io::{Id, Slot};
use crate::limits::{CONNECT_RETRY, DIRECT_SEND_BYTES};

/// A connection of this core. It has one owner; every method takes `&self`, so that the two directions
/// can be two futures of one task. Bytes live in the connection, not in the futures: any future may be dropped
/// at any time and nothing is lost.
#[derive(Debug)]
pub struct Stream {
    id: Id,
    core: PhantomData<*const ()>,
}

/// Who is at the other end of a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Zero where the system doesn't tell.
    pub pid: u32,
    pub uid: u32,
    pub gid: u32,
}

/// When a silent TCP connection is probed, and given up. `None` leaves the system's choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe; whole seconds.
    pub idle: Option<Duration>,
    /// Between probes; whole seconds.
    pub interval: Option<Duration>,
    /// Probes without an answer that end the connection.
    pub count: Option<u32>,
    /// Bytes sent and not acknowledged for this long end the connection. Linux only.
    pub user_timeout: Option<Duration>,
}

/// A connection between cores: the socket with the bytes that were not read or not sent yet.
#[derive(Debug)]
pub struct Detached {
    pub(crate) fd: OwnedFd,
    pub(crate) unread: Vec<u8>,
    pub(crate) unsent: Vec<u8>,
}

impl Detached {
    pub(crate) fn of(slot: &mut Slot) -> io::Result<Self> {
        let fd = slot.fd.take().ok_or(io::ErrorKind::NotConnected)?;
        let unsent = slot.out.unsent().to_vec();
        slot.out.clear();
        let mut unread = Vec::new();
        while let Some(chunk) = slot.received.pop() {
            unread.extend_from_slice(&chunk);
        }
        Ok(Self { fd, unread, unsent })
    }
}

impl Stream {
    pub(super) fn of(id: Id) -> Self {
        Self { id, core: PhantomData }
    }

    /// Connects; without a limit of time (see [`clock::timeout`]).
    ///
    /// # Errors
    /// What the system says: refused, unreachable, no such path.
    pub async fn connect(address: &Address) -> io::Result<Self> {
        loop {
            let begun = with_reactor(|reactor| reactor.driver.connect(&mut reactor.slots, address));
            match begun {
                Ok(id) => {
                    let stream = Self::of(id);
                    stream.connected().await?;
                    return Ok(stream);
                }
                // A Unix listener whose backlog is full says so at once instead of letting us wait.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::AGAIN) => {
                    clock::sleep(CONNECT_RETRY).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn connected(&self) -> io::Result<()> {
        poll_fn(|cx| {
            with_reactor(|reactor| reactor.driver.poll_connect(&mut reactor.slots, self.id, cx))
        })
        .await
    }

    /// The next bytes; an empty chunk is end of file.
    ///
    /// # Errors
    /// When the connection broke.
    pub fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        with_core(|core| core.poll_receive(cx, |reactor, cx| reactor.poll_recv(self.id, Some(cx))))
    }

    /// As [`poll_recv`](Self::poll_recv), waiting.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn recv(&self) -> io::Result<Chunk> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Bytes that are here already; `None` when there are none for now.
    pub fn try_recv(&self) -> Option<io::Result<Chunk>> {
        match with_reactor(|reactor| reactor.poll_recv(self.id, None)) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }

    /// Puts the unread rest of a chunk back, to be received again first.
    pub fn unrecv(&self, chunk: Chunk) {
        if !chunk.is_empty() {
            self.with_slot(|slot| slot.received.push_front(chunk));
        }
    }

    /// Appends to the send queue; never waits, never fails. Everything queued within one turn of the loop
    /// goes out together. How much is queued is the caller's to bound, by [`poll_writable`](Self::poll_writable).
    pub fn queue(&self, bytes: &[u8]) {
        with_reactor(|reactor| {
            let mut rest = bytes;
            if bytes.len() >= DIRECT_SEND_BYTES {
                rest = reactor.send_direct(self.id, bytes);
            }
            reactor.slots.queue(self.id, rest);
        });
    }

    /// Sends what is queued now, as far as the socket takes it, instead of at the end of the turn.
    pub fn flush_now(&self) {
        with_reactor(|reactor| reactor.driver.flush(&mut reactor.slots, self.id));
    }

    /// Bytes queued and not yet taken by the system.
    pub fn queued(&self) -> usize {
        self.with_slot(|slot| slot.queued())
    }

    /// Ready when fewer than `below` bytes are queued.
    ///
    /// # Errors
    /// When sending has failed for good. What was queued is lost, and so is what will be.
    pub fn poll_writable(&self, cx: &mut Context<'_>, below: usize) -> Poll<io::Result<()>> {
        self.with_slot(|slot| {
            if let Some(error) = slot.send_error {
                return Poll::Ready(Err(error.into()));
            }
            if slot.queued() < below {
                return Poll::Ready(Ok(()));
            }
            slot.wait_to_write(cx, below);
            Poll::Pending
        })
    }

    /// Queues `bytes` and waits until the system has taken everything.
    ///
    /// # Errors
    /// When sending has failed.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.queue(bytes);
        self.sent().await
    }

    /// Waits until the system has taken everything that is queued.
    ///
    /// # Errors
    /// When sending has failed.
    pub async fn sent(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_writable(cx, 1)).await
    }

    /// Sends what is queued, then tells the peer that nothing more will come. Receiving goes on.
    ///
    /// # Errors
    /// When sending has failed.
    pub async fn shutdown(&self) -> io::Result<()> {
        self.sent().await?;
        with_reactor(|reactor| reactor.driver.shutdown(&mut reactor.slots, self.id))
    }

    /// Closes at once: what is queued is thrown away, and a TCP peer sees a reset.
    pub fn abort(self) {
        let id = self.into_id();
        try_with_reactor(|reactor| reactor.driver.close(&mut reactor.slots, id, true));
    }

    /// Takes the connection off this core, to be attached to another.
    ///
    /// # Errors
    /// When it is broken already.
    pub fn detach(self) -> io::Result<Detached> {
        let id = self.into_id();
        with_reactor(|reactor| reactor.driver.detach(&mut reactor.slots, id))
    }

    /// Takes a connection onto this core.
    ///
    /// # Errors
    /// When the kernel refuses to watch it.
    pub fn attach(detached: Detached) -> io::Result<Self> {
        with_reactor(|reactor| reactor.driver.attach(&mut reactor.slots, detached)).map(Self::of)
    }

    /// Where the other end is.
    ///
    /// # Errors
    /// When it is gone.
    pub fn peer_address(&self) -> io::Result<Address> {
        self.names().map(|(_, peer)| peer)
    }

    /// Where this end is.
    ///
    /// # Errors
    /// When the socket is broken.
    pub fn local_address(&self) -> io::Result<Address> {
        self.names().map(|(local, _)| local)
    }

    /// Who is at the other end of a Unix socket; `None` for TCP, and where the system doesn't say.
    #[cfg(target_os = "linux")]
    pub fn peer_credentials(&self) -> Option<Credentials> {
        if !self.is_unix() {
            return None;
        }
        let ask = |slot: &mut Slot| rustix::net::sockopt::socket_peercred(slot.fd.as_ref()?).ok();
        let peer = self.with_slot(ask)?;
        let pid = u32::try_from(peer.pid.as_raw_nonzero().get()).unwrap_or(0);
        Some(Credentials { pid, uid: peer.uid.as_raw(), gid: peer.gid.as_raw() })
    }

    /// Who is at the other end of a Unix socket. Not asked for on this system.
    #[cfg(not(target_os = "linux"))]
    pub fn peer_credentials(&self) -> Option<Credentials> {
        None
    }

    /// Has a silent connection probed; `None`: no longer. Does nothing to a Unix socket, nor to a simulated one.
    ///
    /// # Errors
    /// When the system refuses a value.
    pub fn set_keepalive(&self, keepalive: Option<&Keepalive>) -> io::Result<()> {
        self.with_slot(|slot| slot.set_keepalive(keepalive))
    }

    /// Whether it is a Unix socket.
    pub fn is_unix(&self) -> bool {
        self.with_slot(|slot| slot.local)
    }

    /// The entry, of which this is no longer the owner.
    fn into_id(self) -> Id {
        ManuallyDrop::new(self).id
    }

    fn names(&self) -> io::Result<(Address, Address)> {
        with_reactor(|reactor| reactor.driver.names(&mut reactor.slots, self.id))
    }

    fn with_slot<R>(&self, f: impl FnOnce(&mut Slot) -> R) -> R {
        with_reactor(|reactor| f(reactor.slots.get_mut(self.id)))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        try_with_reactor(|reactor| reactor.driver.close(&mut reactor.slots, self.id, false));
    }
}
