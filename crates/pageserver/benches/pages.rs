//! How fast the page server takes in WAL and answers, and what it keeps: `cargo xtask bench pages`.
//!
//! A PostgreSQL of its own runs pgbench while nobody follows; then `pg_receivewal` and the page server receive the same
//! WAL from it, one after the other. What is measured is printed as a table in Markdown.

#[path = "../tests/it/cluster.rs"]
#[expect(dead_code, reason = "shared with the tests, which use all of it")]
mod cluster;
#[path = "../tests/it/service.rs"]
#[expect(dead_code, reason = "shared with the tests, which use all of it")]
mod service;

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use pageserver::api::{Phase, Status};
use pageserver::branches::At;
use pageserver::catalog::Catalog;
use pageserver::index::{Effect, Index, Position};
use pageserver::keys;
use pageserver::limits::BATCH_BLOCKS_MAX;
use pageserver::server::Server;
use pageserver::settings::Settings;
use pageserver::timeline::Timeline;
use pg::datadir::relation::{Fork, RelNode, RelTag};
use pg::lsn::Lsn;
use runtime::clock;
use runtime::random::Rng;
use storage::layer::{self, Kind, LayerInfo, Place};
use storage::manifest::{Facts, Log, Manifest};
use storage::store::TimelineStore;
use storage::version::Version;

use crate::cluster::{Cluster, Folder};
use crate::service::{Service, block_on};

/// Layers of a large timeline.
const LAYERS: u64 = 100_000;
/// Pages of a database of 100 GB.
const MANY_PAGES: u32 = 100 * (1 << 17);

/// How much work.
struct Size {
    scale: &'static str,
    transactions: &'static str,
    reads: u64,
}

const WHOLE: Size = Size { scale: "20", transactions: "20000", reads: 20_000 };
const QUICK: Size = Size { scale: "5", transactions: "2000", reads: 2_000 };

fn main() {
    let has = |option: &str| std::env::args().any(|argument| argument == option);
    let size = if has("--quick") { QUICK } else { WHOLE };
    // What is resident is measured before anything else has left free memory behind.
    let simulated = if has("--ingest") { Vec::new() } else { many_keys() };
    say("| what | | |");
    say("|---|--:|---|");
    with_postgres(&size, has("--ingest"));
    if !has("--ingest") {
        many_layers();
        many_relations();
        simulated.iter().for_each(|row| say(row));
    }
}

#[expect(clippy::print_stdout, reason = "a benchmark reports")]
fn say(line: &str) {
    println!("{line}");
}

fn row(what: &str, figure: &str, remark: &str) {
    say(&row_of(what, figure, remark));
}

fn row_of(what: &str, figure: &str, remark: &str) -> String {
    format!("| {what} | {figure} | {remark} |")
}

fn with_postgres(size: &Size, is_ingest_all: bool) {
    let settings = [
        "shared_buffers = 256MB",
        "max_wal_size = 8GB",
        "checkpoint_timeout = 5min",
        "wal_keep_size = 16GB",
    ];
    let cluster = Cluster::start("bench", &[], &settings);
    cluster.pgbench(&["-i", "-s", size.scale, "-q"]);
    let folder = Folder::new("bench-ps");
    let settings = Settings {
        checkpoint_bytes: 64 << 20,
        // So that all is in layers soon after the end.
        checkpoint_timeout_ms: 5000,
        retention_seconds: 0,
        page_cache_bytes: 256 << 20,
        ..service::settings(folder.path(), cluster.socket())
    };
    let service = Service::start(settings.clone());
    service.wait_streaming();
    service.wait_lsn(lsn(&cluster));
    service.stop();
    cluster.sql("SELECT pg_create_physical_replication_slot('receivewal', true)");
    let start = lsn(&cluster);
    cluster.pgbench(&["-c", "8", "-j", "2", "-t", size.transactions]);
    let end = lsn(&cluster);
    let wal = end.bytes_since(start);
    row("WAL of pgbench", &mib(wal), &format!("scale {}, 8 clients", size.scale));
    receive_with_postgres(&cluster, end, wal);
    receive(&cluster, &settings, end, wal);
    if is_ingest_all {
        return;
    }
    let accounts = accounts(&cluster);
    read_in_process(&settings, accounts, size.reads);
    read_over_loopback(&settings, accounts, size.reads);
}

