//! Time as the tasks of a core see it: a monotonic instant that stands still within a loop turn, the
//! wall clock, and sleeping. The driver says what time it is, so the simulator can invent it.

use std::fmt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::executor::with_core;

pub(crate) mod wheel;

/// A point of the monotonic clock, in nanoseconds since an arbitrary start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// Time since `earlier`; zero if that is in fact later.
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Time since then, by this turn's clock.
    pub fn elapsed(self) -> Duration {
        now().saturating_duration_since(self)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates: about 584 years from the start is "never".
    fn add(self, duration: Duration) -> Self {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanoseconds))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub for Instant {
    type Output = Duration;

    /// Zero if `earlier` is in fact later.
    fn sub(self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

/// The time at which this turn of the loop began. Free; the same for everything that runs in the turn.
pub fn now() -> Instant {
    with_core(|core| Instant(core.now()))
}

/// Reads the clock. For measuring; costs a clock read. Works off a core as well.
pub fn precise() -> Instant {
    Instant(crate::executor::driver_time().map_or_else(monotonic, |time| time.monotonic))
}

/// Microseconds since the Unix epoch by the wall clock, which may jump. Works off a core as well.
pub fn wall_micros() -> i64 {
    crate::executor::driver_time().map_or_else(wall, |time| time.wall_micros)
}

/// What a driver says about time.
pub(crate) struct Time {
    /// Nanoseconds.
    pub(crate) monotonic: u64,
    /// Microseconds since the Unix epoch.
    pub(crate) wall_micros: i64,
}

/// The operating system's monotonic clock, in nanoseconds.
pub(crate) fn monotonic() -> u64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Monotonic);
    tv_sec.unsigned_abs() * 1_000_000_000 + tv_nsec.unsigned_abs()
}

/// The operating system's wall clock, in microseconds since the Unix epoch.
pub(crate) fn wall() -> i64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Realtime);
    tv_sec * 1_000_000 + tv_nsec / 1_000
}

/// Waits for `duration`, at least; the clock ticks every millisecond.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(now() + duration)
}

/// Waits until `deadline`.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { deadline, timer: None }
}

/// See [`sleep`]. Registers with the wheel when first polled, leaves it when dropped.
#[must_use = "futures do nothing unless awaited"]
pub struct Sleep {
    deadline: Instant,
    timer: Option<wheel::Key>,
}

impl Sleep {
    /// When it ends.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Moves the end, whether or not it had been reached. The task must poll again.
    pub fn reset(&mut self, deadline: Instant) {
        if self.deadline != deadline {
            self.leave();
            self.deadline = deadline;
        }
    }

    fn leave(&mut self) {
        if let Some(key) = self.timer.take() {
            crate::executor::cancel_timer(key);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        with_core(|core| {
            if this.deadline.0 <= core.now() {
                if let Some(key) = this.timer.take() {
                    core.wheel().cancel(key);
                }
                return Poll::Ready(());
            }
            let mut wheel = core.wheel();
            match this.timer {
                Some(key) if wheel.renew(key, cx.waker()) => {}
                _ => this.timer = Some(wheel.insert(this.deadline.0, cx.waker().clone())),
            }
            Poll::Pending
        })
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The time was up first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("timed out")
    }
}

impl std::error::Error for Elapsed {}

/// Runs `future` for at most `duration`; it is dropped when the time is up.
///
/// # Errors
/// [`Elapsed`] when the time was up first.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = std::pin::pin!(future);
    let mut sleep = std::pin::pin!(sleep(duration));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        sleep.as_mut().poll(cx).map(|()| Err(Elapsed))
    })
    .await
}
