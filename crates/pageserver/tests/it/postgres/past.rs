//! Pages as of LSNs gone by, against what Postgres itself had then.

use std::cell::Cell;

use pageserver::client::ClientError;
use pg::datadir::relation::{Fork, RelNode, RelTag};
use pg::lsn::Lsn;
use pg::page::mask::{MaskOptions, PageKind, compare};
use pg::sqlstate::SqlState;

use crate::cluster::{Cluster, Folder};
use crate::postgres::current_lsn;
use crate::service::{Service, block_on, settings, stream};

/// A page as Postgres had it in its buffers when its WAL ended at `lsn`.
struct Captured {
    tag: RelTag,
    block: u32,
    lsn: Lsn,
    page: Vec<u8>,
}

/// Captures every block of a relation's fork; nothing else may write to it meanwhile.
fn capture(cluster: &Cluster, relation: &str, fork: Fork) -> Vec<Captured> {
    let tag = tag_of(cluster, relation).with_fork(fork);
    let lsn = current_lsn(cluster);
    let sql = format!(
        "SELECT encode(get_raw_page('{relation}', '{fork}', b::int), 'hex') \
         FROM generate_series(0, pg_relation_size('{relation}', '{fork}') / 8192 - 1) b"
    );
    let pages = cluster.sql(&sql);
    (0..)
        .zip(pages.lines())
        .map(|(block, hex)| Captured { tag, block, lsn, page: bytes_of(hex) })
        .collect()
}

fn tag_of(cluster: &Cluster, relation: &str) -> RelTag {
    let sql = format!(
        "SELECT d.oid || ' ' || pg_relation_filenode('{relation}') FROM pg_database d \
         WHERE datname = current_database()"
    );
    let text = cluster.sql(&sql);
    let numbers: Vec<u32> = text.split(' ').map(|n| n.parse().expect("a number")).collect();
    RelNode::new(1663, numbers[0], numbers[1]).fork(Fork::Main)
}

fn bytes_of(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| {
            let pair = std::str::from_utf8(pair).expect("hexadecimal digits");
            u8::from_str_radix(pair, 16).expect("hexadecimal digits")
        })
        .collect()
}

fn check(service: &Service, captured: &Captured) {
    let Captured { tag, block, lsn, page } = captured;
    let ours = service.page(*tag, *block, *lsn).expect("the page can be rebuilt");
    let ours = ours.as_slice().try_into().expect("one page");
    let theirs = page.as_slice().try_into().expect("one page");
    let kind = PageKind::of_page(theirs, tag.fork);
    let options = MaskOptions { lsn: false, ..MaskOptions::FILES };
    let difference = compare(Some(ours), theirs, kind, *block, options);
    assert_eq!(difference, None, "relation {tag} block {block} as of {lsn}");
}

/// Everything captured while a table and its index go through most of their life.
fn live(cluster: &Cluster, then: impl Fn(usize)) -> Vec<Captured> {
    let mut all = Vec::new();
    let step = Cell::new(0);
    let capture_all = |all: &mut Vec<Captured>| {
        for (relation, fork) in [("t", Fork::Main), ("t_pkey", Fork::Main), ("t", Fork::Vm)] {
            all.extend(capture(cluster, relation, fork));
        }
        then(step.replace(step.get() + 1));
    };
    for sql in [
        "INSERT INTO t SELECT i, 'first' FROM generate_series(1, 2000) i",
        "UPDATE t SET v = 'second' WHERE i % 4 = 0",
        "VACUUM t",
        "DELETE FROM t WHERE i % 3 = 0",
        "CHECKPOINT",
        "UPDATE t SET v = repeat('long', 30) WHERE i BETWEEN 100 AND 300",
        "SELECT 1 FROM t WHERE i < 50 FOR UPDATE",
        "VACUUM (FREEZE) t",
        "INSERT INTO t SELECT i, 'later' FROM generate_series(3000, 6000) i",
        "DELETE FROM t WHERE i > 1000",
        "VACUUM t",
        "INSERT INTO t SELECT i, 'refilled' FROM generate_series(7000, 9000) i",
        "TRUNCATE t",
        "INSERT INTO t SELECT i, 'new file' FROM generate_series(1, 100) i",
    ] {
        cluster.sql(sql);
        capture_all(&mut all);
    }
    all
}

