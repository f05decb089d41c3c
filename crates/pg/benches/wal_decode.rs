//! How fast the WAL of pgbench is decoded: `cargo bench -p pg --bench wal_decode`.
//!
//! A throw-away Postgres 15 writes the WAL (TPC-B, four clients, full page writes on), then one core
//! decodes it from memory, several times; the best time of each way counts. Prints MB/s and records/s.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]
#![expect(clippy::disallowed_types, reason = "measures real time")]

#[expect(dead_code, reason = "shared with the tests, which use all of it")]
#[path = "../tests/it/cluster.rs"]
mod cluster;

use std::hint::black_box;
use std::time::{Duration, Instant};

use cluster::Cluster;
use pg::lsn::Lsn;
use pg::redo::effects::effects;
use pg::redo::visibility::implied_vm_clears;
use pg::wal::reader::StreamDecoder;
use pg::wal::record::RawRecord;
use pg::wal::segment::SEGMENT_BYTES_DEFAULT;

const ROUNDS: u32 = 7;

fn main() {
    let mut cluster =
        Cluster::start(&[], &["max_wal_size=16GB", "checkpoint_timeout=1d", "wal_keep_size=16GB"]);
    cluster.run("pgbench", &["-i", "-q", "-s", "10", "postgres"]);
    cluster.sql("CHECKPOINT");
    let from: Lsn = cluster.sql("SELECT pg_current_wal_lsn()").trim().parse().unwrap();
    cluster.run("pgbench", &["-n", "-c", "4", "-j", "2", "-t", "15000", "postgres"]);
    let until: Lsn = cluster.sql("SELECT pg_current_wal_insert_lsn()").trim().parse().unwrap();
    cluster.stop();
    let (start, wal) = cluster.wal();
    let offset = |lsn: Lsn| usize::try_from(lsn.0 - start).unwrap();
    let wal = wal.get(offset(from)..offset(until)).unwrap();

    measure("records, checksums verified", wal, from, |record| {
        black_box(record.lsn);
    });
    measure("block references listed", wal, from, |record| {
        for block in record.block_refs() {
            black_box(block.unwrap().number);
        }
    });
    measure("decoded, with effects", wal, from, |record| {
        let record = record.decode().unwrap();
        black_box(effects(&record).unwrap().len());
        black_box(implied_vm_clears(&record).count());
    });
}

fn measure(name: &str, wal: &[u8], from: Lsn, mut each: impl FnMut(&RawRecord<'_>)) {
    let mut best = Duration::MAX;
    let mut records = 0_u32;
    for _round in 0..ROUNDS {
        records = 0;
        let begin = Instant::now();
        let mut decoder = StreamDecoder::resync(from, SEGMENT_BYTES_DEFAULT);
        // In the pieces in which a server streams it.
        for mut piece in wal.chunks(128 << 10) {
            while let Some(record) = decoder.next(&mut piece).unwrap() {
                each(&record);
                records += 1;
            }
        }
        best = best.min(begin.elapsed());
    }
    let seconds = best.as_secs_f64();
    let bytes = f64::from(u32::try_from(wal.len()).unwrap());
    println!(
        "{name}: {:.0} MB/s, {:.2} million records/s ({:.0} MB, {records} records)",
        bytes / seconds / 1e6,
        f64::from(records) / seconds / 1e6,
        bytes / 1e6,
    );
}
