//! The simulated network: connections with latency, windows and faults, as a queue of events in virtual time.
//!
//! A connection has two ends, numbered `2 n` (who connected) and `2 n + 1` (who listened). Bytes and ends of
//! file travel as events that keep their order; a reset overtakes nothing either, so that a run is easy to read.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;

use super::{Faults, Simulation};
use crate::buffer::Chunk;
use crate::io::slots::{Id, Kind, Slots};
use crate::net::{Address, ListenOptions};
use crate::random::Rng;

/// Bytes under way to an end or unread by it: the window of a connection.
const WINDOW_BYTES: usize = 256 * 1024;
/// Largest segment.
const SEGMENT_BYTES: usize = 16 * 1024;
/// First port handed out where port 0 was asked for, and to those who connect.
const FIRST_PORT: u16 = 20_000;

/// The entry a packed [`Id`] names, or an end's number.
type EndKey = u64;

pub(super) struct Network {
    rng: Rng,
    faults: Faults,
    listeners: BTreeMap<Address, Listening>,
    ends: BTreeMap<EndKey, End>,
    /// Which end an entry is.
    entries: BTreeMap<u64, EndKey>,
    events: BinaryHeap<Reverse<Event>>,
    /// Addresses whose connections carry nothing, and what is held back meanwhile, in order.
    cut: BTreeSet<Address>,
    held: Vec<Event>,
    sequence: u64,
    next_end: EndKey,
    next_port: u16,
    trace: u64,
}

struct Listening {
    id: Id,
    backlog: VecDeque<EndKey>,
    backlog_max: usize,
}

struct End {
    /// This end's entry; `None` before it is accepted and after it is closed.
    id: Option<Id>,
    closed: bool,
    local: Address,
    peer: Address,
    /// Where the listening end listens: what a cut names.
    service: Address,
    /// When the last thing sent to this end arrives; nothing arrives before it.
    last_arrival: u64,
    /// Bytes on their way to this end, or waiting for it to be accepted.
    under_way: usize,
    /// Arrived before the connection was accepted.
    early: VecDeque<What>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    time: u64,
    sequence: u64,
    end: EndKey,
    what: What,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// A connection attempt reaches the listener.
    Attempt,
    Connected,
    Refused,
    Bytes(Vec<u8>),
    Finish,
    Reset,
}

impl Network {
    pub(super) fn new(simulation: &Simulation) -> Self {
        Self {
            rng: Rng::seeded(simulation.seed),
            faults: simulation.faults.clone(),
            listeners: BTreeMap::new(),
            ends: BTreeMap::new(),
            entries: BTreeMap::new(),
            events: BinaryHeap::new(),
            cut: BTreeSet::new(),
            held: Vec::new(),
            sequence: 0,
            next_end: 0,
            next_port: FIRST_PORT,
            trace: 0xcbf2_9ce4_8422_2325,
        }
    }

    pub(super) fn trace(&self) -> u64 {
        self.trace
    }

    /// When something happens next.
    pub(super) fn next(&self) -> Option<u64> {
        self.events.peek().map(|Reverse(event)| event.time)
    }

    pub(super) fn names(&self, id: Id) -> io::Result<(Address, Address)> {
        if let Some(end) = self.entries.get(&id.pack()).and_then(|key| self.ends.get(key)) {
            return Ok((end.local.clone(), end.peer.clone()));
        }
        let listener = self.listeners.iter().find(|(_, listening)| listening.id == id);
        let (address, _) = listener.ok_or(io::ErrorKind::NotConnected)?;
        Ok((address.clone(), Address::Unix(PathBuf::new())))
    }

    pub(super) fn listen(
        &mut self,
        id: Id,
        address: &Address,
        options: &ListenOptions,
    ) -> io::Result<()> {
        let address = match address {
            Address::Tcp(tcp) if tcp.port() == 0 => {
                Address::Tcp(SocketAddr::new(tcp.ip(), self.take_port()))
            }
            address => address.clone(),
        };
        if self.listeners.contains_key(&address) {
            return Err(Errno::ADDRINUSE.into());
        }
        let backlog_max = usize::try_from(options.backlog).unwrap_or(usize::MAX);
        self.listeners.insert(address, Listening { id, backlog: VecDeque::new(), backlog_max });
        Ok(())
    }

    /// The next connection of a listener, as an entry.
    pub(super) fn accept(&mut self, slots: &mut Slots, listener: Id) -> Option<Id> {
        let listening = self.listeners.values_mut().find(|listening| listening.id == listener)?;
        let key = listening.backlog.pop_front()?;
        let id = slots.insert(Kind::Stream, None);
        let end = self.ends.get_mut(&key)?;
        end.id = Some(id);
        slots.get_mut(id).local = matches!(end.local, Address::Unix(_));
        let early = std::mem::take(&mut end.early);
        self.entries.insert(id.pack(), key);
        for what in early {
            self.arrive(slots, key, what);
        }
        Some(id)
    }

