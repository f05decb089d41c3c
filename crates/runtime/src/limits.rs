//! Every bound of this crate, with its reason.

use std::time::Duration;

// Log lines.

/// Largest piece of a line written at once: a pipe that polls writable has at least one free page, and a write of
/// at most `PIPE_BUF` bytes is not torn between writers.
pub const LOG_WRITE_BYTES_MAX: usize = 4096;
/// How long the first line waits for a stalled standard error before lines are dropped: long enough for a busy
/// reader, short enough that no core misses a beat that matters.
pub const LOG_STALL_WAIT: Duration = Duration::from_millis(50);

// Bridge to tokio and blocking work.

/// Threads for closures that block: file and name look-ups, of which a few at a time keep a disk or resolver busy.
pub const BLOCKING_THREADS_MAX: usize = 8;
/// Closures waiting for such a thread; beyond it a new one is refused at once.
pub const BLOCKING_QUEUE_MAX: usize = 4096;
/// How long an idle thread stays around for the next closure.
pub const BLOCKING_IDLE: Duration = Duration::from_secs(10);
/// How long stopping the bridge waits for tasks that run on it.
pub const BRIDGE_STOP_WAIT: Duration = Duration::from_secs(2);

// Metrics.

/// Label combinations of one metric: more is a mistake (a label taken from user input), and the surplus shares
/// one series labelled `overflow`.
pub const METRIC_SERIES_MAX: usize = 10_000;
