//! `howdah import`: a server that runs elsewhere is looked at, taken in while it is written, followed and branched.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cluster::{Cluster, Programs};
use serde_json::Value;

use crate::instance::{Folder, HOWDAH, Instance, free_port, program};
use crate::node::Node;

/// Against hangs only.
const PATIENCE: Duration = Duration::from_secs(180);

/// The connection string of an instance's server, as a stranger would write it.
fn conninfo(instance: &Instance, user: &str) -> String {
    let folder = instance.facts["postgres"]["socket_directory"].as_str().expect("a path");
    format!("host='{folder}' port=5432 user={user} dbname=postgres")
}

fn import(arguments: &[&str]) -> Command {
    let mut command = Command::new(HOWDAH);
    command.arg("import").args(arguments).stdin(Stdio::null());
    command.env_remove("PGUSER").env_remove("PGPASSWORD").env("HOME", "/nonexistent");
    command
}

/// Standard output of an import that ends well, else standard error.
fn run(arguments: &[&str]) -> Result<String, String> {
    let output = import(arguments).output().expect("howdah runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn slots(instance: &Instance) -> String {
    instance.sql("SELECT string_agg(slot_name, ',' ORDER BY slot_name) FROM pg_replication_slots")
}

#[test]
fn a_server_that_is_written_is_taken_in_and_branched() {
    let folder = Folder::new();
    let instance = Instance::start(&folder, "");
    instance.pgbench(&["-i", "-q", "-s", "1"]);
    instance.sql("ALTER SYSTEM SET max_locks_per_transaction = 70");
    instance.sql("SELECT pg_reload_conf()");
    let from = conninfo(&instance, "postgres");
    let directory = folder.path().join("imported");
    let target = directory.display().to_string();
    let arguments = ["--from", &from, "--dir", &target, "--slot", "second", "--json"];
    let checked = run(&[&arguments[..], &["--check"]].concat()).expect("it can be imported");
    let checked: Value = serde_json::from_str(&checked).expect("JSON");
    assert_eq!(checked["imported"], false);
    assert!(!directory.exists() && slots(&instance) == "howdah", "looking changes nothing");
    let said = std::thread::scope(|scope| {
        let load = scope.spawn(|| instance.pgbench(&["-n", "-c", "4", "-T", "3"]));
        let said = run(&arguments);
        load.join().expect("pgbench ends");
        said
    });
    let said: Value = serde_json::from_str(&said.expect("it is imported")).expect("JSON");
    assert_eq!(said["imported"], true, "{said}");
    assert_eq!(slots(&instance), "howdah,second");
    let again = run(&arguments).expect("it goes on");
    let again: Value = serde_json::from_str(&again).expect("JSON");
    assert_eq!(again["oldest_lsn"], said["oldest_lsn"], "no second base backup");

    let imported = Imported::start(&directory);
    let node = &imported.node;
    let sums = "SELECT count(*), sum(abalance), (SELECT count(*) FROM pgbench_history) FROM pgbench_accounts";
    let expected = instance.sql(sums);
    instance.sql("CREATE TABLE howdah_moment ()");
    let lsn = instance.sql("SELECT pg_current_wal_flush_lsn()");
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = node.howdah(&["branch", "create", "try", "--at", &lsn]) {
        assert!(Instant::now() < deadline, "{error}\n{}", node.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(imported.sql("postgres@try", sums), expected);
    assert_eq!(
        imported.sql("postgres@try", "SHOW max_connections"),
        instance.sql("SHOW max_connections")
    );
    let written =
        imported.sql("postgres@try", "CREATE TABLE t AS SELECT 1 AS one; SELECT one FROM t");
    assert_eq!(written, "1");
    assert_eq!(instance.sql("SELECT to_regclass('t') IS NULL"), "t");
    // Others keep out meanwhile.
    let error = run(&arguments).expect_err("the node has the folder");
    assert!(error.contains("in use by process") || error.contains("another Howdah"), "{error}");
    imported.node.stop();
}

#[test]
fn a_killed_import_goes_on() {
    let folder = Folder::new();
    let instance = Instance::start(&folder, "");
    instance.pgbench(&["-i", "-q", "-s", "3"]);
    let from = conninfo(&instance, "postgres");
    let directory = folder.path().join("imported");
    let target = directory.display().to_string();
    let arguments = ["--from", &from, "--dir", &target, "--slot", "second", "--json"];
    let mut child = import(&arguments).stdout(Stdio::null()).spawn().expect("howdah runs");
    let layers = directory.join("pageserver/timelines");
    let deadline = Instant::now() + PATIENCE;
    while !layers.exists() && child.try_wait().expect("our child").is_none() {
        assert!(Instant::now() < deadline, "the base backup never begins");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().expect("our child");
    child.wait().expect("our child");
    assert_eq!(slots(&instance), "howdah,second");
    // The server notices that we are gone when it sends.
    instance.sql("SELECT pg_switch_wal()");
    let deadline = Instant::now() + PATIENCE;
    let said = loop {
        match run(&arguments) {
            Ok(said) => break said,
            Err(error) => assert!(error.contains("in use by process"), "{error}"),
        }
        assert!(Instant::now() < deadline, "the slot is never free again");
        std::thread::sleep(Duration::from_millis(100));
    };
    assert!(said.contains("\"imported\":true"), "{said}");
}

#[test]
fn what_stands_in_the_way_is_named() {
    let folder = Folder::new();
    let instance = Instance::start(&folder, "");
    instance.sql("CREATE ROLE plain LOGIN");
    let directory = folder.path().join("imported").display().to_string();
    let (good, plain) = (conninfo(&instance, "postgres"), conninfo(&instance, "plain"));
    for (from, slot, parts) in [
        (plain.as_str(), "second", &["ALTER ROLE \"plain\" REPLICATION"][..]),
        (good.as_str(), "howdah", &["exists, and this directory does not know it", "--slot"]),
        ("postgres://127.0.0.1:1/", "second", &["127.0.0.1:1", "hint:"]),
        ("postgres://h/?sslcert=x", "second", &["sslcert"]),
    ] {
        let error = run(&["--from", from, "--dir", &directory, "--slot", slot]);
        let error = error.expect_err(from);
        for part in parts {
            assert!(error.contains(part), "{from}: {error}");
        }
        assert!(!Path::new(&directory).exists(), "{from} leaves nothing behind");
    }
    assert_eq!(slots(&instance), "howdah");
}

/// A cluster that user `taker` may enter with a password and TLS only, and a folder with the authority's certificate.
fn over_tls() -> (Cluster, Folder) {
    let mut cluster = Cluster::create(Programs::default(), "tls", &[]);
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]);
    let made = made.expect("a certificate can be made");
    cluster.make_file("server.crt", &made.cert.pem());
    cluster.make_file("server.key", &made.signing_key.serialize_pem());
    let folder = Folder::new();
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]);
    let other = other.expect("a certificate can be made").cert.pem();
    for (name, text) in [("root.crt", made.cert.pem()), ("other.crt", other)] {
        fs::write(folder.path().join(name), text).expect("the folder is ours");
    }
    cluster.allow(
        "hostssl all,replication taker 127.0.0.1/32 scram-sha-256\n\
         host all,replication taker 127.0.0.1/32 reject",
    );
    cluster.serve_tcp(&["ssl=on"]);
    cluster.sql("CREATE ROLE taker LOGIN REPLICATION PASSWORD 'geheim'");
    (cluster, folder)
}

