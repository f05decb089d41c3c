//! A whole page server on an S3 server: branches, a lease, retention, a promoted standby; then everything local is deleted,
//! and what `howdah recover` makes of the store is compared with the servers that wrote it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use cluster::{Cluster, Programs, S3_CREDENTIALS, S3Server};
use pg::lsn::Lsn;
use serde_json::Value;

use crate::compute::post;
use crate::instance::{Folder, HOWDAH, free_port};
use crate::node::Node;

const STORE: &str = "s3://shop/pre/fix";
const SUMS: &str =
    "SELECT count(*), sum(abalance), (SELECT count(*) FROM pgbench_history) FROM pgbench_accounts";

/// Where everything of a test is.
struct World {
    s3: S3Server,
    folder: Folder,
    api: String,
    page_service: u16,
}

impl World {
    fn new() -> Option<World> {
        let s3 = S3Server::start()?;
        s3.make_bucket("shop");
        let api = format!("127.0.0.1:{}", free_port());
        Some(World { s3, folder: Folder::new(), api, page_service: free_port() })
    }

    /// The page server's directory.
    fn own(&self) -> PathBuf {
        self.folder.path().join("own")
    }

    /// A page server that follows this one, keeps little, and has everything in the store before long.
    fn start(&self, server: &Cluster, more: &str) -> Node {
        let config = self.folder.path().join("node.toml");
        let text = format!(
            "[node]\napplets = [\"pageserver\"]\n[api]\nlisten = \"{}\"\n[pageserver]\ndirectory = \"{}\"\n\
             listen = \"127.0.0.1:{}\"\nserver = \"{}\"\nstore = \"{STORE}\"\nstore_endpoint = \"{}\"\n\
             store_wal_interval_ms = 200\ncheckpoint_bytes = 1048576\ncheckpoint_timeout_ms = 1000\n\
             retention_bytes = 4194304\nwal_keep_bytes = 0\ncollection_interval_ms = 100\n{more}",
            self.api,
            self.own().display(),
            self.page_service,
            server.socket().display(),
            self.s3.endpoint(),
        );
        fs::write(&config, text).expect("the folder is ours");
        Node::start(&config, &self.api, &S3_CREDENTIALS)
    }

    /// A server with the files that the page service has of a branch's end.
    fn server_of(&self, branch: &str, name: &str) -> Cluster {
        let port = self.page_service;
        let source = format!("host=127.0.0.1 port={port} options='-c howdah.branch={branch}'");
        Cluster::copy(Programs::default(), name, &source, &["-X", "fetch"])
    }

