//! How fast pages are rebuilt from the WAL of pgbench: `cargo bench -p pg --bench redo`.
//!
//! A throw-away Postgres 15 writes WAL without page images; one core then applies every record to the pages
//! it names, all in memory. Prints records/s over all, and per kind the time of one application.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]
#![expect(clippy::disallowed_types, reason = "measures real time")]

#[expect(dead_code, reason = "shared with the tests, which use all of it")]
#[path = "../tests/it/cluster.rs"]
mod cluster;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cluster::Cluster;
use pg::datadir::control::ControlFile;
use pg::datadir::layout::RelationFile;
use pg::datadir::relation::RelTag;
use pg::page::{PAGE_BYTES, PageBytes};
use pg::redo::{Options, Outcome, redo};
use pg::wal::reader::StreamDecoder;
use pg::wal::segment::WalVersion;

type Pages = BTreeMap<(RelTag, u32), Box<PageBytes>>;

fn main() {
    let mut cluster = Cluster::create(&[]);
    let settings = [
        "max_wal_size=16GB",
        "wal_keep_size=16GB",
        "checkpoint_timeout=1d",
        "full_page_writes=off",
    ];
    cluster.serve(&settings);
    cluster.run("pgbench", &["-i", "-q", "-s", "2", "postgres"]);
    cluster.stop();
    let files = cluster.files();
    let control = files.iter().find(|file| file.0 == "global/pg_control").unwrap();
    let control = ControlFile::parse(&control.1).unwrap();
    let mut pages = load(&files);
    cluster.serve(&settings);
    cluster.run("pgbench", &["-n", "-c", "4", "-j", "2", "-t", "15000", "postgres"]);
    cluster.stop();

    let (start, wal) = cluster.wal();
    let from = control.checkpoint.redo;
    let mut input = wal.get(usize::try_from(from.0 - start).unwrap()..).unwrap();
    let mut decoder =
        StreamDecoder::at_record(from, control.segment_bytes).assume_version(WalVersion::V15);
    let mut kinds: BTreeMap<String, (u32, Duration)> = BTreeMap::new();
    let mut total = (0_u32, Duration::ZERO);
    while let Ok(Some(raw)) = decoder.next(&mut input) {
        let record = raw.decode().unwrap();
        for block in &record.blocks {
            let page = pages.entry((block.tag, block.number)).or_insert_with(empty);
            let begin = Instant::now();
            let outcome = redo(&record, block.id, page, Options::default());
            let spent = begin.elapsed();
            if outcome == Ok(Outcome::Applied) {
                let kind = kinds.entry(record.kind().to_string()).or_default();
                kind.0 += 1;
                kind.1 += spent;
                total.0 += 1;
                total.1 += spent;
            }
        }
    }
    for (kind, (count, spent)) in &kinds {
        let nanoseconds = spent.as_secs_f64() * 1e9 / f64::from(*count);
        println!("{kind}: {nanoseconds:.0} ns each ({count}; a clock read of some 25 ns included)");
    }
    let (count, spent) = total;
    let rate = f64::from(count) / spent.as_secs_f64() / 1e6;
    println!("all: {rate:.2} million blocks/s ({count})");
}

fn load(files: &[(String, Vec<u8>)]) -> Pages {
    let mut pages = Pages::new();
    for (path, bytes) in files {
        let Some(file) = RelationFile::parse(path) else { continue };
        for (number, page) in (0..).zip(bytes.as_chunks::<PAGE_BYTES>().0) {
            pages.insert((file.tag, number), Box::new(*page));
        }
    }
    pages
}

fn empty() -> Box<PageBytes> {
    Box::new([0; PAGE_BYTES])
}
