//! Every bound of the page server, with its name and its reason.

use std::time::Duration;

/// Bytes of a page; the only block size we accept from a server (`BLCKSZ`).
pub const PAGE_BYTES: usize = 8192;
/// Blocks of one file of a relation (`RELSEG_SIZE`: 1 GiB of 8 KiB blocks).
pub const FILE_BLOCKS: u32 = 131_072;
/// Pages of one SLRU file (`SLRU_PAGES_PER_SEGMENT`).
pub const SLRU_FILE_PAGES: u32 = 32;

/// WAL gathered from the connection before it is written and synced at once: large enough that a
/// bulk load pays one fsync per MiB, small enough that a commit never waits long for its turn.
pub const WAL_WRITE_BYTES_MAX: usize = 1 << 20;
/// The same when more is waiting than that: a sync costs nearly the same for more bytes, and while one runs more arrives.
pub const WAL_GATHERED_BYTES_MAX: usize = 4 << 20;
/// Zeroes written behind the newest WAL, so that a segment's file grows once in so many bytes of commits: some hundred.
pub const WAL_ZEROES_AHEAD_BYTES: usize = 256 << 10;
/// Received WAL taken in before other tasks of the core have a turn: about a millisecond.
pub const WAL_TAKEN_IN_BYTES: usize = 256 << 10;
/// Longest message of the replication stream. A walsender sends at most 128 KiB of WAL
/// (`MAX_SEND_SIZE`) and a base backup 32 KiB of archive per message; a page stream's longest reply is
/// a batch of pages, which is what counts.
pub const STREAM_MESSAGE_BYTES_MAX: u32 = BATCH_BLOCKS_MAX as u32 * (8 << 10) + 1024;
/// Rows that one answer to a command may have: the list of all relation forks is the longest.
pub const ANSWER_ROWS_MAX: usize = 4_000_000;
/// Addresses of a server's name that are tried: more would only make the error later.
pub const SERVER_ADDRESSES_MAX: usize = 16;
/// Longest value of such a row.
pub const ANSWER_VALUE_BYTES_MAX: usize = 64 << 10;

/// So much WAL at once is acknowledged before its records are sorted into the index, which takes some 100 us then; less
/// is acknowledged with one message after that.
pub const WAL_ACKNOWLEDGED_FIRST_BYTES: usize = 32 << 10;
/// WAL that is received a second time when a stream begins, to see that it is the same: enough that two servers which
/// have written different things differ in it.
pub const WAL_OVERLAP_BYTES: u64 = 64 << 10;
/// A compute that is being attached has this long to show its WAL.
pub const ATTACH_TIME_MAX: Duration = Duration::from_secs(30);
/// A server whose WAL comes has this long to tell how far it is: as long as a busy one may take to let somebody in.
pub const PRESENT_TIME_MAX: Duration = Duration::from_secs(10);
/// One that is away already is not waited for: it is asked because it may be back.
pub const PRESENT_TIME_MAX_AWAY: Duration = Duration::from_secs(2);
/// WAL is read back in blocks of this size: the records of one page lie far apart, those of one
/// moment together.
pub const WAL_READ_BYTES: usize = 16 << 10;
/// WAL blocks kept in memory: 32 MiB.
pub const WAL_READ_BLOCKS_MAX: usize = 2048;
/// Longest WAL record (`XLogRecordMaxSize` of 16+; 15 allows no more than 1 GiB either).
pub const WAL_RECORD_BYTES_MAX: u32 = 1020 << 20;

/// Pages of one request on the page stream.
pub const BATCH_BLOCKS_MAX: u16 = pg::limits::PAGESTREAM_BLOCKS_MAX;
/// Unsent reply bytes of one page stream before we stop reading its requests.
pub const STREAM_REPLY_BYTES_MAX: usize = 4 << 20;
/// Longest simple query or start-up packet that a page-service client may send.
pub const COMMAND_BYTES_MAX: u32 = 64 << 10;
/// Page-service connections at once; each costs a task and its buffers.
pub const CLIENTS_MAX: usize = 1000;
/// A client has this long from connecting to its first command.
pub const LOGIN_TIME_MAX: Duration = Duration::from_secs(30);

/// WAL in one message to a receiver, as a walsender's (`MAX_SEND_SIZE`).
pub const WAL_MESSAGE_BYTES_MAX: u64 = 128 << 10;
/// A receiver of WAL hears from us at least this often; half of what `wal_receiver_timeout` waits.
pub const WAL_SILENCE_MAX: Duration = Duration::from_secs(10);
/// Bytes of a base backup in one message.
pub const BACKUP_MESSAGE_BYTES: usize = 128 << 10;
/// Base backups under way at once: each holds the changed pages of the transaction logs.
pub const BACKUPS_MAX: usize = 16;
/// Temporary replication slots of one connection; they are names only.
pub const SLOTS_MAX: usize = 4;

/// Status intervals without a word from Postgres after which the connection counts as lost: a minute
/// with the default interval, as `wal_receiver_timeout`. From the second on, it is asked to answer.
pub const SILENT_INTERVALS_MAX: u32 = 6;

/// First pause before connecting or writing again; doubles up to [`RETRY_PAUSE_MAX`].
pub const RETRY_PAUSE_MIN: Duration = Duration::from_millis(200);
/// Longest such pause: an operator who has freed the disk should not have to wait long.
pub const RETRY_PAUSE_MAX: Duration = Duration::from_secs(10);

