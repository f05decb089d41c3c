//! What a server does to its files, done on a mount.

use std::process::{Child, Command, Stdio};

use crate::compute::{Compute, as_of, can_mount};
use crate::instance::{Folder, Instance};

/// A transaction of the primary that is under way until this is dropped.
pub(super) struct InFlight(Child);

impl InFlight {
    pub(super) fn begin(instance: &Instance, statement: &str) -> Self {
        let socket = instance.facts["postgres"]["socket_directory"].as_str().expect("it says it");
        let script = format!("BEGIN; {statement}; SELECT pg_sleep(600)");
        let child = Command::new(crate::instance::program("psql"))
            .args(["-X", "-h", socket, "-U", "postgres", "-d", "postgres", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("psql runs");
        let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        while instance.sql(sleeping) == "0" {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Self(child)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A cluster with one of everything that is not simply a table.
fn furnish(instance: &Instance, folder: &Folder) {
    instance.sql("ALTER SYSTEM SET max_prepared_transactions = 20");
    instance.post("/v1/postgres/stop");
    instance.post("/v1/postgres/start");
    // Where the server may write.
    let space = folder.path().join("data/space");
    instance.sql(&format!(
        "COPY (SELECT 1) TO PROGRAM 'cat > /dev/null; mkdir -m 700 {}'",
        space.display()
    ));
    instance.sql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
    for sql in [
        "CREATE TABLE t (i int PRIMARY KEY, filler text)",
        "INSERT INTO t SELECT i, repeat('x', 50) FROM generate_series(1, 20000) i",
        "CREATE TABLE elsewhere TABLESPACE space AS SELECT i FROM generate_series(1, 1000) i",
        "CREATE UNLOGGED TABLE u (i int PRIMARY KEY, b text)",
        "INSERT INTO u SELECT i, 'x' FROM generate_series(1, 1000) i",
        "CREATE SEQUENCE s",
        "SELECT nextval('s') FROM generate_series(1, 100)",
        "CREATE TABLE p (i int)",
        "BEGIN; INSERT INTO p VALUES (1); PREPARE TRANSACTION 'kept'",
        "BEGIN; INSERT INTO p VALUES (2); PREPARE TRANSACTION 'dropped'",
        "BEGIN; INSERT INTO p VALUES (3); PREPARE TRANSACTION 'done'",
        "COMMIT PREPARED 'done'",
        "VACUUM FULL pg_class",
        "SELECT lo_from_bytea(4711, '\\x0102')",
    ] {
        instance.sql(sql);
    }
}

#[test]
fn whatever_a_server_does_to_files_works_on_a_mount() {
    if !can_mount() {
        return;
    }
    let folder = Folder::new();
    let instance = Instance::in_directory(&folder, "");
    furnish(&instance, &folder);
    let in_flight =
        InFlight::begin(&instance, "INSERT INTO p SELECT 100 FROM generate_series(1, 500)");
    instance.sql("INSERT INTO p VALUES (4)");
    let lsn = instance.sql("SELECT pg_current_wal_flush_lsn()");
    let expected = instance.sql("SELECT md5(string_agg(t::text, ',' ORDER BY i)) FROM t");
    let compute = as_of(&instance, &folder, &lsn, "c");
    // What is not simply a table.
    assert_eq!(compute.sql("SELECT md5(string_agg(t::text, ',' ORDER BY i)) FROM t"), expected);
    assert_eq!(compute.sql("SELECT count(*) FROM elsewhere"), "1000");
    assert_eq!(compute.sql("SELECT count(*) FROM u"), "0", "an unlogged table begins empty");
    assert_eq!(compute.sql("SELECT string_agg(i::text, ',' ORDER BY i) FROM p"), "3,4");
    compute.sql("COMMIT PREPARED 'kept'");
    compute.sql("ROLLBACK PREPARED 'dropped'");
    assert_eq!(compute.sql("SELECT string_agg(i::text, ',' ORDER BY i) FROM p"), "1,3,4");
    let next: i32 = compute.sql("SELECT nextval('s')").parse().expect("a number");
    assert!((101..=133).contains(&next), "{next}: a sequence may jump, not go back");
    assert_eq!(compute.sql("SELECT lo_get(4711)"), "\\x0102");
    drop(in_flight);
    change_everything(&compute);
    compute.check();
    let said = compute.stop();
    assert!(!said.contains("PANIC"), "{said}");
    // Nothing of it was anywhere else.
    assert_eq!(instance.sql("SELECT count(*) FROM elsewhere"), "1000");
    assert_eq!(instance.sql("SELECT count(*) FROM pg_prepared_xacts"), "2");
}

fn change_everything(compute: &Compute) {
    for sql in [
        "INSERT INTO u SELECT i, 'y' FROM generate_series(1, 3000) i",
        "UPDATE t SET filler = filler || 'y' WHERE i % 3 = 0",
        "DELETE FROM t WHERE i % 5 = 0",
        "VACUUM t",
        "CHECKPOINT",
        "CREATE INDEX ON t (filler, i)",
        "REINDEX TABLE t",
        "VACUUM FULL t",
        "CLUSTER t USING t_pkey",
        "VACUUM FULL pg_class",
        "VACUUM FULL pg_database",
        "ALTER TABLE t SET TABLESPACE space",
        "ALTER TABLE elsewhere SET TABLESPACE pg_default",
        "ALTER TABLE u SET LOGGED",
        "CREATE TABLE cut AS SELECT i, repeat('z', 500) b FROM generate_series(1, 20000) i",
        "TRUNCATE cut",
        "INSERT INTO cut SELECT i, 'new' FROM generate_series(1, 100) i",
        "DELETE FROM elsewhere WHERE i > 10",
        "VACUUM elsewhere",
        "CREATE DATABASE logged STRATEGY wal_log",
        "CREATE DATABASE copied STRATEGY file_copy",
        "CREATE DATABASE apart TABLESPACE space",
        "CREATE DATABASE gone",
        "DROP DATABASE gone",
        "ALTER DATABASE apart SET TABLESPACE pg_default",
        "SET temp_buffers = 100; CREATE TEMP TABLE tt AS SELECT i, repeat('t', 200) b FROM generate_series(1, 20000) i; \
         SELECT sum(length(b)) FROM tt",
        "SET work_mem = '64kB'; SELECT count(*) FROM (SELECT i FROM generate_series(1, 200000) i ORDER BY -i) x",
        "CHECKPOINT",
    ] {
        compute.sql(sql);
    }
    assert_eq!(compute.sql("SELECT count(*), count(DISTINCT i) FROM t"), "16000|16000");
    assert_eq!(compute.sql("SELECT count(*), max(b) FROM cut"), "100|new");
    assert_eq!(compute.sql("SELECT count(*) FROM elsewhere"), "10");
    assert_eq!(compute.sql("SELECT count(*) FROM u"), "3000");
    for database in ["logged", "copied", "apart"] {
        compute.sql_in(database, "CREATE TABLE x AS SELECT 1 AS i");
        assert_eq!(compute.sql_in(database, "SELECT i FROM x"), "1");
    }
}
