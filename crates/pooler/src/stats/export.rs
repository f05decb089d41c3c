//! A pool's counters and connections as Prometheus metrics, `howdah_pooler_*{database, user}`.
//!
//! They are brought up to date when somebody asks for them, so that a transaction pays nothing for it;
//! the registry adds the cores up. Dropping a [`PoolMetrics`] takes its gauges away, not its counts.

use std::cell::Cell;
use std::collections::BTreeMap;

use runtime::metrics::{LocalCounter, LocalGauge, Registry};

use super::Counters;
use super::failures::Failure;
use crate::console::snapshot::{Pool, Snapshot};

/// Names (the registry adds `howdah_` and `_total`) and help texts, in the order of
/// [`Counters::in_order`].
const COUNTERS: [(&str, &str); 12] = [
    ("pooler_server_assignments", "Times that a server was lent to a client."),
    ("pooler_transactions", "Transactions that ended."),
    ("pooler_queries", "Queries that were answered."),
    ("pooler_received_bytes", "Bytes received from clients."),
    ("pooler_sent_bytes", "Bytes received from servers for clients."),
    ("pooler_transaction_microseconds", "Time in transactions."),
    ("pooler_query_microseconds", "Time in queries."),
    ("pooler_wait_microseconds", "Time that clients waited for a server."),
    ("pooler_client_parses", "Named statements that clients prepared."),
    ("pooler_server_parses", "Statements that the pooler prepared on servers."),
    ("pooler_binds", "Bind messages of prepared statements."),
    ("pooler_client_logins", "Clients that logged in."),
];

/// Of a pool's connections. The order is that of `gauges`.
const GAUGES: [(&str, &str); 6] = [
    ("pooler_clients_active", "Clients that are idle or linked to a server."),
    ("pooler_clients_waiting", "Clients that wait for a server."),
    ("pooler_servers_active", "Servers that are linked to a client."),
    ("pooler_servers_idle", "Servers that can be lent."),
    ("pooler_servers_login", "Servers that are being connected or logged in to."),
    ("pooler_servers_other", "Servers that are tested, reset or cancelled."),
];

/// The metrics of all pools of a process.
pub struct Export {
    registry: Registry,
    /// By core, database and user.
    pools: BTreeMap<(usize, String, String), PoolMetrics>,
    logins: LocalGauge,
    /// By core: the counter and what it has been brought up to.
    failures: BTreeMap<(usize, Failure), (LocalCounter, u64)>,
}

impl Export {
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let help = "Clients that are logging in.";
        let logins = registry.gauge("pooler_clients_login", help, &[]).local();
        let (pools, failures) = (BTreeMap::new(), BTreeMap::new());
        Self { registry: registry.clone(), pools, logins, failures }
    }

    /// Brings the metrics up to what all cores say now. The gauges of pools that are gone vanish.
    pub fn publish(&mut self, snapshots: &[Snapshot]) {
        let logins: u64 = snapshots.iter().map(|snapshot| snapshot.login_clients).sum();
        self.logins.set(i64::try_from(logins).unwrap_or(i64::MAX));
        let mut before = std::mem::take(&mut self.pools);
        for snapshot in snapshots {
            for (failure, count) in &snapshot.failures {
                self.publish_failure(snapshot.core, *failure, *count);
            }
            for pool in &snapshot.pools {
                let key = (snapshot.core, pool.database.clone(), pool.user.clone());
                let metrics = before.remove(&key).unwrap_or_else(|| {
                    PoolMetrics::new(&self.registry, &pool.database, &pool.user)
                });
                metrics.publish(pool);
                self.pools.insert(key, metrics);
            }
        }
    }

    fn publish_failure(&mut self, core: usize, failure: Failure, count: u64) {
        let registry = &self.registry;
        let (counter, published) = self.failures.entry((core, failure)).or_insert_with(|| {
            let (name, help, labels) = failure.metric();
            (registry.counter(name, help, &labels).local(), 0)
        });
        counter.add(count.saturating_sub(*published));
        *published = count;
    }
}

/// One core's share of one pool's metrics.
pub struct PoolMetrics {
    published: Cell<Counters>,
    counters: [LocalCounter; 12],
    gauges: [LocalGauge; 6],
}

