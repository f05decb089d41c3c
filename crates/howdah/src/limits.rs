//! Every bound of the program, with its name and its reason.

use std::time::Duration;

/// A server that replays a crash may take long to be ready; beyond this somebody should look.
pub const POSTGRES_READY_WAIT: Duration = Duration::from_secs(300);
/// How often to look whether it is ready. `pg_ctl` looks every 100 ms.
pub const POSTGRES_READY_POLL: Duration = Duration::from_millis(20);
/// A server of an earlier run that is still going down gets this long before we give up.
pub const POSTGRES_OLD_WAIT: Duration = Duration::from_secs(30);
/// Fast shutdown writes all dirty buffers; after this long we insist (immediate shutdown, recovery at the next start).
pub const POSTGRES_FAST_WAIT: Duration = Duration::from_secs(60);
/// Immediate shutdown is a signal to every backend; after this long the server is killed.
pub const POSTGRES_IMMEDIATE_WAIT: Duration = Duration::from_secs(5);
/// What stopping one App may take in all: the two waits above and something to spare.
pub const STOP_WAIT: Duration = Duration::from_secs(70);
/// First pause before a server that died is started again; it doubles up to the maximum.
pub const POSTGRES_RESTART_PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest such pause: an operator who has repaired something should not wait long.
pub const POSTGRES_RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);
/// A server that ran this long has not died of its start: the pause begins anew.
pub const POSTGRES_STEADY: Duration = Duration::from_secs(60);
/// How soon the pooler tries a supervised server again that refused it.
pub const SERVER_RETRY: Duration = Duration::from_secs(1);
/// Lines of the server's log kept for the error of a failed start.
pub const POSTGRES_LOG_LINES: usize = 10;
/// Questions and orders to the supervisor that may wait at once.
pub const SUPERVISOR_QUEUE_MAX: usize = 16;
/// Requests of the API that may wait for the first core at once.
pub const API_QUEUE_MAX: usize = 64;
/// Questions to the pooler that may wait at once.
pub const POOLER_QUEUE_MAX: usize = 16;
/// Length of a unix socket's path, with its end (`sun_path`, unix(7); 104 on BSD).
pub const SOCKET_PATH_BYTES_MAX: usize = 103;
/// Open descriptors wanted: 10,000 clients, their servers, and files.
pub const OPEN_FILES: u64 = 65_536;
/// Computes that run or wait to run at once: each has a task and a name, and somebody who waits.
pub const COMPUTES_MAX: usize = 1024;
/// Orders to the manager of computes that may wait at once: a core of the pooler asks once for each of its routes.
pub const COMPUTE_ORDERS_MAX: usize = 4096;
/// How often to look which computes are idle.
pub const COMPUTE_IDLE_POLL: Duration = Duration::from_secs(1);
/// A compute without clients makes room for others only after this: who asked for it may be about to connect.
pub const COMPUTE_SPARE: Duration = Duration::from_secs(1);
/// A killed process is gone at once, unless the kernel is in trouble.
pub const COMPUTE_KILL_WAIT: Duration = Duration::from_secs(5);
/// How often to look whether the processes of a compute are stopped.
pub const COMPUTE_STOPPED_POLL: Duration = Duration::from_secs(1);
/// A compute that is stopped for so long is killed, and another started: its clients wait meanwhile.
pub const COMPUTE_STOPPED_MAX: Duration = Duration::from_secs(10);
/// First pause before a compute is started that died twice; it doubles up to the maximum.
pub const COMPUTE_CRASH_PAUSE_MIN: Duration = Duration::from_millis(250);
/// Longest such pause: clients wait, and with the start after it a failover shall take two seconds at most. It has served
/// each time, so that to start it is not in vain.
pub const COMPUTE_CRASH_PAUSE_MAX: Duration = Duration::from_secs(1);
/// A death this long ago says nothing about the next start.
pub const COMPUTE_CRASH_MEMORY: Duration = Duration::from_secs(60);
/// Longest message between the starter and who asks it: a line of a compute's log.
pub const COMPUTE_MESSAGE_BYTES_MAX: usize = 1 << 20;
/// A compute's moment is kept for so long after its manager was last seen: a restart of Howdah fits in.
pub const COMPUTE_LEASE_SECONDS: u32 = 600;
/// How often that is said again.
pub const COMPUTE_LEASE_RENEWAL: Duration = Duration::from_secs(120);
/// A compute's log is begun anew before it is longer; the one before is kept.
pub const COMPUTE_LOG_BYTES_MAX: u64 = 16 << 20;
/// The server by which initdb fills a cluster ends when it sees that initdb was killed: after the statement it is at.
pub const INITDB_END_WAIT: Duration = Duration::from_secs(10);
pub const INITDB_END_POLL: Duration = Duration::from_millis(100);
/// How soon `main` is started again whose start failed: clients wait.
pub const PRIMARY_RETRY: Duration = Duration::from_millis(500);
/// How often to look whether the page server has come so far that `main` can be started.
pub const PRIMARY_POLL: Duration = Duration::from_millis(10);
/// How long the server of a compute that has ended has to go down by itself before it is made to.
pub const PRIMARY_OLD_WAIT: Duration = Duration::from_millis(500);
/// A compute that ran so long has not died of its start.
pub const COMPUTE_STEADY: Duration = Duration::from_secs(2);
/// A server that has been shut down has sent its shutdown checkpoint; to have it taken in takes moments.
pub const HANDOVER_WAIT: Duration = Duration::from_secs(60);
/// Lines of its log that the error of a failed start shows.
pub const COMPUTE_LOG_LINES: usize = 5;

/// The first base backup of a large cluster takes long; `up` reports its progress and waits this long at most
/// before it says that everything runs.
pub const FIRST_BACKUP_WAIT: Duration = Duration::from_secs(3600);
/// A server to import has this long for letting us in, and for each thing that it is asked: a person waits.
pub const IMPORT_CONNECT_WAIT: Duration = Duration::from_secs(20);
/// An import during which nothing has come for so long is given up. The checkpoint at the beginning of a base backup and a
/// server's restart fit in.
pub const IMPORT_STALL: Duration = Duration::from_secs(600);
/// Longest value of a setting that is taken over into our configuration.
pub const IMPORT_SETTING_BYTES_MAX: usize = 1024;
/// `wal verify` holds every page of the cluster in memory; beyond this it gives up rather than push everything else out.
pub const VERIFY_MEMORY_MEGABYTES: u64 = 8192;

const _: () =
    assert!(STOP_WAIT.as_secs() > POSTGRES_FAST_WAIT.as_secs() + POSTGRES_IMMEDIATE_WAIT.as_secs());
