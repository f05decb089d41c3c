//! Mailboxes and replies under one thread and many, driven by a thread-parking block_on so that only the
//! standard waker contract is assumed.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use super::*;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Counts its wakes; its futures are polled by hand.
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn counting() -> (Arc<Count>, Waker) {
    let count = Arc::new(Count(AtomicUsize::new(0)));
    (Arc::clone(&count), Waker::from(count))
}

fn poll_once<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

#[test]
fn delivers_in_order_and_gives_back_what_does_not_fit() {
    let (sender, mut receiver) = channel(2);
    assert_eq!(sender.try_send(1), Ok(()));
    assert_eq!(sender.try_send(2), Ok(()));
    assert_eq!(sender.try_send(3), Err(Full(3)));
    assert!(!sender.is_closed());
    assert_eq!(receiver.try_recv(), Some(1));
    assert_eq!(sender.try_send(3), Ok(()));
    assert_eq!(receiver.try_recv(), Some(2));
    assert_eq!(receiver.try_recv(), Some(3));
    assert_eq!(receiver.try_recv(), None);
}

#[test]
fn drains_what_is_queued_after_the_last_sender_is_gone() {
    let (sender, mut receiver) = channel(4);
    let other = sender.clone();
    sender.try_send(1).unwrap();
    drop(sender);
    other.try_send(2).unwrap();
    drop(other);
    assert_eq!(block_on(receiver.recv()), Some(1));
    assert_eq!(block_on(receiver.recv()), Some(2));
    assert_eq!(block_on(receiver.recv()), None);
}

#[test]
fn a_waiting_receiver_learns_that_the_last_sender_is_gone() {
    let (sender, mut receiver) = channel::<u8>(1);
    let (count, waker) = counting();
    assert!(receiver.poll_recv(&mut Context::from_waker(&waker)).is_pending());
    drop(sender);
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    assert_eq!(receiver.poll_recv(&mut Context::from_waker(&waker)), Poll::Ready(None));
}

#[test]
fn sending_to_a_receiver_that_is_gone_gives_the_message_back() {
    let (sender, receiver) = channel(1);
    sender.try_send(Arc::new(1)).unwrap();
    let message = Arc::new(2);
    drop(receiver);
    assert!(sender.is_closed());
    assert_eq!(sender.try_send(Arc::clone(&message)), Err(Full(Arc::clone(&message))));
    assert_eq!(block_on(sender.send(Arc::clone(&message))), Err(Closed(Arc::clone(&message))));
    assert_eq!(Arc::strong_count(&message), 1);
}

#[test]
fn a_waiting_sender_learns_that_the_receiver_is_gone() {
    let (sender, receiver) = channel(1);
    sender.try_send(1).unwrap();
    let (count, waker) = counting();
    let mut send = sender.send(2);
    assert!(poll_once(&mut send, &waker).is_pending());
    drop(receiver);
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    assert_eq!(poll_once(&mut send, &waker), Poll::Ready(Err(Closed(2))));
}

#[test]
fn waiting_senders_are_served_in_order() {
    let (sender, mut receiver) = channel(1);
    sender.try_send(0).unwrap();
    let (_, waker) = counting();
    let mut sends: Vec<_> = (1..=3).map(|i| sender.send(i)).collect();
    for send in &mut sends {
        assert!(poll_once(send, &waker).is_pending());
    }
    for expected in 0..3 {
        assert_eq!(receiver.try_recv(), Some(expected));
        let next = usize::try_from(expected).unwrap();
        assert_eq!(poll_once(&mut sends[next], &waker), Poll::Ready(Ok(())));
    }
    assert_eq!(receiver.try_recv(), Some(3));
}

#[test]
fn a_cancelled_sender_passes_its_call_on() {
    let (sender, mut receiver) = channel(1);
    sender.try_send(0).unwrap();
    let (first_count, first_waker) = counting();
    let (second_count, second_waker) = counting();
    let mut first = sender.send(1);
    let mut second = sender.send(2);
    assert!(poll_once(&mut first, &first_waker).is_pending());
    assert!(poll_once(&mut second, &second_waker).is_pending());
    assert_eq!(receiver.try_recv(), Some(0));
    assert_eq!(first_count.0.load(Ordering::SeqCst), 1);
    assert_eq!(second_count.0.load(Ordering::SeqCst), 0);
    drop(first);
    assert_eq!(second_count.0.load(Ordering::SeqCst), 1, "the call went to the next in line");
    assert_eq!(poll_once(&mut second, &second_waker), Poll::Ready(Ok(())));
    assert_eq!(receiver.try_recv(), Some(2));
}

