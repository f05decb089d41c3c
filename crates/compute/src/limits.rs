//! Every bound of this crate, with its reason.

use std::time::Duration;

pub const PAGE_BYTES: usize = 8192;

/// Most bytes that the kernel reads or writes in one request: 16 pages, as Postgres 17 reads at most by default.
pub const WRITE_BYTES_MAX: u32 = 128 << 10;
/// A request: its data, its head, and names of at most 255 bytes.
pub const REQUEST_BYTES_MAX: usize = WRITE_BYTES_MAX as usize + 4096;
/// Requests that nobody waits for in the kernel, such as asynchronous reads.
pub const REQUESTS_IN_BACKGROUND_MAX: u16 = 64;

/// Pages that one question to the page server asks for: 1 MiB.
pub const FETCH_BLOCKS_MAX: u32 = 128;
/// Pages that are asked for ahead of a reader in order: two questions, one under way while the other is read.
pub const WINDOW_BLOCKS_MAX: u32 = 2 * FETCH_BLOCKS_MAX;
/// Streams to the page server. A question waits for a stream; more than a few add no speed on one core.
pub const STREAMS_MAX: usize = 4;
/// Pages that were read ahead and wait to be asked for.
pub const PAGES_AHEAD_MAX: usize = 4096;
/// Pauses before a page server that does not answer is asked again.
pub const RETRY_PAUSE_MIN: Duration = Duration::from_millis(50);
pub const RETRY_PAUSE_MAX: Duration = Duration::from_secs(2);

/// Pages that are remembered of a start: it reads some 130, and the first queries some more.
pub const BOOT_PAGES_MAX: usize = 1000;
/// How long after a start what is read still counts to it: time for the first client.
pub const BOOT_RECORDED: Duration = Duration::from_secs(5);
/// Local files that are held open. Those not used for longest are closed first.
pub const OPEN_FILES_MAX: usize = 500;
/// Room on the disk that the overlay leaves to the WAL beside it: four segments. A server that cannot write data says
/// so and goes on; one that cannot write WAL stops.
pub const ROOM_FOR_WAL: u64 = 64 << 20;
/// Most bytes that are written before the room is looked at again.
pub const ROOM_TAKEN_MAX: u64 = 16 << 20;
/// Nothing of the mount is served for so long: it hangs, and is better gone.
pub const HANGS_AFTER: Duration = Duration::from_secs(60);
/// A shutdown checkpoint's record, with page headers before it and in it.
pub const CHECKPOINT_BYTES_MAX: u64 = 512;
/// Copied at a time, between file systems.
pub const COPY_BYTES: usize = 1 << 20;
/// Names below the mount: memory for them is some 200 bytes each.
pub const NODES_MAX: usize = 4_000_000;

/// A server that boots has nothing to recover; beyond this somebody should look.
pub const READY_WAIT: Duration = Duration::from_secs(120);
/// How often to look whether it is ready: a small part of what a start takes.
pub const POLL: Duration = Duration::from_millis(2);
/// Fast shutdown writes all dirty buffers and sends the rest of the WAL; after this long we insist.
pub const FAST_WAIT: Duration = Duration::from_secs(60);
/// Immediate shutdown is a signal to every backend; after this long the server is killed.
pub const IMMEDIATE_WAIT: Duration = Duration::from_secs(5);
/// A server whose compute was killed gets this long to go down before another is started in its place.
pub const OLD_SERVER_WAIT: Duration = Duration::from_secs(30);

const _: () = assert!((WRITE_BYTES_MAX as usize).is_multiple_of(PAGE_BYTES));
const _: () = assert!(FETCH_BLOCKS_MAX as usize >= WRITE_BYTES_MAX as usize / PAGE_BYTES);