#[test]
fn pages_of_the_past_equal_those_postgres_had_then() {
    let cluster = Cluster::start("past", &[], &["autovacuum = off", "bgwriter_lru_maxpages = 0"]);
    cluster.sql("CREATE EXTENSION pageinspect; CREATE TABLE t (i int PRIMARY KEY, v text)");
    let folder = Folder::new("past-ps");
    let service = Service::start(settings(folder.path(), cluster.socket()));
    service.wait_streaming();
    let all = live(&cluster, |_step| {});
    service.wait_lsn(current_lsn(&cluster));
    assert!(all.len() > 300, "{} pages captured", all.len());
    // Backwards and forwards, so that the cache of pages helps in one direction only.
    all.iter().rev().chain(&all).for_each(|captured| check(&service, captured));
    service.stop();
}

#[test]
fn what_is_not_there_is_refused() {
    let cluster = Cluster::start("refused", &[], &["autovacuum = off"]);
    cluster.sql("CREATE TABLE t AS SELECT 1 AS one");
    let folder = Folder::new("refused-ps");
    let service = Service::start(settings(folder.path(), cluster.socket()));
    let status = service.wait_streaming();
    let oldest: Lsn = status.oldest_lsn.and_then(|lsn| lsn.parse().ok()).expect("an LSN");
    let tag = tag_of(&cluster, "t");
    cluster.sql("INSERT INTO t VALUES (2)");
    let before = current_lsn(&cluster);
    cluster.sql("DROP TABLE t");
    let after = current_lsn(&cluster);
    service.wait_lsn(after);
    let refused = |tag, block, lsn| match service.page(tag, block, lsn) {
        Err(ClientError::Refused { sqlstate, message, .. }) => (sqlstate, message),
        other => panic!("not refused: {other:?}"),
    };
    assert!(service.page(tag, 0, before).is_ok());
    assert_eq!(refused(tag, 1, before).0, SqlState::INVALID_PARAMETER_VALUE);
    assert_eq!(refused(tag, 0, after).0, SqlState::UNDEFINED_TABLE);
    assert_eq!(refused(tag.with_fork(Fork::Fsm), 0, before).0, SqlState::FEATURE_NOT_SUPPORTED);
    let (sqlstate, message) = refused(tag, 0, Lsn(oldest.0 - 1));
    assert_eq!(sqlstate, SqlState::INVALID_PARAMETER_VALUE);
    assert!(message.contains(&format!("older than the base backup, which begins at {oldest}")));
    service.stop();
}

/// Indexes of every kind that Postgres has, as `CREATE INDEX` wants them.
const INDEXES: [(&str, &str); 6] = [
    ("t_btree", "btree (i)"),
    ("t_hash", "hash (i)"),
    ("t_gin", "gin (words)"),
    ("t_gist", "gist (place)"),
    ("t_spgist", "spgist (place)"),
    ("t_brin", "brin (i) WITH (pages_per_range = 1)"),
];

