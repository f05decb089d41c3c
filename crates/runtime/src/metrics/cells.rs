//! The values behind the names: shared totals and single-writer cells.

use std::cell::Cell as NotSync;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Two cache lines: processors fetch lines in pairs, and a neighbour's writes must not slow ours.
#[derive(Default)]
#[repr(align(128))]
struct Padded<T>(T);

/// The cells of one metric's living handles. Locked when handles come and go and when values are read, never to count.
struct Cells<T> {
    living: Mutex<Vec<Arc<Padded<T>>>>,
}

impl<T> Default for Cells<T> {
    fn default() -> Self {
        Self { living: Mutex::new(Vec::new()) }
    }
}

impl<T> Cells<T> {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Padded<T>>>> {
        self.living.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, value: T) -> Arc<Padded<T>> {
        let cell = Arc::new(Padded(value));
        self.lock().push(Arc::clone(&cell));
        cell
    }

    /// Takes a cell out and folds it under the lock, so that no reader sees it twice or not at all.
    fn remove(&self, cell: &Arc<Padded<T>>, fold: impl FnOnce(&T)) {
        let mut living = self.lock();
        if let Some(at) = living.iter().position(|other| Arc::ptr_eq(other, cell)) {
            living.swap_remove(at);
        }
        fold(&cell.0);
    }
}

