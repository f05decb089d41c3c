//! From values to Prometheus text, by way of `prometheus-client`, which knows the escaping and the suffixes.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::{Labels, Registry, Series, owned};

const PREFIX: &str = "howdah_";

pub(super) fn encode(registry: &Registry, mut samples: Samples) -> String {
    // Collector functions may themselves use the registry, so they run outside of its lock.
    let collectors = registry.families().collectors.clone();
    for collector in &collectors {
        collector(&mut samples);
    }
    let mut target = prometheus_client::registry::Registry::default();
    target.register_collector(Box::new(Scrape { registry: registry.clone(), samples }));
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &target) {
        Ok(()) => text,
        // Writing to a string fails only if a collector says so, and ours do not.
        Err(error) => format!("# encoding failed: {error}\n# EOF\n"),
    }
}

/// What a collector function fills in.
#[derive(Debug, Default)]
pub struct Samples {
    by_name: BTreeMap<String, Sampled>,
}

#[derive(Debug)]
struct Sampled {
    help: String,
    kind: Kind,
    values: Vec<(Labels, f64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

impl Samples {
    /// Reports the present value of something that only grows; the name without `_total`.
    pub fn counter(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        self.push(name, help, labels, value, Kind::Counter);
    }

    /// Reports the present value of something that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        self.push(name, help, labels, value, Kind::Gauge);
    }

    fn push(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64, kind: Kind) {
        let sampled = self.by_name.entry(name.to_owned()).or_insert_with(|| Sampled {
            help: help.to_owned(),
            kind,
            values: Vec::new(),
        });
        sampled.values.push((owned(labels), value));
    }
}

/// Everything of one moment.
#[derive(Debug)]
struct Scrape {
    registry: Registry,
    samples: Samples,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, sampled) in &self.samples.by_name {
            sampled.encode(name, &mut encoder)?;
        }
        let families = self.registry.families();
        for (name, family) in &families.by_name {
            let Some(first) = family.series.values().next() else { continue };
            let name = format!("{PREFIX}{name}");
            let mut metric =
                encoder.encode_descriptor(&name, family.help, None, first.metric_type())?;
            for (labels, series) in &family.series {
                labelled(&mut metric, labels, |metric| series.encode(metric))?;
            }
        }
        Ok(())
    }
}

impl Sampled {
    fn encode(&self, name: &str, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
        };
        let name = format!("{PREFIX}{name}");
        let mut metric = encoder.encode_descriptor(&name, &self.help, None, kind)?;
        for (labels, value) in &self.values {
            labelled(&mut metric, labels, |metric| match self.kind {
                Kind::Counter => metric.encode_counter::<NoLabelSet, f64, f64>(value, None),
                Kind::Gauge => metric.encode_gauge(value),
            })?;
        }
        Ok(())
    }
}

impl Series {
    fn metric_type(&self) -> MetricType {
        match self {
            Self::Counter(_) => MetricType::Counter,
            Self::Gauge(_) => MetricType::Gauge,
            Self::Histogram(_) => MetricType::Histogram,
        }
    }

    fn encode(&self, metric: &mut MetricEncoder<'_>) -> fmt::Result {
        match self {
            Self::Counter(counter) => {
                metric.encode_counter::<NoLabelSet, u64, f64>(&counter.value(), None)
            }
            Self::Gauge(gauge) => metric.encode_gauge(&gauge.value()),
            Self::Histogram(histogram) => {
                let now = histogram.snapshot();
                metric.encode_histogram::<NoLabelSet>(now.sum, now.count, &now.buckets, None)
            }
        }
    }
}

fn labelled(
    metric: &mut MetricEncoder<'_>,
    labels: &Labels,
    encode: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    if labels.is_empty() { encode(metric) } else { encode(&mut metric.encode_family(labels)?) }
}
