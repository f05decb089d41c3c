//! Tasks, wakes, timers.

use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::clock;

fn run<F: Future>(future: F) -> F::Output {
    block_on(&driver::Options::default(), future).expect("the loop runs")
}

#[test]
fn runs_a_future_to_its_output() {
    assert_eq!(run(async { 7 }), 7);
}

#[test]
fn a_task_may_hold_what_is_not_send() {
    let shared = Rc::new(Cell::new(0));
    let theirs = Rc::clone(&shared);
    run(async move {
        let handle = spawn(async move {
            yield_now().await;
            theirs.set(5);
            "done"
        });
        assert_eq!(handle.await, Ok("done"));
    });
    assert_eq!(shared.get(), 5);
}

#[test]
fn an_aborted_task_is_dropped_at_once_and_reported() {
    run(async {
        let held = Rc::new(());
        let theirs = Rc::clone(&held);
        let handle = spawn(async move {
            std::future::pending::<()>().await;
            drop(theirs);
        });
        yield_now().await;
        assert_eq!(Rc::strong_count(&held), 2);
        handle.abort();
        assert_eq!(Rc::strong_count(&held), 1);
        assert_eq!(handle.await, Err(Aborted));
    });
}

#[test]
fn a_task_that_aborts_itself_ends_when_it_next_waits() {
    run(async {
        let own = Rc::new(RefCell::new(None::<JoinHandle<()>>));
        let theirs = Rc::clone(&own);
        let held = Rc::new(());
        let inside = Rc::clone(&held);
        let handle = spawn(async move {
            if let Some(handle) = &*theirs.borrow() {
                handle.abort();
            }
            std::future::pending::<()>().await;
            drop(inside);
        });
        own.replace(Some(handle));
        yield_now().await;
        assert_eq!(Rc::strong_count(&held), 1);
    });
}

#[test]
fn tasks_still_there_at_the_end_are_dropped_with_what_they_start() {
    struct StartsAnother(Rc<()>);
    impl Drop for StartsAnother {
        fn drop(&mut self) {
            let held = Rc::clone(&self.0);
            spawn_detached(async move {
                std::future::pending::<()>().await;
                drop(held);
            });
        }
    }
    let held = Rc::new(());
    let guard = StartsAnother(Rc::clone(&held));
    run(async move {
        spawn_detached(async move {
            std::future::pending::<()>().await;
            drop(guard);
        });
        yield_now().await;
    });
    assert_eq!(Rc::strong_count(&held), 1);
}

#[test]
fn a_wake_from_another_thread_reaches_a_sleeping_core() {
    const ROUNDS: usize = 20_000;
    let (to_thread, from_core) = mpsc::channel::<Waker>();
    let flag = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let theirs = std::sync::Arc::clone(&flag);
    let thread = std::thread::spawn(move || {
        for waker in from_core {
            theirs.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            waker.wake();
        }
    });
    run(async move {
        for round in 1..=ROUNDS {
            let mut sent = false;
            poll_fn(|cx| {
                if !std::mem::replace(&mut sent, true) {
                    to_thread.send(cx.waker().clone()).expect("the thread listens");
                }
                let woken = flag.load(std::sync::atomic::Ordering::SeqCst) >= round;
                if woken { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
    });
    thread.join().expect("the thread ends");
}

#[test]
fn a_waker_of_a_core_that_is_gone_does_nothing() {
    let waker = run(poll_fn(|cx| Poll::Ready(cx.waker().clone())));
    waker.wake_by_ref();
    assert_eq!(run(async { 1 }), 1);
    waker.wake();
}

#[test]
fn tasks_that_wake_each_other_for_ever_do_not_stop_the_clock() {
    run(async {
        spawn_detached(async {
            loop {
                let mut first = true;
                poll_fn(|cx| {
                    cx.waker().wake_by_ref();
                    if std::mem::take(&mut first) { Poll::Pending } else { Poll::Ready(()) }
                })
                .await;
            }
        });
        clock::sleep(Duration::from_millis(3)).await;
    });
}

#[test]
fn sleeps_end_in_the_order_of_their_deadlines_and_never_early() {
    run(async {
        let order = Rc::new(RefCell::new(Vec::new()));
        let mut handles = Vec::new();
        for millis in [9u64, 1, 5, 3, 7] {
            let order = Rc::clone(&order);
            handles.push(spawn(async move {
                let before = clock::precise();
                clock::sleep(Duration::from_millis(millis)).await;
                assert!(clock::precise() - before >= Duration::from_millis(millis - 1));
                order.borrow_mut().push(millis);
            }));
        }
        for handle in handles {
            handle.await.expect("not aborted");
        }
        assert_eq!(*order.borrow(), [1, 3, 5, 7, 9]);
    });
}

#[test]
fn a_timeout_ends_what_takes_too_long_and_nothing_else() {
    run(async {
        let short = Duration::from_millis(2);
        assert_eq!(clock::timeout(short, std::future::pending::<()>()).await, Err(clock::Elapsed));
        assert_eq!(clock::timeout(Duration::from_secs(600), async { 1 }).await, Ok(1));
    });
}

#[test]
#[should_panic(expected = "must be called on a core")]
fn the_facade_off_a_core_says_so() {
    spawn_detached(async {});
}
