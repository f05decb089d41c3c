//! Transaction logs, relation maps, prepared transactions, origins, sizes and counters, followed by the WAL alone.

use std::collections::BTreeMap;

use pg::datadir::control::ControlFile;
use pg::redo::effects::{Change, Checkpoint, effects, later_xid};
use pg::state::{Counters, State};
use pg::wal::reader::StreamDecoder;
use pg::wal::record::{RawRecord, Record};
use pg::wal::segment::WalVersion;

use crate::cluster::{Cluster, programs};
use crate::workload;

#[test]
fn the_state_after_a_mixed_workload_is_that_of_the_files() {
    let mut cluster = Cluster::create(&[]);
    let before = cluster.files();
    cluster.serve(workload::SETTINGS);
    workload::run(&cluster);
    cluster.stop();
    follow(&cluster, &before);
}

#[test]
fn logs_grow_and_are_truncated_as_the_server_does() {
    grow_and_truncate(Cluster::create(&[]));
}

#[test]
fn logs_of_other_majors_grow_and_are_truncated() {
    // The packages of the others that we have lack pg_resetwal.
    for binaries in [14, 16, 17, 18].into_iter().filter_map(programs) {
        if !binaries.path("pg_resetwal").exists() {
            continue;
        }
        grow_and_truncate(Cluster::create_with(binaries, &[]));
    }
}

#[test]
#[ignore = "writes test_data/*/changes.zst anew: records that do more than change pages, for fixture.rs and /fuzz"]
fn captures_changes() {
    for major in [15, 18] {
        let mut cluster = match major {
            15 => Cluster::create(&[]),
            _ => Cluster::create_with(programs(major).unwrap(), &[]),
        };
        let before = cluster.files();
        cluster.serve(workload::SETTINGS);
        workload::run(&cluster);
        cluster.stop();
        let mut counts = BTreeMap::new();
        let mut captured = Vec::new();
        each_record(&cluster, &before, |record, raw| {
            let count = counts.entry(record.kind().to_string()).or_insert(0);
            let changes = !effects(record).unwrap().is_empty();
            if !record.blocks.is_empty() || !changes || raw.bytes.len() > 2000 {
                return;
            }
            *count += 1;
            if [1, 3, 10, 40].contains(count) {
                captured.extend_from_slice(&raw.lsn.0.to_le_bytes());
                captured.extend_from_slice(&raw.end_lsn.0.to_le_bytes());
                captured.extend_from_slice(&raw.header.total_length.to_le_bytes());
                captured.extend_from_slice(raw.bytes);
            }
        });
        let path = format!("{}/test_data/{major}/changes.zst", env!("CARGO_MANIFEST_DIR"));
        #[expect(clippy::disallowed_methods, reason = "run by hand, to capture test data")]
        std::fs::write(path, zstd::bulk::compress(&captured, 19).unwrap()).unwrap();
    }
}

/// Begins shortly before the second file of each log, and goes on until the first one is gone; crashes in between.
fn grow_and_truncate(mut cluster: Cluster) {
    move_counters(&cluster);
    let before = cluster.files();
    let paths = |files: &[(String, Vec<u8>)]| -> Vec<String> {
        files.iter().map(|file| file.0.clone()).collect()
    };
    cluster.serve(workload::SETTINGS);
    for statement in GROW {
        // Postgres 14 knows no strategies and copies files.
        let is_14 = cluster.version() == WalVersion::V14;
        let (known, _strategy) = match statement.split_once(" STRATEGY") {
            Some(parts) if is_14 => parts,
            _ => (*statement, ""),
        };
        cluster.sql(known);
    }
    many_lockers(&cluster);
    burn_ids(&cluster);
    for database in ["template0", "template1", "other", "elsewhere", "postgres"] {
        cluster.sql_in(database, "VACUUM (FREEZE)");
    }
    cluster.sql(PREPARE);
    cluster.sql("ROLLBACK PREPARED 'aborts'");
    let data = cluster.data();
    cluster.run("pg_ctl", &["stop", "-m", "immediate", "-w", "-D", data.to_str().unwrap()]);
    cluster.serve(workload::SETTINGS);
    cluster.sql("COMMIT PREPARED 'goes'");
    cluster.sql("INSERT INTO t SELECT g FROM generate_series(5000, 6000) g");
    cluster.stop();
    let after = paths(&cluster.files());
    for gone in ["pg_xact/0000", "pg_multixact/offsets/0000", "pg_multixact/members/0000"] {
        assert!(paths(&before).iter().any(|path| path == gone), "{gone} was there");
        assert!(!after.iter().any(|path| path == gone), "{gone} was truncated");
    }
    assert!(!after.iter().any(|path| path == "pg_commit_ts/0028"), "commit times were truncated");
    assert_eq!(after.iter().filter(|path| path.starts_with("pg_twophase/")).count(), 2);
    follow(&cluster, &before);
}