/// What PostgreSQL's own program takes for the same, syncing what it acknowledges.
fn receive_with_postgres(cluster: &Cluster, end: Lsn, wal: u64) {
    let target = cluster.make_folder("receivewal");
    let (begin, cpu) = (clock::precise(), cpu_of_children());
    let end = end.to_string();
    cluster.receivewal(&target, &["-S", "receivewal", "--synchronous", "--no-loop", "-E", &end]);
    let (taken, cpu) = (clock::precise() - begin, cpu_of_children() - cpu);
    let remark = format!("{} of CPU time; synced", rate(wal, cpu));
    row("pg_receivewal --synchronous", &rate(wal, taken), &remark);
}

/// The page server takes it in, into layers; then all that is written and kept is counted, once it has come to rest.
fn receive(cluster: &Cluster, settings: &Settings, end: Lsn, wal: u64) {
    block_on(async {
        let (begin, cpu, written) = (clock::precise(), cpu_of_process(), bytes_written());
        let server = Server::start(settings.clone()).expect("it starts");
        let timeline = streaming(&server).await;
        let before = server.status();
        timeline.grows_beyond(Lsn(end.0 - 1)).await;
        let (taken, busy) = (clock::precise() - begin, cpu_of_process() - cpu);
        let remark = format!("{} of CPU time; synced, indexed, into layers", rate(wal, busy));
        row("page server", &rate(wal, taken), &remark);
        let after = at_rest(&server).await;
        let busy = cpu_of_process() - cpu;
        let remark = "of CPU time, until all is in layers and those are merged";
        row("page server, in all", &rate(wal, busy), remark);
        let layered = |status: &Status| {
            let text = status.layered_lsn.as_ref();
            text.and_then(|text| text.parse::<Lsn>().ok()).expect("it tells")
        };
        let wal = layered(&after).bytes_since(layered(&before)) as f64;
        let written = (bytes_written() - written) as f64 / wal;
        let layers = after.layer_bytes_written.saturating_sub(before.layer_bytes_written);
        let layers = layers as f64 / wal;
        let remark = format!("given to the disk by the process; {layers:.2} of it are layers");
        row("write amplification", &format!("{written:.2}"), &remark);
        let kept = after.layer_bytes.saturating_sub(before.layer_bytes) as f64 / wal;
        let raw = after.layer_raw_bytes.saturating_sub(before.layer_raw_bytes) as f64 / wal;
        let remark = format!("layers, after compaction, all history; {raw:.2} before zstd");
        row("bytes kept per byte of WAL", &format!("{kept:.2}"), &remark);
        server.stop().await;
    });
    cluster.sql("SELECT pg_drop_replication_slot('receivewal')");
}

/// The status once all is in layers and nothing has been written for a while.
async fn at_rest(server: &Server) -> Status {
    let mut before = (0, 0);
    loop {
        clock::sleep(Duration::from_secs(2)).await;
        let status = server.status();
        let now = (status.layer_bytes_written, status.level0_layers);
        if status.layered_lsn == status.ingested_lsn && now == before {
            return status;
        }
        before = now;
    }
}

/// The main fork of `pgbench_accounts`.
fn accounts(cluster: &Cluster) -> RelTag {
    let path = cluster.sql("SELECT pg_relation_filepath('pgbench_accounts')");
    let mut numbers = path.split('/').skip(1).map(|part| part.parse().expect("an OID"));
    let (database, relation) = (numbers.next().expect("one"), numbers.next().expect("another"));
    RelNode::new(1663, database, relation).fork(Fork::Main)
}

/// Reads in the process: first from layers, then from the cache; and branches.
fn read_in_process(settings: &Settings, tag: RelTag, reads: u64) {
    block_on(async {
        let server = Server::start(settings.clone()).expect("it starts");
        let timeline = streaming(&server).await;
        let lsn = timeline.ingested();
        let blocks = u64::from(timeline.blocks(tag, lsn).expect("it is there"));
        let mut rng = Rng::seeded(1);
        let some = (0..reads.min(blocks / 2)).map(|_| rng.below(blocks));
        let some: Vec<u32> = some.map(|block| u32::try_from(block).expect("a block")).collect();
        for (what, remark) in [
            ("GetPage in process, cold", "no layer open; the kernel may have their blocks"),
            ("GetPage in process, warm", "the same pages again"),
        ] {
            let mut times = Vec::new();
            for &block in &some {
                let begin = clock::precise();
                timeline.page(tag, block, lsn).await.expect("it can be read");
                times.push(clock::precise() - begin);
            }
            row(what, &percentiles(times), remark);
        }
        let branches = server.follower().branches().expect("they are open");
        let mut times = Vec::new();
        for number in 0..20 {
            let begin = clock::precise();
            let made = branches.create(&format!("branch{number}"), "main", At::Latest).await;
            made.expect("it can be made");
            times.push(clock::precise() - begin);
        }
        row("making a branch", &percentiles(times), "durable; 20 of them");
        server.stop().await;
    });
}