#[test]
fn pages_of_every_index_kind_are_right_or_refused_by_name() {
    let cluster = Cluster::start("kinds", &[], &["autovacuum = off"]);
    cluster.sql("CREATE EXTENSION pageinspect");
    cluster.sql("CREATE TABLE t (i int, words tsvector, place point)");
    let fill = |from: i32, to: i32| {
        let row = "i, to_tsvector('simple', md5(i::text) || ' ' || i % 50), point(i % 97, i % 89)";
        cluster.sql(&format!("INSERT INTO t SELECT {row} FROM generate_series({from}, {to}) i"));
    };
    fill(1, 500);
    for (name, definition) in INDEXES {
        cluster.sql(&format!("CREATE INDEX {name} ON t USING {definition}"));
    }
    let folder = Folder::new("kinds-ps");
    let service = Service::start(settings(folder.path(), cluster.socket()));
    service.wait_streaming();
    // The first change of a page after the backup's checkpoint is logged as an image; later ones are not.
    (1..=10).for_each(|round| fill(round * 1000, round * 1000 + 100));
    cluster.sql("DELETE FROM t WHERE i % 3 = 0");
    cluster.sql("VACUUM t");
    fill(20_000, 20_500);
    let heap = capture(&cluster, "t", Fork::Main);
    let status = service.wait_lsn(current_lsn(&cluster));
    heap.iter().for_each(|captured| check(&service, captured));
    let (mut right, mut refused) = (0, 0);
    for (name, definition) in INDEXES {
        for captured in capture(&cluster, name, Fork::Main) {
            match service.page(captured.tag, captured.block, captured.lsn) {
                Err(ClientError::Refused {
                    sqlstate: SqlState::FEATURE_NOT_SUPPORTED,
                    message,
                    ..
                }) => {
                    let kind = message
                        .split(' ')
                        .find(|word| word.contains('/') && !word.contains("1663"));
                    let kind = kind.expect("the record is named");
                    let method = kind.split('/').next().expect("a resource manager").to_lowercase();
                    assert!(definition.starts_with(&method), "{message}");
                    assert!(status.unsupported_records.contains_key(kind), "{kind} {status:?}");
                    refused += 1;
                }
                Ok(_) => {
                    check(&service, &captured);
                    right += 1;
                }
                other => panic!("{name} block {}: {other:?}", captured.block),
            }
        }
    }
    println!("{right} pages are right, {refused} refused");
    assert!(right > 20);
    service.stop();
}

#[test]
fn a_request_for_wal_to_come_waits_for_it_and_not_for_ever() {
    let cluster = Cluster::start("waits", &[], &["autovacuum = off"]);
    cluster.sql("CREATE TABLE t (i int)");
    let folder = Folder::new("waits-ps");
    let mut patient = settings(folder.path(), cluster.socket());
    patient.wait_lsn_timeout_ms = 500;
    let service = Service::start(patient.clone());
    service.wait_streaming();
    let tag = tag_of(&cluster, "t");
    cluster.sql("INSERT INTO t VALUES (1)");
    let far = current_lsn(&cluster) + (1 << 30);
    match service.page(tag, 0, far) {
        Err(ClientError::Refused { sqlstate, message, .. }) => {
            assert_eq!(sqlstate, SqlState::CANNOT_CONNECT_NOW);
            assert!(message.contains("has not arrived yet"), "{message}");
        }
        other => panic!("not refused: {other:?}"),
    }
    service.stop();
    patient.wait_lsn_timeout_ms = 60_000;
    let service = Service::start(patient);
    service.wait_streaming();
    for row in 2..20 {
        cluster.sql(&format!("INSERT INTO t VALUES ({row})"));
        let now = current_lsn(&cluster);
        // Asked for at once: most of the time it is still on its way.
        let page = service.page(tag, 0, now).expect("it arrives");
        let items = (u16::from_le_bytes([page[12], page[13]]) - 24) / 4;
        assert_eq!(items, row, "the row just committed is there");
    }
    service.stop();
}

#[test]
fn pages_can_be_read_while_they_change() {
    let cluster = Cluster::start("changing", &[], &[]);
    cluster.pgbench(&["-i", "-s", "1", "-q"]);
    let folder = Folder::new("changing-ps");
    let service = Service::start(settings(folder.path(), cluster.socket()));
    service.wait_streaming();
    let (branches, accounts) =
        (tag_of(&cluster, "pgbench_branches"), tag_of(&cluster, "pgbench_accounts"));
    let address = service.address;
    let read = move || {
        block_on(async move {
            let mut pages = stream(address).await;
            for round in 0..200 {
                pages
                    .pages(branches, &[0], Lsn::MAX)
                    .await
                    .expect("a page that changes all the time");
                let blocks: Vec<u32> = (0..100).map(|block| (block * 7 + round) % 1600).collect();
                pages.pages(accounts, &blocks, Lsn::MAX).await.expect("pages of a table");
            }
        });
    };
    std::thread::scope(|scope| {
        scope.spawn(|| cluster.pgbench(&["-c", "4", "-T", "4"]));
        scope.spawn(read);
        scope.spawn(read);
    });
    assert!(service.status().pages_served >= 2 * 200 * 101);
    service.stop();
}
