//! Replay of the WAL of pgbench, beside Postgres' own crash recovery of it: `cargo bench -p pg --bench recovery`.
//!
//! 1. A throw-away Postgres 15 (in TMPDIR: name a tmpfs) is filled by pgbench, stopped and copied: the base.
//! 2. pgbench runs on it; then it is stopped as by a crash.
//! 3. Postgres recovers the base with that WAL: its own log says how long redo took.
//! 4. One core of ours decodes the same WAL and redoes every record on the base's pages, all in memory.
//!
//! Three rounds of 3 and 4 in turn; prints all of them and the ratio of the medians, as markdown.
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

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Instant;

use cluster::Cluster;
use pg::datadir::control::ControlFile;
use pg::datadir::layout::{RelationFile, SEGMENT_BLOCKS};
use pg::datadir::relation::RelTag;
use pg::page::{PAGE_BYTES, PageBytes};
use pg::redo::effects::effects;
use pg::redo::{Options, redo};
use pg::state::State;
use pg::wal::reader::StreamDecoder;
use pg::wal::segment::WalVersion;

const SETTINGS: [&str; 6] = [
    "max_wal_size=64GB",
    "wal_keep_size=64GB",
    "checkpoint_timeout=1d",
    "shared_buffers=512MB",
    "synchronous_commit=off",
    "autovacuum=off",
];
const ROUNDS: usize = 3;

type Base<'f> = HashMap<(RelTag, u32), &'f [PageBytes], BuildHasherDefault<Mix>>;
type Pages = HashMap<(RelTag, u32), Box<PageBytes>, BuildHasherDefault<Mix>>;

/// One multiplication a word, as of a hash table whose keys nobody chooses.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517C_C1B7_2722_0A95);
    }
}

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
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    let mut replayed = Replayed::default();
    for _round in 0..ROUNDS {
        cluster.shell(&format!(
            "rm -rf {data}; cp -a {data}-base {data}; rm -rf {data}/pg_wal; cp -a {data}-crashed/pg_wal {data}/pg_wal;
             cp {data}-crashed/global/pg_control {data}/global/pg_control"
        ));
        let wal = cluster.wal();
        cluster.serve(&settings);
        let log = std::fs::read_to_string(format!("{data}/../log")).unwrap();
        theirs.push(elapsed(&log));
        cluster.run("pg_ctl", &["stop", "-m", "immediate", "-w", "-D", data]);
        replayed = replay(&files, &control, &wal);
        ours.push(replayed.seconds);
    }
    let Replayed { records, megabytes, .. } = replayed;
    theirs.sort_by(f64::total_cmp);
    ours.sort_by(f64::total_cmp);
    let (their, our) = (theirs[ROUNDS / 2], ours[ROUNDS / 2]);
    println!("{name}: {records} records, {megabytes:.0} MB of WAL");
    println!("| | seconds (all rounds) | million records/s | MB/s |\n|---|---|---|---|");
    for (who, all, seconds) in [("PostgreSQL 15", &theirs, their), ("Howdah, one core", &ours, our)]
    {
        let rate = records as f64 / seconds / 1e6;
        println!("| {who} | {seconds:.2} ({all:.2?}) | {rate:.2} | {:.0} |", megabytes / seconds);
    }
    println!("ratio: {:.1}\n", their / our);
}

/// `redo done at 0/5A2D810 system usage: CPU: user: 0.55 s, system: 0.07 s, elapsed: 0.63 s`.
fn elapsed(log: &str) -> f64 {
    let line = log.lines().find(|line| line.contains("redo done at")).unwrap();
    let (_, seconds) = line.rsplit_once("elapsed: ").unwrap();
    seconds.trim_end_matches(" s").parse().unwrap()
}

#[derive(Default)]
struct Replayed {
    seconds: f64,
    records: u64,
    megabytes: f64,
}

/// Everything that recovery does to the state, but for writing it: pages, transaction logs, sizes, counters.
fn replay(files: &[(String, Vec<u8>)], control: &ControlFile, wal: &(u64, Vec<u8>)) -> Replayed {
    let mut base = Base::default();
    let mut state = State::new(control);
    for (path, bytes) in files {
        state.load(path, bytes);
        if let Some(file) = RelationFile::parse(path) {
            base.insert((file.tag, file.segment), bytes.as_chunks::<PAGE_BYTES>().0);
        }
    }
    let mut pages = Pages::default();
    let from = control.checkpoint.redo;
    let skipped = usize::try_from(from.0 - wal.0).unwrap();
    let mut input = &wal.1[skipped..];
    let mut decoder =
        StreamDecoder::at_record(from, control.segment_bytes).assume_version(WalVersion::V15);
    let mut records = 0;
    let begin = Instant::now();
    while let Ok(Some(raw)) = decoder.next(&mut input) {
        let record = raw.decode().unwrap();
        for block in &record.blocks {
            let page = pages.entry((block.tag, block.number)).or_insert_with(|| {
                let (segment, at) = (block.number / SEGMENT_BLOCKS, block.number % SEGMENT_BLOCKS);
                let file = base.get(&(block.tag, segment)).copied().unwrap_or_default();
                Box::new(file.get(at as usize).copied().unwrap_or([0; PAGE_BYTES]))
            });
            redo(&record, block.id, page, Options::default()).unwrap();
        }
        debug_assert!(effects(&record).is_ok());
        state.apply(&record).unwrap();
        records += 1;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let megabytes = (decoder.end().0 - from.0) as f64 / 1e6;
    assert!(!pages.is_empty());
    Replayed { seconds, records, megabytes }
}