async fn streaming(server: &Server) -> Rc<Timeline> {
    loop {
        clock::sleep(Duration::from_millis(20)).await;
        let timeline = server.follower().timeline();
        if let Some(timeline) = timeline.filter(|_| server.status().phase == Phase::Streaming) {
            return timeline;
        }
    }
}

fn read_over_loopback(settings: &Settings, tag: RelTag, reads: u64) {
    let service = Service::start(settings.clone());
    service.wait_streaming();
    let address = service.address;
    let cpu = cpu_of_process();
    let (pages, taken) = block_on(async move {
        let mut stream = service::stream(address).await;
        let blocks = stream.blocks(tag, Lsn::MAX).await.expect("it is there");
        let batch: Vec<u32> = (0..blocks.min(u32::from(BATCH_BLOCKS_MAX))).collect();
        stream.pages(tag, &batch, Lsn::MAX).await.expect("they can be read");
        let begin = clock::precise();
        let mut pages = 0;
        while pages < reads * 10 {
            stream.pages(tag, &batch, Lsn::MAX).await.expect("they can be read");
            pages += batch.len() as u64;
        }
        (pages, clock::precise() - begin)
    });
    let cpu = (cpu_of_process() - cpu).as_secs_f64() * 1e6 / pages as f64;
    let figure = format!("{:.0} pages/s", pages as f64 / taken.as_secs_f64());
    let remark = format!(
        "batches of {BATCH_BLOCKS_MAX}, one connection; {cpu:.1} µs of CPU time a page, client included"
    );
    row("GetPage over loopback, warm", &figure, &remark);
    service.stop();
}

fn many_layers() {
    let folder = Folder::new("bench-layers");
    let layers = (0..LAYERS).map(|number| small_layer(&folder.path(), number));
    let layers = layers.map(|layer| (layer.number, layer)).collect();
    let facts = Facts { next_number: LAYERS + 1, ..Facts::default() };
    let manifest = Manifest { facts, layers };
    block_on(async { Log::create(&folder.path(), &manifest).await.map(drop) }).expect("created");
    let mut times = Vec::new();
    for _ in 0..5 {
        let begin = clock::precise();
        let layers = block_on(async {
            TimelineStore::open(&folder.path()).await.expect("opened").stats().layers
        });
        times.push(clock::precise() - begin);
        assert_eq!(layers, LAYERS);
    }
    row("start with 100,000 layers", &percentiles(times), "the timeline's store; 5 times");
}

fn small_layer(folder: &Path, number: u64) -> LayerInfo {
    let (range, depth) = (u32::try_from(number % 2000).expect("small"), number / 2000);
    let tag = RelNode::new(1663, 5, 16384 + range).fork(Fork::Main);
    let newest = Version(depth * 1000 + 999);
    let kind = if depth.is_multiple_of(5) { Kind::Image } else { Kind::Delta };
    let info = LayerInfo {
        number: number + 1,
        kind,
        place: Place::LOCAL,
        first: keys::block(tag, 0),
        last: keys::block(tag, 99_999),
        oldest: if kind == Kind::Image { newest } else { Version(depth * 1000) },
        newest,
        bytes: 1000,
        raw_bytes: 2000,
        entries: 10,
    };
    let path = layer::path(folder, info.number);
    let file = runtime::fs::blocking::File::create(path).expect("created");
    file.set_len(info.bytes).expect("lengthened");
    info
}

/// The catalog of a cluster with 100,000 tables of two forks, each of which has grown a few times.
fn many_relations() {
    let mut catalog = Catalog::default();
    for number in 0..100_000 {
        let node = RelNode::new(1663, 5, 16384 + number);
        for fork in [Fork::Main, Fork::Vm] {
            catalog.add_base(node.fork(fork), 1);
            for size in 2..6 {
                let at = Lsn(u64::from(number + size * 100_000));
                catalog.change(node.fork(fork), |history| history.extend(at, size));
            }
        }
    }
    let begin = clock::precise();
    let bytes = catalog.to_bytes(Lsn::MAX).len() as u64;
    let written = clock::precise() - begin;
    let begin = clock::precise();
    catalog.forget_before(Lsn(1 << 40), &[]);
    let forgotten = clock::precise() - begin;
    let remark = format!(
        "{} in a file; {} ms to write as bytes, {} ms to forget what is old",
        mib(bytes),
        written.as_millis(),
        forgotten.as_millis()
    );
    row("catalog of 100,000 tables", &mib(catalog.memory() as u64), &remark);
}

