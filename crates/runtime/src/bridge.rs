//! The way out of the cores, for libraries that need tokio and for calls that block.
//!
//! A [`Bridge`] is one side thread with a tokio runtime; [`blocking`] is a small pool of threads. Both answer by a
//! [`Pending`], which wakes the asking core. A hop costs about 40 µs where processors must be woken, so nothing
//! of this belongs on a hot path.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, LazyLock, Mutex, PoisonError};
use std::thread;

use tokio::runtime::Handle;

use crate::limits::{BLOCKING_IDLE, BLOCKING_QUEUE_MAX, BLOCKING_THREADS_MAX, BRIDGE_STOP_WAIT};
use crate::mailbox::{Pending, oneshot};
use crate::nodepool;

/// A tokio runtime on a thread of its own. Clones share it; the last one gone stops it.
#[derive(Clone)]
pub struct Bridge {
    side: Arc<Side>,
}

struct Side {
    handle: Handle,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Bridge {
    /// Starts the side thread.
    ///
    /// # Errors
    /// When the thread or its runtime cannot be made.
    pub fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = thread::Builder::new().name("howdah-side".into()).spawn(move || {
            nodepool::release_affinity();
            // An error means that the sender is gone, which asks for the same.
            runtime.block_on(stopped).ok();
            runtime.shutdown_timeout(BRIDGE_STOP_WAIT);
        })?;
        let side = Side { handle, stop: Some(stop), thread: Some(thread) };
        Ok(Self { side: Arc::new(side) })
    }

    /// Runs `future` on the side runtime. The result is `Dropped` when it panics or the bridge stops first. Dropping
    /// the [`Pending`] does not cancel the future.
    pub fn run<F>(&self, future: F) -> Pending<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (reply, pending) = oneshot();
        // The task is detached: its outcome travels by the reply.
        drop(self.side.handle.spawn(async move {
            // Nobody waiting any more is no error.
            reply.send(future.await).ok();
        }));
        pending
    }

    /// The runtime's handle, for libraries that take one.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.side.handle
    }
}

impl std::fmt::Debug for Bridge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bridge")
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
        {
            // A panic on that thread was reported when it happened.
            thread.join().ok();
        }
    }
}

/// Runs a closure that may block on a pool of [`BLOCKING_THREADS_MAX`] threads. The result is `Dropped` when the
/// closure panics, or at once when [`BLOCKING_QUEUE_MAX`] others wait already.
pub fn blocking<F, T>(work: F) -> Pending<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    POOL.run(work)
}

type Job = Box<dyn FnOnce() + Send>;

static POOL: LazyLock<Pool> = LazyLock::new(Pool::default);

#[derive(Default)]
struct Pool {
    state: Mutex<PoolState>,
    work_arrived: Condvar,
}

#[derive(Default)]
struct PoolState {
    queue: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

impl Pool {
    fn run<F, T>(&'static self, work: F) -> Pending<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let (reply, pending) = oneshot();
        self.submit(Box::new(move || {
            // A panic drops the reply; the message was printed by the panic hook.
            if let Ok(value) = catch_unwind(AssertUnwindSafe(work)) {
                // Nobody waiting any more is no error.
                reply.send(value).ok();
            }
        }));
        pending
    }

    fn submit(&'static self, job: Job) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.queue.len() >= BLOCKING_QUEUE_MAX {
            drop(state);
            // Dropping the job drops its reply, which tells the caller.
            drop(job);
            return;
        }
        state.queue.push_back(job);
        // Idle threads may be on their way to earlier jobs: each waiting job wants one.
        if state.queue.len() <= state.idle {
            drop(state);
            self.work_arrived.notify_one();
            return;
        }
        if state.threads < BLOCKING_THREADS_MAX {
            let spawned =
                thread::Builder::new().name("howdah-blocking".into()).spawn(move || self.work());
            match spawned {
                Ok(_detached) => state.threads += 1,
                Err(error) if state.threads == 0 => {
                    // Nobody would ever run it: refuse it.
                    let refused = state.queue.pop_back();
                    drop(state);
                    tracing::error!(target: "runtime", %error, "could not start a thread");
                    drop(refused);
                    return;
                }
                Err(_a_running_thread_will_come_to_it) => {}
            }
        }
        drop(state);
        self.work_arrived.notify_one();
    }