#[test]
fn a_cancelled_sender_that_was_not_called_leaves_no_trace() {
    let (sender, mut receiver) = channel(1);
    sender.try_send(0).unwrap();
    let (_, waker) = counting();
    for _ in 0..100 {
        let mut send = sender.send(9);
        assert!(poll_once(&mut send, &waker).is_pending());
    }
    assert_eq!(sender.shared.waiters().queue.len(), 0);
    assert_eq!(sender.shared.waiting.load(Ordering::SeqCst), 0);
    assert_eq!(receiver.try_recv(), Some(0));
    assert_eq!(receiver.try_recv(), None);
}

/// Every sender waits often (the mailbox is far smaller than the traffic) and some cancel: a lost wake shows as a
/// hang, a lost or doubled message as a wrong sum.
#[test]
fn no_wake_and_no_message_is_lost_between_threads() {
    const SENDERS: usize = 4;
    const MESSAGES: u64 = 30_000;
    let (sender, mut receiver) = channel::<(usize, u64)>(3);
    let threads: Vec<_> = (0..SENDERS)
        .map(|id| {
            let sender = sender.clone();
            thread::spawn(move || {
                let (_, ignored) = counting();
                for sequence in 0..MESSAGES {
                    if sequence % 7 == id as u64 {
                        // A send that is given up after one poll either sent or left no trace.
                        let mut send = sender.send((id, sequence));
                        if poll_once(&mut send, &ignored).is_ready() {
                            continue;
                        }
                        drop(send);
                    }
                    block_on(sender.send((id, sequence))).expect("the receiver stays");
                }
            })
        })
        .collect();
    drop(sender);
    let mut next = [0; SENDERS];
    while let Some((id, sequence)) = block_on(receiver.recv()) {
        assert_eq!(sequence, next[id], "sender {id} is delivered in its order");
        next[id] += 1;
    }
    assert_eq!(next, [MESSAGES; SENDERS]);
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn ping_pong_between_threads_loses_no_wake() {
    let (there, mut there_end) = channel::<u32>(1);
    let (back, mut back_end) = channel::<u32>(1);
    let thread = thread::spawn(move || {
        block_on(async {
            while let Some(value) = there_end.recv().await {
                back.send(value + 1).await.unwrap();
            }
        });
    });
    block_on(async {
        for i in 0..20_000 {
            there.send(i).await.unwrap();
            assert_eq!(back_end.recv().await, Some(i + 1));
        }
    });
    drop(there);
    thread.join().unwrap();
}

#[test]
fn a_reply_arrives_once() {
    let (reply, mut pending) = oneshot();
    assert_eq!(pending.try_recv(), None);
    assert!(!reply.is_closed());
    reply.send(7).unwrap();
    assert_eq!(block_on(pending), Ok(7));
}

#[test]
fn a_dropped_reply_wakes_with_an_error() {
    let (reply, mut pending) = oneshot::<u8>();
    let (count, waker) = counting();
    assert!(poll_once(&mut pending, &waker).is_pending());
    drop(reply);
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    assert_eq!(block_on(pending), Err(Dropped));
}

#[test]
fn a_reply_nobody_waits_for_comes_back() {
    let (reply, pending) = oneshot();
    drop(pending);
    assert!(reply.is_closed());
    assert_eq!(reply.send(String::from("kept")), Err(Closed(String::from("kept"))));
}

#[test]
fn replies_cross_threads_without_a_lost_wake() {
    let (requests, mut inbox) = channel::<(u32, Reply<u32>)>(2);
    let thread = thread::spawn(move || {
        block_on(async {
            while let Some((value, reply)) = inbox.recv().await {
                if value % 10 == 9 {
                    drop(reply);
                } else {
                    reply.send(value * 2).unwrap();
                }
            }
        });
    });
    block_on(async {
        for i in 0..10_000 {
            let (reply, pending) = oneshot();
            requests.send((i, reply)).await.unwrap();
            let expected = if i % 10 == 9 { Err(Dropped) } else { Ok(i * 2) };
            assert_eq!(pending.await, expected);
        }
    });
    drop(requests);
    thread.join().unwrap();
}
