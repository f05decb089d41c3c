//! Notices that a core does not get on: it hangs in a system call or in a loop without end.
//!
//! A thread looks; a task of the core shows that it lives. Looks are counted, not time: a machine that slept, or a
//! process that was stopped and goes on, has not hung.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::clock;
use crate::executor::{self, JoinHandle};

/// Looks without a sign of life before the core counts as hanging.
const LOOKS: u32 = 4;

/// Watches a core until it is dropped.
#[derive(Debug)]
pub struct Watchdog {
    over: Arc<AtomicBool>,
    living: JoinHandle<()>,
}

impl Watchdog {
    /// Watches this core; `hangs` is called, on another thread and once, when nothing has run here for about `limit`.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub fn start(limit: Duration, hangs: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let pause = limit / LOOKS;
        let (signs, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (seen, is_over) = (Arc::clone(&signs), Arc::clone(&over));
        let living = executor::spawn(async move {
            loop {
                signs.fetch_add(1, Ordering::Relaxed);
                clock::sleep(pause / 2).await;
            }
        });
        thread::Builder::new().name("howdah-watchdog".into()).spawn(move || {
            crate::nodepool::release_affinity();
            if look(&seen, &is_over, pause) {
                hangs();
            }
        })?;
        Ok(Self { over, living })
    }
}

/// Returns `true` when the core hangs, `false` when nobody wants to know any more.
fn look(signs: &AtomicU64, over: &AtomicBool, pause: Duration) -> bool {
    let (mut last, mut without) = (0, 0);
    while without < LOOKS {
        thread::sleep(pause);
        if over.load(Ordering::Relaxed) {
            return false;
        }
        let now = signs.load(Ordering::Relaxed);
        without = if now == last { without + 1 } else { 0 };
        last = now;
    }
    true
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.living.abort();
    }
}

/// Ends this process at once, so that the kernel gives back what it holds.
pub fn end_process() {
    let own = rustix::process::getpid();
    if rustix::process::kill_process(own, rustix::process::Signal::KILL).is_err() {
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox;

    #[test]
    fn a_core_that_waits_lives_and_one_that_hangs_is_found_out() {
        let done = executor::block_on(&crate::io::Options::default(), async {
            let limit = Duration::from_millis(400);
            let (found, found_out) = mailbox::oneshot();
            let watchdog = Watchdog::start(limit, move || drop(found.send(()))).expect("a thread");
            clock::sleep(limit * 3).await;
            assert!(!watchdog.over.load(Ordering::Relaxed));
            let mut found_out = std::pin::pin!(found_out);
            let early = clock::timeout(Duration::from_millis(1), found_out.as_mut()).await;
            assert!(early.is_err(), "it only waited");
            thread::sleep(limit * 5);
            found_out.await.expect("it is found out");
        });
        done.expect("a core");
    }
}
