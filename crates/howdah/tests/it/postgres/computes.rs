//! `shop@feature`: computes woken, shared, refused, limited, stopped when idle, replaced when they die.

mod faults;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use pg::lsn::Lsn;
use serde_json::Value;
use tokio_postgres::NoTls;

use crate::instance::{Folder, HOWDAH, Instance};

/// Against hangs only.
const PATIENCE: Duration = Duration::from_secs(180);

/// Restored directories run everywhere.
fn start(folder: &Folder, more: &str) -> Instance {
    start_in("directory", folder, more)
}

fn start_in(mode: &str, folder: &Folder, more: &str) -> Instance {
    let text = format!("[compute]\nmode = \"{mode}\"\nstart_timeout = \"3min\"\n{more}");
    Instance::start(folder, &text)
}

/// What psql prints of a statement, and on standard error.
fn psql(instance: &Instance, database: &str, sql: &str) -> Result<String, String> {
    let arguments = ["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose"];
    instance.client("psql", &[&arguments[..], &["-d", database, "-c", sql]].concat())
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Where main's WAL ends, once the page server has it.
fn moment(instance: &Instance) -> String {
    instance.sql("CREATE TABLE IF NOT EXISTS howdah_moment ()");
    let lsn = instance.sql("SELECT pg_current_wal_flush_lsn()");
    let wanted: Lsn = lsn.parse().expect("an LSN");
    until("the page server has the WAL", || {
        let answer: Value = serde_json::from_str(&instance.try_get("/v1/branches")?).ok()?;
        let main = answer["branches"].as_array()?.iter().find(|branch| branch["name"] == "main")?;
        let newest: Lsn = main["newest_lsn"].as_str()?.parse().ok()?;
        (newest >= wanted).then(|| lsn.clone())
    })
}

fn branch(instance: &Instance, name: &str) {
    let lsn = moment(instance);
    let made = instance.howdah(&["branch", "create", name, "--at", &lsn]);
    made.unwrap_or_else(|error| panic!("{error}\n{}", instance.log()));
}

fn computes(instance: &Instance) -> Vec<Value> {
    let answer: Value = serde_json::from_str(&instance.get("/v1/computes")).expect("JSON");
    answer["computes"].as_array().expect("a list").clone()
}

fn compute(instance: &Instance, name: &str) -> Option<Value> {
    computes(instance).into_iter().find(|compute| compute["name"] == name)
}

/// A program's number of clients that connect at the same time, and what each gets.
fn together(
    count: usize,
    ask: impl Fn(usize) -> Result<String, String> + Sync,
) -> Vec<Result<String, String>> {
    std::thread::scope(|scope| {
        let ask = &ask;
        let asked: Vec<_> = (0..count).map(|number| scope.spawn(move || ask(number))).collect();
        asked.into_iter().map(|asked| asked.join().expect("it does not panic")).collect()
    })
}

#[test]
fn computes_start_from_a_program_in_a_folder_that_only_root_may_enter() {
    if !runtime::identity::is_root() {
        return;
    }
    let folder = Folder::new();
    let home = folder.path().join("home");
    fs::create_dir(&home).expect("the folder is ours");
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).expect("it is ours");
    let program = home.join("howdah");
    fs::copy(HOWDAH, &program).expect("there is room");
    let mode = "[compute]\nmode = \"directory\"\n";
    let instance = Instance::start_program(&program, &folder, "directory", mode, "127.0.0.1:0");
    instance.sql("CREATE TABLE t AS SELECT 7 AS a");
    branch(&instance, "feature");
    let found = psql(&instance, "postgres@feature", "SELECT a FROM t");
    assert_eq!(found.as_deref(), Ok("7"), "{}", instance.log());
}

