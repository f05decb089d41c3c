//! The console of a running pooler: what it shows is what is, and what it orders happens.

use std::time::Duration;

use pg::wire::frontend;
use pg::wire::frontend::{Format, Target};
use pg::wire::startup::{self, ProtocolVersion};
use pooler::settings::{Database, Host, Settings, User};
use runtime::clock;

use crate::world::{Client, World, run, settings};

/// The rows of a SHOW whose first column is `name`, split.
async fn rows(world: &World, show: &str, name: &str) -> Vec<Vec<String>> {
    let answers = world.console(show).await;
    assert_eq!(answers[answers.len() - 2..], ["SHOW", "ready I"], "{show}");
    answers
        .iter()
        .filter_map(|row| row.strip_prefix("row "))
        .map(|row| row.split('|').map(str::to_owned).collect::<Vec<String>>())
        .filter(|row| row[0] == name)
        .collect()
}

#[test]
fn every_show_answers() {
    run(settings(), async |world| {
        drop(world.log_in("shop").await);
        for show in [
            "clients",
            "config",
            "databases",
            "dns_hosts",
            "dns_zones",
            "help",
            "lists",
            "mem",
            "peer_pools",
            "peers",
            "pools",
            "servers",
            "sockets",
            "state",
            "stats",
            "stats_averages",
            "stats_totals",
            "totals",
            "users",
            "version",
            "active_sockets",
        ] {
            let answers = world.console(&format!("SHOW {show}")).await;
            assert_eq!(answers[answers.len() - 2..], ["SHOW", "ready I"], "{show}");
        }
        assert_eq!(
            world.console("SHOW FDS").await,
            [
                "ERROR 0A000 SHOW FDS is not supported: connections are not handed over by descriptor",
                "ready I"
            ]
        );
    });
}

#[test]
fn pools_and_statistics_follow_the_work() {
    run(settings(), async |world| {
        let mut client = world.log_in("shop").await;
        for _time in 0..3 {
            client.query("count me").await;
            assert_eq!(client.answers().await, ["row count me", "SELECT 1", "ready I"]);
        }
        client.query("begin").await;
        assert_eq!(client.answers().await, ["BEGIN", "ready T"]);
        let pools = rows(world, "SHOW POOLS", "shop").await;
        let [pool] = pools.as_slice() else { panic!("one pool: {pools:?}") };
        assert_eq!(pool[1], "ann");
        assert_eq!((pool[2].as_str(), pool[6].as_str()), ("1", "1"), "active: {pool:?}");
        let stats = rows(world, "SHOW STATS_TOTALS", "shop").await;
        let count = |column: usize| stats[0][column].parse::<u64>().expect("a number");
        assert_eq!((count(2), count(3)), (3, 4), "transactions and queries: {stats:?}");
        assert!(count(4) > 0 && count(5) > 0, "bytes: {stats:?}");
        assert_eq!(count(12), 1, "log-ins: {stats:?}");
        let clients = rows(world, "SHOW CLIENTS", "C").await;
        assert!(
            clients.iter().any(|client| client[2] == "shop" && client[4] == "active"),
            "{clients:?}"
        );
        let servers = rows(world, "SHOW SERVERS", "S").await;
        assert!(
            servers.iter().any(|server| server[2] == "shop" && server[4] == "active"),
            "{servers:?}"
        );
    });
}

