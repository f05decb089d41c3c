//! Replay of the WAL of pgbench, beside Postgres' own crash recovery of it: `cargo bench -p pg --bench recovery`.
//!
//! 1. A throw-away Postgres 15 (in TMPDIR: name a tmpfs) is filled by pgbench, stopped and copied: the base.
//! 2. pgbench runs on it; then it is stopped as by a crash.
//! 3. Postgres recovers the base with that WAL: its own log says how long redo took.
//! 4. We decode the same WAL and redo every record on the base's pages: on one core, then on two that share the
//!    pages out. As for Postgres, base and WAL are in memory when the clock starts; its files stay there.
//!
//! Rounds of 3 and 4 in turn; prints all of them and the ratio of the medians, as markdown. The processor time beside
//! the elapsed time tells whether something else had the machine.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "measures real time, reads real files"
)]

#[expect(dead_code, reason = "shared with the tests, which use all of it")]
#[path = "../tests/it/cluster.rs"]
mod cluster;

use std::time::Instant;

use cluster::Cluster;
use pg::datadir::control::ControlFile;
use pg::lsn::Lsn;
use pg::redo::redo;
use pg::replay::Replica;
use pg::state::State;
use pg::wal::block::Block;
use pg::wal::reader::{Batch, StreamDecoder};
use pg::wal::segment::WalVersion;

const SETTINGS: [&str; 6] = [
    "max_wal_size=64GB",
    "wal_keep_size=64GB",
    "checkpoint_timeout=1d",
    "shared_buffers=512MB",
    "synchronous_commit=off",
    "autovacuum=off",
];
const ROUNDS: usize = 5;

fn main() {
    for (name, setting) in
        [("default", "full_page_writes=on"), ("without page images", "full_page_writes=off")]
    {
        side_by_side(name, setting);
    }
}

fn side_by_side(name: &str, setting: &str) {
    let settings = [SETTINGS.as_slice(), &[setting]].concat();
    let mut cluster = Cluster::create(&[]);
    let data = cluster.data();
    let data = data.to_str().unwrap();
    cluster.serve(&settings);
    cluster.run("pgbench", &["-i", "-q", "-s", "10", "postgres"]);
    cluster.stop();
    cluster.shell(&format!("cp -a {data} {data}-base"));
    let files = cluster.files();
    let control = files.iter().find(|file| file.0 == "global/pg_control").unwrap();
    let control = ControlFile::parse(&control.1).unwrap();
    cluster.serve(&settings);
    cluster.run("pgbench", &["-n", "-c", "4", "-j", "2", "-t", "25000", "postgres"]);
    cluster.run("pg_ctl", &["stop", "-m", "immediate", "-w", "-D", data]);
    cluster.shell(&format!("mv {data} {data}-crashed"));
    let base = Base { files: &files, control: &control };
    let (mut theirs, mut one, mut two) = (Vec::new(), Vec::new(), Vec::new());
    let (mut records, mut bytes) = (0, 0);
    for _round in 0..ROUNDS {
        cluster.shell(&format!(
            "rm -rf {data}; cp -a {data}-base {data}; rm -rf {data}/pg_wal; cp -a {data}-crashed/pg_wal {data}/pg_wal;
             cp {data}-crashed/global/pg_control {data}/global/pg_control"
        ));
        let (start, wal) = cluster.wal();
        cluster.serve(&settings);
        let log = std::fs::read_to_string(format!("{data}/../log")).unwrap();
        theirs.push(recovery_time(&log));
        cluster.run("pg_ctl", &["stop", "-m", "immediate", "-w", "-D", data]);
        let from = control.checkpoint.redo;
        let wal = wal.get(usize::try_from(from.0 - start).unwrap()..).unwrap();
        let (time, replayed, end) = on_one_core(&base, wal);
        one.push(time);
        (records, bytes) = (replayed, end.bytes_since(from));
        two.push(on_two_cores(&base, wal));
    }
    println!("{name}: {records} records, {:.0} MB of WAL", bytes as f64 / 1e6);
    println!(
        "| | seconds (all rounds) | of processor | million records/s | MB/s | times PostgreSQL (by processor time) |"
    );
    println!("|---|--:|--:|--:|--:|--:|");
    let their = median(&theirs);
    for (who, all) in
        [("PostgreSQL 15", &theirs), ("Howdah, one core", &one), ("Howdah, two cores", &two)]
    {
        let Time { elapsed, processor } = median(all);
        let rounds: Vec<f64> = all.iter().map(|time| time.elapsed).collect();
        println!(
            "| {who} | {elapsed:.2} ({rounds:.2?}) | {processor:.2} | {:.2} | {:.0} | {:.1} ({:.1}) |",
            records as f64 / elapsed / 1e6,
            bytes as f64 / elapsed / 1e6,
            their.elapsed / elapsed,
            their.processor / processor,
        );
    }
    println!();
}