#[test]
fn a_branch_is_woken_once_written_and_kept() {
    let folder = Folder::new();
    let instance = start(&folder, "");
    instance.sql("CREATE TABLE t (a int)");
    instance.sql("INSERT INTO t VALUES (1)");
    branch(&instance, "feature");
    let counts =
        together(5, |_number| psql(&instance, "postgres@feature", "SELECT count(*) FROM t"));
    assert!(counts.iter().all(|count| count.as_deref() == Ok("1")), "{counts:?}");
    assert_eq!(instance.log().matches("base backup begins").count(), 1, "one start for all");
    psql(&instance, "postgres@feature", "INSERT INTO t VALUES (2)").expect("a branch is written");
    assert_eq!(instance.sql("SELECT count(*) FROM t"), "1", "main is left alone");
    let line = compute(&instance, "feature").expect("it runs");
    assert_eq!((&line["phase"], &line["mode"]), (&"running".into(), &"directory".into()), "{line}");
    let listed = instance.howdah(&["compute", "list"]).expect("it answers");
    assert!(listed.contains("feature") && listed.contains("writes the branch"), "{listed}");
    instance.howdah(&["compute", "stop", "feature"]).expect("it stops");
    assert!(computes(&instance).is_empty());
    let started = instance.howdah(&["compute", "start", "feature"]).expect("it starts");
    assert!(started.contains("runs from"), "{started}");
    let sum = psql(&instance, "postgres@feature", "SELECT sum(a) FROM t");
    assert_eq!(sum.as_deref(), Ok("3"), "what was written is there");
    let copy = "INSERT INTO t VALUES (10); SELECT sum(a) FROM t";
    assert_eq!(psql(&instance, "postgres@feature?ephemeral", copy).as_deref(), Ok("13"));
    assert_eq!(psql(&instance, "postgres@feature", "SELECT sum(a) FROM t").as_deref(), Ok("3"));
    let refused = instance.howdah(&["branch", "delete", "feature"]).expect_err("it is in use");
    assert!(refused.contains("in use") && refused.contains("hint:"), "{refused}");
    instance.howdah(&["branch", "delete", "feature", "--force"]).expect("it is deleted");
    let gone = psql(&instance, "postgres@feature", "SELECT 1").expect_err("it is deleted");
    assert!(gone.contains("branch \"feature\" does not exist"), "{gone}");
    let (status, log) = instance.stop("-INT");
    assert!(status.success(), "{log}");
    let left = fs::read_dir(folder.path().join("data/computes")).expect("it is there");
    let names: Vec<_> = left.map(|entry| entry.expect("readable").file_name()).collect();
    assert!(
        names.iter().all(|name| name.to_string_lossy().ends_with(".log") || name == "lock"),
        "{names:?}"
    );
}

#[test]
fn the_past_is_read_and_may_be_tried_out() {
    let folder = Folder::new();
    let instance = start(&folder, "");
    instance.sql("CREATE TABLE t (a int)");
    instance.sql("INSERT INTO t VALUES (1)");
    let lsn = moment(&instance);
    instance.sql("DELETE FROM t");
    let past = format!("postgres@{lsn}");
    assert_eq!(psql(&instance, &past, "SELECT count(*) FROM t").as_deref(), Ok("1"));
    let refused = psql(&instance, &past, "DELETE FROM t").expect_err("it is the past");
    assert!(refused.contains("25006") && refused.contains("read-only"), "{refused}");
    let leases = instance.get("/v1/branches/main/leases");
    assert!(leases.contains(&lsn), "what a compute reads is kept: {leases}");
    let tried = "DELETE FROM t; SELECT count(*) FROM t";
    let ephemeral = format!("{past}?ephemeral");
    assert_eq!(psql(&instance, &ephemeral, tried).as_deref(), Ok("0"));
    assert_eq!(psql(&instance, &past, "SELECT count(*) FROM t").as_deref(), Ok("1"));
    let shown = instance.howdah(&["compute", "list"]).expect("it answers");
    assert!(shown.contains("read-only") && shown.contains("ephemeral"), "{shown}");
    for (database, message) in [
        ("postgres@nosuch", "branch \"nosuch\" does not exist"),
        ("postgres@main", "is written by the server that Howdah follows"),
        ("postgres@F/FFFFFFFF", "ends at"),
        ("postgres@2001-01-01T00:00:00Z", "nothing is known of that time"),
        ("postgres@main?forever", "is not an option"),
    ] {
        let refused = psql(&instance, database, "SELECT 1").expect_err(database);
        assert!(refused.contains(message), "{database}: {refused}");
    }
}

