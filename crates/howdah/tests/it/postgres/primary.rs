//! `main` as a compute: founded, killed in every way under load, moved from a directory. Without the right to mount there
//! is nothing to test here.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_postgres::NoTls;

use crate::compute::can_mount;
use crate::instance::{Folder, HOWDAH, Instance, free_port};

/// The numbers of one client whose commits were acknowledged.
type Acknowledged = Mutex<Vec<i32>>;

/// Against hangs only.
const PATIENCE: Duration = Duration::from_secs(180);

/// One where `main` is on a mount; `None` where there are none.
pub(super) fn start(folder: &Folder, more: &str) -> Option<Instance> {
    // Who mounts is the process that stays root.
    (can_mount() && runtime::identity::is_root()).then(|| {
        let instance = Instance::start_as(folder, "mount", more, "127.0.0.1:0");
        assert_eq!(instance.facts["postgres"]["place"], "mount", "{}", instance.facts);
        instance
    })
}

pub(super) fn main_of(instance: &Instance) -> Option<Value> {
    let answer: Value = serde_json::from_str(&instance.get("/v1/computes")).expect("JSON");
    let computes = answer["computes"].as_array().expect("a list");
    computes.iter().find(|compute| compute["name"] == "main").cloned()
}

pub(super) fn until<T>(what: &str, instance: &Instance, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "never: {what}\n{}", instance.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(super) fn kill(pid: u64) {
    let kill = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
    assert!(kill.expect("kill runs").success());
}

/// That all indexes and tables fit together.
fn check(instance: &Instance) {
    instance.sql("CREATE EXTENSION IF NOT EXISTS amcheck");
    let arguments = ["-d", "postgres", "--heapallindexed", "--parent-check"];
    let checked = instance.client("pg_amcheck", &arguments);
    assert!(checked.is_ok(), "{checked:?}");
}

#[test]
fn main_is_founded_in_a_directory_that_goes_and_comes_up_again() {
    let folder = Folder::new();
    let Some(first) = start(&folder, "") else { return };
    let data = folder.path().join("data");
    assert!(!data.join("postgres").exists(), "it is removed");
    first.pgbench(&["-i", "-q", "-s", "1"]);
    first.pgbench(&["-n", "-c", "4", "-t", "50"]);
    assert_eq!(first.sql("SHOW shared_buffers"), "16MB", "[postgres] settings");
    first.howdah(&["branch", "create", "feature"]).expect("it branches");
    let main = main_of(&first).expect("it runs");
    assert_eq!((&main["mode"], &main["phase"]), (&"fuse".into(), &"running".into()), "{main}");
    let told: Value = serde_json::from_str(&first.get("/v1/status")).expect("JSON");
    assert_eq!(told["place"]["main"], "mount", "{told}");
    let refused =
        first.howdah(&["verify", "--data-dir", &data.join("postgres").display().to_string()]);
    assert!(refused.as_ref().is_err_and(|said| said.contains("howdah restore")), "{refused:?}");
    let (status, log) = first.stop("-TERM");
    assert!(status.success(), "{log}");
    let said = fs::read_to_string(data.join("computes/main.log")).expect("it has a log");
    assert!(said.contains("database system is shut down"), "a fast shutdown: {said}");
    // What somebody puts there later is not ours to remove.
    fs::create_dir(data.join("postgres")).expect("it is ours");
    let second = Instance::start(&folder, "");
    assert_eq!(second.sql("SELECT count(*) FROM pgbench_history"), "200");
    check(&second);
    assert!(data.join("postgres").exists());
    let (status, log) = second.stop("-INT");
    assert!(status.success(), "{log}");
}

#[test]
fn an_interrupted_founding_is_begun_anew() {
    let folder = Folder::new();
    let Some(first) = start(&folder, "") else { return };
    first.sql("CREATE TABLE t AS SELECT 1 AS one");
    drop(first);
    // As if it had been killed when the directory was left and not yet removed.
    let data = folder.path().join("data");
    fs::create_dir(data.join("postgres")).expect("it is ours");
    fs::write(data.join("place"), "mount, directory to be removed\n").expect("it is ours");
    let second = Instance::start(&folder, "");
    assert_eq!(second.sql("SELECT one FROM t"), "1");
    assert!(!data.join("postgres").exists(), "it is removed");
    assert_eq!(fs::read_to_string(data.join("place")).expect("it is there"), "mount\n");
}

#[test]
fn a_founding_that_is_killed_anywhere_is_begun_anew() {
    if !can_mount() || !runtime::identity::is_root() {
        return;
    }
    let folder = Folder::new();
    let config = folder.path().join("early.toml");
    let text = format!(
        "[api]\nlisten = \"127.0.0.1:0\"\n[pageserver]\nlisten = \"127.0.0.1:0\"\n\
         [postgres]\nplace = \"mount\"\nport = 0\nsettings.fsync = false\n\
         [pooler]\nlisten_port = {}\n",
        free_port()
    );
    fs::write(&config, text).expect("the folder is ours");
    let place = folder.path().join("data/place");
    // While it is made, followed, handed over: whatever this machine has come to by then.
    for pause in [100, 400, 800, 1200, 1600, 2400] {
        let mut early = std::process::Command::new(HOWDAH)
            .args(["up", "--json", "--dir"])
            .arg(folder.path().join("data"))
            .arg("--config")
            .arg(&config)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("howdah starts");
        std::thread::sleep(Duration::from_millis(pause));
        early.kill().expect("it is ours");
        early.wait().expect("it ends");
        if fs::read_to_string(&place).is_ok_and(|stage| stage == "mount\n") {
            break;
        }
    }
    let instance = Instance::start_as(&folder, "mount", "", "127.0.0.1:0");
    instance.sql("CREATE TABLE t AS SELECT 1 AS one");
    assert_eq!(instance.sql("SELECT one FROM t"), "1");
    assert!(!folder.path().join("data/postgres").exists(), "it is removed");
}

#[test]
fn a_directory_is_moved_when_that_is_asked_for() {
    let folder = Folder::new();
    if !can_mount() || !runtime::identity::is_root() {
        return;
    }
    let first = Instance::in_directory(&folder, "");
    first.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a");
    first.sql("ALTER SYSTEM SET work_mem = '5MB'");
    let (status, log) = first.stop("-INT");
    assert!(status.success(), "{log}");
    let second = Instance::start_as(&folder, "mount", "", "127.0.0.1:0");
    assert_eq!(second.facts["postgres"]["place"], "mount");
    assert_eq!(second.sql("SELECT count(*) FROM t"), "1000");
    assert_eq!(second.sql("SHOW work_mem"), "5MB");
    second.sql("ALTER SYSTEM SET work_mem = '6MB'");
    assert!(folder.path().join("data/postgres.before-mount/PG_VERSION").exists());
    drop(second);
    let third = Instance::start(&folder, "");
    assert_eq!(third.sql("SELECT count(*) FROM t"), "1000");
    assert_eq!(third.sql("SHOW work_mem"), "6MB", "ALTER SYSTEM lasts");
    assert_eq!(third.facts["postgres"]["place"], "mount");
}

#[test]
fn whatever_is_killed_under_load_nothing_acknowledged_is_lost() {
    let folder = Folder::new();
    let Some(mut instance) = start(&folder, "") else { return };
    instance.sql("CREATE TABLE ledger (client int, number int, PRIMARY KEY (client, number))");
    let acknowledged: Vec<Acknowledged> = (0..4).map(|_client| Mutex::default()).collect();
    for victim in ["postgres_pid", "pid", "postgres_pid", "howdah"] {
        under_load(&instance, &acknowledged, || {
            progress(&instance, &acknowledged);
            if victim == "howdah" {
                instance.signal("-KILL");
                return;
            }
            let main = main_of(&instance).expect("it runs");
            kill(main[victim].as_u64().expect("a process"));
            progress(&instance, &acknowledged);
        });
        if victim == "howdah" {
            drop(instance);
            instance = Instance::start(&folder, "");
        }
    }
    under_load(&instance, &acknowledged, || progress(&instance, &acknowledged));
    for (client, numbers) in acknowledged.iter().enumerate() {
        let written = instance.sql(&format!("SELECT number FROM ledger WHERE client = {client}"));
        let written: BTreeSet<i32> = written.lines().filter_map(|row| row.parse().ok()).collect();
        let numbers = numbers.lock().expect("nobody panicked").clone();
        let lost: Vec<&i32> = numbers.iter().filter(|number| !written.contains(number)).collect();
        assert!(lost.is_empty(), "client {client}: lost {lost:?}\n{}", instance.log());
    }
    check(&instance);
}

/// Writes go on.
fn progress(instance: &Instance, acknowledged: &[Acknowledged]) {
    let count = |numbers: &Acknowledged| numbers.lock().expect("nobody panicked").len();
    let sum = || acknowledged.iter().map(count).sum::<usize>();
    let before = sum();
    until("something is written", instance, || (sum() > before + 40).then_some(()));
}

/// Writers write until this is done.
fn under_load(instance: &Instance, acknowledged: &[Acknowledged], act: impl FnOnce()) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // A failed assertion ends the writers, too; else the test would wait for them for ever.
        let _end = SetAtEnd(&over);
        for (client, numbers) in acknowledged.iter().enumerate() {
            let over = &over;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("there are descriptors");
            scope.spawn(move || runtime.block_on(write(instance, client, numbers, over)));
        }
        act();
    });
}

