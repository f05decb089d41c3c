//! Random moments of a busy history: a compute boots there without recovery, everything fits together, and what is known
//! of the moment is so. `HOWDAH_MOMENTS` says how many (3 unless told), `HOWDAH_SEED` repeats a run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use pg::lsn::Lsn;

use super::work::InFlight;
use crate::compute::{Compute, as_of, can_mount};
use crate::instance::{Folder, Instance};

/// pgbench's sums of a history are all the same, whenever one looks.
const SUMS: &str = "SELECT a = t AND t = b AND b = h FROM \
    (SELECT coalesce(sum(abalance), 0) a FROM pgbench_accounts) a, (SELECT coalesce(sum(tbalance), 0) t FROM pgbench_tellers) t, \
    (SELECT coalesce(sum(bbalance), 0) b FROM pgbench_branches) b, (SELECT coalesce(sum(delta), 0) h FROM pgbench_history) h";

/// A statement with the same answer at every moment from one to another.
struct Known {
    sql: String,
    answer: &'static str,
    from: Lsn,
    to: Lsn,
}

/// What has happened.
#[derive(Default)]
struct History {
    known: Vec<Known>,
    /// When transactions were prepared and not yet finished, with their names.
    prepared: Vec<(Lsn, Lsn, String)>,
}

/// A sequence of numbers that can be had again (SplitMix64).
struct Random(u64);

impl Random {
    #[expect(clippy::print_stderr, reason = "a failure needs its seed")]
    fn new() -> Self {
        let given = std::env::var("HOWDAH_SEED").ok().and_then(|text| text.parse().ok());
        let since = SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
        let seed = given.unwrap_or(since.as_secs());
        eprintln!("HOWDAH_SEED={seed}");
        Self(seed)
    }

    fn between(&mut self, from: Lsn, to: Lsn) -> Lsn {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Lsn(from.0 + (bits ^ (bits >> 31)) % (to.0 - from.0 + 1))
    }
}

#[test]
fn at_random_moments_everything_fits_together() {
    if !can_mount() {
        return;
    }
    let count = std::env::var("HOWDAH_MOMENTS").ok().and_then(|text| text.parse().ok());
    let count: usize = count.unwrap_or(3);
    let folder = Folder::new();
    let instance = Instance::in_directory(&folder, "");
    instance.sql("ALTER SYSTEM SET max_prepared_transactions = 20");
    instance.post("/v1/postgres/stop");
    instance.post("/v1/postgres/start");
    instance.pgbench(&["-i", "-q", "-s", "1"]);
    instance.sql("CREATE TABLE prepared (i int PRIMARY KEY)");
    instance.sql("CREATE TABLE in_flight (i int PRIMARY KEY)");
    let statement = "DO $$ BEGIN FOR i IN 1..1000000 LOOP INSERT INTO in_flight VALUES (i); \
                     PERFORM pg_sleep(0.01); END LOOP; END $$";
    let in_flight = InFlight::begin(&instance, statement);
    let from = flushed(&instance);
    let over = AtomicBool::new(false);
    let history = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // Deadlocks with what takes a table for itself are tried again.
                instance.pgbench(&["--max-tries=1000", "-n", "-c", "4", "-t", "100"]);
            }
        });
        let mut history = History::default();
        for round in 0..count.max(6) {
            happen(&instance, round, &mut history);
        }
        over.store(true, Ordering::Relaxed);
        load.join().expect("pgbench ends well");
        history
    });
    let to = flushed(&instance);
    let mut random = Random::new();
    for number in 0..count {
        // Every other one while a transaction is prepared.
        let (from, to) = match history.prepared.get(number * history.prepared.len() / count) {
            Some((from, to, _name)) if number % 2 == 0 => (*from, *to),
            _ => (from, to),
        };
        let lsn = random.between(from, to);
        let compute = as_of(&instance, &folder, &lsn.to_string(), &format!("c{number}"));
        look(compute, lsn, &history);
    }
    drop(in_flight);
}

fn flushed(instance: &Instance) -> Lsn {
    instance.sql("SELECT pg_current_wal_flush_lsn()").parse().expect("an LSN")
}

fn written(instance: &Instance) -> Lsn {
    instance.sql("SELECT pg_current_wal_insert_lsn()").parse().expect("an LSN")
}