    /// Has the page server follow a server that is to write a branch.
    fn attach(&self, branch: &str, server: &Cluster) {
        let body = format!("{{\"host\":\"{}\",\"port\":5432}}", server.folder().display());
        let answer = post(&self.api, &format!("/v1/branches/{branch}/attach"), &body);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// `howdah recover`, without the environment's other ideas of a store.
    fn recover(&self) -> Value {
        let output = Command::new(HOWDAH)
            .args(["recover", "--json", "--store", STORE, "--endpoint", self.s3.endpoint()])
            .arg("--dir")
            .arg(self.own())
            .envs(S3_CREDENTIALS)
            .stdin(Stdio::null())
            .output()
            .expect("howdah runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }
}

/// The end of what is flushed.
fn now(server: &Cluster) -> String {
    server.sql("SELECT pg_current_wal_flush_lsn()")
}

fn lsn(value: &Value) -> Lsn {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or(Lsn::INVALID)
}

/// What was followed is in layers, and in the store.
fn is_stored(node: &Node) -> bool {
    let status = node.status();
    let (store, here) = (&status["store"], lsn(&status["flushed_lsn"]));
    lsn(&store["uploaded_lsn"]) >= here
        && lsn(&status["layered_lsn"]) >= here
        && store["waiting_bytes"] == 0
        && store["waiting_ms"] == 0
}

fn work(server: &Cluster) {
    server.run("pgbench", &["-n", "-c", "2", "-t", "100", "postgres"]);
}

/// More WAL than is kept.
fn distance(server: &Cluster) {
    for _message in 0..4 {
        server.sql("SELECT pg_logical_emit_message(true, '', repeat('x', 2000000))");
    }
}

/// What all databases have, as SQL.
fn dump(server: &Cluster) -> String {
    let text = server.run("pg_dumpall", &["--no-role-passwords"]);
    // Each dump has a random word in these two.
    let is_random = |line: &&str| line.contains("\\restrict") || line.contains("\\unrestrict");
    text.lines().filter(|line| !is_random(line)).collect::<Vec<_>>().join("\n")
}

/// A stopped server's files, block by block.
fn verify(node: &Node, branch: &str, server: &Cluster) {
    let data = server.data().display().to_string();
    node.must(&["verify", "--branch", branch, "--data-dir", &data]);
}

/// Writes as of several moments, and as of these whether they are kept.
struct Moments {
    /// Older than what is kept.
    forgotten: String,
    /// Where branch `past` comes from.
    past: String,
    /// What the leased one had.
    leased: (String, String),
}

/// Makes the branch and the lease on the way.
fn history(primary: &Cluster, node: &mut Node) -> Moments {
    primary.run("pgbench", &["-i", "-q", "-s", "1", "postgres"]);
    primary.sql("CREATE TABLE dropped AS SELECT i FROM generate_series(1, 3000) i");
    let forgotten = now(primary);
    work(primary);
    let past = dump(primary);
    primary.sql("SELECT pg_create_restore_point('before the drop')");
    primary.sql("DROP TABLE dropped");
    work(primary);
    let leased = (now(primary), primary.sql(SUMS));
    node.wait("the branch", |node| {
        node.howdah(&["branch", "create", "past", "--at", "before the drop"]).ok()
    });
    node.wait("the lease", |node| {
        node.howdah(&["lease", "create", &leased.0, "--for", "1d", "--holder", "test"]).ok()
    });
    work(primary);
    distance(primary);
    Moments { forgotten, past, leased }
}

/// A branch of main at this moment is refused, since it is not kept.
fn is_refused(node: &Node, at: &str) {
    let refused = node.howdah(&["branch", "create", "gone", "--at", at]).expect_err("it is gone");
    assert!(refused.contains("not kept any more"), "{refused}");
}

/// A standby of this one.
fn standby_of(primary: &Cluster) -> Cluster {
    let source = format!("host={} port=5432", primary.folder().display());
    let mut standby = Cluster::copy(Programs::default(), "s3-next", &source, &["-R", "-c", "fast"]);
    standby.serve(&[]);
    standby
}

/// What is kept is as it was, and what is not is refused.
fn check_moments(world: &World, node: &Node, moments: &Moments) {
    is_refused(node, &moments.forgotten);
    node.must(&["branch", "create", "leased", "--at", &moments.leased.0]);
    let mut leased = world.server_of("leased", "s3-lease");
    leased.serve(&[]);
    assert_eq!(leased.sql(SUMS), moments.leased.1);
    leased.stop("fast");
    node.must(&["branch", "delete", "leased"]);
}

#[test]
fn branches_leases_and_a_promotion_come_back_from_s3() {
    let Some(world) = World::new() else { return };
    let mut primary =
        Cluster::create(Programs::default(), "s3-first", &["-k", "--wal-segsize", "1"]);
    primary.configure(&["shared_buffers = 16MB", "wal_keep_size = 256MB", "autovacuum = off"]);
    primary.serve(&[]);
    let mut node = world.start(&primary, "");
    node.wait_streaming();
    let moments = history(&primary, &mut node);

    let mut writer = world.server_of("past", "s3-past");
    writer.serve(&["synchronous_standby_names=howdah"]);
    assert_eq!(dump(&writer), moments.past);
    world.attach("past", &writer);
    work(&writer);
    writer.sql("CREATE TABLE made AS SELECT i FROM dropped; CREATE INDEX ON made (i)");
    let written = dump(&writer);
    writer.stop("fast");

    let forgotten: Lsn = moments.forgotten.parse().expect("an LSN");
    node.wait("retention", |node| (lsn(&node.status()["oldest_lsn"]) > forgotten).then_some(()));
    is_refused(&node, &moments.forgotten);
    // A standby has no older WAL than its backup: what is followed has to have come that far.
    let mut standby = standby_of(&primary);
    node.stop();

    // It follows the standby, and goes on when that is promoted.
    let mut node = world.start(&standby, "");
    node.wait_streaming();
    work(&primary);
    primary.stop("fast");
    standby.sql("SELECT pg_promote()");
    work(&standby);
    let latest = dump(&standby);
    let end: Lsn = now(&standby).parse().expect("an LSN");
    standby.stop("fast");
    node.wait("the store", |node| {
        (lsn(&node.status()["flushed_lsn"]) > end && is_stored(node)).then_some(())
    });
    assert_eq!(node.status()["timeline"], 2);
    let of_main = |node: &Node| node.must(&["lease", "list", "--branch", "main"]);
    let (leases, generation) = (of_main(&node), node.status()["store"]["generation"].as_u64());
    node.kill();
    fs::remove_dir_all(world.own()).expect("it is ours");

    let recovered = world.recover();
    assert_eq!(recovered["timelines"], 2, "{recovered}");
    assert!(lsn(&recovered["end"]) > end, "{recovered}");
    let mut node = world.start(&standby, "local_layer_bytes_max = 4194304\n");
    node.wait("a page server", |node| (lsn(&node.status()["ingested_lsn"]) > end).then_some(()));
    assert_eq!(of_main(&node), leases);
    verify(&node, "main", &standby);
    verify(&node, "past", &writer);
    check_moments(&world, &node, &moments);
    for (branch, name, expected) in [("past", "s3-p2", &written), ("main", "s3-m2", &latest)] {
        let mut server = world.server_of(branch, name);
        server.serve(&[]);
        assert!(dump(&server) == *expected, "{branch} is another");
        server.stop("fast");
        server.run("pg_checksums", &["--check", "-D", &server.data().display().to_string()]);
    }

    // It goes on following, and the branch is written on.
    standby.serve(&[]);
    node.wait_streaming();
    let mut writer = world.server_of("past", "s3-more");
    writer.serve(&["synchronous_standby_names=howdah"]);
    world.attach("past", &writer);
    work(&standby);
    work(&writer);
    writer.stop("fast");
    standby.stop("fast");
    verify(&node, "main", &standby);
    verify(&node, "past", &writer);
    let claimed = node.status()["store"]["generation"].as_u64();
    assert_eq!(claimed, generation.map(|before| before + 1));
    node.stop();
}