#[test]
fn idle_computes_make_room_and_are_woken_again() {
    let folder = Folder::new();
    let instance = start(&folder, "max_running = 2\nidle_timeout = \"2s\"\n");
    instance.sql("CREATE TABLE t (a int)");
    let lsns: Vec<String> = (0..4)
        .map(|number| {
            instance.sql(&format!("INSERT INTO t VALUES ({number})"));
            moment(&instance)
        })
        .collect();
    // Twelve clients of four moments, of which two can be there at a time.
    let counts = together(12, |number| {
        let database = format!("postgres@{}", lsns[number % 4]);
        psql(&instance, &database, "SELECT count(*) FROM t")
    });
    for (number, count) in counts.into_iter().enumerate() {
        let expected = (number % 4 + 1).to_string();
        assert_eq!(count, Ok(expected), "{}", instance.log());
    }
    assert!(computes(&instance).len() <= 2);
    until("they stop when nobody uses them", || computes(&instance).is_empty().then_some(()));
    let again = psql(&instance, &format!("postgres@{}", lsns[0]), "SELECT count(*) FROM t");
    assert_eq!(again.as_deref(), Ok("1"));
}

#[test]
fn a_client_waits_for_a_place_no_longer_than_it_must() {
    let folder = Folder::new();
    let text = "[compute]\nmode = \"directory\"\nmax_running = 1\nstart_timeout = \"40s\"\n";
    let instance = Instance::start(&folder, text);
    instance.sql("CREATE TABLE t (a int)");
    let first = moment(&instance);
    instance.sql("DROP TABLE t");
    let second = moment(&instance);
    let tokio = runtime();
    let client = tokio.block_on(connect(&instance, &first));
    let refused =
        psql(&instance, &format!("postgres@{second}"), "SELECT 1").expect_err("it is full");
    assert!(refused.contains("too many computes are running"), "{refused}");
    assert!(refused.contains("compute.max_running"), "{refused}");
    tokio.block_on(client.simple_query("SELECT 1")).expect("it was not disturbed");
    drop((client, tokio));
    assert_eq!(psql(&instance, &format!("postgres@{second}"), "SELECT 1").as_deref(), Ok("1"));
}

fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("there are descriptors")
}

async fn connect(instance: &Instance, target: &str) -> tokio_postgres::Client {
    let (host, port) = instance.address("pooler");
    let options = format!("host={host} port={port} user=postgres dbname=postgres@{target}");
    let connected = tokio_postgres::connect(&options, NoTls).await;
    let (client, connection) =
        connected.unwrap_or_else(|error| panic!("{error:?}\n{}", instance.log()));
    tokio::spawn(async move {
        let _closed = connection.await;
    });
    client
}

#[test]
fn a_compute_that_dies_under_load_is_replaced_and_clients_are_held() {
    dies_under_load("directory");
}

/// The same on a mount, where this machine allows one.
#[test]
fn a_compute_on_a_mount_that_dies_under_load_is_replaced_and_clients_are_held() {
    dies_under_load("auto");
}

