//! What a cluster keeps beside its pages, as of moments of a history that has all of it: equal to what an ordinary recovery
//! to the same LSN has, and found without the WAL.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use pageserver::limits::STATE_WAL_BYTES_MAX;
use pg::datadir::slru::{SEGMENT_PAGES, Slru};
use pg::lsn::Lsn;

use super::backup::{back_up, recovered};
use crate::cluster::{Cluster, Folder};
use crate::postgres::current_lsn;
use crate::service::{Service, block_on, settings, stream};
use crate::tools::{Restored, Tools, succeed};

/// Lines of `pg_controldata` that tell the counters.
const COUNTERS: [&str; 12] = [
    "NextXID",
    "NextOID",
    "NextMultiXactId",
    "NextMultiOffset",
    "oldestXID:",
    "oldestXID's DB",
    "oldestMultiXid",
    "oldestMulti's DB",
    "oldestCommitTsXid",
    "newestCommitTsXid",
    "max_prepared_xacts setting",
    "track_commit_timestamp setting",
];

/// Each step ends with a moment.
const STEPS: [&str; 6] = [
    // Multixacts over more than one page, of a transaction and its subtransaction.
    "DO $$ BEGIN FOR n IN 1..3000 LOOP \
       PERFORM 1 FROM locked WHERE i = 1 + n % 100 FOR KEY SHARE; \
       BEGIN UPDATE locked SET v = n WHERE i = 1 + n % 100; EXCEPTION WHEN others THEN RAISE; END; \
     END LOOP; END $$",
    "BEGIN; INSERT INTO t VALUES (1); SAVEPOINT s; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'one'; \
     BEGIN; INSERT INTO t VALUES (3); PREPARE TRANSACTION 'two'; \
     SELECT pg_replication_origin_create('there'); SELECT pg_replication_origin_create('elsewhere'); \
     SELECT pg_replication_origin_advance('there', '0/1234'); \
     SELECT pg_replication_origin_session_setup('elsewhere'); \
     BEGIN; SELECT pg_replication_origin_xact_setup('0/5678', '2026-01-02 03:04:05Z'); \
     INSERT INTO t VALUES (4); COMMIT; CHECKPOINT",
    "COMMIT PREPARED 'one'; VACUUM FULL pg_class; CREATE DATABASE logged STRATEGY wal_log; \
     CREATE DATABASE copied STRATEGY file_copy",
    "ROLLBACK PREPARED 'two'; DROP DATABASE logged; SELECT pg_replication_origin_drop('there'); \
     CREATE DATABASE copied2 TEMPLATE copied STRATEGY file_copy",
    // Enough for segments of commit timestamps and of multixact members and offsets to be cut off.
    "DO $$ BEGIN FOR n IN 1..68000 LOOP \
       PERFORM 1 FROM locked WHERE i = 1 + n % 100 FOR KEY SHARE; \
       BEGIN UPDATE locked SET v = n WHERE i = 1 + n % 100; EXCEPTION WHEN others THEN RAISE; END; \
       IF n % 1000 = 0 THEN COMMIT; END IF; \
     END LOOP; END $$; SELECT pg_switch_wal()",
    "VACUUM (FREEZE) locked",
];

/// The files of these folders and names, by path below the data directory.
fn files(tools: &Tools, data: &Path) -> BTreeMap<String, Vec<u8>> {
    let list = format!(
        "cd {} && find pg_xact pg_multixact pg_commit_ts pg_twophase pg_logical/replorigin_checkpoint \
         global/pg_filenode.map base -type f \\( -path 'pg_*' -o -name pg_filenode.map -o -name PG_VERSION \\)",
        data.display()
    );
    let paths = succeed(tools.shell(&list));
    let read = |path: &str| {
        #[expect(clippy::disallowed_methods, reason = "a test compares files")]
        let bytes = std::fs::read(data.join(path)).expect("it was listed");
        (path.to_owned(), bytes)
    };
    paths.lines().map(read).collect()
}

fn counters(tools: &Tools, data: &Path) -> BTreeSet<String> {
    let said = tools.run("pg_controldata", &[&data.display().to_string()]);
    let told: BTreeSet<String> = said
        .lines()
        .filter(|line| COUNTERS.iter().any(|name| line.contains(name)))
        .map(str::to_owned)
        .collect();
    assert!(told.len() >= COUNTERS.len(), "{said}");
    told
}

