//! Counters, gauges and histograms, cheap enough for the hot path, and their Prometheus text.
//!
//! Invariants:
//! 1. A hot value has one writer: each `local()` handle owns a cell on its own cache line and changes it by a
//!    relaxed load and store, with no locked instruction. The sum over the cells is taken when somebody asks.
//! 2. Nothing counted is lost with a handle: a dropped counter or histogram handle folds into the shared total.
//!    A dropped gauge handle takes its share away, for what it measured is gone with it.
//! 3. Names are given without the prefix `howdah_` and, for counters, without `_total`; both are added here.

mod cells;
mod encode;
mod process;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use cells::{Counter, Gauge, Histogram, LocalCounter, LocalGauge, LocalHistogram};
pub use encode::Samples;

use crate::limits::METRIC_SERIES_MAX;

/// All metrics of a process. Cheap to clone; usable from any thread.
#[derive(Clone, Default)]
pub struct Registry {
    shared: Arc<Mutex<Families>>,
}

/// The label set of a series, in the order given.
type Labels = Vec<(String, String)>;
type Collector = Arc<dyn Fn(&mut Samples) + Send + Sync>;

#[derive(Default)]
struct Families {
    by_name: BTreeMap<&'static str, Family>,
    collectors: Vec<Collector>,
}

struct Family {
    help: &'static str,
    series: BTreeMap<Labels, Series>,
}

#[derive(Clone)]
enum Series {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("families", &self.families().by_name.len()).finish()
    }
}

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The counter of this name and these labels, made on first use.
    ///
    /// # Panics
    /// When the name is in use for another kind of metric.
    #[must_use]
    pub fn counter(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
    ) -> Counter {
        match self.series(name, help, labels, || Series::Counter(Counter::default())) {
            Series::Counter(counter) => counter,
            _ => panic!("metric {name} is in use with another kind"),
        }
    }

    /// The gauge of this name and these labels, made on first use.
    ///
    /// # Panics
    /// When the name is in use for another kind of metric.
    #[must_use]
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Gauge {
        match self.series(name, help, labels, || Series::Gauge(Gauge::default())) {
            Series::Gauge(gauge) => gauge,
            _ => panic!("metric {name} is in use with another kind"),
        }
    }

    /// The histogram of this name and these labels, made on first use with buckets that end at `bounds` (ascending;
    /// a last one without end is added).
    ///
    /// # Panics
    /// When the name is in use for another kind of metric.
    #[must_use]
    pub fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        bounds: &[f64],
    ) -> Histogram {
        match self.series(name, help, labels, || Series::Histogram(Histogram::new(bounds))) {
            Series::Histogram(histogram) => histogram,
            _ => panic!("metric {name} is in use with another kind"),
        }
    }

    /// Forgets one series, for labels whose subject is gone. Handles to it keep working, unseen.
    pub fn forget(&self, name: &str, labels: &[(&str, &str)]) {
        if let Some(family) = self.families().by_name.get_mut(name) {
            family.series.remove(&owned(labels));
        }
    }

    /// Adds a function that is asked for further values whenever metrics are encoded. It runs on the asking thread.
    pub fn collect(&self, collector: impl Fn(&mut Samples) + Send + Sync + 'static) {
        self.families().collectors.push(Arc::new(collector));
    }

    /// Adds the process's own values: CPU seconds, resident memory, open descriptors, start time.
    pub fn collect_process(&self) {
        self.collect(process::sample);
    }

    /// Everything as Prometheus (OpenMetrics 1.0) text, `application/openmetrics-text; version=1.0.0`.
    #[must_use]
    pub fn encode(&self) -> String {
        self.encode_with(Samples::default())
    }

    /// As [`Registry::encode`], with further values that were sampled for this time only.
    #[must_use]
    pub fn encode_with(&self, samples: Samples) -> String {
        encode::encode(self, samples)
    }

    fn series(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        make: impl FnOnce() -> Series,
    ) -> Series {
        let mut families = self.families();
        let family = families
            .by_name
            .entry(name)
            .or_insert_with(|| Family { help, series: BTreeMap::new() });
        let mut labels = owned(labels);
        if !family.series.contains_key(&labels) && family.series.len() >= METRIC_SERIES_MAX {
            for (_, value) in &mut labels {
                "overflow".clone_into(value);
            }
        }
        family.series.entry(labels).or_insert_with(make).clone()
    }

    fn families(&self) -> MutexGuard<'_, Families> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn owned(labels: &[(&str, &str)]) -> Labels {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[cfg(test)]
mod tests;
