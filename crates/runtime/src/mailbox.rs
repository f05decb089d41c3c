//! Messages between cores, the only thing they share: a bounded channel with many senders and one
//! receiver, and a one-shot reply.
//!
//! Invariants:
//! 1. A full mailbox is a value ([`Full`]), never a block: `try_send` gives the message back, `send` waits as a task.
//! 2. No wake is lost. Each side first registers, then looks at the queue again; the other side first
//!    changes the queue, then looks for somebody registered.
//! 3. Both ends may close. After the last sender is gone the receiver drains what is queued, then sees `None`;
//!    after the receiver is gone every send gives its message back.
//!
//! Wakers decide what a wake costs: the executor's rings another core at most once per park, so a burst
//! of messages is one wake.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use atomic_waker::AtomicWaker;
use crossbeam_queue::ArrayQueue;

/// Makes a mailbox that holds at most `capacity` messages.
///
/// # Panics
/// When `capacity` is zero: such a mailbox could never deliver anything.
pub fn channel<T: Send>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0, "a mailbox needs room for at least one message");
    let shared = Arc::new(Shared {
        queue: ArrayQueue::new(capacity),
        receiver: AtomicWaker::new(),
        receiver_gone: AtomicBool::new(false),
        senders: AtomicUsize::new(1),
        waiting: AtomicUsize::new(0),
        waiters: Mutex::new(Waiters { next_ticket: 0, queue: VecDeque::new() }),
    });
    (Sender { shared: Arc::clone(&shared) }, Receiver { shared })
}

/// The mailbox took nothing: it is full, or its receiver is gone ([`Sender::is_closed`] tells which).
/// The message comes back.
#[derive(PartialEq, Eq)]
pub struct Full<T>(pub T);

impl<T> fmt::Debug for Full<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Full(..)")
    }
}

impl<T> fmt::Display for Full<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("mailbox is full or closed")
    }
}

impl<T> std::error::Error for Full<T> {}

/// The receiver is gone for good. The message comes back.
#[derive(PartialEq, Eq)]
pub struct Closed<T>(pub T);

impl<T> fmt::Debug for Closed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Closed(..)")
    }
}

impl<T> fmt::Display for Closed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("mailbox is closed")
    }
}

impl<T> std::error::Error for Closed<T> {}

struct Shared<T> {
    queue: ArrayQueue<T>,
    receiver: AtomicWaker,
    receiver_gone: AtomicBool,
    senders: AtomicUsize,
    /// Length of `waiters.queue`, so that a receive with nobody waiting takes no lock.
    waiting: AtomicUsize,
    waiters: Mutex<Waiters>,
}

/// Senders waiting for room, first come first served. Bounded by the number of tasks that wait.
struct Waiters {
    next_ticket: u64,
    queue: VecDeque<(u64, Waker)>,
}

impl<T> Shared<T> {
    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        // The lock is held over plain queue operations only, which cannot leave it half changed.
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops what nobody will receive.
    fn discard(&self) {
        while self.queue.pop().is_some() {}
    }

    /// Wakes the first sender that waits for room, after a message was taken out.
    fn wake_one_sender(&self) {
        // Pairs with the fence in `Send::poll`: either we see the waiter or it sees the room.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        let woken = {
            let mut waiters = self.waiters();
            let first = waiters.queue.pop_front();
            self.waiting.store(waiters.queue.len(), Ordering::Relaxed);
            first
        };
        if let Some((_, waker)) = woken {
            waker.wake();
        }
    }

    fn wake_all_senders(&self) {
        fence(Ordering::SeqCst);
        let woken = {
            let mut waiters = self.waiters();
            self.waiting.store(0, Ordering::Relaxed);
            std::mem::take(&mut waiters.queue)
        };
        for (_, waker) in woken {
            waker.wake();
        }
    }
}

/// The sending end: clone it once per core or task that sends.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.senders.fetch_add(1, Ordering::Relaxed);
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.shared.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.receiver.wake();
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("queued", &self.shared.queue.len()).finish_non_exhaustive()
    }
}

