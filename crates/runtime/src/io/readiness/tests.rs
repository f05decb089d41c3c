//! The readiness state machine under a poller that reports what the test says: so it holds for pollers
//! this machine hasn't.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::Waker;

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};

use super::*;

/// What the driver asked of the poller, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Call {
    Add(u64, Interest),
    Change(u64, Interest),
    Remove,
}

#[derive(Clone, Default)]
struct Script {
    calls: Rc<RefCell<Vec<Call>>>,
    events: Rc<RefCell<Vec<Event>>>,
}

impl Poller for Script {
    fn backend(&self) -> Backend {
        Backend::Kqueue
    }

    fn add(&mut self, _fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        self.calls.borrow_mut().push(Call::Add(token, interest));
        Ok(())
    }

    fn change(&mut self, _fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        self.calls.borrow_mut().push(Call::Change(token, interest));
        Ok(())
    }

    fn remove(&mut self, _fd: BorrowedFd<'_>) {
        self.calls.borrow_mut().push(Call::Remove);
    }

    fn wait(&mut self, _timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        events.append(&mut self.events.borrow_mut());
        Ok(())
    }
}

/// A driver with one connection, its peer, and the script of its poller.
struct Scene {
    script: Script,
    driver: ReadinessDriver<Script>,
    slots: Slots,
    id: Id,
    peer: OwnedFd,
}

const BUFFER_BYTES: usize = 64;
const READABLE: Event = Event { token: 0, readable: true, writable: false, hangup: false };
const WRITABLE: Event = Event { token: 0, readable: false, writable: true, hangup: false };

impl Scene {
    fn new() -> Self {
        buffer::open(4, BUFFER_BYTES);
        let script = Script::default();
        let bell = Box::leak(Box::new(Bell::new().expect("a bell")));
        let driver = ReadinessDriver::new(script.clone(), bell).expect("a driver");
        let mut slots = Slots::default();
        let kind = (AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC);
        let (ours, peer) = socketpair(kind.0, kind.1, kind.2, None).expect("a pair");
        let id = slots.insert_stream(ours, true);
        let mut scene = Self { script, driver, slots, id, peer };
        assert_eq!(scene.recv(), None, "the first wait registers the connection");
        assert_eq!(scene.calls().pop(), Some(Call::Add(id.pack(), Interest::Read)));
        scene
    }

    fn write(&self, bytes: &[u8]) {
        assert_eq!(send(&self.peer, bytes, SendFlags::NOSIGNAL), Ok(bytes.len()));
    }

    /// One turn in which the poller reports `event` for the connection.
    fn report(&mut self, event: Event) {
        self.script.events.borrow_mut().push(Event { token: self.id.pack(), ..event });
        self.driver.turn(&mut self.slots, Some(0)).expect("a turn");
    }

    /// Bytes received, `None` for "wait".
    fn recv(&mut self) -> Option<usize> {
        let mut cx = Context::from_waker(Waker::noop());
        match self.driver.poll_recv(&mut self.slots, self.id, Some(&mut cx)) {
            Poll::Ready(result) => Some(result.expect("received").len()),
            Poll::Pending => None,
        }
    }

    fn calls(&self) -> Vec<Call> {
        self.script.calls.take()
    }
}

#[test]
fn reads_nothing_before_the_first_edge() {
    let mut scene = Scene::new();
    scene.write(b"abc");
    assert_eq!(scene.recv(), None);
    scene.report(READABLE);
    assert_eq!(scene.recv(), Some(3));
}

#[test]
fn a_short_read_means_drained_and_waits_for_the_next_edge() {
    let mut scene = Scene::new();
    scene.write(b"abc");
    scene.report(READABLE);
    assert_eq!(scene.recv(), Some(3));
    scene.write(b"later");
    assert_eq!(scene.recv(), None, "no system call is spent on asking again");
    scene.report(READABLE);
    assert_eq!(scene.recv(), Some(5));
}

#[test]
fn a_full_read_goes_on_without_an_edge_until_there_is_no_more() {
    let mut scene = Scene::new();
    scene.write(&[1; 2 * BUFFER_BYTES]);
    scene.report(READABLE);
    assert_eq!([scene.recv(), scene.recv(), scene.recv()], [Some(64), Some(64), None]);
    scene.write(b"x");
    assert_eq!(scene.recv(), None);
}

