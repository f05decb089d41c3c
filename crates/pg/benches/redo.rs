//! How fast pages are rebuilt from records that a server wrote: `cargo bench -p pg --bench redo`.
//!
//! A throw-away Postgres 15 writes WAL without page images: rows inserted, rows updated in place (HOT), keys inserted
//! in no order. From it are taken, for each kind of record, pages with the 60 records of that kind that follow one
//! another on them. One core then rebuilds every such page from its first version:
//!
//! - "redo": the records are decoded already,
//! - "a page": from the records' bytes, as a page server does it; the first version is copied, too.
//!
//! The best of several rounds.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]
#![expect(clippy::disallowed_types, reason = "measures real time")]

#[expect(dead_code, reason = "shared with the tests, which use all of it")]
#[path = "../tests/it/cluster.rs"]
mod cluster;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

use cluster::Cluster;
use pg::datadir::control::ControlFile;
use pg::datadir::relation::RelTag;
use pg::lsn::Lsn;
use pg::page::PageBytes;
use pg::redo::{Options, redo};
use pg::replay::Replica;
use pg::state::State;
use pg::wal::reader::StreamDecoder;
use pg::wal::record::{RawRecord, Record};
use pg::wal::segment::WalVersion;

const KINDS: [&str; 3] = ["Heap/INSERT", "Heap/HOT_UPDATE", "Btree/INSERT_LEAF"];
/// Records on each page, as the target has it.
const CHAIN: usize = 60;
/// Pages of each kind: few enough that a round is over before the machine does something else.
const PAGES: usize = 200;
const ROUNDS: usize = 300;

const WORKLOAD: &str = "
CREATE TABLE rows (a int, b text);
INSERT INTO rows SELECT i, 'some text of a usual length ' || i FROM generate_series(1, 300000) i;
CREATE TABLE counters (a int PRIMARY KEY, n int) WITH (fillfactor = 45);
INSERT INTO counters SELECT i, 0 FROM generate_series(1, 300000) i;
UPDATE counters SET n = n + 1;
CREATE TABLE keys (a int);
CREATE INDEX ON keys (a);
INSERT INTO keys SELECT i * 7919::bigint % 1000003 FROM generate_series(1, 500000) i;
";

/// A page, and the records of one kind that follow on it.
struct Chain {
    page: Box<PageBytes>,
    block_id: u8,
    records: Vec<(Lsn, Lsn, Vec<u8>)>,
}

fn main() {
    let mut cluster = Cluster::create(&[]);
    let settings = [
        "max_wal_size=16GB",
        "wal_keep_size=16GB",
        "checkpoint_timeout=1d",
        "full_page_writes=off",
        "autovacuum=off",
    ];
    let files = cluster.files();
    cluster.serve(&settings);
    cluster.sql(WORKLOAD);
    cluster.stop();
    let chains = chains(&cluster, &files);
    println!(
        "| records | redo, million/s | a page of {CHAIN} records, us | pages |\n|---|--:|--:|--:|"
    );
    for kind in KINDS {
        let chains = &chains[kind];
        let redo_seconds = best(|| redo_decoded(chains));
        let page_seconds = best(|| rebuild(chains));
        println!(
            "| {kind} | {:.2} | {:.1} | {} |",
            (chains.len() * CHAIN) as f64 / redo_seconds / 1e6,
            page_seconds / chains.len() as f64 * 1e6,
            chains.len(),
        );
    }
}

fn chains(cluster: &Cluster, base: &[(String, Vec<u8>)]) -> BTreeMap<String, Vec<Chain>> {
    let control = base.iter().find(|file| file.0 == "global/pg_control").unwrap();
    let control = ControlFile::parse(&control.1).unwrap();
    let mut replica = Replica::new(State::new(&control), false);
    base.iter().for_each(|(path, bytes)| replica.load(path, bytes.clone()));
    let (start, wal) = cluster.wal();
    let from = control.checkpoint.redo;
    let mut input = wal.get(usize::try_from(from.0 - start).unwrap()..).unwrap();
    let mut decoder =
        StreamDecoder::at_record(from, control.segment_bytes).assume_version(WalVersion::V15);
    let mut open: BTreeMap<(RelTag, u32), (String, Chain)> = BTreeMap::new();
    let mut whole: BTreeMap<String, Vec<Chain>> = BTreeMap::new();
    while let Ok(Some(raw)) = decoder.next(&mut input) {
        let record = raw.decode().unwrap();
        let kind = record.kind().to_string();
        for block in &record.blocks {
            let key = (block.tag, block.number);
            if open.get(&key).is_some_and(|open| open.0 != kind) {
                open.remove(&key);
            }
            if !KINDS.contains(&kind.as_str()) || record.blocks.len() > 1 {
                continue;
            }
            let page = replica.pages.get_or_zero(block.tag, block.number).unwrap();
            let begin = || Chain { page: Box::new(*page), block_id: block.id, records: Vec::new() };
            let (_, chain) = open.entry(key).or_insert_with(|| (kind.clone(), begin()));
            chain.records.push((raw.lsn, raw.end_lsn, raw.bytes.to_vec()));
            if chain.records.len() == CHAIN {
                let (_, chain) = open.remove(&key).unwrap();
                let of_kind = whole.entry(kind.clone()).or_default();
                if of_kind.len() < PAGES {
                    of_kind.push(chain);
                }
            }
        }
        replica.apply(&record).unwrap();
    }
    whole
}

fn best(mut round: impl FnMut() -> f64) -> f64 {
    (0..ROUNDS).map(|_| round()).fold(f64::MAX, f64::min)
}

fn raw(record: &(Lsn, Lsn, Vec<u8>)) -> RawRecord<'_> {
    let (lsn, end_lsn, bytes) = record;
    RawRecord::new(bytes, *lsn, *end_lsn, WalVersion::V15).unwrap()
}

fn redo_decoded(chains: &[Chain]) -> f64 {
    let decoded: Vec<Vec<Record<'_>>> = chains
        .iter()
        .map(|chain| chain.records.iter().map(|record| raw(record).decode().unwrap()).collect())
        .collect();
    let begin = Instant::now();
    for (chain, records) in chains.iter().zip(&decoded) {
        let mut page = chain.page.clone();
        for record in records {
            redo(record, chain.block_id, &mut page, Options::default()).unwrap();
        }
        black_box(&page);
    }
    begin.elapsed().as_secs_f64()
}

fn rebuild(chains: &[Chain]) -> f64 {
    let begin = Instant::now();
    for chain in chains {
        let mut page = chain.page.clone();
        for record in &chain.records {
            let record = raw(record).decode().unwrap();
            redo(&record, chain.block_id, &mut page, Options::default()).unwrap();
        }
        black_box(&page);
    }
    begin.elapsed().as_secs_f64()
}
