//! What a pool has done: PgBouncer's counters, their averages, and how both are added up over cores.
//!
//! Each core writes only its own [`PoolStats`]; readers get copies ([`Counters`]), which they add.
//! Meanings and names: PgBouncer's `usage.md`, SHOW STATS. Times are microseconds.

pub mod export;
pub mod failures;

use std::cell::Cell;
use std::ops::AddAssign;
use std::time::Duration;

/// A copy of the counters at one moment, or what was counted between two moments.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Times that a server was lent to a client.
    pub server_assignment_count: u64,
    /// Transactions that ended.
    pub xact_count: u64,
    /// Queries (simple queries and Syncs) that were answered.
    pub query_count: u64,
    /// Bytes received from clients.
    pub client_bytes: u64,
    /// Bytes received from servers, that is, sent to clients.
    pub server_bytes: u64,
    /// Time in transactions, µs.
    pub xact_time: u64,
    /// Time in queries, µs.
    pub query_time: u64,
    /// Time that clients waited for a server, µs.
    pub wait_time: u64,
    /// Named statements that clients prepared.
    pub client_parse_count: u64,
    /// Statements that the pooler prepared on servers.
    pub server_parse_count: u64,
    pub bind_count: u64,
    pub client_login_count: u64,
}

/// One pool's counters on one core. Not shared: a core writes only its own.
#[derive(Debug, Default)]
pub struct PoolStats {
    now: Cell<Counters>,
    /// As of the last turn of the period, and of the one before.
    last: Cell<Counters>,
    before: Cell<Counters>,
}

impl PoolStats {
    /// Changes the counters: `stats.count(|counters| counters.xact_count += 1)`.
    pub fn count(&self, change: impl FnOnce(&mut Counters)) {
        let mut counters = self.now.get();
        change(&mut counters);
        self.now.set(counters);
    }

    /// The totals.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.now.get()
    }

    /// The totals as of the beginning of the time that averages cover.
    #[must_use]
    pub fn counters_before(&self) -> Counters {
        self.before.get()
    }

    /// To be called once every `stats_period`, in the same turn as [`Period::turn`].
    pub fn turn(&self) {
        self.before.set(self.last.get());
        self.last.set(self.now.get());
    }
}

/// The clock of the averages: they cover the last whole period and the one that runs.
///
/// Times are microseconds of any clock that does not go back.
#[derive(Clone, Copy, Debug)]
pub struct Period {
    last: u64,
    before: u64,
}

impl Period {
    #[must_use]
    pub fn starting(now: u64) -> Self {
        Self { last: now, before: now }
    }

    /// To be called once every `stats_period`.
    pub fn turn(&mut self, now: u64) {
        self.before = self.last;
        self.last = now;
    }

    /// How long averages reach back.
    #[must_use]
    pub fn covered(&self, now: u64) -> Duration {
        Duration::from_micros(now.saturating_sub(self.before))
    }
}

