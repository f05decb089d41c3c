//! The seam to the kernel: one [`Driver`] per core, chosen when the core starts. `net`, `fs` and
//! `clock` are written against it, so the same service runs on io_uring, epoll, kqueue and the simulator.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::str::FromStr;
use std::task::{Context, Poll};

use crate::buffer::Chunk;
use crate::clock::Time;
use crate::executor::remote::Bell;
use crate::executor::{try_with_reactor, with_reactor};
use crate::fs::{Operation, Outcome};
use crate::limits;
use crate::net::{Address, Detached, ListenOptions};

pub(crate) use slots::{Id, Slot, Slots};

#[cfg(target_os = "linux")]
mod epoll;
#[cfg(not(target_os = "linux"))]
mod kqueue;
mod readiness;
pub mod simulated;
mod slots;
mod socket;
#[cfg(target_os = "linux")]
mod uring;

/// What a driver is built on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    IoUring,
    Epoll,
    Kqueue,
    Simulated,
}

/// The back end asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// io_uring where the kernel has what we use, else the system's readiness interface.
    #[default]
    Auto,
    Exactly(Backend),
}

const BACKEND_NAMES: [(&str, Backend); 4] = [
    ("io_uring", Backend::IoUring),
    ("epoll", Backend::Epoll),
    ("kqueue", Backend::Kqueue),
    ("simulated", Backend::Simulated),
];

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = BACKEND_NAMES.iter().find(|(_, backend)| backend == self);
        f.write_str(name.map_or("unknown", |(name, _)| name))
    }
}

impl fmt::Display for BackendChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Exactly(backend) => backend.fmt(f),
        }
    }
}

/// There is no such I/O back end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownBackend(String);

impl fmt::Display for UnknownBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown I/O back end \"{}\"", self.0)
    }
}

impl std::error::Error for UnknownBackend {}

impl FromStr for Backend {
    type Err = UnknownBackend;

    fn from_str(name: &str) -> Result<Self, UnknownBackend> {
        let known = BACKEND_NAMES.iter().find(|(known, _)| *known == name);
        known.map(|(_, backend)| *backend).ok_or_else(|| UnknownBackend(name.to_owned()))
    }
}

impl FromStr for BackendChoice {
    type Err = UnknownBackend;

    fn from_str(name: &str) -> Result<Self, UnknownBackend> {
        if name == "auto" { Ok(Self::Auto) } else { name.parse().map(Self::Exactly) }
    }
}

/// How a core does I/O.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub backend: BackendChoice,
    /// Receive buffers kept by a core; on io_uring the size of its buffer ring. A power of two, at most 32768.
    pub buffers: usize,
    /// Size of a receive buffer.
    pub buffer_bytes: usize,
    /// The world of the simulated back end; the others ignore it.
    pub simulation: simulated::Simulation,
}

impl Default for Options {
    fn default() -> Self {
        let (buffers, buffer_bytes) = (limits::RECEIVE_BUFFERS, limits::RECEIVE_BUFFER_BYTES);
        let simulation = simulated::Simulation::default();
        Self { backend: BackendChoice::Auto, buffers, buffer_bytes, simulation }
    }
}

impl Options {
    /// The defaults, on a given back end.
    pub fn on(backend: Backend) -> Self {
        Self { backend: BackendChoice::Exactly(backend), ..Self::default() }
    }
}

/// The back end of this core.
pub fn backend() -> Backend {
    with_reactor(|reactor| reactor.driver.backend())
}

/// The kernel, or the simulator, as a core uses it.
///
/// Connections, listeners and watched descriptors are entries of [`Slots`], which hold the state every
/// driver shares (what was received, what is to be sent, who waits); the driver moves the bytes. A method that
/// finds an entry gone was given a stale [`Id`], which is a mistake of `net`, and panics.
pub(crate) trait Driver {
    fn backend(&self) -> Backend;

    fn time(&self) -> Time;

    /// The monotonic half of [`time`](Self::time).
    fn now(&self) -> u64 {
        self.time().monotonic
    }

    /// The simulator, if this is it.
    fn simulated(&mut self) -> Option<&mut simulated::Simulated> {
        None
    }

    /// Where a connection or listener is, and its peer: (local, peer).
    fn names(&mut self, slots: &mut Slots, id: Id) -> io::Result<(Address, Address)> {
        socket::names(slots.get_mut(id))
    }

    fn listen(
        &mut self,
        slots: &mut Slots,
        address: &Address,
        options: &ListenOptions,
    ) -> io::Result<Id>;

