//! The page server's state as Prometheus metrics, `howdah_pageserver_*`.
//!
//! They are brought up to date when somebody asks for them; only the time of reads is measured as they happen. Where nothing else
//! is said they are of `main`.

use std::collections::BTreeMap;

use pg::lsn::Lsn;
use runtime::metrics::{Histogram, LocalCounter, LocalGauge, Registry};

use crate::api::{Phase, Status};
use crate::remote::StoreStatus;

/// Where the buckets of reads' times end, in seconds: from a page in memory to a slow disk.
const PAGE_SECONDS: [f64; 14] = [
    10e-6, 20e-6, 50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 50e-3, 100e-3, 500e-3,
    2.0,
];

/// The metrics of one page server.
pub struct Export {
    registry: Registry,
    gauges: BTreeMap<&'static str, LocalGauge>,
    layers: BTreeMap<&'static str, LocalGauge>,
    /// With what each has been brought up to.
    counters: BTreeMap<&'static str, (LocalCounter, u64)>,
    page_seconds: Histogram,
}

impl Export {
    #[must_use]
    pub fn new(registry: &Registry) -> Export {
        let help = "Time to read a page for a client, waiting for its LSN not included.";
        let name = "pageserver_get_page_seconds";
        Export {
            registry: registry.clone(),
            gauges: BTreeMap::new(),
            layers: BTreeMap::new(),
            counters: BTreeMap::new(),
            page_seconds: registry.histogram(name, help, &[], &PAGE_SECONDS),
        }
    }

    /// Where the times of reads are counted.
    #[must_use]
    pub fn page_seconds(&self) -> Histogram {
        self.page_seconds.clone()
    }

    /// Brings the metrics up to what the status says.
    pub fn publish(&mut self, status: &Status) {
        let store = status.store.as_ref();
        for (name, help, value) in
            gauges(status).into_iter().chain(store.into_iter().flat_map(store_gauges))
        {
            let make = || self.registry.gauge(name, help, &[]).local();
            set(self.gauges.entry(name).or_insert_with(make), value);
        }
        let deltas = status.layers.saturating_sub(status.level0_layers + status.image_layers);
        for (kind, count) in
            [("level0", status.level0_layers), ("delta", deltas), ("image", status.image_layers)]
        {
            let (name, help) = ("pageserver_layers", "Layers, by kind.");
            let make = || self.registry.gauge(name, help, &[("kind", kind)]).local();
            set(self.layers.entry(kind).or_insert_with(make), count);
        }
        let counters = counters(status).into_iter();
        for (name, help, value) in counters.chain(store.into_iter().flat_map(store_counters)) {
            let make = || (self.registry.counter(name, help, &[]).local(), 0);
            let (counter, published) = self.counters.entry(name).or_insert_with(make);
            counter.add(value.saturating_sub(*published));
            *published = value;
        }
    }
}

/// Name, help, value.
type Figure = (&'static str, &'static str, u64);

/// What goes up and down.
fn gauges(status: &Status) -> impl IntoIterator<Item = Figure> {
    let lsn = |text: &Option<String>| {
        text.as_ref().and_then(|text| text.parse().ok()).map_or(0, |lsn: Lsn| lsn.0)
    };
    let is_streaming = u64::from(status.phase == Phase::Streaming);
    [
        ("pageserver_streaming", "Whether WAL is being received.", is_streaming),
        ("pageserver_problem", "Whether something is wrong.", u64::from(status.error.is_some())),
        (
            "pageserver_received_lsn_bytes",
            "WAL is durable here up to this LSN, and acknowledged.",
            lsn(&status.flushed_lsn),
        ),
        (
            "pageserver_ingested_lsn_bytes",
            "Pages can be asked for up to this LSN.",
            lsn(&status.ingested_lsn),
        ),
        (
            "pageserver_layered_lsn_bytes",
            "Everything up to this LSN is in layers.",
            lsn(&status.layered_lsn),
        ),
        (
            "pageserver_oldest_lsn_bytes",
            "Pages can be asked for from this LSN on.",
            lsn(&status.oldest_lsn),
        ),
        ("pageserver_lag_bytes", "WAL of the server that is not here yet.", status.lag_bytes),
        ("pageserver_wal_bytes", "Received WAL on disk.", status.wal_bytes),
        ("pageserver_layer_bytes", "Files of layers.", status.layer_bytes),
        (
            "pageserver_layer_raw_bytes",
            "What they hold, before compression.",
            status.layer_raw_bytes,
        ),
        ("pageserver_disk_bytes", "WAL and layers of all branches.", status.disk_bytes),
        (
            "pageserver_index_memory_bytes",
            "Memory of index and catalog.",
            status.index_memory_bytes,
        ),
        ("pageserver_page_cache_bytes", "Memory of rebuilt pages.", status.page_cache_bytes),
        ("pageserver_relation_forks", "Relation forks that are known.", status.forks),
        ("pageserver_clients", "Connections to the page service.", status.clients),
    ]
}