impl Counters {
    /// What was counted since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        self.zip(before, u64::saturating_sub)
    }

    /// Averages as PgBouncer shows them: counts and bytes per second, times per thing timed.
    #[must_use]
    pub fn averages(&self, before: &Self, covered: Duration) -> Self {
        let counted = self.since(before);
        let micros = covered.as_micros();
        let per_second = |count: u64| {
            let rate = (u128::from(count) * 1_000_000).checked_div(micros).unwrap_or_default();
            u64::try_from(rate).unwrap_or(u64::MAX)
        };
        let each = |time: u64, count: u64| time.checked_div(count).unwrap_or_default();
        Self {
            server_assignment_count: per_second(counted.server_assignment_count),
            xact_count: per_second(counted.xact_count),
            query_count: per_second(counted.query_count),
            client_bytes: per_second(counted.client_bytes),
            server_bytes: per_second(counted.server_bytes),
            xact_time: each(counted.xact_time, counted.xact_count),
            query_time: each(counted.query_time, counted.query_count),
            wait_time: each(counted.wait_time, counted.server_assignment_count),
            client_parse_count: per_second(counted.client_parse_count),
            server_parse_count: per_second(counted.server_parse_count),
            bind_count: per_second(counted.bind_count),
            client_login_count: per_second(counted.client_login_count),
        }
    }

    /// The values in the order of SHOW STATS.
    #[must_use]
    pub fn in_order(&self) -> [u64; 12] {
        [
            self.server_assignment_count,
            self.xact_count,
            self.query_count,
            self.client_bytes,
            self.server_bytes,
            self.xact_time,
            self.query_time,
            self.wait_time,
            self.client_parse_count,
            self.server_parse_count,
            self.bind_count,
            self.client_login_count,
        ]
    }

    fn zip(&self, other: &Self, combine: fn(u64, u64) -> u64) -> Self {
        let pair = |of: fn(&Self) -> u64| combine(of(self), of(other));
        Self {
            server_assignment_count: pair(|c| c.server_assignment_count),
            xact_count: pair(|c| c.xact_count),
            query_count: pair(|c| c.query_count),
            client_bytes: pair(|c| c.client_bytes),
            server_bytes: pair(|c| c.server_bytes),
            xact_time: pair(|c| c.xact_time),
            query_time: pair(|c| c.query_time),
            wait_time: pair(|c| c.wait_time),
            client_parse_count: pair(|c| c.client_parse_count),
            server_parse_count: pair(|c| c.server_parse_count),
            bind_count: pair(|c| c.bind_count),
            client_login_count: pair(|c| c.client_login_count),
        }
    }
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        *self = self.zip(&other, u64::saturating_add);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(first: u64) -> Counters {
        Counters {
            server_assignment_count: first,
            xact_count: first + 1,
            query_count: first + 2,
            client_bytes: first + 3,
            server_bytes: first + 4,
            xact_time: first + 5,
            query_time: first + 6,
            wait_time: first + 7,
            client_parse_count: first + 8,
            server_parse_count: first + 9,
            bind_count: first + 10,
            client_login_count: first + 11,
        }
    }

    #[test]
    fn adding_and_subtracting_touch_every_counter() {
        let mut sum = numbered(100);
        sum += numbered(1000);
        let difference = sum.since(&numbered(100));
        assert_eq!(difference, numbered(1000));
        assert_eq!(difference.in_order().to_vec(), (1000..1012).collect::<Vec<u64>>());
    }

    #[test]
    fn averages_are_rates_and_times_are_per_thing() {
        let counted = Counters {
            server_assignment_count: 20,
            xact_count: 30,
            query_count: 60,
            client_bytes: 6000,
            server_bytes: 9000,
            xact_time: 3000,
            query_time: 1200,
            wait_time: 100,
            client_parse_count: 3,
            server_parse_count: 6,
            bind_count: 9,
            client_login_count: 12,
        };
        let averages = counted.averages(&Counters::default(), Duration::from_secs(3));
        assert_eq!(averages.in_order(), [6, 10, 20, 2000, 3000, 100, 20, 5, 1, 2, 3, 4]);
    }

    #[test]
    fn averages_of_nothing_are_zero() {
        let nothing = Counters::default();
        assert_eq!(nothing.averages(&nothing, Duration::ZERO), nothing);
        assert_eq!(nothing.averages(&nothing, Duration::from_secs(1)), nothing);
    }

    #[test]
    fn averages_reach_back_over_the_last_whole_period() {
        let (stats, mut period) = (PoolStats::default(), Period::starting(0));
        let mut second = |xacts: u64, now: u64| {
            stats.count(|counters| counters.xact_count += xacts);
            stats.turn();
            period.turn(now);
            stats.counters().averages(&stats.counters_before(), period.covered(now)).xact_count
        };
        assert_eq!(second(10, 1_000_000), 10);
        assert_eq!(second(30, 2_000_000), 30, "the first second is forgotten");
        assert_eq!(second(0, 3_000_000), 0);
    }
}
