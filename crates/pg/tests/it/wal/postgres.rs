//! Every record of a server's WAL decodes to what `pg_waldump` says.

use std::collections::BTreeMap;
use std::fmt::Write;

use pg::lsn::Lsn;
use pg::redo::effects::effects;
use pg::wal::reader::StreamDecoder;
use pg::wal::record::Record;

use crate::cluster::{Cluster, programs};
use crate::workload;

const SEGMENT: u32 = 1 << 20;
const SEGMENT_OF_1_MB: &[&str] = &["--wal-segsize", "1"];

#[test]
fn decodes_what_pg_waldump_decodes() {
    compare_with_waldump(Cluster::create(SEGMENT_OF_1_MB));
}

#[test]
fn decodes_what_pg_waldump_17_decodes() {
    compare_another_major(17);
}

#[test]
fn decodes_what_pg_waldump_16_decodes() {
    compare_another_major(16);
}

#[test]
fn decodes_what_pg_waldump_18_decodes() {
    compare_another_major(18);
}

/// Nothing to do where that major is not here.
fn compare_another_major(major: u32) {
    let Some(binaries) = programs(major) else { return };
    compare_with_waldump(Cluster::create_with(binaries, SEGMENT_OF_1_MB));
}

fn compare_with_waldump(mut cluster: Cluster) {
    cluster.serve(workload::SETTINGS);
    workload::run(&cluster);
    cluster.stop();
    let (start, bytes) = cluster.wal();
    let (ours, kinds) = decode_all(&bytes, start);
    let theirs = waldump(&cluster, start);
    for (number, (our, their)) in ours.iter().zip(&theirs).enumerate() {
        assert_eq!(our, their, "record {number}");
    }
    // pg_waldump goes on to the same end of WAL.
    assert_eq!(ours.len(), theirs.len());
    assert!(ours.len() > 20_000, "{}", ours.len());
    for (kind, count) in &kinds {
        println!("{kind} {count}");
    }
    println!("{} records of {} kinds", ours.len(), kinds.len());
    assert!(kinds.len() > 80, "{}", kinds.len());
}

/// Feeds the WAL in odd pieces; a line per record in `pg_waldump`'s form.
fn decode_all(bytes: &[u8], start: u64) -> (Vec<String>, BTreeMap<String, u32>) {
    let mut decoder = StreamDecoder::resync(Lsn(start), SEGMENT);
    let mut lines = Vec::new();
    let mut kinds = BTreeMap::new();
    let mut sizes = [1, 7, 8191, 65_536, 13, 100_000].into_iter().cycle();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (mut piece, later) = rest.split_at(sizes.next().unwrap().min(rest.len()));
        rest = later;
        loop {
            match decoder.next(&mut piece) {
                Ok(Some(raw)) => {
                    let refs: Result<Vec<_>, _> = raw.block_refs().collect();
                    let record = raw.decode().unwrap();
                    let decoded: Vec<_> = record.blocks.iter().map(|b| b.block_ref()).collect();
                    assert_eq!(refs.unwrap(), decoded);
                    effects(&record).unwrap();
                    assert!(record.kind().name().is_some(), "{}", record.kind());
                    *kinds.entry(record.kind().to_string()).or_insert(0) += 1;
                    lines.push(line(&record));
                }
                Ok(None) => break,
                Err(error) => {
                    assert!(error.is_end_of_wal(), "{error}");
                    println!("end of WAL: {error}");
                    return (lines, kinds);
                }
            }
        }
    }
    (lines, kinds)
}

fn line(record: &Record<'_>) -> String {
    let mut line = format!(
        "rmgr: {:<11} len (rec/tot): {:6}/{:6}, tx: {:10}, lsn: {}, prev {}, desc: {}",
        record.rmgr().to_string(),
        record.length_without_images(),
        record.header.total_length,
        record.header.xid,
        waldump_lsn(record.lsn),
        waldump_lsn(record.header.previous),
        record.kind().name().unwrap_or("UNKNOWN"),
    );
    for block in &record.blocks {
        write!(line, ", blkref #{}: rel {} blk {}", block.id, block.tag, block.number).unwrap();
        if let Some(image) = &block.image {
            line.push_str(if image.apply { " FPW" } else { " FPW for WAL verification" });
        }
    }
    line
}

fn waldump_lsn(lsn: Lsn) -> String {
    format!("{:X}/{:08X}", lsn.0 >> 32, lsn.0 & 0xFFFF_FFFF)
}

/// `pg_waldump`'s lines without the description's details, which stand between name and block references.
fn waldump(cluster: &Cluster, start: u64) -> Vec<String> {
    let directory = cluster.data().join("pg_wal");
    let from = waldump_lsn(Lsn(start));
    // It ends with an error, as there is no more WAL; its complaint goes to standard error.
    let program = cluster.program("pg_waldump");
    let script = format!("{} -p {} -s {from} || true", program.display(), directory.display());
    let text = cluster.shell(&script);
    text.lines()
        .map(|line| {
            let (head, description) = line.split_once(", desc: ").unwrap();
            let (name, details) = description.split_once(' ').unwrap_or((description, ""));
            let name = name.trim_end_matches(',');
            let blocks = details.find("blkref #").map_or("", |at| details.split_at(at).1);
            let separator = if blocks.is_empty() { "" } else { ", " };
            format!("{head}, desc: {name}{separator}{blocks}")
        })
        .collect()
}
