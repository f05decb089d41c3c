//! Computes that died, and how long to wait before one is started again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use runtime::clock::{self, Instant};

use crate::limits::{
    COMPUTE_CRASH_MEMORY, COMPUTE_CRASH_PAUSE_MAX, COMPUTE_CRASH_PAUSE_MIN, COMPUTE_STEADY,
};

#[derive(Default)]
pub(super) struct Crashes {
    /// When a compute of this name died last, and how often in a row.
    recent: RefCell<BTreeMap<String, (Instant, u32)>>,
}

impl Crashes {
    pub(super) fn remember(&self, name: &str, ran: Duration) {
        let mut crashes = self.recent.borrow_mut();
        crashes.retain(|_name, (at, _count)| at.elapsed() < COMPUTE_CRASH_MEMORY);
        let (at, count) = crashes.entry(name.to_owned()).or_insert((clock::now(), 0));
        let before = if ran < COMPUTE_STEADY { *count } else { 0 };
        (*at, *count) = (clock::now(), before + 1);
    }

    /// How long to wait before it is started: it may die again. Once is no reason.
    pub(super) fn pause(&self, name: &str) -> Duration {
        let crashes = self.recent.borrow();
        let recent = crashes.get(name).filter(|(at, _)| at.elapsed() < COMPUTE_CRASH_MEMORY);
        recent.map_or(Duration::ZERO, |(_, count)| crash_pause(*count))
    }
}

/// How long to wait after so many deaths, each soon after a start. One is no reason.
fn crash_pause(deaths: u32) -> Duration {
    let Some(more) = deaths.checked_sub(2) else { return Duration::ZERO };
    let doubled = COMPUTE_CRASH_PAUSE_MIN.saturating_mul(2_u32.saturating_pow(more));
    doubled.min(COMPUTE_CRASH_PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_before_a_start_grows_and_leaves_time_for_the_start_within_two_seconds() {
        let pauses: Vec<Duration> = (0..6).map(crash_pause).collect();
        let known = [0, 0, 250, 500, 1000, 1000].map(Duration::from_millis);
        assert_eq!(pauses, known);
        assert_eq!(crash_pause(u32::MAX), COMPUTE_CRASH_PAUSE_MAX);
    }
}
