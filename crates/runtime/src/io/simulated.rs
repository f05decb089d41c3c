//! The driver that simulates: time that jumps to the next thing that happens, and a network and a disk that live
//! in memory and misbehave as their seed says. One seed is one run, however fast the machine is.
//!
//! Invariants:
//! 1. Nothing here reads a clock, a descriptor or the system's randomness; what happens follows from the seed and
//!    from what the tasks do.
//! 2. Time moves only in [`Driver::turn`]: by [`TURN_NANOSECONDS`] while tasks are ready, else to the next event.
//! 3. When every task waits and nothing is on its way, the run ends with an error instead of hanging.
//!
//! One core is one world. Descriptors of the real system (signals, children) can't be watched in it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::slots::{Id, Kind, Slots};
use super::{Backend, Driver, FileToken};
use crate::buffer::Chunk;
use crate::clock::Time;
use crate::executor::remote::Bell;
use crate::executor::with_reactor;
use crate::fs::{Operation, Outcome};
use crate::net::{Address, Detached, ListenOptions};
use crate::random::Rng;
use disk::Disk;
use network::Network;

pub use disk::DiskFaults;

mod disk;
mod network;

/// The seed of a simulated run and how rough its world is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Simulation {
    pub seed: u64,
    pub faults: Faults,
    pub disk: DiskFaults,
}

/// How the simulated network misbehaves. Chances are per million.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// Shortest and longest time a segment is under way.
    pub latency: (Duration, Duration),
    /// That a segment is cut in two at a random place.
    pub split: u32,
    /// That a segment arrives late, by up to `stall_time`, with all behind it.
    pub stall: u32,
    pub stall_time: Duration,
    /// That a segment breaks its connection: both ends see a reset.
    pub reset: u32,
    /// That a connection attempt is refused though somebody listens.
    pub refuse: u32,
}

impl Default for Faults {
    /// A quiet network: 20 to 60 microseconds of latency and no faults.
    fn default() -> Self {
        Self {
            latency: (Duration::from_micros(20), Duration::from_micros(60)),
            split: 0,
            stall: 0,
            stall_time: Duration::ZERO,
            reset: 0,
            refuse: 0,
        }
    }
}

impl Faults {
    /// A network on which everything happens, often.
    pub fn rough() -> Self {
        Self {
            latency: (Duration::from_micros(5), Duration::from_millis(5)),
            split: 300_000,
            stall: 5_000,
            stall_time: Duration::from_secs(2),
            reset: 1_000,
            refuse: 10_000,
        }
    }
}

/// What has happened so far on this core's network, as one number: equal for equal runs.
///
/// # Panics
/// When this core is not simulated.
pub fn trace() -> u64 {
    with_simulated(|simulated| simulated.network.trace())
}

/// Cuts the network between whoever listens at `address` and everybody else, until [`heal`]. What is under way
/// is held back, not lost.
///
/// # Panics
/// When this core is not simulated.
pub fn cut(address: &Address) {
    with_simulated(|simulated| simulated.network.cut(address));
}

/// Ends a [`cut`].
///
/// # Panics
/// When this core is not simulated.
pub fn heal(address: &Address) {
    with_simulated(|simulated| simulated.network.heal(address, simulated.now));
}

/// Cuts the power of this core's disk: what was not made durable survives or not by chance, operations under way
/// fail, and files opened before are dead. The tasks that used them are the caller's to end.
///
/// # Panics
/// When this core is not simulated.
pub fn cut_power() {
    with_simulated(Simulated::cut_power);
}

/// Changes how many bytes the disk holds.
///
/// # Panics
/// When this core is not simulated.
pub fn set_disk_capacity(capacity: Option<u64>) {
    with_simulated(|simulated| simulated.disk.set_capacity(capacity));
}

fn with_simulated<R>(f: impl FnOnce(&mut Simulated) -> R) -> R {
    with_reactor(|reactor| f(reactor.driver.simulated().expect("this core is simulated")))
}

/// How long a turn with ready tasks takes, so that busy loops see time pass.
const TURN_NANOSECONDS: u64 = 1_000;

