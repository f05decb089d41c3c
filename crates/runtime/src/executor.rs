//! The tasks of one core. One thread runs one loop: tasks that are ready, then everything they queued
//! is sent, then the driver waits for the kernel, other cores or the next timer.
//!
//! Invariants:
//! 1. A task never leaves its core, so futures need not be `Send`; its waker may go anywhere.
//! 2. A wake queues its task once, however often it is repeated before the task runs.
//! 3. Nothing of the core is borrowed while a task runs or is dropped.
//! 4. The core looks at the kernel at least once per [`TASKS_PER_TURN_MAX`] polls.

use std::cell::{Cell, RefCell, RefMut};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use crate::clock::{Time, wheel};
use crate::limits::{RECEIVES_PER_POLL_MAX, TASKS_PER_TURN_MAX};
use crate::{buffer, io as driver};

pub use join::{Aborted, JoinHandle};
use scheduler::Scheduler;

mod join;
pub(crate) mod remote;
mod scheduler;

/// Starts a task on this core. Dropping the handle lets the task run on.
pub fn spawn<F: Future + 'static>(future: F) -> JoinHandle<F::Output> {
    JoinHandle::start(future)
}

/// Starts a task whose end nobody waits for: one allocation.
pub fn spawn_detached<F: Future<Output = ()> + 'static>(future: F) {
    let future = Box::pin(future);
    with_core(|core| core.scheduler().insert(future));
}

/// Lets every other ready task and the kernel have a turn.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        with_core(|core| core.yielded.borrow_mut().push(cx.waker().clone()));
        Poll::Pending
    })
    .await;
}

/// Makes this thread a core, runs it until `future` is done, and drops the tasks still there.
///
/// # Errors
/// When the driver can't be opened, or stops working.
///
/// # Panics
/// When this thread is a core already.
pub fn block_on<F: Future>(options: &driver::Options, future: F) -> io::Result<F::Output> {
    let open = Open::new(options)?;
    let future = pin!(future);
    let result = open.run(future);
    drop(open);
    result
}

/// What this core has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Tasks alive now.
    pub tasks: usize,
    /// Turns of the loop.
    pub turns: u64,
    /// Times a task was run.
    pub polls: u64,
    /// Times the core waited in the kernel for something to do.
    pub parks: u64,
}

/// The counts of this core.
pub fn stats() -> Stats {
    with_core(|core| Stats { tasks: core.scheduler().alive(), ..core.stats.get() })
}

/// What a thread needs to be a core.
pub(crate) struct Core {
    /// `remote::NONE` off a core.
    id: Cell<u32>,
    /// Nanoseconds, as of the beginning of this turn.
    now: Cell<u64>,
    scheduler: RefCell<Scheduler>,
    /// Receives of the task that runs, in this poll, that got something.
    receives: Cell<u32>,
    /// Woken at the beginning of the next turn.
    yielded: RefCell<Vec<Waker>>,
    wheel: RefCell<wheel::Wheel>,
    reactor: RefCell<Option<driver::Reactor>>,
    stats: Cell<Stats>,
}

thread_local! {
    static CORE: Core = const {
        Core {
            id: Cell::new(remote::NONE),
            now: Cell::new(0),
            receives: Cell::new(0),
            scheduler: RefCell::new(Scheduler::new()),
            yielded: RefCell::new(Vec::new()),
            wheel: RefCell::new(wheel::Wheel::new()),
            reactor: RefCell::new(None),
            stats: Cell::new(Stats { tasks: 0, turns: 0, polls: 0, parks: 0 }),
        }
    };
}

/// Lends this thread's core.
///
/// # Panics
/// Off a core.
pub(crate) fn with_core<R>(f: impl FnOnce(&Core) -> R) -> R {
    CORE.with(|core| {
        assert!(
            core.id.get() != remote::NONE,
            "this must be called on a core, inside block_on or a nodepool"
        );
        f(core)
    })
}

/// Lends this core's reactor.
///
/// # Panics
/// Off a core.
pub(crate) fn with_reactor<R>(f: impl FnOnce(&mut driver::Reactor) -> R) -> R {
    with_core(|core| core.with_reactor(f))
}

/// As [`with_reactor`], or `None` when there is no core any more: for destructors.
pub(crate) fn try_with_reactor<R>(f: impl FnOnce(&mut driver::Reactor) -> R) -> Option<R> {
    CORE.try_with(|core| core.reactor.borrow_mut().as_mut().map(f)).ok().flatten()
}

/// The clock of this core's driver; `None` off a core.
pub(crate) fn driver_time() -> Option<Time> {
    CORE.try_with(|core| core.reactor.try_borrow().ok()?.as_ref().map(driver::Reactor::time))
        .ok()
        .flatten()
}

/// Takes a timer out of the wheel, if there still is one.
pub(crate) fn cancel_timer(key: wheel::Key) {
    let _gone = CORE.try_with(|core| core.wheel.borrow_mut().cancel(key));
}