/// One writer, so a load and a store do: no locked instruction.
fn bump(value: &AtomicU64, by: u64) {
    value.store(value.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

/// A handle may move to another thread but not be used by two: its cell has one writer.
type OneWriter = PhantomData<NotSync<()>>;

/// A value that only grows.
#[derive(Clone, Default)]
pub struct Counter(Arc<CounterShared>);

#[derive(Default)]
struct CounterShared {
    total: AtomicU64,
    cells: Cells<AtomicU64>,
}

impl Counter {
    /// A handle with a cell of its own, for the hot path of one core.
    #[must_use]
    pub fn local(&self) -> LocalCounter {
        let cell = self.0.cells.add(AtomicU64::new(0));
        LocalCounter { cell, shared: Arc::clone(&self.0), one_writer: PhantomData }
    }

    /// Adds from any thread; for rare events.
    pub fn add(&self, by: u64) {
        self.0.total.fetch_add(by, Ordering::Relaxed);
    }

    /// The sum over all handles, past and present.
    #[must_use]
    pub fn value(&self) -> u64 {
        let living = self.0.cells.lock();
        let living = living.iter().map(|cell| cell.0.load(Ordering::Relaxed)).sum::<u64>();
        self.0.total.load(Ordering::Relaxed).wrapping_add(living)
    }
}

/// One core's share of a [`Counter`].
pub struct LocalCounter {
    cell: Arc<Padded<AtomicU64>>,
    shared: Arc<CounterShared>,
    one_writer: OneWriter,
}

impl LocalCounter {
    /// Counts one.
    pub fn inc(&self) {
        bump(&self.cell.0, 1);
    }

    /// Counts `by`.
    pub fn add(&self, by: u64) {
        bump(&self.cell.0, by);
    }

    /// What this handle counted.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.cell.0.load(Ordering::Relaxed)
    }
}

impl Drop for LocalCounter {
    fn drop(&mut self) {
        self.shared.cells.remove(&self.cell, |cell| {
            self.shared.total.fetch_add(cell.load(Ordering::Relaxed), Ordering::Relaxed);
        });
    }
}

/// A value that goes up and down.
#[derive(Clone, Default)]
pub struct Gauge(Arc<GaugeShared>);

#[derive(Default)]
struct GaugeShared {
    base: AtomicI64,
    cells: Cells<AtomicI64>,
}

impl Gauge {
    /// A handle with a cell of its own, for the hot path of one core.
    #[must_use]
    pub fn local(&self) -> LocalGauge {
        let cell = self.0.cells.add(AtomicI64::new(0));
        LocalGauge { cell, shared: Arc::clone(&self.0), one_writer: PhantomData }
    }

    /// Sets the shared part from any thread.
    pub fn set(&self, value: i64) {
        self.0.base.store(value, Ordering::Relaxed);
    }

    /// Adds to the shared part from any thread.
    pub fn add(&self, by: i64) {
        self.0.base.fetch_add(by, Ordering::Relaxed);
    }

    /// The shared part plus the share of every living handle.
    #[must_use]
    pub fn value(&self) -> i64 {
        let living = self.0.cells.lock();
        let living = living.iter().map(|cell| cell.0.load(Ordering::Relaxed)).sum::<i64>();
        self.0.base.load(Ordering::Relaxed).wrapping_add(living)
    }
}

/// One core's share of a [`Gauge`].
pub struct LocalGauge {
    cell: Arc<Padded<AtomicI64>>,
    shared: Arc<GaugeShared>,
    one_writer: OneWriter,
}

impl LocalGauge {
    /// Adds to this share; negative takes away.
    pub fn add(&self, by: i64) {
        let value = &self.cell.0;
        value.store(value.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }

    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// One less.
    pub fn dec(&self) {
        self.add(-1);
    }

    /// Sets this share.
    pub fn set(&self, value: i64) {
        self.cell.0.store(value, Ordering::Relaxed);
    }

    /// This share.
    #[must_use]
    pub fn value(&self) -> i64 {
        self.cell.0.load(Ordering::Relaxed)
    }
}

impl Drop for LocalGauge {
    fn drop(&mut self) {
        self.shared.cells.remove(&self.cell, |_cell| {});
    }
}

/// A distribution over fixed buckets.
#[derive(Clone)]
pub struct Histogram(Arc<HistogramShared>);

struct HistogramShared {
    bounds: Box<[f64]>,
    /// What dropped handles left behind; changed and read under the lock of `cells`.
    total: Buckets,
    cells: Cells<Buckets>,
}

/// Counts per bucket (the last has no upper bound) and the sum of all values, as the bits of an `f64`.
struct Buckets {
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Buckets {
    fn new(buckets: usize) -> Self {
        Self { counts: (0..buckets).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }

    fn observe(&self, bounds: &[f64], value: f64) {
        let at = bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(at) {
            bump(count, 1);
        }
        self.add_sum(value);
    }

    fn add_sum(&self, value: f64) {
        let sum = f64::from_bits(self.sum.load(Ordering::Relaxed)) + value;
        self.sum.store(sum.to_bits(), Ordering::Relaxed);
    }

    fn fold(&self, other: &Self) {
        for (ours, theirs) in self.counts.iter().zip(&other.counts) {
            bump(ours, theirs.load(Ordering::Relaxed));
        }
        self.add_sum(f64::from_bits(other.sum.load(Ordering::Relaxed)));
    }
}

/// A histogram's values at one moment.
pub(super) struct Snapshot {
    /// Upper bound and count of each bucket, not cumulative; the last bound is infinite.
    pub(super) buckets: Vec<(f64, u64)>,
    pub(super) count: u64,
    pub(super) sum: f64,
}

impl Histogram {
    pub(super) fn new(bounds: &[f64]) -> Self {
        assert!(bounds.is_sorted(), "histogram bounds must ascend");
        let buckets = bounds.len() + 1;
        Self(Arc::new(HistogramShared {
            bounds: bounds.into(),
            total: Buckets::new(buckets),
            cells: Cells::default(),
        }))
    }

    /// A handle with buckets of its own, for the hot path of one core.
    #[must_use]
    pub fn local(&self) -> LocalHistogram {
        let cell = self.0.cells.add(Buckets::new(self.0.bounds.len() + 1));
        LocalHistogram { cell, shared: Arc::clone(&self.0), one_writer: PhantomData }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let merged = Buckets::new(self.0.bounds.len() + 1);
        {
            let living = self.0.cells.lock();
            merged.fold(&self.0.total);
            for cell in living.iter() {
                merged.fold(&cell.0);
            }
        }
        let bounds = self.0.bounds.iter().copied().chain([f64::INFINITY]);
        let counts = merged.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        Snapshot { buckets, count, sum: f64::from_bits(merged.sum.load(Ordering::Relaxed)) }
    }
}

/// One core's share of a [`Histogram`].
pub struct LocalHistogram {
    cell: Arc<Padded<Buckets>>,
    shared: Arc<HistogramShared>,
    one_writer: OneWriter,
}

impl LocalHistogram {
    /// Records one value, in the unit of the bounds.
    pub fn observe(&self, value: f64) {
        self.cell.0.observe(&self.shared.bounds, value);
    }
}

impl Drop for LocalHistogram {
    fn drop(&mut self) {
        self.shared.cells.remove(&self.cell, |cell| self.shared.total.fold(cell));
    }
}
