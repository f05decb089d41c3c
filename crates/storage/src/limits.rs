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

/// Between the two looks that an object must be found by, and named by nothing, before it is removed: longer than anybody
/// takes from the upload of an object to the document that names it, or from an older document to the objects it names.
pub const LITTER_AGE_MIN: Duration = Duration::from_hours(1);
/// Objects that one look remembers: a hundred bytes each. The next looks find the rest.
pub const LITTER_SEEN_MAX: usize = 100_000;
/// Objects removed before whoever removes them looks after other things, two requests each: a few seconds.
pub const LITTER_AT_ONCE: usize = 64;

/// Layers on their way to the store at once: each has a part in memory.
pub const UPLOADS_AT_ONCE: usize = 4;
/// Attempts to fetch a layer whose bytes come damaged: the second tells a bad line from a bad object.
pub const FETCHES_MAX: u32 = 2;

// Layers.

/// Bytes of a layer's block before compression: large enough to compress well, small enough to be read for one page.
pub const BLOCK_RAW_BYTES: usize = 64 << 10;
/// zstd's level: the fastest that halves WAL.
pub const COMPRESSION_LEVEL: i32 = 1;
/// Longest payload of an entry: the longest WAL record with a little around it.
pub const ENTRY_PAYLOAD_BYTES_MAX: usize = 1021 << 20;
/// Longest index of a layer: that of a terabyte in blocks of 64 KiB.
pub const LAYER_INDEX_BYTES_MAX: u64 = 1 << 30;
/// A layer is written in pieces of this size: a call for each block would cost as much as its compression.
pub const WRITE_BYTES: usize = 1 << 20;
/// Largest block, before and after compression: one with the longest payload.
pub const BLOCK_BYTES_MAX: usize = ENTRY_PAYLOAD_BYTES_MAX + (1 << 20);
/// Bytes of entries after which compaction begins another layer: a download of a few seconds, an index of 400 KiB.
pub const LAYER_RAW_BYTES: u64 = 256 << 20;

// One timeline's store.

/// Layers held open; each costs a descriptor.
pub const LAYERS_OPEN_MAX: usize = 256;
/// Memory of their indexes: 0.1 % of what they tell of, so this is enough for 64 GB.
pub const INDEX_CACHE_BYTES_MAX: usize = 64 << 20;
/// Memory of decompressed blocks. Pages have a cache of their own above; this one saves decompression to reads that come
/// together.
pub const BLOCK_CACHE_BYTES_MAX: usize = 16 << 20;
/// Edits of a manifest after which it is written anew: each is a file to be read at the start.
pub const MANIFEST_EDITS_MAX: usize = 256;
/// Edits smaller than this are no reason to write it anew.
pub const MANIFEST_EDIT_BYTES_MIN: usize = 1 << 20;
/// Layers that a search looks at one by one before they go into the tree: a microsecond.
pub const LAYERS_UNINDEXED_MAX: usize = 128;
/// Layers whose tree is built on the core itself: a few milliseconds. More go to another thread.
pub const LAYERS_INDEXED_AT_ONCE: usize = 4096;

// Compaction.

/// Layers of level 0 that are merged together; a read looks into each of them.
pub const LEVEL0_LAYERS: usize = 8;
/// As many are merged at once if there are more: each holds a block in memory.
pub const MERGED_LAYERS_MAX: usize = 64;
/// Delta layers on top of each other that are reason for an image, if they are not small beside what is below them: a read
/// looks into each of them.
pub const DELTA_DEPTH: usize = 4;
/// That is: an image writes at most as much anew as was written since the last one.
pub const IMAGE_PERCENT: u64 = 100;
/// As many are reason for an image in any case: a cold read of two milliseconds.
pub const DELTA_DEPTH_MAX: usize = 24;
/// Versions that nobody can ask for any more, as a share of what an image without them would be, that are reason to write
/// one: so much of the disk is wasted at most, and three bytes are written for one that is freed.
pub const COLLECTED_PERCENT: u64 = 50;
/// Less than this is not worth a file of its own.
pub const COLLECTED_BYTES_MIN: u64 = 1 << 20;
/// Layers looked at before other tasks have a turn.
pub const LAYERS_LOOKED_AT_ONCE: usize = 1024;
/// Layers that collection decides about before other tasks have a turn: a few searches each.
pub const COLLECTED_AT_ONCE: usize = 128;