#[test]
fn a_server_behind_tls_and_a_password_is_taken_in_and_followed() {
    let (cluster, folder) = over_tls();
    cluster.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i");
    let address = format!("127.0.0.1:{}/postgres", cluster.port());
    let verified = "sslmode=verify-full&sslrootcert=root.crt";
    let checked = import(&["--check", "--dir", "imported", "--from"])
        .arg(format!("postgres://taker@{address}?{verified}"))
        .current_dir(folder.path())
        .env("PGPASSWORD", "geheim")
        .output()
        .expect("howdah runs");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let imported = import(&["--dir", "imported", "--from"])
        .arg(format!("postgres://taker:geheim@{address}?{verified}"))
        .current_dir(folder.path())
        .output()
        .expect("howdah runs");
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    // From another folder than the one that the path of the authority was relative to.
    let imported = Imported::start(&folder.path().join("imported"));
    let encrypted = "SELECT usename, ssl FROM pg_stat_ssl JOIN pg_stat_replication USING (pid)";
    assert_eq!(cluster.sql(encrypted), "taker|t");
    let lsn = cluster.sql("INSERT INTO t VALUES (0) RETURNING pg_current_wal_flush_lsn()");
    let mut node = imported.node;
    node.wait("the branch", |node| node.howdah(&["branch", "create", "b", "--at", &lsn]).ok());
    assert!(!node.log().contains("geheim"));
    node.stop();
}