/// Says at the end of its scope, however that ends, that it is over.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn connect(instance: &Instance) -> Option<tokio_postgres::Client> {
    let (host, port) = instance.address("pooler");
    let options = format!("host={host} port={port} user=postgres dbname=postgres");
    let (client, connection) = tokio_postgres::connect(&options, NoTls).await.ok()?;
    tokio::spawn(async move {
        let _closed = connection.await;
    });
    Some(client)
}

/// Writes numbers one after the other, each in a transaction of its own, and says which are acknowledged. One whose fate
/// is unknown is not used again. Ends when it is over, or when nobody listens any more.
async fn write(instance: &Instance, client: usize, numbers: &Acknowledged, over: &AtomicBool) {
    let client = i32::try_from(client).expect("it is small");
    let last = numbers.lock().expect("nobody panicked").last().copied();
    let mut number = last.map_or(0, |last| last + 1000);
    while !over.load(Ordering::Relaxed) {
        let Some(connection) = connect(instance).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        while !over.load(Ordering::Relaxed) {
            number += 1;
            let insert = "INSERT INTO ledger VALUES ($1, $2)";
            match connection.execute(insert, &[&client, &number]).await {
                Ok(_rows) => numbers.lock().expect("nobody panicked").push(number),
                Err(error) if error.is_closed() || error.code().is_some() => break,
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}
