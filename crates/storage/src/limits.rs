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

// Layers.

/// Bytes of a layer's block before compression: large enough to compress well, small enough to be read for one page.
pub const BLOCK_RAW_BYTES: usize = 64 << 10;
/// zstd's level: the fastest that halves WAL.
pub const COMPRESSION_LEVEL: i32 = 1;
/// Longest payload of an entry: the longest WAL record with a little around it.
pub const ENTRY_PAYLOAD_BYTES_MAX: usize = 1021 << 20;
/// Longest index of a layer: that of a terabyte in blocks of 64 KiB.
pub const LAYER_INDEX_BYTES_MAX: u64 = 1 << 30;
/// Layers held open with their index; each costs a descriptor and some hundred KiB.
pub const LAYERS_OPEN_MAX: usize = 256;
/// Decompressed blocks kept in memory: 16 MiB.
pub const BLOCKS_CACHED_MAX: usize = 256;
