//! Something that happens once, and that many may wait for; and waiting for the first of two things.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Poll, Waker};

/// A value that is set once.
#[derive(Debug)]
pub(super) struct Latch<T> {
    value: RefCell<Option<T>>,
    waiting: RefCell<Vec<Waker>>,
}

impl<T> Default for Latch<T> {
    fn default() -> Self {
        Self { value: RefCell::new(None), waiting: RefCell::default() }
    }
}

impl<T: Clone> Latch<T> {
    /// The first value stays.
    pub(super) fn set(&self, value: T) {
        self.value.borrow_mut().get_or_insert(value);
        for waker in self.waiting.take() {
            waker.wake();
        }
    }

    pub(super) fn get(&self) -> Option<T> {
        self.value.borrow().clone()
    }

    pub(super) async fn wait(&self) -> T {
        poll_fn(|cx| {
            if let Some(value) = self.get() {
                return Poll::Ready(value);
            }
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

/// What came first.
pub(super) enum First<A, B> {
    A(A),
    B(B),
}

/// Waits for one of two; the other is dropped.
pub(super) async fn first<A, B>(
    a: impl Future<Output = A>,
    b: impl Future<Output = B>,
) -> First<A, B> {
    let (mut a, mut b) = (pin!(a), pin!(b));
    poll_fn(|cx| {
        if let Poll::Ready(value) = a.as_mut().poll(cx) {
            return Poll::Ready(First::A(value));
        }
        b.as_mut().poll(cx).map(First::B)
    })
    .await
}