#[test]
fn pause_waits_for_work_and_resume_lets_go_on() {
    run(settings(), async |world| {
        let mut worker = world.log_in("shop").await;
        worker.query("begin").await;
        assert_eq!(worker.answers().await, ["BEGIN", "ready T"]);
        let mut admin = world.log_in("howdah").await;
        admin.query("PAUSE shop").await;
        let early = clock::timeout(Duration::from_millis(100), admin.message()).await;
        assert!(early.is_err(), "a transaction is open");
        let mut waiting = world.log_in("shop").await;
        waiting.query("later").await;
        worker.query("done").await;
        assert_eq!(worker.answers().await, ["row done", "SELECT 1", "ready I"]);
        assert_eq!(admin.answers().await, ["PAUSE", "ready I"]);
        assert!(!world.server.queries.borrow().iter().any(|query| query == "later"));
        assert_eq!(rows(world, "SHOW DATABASES", "shop").await[0][15], "1", "paused");
        admin.query("RESUME shop").await;
        assert_eq!(admin.answers().await, ["RESUME", "ready I"]);
        assert_eq!(waiting.answers().await, ["row later", "SELECT 1", "ready I"]);
    });
}

#[test]
fn disable_refuses_new_clients_only() {
    run(settings(), async |world| {
        let mut old = world.log_in("shop").await;
        assert_eq!(world.console("DISABLE shop").await, ["DISABLE", "ready I"]);
        let mut new = world.connect().await;
        new.start("ann", "shop").await;
        let refused = new.answers().await;
        assert!(refused[0].starts_with("FATAL 55000 database \"shop\" is disabled"), "{refused:?}");
        old.query("still").await;
        assert_eq!(old.answers().await, ["row still", "SELECT 1", "ready I"]);
        assert_eq!(world.console("ENABLE shop").await, ["ENABLE", "ready I"]);
        drop(world.log_in("shop").await);
    });
}

#[test]
fn reconnect_replaces_servers() {
    run(settings(), async |world| {
        let server_ids = async || {
            let servers = rows(world, "SHOW SERVERS", "S").await;
            servers
                .into_iter()
                .filter(|row| row[2] == "shop")
                .map(|row| row[20].clone())
                .collect::<Vec<_>>()
        };
        let mut client = world.log_in("shop").await;
        client.query("one").await;
        assert_eq!(client.answers().await, ["row one", "SELECT 1", "ready I"]);
        let before = server_ids().await;
        assert_eq!(world.console("RECONNECT shop").await, ["RECONNECT", "ready I"]);
        assert_eq!(world.console("WAIT_CLOSE shop").await, ["WAIT_CLOSE", "ready I"]);
        client.query("two").await;
        assert_eq!(client.answers().await, ["row two", "SELECT 1", "ready I"]);
        let after = server_ids().await;
        assert!(after.iter().all(|id| !before.contains(id)), "{before:?} {after:?}");
    });
}

#[test]
fn kill_client_drops_that_one() {
    run(settings(), async |world| {
        let mut victim = world.log_in("shop").await;
        let mut bystander = world.log_in("shop").await;
        let clients = rows(world, "SHOW CLIENTS", "C").await;
        let ids: Vec<u64> = clients
            .iter()
            .filter(|row| row[2] == "shop")
            .map(|row| row[20].parse().expect("a number"))
            .collect();
        let first = ids.iter().min().expect("two clients");
        assert_eq!(
            world.console(&format!("KILL_CLIENT {first}")).await,
            ["KILL_CLIENT", "ready I"]
        );
        assert_eq!(
            victim.answers().await,
            ["FATAL 57P01 terminating connection due to administrator command", "closed"]
        );
        bystander.query("alive").await;
        assert_eq!(bystander.answers().await, ["row alive", "SELECT 1", "ready I"]);
        assert_eq!(
            world.console("KILL_CLIENT 999999").await,
            ["ERROR 42704 client not found", "ready I"]
        );
    });
}

#[test]
fn kill_drops_everybody_and_holds_until_resume() {
    run(settings(), async |world| {
        let mut client = world.log_in("shop").await;
        client.query("hang").await;
        clock::sleep(Duration::from_millis(20)).await;
        assert_eq!(world.console("KILL shop").await, ["KILL", "ready I"]);
        client.until_closed().await;
        assert_eq!(world.console("RESUME shop").await, ["RESUME", "ready I"]);
        drop(world.log_in("shop").await);
    });
}