impl<T: Send> Sender<T> {
    /// Queues `message` or gives it back at once.
    ///
    /// # Errors
    /// [`Full`] when there is no room or no receiver.
    pub fn try_send(&self, message: T) -> Result<(), Full<T>> {
        if self.is_closed() {
            return Err(Full(message));
        }
        self.shared.queue.push(message).map_err(Full)?;
        self.shared.receiver.wake();
        // The receiver went while we pushed: free the message now, so that a reply in it is seen to be gone.
        fence(Ordering::SeqCst);
        if self.is_closed() {
            self.shared.discard();
        }
        Ok(())
    }

    /// Queues `message`, waiting for room; waiting senders are served in order. Dropping the future
    /// before it is ready sends nothing.
    ///
    /// Resolves to [`Closed`] when the receiver is gone.
    pub fn send(&self, message: T) -> SendFuture<'_, T> {
        SendFuture { sender: self, message: Some(message), ticket: None }
    }

    /// Whether the receiver is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.receiver_gone.load(Ordering::Acquire)
    }

    /// Messages queued now: a hint, others may send and receive meanwhile.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.shared.queue.len()
    }
}

/// What [`Sender::send`] returns.
#[must_use = "a send happens only when it is awaited"]
pub struct SendFuture<'a, T: Send> {
    sender: &'a Sender<T>,
    message: Option<T>,
    ticket: Option<u64>,
}

// The message is moved in and out by value and never pinned.
impl<T: Send> Unpin for SendFuture<'_, T> {}

impl<T: Send> Future for SendFuture<'_, T> {
    type Output = Result<(), Closed<T>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let message = this.message.take().expect("a finished send must not be polled again");
        // Others waited first: go to the end of the line instead of overtaking them.
        let overtakes =
            this.ticket.is_none() && this.sender.shared.waiting.load(Ordering::Relaxed) > 0;
        let message = if overtakes {
            message
        } else {
            match this.sender.try_send(message) {
                Ok(()) => return Poll::Ready(this.finish(Ok(()))),
                Err(Full(message)) => message,
            }
        };
        this.register(cx.waker());
        fence(Ordering::SeqCst);
        match this.sender.try_send(message) {
            Ok(()) => Poll::Ready(this.finish(Ok(()))),
            Err(Full(message)) if this.sender.is_closed() => {
                Poll::Ready(this.finish(Err(Closed(message))))
            }
            Err(Full(message)) => {
                this.message = Some(message);
                Poll::Pending
            }
        }
    }
}

impl<T: Send> SendFuture<'_, T> {
    /// Takes a place in the line, or refreshes the waker of the place this future holds. A future that
    /// was called to the front and found the room taken by another goes back to the front.
    fn register(&mut self, waker: &Waker) {
        let shared = &self.sender.shared;
        let mut waiters = shared.waiters();
        match self.ticket {
            None => {
                let ticket = waiters.next_ticket;
                waiters.next_ticket += 1;
                self.ticket = Some(ticket);
                waiters.queue.push_back((ticket, waker.clone()));
            }
            Some(ticket) => match waiters.queue.iter_mut().find(|(other, _)| *other == ticket) {
                Some((_, registered)) => registered.clone_from(waker),
                None => waiters.queue.push_front((ticket, waker.clone())),
            },
        }
        shared.waiting.store(waiters.queue.len(), Ordering::Relaxed);
    }

    /// Leaves the line. Returns whether this future had been called already.
    fn leave(&mut self) -> bool {
        let Some(ticket) = self.ticket.take() else { return false };
        let shared = &self.sender.shared;
        let mut waiters = shared.waiters();
        let before = waiters.queue.len();
        waiters.queue.retain(|(other, _)| *other != ticket);
        shared.waiting.store(waiters.queue.len(), Ordering::Relaxed);
        waiters.queue.len() == before
    }

    fn finish(&mut self, result: Result<(), Closed<T>>) -> Result<(), Closed<T>> {
        // A call that came while we helped ourselves belongs to the next in line if room is left.
        if self.leave() && !self.sender.shared.queue.is_full() {
            self.sender.shared.wake_one_sender();
        }
        result
    }
}

impl<T: Send> Drop for SendFuture<'_, T> {
    fn drop(&mut self) {
        // Called, but gone before it could send: pass the call on.
        if self.leave() {
            self.sender.shared.wake_one_sender();
        }
    }
}

/// The receiving end. It may be moved to another core before its first use there.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("queued", &self.shared.queue.len()).finish_non_exhaustive()
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receiver_gone.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.shared.discard();
        self.shared.wake_all_senders();
    }
}

