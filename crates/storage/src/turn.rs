//! One task after another.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// What only one task may do at a time.
#[derive(Default)]
pub struct Turn {
    taken: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Turn {
    /// Waits for the turn, which ends with the value.
    pub async fn take(&self) -> Taken<'_> {
        poll_fn(|context| {
            if self.taken.replace(true) {
                self.waiting.borrow_mut().push(context.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(Taken(self))
        })
        .await
    }
}

/// The turn; it ends when this is dropped.
pub struct Taken<'t>(&'t Turn);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.taken.set(false);
        // All of them: one that has been given up could not hand its turn on. They are few.
        self.0.waiting.take().into_iter().for_each(Waker::wake);
    }
}
