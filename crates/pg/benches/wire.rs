//! How fast streams are cut and statements renamed: `cargo bench -p pg --bench wire`.
//!
//! Each splitter benchmark goes over a stream in reads of 16 KiB, as the relays do; throughput is
//! shown in bytes and in messages per second.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pg::oid::Oid;
use pg::wire::backend::{self, Field, TransactionStatus, kind};
use pg::wire::frontend::{self, BindHead, Format, rewrite};
use pg::wire::stream::{BACKEND, FRONTEND, KindLimits, Splitter};

const READ_BYTES: usize = 16 * 1024;
const STREAM_BYTES: usize = 1 << 20;

/// What `pgbench -S` gets for each query.
fn pgbench_reply(out: &mut Vec<u8>) {
    backend::write::row_description(out, &[Field::text(b"abalance", Oid::INT4, 4)]);
    backend::write::data_row(out, &[Some(b"-12345")]);
    backend::write::command_complete(out, "SELECT 1");
    backend::write::ready_for_query(out, TransactionStatus::Idle);
}

/// What `pgbench -S -M prepared` sends for each query.
fn pgbench_prepared(out: &mut Vec<u8>) {
    frontend::write::bind(out, "", "P_0", &[], &[Some(b"123456")], &[Format::Text]);
    frontend::write::describe(out, frontend::Target::Portal(b""));
    frontend::write::execute(out, "", 0);
    frontend::write::sync(out);
}

/// A row of about a hundred bytes.
fn row(out: &mut Vec<u8>) {
    backend::write::data_row(out, &[Some(b"1234567"), None, Some(&[b'x'; 84])]);
}

/// A block of a binary copy.
fn copy_block(out: &mut Vec<u8>) {
    backend::write::copy_data(out, &[7; 8192]);
}

fn stream(part: fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut stream = Vec::new();
    while stream.len() < STREAM_BYTES {
        part(&mut stream);
    }
    stream
}

/// Does what a relay does: looks for the messages that it must understand.
fn relay(stream: &[u8], limits: &KindLimits) -> (u64, u64) {
    let mut splitter = Splitter::new();
    let (mut messages, mut ready) = (0, 0);
    for read in stream.chunks(READ_BYTES) {
        for piece in splitter.split(read, limits).map_while(Result::ok) {
            messages += u64::from(piece.begins());
            ready += u64::from(piece.kind == kind::READY_FOR_QUERY);
        }
    }
    (messages, ready)
}

fn split(c: &mut Criterion) {
    type Part = fn(&mut Vec<u8>);
    let cases: [(&str, Part, &KindLimits); 4] = [
        ("pgbench replies", pgbench_reply, &BACKEND),
        ("pgbench prepared queries", pgbench_prepared, &FRONTEND),
        ("rows of 100 bytes", row, &BACKEND),
        ("copy blocks of 8 KiB", copy_block, &BACKEND),
    ];
    for (name, part, limits) in cases {
        let stream = stream(part);
        let (messages, _) = relay(&stream, limits);
        let bytes = u64::try_from(stream.len()).expect("a stream of a megabyte");
        let throughputs =
            [("bytes", Throughput::Bytes(bytes)), ("messages", Throughput::Elements(messages))];
        for (unit, throughput) in throughputs {
            let mut group = c.benchmark_group(format!("split/{unit}"));
            group.throughput(throughput);
            group.bench_function(name, |b| b.iter(|| relay(black_box(&stream), limits)));
            group.finish();
        }
    }
}

fn rename(c: &mut Criterion) {
    let mut message = Vec::new();
    frontend::write::bind(&mut message, "", "P_0", &[], &[Some(b"123456")], &[Format::Text]);
    let body = message.get(5..).expect("a header and a body").to_vec();
    let mut out = Vec::with_capacity(256);
    c.bench_function("rename/bind", |b| {
        b.iter(|| {
            out.clear();
            rewrite::bind(&mut out, black_box(&body), b"howdah_17").expect("a Bind");
            out.len()
        });
    });
    c.bench_function("read/bind head", |b| {
        b.iter(|| BindHead::read(black_box(&body)).expect("a Bind").bytes);
    });
    c.bench_function("read/whole bind", |b| {
        b.iter(|| frontend::Bind::read(black_box(&body)).expect("a Bind").values().len());
    });
}

criterion_group!(benches, split, rename);
criterion_main!(benches);