/// What is not there is zeroes: so are pages that a server made ready ahead of use.
fn assert_same(ours: &BTreeMap<String, Vec<u8>>, theirs: &BTreeMap<String, Vec<u8>>, lsn: Lsn) {
    let empty = Vec::new();
    let mut differences = Vec::new();
    let paths: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    for path in paths {
        let is_log =
            ["pg_xact", "pg_multixact", "pg_commit_ts"].iter().any(|log| path.starts_with(log));
        let mut both = [ours, theirs].map(|files| files.get(path));
        if is_log {
            both = both.map(|file| Some(file.unwrap_or(&empty)));
        }
        let [Some(ours), Some(theirs)] = both else {
            panic!(
                "{path} as of {lsn} is there: ours {}, theirs {}",
                both[0].is_some(),
                both[1].is_some()
            )
        };
        let length = ours.len().max(theirs.len());
        let padded = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            bytes.resize(if is_log { length } else { bytes.len() }, 0);
            bytes
        };
        let (ours, theirs) = (padded(ours), padded(theirs));
        let first = ours.iter().zip(&theirs).position(|(one, other)| one != other);
        let around = |bytes: &[u8]| {
            let first = first.unwrap_or(bytes.len());
            format!("{:x?}", &bytes[first.saturating_sub(10)..bytes.len().min(first + 30)])
        };
        let (one, other) = (around(&ours), around(&theirs));
        if ours != theirs {
            differences.push(format!("{path} differs at {first:?}: {one}, {other}"));
        }
    }
    assert!(differences.is_empty(), "as of {lsn}: {differences:#?}");
}

/// The page stream's segments are the restored files.
fn check_segments(tools: &Tools, service: &Service, data: &Path, lsn: Lsn) {
    let files = files(tools, data);
    let segments = [(Slru::Clog, 0), (Slru::MultiXactMembers, 0), (Slru::CommitTimestamps, 2)];
    for (log, segment) in segments {
        let address = service.address;
        let told = block_on(async move {
            stream(address).await.log_segment(log, segment, lsn).await.expect("it is answered")
        });
        let file = files.get(&log.path(segment * SEGMENT_PAGES));
        assert_eq!(file.map_or(0, Vec::len), told.len(), "{} as of {lsn}", log.directory());
        assert!(file.is_none_or(|file| *file == told), "{} as of {lsn}", log.directory());
    }
}

/// Removes the received WAL that lies wholly before `lsn`; answers how many segments that is.
fn remove_wal(tools: &Tools, folder: &Path, lsn: Lsn) -> usize {
    let before = format!("{:08X}{:08X}{:08X}", 1, lsn.0 >> 32, (lsn.0 & 0xFFFF_FFFF) >> 20);
    let list = format!(
        "cd {}/wal && for f in *; do if [ $f \\< {before} ]; then rm $f && echo $f; fi; done",
        folder.display()
    );
    let mut shell = tools.as_ourselves("/bin/sh");
    shell.args(["-c", &list]);
    succeed(shell).lines().count()
}

