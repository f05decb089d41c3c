//! What is neither a block nor a file name: counters, logs of transactions, origins, settings, as a server on a mount
//! sees them.

use crate::compute::{as_of, can_mount};
use crate::instance::{Folder, Instance};

/// Asked of the primary at the moment and of the compute: the answers are the same.
const SAME: &[&str] = &[
    "SELECT string_agg(xmin::text || ' ' || i, ',' ORDER BY i) FROM locked",
    "SELECT string_agg(pg_xact_commit_timestamp(xmin)::text, ',' ORDER BY i) FROM stamped",
    "SELECT count(*) FROM stamped WHERE pg_xact_commit_timestamp(xmin) IS NOT NULL",
    "SELECT system_identifier FROM pg_control_system()",
    "SELECT data_page_checksum_version FROM pg_control_init()",
    "SELECT string_agg(datname, ',' ORDER BY oid) FROM pg_database",
    "SELECT string_agg(relname || pg_relation_size(oid), ',' ORDER BY oid) FROM pg_class \
     WHERE relkind IN ('r', 'i', 'S', 't') AND NOT relisshared AND relpersistence = 'p' AND relname NOT LIKE 'pg_%'",
    "SET enable_seqscan = off; SELECT count(*) FROM seen WHERE i BETWEEN 100 AND 20000",
    "SET enable_indexscan = off; SET enable_indexonlyscan = off; SELECT count(*) FROM seen WHERE i BETWEEN 100 AND 20000",
];

#[test]
fn a_server_on_a_mount_knows_what_the_primary_knew() {
    if !can_mount() {
        return;
    }
    let folder = Folder::new();
    let instance = Instance::in_directory(&folder, "");
    for sql in [
        "ALTER SYSTEM SET track_commit_timestamp = on",
        "ALTER SYSTEM SET max_prepared_transactions = 5",
    ] {
        instance.sql(sql);
    }
    instance.post("/v1/postgres/stop");
    instance.post("/v1/postgres/start");
    for sql in [
        "CREATE TABLE locked (i int PRIMARY KEY, n int DEFAULT 0)",
        "INSERT INTO locked SELECT i FROM generate_series(1, 300) i",
        // An update under a lock of the same transaction's makes a multixact of the two.
        "BEGIN; SELECT count(*) FROM (SELECT 1 FROM locked FOR KEY SHARE) x; SAVEPOINT a; \
         UPDATE locked SET n = 1 WHERE i <= 200; SAVEPOINT b; SELECT count(*) FROM (SELECT 1 FROM locked FOR UPDATE) x; COMMIT",
        "CREATE TABLE stamped AS SELECT i FROM generate_series(1, 5) i",
        "INSERT INTO stamped VALUES (6)",
        "SELECT pg_replication_origin_create('far')",
        "SELECT pg_replication_origin_advance('far', '1/A')",
        "CREATE TABLE seen AS SELECT i FROM generate_series(1, 50000) i",
        "CREATE INDEX ON seen (i)",
        "VACUUM seen",
        "DELETE FROM seen WHERE i % 100 = 0",
    ] {
        instance.sql(sql);
    }
    let slots = instance.sql("SELECT count(*) FROM pg_replication_slots");
    assert_eq!(slots, "1", "the page server has one, which must not be inherited");
    let lsn = instance.sql("SELECT pg_current_wal_flush_lsn()");
    let expected: Vec<String> = SAME.iter().map(|sql| instance.sql(sql)).collect();
    let next: u64 = instance.sql("SELECT txid_current()").parse().expect("a number");
    let compute = as_of(&instance, &folder, &lsn, "c");
    for (sql, expected) in SAME.iter().zip(expected) {
        assert_eq!(compute.sql(sql), expected, "{sql}");
    }
    assert_eq!(compute.sql("SELECT count(*) FROM pg_replication_slots"), "0");
    let own: u64 = compute.sql("SELECT txid_current()").parse().expect("a number");
    assert!(own >= next && own < next + 3000, "{own} after {next}");
    assert_eq!(
        compute.sql("SELECT count(*) FROM pg_ls_dir('.') d WHERE d LIKE '%backup_label%'"),
        "0"
    );
    compute.sql("NOTIFY somebody, 'something'");
    compute.sql("SELECT pg_create_physical_replication_slot('own')");
    // Multixacts can be read back, and frozen away.
    compute.sql("UPDATE locked SET n = n + 1");
    compute.sql("VACUUM (FREEZE) locked");
    compute.sql("CHECKPOINT");
    assert_eq!(compute.sql("SELECT sum(n) FROM locked"), "500");
    compute.check();
    let said = compute.stop();
    assert!(!said.contains("PANIC") && !said.contains("not satisfied"), "{said}");
}