/// The same of the object store.
fn store_gauges(store: &StoreStatus) -> impl IntoIterator<Item = Figure> + use<> {
    let uploaded = store.uploaded_lsn.as_ref().and_then(|text| text.parse().ok());
    let uploaded = uploaded.map_or(0, |lsn: Lsn| lsn.0);
    let is_down = u64::from(store.error.is_some());
    [
        ("pageserver_store_problem", "Whether nothing can be copied to the object store.", is_down),
        (
            "pageserver_store_uploaded_lsn_bytes",
            "The object store has the WAL up to this LSN.",
            uploaded,
        ),
        (
            "pageserver_store_waiting_bytes",
            "WAL and layers of all branches that the object store does not have yet.",
            store.waiting_bytes,
        ),
        (
            "pageserver_store_waiting_milliseconds",
            "For how long the oldest of them has waited.",
            store.waiting_ms,
        ),
        ("pageserver_store_layer_bytes", "Layers in the object store.", store.remote_layer_bytes),
        (
            "pageserver_store_litter_bytes",
            "Objects there that nothing names, at the last look; they are removed in time.",
            store.litter_bytes,
        ),
    ]
}

fn store_counters(store: &StoreStatus) -> impl IntoIterator<Item = Figure> + use<> {
    [
        (
            "pageserver_store_sent_bytes",
            "Copied to the object store: layers, WAL, catalogs.",
            store.sent_bytes,
        ),
        ("pageserver_store_failures", "Failed attempts to copy something there.", store.failures),
        (
            "pageserver_store_litter_removed_objects",
            "Objects removed there that nothing named.",
            store.litter_removed,
        ),
        (
            "pageserver_store_fetched_bytes",
            "Layers fetched from the object store.",
            store.fetched_bytes,
        ),
        (
            "pageserver_store_evicted_bytes",
            "Layers removed here because the object store has them.",
            store.evicted_bytes,
        ),
    ]
}

/// What only grows.
fn counters(status: &Status) -> impl IntoIterator<Item = Figure> {
    [
        ("pageserver_records", "WAL records taken in.", status.records),
        ("pageserver_record_bytes", "Bytes of them.", status.record_bytes),
        ("pageserver_pages", "Pages given to clients.", status.pages_served),
        (
            "pageserver_page_errors",
            "Requests of clients that were answered with an error.",
            status.page_errors,
        ),
        (
            "pageserver_page_cache_hits",
            "Reads that found a version of the page in memory.",
            status.page_cache_hits,
        ),
        ("pageserver_page_cache_misses", "Reads that did not.", status.page_cache_misses),
        (
            "pageserver_layer_flushed_bytes",
            "Layers written of new records.",
            status.layer_bytes_flushed,
        ),
        (
            "pageserver_layer_written_bytes",
            "Layers written, those of compaction included.",
            status.layer_bytes_written,
        ),
        (
            "pageserver_layer_removed_bytes",
            "Layers removed because nobody can ask for what they held.",
            status.layer_bytes_removed,
        ),
        ("pageserver_wal_removed_bytes", "Received WAL removed.", status.wal_bytes_removed),
    ]
}

fn set(gauge: &LocalGauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_the_status_says() {
        let registry = Registry::new();
        let mut export = Export::new(&registry);
        let mut status = Status {
            phase: Phase::Streaming,
            ingested_lsn: Some("0/10".to_owned()),
            layers: 5,
            image_layers: 1,
            level0_layers: 2,
            records: 7,
            store: Some(StoreStatus {
                sent_bytes: 11,
                failures: 1,
                uploaded_lsn: Some("0/20".to_owned()),
                ..StoreStatus::default()
            }),
            ..Status::default()
        };
        export.publish(&status);
        status.records = 9;
        export.publish(&status);
        export.page_seconds().local().observe(30e-6);
        let text = registry.encode();
        for line in [
            "howdah_pageserver_streaming 1",
            "howdah_pageserver_ingested_lsn_bytes 16",
            "howdah_pageserver_layers{kind=\"delta\"} 2",
            "howdah_pageserver_records_total 9",
            "howdah_pageserver_get_page_seconds_count 1",
            "howdah_pageserver_store_uploaded_lsn_bytes 32",
            "howdah_pageserver_store_sent_bytes_total 11",
            "howdah_pageserver_store_failures_total 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