#[test]
fn moments_are_what_recovery_brings_without_the_wal() {
    let cluster = Cluster::start(
        "state",
        &["-k", "--wal-segsize", "1"],
        &[
            "max_prepared_transactions = 10",
            "track_commit_timestamp = on",
            "wal_keep_size = 4GB",
            "autovacuum = off",
            "vacuum_multixact_freeze_min_age = 0",
        ],
    );
    let (tools, folder) = (Tools::of(&cluster), Folder::new("state-ps"));
    cluster.sql("CREATE TABLE t (i int); CREATE TABLE locked (i int PRIMARY KEY, v int)");
    cluster.sql("INSERT INTO locked SELECT i, 0 FROM generate_series(1, 100) i");
    cluster.sql("UPDATE pg_database SET datallowconn = true");
    let mut settings = settings(folder.path(), cluster.socket());
    settings.checkpoint_bytes = 4 << 20;
    let service = Service::start(settings.clone());
    service.wait_streaming();
    let base = cluster.make_folder("base").join("data");
    let mut backup = tools.command("pg_basebackup");
    backup.arg("-h").arg(cluster.data().parent().expect("it is in a folder"));
    backup.arg("-D").arg(&base).args(["-c", "fast"]);
    succeed(backup);
    let mut moments = Vec::new();
    for step in STEPS {
        // One at a time: some cannot be in a transaction block with others.
        let (mut statements, whole) = (step.split("; "), step.starts_with("DO"));
        match whole {
            true => cluster.sql_each(&split_after_do(step)),
            false => cluster.sql_each(&statements.by_ref().collect::<Vec<_>>()),
        }
        if step.starts_with("VACUUM (FREEZE)") {
            for database in ["template0", "template1", "copied", "copied2", "postgres"] {
                cluster.sql_in(database, "VACUUM (FREEZE)");
            }
        }
        moments.push(current_lsn(&cluster));
    }
    let [.., last] = moments[..] else { panic!("there are moments") };
    service.wait_lsn(last);
    // The newest moment shall lie in layers, too.
    cluster.pgbench(&["-i", "-q", "-s", "1"]);
    let layered = |status: &pageserver::api::Status| {
        let lsn = status.layered_lsn.as_ref().and_then(|text| text.parse::<Lsn>().ok());
        lsn.filter(|lsn| *lsn > last)
    };
    let status = service.wait("layers", |status| layered(status).is_some());
    let flushed = layered(&status).expect("it was waited for");
    cluster.sql("SELECT pg_switch_wal()");
    let wal = cluster.make_folder("wal");
    let copied = format!("cp {}/pg_wal/0000* {}", cluster.data().display(), wal.display());
    succeed(tools.shell(&copied));
    service.stop();
    assert!(remove_wal(&tools, &folder.path(), flushed) > 10);
    let service = Service::start(settings);
    service.wait_streaming();
    for (number, lsn) in moments.into_iter().enumerate() {
        let target = cluster.make_folder(&format!("restored{number}")).join("data");
        back_up(&tools, &service, Some(lsn), &target, &["-X", "fetch"]);
        check_segments(&tools, &service, &target, lsn);
        let mut ours = Restored::start(&tools, &target, "");
        let into = cluster.make_folder(&format!("recovered{number}"));
        let mut theirs = recovered(&tools, (&base, &wal), lsn, &into);
        for server in [&mut ours, &mut theirs] {
            server.sql("CHECKPOINT");
            server.stop();
        }
        assert_same(&files(&tools, &ours.data), &files(&tools, &theirs.data), lsn);
        assert_eq!(counters(&tools, &ours.data), counters(&tools, &theirs.data), "as of {lsn}");
        if number + 1 == STEPS.len() {
            let kept = files(&tools, &ours.data);
            for gone in
                ["pg_commit_ts/0000", "pg_multixact/offsets/0000", "pg_multixact/members/0000"]
            {
                assert!(!kept.contains_key(gone), "{gone} was to be cut off");
            }
        }
    }
    service.stop();
}

/// `DO` blocks have semicolons of their own.
fn split_after_do(step: &str) -> Vec<&str> {
    match step.split_once("$$; ") {
        Some((block, rest)) => {
            let end = block.len() + 2;
            vec![step.get(..end).expect("it was found there"), rest]
        }
        None => vec![step],
    }
}

#[test]
fn a_moment_costs_a_bounded_distance_of_wal() {
    let cluster = Cluster::start("distance", &[], &["autovacuum = off"]);
    let folder = Folder::new("distance-ps");
    let mut settings = settings(folder.path(), cluster.socket());
    // All of it stays where only WAL has it.
    settings.checkpoint_bytes = 1 << 30;
    let service = Service::start(settings);
    service.wait_streaming();
    let mut moments = vec![current_lsn(&cluster)];
    for _round in 0..3 {
        cluster.pgbench(&["-i", "-q", "-s", "1"]);
        cluster.sql("CREATE TABLE IF NOT EXISTS t (i int); INSERT INTO t VALUES (1)");
        moments.push(current_lsn(&cluster));
    }
    service.wait_lsn(moments[3]);
    assert!(moments[3].bytes_since(moments[0]) > 5 * STATE_WAL_BYTES_MAX);
    service.branch("b", "main", &moments[2].to_string()).expect("it can be made");
    for (branch, lsn) in [("main", moments[1]), ("main", moments[3]), ("b", moments[2])] {
        let (end, read) = service.moment(branch, lsn).expect("there is such a moment");
        assert_eq!(end, lsn);
        // What it is made of besides: relation maps, a page of each log, the page of the checkpoint.
        let most = STATE_WAL_BYTES_MAX + (1 << 20);
        assert!(read < most, "{read} bytes of WAL for {lsn} on {branch}");
    }
    service.stop();
}
