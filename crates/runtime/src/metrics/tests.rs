//! Values under several writers, and the text they become.

use std::thread;

use super::*;

#[test]
fn a_counter_sums_its_handles_and_keeps_what_dropped_ones_counted() {
    let registry = Registry::new();
    let counter = registry.counter("queries", "Queries seen", &[]);
    counter.add(1);
    let first = counter.local();
    first.inc();
    first.add(10);
    {
        let second = counter.local();
        second.add(100);
        assert_eq!(counter.value(), 112);
    }
    assert_eq!(counter.value(), 112);
    assert_eq!(first.value(), 11);
    assert_eq!(registry.counter("queries", "Queries seen", &[]).value(), 112, "same series");
}

#[test]
fn a_gauge_forgets_the_share_of_a_dropped_handle() {
    let gauge = Registry::new().gauge("clients", "Clients connected", &[]);
    gauge.set(5);
    let local = gauge.local();
    local.inc();
    local.inc();
    local.dec();
    assert_eq!(gauge.value(), 6);
    local.set(10);
    assert_eq!((gauge.value(), local.value()), (15, 10));
    drop(local);
    assert_eq!(gauge.value(), 5);
}

#[test]
fn threads_count_without_losing_any() {
    let counter = Registry::new().counter("events", "Events", &[]);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let local = counter.local();
            thread::spawn(move || {
                for _ in 0..100_000 {
                    local.inc();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(counter.value(), 400_000);
}

#[test]
fn text_has_prefix_suffix_labels_and_cumulative_buckets() {
    let registry = Registry::new();
    registry.counter("queries", "Queries seen", &[("pool", "a\"b")]).add(3);
    registry.counter("queries", "Queries seen", &[("pool", "c")]).add(4);
    registry.gauge("clients", "Clients connected", &[]).set(-2);
    let histogram = registry.histogram("wait_seconds", "Time waited", &[], &[0.1, 1.0]);
    {
        let local = histogram.local();
        for value in [0.05, 0.1, 0.5, 2.0] {
            local.observe(value);
        }
    }
    registry.collect(|samples| {
        samples.gauge("turns", "Turns of a core", &[("node", "0")], 1.5);
        samples.gauge("turns", "Turns of a core", &[("node", "1")], 2.5);
    });
    let text = registry.encode();
    for line in [
        "# TYPE howdah_queries counter",
        "# HELP howdah_queries Queries seen",
        "howdah_queries_total{pool=\"a\\\"b\"} 3",
        "howdah_queries_total{pool=\"c\"} 4",
        "howdah_clients -2",
        "howdah_wait_seconds_sum 2.65",
        "howdah_wait_seconds_count 4",
        "howdah_wait_seconds_bucket{le=\"0.1\"} 2",
        "howdah_wait_seconds_bucket{le=\"1.0\"} 3",
        "howdah_wait_seconds_bucket{le=\"+Inf\"} 4",
        "howdah_turns{node=\"0\"} 1.5",
        "howdah_turns{node=\"1\"} 2.5",
        "# EOF",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is missing in:\n{text}");
    }
    assert_eq!(text, registry.encode(), "collectors stay");
}

#[test]
fn a_forgotten_series_is_gone_from_the_text() {
    let registry = Registry::new();
    let counter = registry.counter("queries", "Queries seen", &[("pool", "old")]);
    counter.add(1);
    registry.forget("queries", &[("pool", "old")]);
    assert!(!registry.encode().contains("queries"));
    counter.add(1);
    assert_eq!(counter.value(), 2);
}

#[test]
fn series_are_bounded() {
    let registry = Registry::new();
    for index in 0..METRIC_SERIES_MAX + 50 {
        registry
            .counter("runaway", "A label from user input", &[("user", &index.to_string())])
            .add(1);
    }
    let overflow = registry.counter("runaway", "A label from user input", &[("user", "overflow")]);
    assert_eq!(overflow.value(), 50);
}

#[test]
#[should_panic(expected = "metric queries is in use with another kind")]
fn one_name_has_one_kind() {
    let registry = Registry::new();
    let _counter = registry.counter("queries", "Queries seen", &[]);
    let _gauge = registry.gauge("queries", "Queries seen", &[]);
}

#[cfg(target_os = "linux")]
#[test]
fn the_process_reports_its_memory_and_cpu() {
    let registry = Registry::new();
    registry.collect_process();
    let text = registry.encode();
    let value = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("{name} in {text}"))
            .rsplit(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap()
    };
    assert!(value("howdah_process_resident_memory_bytes ") > 100_000.0);
    assert!(value("howdah_process_open_fds ") >= 3.0);
    assert!(value("howdah_process_cpu_seconds_total{mode=\"user\"} ") >= 0.0);
    assert!(value("howdah_process_threads ") >= 1.0);
}
