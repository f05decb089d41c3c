//! Places of which there are only so many: who comes first gets one first.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// The places of one kind.
#[derive(Debug)]
pub(super) struct Permits {
    free: Cell<usize>,
    waiting: RefCell<VecDeque<Rc<Ticket>>>,
}

#[derive(Debug, Default)]
struct Ticket {
    is_called: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Permit(Rc<Permits>);

/// One that waits, or has been called and has not sat down.
struct Queued<'a> {
    permits: &'a Rc<Permits>,
    ticket: Rc<Ticket>,
}

impl Permits {
    pub(super) fn new(count: usize) -> Rc<Self> {
        Rc::new(Self { free: Cell::new(count), waiting: RefCell::default() })
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Whether who asks now need not wait.
    pub(super) fn has_free(&self) -> bool {
        self.free.get() > 0
    }

    /// Waits for a place. Who gives up loses his turn and nothing else.
    pub(super) async fn acquire(self: &Rc<Self>) -> Permit {
        if self.free.get() > 0 {
            self.free.set(self.free.get() - 1);
            return Permit(Rc::clone(self));
        }
        let queued = Queued { permits: self, ticket: Rc::default() };
        self.waiting.borrow_mut().push_back(Rc::clone(&queued.ticket));
        poll_fn(|cx| {
            // Taken by the permit: nothing is to be given back with the ticket.
            if queued.ticket.is_called.take() {
                return Poll::Ready(Permit(Rc::clone(self)));
            }
            queued.ticket.waker.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await
    }

    fn give_back(&self) {
        let Some(next) = self.waiting.borrow_mut().pop_front() else {
            self.free.set(self.free.get() + 1);
            return;
        };
        next.is_called.set(true);
        if let Some(waker) = next.waker.take() {
            waker.wake();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.permits.waiting.borrow_mut().retain(|other| !Rc::ptr_eq(other, &self.ticket));
        if self.ticket.is_called.get() {
            self.permits.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    #[test]
    fn places_go_round_in_order_and_survive_who_gives_up() {
        let permits = Permits::new(1);
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(first) = pin!(permits.acquire()).poll(&mut cx) else {
            panic!("it is free")
        };
        let (mut second, mut third) = (Box::pin(permits.acquire()), pin!(permits.acquire()));
        assert!(second.as_mut().poll(&mut cx).is_pending());
        assert!(third.as_mut().poll(&mut cx).is_pending());
        assert_eq!(permits.waiting(), 2);
        drop(first);
        assert!(third.as_mut().poll(&mut cx).is_pending(), "the second was called");
        drop(second);
        assert!(third.as_mut().poll(&mut cx).is_ready(), "the second has gone");
        assert!(permits.has_free(), "and the third's place came back");
    }
}