/// The next ids are the last ones of the first file of their log.
fn move_counters(cluster: &Cluster) {
    let data = cluster.data();
    let data = data.to_str().unwrap();
    let counters = ["-x", "1048570", "-m", "65530,1", "-O", "52340"];
    cluster.run("pg_resetwal", &[&["-f", "-D", data], counters.as_slice()].concat());
    for log in ["pg_xact", "pg_multixact/offsets", "pg_multixact/members"] {
        cluster.shell(&format!("truncate -s 262144 {data}/{log}/0000"));
    }
}

/// Several sessions lock the same rows.
fn many_lockers(cluster: &Cluster) {
    let script = cluster.data().join("../lockers.sql");
    let script = script.to_str().unwrap();
    cluster.shell(&format!(
        "printf 'BEGIN;\nSELECT 1 FROM t WHERE id < 4 FOR KEY SHARE;\nSELECT pg_sleep(0.003);\n\
         UPDATE t SET n = n + 1 WHERE id = 10 + :client_id;\nCOMMIT;\n' > {script}"
    ));
    cluster.run("pgbench", &["-n", "-c", "8", "-t", "40", "-f", script, "postgres"]);
}

/// Commits until the second file of commit times, which come to 26208 in a file.
fn burn_ids(cluster: &Cluster) {
    cluster.sql(
        "CREATE PROCEDURE burn() LANGUAGE plpgsql AS $$ BEGIN
         FOR i IN 1..27500 LOOP PERFORM txid_current(); COMMIT; END LOOP; END $$",
    );
    cluster.sql("CALL burn()");
}

/// The first of these is one transaction over two files of `pg_xact`.
const GROW: &[&str] = &[
    "CREATE TABLE t (id int PRIMARY KEY, n int);
     DO $$ BEGIN FOR i IN 1..300 LOOP
       BEGIN INSERT INTO t VALUES (i, 0); IF i % 7 = 0 THEN RAISE division_by_zero; END IF;
       EXCEPTION WHEN division_by_zero THEN NULL; END;
     END LOOP; END $$",
    "INSERT INTO t VALUES (1, 1), (2, 2), (3, 3) ON CONFLICT DO NOTHING",
    "CREATE DATABASE other STRATEGY file_copy",
    "CREATE DATABASE gone STRATEGY wal_log",
    "DROP DATABASE gone",
    "CREATE TABLESPACE space LOCATION ''",
    "CREATE DATABASE elsewhere TABLESPACE space",
    "CREATE TABLE there (a int, b text) TABLESPACE space",
    "INSERT INTO there SELECT g, repeat('b', 100) FROM generate_series(1, 2000) g",
    "VACUUM there",
    "DELETE FROM there WHERE a > 1000",
    "VACUUM there",
    "CREATE SEQUENCE s",
    "SELECT nextval('s') FROM generate_series(1, 100)",
    "CREATE TABLE cut AS SELECT g FROM generate_series(1, 5000) g",
    "TRUNCATE cut",
    "VACUUM FULL pg_class",
    "SELECT pg_replication_origin_create('a'), pg_replication_origin_create('b')",
    "SELECT pg_replication_origin_create('c')",
    "SELECT pg_replication_origin_advance('a', '1/A'), pg_replication_origin_advance('b', '1/B')",
    "SELECT pg_replication_origin_drop('a')",
    "SELECT pg_replication_origin_session_setup('c');
     BEGIN; SELECT pg_replication_origin_xact_setup('2/C', '2020-01-01 00:00Z');
     INSERT INTO t VALUES (1000, 0); COMMIT",
    "ALTER DATABASE template0 ALLOW_CONNECTIONS true",
];