/// The index of simulated keys: once with every page of 100 GB in it; then while WAL touches each of them once on
/// average, in no order, flushed as the settings have it.
fn many_keys() -> Vec<String> {
    let memory_max = Settings::default().index_memory_max;
    let before = resident_bytes();
    let (mut index, begin) = (Index::default(), clock::precise());
    let mut at = Lsn(1 << 24);
    for number in 0..MANY_PAGES {
        // An odd factor visits every page once.
        touch(&mut index, number.wrapping_mul(7_340_033) % MANY_PAGES, &mut at);
    }
    let each = (clock::precise() - begin).as_nanos() as f64 / f64::from(MANY_PAGES);
    let all = resident_bytes().saturating_sub(before);
    let remark = format!("resident, nothing flushed; {each:.0} ns for each; keys are simulated");
    let first = row_of("index memory, every page of 100 GB in it", &mib(all), &remark);
    drop(index);
    let (mut index, mut rng, mut most) = (Index::default(), Rng::seeded(2), 0);
    let begin = clock::precise();
    for _ in 0..MANY_PAGES {
        touch(
            &mut index,
            u32::try_from(rng.below(u64::from(MANY_PAGES))).expect("a block"),
            &mut at,
        );
        if index.newer_memory() > memory_max / 4 {
            most = most.max(index.memory());
            index.begin_flush();
            drop(index.finish_flush());
        }
    }
    let each = (clock::precise() - begin).as_nanos() as f64 / f64::from(MANY_PAGES);
    let remark =
        format!("at most, by its own count; {each:.0} ns for each touch; keys are simulated");
    let what = "index memory, flushed as by default, pages of 100 GB in no order";
    vec![first, row_of(what, &mib(most as u64), &remark)]
}

fn touch(index: &mut Index, block: u32, at: &mut Lsn) {
    let key = keys::block(RelNode::new(1663, 5, 16384).fork(Fork::Main), block);
    index.touch(key, Position::new(*at, *at + 120, Effect::Change, 0).expect("short"));
    *at = *at + 120;
}

fn lsn(cluster: &Cluster) -> Lsn {
    cluster.sql("SELECT pg_current_wal_flush_lsn()").parse().expect("an LSN")
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn rate(bytes: u64, taken: Duration) -> String {
    format!("{:.0} MB/s", bytes as f64 / 1e6 / taken.as_secs_f64().max(1e-9))
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let show = |percent: usize| {
        let time = times.get(times.len() * percent / 100).or(times.last());
        match time.copied().unwrap_or_default() {
            time if time.as_millis() < 1 => format!("{:.1} µs", time.as_nanos() as f64 / 1e3),
            time => format!("{:.2} ms", time.as_nanos() as f64 / 1e6),
        }
    };
    format!("p50 {}, p99 {}", show(50), show(99))
}

/// User and system time of this process, and of the children that it has waited for.
fn cpu_times() -> (Duration, Duration) {
    let text = runtime::fs::blocking::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = text.rsplit_once(") ").expect("a name").1.split(' ').collect();
    let ticks = |from: usize| -> u64 {
        fields[from..from + 2].iter().map(|field| field.parse::<u64>().expect("ticks")).sum()
    };
    // Fields 14 to 17 of proc(5), in hundredths of a second.
    (Duration::from_millis(ticks(11) * 10), Duration::from_millis(ticks(13) * 10))
}

fn cpu_of_process() -> Duration {
    cpu_times().0
}

fn cpu_of_children() -> Duration {
    cpu_times().1
}

/// What this process has given the disk to write so far, children that have ended included: `write_bytes` of proc(5).
fn bytes_written() -> u64 {
    let text = runtime::fs::blocking::read_to_string("/proc/self/io").expect("Linux");
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|number| number.parse().ok()).expect("a number")
}

fn resident_bytes() -> u64 {
    let text = runtime::fs::blocking::read_to_string("/proc/self/statm").expect("Linux");
    let pages = text.split(' ').nth(1).and_then(|field| field.parse::<u64>().ok());
    pages.expect("a number") * 4096
}