#[test]
fn set_is_in_force_at_once() {
    run(settings(), async |world| {
        assert_eq!(
            world.console("SET query_timeout = 0.1").await,
            ["SET query_timeout=0.1", "ready I"]
        );
        let mut client = world.log_in("shop").await;
        client.query("hang").await;
        assert_eq!(client.answers().await, ["FATAL 57014 query_timeout", "closed"]);
    });
}

#[test]
fn rights_are_those_of_the_settings() {
    let mut settings = settings();
    settings.users.insert("bob".to_owned(), User::default());
    settings.users.insert("carl".to_owned(), User::default());
    settings.stats_users = vec!["bob".to_owned()];
    let settings = Settings { ..settings };
    run(settings, async |world| {
        let mut bob = world.connect().await;
        bob.start("bob", "pgbouncer").await;
        assert_eq!(bob.answers().await, ["ready I"]);
        bob.query("SHOW VERSION").await;
        let version = bob.answers().await;
        assert!(version[0].starts_with("row Howdah "), "{version:?}");
        for command in ["PAUSE", "KILL", "RELOAD", "SHUTDOWN", "SET log_stats = 0", "KILL_CLIENT 1"]
        {
            bob.query(command).await;
            assert_eq!(bob.answers().await, ["ERROR 42501 admin access needed", "ready I"]);
        }
        let mut carl = world.connect().await;
        carl.start("carl", "pgbouncer").await;
        assert_eq!(
            carl.answers().await,
            ["FATAL 42501 not allowed to connect to the console", "closed"]
        );
    });
}

#[test]
fn drivers_that_prepare_get_their_rows() {
    run(settings(), async |world| {
        let mut client = world.log_in("pgbouncer").await;
        let mut out = Vec::new();
        frontend::write::parse(&mut out, "s", "SHOW POOLS", &[]);
        frontend::write::describe(&mut out, Target::Statement(b"s"));
        frontend::write::sync(&mut out);
        frontend::write::bind(&mut out, "", "s", &[], &[], &[Format::Text]);
        frontend::write::execute(&mut out, "", 0);
        frontend::write::sync(&mut out);
        client.send(&out).await;
        assert_eq!(client.answers().await, ["ready I"]);
        let answers = client.answers().await;
        assert_eq!(answers[1..], ["SHOW", "ready I"], "{answers:?}");
        assert!(answers[0].starts_with("row pgbouncer|pgbouncer|"), "{answers:?}");
    });
}

#[test]
fn administrators_are_clients_too() {
    run(settings(), async |world| {
        let mut other = world.log_in("pgbouncer").await;
        let clients = rows(world, "SHOW CLIENTS", "C").await;
        let of = |database: &str| clients.iter().filter(|row| row[2] == database).count();
        assert_eq!((of("pgbouncer"), of("howdah")), (1, 1), "that one and this: {clients:?}");
        assert!(clients.iter().all(|row| row[1] == "ann" && row[4] == "active"), "{clients:?}");
        assert!(clients.iter().all(|row| row[5] == "127.0.0.1" && row[9] != "NULL"), "{clients:?}");
        let pools = rows(world, "SHOW POOLS", "pgbouncer").await;
        assert_eq!(pools[0][2], "2", "active clients");
        let used = rows(world, "SHOW LISTS", "used_clients").await;
        assert_eq!(used[0][1], "2");
        let id = clients.iter().find(|row| row[2] == "pgbouncer").map(|row| row[20].clone());
        let kill = format!("KILL_CLIENT {}", id.expect("it is listed"));
        assert_eq!(world.console(&kill).await, ["KILL_CLIENT", "ready I"]);
        other.until_closed().await;
        world
            .until("only who asks is left", async || {
                rows(world, "SHOW CLIENTS", "C").await.len() == 1
            })
            .await;
    });
}

