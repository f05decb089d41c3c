//! Kills of computes and of the page server under load: nothing that a client was told to be committed is lost.
//!
//! `HOWDAH_KILLS` in the environment says how many there are to be (a few, unless it says more).

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pageserver::settings::Settings;
use pg::lsn::Lsn;
use runtime::clock;
use runtime::random::Rng;

use crate::cluster::{Cluster, Folder};
use crate::postgres::writable::{compute, stop_and_verify};
use crate::postgres::{current_lsn, stop_and_verify as stop_and_verify_main};
use crate::service::{Service, block_on, settings};
use crate::tools::Tools;

/// Set for a page server in a process of its own: its settings as JSON.
const SETTINGS: &str = "HOWDAH_TEST_SETTINGS";
/// Rows that one client tries to insert in one round.
const ROWS_MAX: u32 = 100_000;
/// Clients at once.
const CLIENTS: u32 = 3;

fn kills(few: u32) -> u32 {
    environment("HOWDAH_KILLS").and_then(|text| text.parse().ok()).unwrap_or(few)
}

#[expect(clippy::disallowed_methods, reason = "a test is told how long it is to run")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn pause(milliseconds: u64) {
    block_on(async move { clock::sleep(Duration::from_millis(milliseconds)).await });
}

/// What clients were told.
#[derive(Default)]
struct Ledger {
    next: u32,
    committed: BTreeSet<u32>,
}

impl Ledger {
    /// Clients insert rows as fast as they can while `meanwhile` runs, which ends by ending their server or their patience.
    fn write(&mut self, psql: impl Fn() -> Command, meanwhile: impl FnOnce()) {
        let first = self.next;
        self.next += CLIENTS * ROWS_MAX;
        let mut clients: Vec<Client> =
            (0..CLIENTS).map(|number| Client::start(psql(), first + number * ROWS_MAX)).collect();
        std::thread::scope(|scope| {
            let reading: Vec<_> =
                clients.iter_mut().map(|client| client.run()).map(|run| scope.spawn(run)).collect();
            meanwhile();
            for reader in reading {
                self.committed.extend(reader.join().expect("a client's thread ends"));
            }
        });
        clients.into_iter().for_each(Client::end);
    }

    /// Every row that a client was told to be committed is there.
    fn check(&self, rows: &str) {
        let there: BTreeSet<u32> =
            rows.lines().map(|line| line.parse().expect("a number")).collect();
        let lost: Vec<_> = self.committed.difference(&there).take(10).collect();
        assert!(lost.is_empty(), "committed and lost: {lost:?} of {}", self.committed.len());
    }
}

/// A psql that inserts one row after another.
struct Client {
    child: Child,
    first: u32,
}

impl Client {
    fn start(mut psql: Command, first: u32) -> Client {
        psql.args(["-XqAt", "-d", "postgres", "-v", "ON_ERROR_STOP=1"]);
        psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        Client { child: psql.spawn().expect("psql is installed"), first }
    }

    /// Answers the rows that the server said were committed, once it ends.
    fn run(&mut self) -> impl FnOnce() -> Vec<u32> + Send + use<> {
        let mut input = self.child.stdin.take().expect("it has a pipe");
        let mut output = self.child.stdout.take().expect("it has a pipe");
        let first = self.first;
        move || {
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    for row in first..first + ROWS_MAX {
                        let line = format!("INSERT INTO ledger VALUES ({row}) RETURNING n;\n");
                        if input.write_all(line.as_bytes()).is_err() {
                            return;
                        }
                    }
                });
                let mut told = String::new();
                output.read_to_string(&mut told).expect("what psql prints can be read");
                // psql prints a row when the transaction has ended. The last line may be half a number.
                let whole = told.rsplit_once('\n').map_or("", |(whole, _rest)| whole);
                whole.lines().map(|line| line.parse().expect("a number")).collect()
            })
        }
    }

    fn end(mut self) {
        let _ended = self.child.wait();
    }
}

/// A page server in a process of its own, to be killed by SIGKILL.
struct Process(Child);

impl Process {
    #[expect(clippy::disallowed_methods, reason = "a test starts a page server that can be killed")]
    fn start(settings: &Settings) -> Process {
        let own = std::env::current_exe().expect("we are a program");
        let mut command = Command::new(own);
        command.args(["postgres::kills::the_page_server_that_is_killed", "--exact", "--ignored"]);
        let json = serde_json::to_string(settings).expect("settings become JSON");
        command.env(SETTINGS, json).env_remove("NEXTEST");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Process(command.spawn().expect("we can be started"))
    }

    fn kill(mut self) {
        self.0.kill().expect("it runs");
        let _ended = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
    }
}