    pub(super) fn close_listener(&mut self, id: Id, now: u64) {
        let address = self.listeners.iter().find(|(_, listening)| listening.id == id);
        let Some(address) = address.map(|(address, _)| address.clone()) else { return };
        let Some(listening) = self.listeners.remove(&address) else { return };
        for key in listening.backlog {
            self.leave(key, true, now);
        }
    }

    /// Begins a connection from entry `id`.
    pub(super) fn connect(&mut self, id: Id, address: &Address, now: u64) {
        let local = match address {
            Address::Tcp(_) => {
                let port = self.take_port();
                Address::Tcp(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port))
            }
            Address::Unix(_) => Address::Unix(PathBuf::new()),
        };
        let key = self.next_end;
        self.next_end += 2;
        let end = |id, local: &Address, peer: &Address| End {
            id,
            closed: false,
            local: local.clone(),
            peer: peer.clone(),
            service: address.clone(),
            last_arrival: now,
            under_way: 0,
            early: VecDeque::new(),
        };
        self.ends.insert(key, end(Some(id), &local, address));
        self.ends.insert(key ^ 1, end(None, address, &local));
        self.entries.insert(id.pack(), key);
        self.dispatch(key ^ 1, What::Attempt, now);
    }

    /// The entry at the other end, if it is open.
    pub(super) fn peer(&self, id: Id) -> Option<Id> {
        let key = self.entries.get(&id.pack())?;
        self.ends.get(&(key ^ 1))?.id
    }

    /// Sends what an entry has queued, as far as the window allows.
    pub(super) fn send(&mut self, slots: &mut Slots, id: Id, now: u64) {
        let Some(&key) = self.entries.get(&id.pack()) else { return };
        let unread =
            self.peer(id).and_then(|peer| slots.find(peer)).map_or(0, |slot| slot.received.bytes());
        let Some(slot) = slots.find(id) else { return };
        if slot.connecting || slot.send_error.is_some() {
            return;
        }
        while !slot.out.is_empty() {
            let under_way = self.ends.get(&(key ^ 1)).map_or(0, |end| end.under_way);
            let room = WINDOW_BYTES.saturating_sub(under_way + unread);
            let length = self.segment_length(slot.out.len().min(room).min(SEGMENT_BYTES));
            if length == 0 {
                break;
            }
            if self.chance(self.faults.reset) {
                self.dispatch(key, What::Reset, now);
                self.dispatch(key ^ 1, What::Reset, now);
                slot.fail_sending(Errno::PIPE);
                break;
            }
            let bytes = slot.out.unsent().get(..length).unwrap_or_default().to_vec();
            slot.out.advance(length);
            if let Some(end) = self.ends.get_mut(&(key ^ 1)) {
                end.under_way += length;
            }
            self.dispatch(key ^ 1, What::Bytes(bytes), now);
        }
        slot.sent_some();
    }

    /// No more bytes from this entry.
    pub(super) fn finish(&mut self, id: Id, now: u64) {
        if let Some(&key) = self.entries.get(&id.pack()) {
            self.dispatch(key ^ 1, What::Finish, now);
        }
    }

    pub(super) fn close(&mut self, id: Id, reset: bool, now: u64) {
        if let Some(key) = self.entries.remove(&id.pack()) {
            self.leave(key, reset, now);
        }
    }

    pub(super) fn cut(&mut self, address: &Address) {
        self.cut.insert(address.clone());
    }

    pub(super) fn heal(&mut self, address: &Address, now: u64) {
        self.cut.remove(address);
        for event in std::mem::take(&mut self.held) {
            self.dispatch(event.end, event.what, now);
        }
    }

    /// Lets happen what is due.
    pub(super) fn deliver(&mut self, slots: &mut Slots, now: u64) {
        while self.next().is_some_and(|time| time <= now) {
            let Some(Reverse(event)) = self.events.pop() else { return };
            let service = self.ends.get(&event.end).map(|end| &end.service);
            if service.is_some_and(|service| self.cut.contains(service)) {
                self.held.push(event);
                continue;
            }
            self.note(&event);
            self.happen(slots, event.end, event.what, now);
        }
    }

    fn happen(&mut self, slots: &mut Slots, key: EndKey, what: What, now: u64) {
        match what {
            What::Attempt => self.attempt(slots, key, now),
            What::Connected | What::Refused => {
                let slot = self.ends.get(&key).and_then(|end| end.id).and_then(|id| slots.find(id));
                let Some(slot) = slot else { return };
                slot.connecting = false;
                if what == What::Refused {
                    slot.receive_error = Some(Errno::CONNREFUSED);
                }
                slot.wake_writer();
            }
            What::Bytes(_) if self.ends.get(&key).is_some_and(|end| end.closed) => {
                self.dispatch(key ^ 1, What::Reset, now);
            }
            what => {
                let Some(end) = self.ends.get_mut(&key) else { return };
                if end.id.is_none() && !end.closed {
                    end.early.push_back(what);
                } else {
                    self.arrive(slots, key, what);
                }
            }
        }
    }

    /// A connection attempt is at the listener, if there is one.
    fn attempt(&mut self, slots: &mut Slots, key: EndKey, now: u64) {
        let refused = self.chance(self.faults.refuse);
        let Some(end) = self.ends.get(&key) else { return };
        let listening = self.listeners.get_mut(&end.service);
        match listening
            .filter(|listening| !refused && listening.backlog.len() < listening.backlog_max)
        {
            Some(listening) => {
                listening.backlog.push_back(key);
                if let Some(slot) = slots.find(listening.id) {
                    slot.wake_reader();
                }
                self.dispatch(key ^ 1, What::Connected, now);
            }
            None => {
                self.dispatch(key ^ 1, What::Refused, now);
                self.ends.remove(&key);
            }
        }
    }

    /// Bytes, an end of file or a reset are at an accepted end.
    fn arrive(&mut self, slots: &mut Slots, key: EndKey, what: What) {
        let Some(end) = self.ends.get_mut(&key) else { return };
        let Some(slot) = end.id.and_then(|id| slots.find(id)) else { return };
        match what {
            What::Bytes(bytes) => {
                end.under_way -= bytes.len();
                slot.received.push(Chunk::copy_of(&bytes));
            }
            What::Finish => slot.eof = true,
            _ => {
                slot.receive_error = Some(Errno::CONNRESET);
                slot.connecting = false;
                slot.fail_sending(Errno::PIPE);
            }
        }
        slot.wake_reader();
    }

    /// An end is closed, and its connection forgotten when both are.
    fn leave(&mut self, key: EndKey, reset: bool, now: u64) {
        let Some(end) = self.ends.get_mut(&key) else { return };
        end.closed = true;
        end.id = None;
        if self.ends.get(&(key ^ 1)).is_none_or(|peer| peer.closed) {
            self.ends.remove(&key);
            self.ends.remove(&(key ^ 1));
        } else {
            self.dispatch(key ^ 1, if reset { What::Reset } else { What::Finish }, now);
        }
    }

    /// Puts something on its way to an end, behind all that is under way to it.
    fn dispatch(&mut self, key: EndKey, what: What, now: u64) {
        let (shortest, longest) = self.faults.latency;
        let mut latency = self.between(shortest, longest);
        if self.chance(self.faults.stall) {
            latency += self.between(Duration::ZERO, self.faults.stall_time);
        }
        let Some(end) = self.ends.get_mut(&key) else { return };
        end.last_arrival = end.last_arrival.max(now + latency);
        let time = end.last_arrival;
        self.sequence += 1;
        self.events.push(Reverse(Event { time, sequence: self.sequence, end: key, what }));
    }

    fn segment_length(&mut self, length: usize) -> usize {
        if length > 1 && self.chance(self.faults.split) {
            let cut = self.rng.below(length as u64 - 1);
            return usize::try_from(cut).unwrap_or(0) + 1;
        }
        length
    }

    fn chance(&mut self, per_million: u32) -> bool {
        per_million > 0 && self.rng.below(1_000_000) < u64::from(per_million)
    }

    fn between(&mut self, shortest: Duration, longest: Duration) -> u64 {
        let nanoseconds =
            |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2);
        let (low, high) = (nanoseconds(shortest), nanoseconds(longest));
        low + self.rng.below(high.saturating_sub(low) + 1)
    }

    fn take_port(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = port.checked_add(1).unwrap_or(FIRST_PORT);
        port
    }

    /// Folds an event into the trace (FNV-1a).
    fn note(&mut self, event: &Event) {
        let (kind, bytes): (u8, &[u8]) = match &event.what {
            What::Attempt => (0, &[]),
            What::Connected => (1, &[]),
            What::Refused => (2, &[]),
            What::Bytes(bytes) => (3, bytes),
            What::Finish => (4, &[]),
            What::Reset => (5, &[]),
        };
        let numbers = [event.time, event.end].map(u64::to_le_bytes);
        for byte in numbers.as_flattened().iter().chain(bytes).chain([&kind]) {
            self.trace = (self.trace ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