/// Three that survive the crash, one of them with a subtransaction; and what is lost with it.
const PREPARE: &str = "
    BEGIN; INSERT INTO t VALUES (2000, 1); PREPARE TRANSACTION 'goes';
    BEGIN; INSERT INTO t VALUES (2001, 1); SAVEPOINT s; DROP TABLE cut; PREPARE TRANSACTION 'stays';
    BEGIN; SELECT FROM t WHERE id = 1 FOR UPDATE; PREPARE TRANSACTION 'locks';
    BEGIN; INSERT INTO t VALUES (2002, 1); PREPARE TRANSACTION 'aborts'";

/// Takes the WAL in from the stopped cluster `before` on; the outcome is the cluster's files.
fn follow(cluster: &Cluster, before: &[(String, Vec<u8>)]) {
    let control = before.iter().find(|file| file.0 == "global/pg_control").unwrap();
    let control = ControlFile::parse(&control.1).unwrap();
    let mut state = State::new(&control);
    before.iter().for_each(|(path, bytes)| state.load(path, bytes));
    each_record(cluster, before, |record, _raw| {
        compare_with_checkpoint(&state.counters, record);
        state.apply(record).unwrap();
    });
    let files = cluster.files();
    let counts = state.compare(files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())));
    println!("{:?}", counts.kinds);
    for difference in counts.differences.iter().take(30) {
        println!("{difference}");
    }
    assert_eq!(counts.differences.len(), 0);
    let old = state.compare(before.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())));
    assert!(old.differences.len() > 8, "the files from before are others");
    assert!(counts.kinds.len() >= 8, "every kind of thing was compared");
}

/// All records since `before`, in order.
fn each_record(
    cluster: &Cluster,
    before: &[(String, Vec<u8>)],
    mut call: impl FnMut(&Record<'_>, &RawRecord<'_>),
) {
    let control = before.iter().find(|file| file.0 == "global/pg_control").unwrap();
    let control = ControlFile::parse(&control.1).unwrap();
    let (start, wal) = cluster.wal();
    let redo = control.checkpoint.redo;
    let mut input = &wal[usize::try_from(redo.0 - start).unwrap()..];
    let mut decoder = StreamDecoder::at_record(redo, control.segment_bytes)
        .expect_system(control.system_identifier)
        .assume_version(cluster.version());
    let error = loop {
        match decoder.next(&mut input) {
            Ok(Some(raw)) => call(&raw.decode().unwrap(), &raw),
            Ok(None) => panic!("WAL has no end"),
            Err(error) => break error,
        }
    };
    assert!(error.is_end_of_wal(), "{error}");
}

/// What a checkpoint at shutdown has counted was known before it. Oids are set aside in the WAL ahead of use.
fn compare_with_checkpoint(counters: &Counters, record: &Record<'_>) {
    for change in effects(record).unwrap() {
        let Change::Checkpoint(theirs) = change else { continue };
        if !theirs.shutdown {
            continue;
        }
        let ours = Checkpoint {
            shutdown: true,
            redo: theirs.redo,
            time: theirs.time,
            oldest_active_xid: 0,
            next_oid: theirs.next_oid,
            // The one at the end of a recovery does not know what truncations of pg_xact told.
            oldest_xid: theirs.oldest_xid,
            oldest_xid_database: theirs.oldest_xid_database,
            ..counters.checkpoint
        };
        assert_eq!(
            later_xid(counters.checkpoint.oldest_xid, theirs.oldest_xid),
            counters.checkpoint.oldest_xid
        );
        assert_eq!(ours, theirs, "at {}", record.lsn);
        assert!(counters.checkpoint.next_oid >= theirs.next_oid, "at {}", record.lsn);
    }
}