/// Seconds.
#[derive(Clone, Copy)]
struct Time {
    elapsed: f64,
    processor: f64,
}

/// Of each figure by itself.
fn median(rounds: &[Time]) -> Time {
    let middle = |figure: fn(&Time) -> f64| {
        let mut all: Vec<f64> = rounds.iter().map(figure).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    Time { elapsed: middle(|time| time.elapsed), processor: middle(|time| time.processor) }
}

/// `redo done at 0/5A2D810 system usage: CPU: user: 0.55 s, system: 0.07 s, elapsed: 0.63 s`.
fn recovery_time(log: &str) -> Time {
    let line = log.lines().find(|line| line.contains("redo done at")).unwrap();
    let seconds = |name: &str| -> f64 {
        let (_, rest) = line.split_once(name).unwrap();
        rest.split_once(" s").unwrap().0.parse().unwrap()
    };
    Time { elapsed: seconds("elapsed: "), processor: seconds("user: ") + seconds("system: ") }
}

/// What Postgres begins with.
struct Base<'b> {
    files: &'b [(String, Vec<u8>)],
    control: &'b ControlFile,
}

impl Base<'_> {
    fn load(&self) -> Replica {
        let mut replica = Replica::new(State::new(self.control), false);
        self.files.iter().for_each(|(path, bytes)| replica.load(path, bytes.clone()));
        replica
    }

    fn decoder(&self) -> StreamDecoder {
        let from = self.control.checkpoint.redo;
        StreamDecoder::at_record(from, self.control.segment_bytes).assume_version(WalVersion::V15)
    }
}

/// Everything that recovery does to a cluster, but for writing it: pages, transaction logs, sizes, counters.
fn on_one_core(base: &Base<'_>, mut wal: &[u8]) -> (Time, u64, Lsn) {
    let (mut replica, mut decoder) = (base.load(), base.decoder());
    let mut batch = Batch::default();
    let mut records = 0;
    let (begin, used) = (Instant::now(), processor_time());
    while decoder.next_batch(&mut wal, &mut batch).is_ok() && !batch.is_empty() {
        replica.apply_batch(&batch).unwrap();
        records += batch.len() as u64;
    }
    let elapsed = begin.elapsed().as_secs_f64();
    (Time { elapsed, processor: processor_time() - used }, records, decoder.end())
}

/// Both cores decode everything; each redoes its own blocks, the first follows the rest.
fn on_two_cores(base: &Base<'_>, wal: &[u8]) -> Time {
    let replicas = [base.load(), base.load()];
    let begin = Instant::now();
    let used = std::thread::scope(|scope| {
        let shares = (0_u32..).zip(replicas);
        let threads: Vec<_> = shares
            .map(|(index, replica)| {
                let decoder = base.decoder();
                scope.spawn(move || {
                    let used = processor_time();
                    share_of(index, replica, decoder, wal);
                    processor_time() - used
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    Time { elapsed: begin.elapsed().as_secs_f64(), processor: used }
}

fn share_of(index: u32, mut replica: Replica, mut decoder: StreamDecoder, mut wal: &[u8]) {
    let mut batch = Batch::default();
    while decoder.next_batch(&mut wal, &mut batch).is_ok() && !batch.is_empty() {
        let records: Vec<_> = batch.records().map(|raw| raw.decode().unwrap()).collect();
        let ours = |block: &&Block<'_>| block.number % 2 == index;
        let blocks = records.iter().flat_map(|record| record.blocks.iter());
        replica.pages.warm(blocks.filter(ours).map(|block| (block.tag, block.number)));
        for record in &records {
            for block in record.blocks.iter().filter(ours) {
                let page = replica.pages.get_or_zero(block.tag, block.number).unwrap();
                redo(record, block.id, page, replica.options).unwrap();
            }
            if index == 0 {
                replica.apply_effects(record).unwrap();
            }
        }
    }
}

/// Seconds that this thread was on a processor: the first figure is in nanoseconds.
fn processor_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let used: f64 = stat.split(' ').next().unwrap().parse().unwrap();
    used / 1e9
}