fn dies_under_load(mode: &str) {
    let folder = Folder::new();
    let instance = start_in(mode, &folder, "");
    instance.sql("CREATE TABLE ledger (client int, number int, PRIMARY KEY (client, number))");
    branch(&instance, "feature");
    let tokio = runtime();
    let idle = tokio.block_on(connect(&instance, "feature"));
    let inside = tokio.block_on(connect(&instance, "feature"));
    tokio.block_on(inside.batch_execute("BEGIN")).expect("it begins");
    let over = AtomicBool::new(false);
    let acknowledged: Vec<AtomicI64> = (0..4).map(|_client| AtomicI64::new(0)).collect();
    std::thread::scope(|scope| {
        // A failed assertion ends the writers, too; else the test would wait for them for ever.
        let _end = SetAtEnd(&over);
        for (client, count) in acknowledged.iter().enumerate() {
            let (instance, over) = (&instance, &over);
            scope.spawn(move || runtime().block_on(write(instance, client, count, over)));
        }
        let mut killed = String::new();
        for _kill in 0..2 {
            let before: i64 = sum(&acknowledged);
            until("something is written", || (sum(&acknowledged) > before + 20).then_some(()));
            killed = another(&instance, &killed);
            let kill = std::process::Command::new("kill").args(["-9", &killed]).status();
            assert!(kill.expect("kill runs").success());
        }
        let before = sum(&acknowledged);
        until("it goes on", || (sum(&acknowledged) > before + 20).then_some(()));
        another(&instance, &killed);
    });
    assert!(tokio.block_on(inside.simple_query("SELECT 1")).is_err(), "it was in a transaction");
    let rows = tokio.block_on(idle.query("SELECT client, max(number) FROM ledger GROUP BY 1", &[]));
    let rows = rows.expect("an idle client keeps its connection");
    for (client, count) in acknowledged.iter().enumerate() {
        let found = rows.iter().find(|row| usize::try_from(row.get::<_, i32>(0)) == Ok(client));
        let last = found.map_or(0, |row| i64::from(row.get::<_, i32>(1)));
        let count = count.load(Ordering::Relaxed);
        assert!(last >= count, "client {client}: {count} were acknowledged, {last} are there");
    }
    assert!(instance.log().matches("a compute died").count() == 2, "{}", instance.log());
}

#[test]
#[cfg(target_os = "linux")]
fn a_killed_howdah_leaves_no_compute_and_the_next_goes_on() {
    let folder = Folder::new();
    let instance = start_in("auto", &folder, "");
    instance.sql("CREATE TABLE t (a int)");
    branch(&instance, "feature");
    psql(&instance, "postgres@feature", "INSERT INTO t VALUES (1)").expect("it is written");
    let line = compute(&instance, "feature").expect("it runs");
    let pids = [line["pid"].as_u64(), line["postgres_pid"].as_u64()];
    instance.signal("-KILL");
    drop(instance);
    for pid in pids.map(|pid| pid.expect("a process")) {
        let path = format!("/proc/{pid}");
        until("it ends with us", || (!std::path::Path::new(&path).exists()).then_some(()));
    }
    // Its server goes down by itself, too.
    let next = start_in("auto", &folder, "");
    let count = psql(&next, "postgres@feature", "SELECT count(*) FROM t");
    assert_eq!(count.as_deref(), Ok("1"), "{}", next.log());
}

/// The process of the branch's compute, once it is not the one that was `killed`: a server goes on for a moment after that,
/// and is not listed any more.
fn another(instance: &Instance, killed: &str) -> String {
    until("another compute runs", || {
        let pid = compute(instance, "feature")?["pid"].as_u64()?.to_string();
        (pid != killed).then_some(pid)
    })
}

/// Says at the end of its scope, however that ends, that it is over.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn sum(counts: &[AtomicI64]) -> i64 {
    counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
}

/// Writes numbers one after the other, each in a transaction of its own, and says which are acknowledged. What was under
/// way when the server died is lost with its connection; the number is not used again.
async fn write(instance: &Instance, client: usize, count: &AtomicI64, over: &AtomicBool) {
    let mut connection = connect(instance, "feature").await;
    let mut number = 0_i32;
    while !over.load(Ordering::Relaxed) {
        number += 1;
        let client = i32::try_from(client).expect("it is small");
        let done =
            connection.execute("INSERT INTO ledger VALUES ($1, $2)", &[&client, &number]).await;
        match done {
            Ok(_rows) => count.store(i64::from(number), Ordering::Relaxed),
            Err(error) if error.is_closed() || error.code().is_some() => {
                connection = connect(instance, "feature").await;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}
