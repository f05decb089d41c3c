//! Waiting for, or ending, a task one has started.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::scheduler::TaskId;
use super::{CORE, with_core};

/// The task was aborted before it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted;

impl fmt::Display for Aborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("task was aborted")
    }
}

impl std::error::Error for Aborted {}

/// A started task: await it for its output. Dropping this lets the task run on.
pub struct JoinHandle<T> {
    task: TaskId,
    join: Rc<Join<T>>,
}

struct Join<T> {
    output: Cell<Option<Result<T, Aborted>>>,
    finished: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl<T> Join<T> {
    fn finish(&self, output: Result<T, Aborted>) {
        self.finished.set(true);
        self.output.set(Some(output));
        let waiter = self.waiter.take();
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").field("task", &self.task).finish_non_exhaustive()
    }
}

impl<T: 'static> JoinHandle<T> {
    pub(super) fn start<F: Future<Output = T> + 'static>(future: F) -> Self {
        let (output, finished, waiter) = (Cell::new(None), Cell::new(false), RefCell::new(None));
        let join = Rc::new(Join { output, finished, waiter });
        let theirs = Rc::clone(&join);
        let work = Box::pin(async move {
            let output = future.await;
            theirs.finish(Ok(output));
        });
        let task = with_core(|core| core.scheduler().insert(work));
        Self { task, join }
    }

    /// Drops the task's future, now or, called from within the task, when it next waits.
    /// Whoever waits for it sees [`Aborted`]. A finished task keeps its output.
    pub fn abort(&self) {
        if self.join.finished.get() {
            return;
        }
        let work = CORE.try_with(|core| core.scheduler().abort(self.task)).ok().flatten();
        drop(work);
        self.join.finish(Err(Aborted));
    }

    /// Whether the task is done or aborted.
    pub fn is_finished(&self) -> bool {
        self.join.finished.get()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, Aborted>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(output) = self.join.output.take() {
            return Poll::Ready(output);
        }
        self.join.waiter.replace(Some(cx.waker().clone()));
        Poll::Pending
    }
}