#[test]
fn suspended_clients_are_read_no_further() {
    run(settings(), async |world| {
        let mut inside = world.log_in("shop").await;
        inside.query("begin").await;
        assert_eq!(inside.answers().await, ["BEGIN", "ready T"]);
        let mut idle = world.log_in("shop").await;
        let mut admin = world.log_in("howdah").await;
        admin.query("SUSPEND").await;
        assert_eq!(admin.answers().await, ["SUSPEND", "ready I"], "an open transaction may stay");
        inside.query("inside").await;
        idle.query("idle").await;
        let mut new = world.connect().await;
        new.start("ann", "shop").await;
        for client in [&mut inside, &mut idle, &mut new] {
            let early = clock::timeout(Duration::from_millis(50), client.message()).await;
            assert!(early.is_err(), "nobody is answered");
        }
        assert!(!world.server.queries.borrow().iter().any(|query| query.ends_with("e")));
        admin.query("SHOW STATE").await;
        let state = admin.answers().await;
        assert!(state.contains(&"row suspended|yes".to_owned()), "{state:?}");
        for command in ["SUSPEND", "PAUSE", "KILL"] {
            admin.query(command).await;
            assert_eq!(
                admin.answers().await,
                ["ERROR 55000 already suspended/paused", "ready I"],
                "{command}"
            );
        }
        admin.query("RESUME").await;
        assert_eq!(admin.answers().await, ["RESUME", "ready I"]);
        assert_eq!(inside.answers().await, ["row inside", "SELECT 1", "ready I"]);
        assert_eq!(idle.answers().await, ["row idle", "SELECT 1", "ready I"]);
        assert_eq!(new.answers().await, ["ready I"]);
    });
}

#[test]
fn who_is_in_the_middle_of_something_at_suspend_timeout_is_cut_off() {
    let settings = Settings {
        suspend_timeout: Duration::from_millis(100),
        default_pool_size: 1,
        ..settings()
    };
    run(settings, async |world| {
        let mut holder = world.log_in("shop").await;
        holder.query("begin").await;
        assert_eq!(holder.answers().await, ["BEGIN", "ready T"]);
        let mut waits = world.log_in("shop").await;
        waits.query("never").await;
        let mut half = world.log_in("other").await;
        half.send(b"Q\0\0\0\x10sel").await;
        world
            .until("it waits", async || world.pools().await.iter().any(|p| p.waiting() == 1))
            .await;
        let mut admin = world.log_in("howdah").await;
        admin.query("SUSPEND").await;
        assert_eq!(admin.answers().await, ["SUSPEND", "ready I"]);
        let cut_off = ["FATAL 57P01 suspend_timeout", "closed"];
        assert_eq!(waits.answers().await, cut_off);
        assert_eq!(half.answers().await, cut_off);
        admin.query("RESUME").await;
        assert_eq!(admin.answers().await, ["RESUME", "ready I"]);
        holder.query("on").await;
        assert_eq!(holder.answers().await, ["row on", "SELECT 1", "ready I"]);
    });
}

/// Somebody who has sent a part of the start-up packet; the rest.
async fn half_logged_in(world: &World) -> (Client, Vec<u8>) {
    let mut packet = Vec::new();
    let parameters = [("user", "ann"), ("database", "shop")];
    let parameters = parameters.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    startup::write_startup(&mut packet, ProtocolVersion::V3_0, parameters);
    let mut client = world.connect().await;
    let rest = packet.split_off(6);
    client.send(&packet).await;
    world
        .until("it logs in", async || rows(world, "SHOW LISTS", "login_clients").await[0][1] == "1")
        .await;
    (client, rest)
}

#[test]
fn suspend_waits_for_who_is_logging_in() {
    run(settings(), async |world| {
        let (mut half, rest) = half_logged_in(world).await;
        let mut admin = world.log_in("howdah").await;
        admin.query("SUSPEND").await;
        let early = clock::timeout(Duration::from_millis(50), admin.message()).await;
        assert!(early.is_err(), "a log-in is under way");
        half.send(&rest).await;
        assert_eq!(half.answers().await, ["ready I"]);
        assert_eq!(admin.answers().await, ["SUSPEND", "ready I"]);
        admin.query("RESUME").await;
        assert_eq!(admin.answers().await, ["RESUME", "ready I"]);
        half.query("on").await;
        assert_eq!(half.answers().await, ["row on", "SELECT 1", "ready I"]);
    });
}