/// One round of preparing, of commands that change the catalog, and of finishing.
fn happen(instance: &Instance, round: usize, history: &mut History) {
    let name = format!("p{round}");
    instance.sql(&format!(
        "BEGIN; INSERT INTO prepared VALUES ({round}); CREATE TABLE of_{name} (i int); PREPARE TRANSACTION '{name}'"
    ));
    let prepared = flushed(instance);
    for sql in [
        format!(
            "CREATE TABLE d{round} AS SELECT i, repeat('x', i % 500) b FROM generate_series(1, 3000) i"
        ),
        format!("CREATE INDEX ON d{round} (b, i)"),
        format!("ALTER TABLE d{round} ADD COLUMN c int DEFAULT 7"),
        format!("DELETE FROM d{round} WHERE i % 3 = 0"),
        format!("VACUUM d{round}"),
        format!("ALTER TABLE d{round} ALTER COLUMN i TYPE bigint"),
        "REINDEX TABLE pgbench_accounts".to_owned(),
        "VACUUM FULL pgbench_branches".to_owned(),
    ] {
        instance.sql(&sql);
    }
    let made = flushed(instance);
    std::thread::sleep(Duration::from_millis(200));
    let finishing = written(instance);
    let counted = |what: &str| format!("SELECT count(*) FROM {what}");
    let mut known = |sql: String, answer, from, to| {
        history.known.push(Known { sql, answer, from, to });
    };
    let own = counted(&format!("pg_prepared_xacts WHERE gid = '{name}'"));
    let row = counted(&format!("prepared WHERE i = {round}"));
    known(own.clone(), "1", prepared, finishing);
    known(row.clone(), "0", prepared, finishing);
    let d = format!("SELECT count(*), sum(c), max(length(b)) FROM d{round}");
    known(d, "2000|14000|499", made, finishing);
    let commits = round.is_multiple_of(2);
    let finish = if commits { "COMMIT" } else { "ROLLBACK" };
    instance.sql(&format!("{finish} PREPARED '{name}'"));
    instance.sql(&format!("TRUNCATE d{round}"));
    instance.sql(&format!("DROP TABLE d{round}"));
    let finished = flushed(instance);
    let last = Lsn(u64::MAX);
    known(own, "0", finished, last);
    known(row, if commits { "1" } else { "0" }, finished, last);
    let table = format!("SELECT to_regclass('of_{name}') IS NOT NULL");
    known(table, if commits { "t" } else { "f" }, finished, last);
    known(format!("SELECT to_regclass('d{round}') IS NULL"), "t", finished, last);
    history.prepared.push((prepared, finishing, name));
}

/// Compares with what is known of the moment, finishes what is prepared, checks all tables and indexes.
fn look(compute: Compute, lsn: Lsn, history: &History) {
    assert_eq!(compute.sql("SELECT pg_is_in_recovery()"), "f");
    assert_eq!(compute.sql(SUMS), "t", "as of {lsn}");
    assert_eq!(compute.sql("SELECT count(*) FROM in_flight"), "0", "as of {lsn}");
    for Known { sql, answer, .. } in history.known.iter().filter(|known| known.is_so(lsn)) {
        assert_eq!(compute.sql(sql), *answer, "{sql} as of {lsn}");
    }
    let names = compute.sql("SELECT string_agg(gid, ',') FROM pg_prepared_xacts");
    for name in names.split(',').filter(|name| !name.is_empty()) {
        compute.sql(&format!("COMMIT PREPARED '{name}'"));
        let round = name.trim_start_matches('p');
        assert_eq!(compute.sql(&format!("SELECT count(*) FROM prepared WHERE i = {round}")), "1");
        assert_eq!(compute.sql(&format!("SELECT count(*) FROM of_{name}")), "0");
    }
    compute.check();
    compute.pgbench(&["-n", "-c", "2", "-t", "20"]);
    assert_eq!(compute.sql(SUMS), "t", "after more, as of {lsn}");
    let said = compute.stop();
    assert!(said.contains("database system was shut down at"), "{said}");
    for word in ["recovery", "redo", "PANIC"] {
        assert!(!said.contains(word), "\"{word}\" in {said}");
    }
}

impl Known {
    fn is_so(&self, lsn: Lsn) -> bool {
        (self.from..=self.to).contains(&lsn)
    }
}