impl<T: Send> Receiver<T> {
    /// The next message, or `None` when all senders are gone and the mailbox is empty. Cancel-safe.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The next message if there is one now.
    pub fn try_recv(&mut self) -> Option<T> {
        let message = self.shared.queue.pop()?;
        self.shared.wake_one_sender();
        Some(message)
    }

    /// As [`Receiver::recv`], for hand-written futures.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        if let Some(message) = self.try_recv() {
            return Poll::Ready(Some(message));
        }
        self.shared.receiver.register(cx.waker());
        // Senders are read before the queue: a sender pushes before it goes.
        let ended = self.shared.senders.load(Ordering::Acquire) == 0;
        match self.try_recv() {
            Some(message) => Poll::Ready(Some(message)),
            None if ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

/// Makes a one-shot reply: the [`Reply`] travels with a request, the [`Pending`] waits for it.
pub fn oneshot<T: Send>() -> (Reply<T>, Pending<T>) {
    let slot = Arc::new(Mutex::new(Slot::Empty(None)));
    (Reply { slot: Some(Arc::clone(&slot)) }, Pending { slot })
}

/// The other end went away without a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropped;

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("request was dropped without a reply")
    }
}

impl std::error::Error for Dropped {}

enum Slot<T> {
    Empty(Option<Waker>),
    Value(T),
    ReplyGone,
    PendingGone,
}

fn lock<T>(slot: &Mutex<Slot<T>>) -> MutexGuard<'_, Slot<T>> {
    // Held over one assignment only; nothing in there can panic.
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The end that answers, once.
pub struct Reply<T> {
    slot: Option<Arc<Mutex<Slot<T>>>>,
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply(..)")
    }
}

impl<T: Send> Reply<T> {
    /// Delivers `value`. When nobody waits any more it comes back, so that a resource in it is not lost.
    ///
    /// # Errors
    /// [`Closed`] when the [`Pending`] was dropped.
    pub fn send(mut self, value: T) -> Result<(), Closed<T>> {
        let slot = self.slot.take().expect("a reply has its slot until it is sent");
        settle(&slot, Slot::Value(value))
    }

    /// Whether nobody waits for the reply any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.slot.as_ref().is_none_or(|slot| matches!(*lock(slot), Slot::PendingGone))
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            // Nothing comes back from a slot that carries no value.
            settle(&slot, Slot::ReplyGone).ok();
        }
    }
}

/// Puts the final state into the slot and wakes the waiter outside of the lock.
fn settle<T>(slot: &Mutex<Slot<T>>, outcome: Slot<T>) -> Result<(), Closed<T>> {
    let waker = {
        let mut state = lock(slot);
        match std::mem::replace(&mut *state, Slot::PendingGone) {
            Slot::Empty(waker) => {
                *state = outcome;
                waker
            }
            Slot::PendingGone | Slot::Value(_) | Slot::ReplyGone => {
                drop(state);
                return match outcome {
                    Slot::Value(value) => Err(Closed(value)),
                    _ => Ok(()),
                };
            }
        }
    };
    if let Some(waker) = waker {
        waker.wake();
    }
    Ok(())
}

/// The end that waits: a future of the reply, or of [`Dropped`].
#[must_use = "a reply is delivered to whoever awaits it"]
pub struct Pending<T> {
    slot: Arc<Mutex<Slot<T>>>,
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pending(..)")
    }
}

impl<T: Send> Pending<T> {
    /// The reply if it is there now; `None` while it is not.
    pub fn try_recv(&mut self) -> Option<Result<T, Dropped>> {
        take(&mut lock(&self.slot))
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T, Dropped>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = lock(&self.slot);
        if let Some(outcome) = take(&mut state) {
            return Poll::Ready(outcome);
        }
        *state = Slot::Empty(Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        // The value, if any, is dropped outside of the lock.
        let last = std::mem::replace(&mut *lock(&self.slot), Slot::PendingGone);
        drop(last);
    }
}

/// Takes the outcome out of a settled slot.
fn take<T>(state: &mut Slot<T>) -> Option<Result<T, Dropped>> {
    if let Slot::Empty(_) = state {
        return None;
    }
    match std::mem::replace(state, Slot::ReplyGone) {
        Slot::Value(value) => Some(Ok(value)),
        _ => Some(Err(Dropped)),
    }
}

#[cfg(test)]
mod tests;