#[test]
fn who_logs_in_for_too_long_at_suspend_is_cut_off() {
    let settings = Settings { suspend_timeout: Duration::from_millis(100), ..settings() };
    run(settings, async |world| {
        let (mut half, rest) = half_logged_in(world).await;
        let mut admin = world.log_in("howdah").await;
        admin.query("SUSPEND").await;
        assert_eq!(admin.answers().await, ["SUSPEND", "ready I"]);
        half.send(&rest).await;
        assert_eq!(half.answers().await, ["closed"]);
        admin.query("RESUME").await;
        assert_eq!(admin.answers().await, ["RESUME", "ready I"]);
    });
}

#[test]
fn nobody_stays_suspended_when_the_last_administrator_has_gone() {
    run(settings(), async |world| {
        let mut client = world.log_in("shop").await;
        assert_eq!(world.console("SUSPEND").await, ["SUSPEND", "ready I"]);
        client.query("mine").await;
        assert_eq!(client.answers().await, ["row mine", "SELECT 1", "ready I"]);
    });
}

#[test]
fn a_pause_that_waits_can_be_canceled() {
    run(settings(), async |world| {
        let mut worker = world.log_in("shop").await;
        worker.query("begin").await;
        assert_eq!(worker.answers().await, ["BEGIN", "ready T"]);
        let mut admin = world.connect().await;
        admin.start("ann", "howdah").await;
        let (id, key) = admin.cancel_key().await;
        assert_eq!(admin.answers().await, ["ready I"]);
        admin.query("PAUSE").await;
        let early = clock::timeout(Duration::from_millis(50), admin.message()).await;
        assert!(early.is_err(), "a transaction is open");
        let mut out = Vec::new();
        startup::write_cancel_request(&mut out, id, &key);
        let mut canceler = world.connect().await;
        canceler.send(&out).await;
        canceler.until_closed().await;
        assert_eq!(admin.answers().await, ["PAUSE", "ready I"], "it is over, as in PgBouncer");
        let mut other = world.log_in("shop").await;
        other.query("served").await;
        assert_eq!(other.answers().await, ["row served", "SELECT 1", "ready I"]);
        worker.query("end").await;
        assert_eq!(worker.answers().await, ["row end", "SELECT 1", "ready I"]);
    });
}

#[test]
fn names_of_servers_are_shown_as_they_are_remembered() {
    let mut settings = settings();
    settings.databases.insert("lost".to_owned(), by_name("no.such.name.invalid", 1));
    settings.databases.insert("numeric".to_owned(), by_name("127.0.0.1", 1));
    run(settings, async |world| {
        let count = async || rows(world, "SHOW LISTS", "dns_names").await[0][1].clone();
        assert_eq!(count().await, "0");
        for database in ["lost", "numeric"] {
            let mut client = world.connect().await;
            client.start("ann", database).await;
            client.until_closed().await;
        }
        assert_eq!(count().await, "1", "numbers are no names");
        let hosts = rows(world, "SHOW DNS_HOSTS", "no.such.name.invalid").await;
        assert_eq!(hosts.len(), 1);
        assert!(hosts[0][1].parse::<u64>().is_ok_and(|ttl| ttl <= 15), "{hosts:?}");
        assert_eq!(hosts[0][2], "", "it has no address");
        assert_eq!(rows(world, "SHOW LISTS", "dns_queries").await[0][1], "0", "none under way");
    });
}

fn by_name(host: &str, port: u16) -> Database {
    Database { host: vec![Host::Tcp(host.to_owned())], port, ..Database::default() }
}