/// Wall clock at the beginning of every run: 2026-01-01 00:00:00 UTC in microseconds since the Unix epoch.
const WALL_START: i64 = 1_767_225_600_000_000;

/// How long a world in which nothing happens waits for a wake from another thread before it is called stuck.
const STUCK_AFTER: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Shortest and longest time of a file operation, in nanoseconds: those of a good disk.
const FILE_NANOSECONDS: (u64, u64) = (20_000, 2_000_000);

pub(crate) struct Simulated {
    now: u64,
    network: Network,
    disk: Disk,
    rng: Rng,
    /// File operations by when they will be done, and their outcomes once they are.
    running: BTreeMap<(u64, u64), Operation>,
    tickets: BTreeMap<u64, Ticket>,
    next_ticket: u64,
    bell: &'static Bell,
}

/// A file operation that somebody waits for.
#[derive(Default)]
struct Ticket {
    outcome: Option<io::Result<Outcome>>,
    waker: Option<Waker>,
}

impl Simulated {
    pub(super) fn new(simulation: &Simulation, bell: &'static Bell) -> Self {
        Self {
            now: 0,
            network: Network::new(simulation),
            disk: Disk::new(&simulation.disk),
            // Another stream than the network's, so that files and sockets don't shift each other's dice.
            rng: Rng::seeded(!simulation.seed),
            running: BTreeMap::new(),
            tickets: BTreeMap::new(),
            next_ticket: 0,
            bell,
        }
    }

    /// When something happens next.
    fn next(&self) -> Option<u64> {
        let file = self.running.keys().next().map(|(time, _)| *time);
        [self.network.next(), file].into_iter().flatten().min()
    }

    /// Does the file operations that are due.
    fn work_on_files(&mut self) {
        while let Some(entry) = self.running.first_entry()
            && entry.key().0 <= self.now
        {
            let ((_, ticket), operation) = entry.remove_entry();
            let outcome = self.disk.execute(operation, &mut self.rng);
            self.answer(ticket, outcome);
        }
    }

    fn answer(&mut self, ticket: u64, outcome: io::Result<Outcome>) {
        if let Some(ticket) = self.tickets.get_mut(&ticket) {
            ticket.outcome = Some(outcome);
            if let Some(waker) = ticket.waker.take() {
                waker.wake();
            }
        }
    }

    fn cut_power(&mut self) {
        for ((_, ticket), _) in std::mem::take(&mut self.running) {
            self.answer(ticket, Err(Errno::IO.into()));
        }
        self.disk.cut_power(&mut self.rng);
    }

    /// Nothing is on its way: another thread may still wake this core.
    fn wait_for_bell(&self) -> io::Result<()> {
        let mut polled = [PollFd::from_borrowed_fd(self.bell.as_fd(), PollFlags::IN)];
        if rustix::event::poll(&mut polled, Some(&STUCK_AFTER))? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the simulation is stuck: every task waits and nothing is on its way",
            ));
        }
        self.bell.hush();
        Ok(())
    }
}

impl Driver for Simulated {
    fn backend(&self) -> Backend {
        Backend::Simulated
    }

    fn simulated(&mut self) -> Option<&mut Simulated> {
        Some(self)
    }

    fn time(&self) -> Time {
        let elapsed = i64::try_from(self.now / 1_000).unwrap_or(i64::MAX);
        Time { monotonic: self.now, wall_micros: WALL_START.saturating_add(elapsed) }
    }

    fn names(&mut self, _slots: &mut Slots, id: Id) -> io::Result<(Address, Address)> {
        self.network.names(id)
    }

    fn listen(
        &mut self,
        slots: &mut Slots,
        address: &Address,
        options: &ListenOptions,
    ) -> io::Result<Id> {
        let id = slots.insert(Kind::Listener, None);
        self.network.listen(id, address, options).inspect_err(|_| drop(slots.remove(id)))?;
        Ok(id)
    }

    fn poll_accept(
        &mut self,
        slots: &mut Slots,
        listener: Id,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Id, Address)>> {
        match self.network.accept(slots, listener) {
            Some(id) => Poll::Ready(self.network.names(id).map(|(_, peer)| (id, peer))),
            None => {
                slots.get_mut(listener).wait_to_read(Some(cx));
                Poll::Pending
            }
        }
    }