/// Links from a clone to its source database that one read may follow (`CREATE DATABASE` with the
/// `FILE_COPY` strategy from a database that was itself made that way).
pub const CLONE_DEPTH_MAX: u32 = 16;
/// Records applied to one page before other tasks of the core have a turn: some 100 µs of redo.
pub const REDO_RECORDS_AT_ONCE: usize = 128;
/// Pages of a batch whose versions are read together: a few blocks of a layer, as many as one page has at the worst.
pub const PAGES_REBUILT_AT_ONCE: usize = 32;
/// Of so many pages that are read by a scan a full cache takes one: few enough that a scan of ten times its size leaves
/// most of it, and enough that nothing is left of it after scans of some thirty times its size if nobody asks for it.
pub const SCANNED_PAGES_FOR_ONE_KEPT: u32 = 32;
/// Differences that a comparison lists; it counts all of them.
pub const DIFFERENCES_KEPT_MAX: usize = 100;

const _: () = assert!(STREAM_MESSAGE_BYTES_MAX as usize > BATCH_BLOCKS_MAX as usize * PAGE_BYTES);
const _: () = assert!(WAL_READ_BYTES.is_power_of_two());
const _: () = assert!(WAL_WRITE_BYTES_MAX >= WAL_READ_BYTES);
const _: () = assert!(RETRY_PAUSE_MIN.as_millis() < RETRY_PAUSE_MAX.as_millis());

/// Commits that are remembered with their time, at most one in so many microseconds: 10 MB a week.
pub const MARK_INTERVAL_MICROS: i64 = 1_000_000;
/// A commit that is so much earlier than the one before it tells of a clock that was set back: it is more than a commit
/// takes from looking at the clock to its place in the WAL.
pub const CLOCK_SET_BACK_MICROS_MIN: i64 = 10 * 1_000_000;
/// A server's clock may be so far ahead of ours: a time beyond that is one that is still to come.
pub const CLOCK_AHEAD_MICROS_MAX: i64 = 60 * 1_000_000;
/// Restore points kept for each timeline.
pub const RESTORE_POINTS_MAX: usize = 10_000;
/// Longest name of a restore point (`MAXFNAMELEN` of Postgres).
pub const RESTORE_POINT_NAME_BYTES_MAX: usize = 64;
/// Branches at once; each costs a folder and some memory.
pub const BRANCHES_MAX: usize = 10_000;
/// Longest name of a branch: it is the name of a folder, and of a database in a connection.
pub const BRANCH_NAME_BYTES_MAX: usize = 60;

/// Leases of one timeline: each is a moment whose pages stay.
pub const LEASES_MAX: usize = 1000;
/// Longest lease: who wants more renews it.
pub const LEASE_SECONDS_MAX: i64 = 366 * 24 * 3600;
pub const LEASE_HOLDER_BYTES_MAX: usize = 64;
/// Whoever waits for room looks so often whether there is some.
pub const ROOM_LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Steps of maintenance in one timeline before the next has its turn.
pub const STEPS_AT_ONCE: usize = 16;
/// Layers that are not merged yet, each of which a cold read looks into, after which no more WAL comes in.
pub const LEVEL0_LAYERS_MAX: u64 = 64;

/// Keys written to the store before other tasks of the core have a turn.
pub const FLUSH_KEYS_AT_ONCE: usize = 256;
/// Pages of a base backup gathered, and sorted, before they are written as one layer: 64 MiB.
pub const IMPORT_PAGES_MAX: usize = 8192;

/// How often to look whether there is something for the object store: nothing that one would notice in a loss window of
/// seconds.
pub const STORE_LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// All attempts of one request to the object store, but for the last: a page that has to be fetched waits for it.
pub const STORE_REQUEST_TIME_MAX: Duration = Duration::from_secs(15);
/// How often a page server that has nothing to publish looks whether another one has taken over.
pub const CLAIM_LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// How often WAL is removed from the object store that is not kept here either.
pub const WAL_TIDY_INTERVAL: Duration = Duration::from_mins(10);
/// Snapshots of a timeline that may be overtaken by compaction while they are copied before that is an error.
pub const SNAPSHOTS_MAX: u32 = 16;
/// An object stays until so many inventories without it have been published: whoever recovers from an older one still
/// finds it.
pub const DROPPED_VERSIONS_KEPT: u64 = 8;
/// And at least so long: a recovery takes a while, and so may the start of the page server after it.
pub const DROPPED_TIME_MIN: Duration = Duration::from_hours(1);

/// WAL between two snapshots of the counters: so much is read at most to know them as of any LSN. A snapshot has some
/// hundred bytes, and some ten more for each database.
pub const STATE_WAL_BYTES_MAX: u64 = 4 << 20;
/// Values beside pages that are kept in memory as last rebuilt, for each timeline: 2 MiB, pages of `pg_xact` for the last
/// eight million transactions.
pub const VALUES_KEPT_MAX: usize = 256;
/// So many records have to be read for a value to be kept: what is nearer to a whole one in a layer is found there as fast.
pub const VALUE_KEPT_RECORDS_MIN: usize = 64;
/// Records behind which a value at hand is brought up to date unasked, that whoever starts somewhere need not wait for it:
/// about a millisecond of redo.
pub const VALUE_RECORDS_BEHIND: usize = 1024;
/// Values beside pages that are read at once for a moment: enough to hide a disk's time, few enough to leave it to others.
pub const VALUES_READ_AT_ONCE: usize = 16;
/// Largest catalog that is fetched from the object store: a hundred bytes for each of ten million forks.
pub const CATALOG_BYTES_MAX: usize = 1 << 30;
/// Piece of a file of the base backup in the store.
pub const FILE_PIECE_BYTES: usize = 8 << 10;
/// Longest file of the base backup that is kept whole: configuration, and what extensions leave.
pub const FILE_BYTES_MAX: usize = 64 << 20;
/// Levels of folders below the data directory.
pub const FOLDER_DEPTH_MAX: usize = 8;