impl PoolMetrics {
    #[must_use]
    pub fn new(registry: &Registry, database: &str, user: &str) -> Self {
        let labels = [("database", database), ("user", user)];
        Self {
            published: Cell::default(),
            counters: COUNTERS.map(|(name, help)| registry.counter(name, help, &labels).local()),
            gauges: GAUGES.map(|(name, help)| registry.gauge(name, help, &labels).local()),
        }
    }

    /// Brings the metrics up to what the pool says now.
    pub fn publish(&self, pool: &Pool) {
        let mut before = self.published.replace(pool.stats);
        // A pool that was forgotten and came back counts from zero.
        if pool.stats.in_order().iter().zip(before.in_order()).any(|(now, then)| *now < then) {
            before = Counters::default();
        }
        let news = pool.stats.since(&before);
        for (counter, news) in self.counters.iter().zip(news.in_order()) {
            counter.add(news);
        }
        for (gauge, value) in self.gauges.iter().zip(gauges(pool)) {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
}

fn gauges(pool: &Pool) -> [u64; 6] {
    [
        pool.cl_active,
        pool.cl_waiting,
        pool.sv_active,
        pool.sv_idle,
        pool.sv_login,
        pool.sv_active_cancel + pool.sv_being_canceled + pool.sv_used + pool.sv_tested,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::PoolMode;

    fn pool(xacts: u64, idle: u64) -> Pool {
        Pool {
            sv_idle: idle,
            stats: Counters { xact_count: xacts, ..Counters::default() },
            ..Pool::new("shop", "ann", PoolMode::Session)
        }
    }

    fn has(registry: &Registry, line: &str) {
        let text = registry.encode();
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }

    #[test]
    fn cores_are_added_up_and_nothing_is_counted_twice() {
        let registry = Registry::new();
        let [one, two] = [(); 2].map(|()| PoolMetrics::new(&registry, "shop", "ann"));
        one.publish(&pool(3, 2));
        one.publish(&pool(5, 1));
        two.publish(&pool(7, 4));
        let labels = "{database=\"shop\",user=\"ann\"}";
        has(&registry, &format!("howdah_pooler_transactions_total{labels} 12"));
        has(&registry, &format!("howdah_pooler_servers_idle{labels} 5"));
        drop(two);
        has(&registry, &format!("howdah_pooler_transactions_total{labels} 12"));
        has(&registry, &format!("howdah_pooler_servers_idle{labels} 1"));
    }

    #[test]
    fn failures_are_added_up_over_cores() {
        let registry = Registry::new();
        let mut export = Export::new(&registry);
        let snapshot = |core: usize, count: u64| Snapshot {
            core,
            failures: vec![(Failure::PoolerError("28"), count), (Failure::Login("password"), 1)],
            ..Snapshot::default()
        };
        export.publish(&[snapshot(0, 2), snapshot(1, 5)]);
        export.publish(&[snapshot(0, 3), snapshot(1, 5)]);
        has(&registry, "howdah_pooler_errors_total{source=\"pooler\",class=\"28\"} 8");
        has(&registry, "howdah_pooler_login_failures_total{reason=\"password\"} 2");
    }

    #[test]
    fn a_pool_that_comes_back_counts_on_and_one_that_is_gone_has_no_servers() {
        let registry = Registry::new();
        let mut export = Export::new(&registry);
        let snapshot =
            |pools: Vec<Pool>| Snapshot { pools, login_clients: 2, ..Snapshot::default() };
        export.publish(&[snapshot(vec![pool(5, 3)])]);
        export.publish(&[snapshot(vec![pool(2, 1)])]);
        let labels = "{database=\"shop\",user=\"ann\"}";
        has(&registry, &format!("howdah_pooler_transactions_total{labels} 7"));
        has(&registry, "howdah_pooler_clients_login 2");
        export.publish(&[snapshot(Vec::new())]);
        has(&registry, &format!("howdah_pooler_transactions_total{labels} 7"));
        has(&registry, &format!("howdah_pooler_servers_idle{labels} 0"));
    }
}