    fn connect(&mut self, slots: &mut Slots, address: &Address) -> io::Result<Id> {
        let id = slots.insert(Kind::Stream, None);
        let slot = slots.get_mut(id);
        slot.local = matches!(address, Address::Unix(_));
        slot.connecting = true;
        self.network.connect(id, address, self.now);
        Ok(id)
    }

    fn poll_connect(
        &mut self,
        slots: &mut Slots,
        id: Id,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let slot = slots.get_mut(id);
        if let Some(error) = slot.receive_error {
            return Poll::Ready(Err(error.into()));
        }
        if slot.connecting {
            slot.wait_to_write(cx, 0);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
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
        Poll::Pending
    }

    fn drained(&mut self, slots: &mut Slots, id: Id) {
        if let Some(peer) = self.network.peer(id) {
            self.network.send(slots, peer, self.now);
        }
    }

    fn flush(&mut self, slots: &mut Slots, id: Id) {
        if !slots.get_mut(id).connecting {
            self.network.send(slots, id, self.now);
        }
    }

    fn flush_dirty(&mut self, slots: &mut Slots) {
        slots.drain_dirty(|slots, id| self.flush(slots, id));
    }

    fn shutdown(&mut self, _slots: &mut Slots, id: Id) -> io::Result<()> {
        self.network.finish(id, self.now);
        Ok(())
    }

    fn close(&mut self, slots: &mut Slots, id: Id, abort: bool) {
        if slots.get_mut(id).kind == Kind::Listener {
            self.network.close_listener(id, self.now);
        } else {
            if !abort {
                self.flush(slots, id);
            }
            let unread = slots.get_mut(id).received.bytes() > 0;
            self.network.close(id, abort || unread, self.now);
        }
        slots.remove(id).out.clear();
    }

    fn detach(&mut self, _slots: &mut Slots, _id: Id) -> io::Result<Detached> {
        Err(one_core())
    }

    fn attach(&mut self, _slots: &mut Slots, _detached: Detached) -> io::Result<Id> {
        Err(one_core())
    }

    fn watch(&mut self, _slots: &mut Slots, _fd: BorrowedFd<'_>) -> io::Result<Id> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "a simulated core watches no real descriptors",
        ))
    }

    fn poll_readable(
        &mut self,
        _slots: &mut Slots,
        _id: Id,
        _fd: BorrowedFd<'_>,
        _cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(Err(Errno::BADF.into()))
    }

    fn unwatch(&mut self, slots: &mut Slots, id: Id, _fd: BorrowedFd<'_>) {
        drop(slots.remove(id));
    }

    fn begin_file(&mut self, operation: Operation) -> Result<FileToken, Operation> {
        let (shortest, longest) = FILE_NANOSECONDS;
        let time = self.now + shortest + self.rng.below(longest - shortest);
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.running.insert((time, ticket), operation);
        self.tickets.insert(ticket, Ticket::default());
        Ok(FileToken(ticket))
    }

    fn poll_file(&mut self, token: FileToken, cx: &mut Context<'_>) -> Poll<io::Result<Outcome>> {
        let Some(ticket) = self.tickets.get_mut(&token.0) else {
            return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
        };
        let Some(outcome) = ticket.outcome.take() else {
            ticket.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        self.tickets.remove(&token.0);
        Poll::Ready(outcome)
    }

    fn abandon_file(&mut self, token: FileToken) {
        self.tickets.remove(&token.0);
    }

    fn turn(&mut self, slots: &mut Slots, until: Option<u64>) -> io::Result<()> {
        let next = self.next();
        self.now = match (until, next) {
            (Some(0), _) => self.now + TURN_NANOSECONDS,
            (Some(until), Some(next)) => self.now.max(until.min(next)),
            (Some(time), None) | (None, Some(time)) => self.now.max(time),
            (None, None) => return self.wait_for_bell(),
        };
        self.network.deliver(slots, self.now);
        self.work_on_files();
        Ok(())
    }
}

fn one_core() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "a simulated connection stays on its core")
}

#[cfg(test)]
mod tests;