/// Wakes the task that `packed` names, from any thread.
pub(crate) fn wake_packed(packed: u64) {
    let task = scheduler::TaskId::unpack(packed);
    let here = CORE.try_with(|core| {
        let own = core.id.get() == task.core;
        if own {
            core.scheduler.borrow_mut().wake(task);
        }
        own
    });
    if here != Ok(true) {
        remote::wake(task.core, task.index);
    }
}

impl Core {
    pub(crate) fn now(&self) -> u64 {
        self.now.get()
    }

    pub(crate) fn wheel(&self) -> RefMut<'_, wheel::Wheel> {
        self.wheel.borrow_mut()
    }

    /// As [`with_reactor`], for receiving: a task whose bytes never end is put off to the next turn now and then, so
    /// that others run and what it queued is sent.
    pub(crate) fn poll_receive<T>(
        &self,
        cx: &mut Context<'_>,
        receive: impl FnOnce(&mut driver::Reactor, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let receives = self.receives.get();
        if receives >= RECEIVES_PER_POLL_MAX {
            self.yielded.borrow_mut().push(cx.waker().clone());
            return Poll::Pending;
        }
        let received = self.with_reactor(|reactor| receive(reactor, cx));
        // Asking in vain ends by itself: a task may wait for any number of streams.
        self.receives.set(receives + u32::from(received.is_ready()));
        received
    }

    fn scheduler(&self) -> RefMut<'_, Scheduler> {
        self.scheduler.borrow_mut()
    }

    fn with_reactor<R>(&self, f: impl FnOnce(&mut driver::Reactor) -> R) -> R {
        f(self.reactor.borrow_mut().as_mut().expect("a core has a reactor while it runs"))
    }

    fn count(&self, change: impl FnOnce(&mut Stats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }

    /// What happened since: other cores' wakes, yields, timers.
    fn begin_turn(&self) {
        self.count(|stats| stats.turns += 1);
        self.now.set(self.with_reactor(|reactor| reactor.time_now()));
        remote::collect(self.id.get(), |index| self.scheduler().wake_index(index));
        self.wheel.borrow_mut().advance(self.now.get());
        let mut yielded = self.yielded.borrow_mut();
        yielded.drain(..).for_each(Waker::wake);
    }

    /// Sends what was queued, then waits for something to do.
    fn end_turn(&self) -> io::Result<()> {
        // Before the decision to sleep: what has been sent may wake those who wait for room.
        self.with_reactor(driver::Reactor::flush_dirty);
        let busy = !self.scheduler().is_idle() || !self.yielded.borrow().is_empty();
        let parked = !busy && remote::park(self.id.get());
        let until = if parked { self.wheel.borrow().next() } else { Some(0) };
        self.count(|stats| stats.parks += u64::from(parked));
        let result = self.with_reactor(|reactor| reactor.turn(until));
        if parked {
            remote::unpark(self.id.get());
        }
        result
    }

    /// Runs ready tasks; the root's output when it is done.
    fn run_ready<F: Future>(&self, root: &mut Pin<&mut F>) -> Option<F::Output> {
        for _ in 0..TASKS_PER_TURN_MAX {
            let (task, work) = self.scheduler().next()?;
            self.count(|stats| stats.polls += 1);
            let waker = crate::sys::waker::waker(task.pack(self.id.get()));
            let mut context = Context::from_waker(&waker);
            self.receives.set(0);
            match work {
                None => {
                    if let Poll::Ready(output) = root.as_mut().poll(&mut context) {
                        return Some(output);
                    }
                }
                Some(mut future) => {
                    let done = future.as_mut().poll(&mut context).is_ready();
                    let finished = self.scheduler().put_back(task, future, done);
                    drop(finished);
                }
            }
        }
        None
    }
}

/// A thread being a core, until dropped.
struct Open;

impl Open {
    fn new(options: &driver::Options) -> io::Result<Self> {
        CORE.with(|core| {
            assert!(core.id.get() == remote::NONE, "this thread is a core already");
            let (id, bell) = remote::claim()?;
            let reactor =
                driver::Reactor::open(options, bell).inspect_err(|_| remote::release(id))?;
            buffer::open(options.buffers, options.buffer_bytes);
            core.now.set(reactor.time_now());
            core.wheel.borrow_mut().reset(core.now.get());
            *core.reactor.borrow_mut() = Some(reactor);
            *core.scheduler.borrow_mut() = Scheduler::with_root();
            core.id.set(id);
            Ok(Self)
        })
    }

    fn run<F: Future>(&self, mut root: Pin<&mut F>) -> io::Result<F::Output> {
        CORE.with(|core| {
            loop {
                core.begin_turn();
                if let Some(output) = core.run_ready(&mut root) {
                    return Ok(output);
                }
                core.end_turn()?;
            }
        })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        CORE.with(|core| {
            loop {
                let tasks = core.scheduler().take_all();
                if tasks.is_empty() {
                    break;
                }
                drop(tasks);
            }
            let reactor = core.reactor.borrow_mut().take();
            drop(reactor);
            let yielded = core.yielded.take();
            drop(yielded);
            core.wheel.borrow_mut().reset(0);
            core.stats.set(Stats::default());
            buffer::close();
            remote::release(core.id.replace(remote::NONE));
        });
    }
}

#[cfg(test)]
mod tests;
