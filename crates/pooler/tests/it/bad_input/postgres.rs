//! The same against a stock Postgres: what clients and backends leave behind when they go.

use std::time::Duration;

use cluster::{Cluster, Programs};
use pg::wire::frontend;
use pg::wire::frontend::Target;
use pooler::settings::{Database, Host, Settings};
use runtime::clock;
use runtime::process::Command;

use crate::world::{Client, REAL, World, run, settings};

/// A server in which `ann` may do everything.
fn start() -> Cluster {
    let mut cluster = Cluster::create(Programs::default(), "bad", &[]);
    cluster.serve(&["shared_buffers=8MB"]);
    cluster.sql("create role ann superuser login");
    cluster
}

/// Settings with this cluster as database `real`.
fn leading_to(cluster: &Cluster) -> Settings {
    let mut settings = settings();
    let database = Database {
        host: vec![Host::Unix(cluster.folder().display().to_string())],
        dbname: Some("postgres".to_owned()),
        ..Database::default()
    };
    settings.databases.insert(REAL.to_owned(), database);
    settings
}

async fn try_log_in(world: &World) -> Option<Client> {
    let mut client = world.connect().await;
    client.start("ann", REAL).await;
    (client.answers().await == ["ready I"]).then_some(client)
}

async fn ask(client: &mut Client, sql: &str) -> Vec<String> {
    client.query(sql).await;
    client.answers().await
}

#[test]
fn what_a_client_held_is_free_when_it_vanishes() {
    let cluster = start();
    run(leading_to(&cluster), async |world| {
        let mut first = world.log_in(REAL).await;
        assert_eq!(ask(&mut first, "create table t (a int)").await, ["CREATE TABLE", "ready I"]);
        assert_eq!(ask(&mut first, "begin").await, ["BEGIN", "ready T"]);
        assert_eq!(ask(&mut first, "lock table t").await, ["LOCK TABLE", "ready T"]);
        first.stream.abort();
        let mut second = world.log_in(REAL).await;
        assert_eq!(ask(&mut second, "lock table t").await.len(), 2, "outside a transaction");
        assert_eq!(
            ask(&mut second, "begin; lock table t").await.last().map(String::as_str),
            Some("ready T")
        );
        assert_eq!(ask(&mut second, "rollback").await, ["ROLLBACK", "ready I"]);

        let mut third = world.log_in(REAL).await;
        third.query("select pg_sleep(1000)").await;
        clock::sleep(Duration::from_millis(50)).await;
        drop(third);
        let still = "select count(*) from pg_stat_activity \
            where state = 'active' and query like '%pg_sleep(1%' and pid <> pg_backend_pid()";
        world
            .until("the query is canceled", async || {
                ask(&mut second, still).await == ["row 0", "SELECT 1", "ready I"]
            })
            .await;
        drop(second);
        world.check_that_all_is_well().await;
    });
}

#[test]
fn a_backend_that_dies_takes_one_client_with_it() {
    let cluster = start();
    run(leading_to(&cluster), async |world| {
        let mut victim = world.log_in(REAL).await;
        victim.query("select pg_sleep(1000)").await;
        clock::sleep(Duration::from_millis(50)).await;
        let mut other = world.log_in(REAL).await;
        let kill = "select pg_terminate_backend(pid) from pg_stat_activity \
            where query like 'select pg_sleep(1%'";
        assert_eq!(ask(&mut other, kill).await, ["row t", "SELECT 1", "ready I"]);
        let last = victim.answers().await;
        assert!(
            last[0].starts_with("FATAL 57P01 terminating connection due to administrator"),
            "{last:?}"
        );
        // Drivers show the last that they were told: it must be the server's own reason.
        assert_eq!(last[1..], ["closed"]);
        assert_eq!(ask(&mut other, "select 1").await, ["row 1", "SELECT 1", "ready I"]);
        drop(other);
        world.check_that_all_is_well().await;
    });
}

#[test]
fn a_server_that_restarts_is_found_again() {
    let cluster = start();
    run(leading_to(&cluster), async |world| {
        // The checkpointer is a new one after a restart.
        let since =
            "select backend_start from pg_stat_activity where backend_type = 'checkpointer'";
        let mut idle = world.log_in(REAL).await;
        let before = ask(&mut idle, since).await;
        let mut victim = world.log_in(REAL).await;
        assert_eq!(ask(&mut victim, "begin").await, ["BEGIN", "ready T"]);
        // What the kernel does to a backend that takes too much memory; Postgres restarts them all.
        let pid = ask(&mut victim, "select pg_backend_pid()").await;
        let pid = pid[0].strip_prefix("row ").expect("a process id").to_owned();
        let killed = Command::new("/bin/kill").args(["-KILL", &pid]).run().await;
        assert!(killed.expect("kill is installed").status.success());
        victim.until_closed().await;
        world
            .until("Postgres is back", async || match try_log_in(world).await {
                Some(mut client) => {
                    let now = ask(&mut client, since).await;
                    now.len() == 3 && now[2] == "ready I" && now != before
                }
                None => false,
            })
            .await;
        assert_eq!(ask(&mut idle, "select 2").await, ["row 2", "SELECT 1", "ready I"]);
        drop(idle);
        world.check_that_all_is_well().await;
    });
}

#[test]
fn nonsense_about_statements_is_answered_by_the_server_in_its_own_words() {
    let cluster = start();
    run(leading_to(&cluster), async |world| {
        let mut client = world.log_in(REAL).await;
        let mut check = async |build: &dyn Fn(&mut Vec<u8>), expected: &[&str]| {
            let mut out = Vec::new();
            build(&mut out);
            frontend::write::sync(&mut out);
            client.send(&out).await;
            assert_eq!(client.answers().await, expected);
        };
        check(
            &|out| frontend::write::bind(out, "", "gone", &[], &[], &[]),
            &["ERROR 26000 prepared statement \"gone\" does not exist", "ready I"],
        )
        .await;
        check(
            &|out| frontend::write::describe(out, Target::Statement(b"gone")),
            &["ERROR 26000 prepared statement \"gone\" does not exist", "ready I"],
        )
        .await;
        check(
            &|out| frontend::write::execute(out, "gone", 0),
            &["ERROR 34000 portal \"gone\" does not exist", "ready I"],
        )
        .await;
        check(
            &|out| frontend::write::parse(out, "s", "selec 1", &[]),
            &["ERROR 42601 syntax error at or near \"selec\"", "ready I"],
        )
        .await;
        check(
            &|out| {
                frontend::write::parse(out, "s", "select $1::int", &[]);
                frontend::write::bind(out, "", "s", &[], &[Some(&b"x"[..])], &[]);
                frontend::write::execute(out, "", 0);
            },
            &["ERROR 22P02 invalid input syntax for type integer: \"x\"", "ready I"],
        )
        .await;
        check(
            &|out| frontend::write::parse(out, "s", "select 2", &[]),
            &["ERROR 42P05 prepared statement \"howdah_4\" already exists", "ready I"],
        )
        .await;
        drop(client);
        world.check_that_all_is_well().await;
    });
}