#[test]
fn after_a_hang_up_a_short_read_is_not_the_end() {
    let mut scene = Scene::new();
    scene.write(b"bye");
    shutdown(&scene.peer, Shutdown::Write).expect("shut down");
    scene.report(Event { hangup: true, ..READABLE });
    assert_eq!([scene.recv(), scene.recv(), scene.recv()], [Some(3), Some(0), Some(0)]);
}

#[test]
fn room_is_watched_only_while_sending_is_stuck() {
    let mut scene = Scene::new();
    let token = scene.id.pack();
    scene.slots.queue(scene.id, &vec![7; 8 << 20]);
    scene.driver.flush_dirty(&mut scene.slots);
    assert_eq!(scene.calls(), [Call::Change(token, Interest::ReadWrite)]);
    let mut taken = vec![0; 1 << 20];
    let mut received = 0;
    while received < 8 << 20 {
        let (count, _) = recv(&scene.peer, &mut *taken, RecvFlags::DONTWAIT).expect("received");
        received += count;
        scene.report(WRITABLE);
    }
    assert_eq!(scene.calls(), [Call::Change(token, Interest::Read)]);
    scene.slots.queue(scene.id, b"small");
    scene.driver.flush_dirty(&mut scene.slots);
    assert_eq!((scene.calls(), scene.slots.get_mut(scene.id).queued()), (vec![], 0));
}

#[test]
fn a_connection_that_is_stuck_before_it_ever_waited_is_registered_once() {
    let mut scene = Scene::new();
    let kind = (AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC);
    let (ours, peer) = socketpair(kind.0, kind.1, kind.2, None).expect("a pair");
    (scene.id, scene.peer) = (scene.slots.insert_stream(ours, true), peer);
    scene.slots.queue(scene.id, &vec![7; 8 << 20]);
    scene.driver.flush_dirty(&mut scene.slots);
    assert_eq!(scene.recv(), None);
    assert_eq!(scene.calls(), [Call::Add(scene.id.pack(), Interest::ReadWrite)]);
}

#[test]
fn an_event_of_an_entry_that_is_gone_touches_nobody() {
    let mut scene = Scene::new();
    let stale = scene.id;
    scene.driver.close(&mut scene.slots, stale, false);
    let kind = (AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC);
    let (ours, peer) = socketpair(kind.0, kind.1, kind.2, None).expect("a pair");
    scene.id = scene.slots.insert_stream(ours, true);
    scene.peer = peer;
    assert_eq!(scene.id.index, stale.index, "the slot is used again");
    scene.write(b"abc");
    scene.script.events.borrow_mut().push(Event { token: stale.pack(), ..READABLE });
    scene.driver.turn(&mut scene.slots, Some(0)).expect("a turn");
    assert_eq!(scene.recv(), None);
}

#[test]
fn a_watch_asks_again_only_after_it_has_reported() {
    let mut scene = Scene::new();
    let watched = rustix::io::dup(&scene.peer).expect("a duplicate");
    let id = scene.driver.watch(&mut scene.slots, watched.as_fd()).expect("watched");
    assert_eq!(scene.calls(), [Call::Add(id.pack(), Interest::ReadOnce)]);
    let mut cx = Context::from_waker(Waker::noop());
    let mut poll = |scene: &mut Scene| {
        scene.driver.poll_readable(&mut scene.slots, id, watched.as_fd(), &mut cx).is_ready()
    };
    assert_eq!([poll(&mut scene), poll(&mut scene)], [false, false]);
    assert_eq!(scene.calls(), []);
    scene.script.events.borrow_mut().push(Event { token: id.pack(), ..READABLE });
    scene.driver.turn(&mut scene.slots, Some(0)).expect("a turn");
    assert_eq!([poll(&mut scene), poll(&mut scene)], [true, false]);
    assert_eq!(scene.calls(), [Call::Change(id.pack(), Interest::ReadOnce)]);
    scene.driver.unwatch(&mut scene.slots, id, watched.as_fd());
    assert_eq!(scene.calls(), [Call::Remove]);
}