#[test]
fn what_is_wrong_about_tls_or_the_password_is_said_and_what_to_do() {
    let (mut cluster, folder) = over_tls();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (root, other, directory) = (path("root.crt"), path("other.crt"), path("imported"));
    let check = |port: u16, user: &str, options: &str, parts: &[&str]| {
        let from = format!("postgres://{user}@127.0.0.1:{port}/postgres?{options}");
        let error = run(&["--from", &from, "--dir", &directory]).expect_err(&from);
        for part in parts {
            assert!(error.contains(part), "{from}: {error}");
        }
        assert!(!error.contains("geheim") && !Path::new(&directory).exists(), "{from}: {error}");
    };
    let (port, good) = (cluster.port(), format!("sslmode=verify-ca&sslrootcert={root}"));
    let wrong = format!("sslmode=verify-ca&sslrootcert={other}");
    check(port, "taker:geheim", &wrong, &["certificate", "hint: the authority that sslrootcert"]);
    let missing = format!("sslmode=verify-full&sslrootcert={root}.none");
    check(port, "taker:geheim", &missing, &["root.crt.none", "hint: sslrootcert"]);
    check(port, "taker:geheim", "sslmode=verify-full", &["verify-full", "hint: sslrootcert"]);
    check(
        port,
        "taker:geheimer",
        &good,
        &["password authentication failed", "hint: give the pass"],
    );
    check(port, "taker", &good, &["hint: give the password by PGPASSWORD"]);
    check(port, "taker:geheim", "sslmode=disable", &["pg_hba.conf", "hint: allow it"]);
    // The certificate is not for this name.
    let from = format!(
        "host=localhost port={port} user=taker password=geheim dbname=postgres sslmode=verify-full sslrootcert={root}"
    );
    let error = run(&["--from", &from, "--dir", &directory]).expect_err("another name");
    assert!(error.contains("localhost") && error.contains("verify-full to the host"), "{error}");
    assert_eq!(cluster.sql("SELECT count(*) FROM pg_replication_slots"), "0");

    cluster.stop("fast");
    cluster.serve_tcp(&["ssl=off"]);
    let expected = ["does not support TLS", "hint: set ssl = on"];
    check(cluster.port(), "taker:geheim", "sslmode=require", &expected);
    check(cluster.port(), "taker:geheim", &good, &expected);
}

/// A `howdah node` on an imported directory, and the port of its pooler.
struct Imported {
    node: Node,
    pooler: u16,
}

impl Imported {
    /// On ports of its own, and letting everybody in.
    fn start(directory: &Path) -> Self {
        let path = directory.join("howdah.toml");
        let text = fs::read_to_string(&path).expect("it was written");
        let (api, pooler) = (format!("127.0.0.1:{}", free_port()), free_port());
        let text = text
            .replace("[pageserver]\n", "[pageserver]\nlisten = \"127.0.0.1:0\"\n")
            .replace("[compute]\n", "[compute]\nmode = \"directory\"\nstart_timeout = \"3min\"\n")
            .replace(
                "auth_type = \"scram-sha-256\"",
                &format!(
                    "auth_type = \"trust\"\ntrust_unknown_users = true\nlisten_port = {pooler}"
                ),
            );
        let config = directory.join("test.toml");
        fs::write(&config, format!("[api]\nlisten = \"{api}\"\n\n{text}")).expect("ours");
        let mut node = Node::start(&config, &api, &[]);
        node.wait_streaming();
        Self { node, pooler }
    }

    fn sql(&self, database: &str, statement: &str) -> String {
        let port = self.pooler.to_string();
        let output = Command::new(program("psql"))
            .args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres"])
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", statement])
            .env("PGCONNECT_TIMEOUT", "180")
            .output()
            .expect("psql runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{statement}: {error}\n{}", self.node.log());
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}