#[test]
#[ignore = "the other tests run it as a process of its own"]
fn the_page_server_that_is_killed() {
    let Some(json) = environment(SETTINGS) else { return };
    let service = Service::start(serde_json::from_str(&json).expect("settings"));
    // Until whoever started us goes.
    let mut nothing = Vec::new();
    let _ended = std::io::stdin().read_to_end(&mut nothing);
    service.kill();
}

#[test]
fn no_commit_on_a_branch_is_lost_by_kills_of_its_computes() {
    let cluster = Cluster::start("ledger", &[], &[]);
    let (tools, folder) = (Tools::of(&cluster), Folder::new("ledger-ps"));
    let settings = settings(folder.path(), cluster.socket());
    let mut service = Service::start(settings.clone());
    service.wait_streaming();
    cluster.sql("CREATE TABLE ledger (n int PRIMARY KEY, padding text DEFAULT repeat('x', 200))");
    service.wait_lsn(current_lsn(&cluster));
    service.branch("b", "main", "").expect("it can be made");
    let (mut ledger, mut random) = (Ledger::default(), Rng::seeded(7));
    for round in 0..kills(3) {
        let name = format!("compute{round}");
        let compute = compute((&cluster, &tools), &service, ("b", &name));
        service.attach("b", &compute.socket(), None).expect("it was started there");
        ledger.check(&compute.sql("SELECT n FROM ledger"));
        if round % 2 == 1 {
            // The page server goes as well, and comes back under the running compute.
            let (data, before) = (compute.data.clone(), service.end_of("b"));
            let psql = || tools.psql_at(&data);
            service.kill();
            let mut again = None;
            ledger.write(psql, || {
                let process = Process::start(&settings);
                pause(500 + random.below(1000));
                process.kill();
                pause(random.below(300));
                again = Some(Service::start(settings.clone()));
                again.as_ref().expect("it is there").wait_streaming();
                pause(500 + random.below(500));
                compute.kill();
            });
            service = again.expect("it was started");
            assert!(service.end_of("b") > before, "it was followed");
        } else {
            let data = compute.data.clone();
            ledger.write(
                || tools.psql_at(&data),
                || {
                    pause(300 + random.below(1500));
                    compute.kill();
                },
            );
        }
        service.detach("b");
        let _removed = std::fs::remove_dir_all(cluster.folder().join(&name));
    }
    let mut last = compute((&cluster, &tools), &service, ("b", "last"));
    service.attach("b", &last.socket(), None).expect("it was started there");
    ledger.check(&last.sql("SELECT n FROM ledger"));
    assert!(!ledger.committed.is_empty());
    println!("{} commits, none lost", ledger.committed.len());
    stop_and_verify(&service, "b", &mut last);
    service.stop();
}

#[test]
fn no_commit_is_lost_by_kills_of_the_page_server() {
    let mut cluster = Cluster::start("murder", &[], &["max_wal_size = 64MB"]);
    let folder = Folder::new("murder-ps");
    let settings = settings(folder.path(), cluster.socket());
    let service = Service::start(settings.clone());
    service.wait_streaming();
    cluster.pgbench(&["-i", "-s", "1", "-q"]);
    cluster.sql("CREATE TABLE ledger (n int PRIMARY KEY)");
    cluster.sql("ALTER SYSTEM SET synchronous_standby_names = 'howdah'");
    cluster.sql("SELECT pg_reload_conf()");
    service.stop();
    let (mut ledger, mut random) = (Ledger::default(), Rng::seeded(11));
    let mut told = Lsn::INVALID;
    for _round in 0..kills(4) {
        let process = Process::start(&settings);
        let mut last = None;
        ledger.write(
            || cluster.client("psql"),
            || {
                pause(300 + random.below(900));
                process.kill();
                let process = Process::start(&settings);
                pause(300 + random.below(900));
                process.kill();
                last = Some(Process::start(&settings));
                pause(600 + random.below(300));
                cluster.end_clients();
            },
        );
        let flushed = "SELECT coalesce(max(flush_lsn), '0/0') FROM pg_stat_replication";
        told = told.max(cluster.sql(flushed).parse().expect("an LSN"));
        last.expect("it was started").kill();
        // Nobody else follows: what it was told is what is on disk.
        let service = Service::start(settings.clone());
        let status = service.wait_streaming();
        let here: Lsn = status.flushed_lsn.and_then(|lsn| lsn.parse().ok()).expect("an LSN");
        assert!(here >= told, "{told} was acknowledged, {here} is here");
        service.kill();
    }
    ledger.check(&cluster.sql("SELECT n FROM ledger"));
    println!("{} commits, none lost", ledger.committed.len());
    let service = Service::start(settings);
    service.wait_streaming();
    service.wait_lsn(current_lsn(&cluster));
    assert!(stop_and_verify_main(&mut cluster, &service).is_identical());
    service.stop();
}
