//! A position (or a flag) that tasks of one core wait for.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Poll, Waker};

/// A number that only grows, and the tasks that wait for it to.
#[derive(Debug, Default)]
pub struct Watch {
    value: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Watch {
    pub fn get(&self) -> u64 {
        self.value.get()
    }

    /// Raises the value; a lower one is ignored.
    pub fn raise(&self, value: u64) {
        if value > self.value.get() {
            self.value.set(value);
            for waker in self.waiting.take() {
                waker.wake();
            }
        }
    }

    /// Waits until the value is at least this.
    pub async fn reaches(&self, value: u64) {
        poll_fn(|context| {
            if self.value.get() >= value {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

/// Runs `future` to its end, or until `stop` is raised above 0: then `None`.
pub async fn unless_stopped<T>(stop: &Watch, future: impl Future<Output = T>) -> Option<T> {
    let mut stopped = pin!(stop.reaches(1));
    let mut future = pin!(future);
    poll_fn(|context| {
        if stopped.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        future.as_mut().poll(context).map(Some)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Context;

    #[test]
    fn wakes_when_the_value_is_reached_and_not_before() {
        let watch = Watch::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut waiting = pin!(watch.reaches(5));
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        watch.raise(4);
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        watch.raise(7);
        assert!(waiting.as_mut().poll(&mut context).is_ready());
        watch.raise(3);
        assert_eq!(watch.get(), 7);
    }

    #[test]
    fn a_stop_ends_what_would_wait_for_ever() {
        let stop = Watch::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut work = pin!(unless_stopped(&stop, std::future::pending::<()>()));
        assert!(work.as_mut().poll(&mut context).is_pending());
        stop.raise(1);
        assert_eq!(work.as_mut().poll(&mut context), Poll::Ready(None));
    }
}
