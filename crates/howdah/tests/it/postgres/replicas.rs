//! `shop@feature?replica`: servers that follow a branch and are read.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::compute::{Compute, branch, can_mount, writer};
use crate::instance::{Folder, Instance};

/// Against hangs only.
const PATIENCE: Duration = Duration::from_secs(180);

/// With `main` in a plain data directory.
fn start_in(mode: &str, folder: &Folder) -> Instance {
    Instance::in_directory(folder, &computes(mode))
}

fn computes(mode: &str) -> String {
    format!("[compute]\nmode = \"{mode}\"\nstart_timeout = \"3min\"\n")
}

fn psql(instance: &Instance, database: &str, sql: &str) -> Result<String, String> {
    let arguments = ["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose"];
    instance.client("psql", &[&arguments[..], &["-d", database, "-c", sql]].concat())
}

/// A statement's answer, once it is this one: a replica is a moment behind.
fn comes_to(expected: &str, mut ask: impl FnMut() -> Result<String, String>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = ask();
        if answer.as_deref() == Ok(expected) {
            return;
        }
        assert!(Instant::now() < deadline, "never \"{expected}\": {answer:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn line(instance: &Instance, name: &str) -> Option<Value> {
    let answer: Value = serde_json::from_str(&instance.get("/v1/computes")).expect("JSON");
    let computes = answer["computes"].as_array().expect("a list");
    computes.iter().find(|compute| compute["name"] == name).cloned()
}

/// Kills a compute and waits until another runs in its place, which somebody has to ask for: a server goes on for a moment
/// after that, and whoever it is working for then is told that it is gone.
fn kill(instance: &Instance, name: &str, database: &str) {
    let process = || line(instance, name).map(|line| line["pid"].to_string());
    let before = process().expect("it runs");
    let killed = std::process::Command::new("kill").args(["-9", &before]).status();
    assert!(killed.expect("kill runs").success());
    comes_to("true", || {
        psql(instance, database, "SELECT 1")?;
        Ok(process().is_some_and(|now| now != before).to_string())
    });
}

/// On restored directories, which run everywhere.
#[test]
fn a_replica_shows_what_is_committed_and_takes_no_writes() {
    let folder = Folder::new();
    let instance = start_in("directory", &folder);
    let replica = "postgres@main?replica";
    instance.sql("CREATE TABLE t (a int)");
    instance.sql("INSERT INTO t VALUES (1)");
    comes_to("1", || psql(&instance, replica, "SELECT count(*) FROM t"));
    let process = line(&instance, "main?replica").expect("it runs");
    assert_eq!(process["mode"], "directory", "{process}");
    assert_eq!(
        (&process["replica"], &process["writes_branch"], &process["read_only"]),
        (&true.into(), &false.into(), &true.into()),
        "{process}"
    );
    instance.sql("INSERT INTO t VALUES (2)");
    instance.sql("CREATE TABLE u AS SELECT 7 AS b");
    instance.sql("ALTER TABLE t ADD COLUMN c int DEFAULT 3");
    comes_to("6", || psql(&instance, replica, "SELECT sum(c) FROM t"));
    comes_to("7", || psql(&instance, replica, "SELECT b FROM u"));
    for statement in ["DELETE FROM t", "BEGIN READ WRITE", "CREATE TABLE v ()"] {
        let refused = psql(&instance, replica, statement).expect_err(statement);
        let state = if statement.starts_with("BEGIN") { "0A000" } else { "25006" };
        assert!(refused.contains(state), "{statement}: {refused}");
    }
    instance.sql("CREATE UNLOGGED TABLE n (a int)");
    comes_to("n", || psql(&instance, replica, "SELECT relname FROM pg_class WHERE relname = 'n'"));
    let refused = psql(&instance, replica, "SELECT * FROM n").expect_err("it is not in the WAL");
    assert!(refused.contains("during recovery"), "{refused}");
    instance.howdah(&["compute", "stop", "main?replica"]).expect("it stops");
    instance.sql("INSERT INTO t VALUES (4)");
    let started = instance.howdah(&["compute", "start", "main", "--replica"]).expect("it starts");
    assert!(started.contains("replica"), "{started}");
    comes_to("3", || psql(&instance, replica, "SELECT count(*) FROM t"));
    for (database, message) in
        [("postgres@0/1?replica", "as of no moment"), ("postgres@nosuch?replica", "does not exist")]
    {
        let refused = psql(&instance, database, "SELECT 1").expect_err(database);
        assert!(refused.contains(message), "{database}: {refused}");
    }
}

#[test]
fn a_replica_of_a_branch_follows_one_writer_after_another() {
    follows_one_writer_after_another("directory");
}

/// On mounts where there are any.
#[test]
fn a_replica_on_a_mount_follows_one_writer_after_another() {
    follows_one_writer_after_another("auto");
}

fn follows_one_writer_after_another(mode: &str) {
    let folder = Folder::new();
    let instance = start_in(mode, &folder);
    instance.sql("ALTER SYSTEM SET max_prepared_transactions = 20");
    instance.post("/v1/postgres/stop");
    instance.post("/v1/postgres/start");
    instance.sql("CREATE TABLE t (a int)");
    instance.sql("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'early'");
    instance.sql("CHECKPOINT");
    instance.sql("BEGIN; INSERT INTO t VALUES (10); PREPARE TRANSACTION 'late'");
    branch(&instance, "feature");
    let (feature, replica) = ("postgres@feature", "postgres@feature?replica");
    let sum = "SELECT coalesce(sum(a), 0) FROM t";
    // There is no writer yet, and no checkpoint of the branch's own.
    comes_to("0", || psql(&instance, replica, sum));
    let write = |sql: &str| psql(&instance, feature, sql).expect("it is written");
    write("INSERT INTO t VALUES (100)");
    comes_to("100", || psql(&instance, replica, sum));
    kill(&instance, "feature", feature);
    write("COMMIT PREPARED 'early'");
    comes_to("101", || psql(&instance, replica, sum));
    instance.howdah(&["compute", "stop", "feature"]).expect("it stops");
    write("COMMIT PREPARED 'late'");
    comes_to("111", || psql(&instance, replica, sum));
    assert_eq!(instance.sql(sum), "0", "main is left alone");
    instance.howdah(&["compute", "stop", "feature?replica"]).expect("it stops");
    comes_to("111", || psql(&instance, replica, sum));
    let writer = line(&instance, "feature").expect("it still runs");
    assert_eq!(writer["writes_branch"], true, "{writer}");
}

#[test]
fn a_replica_fits_together_after_a_load_and_waits_for_its_page_server() {
    if !can_mount() {
        return;
    }
    let folder = Folder::new();
    let instance = Instance::in_directory(&folder, "");
    let service = instance.facts["page_service"].as_str().expect("it listens").to_owned();
    instance.sql("CREATE EXTENSION amcheck");
    instance.pgbench(&["-i", "-q", "-s", "1"]);
    branch(&instance, "feature");
    let writer = writer(&instance, &folder, "feature", "writer");
    let arguments = ["--branch", "feature", "--replica"];
    let replica = Compute::start(&instance, &folder, "replica", &arguments);
    writer.pgbench(&["-n", "-c", "4", "-T", "4"]);
    // Another that begins with what the load has left, and has a checkpoint in the middle of it.
    writer.sql("CHECKPOINT");
    writer.pgbench(&["-n", "-c", "4", "-T", "2"]);
    let second = Compute::start(&instance, &folder, "second", &arguments);
    let state = "SELECT count(*), sum(delta), \
        (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches) \
        FROM pgbench_history";
    let expected = writer.sql(state);
    for replica in [&replica, &second] {
        comes_to(&expected, || replica.try_sql("postgres", state));
        let checked = replica.client("pg_amcheck", &["--heapallindexed", "-d", "postgres"]);
        checked.unwrap_or_else(|said| panic!("pg_amcheck: {said}\n{}", replica.log()));
    }
    writer.stop();
    drop(instance);
    let again = Instance::start_as(&folder, "directory", "", &service);
    let writer = Compute::start(&again, &folder, "writer", &["--branch", "feature"]);
    writer.attach(&again, "feature");
    writer.sql("INSERT INTO pgbench_history (delta) VALUES (1000000)");
    let expected = writer.sql(state);
    for replica in [replica, second] {
        comes_to(&expected, || replica.try_sql("postgres", state));
        replica.stop();
    }
}

/// `main` itself is a compute on a mount, and is killed.
#[test]
fn a_replica_of_main_goes_on_with_the_next_primary() {
    if !can_mount() {
        return;
    }
    let folder = Folder::new();
    let instance = Instance::start(&folder, &computes("auto"));
    let replica = "postgres@main?replica";
    instance.sql("CREATE TABLE t (a int)");
    comes_to("0", || psql(&instance, replica, "SELECT count(*) FROM t"));
    for expected in ["1", "2"] {
        instance.sql("INSERT INTO t VALUES (1)");
        comes_to(expected, || psql(&instance, replica, "SELECT count(*) FROM t"));
        kill(&instance, "main", "postgres");
    }
    instance.sql("INSERT INTO t VALUES (1)");
    comes_to("3", || psql(&instance, replica, "SELECT count(*) FROM t"));
    let process = line(&instance, "main?replica").expect("it runs");
    assert_eq!((&process["replica"], &process["phase"]), (&true.into(), &"running".into()));
    let found = instance.log().matches("compute=\"main?replica\"").count();
    assert_eq!(found, 1, "it was started once: {}", instance.log());
}

/// The link that Postgres would make leads into the directory of the server that is followed.
#[test]
fn a_replica_in_a_directory_does_not_touch_a_tablespace_of_its_primary() {
    leaves_the_tablespace_alone("directory");
}

#[test]
fn a_replica_on_a_mount_does_not_touch_a_tablespace_of_its_primary() {
    leaves_the_tablespace_alone("auto");
}

fn leaves_the_tablespace_alone(mode: &str) {
    let folder = Folder::new();
    let instance = start_in(mode, &folder);
    let replica = "postgres@main?replica";
    comes_to("1", || psql(&instance, replica, "SELECT 1"));
    let space = folder.path().join("data/space");
    instance.sql(&format!(
        "COPY (SELECT 1) TO PROGRAM 'cat > /dev/null; mkdir -m 700 {}'",
        space.display()
    ));
    instance.sql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
    instance.sql("CREATE TABLE t TABLESPACE space AS SELECT generate_series(1, 10000) AS a");
    instance.wait_for_log("a compute died");
    // A replica can begin behind it.
    instance.sql("CHECKPOINT");
    comes_to("10000", || psql(&instance, replica, "SELECT count(*) FROM t"));
    instance.sql("INSERT INTO t VALUES (0)");
    comes_to("10001", || psql(&instance, replica, "SELECT count(*) FROM t"));
    assert_eq!(instance.sql("SELECT count(*) FROM t"), "10001");
}