    fn work(&self) {
        nodepool::release_affinity();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                job();
                state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.idle += 1;
            let (woken, waited) = self
                .work_arrived
                .wait_timeout(state, BLOCKING_IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if waited.timed_out() && state.queue.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};
    use std::time::Duration;

    use super::*;
    use crate::mailbox::Dropped;

    struct Unpark(thread::Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut future = pin!(future);
        loop {
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(output) => return output,
                Poll::Pending => thread::park(),
            }
        }
    }

    #[test]
    fn futures_run_on_the_side_thread() {
        let bridge = Bridge::start().unwrap();
        let name = block_on(bridge.run(async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            thread::current().name().map(str::to_owned)
        }));
        assert_eq!(name, Ok(Some("howdah-side".to_owned())));
    }

    #[test]
    fn stopping_the_bridge_drops_what_runs_on_it() {
        let bridge = Bridge::start().unwrap();
        let other = bridge.clone();
        let never = bridge.run(std::future::pending::<()>());
        drop(bridge);
        assert_eq!(block_on(other.run(async { 1 })), Ok(1), "a clone keeps it alive");
        drop(other);
        assert_eq!(block_on(never), Err(Dropped));
    }

    /// A pool of its own, so that tests of one process do not meet.
    fn pool() -> &'static Pool {
        Box::leak(Box::default())
    }

    #[test]
    fn closures_run_on_a_bounded_number_of_threads() {
        static RUNNING: AtomicUsize = AtomicUsize::new(0);
        static MOST: AtomicUsize = AtomicUsize::new(0);
        let pool = pool();
        // Each closure waits until as many as there may be threads run at once.
        let barrier = Arc::new(Barrier::new(BLOCKING_THREADS_MAX));
        let all: Vec<_> = (0..BLOCKING_THREADS_MAX * 8)
            .map(|index| {
                let barrier = Arc::clone(&barrier);
                pool.run(move || {
                    let running = RUNNING.fetch_add(1, Ordering::SeqCst) + 1;
                    MOST.fetch_max(running, Ordering::SeqCst);
                    barrier.wait();
                    RUNNING.fetch_sub(1, Ordering::SeqCst);
                    index * 2
                })
            })
            .collect();
        for (index, pending) in all.into_iter().enumerate() {
            assert_eq!(block_on(pending), Ok(index * 2));
        }
        assert_eq!(MOST.load(Ordering::SeqCst), BLOCKING_THREADS_MAX);
    }

    #[test]
    fn a_panic_in_a_closure_is_an_answer() {
        assert_eq!(block_on(blocking(|| -> u8 { panic!("on purpose") })), Err(Dropped));
        assert_eq!(block_on(blocking(|| 1)), Ok(1), "the pool goes on");
    }

    #[test]
    fn closures_beyond_the_queue_are_refused_at_once() {
        let pool = pool();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let released = Arc::new(Mutex::new(released));
        let held: Vec<_> = (0..BLOCKING_THREADS_MAX)
            .map(|_| {
                let released = Arc::clone(&released);
                pool.run(move || released.lock().unwrap().recv().is_err())
            })
            .collect();
        // The threads may not have taken the first closures yet, so the queue may be full that much earlier.
        let queued: Vec<_> = (0..BLOCKING_QUEUE_MAX + 1).map(|_| pool.run(|| ())).collect();
        let mut last = queued.into_iter().next_back().unwrap();
        assert_eq!(last.try_recv(), Some(Err(Dropped)));
        drop(release);
        for pending in held {
            assert_eq!(block_on(pending), Ok(true));
        }
    }
}
