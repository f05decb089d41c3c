//! Every bound of this crate, with its reason.

use std::time::Duration;

// The object store.

/// Bytes of a file that travel at once: S3 takes no smaller part than 5 MiB, and a file has at most 10,000.
pub const TRANSFER_PART_BYTES: usize = 8 << 20;
/// Objects that one listing holds in memory: a hundred bytes each.
pub const OBJECTS_LISTED_MAX: usize = 4_000_000;
/// Bytes of a version of a numbered document: the manifest of a timeline with a million layers.
pub const VERSION_BYTES_MAX: usize = 256 << 20;
/// Versions of a numbered document that stay, for those who are reading them and for looking back.
pub const VERSIONS_KEPT: u64 = 100;
/// One attempt of a request: a part at 300 KiB/s.
pub const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);
/// All attempts of a request. Whoever works in the background goes on trying after that.
pub const REQUESTS_TIME_MAX: Duration = Duration::from_secs(60);
pub const STORE_CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// Pauses between attempts: a store that is asked to slow down wants more than the first, none wants a long one.
pub const ATTEMPT_PAUSE_MIN: Duration = Duration::from_millis(50);
pub const ATTEMPT_PAUSE_MAX: Duration = Duration::from_secs(5);
/// The race that a store must pass: enough for one that looks before it writes to fail nearly always.
pub const PROBE_ROUNDS: u32 = 5;
pub const PROBE_WRITERS: usize = 8;
/// Of the library's messages, which may quote a whole answer.
pub const STORE_MESSAGE_CHARS_MAX: usize = 300;