    /// The next connection and where it comes from.
    fn poll_accept(
        &mut self,
        slots: &mut Slots,
        listener: Id,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Id, Address)>>;

    /// Begins to connect; [`poll_connect`](Self::poll_connect) says how it went.
    fn connect(&mut self, slots: &mut Slots, address: &Address) -> io::Result<Id>;

    fn poll_connect(
        &mut self,
        slots: &mut Slots,
        id: Id,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>>;

    /// Called when the entry's own queue is empty. An empty chunk is end of file.
    fn poll_recv(
        &mut self,
        slots: &mut Slots,
        id: Id,
        cx: Option<&mut Context<'_>>,
    ) -> Poll<io::Result<Chunk>>;

    /// Bytes were taken out of the entry's receive queue.
    fn drained(&mut self, _slots: &mut Slots, _id: Id) {}

    /// Tries to send what is queued, without waiting.
    fn flush(&mut self, slots: &mut Slots, id: Id);

    /// Sends what was queued on the entries in `slots.dirty` in this turn.
    fn flush_dirty(&mut self, slots: &mut Slots);

    /// No more bytes will be sent: FIN.
    fn shutdown(&mut self, slots: &mut Slots, id: Id) -> io::Result<()>;

    /// Closes a connection, listener or watch. `abort`: what is queued is thrown away and the peer sees a reset.
    fn close(&mut self, slots: &mut Slots, id: Id, abort: bool);

    fn detach(&mut self, slots: &mut Slots, id: Id) -> io::Result<Detached>;

    fn attach(&mut self, slots: &mut Slots, detached: Detached) -> io::Result<Id>;

    /// Begins to watch a descriptor owned elsewhere, for [`poll_readable`](Self::poll_readable).
    fn watch(&mut self, slots: &mut Slots, fd: BorrowedFd<'_>) -> io::Result<Id>;

    fn poll_readable(
        &mut self,
        slots: &mut Slots,
        id: Id,
        fd: BorrowedFd<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>>;

    /// Ends a watch.
    fn unwatch(&mut self, slots: &mut Slots, id: Id, fd: BorrowedFd<'_>);

    /// Begins a file operation; gives it back if this driver leaves it to a thread.
    fn begin_file(&mut self, operation: Operation) -> Result<FileToken, Operation> {
        Err(operation)
    }

    /// What came of a file operation; after that its token is stale.
    fn poll_file(&mut self, _token: FileToken, _cx: &mut Context<'_>) -> Poll<io::Result<Outcome>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    /// Nobody waits for the operation any more.
    fn abandon_file(&mut self, _token: FileToken) {}

    /// Handles what has happened, waiting for something until `until` (nanoseconds; `None`: for ever).
    fn turn(&mut self, slots: &mut Slots, until: Option<u64>) -> io::Result<()>;

    /// The core ends: waits for whatever the kernel still does with our memory.
    fn shut(&mut self, _slots: &mut Slots) {}
}

/// Names a file operation that a driver does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileToken(pub(crate) u64);

/// A core's driver with the entries it works on.
pub(crate) struct Reactor {
    pub(crate) slots: Slots,
    pub(crate) driver: Box<dyn Driver>,
}

impl Reactor {
    pub(crate) fn open(options: &Options, bell: &'static Bell) -> io::Result<Self> {
        Ok(Self { slots: Slots::default(), driver: open_driver(options, bell)? })
    }

    pub(crate) fn time(&self) -> Time {
        self.driver.time()
    }

    pub(crate) fn time_now(&self) -> u64 {
        self.driver.now()
    }

    /// Sends what the turn queued.
    pub(crate) fn flush_dirty(&mut self) {
        if !self.slots.dirty.is_empty() {
            self.driver.flush_dirty(&mut self.slots);
        }
    }

    /// Lets the driver wait and handle what has happened.
    pub(crate) fn turn(&mut self, until: Option<u64>) -> io::Result<()> {
        self.driver.turn(&mut self.slots, until)
    }

    /// Offers a large slice to the socket at once, if nothing is queued before it; the part not taken.
    pub(crate) fn send_direct<'a>(&mut self, id: Id, bytes: &'a [u8]) -> &'a [u8] {
        let slot = self.slots.get_mut(id);
        let taken = if slot.can_send_direct() { socket::send_direct(slot, bytes) } else { 0 };
        &bytes[taken..]
    }

    /// See [`crate::net::Stream::poll_recv`].
    pub(crate) fn poll_recv(
        &mut self,
        id: Id,
        cx: Option<&mut Context<'_>>,
    ) -> Poll<io::Result<Chunk>> {
        if let Some(chunk) = self.slots.get_mut(id).received.pop() {
            self.driver.drained(&mut self.slots, id);
            return Poll::Ready(Ok(chunk));
        }
        self.driver.poll_recv(&mut self.slots, id, cx)
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.driver.shut(&mut self.slots);
    }
}

#[cfg(target_os = "linux")]
fn open_driver(options: &Options, bell: &'static Bell) -> io::Result<Box<dyn Driver>> {
    let ring = || uring::Uring::new(options.buffers, options.buffer_bytes, bell);
    let epoll = || readiness::ReadinessDriver::new(epoll::Epoll::new()?, bell);
    match options.backend {
        BackendChoice::Exactly(Backend::IoUring) => {
            Ok(Box::new(ring().map_err(|error| why_no_ring(&error))?))
        }
        BackendChoice::Exactly(Backend::Epoll) => Ok(Box::new(epoll()?)),
        BackendChoice::Exactly(Backend::Simulated) => {
            Ok(Box::new(simulated::Simulated::new(&options.simulation, bell)))
        }
        BackendChoice::Auto => match ring() {
            Ok(driver) => Ok(Box::new(driver)),
            Err(error) => {
                FALLBACK.call_once(|| tracing::info!(reason = %why_no_ring(&error), "using epoll"));
                Ok(Box::new(epoll()?))
            }
        },
        BackendChoice::Exactly(backend @ Backend::Kqueue) => Err(not_here(backend)),
    }
}

#[cfg(not(target_os = "linux"))]
fn open_driver(options: &Options, bell: &'static Bell) -> io::Result<Box<dyn Driver>> {
    match options.backend {
        BackendChoice::Auto | BackendChoice::Exactly(Backend::Kqueue) => {
            Ok(Box::new(readiness::ReadinessDriver::new(kqueue::Kqueue::new()?, bell)?))
        }
        BackendChoice::Exactly(Backend::Simulated) => {
            Ok(Box::new(simulated::Simulated::new(&options.simulation, bell)))
        }
        BackendChoice::Exactly(backend) => Err(not_here(backend)),
    }
}

/// One line per process, however many cores fall back.
#[cfg(target_os = "linux")]
static FALLBACK: std::sync::Once = std::sync::Once::new();

/// The kernel's answer to an attempt to set up a ring, in words.
#[cfg(target_os = "linux")]
fn why_no_ring(error: &io::Error) -> io::Error {
    use rustix::io::Errno;
    let disabled = || {
        let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?;
        (setting.trim() != "0").then(|| format!("kernel.io_uring_disabled is {}", setting.trim()))
    };
    let reason = match Errno::from_io_error(error) {
        Some(Errno::NOSYS) => "the kernel has no io_uring, or seccomp hides it".to_owned(),
        Some(Errno::PERM | Errno::ACCESS) => {
            disabled().unwrap_or_else(|| "seccomp forbids io_uring".to_owned())
        }
        Some(Errno::INVAL) => "the kernel's io_uring is older than 6.1".to_owned(),
        Some(Errno::NOMEM) => "no memory may be locked for io_uring (RLIMIT_MEMLOCK)".to_owned(),
        _ => error.to_string(),
    };
    io::Error::new(io::ErrorKind::Unsupported, reason)
}

fn not_here(backend: Backend) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("there is no {backend} on this system"))
}

/// Waits for a descriptor that is not ours to read (pidfd, signal pipe, eventfd) to become readable.
#[derive(Debug)]
pub struct Readiness {
    fd: OwnedFd,
    id: Id,
    core: PhantomData<*const ()>,
}

impl Readiness {
    /// # Errors
    /// When the kernel can't watch this kind of descriptor.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let id = with_reactor(|reactor| reactor.driver.watch(&mut reactor.slots, fd.as_fd()))?;
        Ok(Self { fd, id, core: PhantomData })
    }

    /// Waits until there is something to read. It may come back too early now and then: read without blocking.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| {
            with_reactor(|reactor| {
                reactor.driver.poll_readable(&mut reactor.slots, self.id, self.fd.as_fd(), cx)
            })
        })
        .await
    }
}

impl AsFd for Readiness {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Readiness {
    fn drop(&mut self) {
        try_with_reactor(|reactor| {
            reactor.driver.unwatch(&mut reactor.slots, self.id, self.fd.as_fd())
        });
    }
}
