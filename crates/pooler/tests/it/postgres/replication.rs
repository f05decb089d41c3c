//! Programs that replicate, through the pooler.

use std::pin::pin;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use pg::wire::startup::{self, ProtocolVersion};
use pooler::settings::{PoolMode, Settings};
use runtime::clock;
use runtime::net::{Address, Stream};

use super::cluster::Cluster;
use super::session::Session;
use super::{Setting, run_with, settings};

/// A client program that is told where the pooler is.
fn program(setting: &Setting, name: &str, arguments: &[&str]) -> Command {
    let Address::Tcp(address) = &setting.address else { panic!("it listens on TCP") };
    let mut command = setting.cluster.command(name);
    command.env("PGHOST", address.ip().to_string()).env("PGPORT", address.port().to_string());
    command.env("PGSSLMODE", "disable").args(arguments);
    command
}

/// Runs it to its end, while the core goes on.
async fn output(mut command: Command) -> Output {
    let done = runtime::bridge::blocking(move || command.output());
    done.await.expect("a thread").expect("it is installed")
}

async fn succeeds(command: Command) -> String {
    let output = output(command).await;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

fn in_mode(pool_mode: PoolMode) -> Settings {
    Settings { pool_mode, default_pool_size: 1, ..settings() }
}

async fn lines(setting: &Setting) -> Vec<(u64, u64)> {
    let snapshots = setting.pooler.snapshots().await;
    let clients = snapshots.iter().flat_map(|snapshot| &snapshot.clients);
    let walsender = pooler::console::snapshot::Replication::None;
    let clients = clients.filter(|client| client.replication != walsender);
    clients.map(|client| (client.id, client.link.expect("both sides are there"))).collect()
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn a_base_backup_can_be_taken() {
    run_with(Cluster::start(&[], ""), in_mode(PoolMode::Transaction), async |setting: &Setting| {
        setting.cluster.sql("create table kept as select generate_series(1, 20000) as n");
        let target = setting.cluster.directory().join("backup");
        let target = target.to_str().expect("a path of ours");
        let backup = ["-D", target, "-X", "stream", "-c", "fast", "--no-sync"];
        succeeds(program(setting, "pg_basebackup", &backup)).await;
        succeeds(program(setting, "pg_verifybackup", &[target])).await;
        setting.until("both walsenders are gone", async || lines(setting).await.is_empty()).await;
        assert_eq!(setting.servers().await, 0, "nothing of it is pooled");
    });
}

#[test]
fn wal_is_received_until_an_administrator_ends_it() {
    run_with(Cluster::start(&[], ""), in_mode(PoolMode::Session), async |setting: &Setting| {
        let target = setting.cluster.directory().join("wal");
        let path = target.to_str().expect("a path of ours").to_owned();
        // The server's user owns it, as its programs run.
        setting.cluster.sql(&format!("copy (select 1) to program 'mkdir {path}'"));
        let mut command = program(setting, "pg_receivewal", &["-D", &path, "--no-loop"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut receiver = Running(child.expect("it is installed"));
        setting.until("it streams", async || lines(setting).await.len() == 1).await;
        let sent = "select count(*) from pg_stat_replication where state = 'streaming'";
        setting.until("the server streams", async || setting.cluster.sql(sent) == "1").await;
        // A pool of one is not touched by it.
        let mut session = setting.session().await;
        assert_eq!(session.query("select 1").await, "T(1)Z");
        setting.cluster.sql("create table t as select generate_series(1, 50000) as n");
        setting.cluster.sql("select pg_switch_wal()");
        setting
            .until("a whole segment arrives", async || {
                let files = runtime::fs::blocking::read_dir(&target).unwrap_or_default();
                files.iter().any(|file| file.name.len() == 24)
            })
            .await;
        let (id, _server) = lines(setting).await[0];
        let kill = format!("kill_client {id}");
        succeeds(program(setting, "psql", &["-XAtq", "-d", "pgbouncer", "-c", &kill])).await;
        setting.until("it is gone", async || lines(setting).await.is_empty()).await;
        setting
            .until("its program ends", async || {
                receiver.0.try_wait().is_ok_and(|end| end.is_some())
            })
            .await;
    });
}

#[test]
fn a_database_streams_its_changes() {
    let cluster = Cluster::start(&["wal_level=logical"], "");
    run_with(cluster, in_mode(PoolMode::Transaction), async |setting: &Setting| {
        let slot = ["-d", "postgres", "--slot", "changes", "-P", "test_decoding"];
        let create: Vec<&str> = slot.iter().copied().chain(["--create-slot"]).collect();
        succeeds(program(setting, "pg_recvlogical", &create)).await;
        setting.cluster.sql("create table t (n int)");
        setting.cluster.sql("insert into t values (42)");
        let end = setting.cluster.sql("select pg_current_wal_lsn()");
        let tail = ["--start", "--endpos", &end, "--no-loop", "-f", "-"];
        let start: Vec<&str> = slot.iter().copied().chain(tail).collect();
        let changes = succeeds(program(setting, "pg_recvlogical", &start)).await;
        assert!(changes.contains("n[integer]:42"), "{changes}");
    });
}

#[test]
fn the_server_says_who_may_replicate() {
    let cluster = Cluster::start(&[], "");
    cluster.sql("create role ann login");
    let mut settings = in_mode(PoolMode::Transaction);
    settings.users.insert("ann".to_owned(), pooler::settings::User::default());
    run_with(cluster, settings, async |setting: &Setting| {
        let mut session = Session::connect(&setting.address).await;
        assert_eq!(session.log_in("ann", "", &[("replication", "true")]).await, "E(42501).");
        let mut session = Session::connect(&setting.address).await;
        let answer = session.log_in("postgres", "", &[("replication", "perhaps")]).await;
        assert_eq!(answer, "E(22023).");
        let mut session = Session::connect(&setting.address).await;
        let answer = session.log_in("postgres", "", &[("replication", "off")]).await;
        assert!(answer.ends_with('Z'), "{answer}");
        let mut session = Session::connect(&setting.address).await;
        let answer = session.log_in("postgres", "", &[("replication", "database")]).await;
        assert!(answer.ends_with('Z'), "{answer}");
        let answer = session.query("IDENTIFY_SYSTEM").await;
        assert!(answer.starts_with("T(") && answer.ends_with('Z'), "{answer}");
        assert_eq!(session.query("select 1").await, "T(1)Z", "as on any connection");
    });
}

#[test]
fn what_a_replication_connection_runs_can_be_canceled() {
    let cluster = Cluster::start(&["wal_level=logical"], "");
    run_with(cluster, in_mode(PoolMode::Transaction), async |setting: &Setting| {
        for version in [ProtocolVersion::V3_0, ProtocolVersion::V3_2] {
            let mut session = Session::connect(&setting.address).await;
            let parameters = [("replication", "database")];
            session.log_in_with(version, "postgres", "", &parameters).await;
            session.add_query("select pg_sleep(1000)").send();
            let sleeping = "select count(*) from pg_stat_activity \
                where wait_event = 'PgSleep' and backend_type = 'walsender'";
            setting.until("it runs", async || setting.cluster.sql(sleeping) == "1").await;
            let (id, key) = session.cancel.clone();
            let wrong = key.iter().map(|byte| !byte).collect::<Vec<u8>>();
            for key in [wrong, key] {
                let canceler = Stream::connect(&setting.address).await.expect("it accepts");
                let mut out = Vec::new();
                startup::write_cancel_request(&mut out, id, &key);
                canceler.queue(&out);
                assert!(canceler.recv().await.expect("a clean close").is_empty());
            }
            assert_eq!(session.answer().await, "TE(57014)Z", "{version:?}");
            assert_eq!(session.query("select 1").await, "T(1)Z", "it goes on");
        }
    });
}

#[test]
fn a_reconnect_ends_what_replicates() {
    run_with(Cluster::start(&[], ""), in_mode(PoolMode::Transaction), async |setting: &Setting| {
        let mut session = Session::connect(&setting.address).await;
        let answer = session.log_in("postgres", "", &[("replication", "database")]).await;
        assert!(answer.ends_with('Z'), "{answer}");
        let mut console = Session::connect(&setting.address).await;
        console.log_in("postgres", "", &[("database", "pgbouncer")]).await;
        assert_eq!(console.query("RECONNECT template1").await, "Z");
        assert_eq!(session.query("select 1").await, "T(1)Z", "that was another database");
        assert_eq!(console.query("RECONNECT").await, "Z");
        assert_eq!(session.answer().await, ".");
    });
}

#[test]
fn a_paused_database_is_waited_for() {
    run_with(Cluster::start(&[], ""), in_mode(PoolMode::Transaction), async |setting: &Setting| {
        let _known = setting.session().await;
        let mut console = Session::connect(&setting.address).await;
        console.log_in("postgres", "", &[("database", "pgbouncer")]).await;
        assert_eq!(console.query("PAUSE postgres").await, "Z");
        let mut session = Session::connect(&setting.address).await;
        let mut logging_in = pin!(session.log_in("postgres", "", &[("replication", "database")]));
        let early = clock::timeout(Duration::from_millis(100), logging_in.as_mut()).await;
        assert!(early.is_err(), "nobody is let in, and nobody is refused");
        assert_eq!(console.query("RESUME postgres").await, "Z");
        let answer = logging_in.await;
        assert!(answer.ends_with('Z'), "{answer}");
    });
}
