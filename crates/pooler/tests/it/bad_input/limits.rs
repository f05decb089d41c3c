//! Too many of everything.

use std::time::Duration;

use pooler::settings::{Database, Settings, User};
use pooler::stats::failures::Failure;

use crate::world::{Client, World, run, settings};

/// Logs in as `user`; gives the last answer.
async fn try_log_in(world: &World, user: &str, database: &str) -> (Client, Vec<String>) {
    let mut client = world.connect().await;
    client.start(user, database).await;
    let answers = client.answers().await;
    (client, answers)
}

#[test]
fn clients_beyond_the_limit_are_told_so() {
    let settings = Settings { max_client_conn: 3, ..settings() };
    run(settings, async |world| {
        let mut inside = Vec::new();
        for _client in 0..3 {
            inside.push(world.log_in("shop").await);
        }
        let (_refused, answers) = try_log_in(world, "ann", "shop").await;
        assert_eq!(
            answers,
            ["FATAL 53300 no more connections allowed (max_client_conn)", "closed"]
        );
        inside.clear();
        world
            .until("there is room again", async || {
                try_log_in(world, "ann", "shop").await.1 == ["ready I"]
            })
            .await;
        world
            .until("nobody is left", async || {
                world.pools().await.iter().all(|pool| pool.in_use() == 0)
            })
            .await;
    });
}

#[test]
fn limits_of_a_database_and_of_a_user_hold() {
    let mut settings = settings();
    settings
        .users
        .insert("bob".to_owned(), User { max_user_client_connections: Some(1), ..User::default() });
    settings.max_db_client_connections = 2;
    run(settings, async |world| {
        let (_bob, answers) = try_log_in(world, "bob", "shop").await;
        assert_eq!(answers, ["ready I"]);
        let (_refused, answers) = try_log_in(world, "bob", "other").await;
        assert_eq!(
            answers,
            ["FATAL 53300 client connections exceeded (max_user_client_connections)", "closed"]
        );
        let (_ann, answers) = try_log_in(world, "ann", "shop").await;
        assert_eq!(answers, ["ready I"]);
        let (_refused, answers) = try_log_in(world, "ann", "shop").await;
        assert_eq!(
            answers,
            ["FATAL 53300 client connections exceeded (max_db_client_connections)", "closed"]
        );
    });
}

#[test]
fn who_waits_too_long_for_a_server_is_told_so() {
    let settings = Settings {
        default_pool_size: 1,
        query_wait_timeout: Duration::from_millis(100),
        ..settings()
    };
    run(settings, async |world| {
        let mut holder = world.log_in("shop").await;
        holder.query("begin").await;
        assert_eq!(holder.answers().await, ["BEGIN", "ready T"]);
        let mut waiting = world.log_in("shop").await;
        waiting.query("never").await;
        assert_eq!(waiting.answers().await, ["FATAL 53300 query_wait_timeout", "closed"]);
        assert!(!world.server.queries.borrow().iter().any(|query| query == "never"));
    });
}

#[test]
fn who_idles_too_long_is_told_so() {
    let settings = Settings {
        idle_transaction_timeout: Duration::from_millis(100),
        client_idle_timeout: Duration::from_millis(250),
        ..settings()
    };
    run(settings, async |world| {
        let mut client = world.log_in("shop").await;
        client.query("begin").await;
        assert_eq!(client.answers().await, ["BEGIN", "ready T"]);
        assert_eq!(client.answers().await, ["FATAL 25P03 idle_transaction_timeout", "closed"]);
        let mut client = world.log_in("shop").await;
        assert_eq!(client.answers().await, ["FATAL 57P05 client_idle_timeout", "closed"]);
    });
}

#[test]
fn unknown_databases_and_users_are_refused() {
    let mut settings = settings();
    settings.users.insert("bob".to_owned(), User::default());
    run(settings, async |world| {
        let (_refused, answers) = try_log_in(world, "nobody", "shop").await;
        assert_eq!(answers, ["FATAL 28000 no such user: \"nobody\"", "closed"]);
        let (_refused, answers) = try_log_in(world, "bob", "howdah").await;
        assert_eq!(answers, ["FATAL 42501 not allowed to connect to the console", "closed"]);
    });
}

#[test]
fn a_pool_has_no_more_servers_than_it_may() {
    let mut settings = Settings { max_db_connections: 2, default_pool_size: 50, ..settings() };
    settings.users.insert("bob".to_owned(), User::default());
    run(settings, async |world| {
        let mut clients = Vec::new();
        for index in 0..20 {
            let user = if index % 2 == 0 { "ann" } else { "bob" };
            let (mut client, answers) = try_log_in(world, user, "shop").await;
            assert_eq!(answers, ["ready I"]);
            client.query("work").await;
            clients.push(client);
        }
        for client in &mut clients {
            assert_eq!(client.answers().await, ["row work", "SELECT 1", "ready I"]);
        }
        let shop: i64 = world
            .pools()
            .await
            .iter()
            .filter(|pool| pool.database == "shop")
            .map(|pool| pool.servers())
            .sum();
        assert!((1..=2).contains(&shop), "{shop} servers");
        // The limit is for one database: the last check uses another.
        drop(clients);
    });
}

#[test]
fn without_a_fallback_only_named_databases_exist() {
    let mut settings = settings();
    settings.databases.insert("unreachable".to_owned(), Database::default());
    run(settings, async |world| {
        let (_refused, answers) = try_log_in(world, "ann", "*").await;
        assert_eq!(answers, ["FATAL 3D000 database \"*\" does not exist", "closed"]);
    });
}

#[test]
fn a_time_limit_of_zero_is_none() {
    let settings = Settings {
        client_login_timeout: Duration::ZERO,
        server_connect_timeout: Duration::ZERO,
        cancel_wait_timeout: Duration::ZERO,
        query_wait_timeout: Duration::ZERO,
        query_wait_notify: Duration::ZERO,
        server_idle_timeout: Duration::ZERO,
        server_check_delay: Duration::ZERO,
        server_lifetime: Duration::ZERO,
        ..settings()
    };
    run(settings, async |world| {
        for _time in 0..3 {
            let mut client = world.log_in("shop").await;
            client.query("unhurried").await;
            assert_eq!(client.answers().await, ["row unhurried", "SELECT 1", "ready I"]);
        }
    });
}

#[test]
fn what_goes_wrong_is_counted() {
    let settings = Settings { query_timeout: Duration::from_millis(50), ..settings() };
    run(settings, async |world| {
        let mut client = world.connect().await;
        client.start("nobody", "shop").await;
        client.until_closed().await;
        let mut client = world.connect().await;
        client.send(b"\0\0\0\x08").await;
        client.stream.abort();
        let mut client = world.log_in("shop").await;
        client.query("fail").await;
        client.answers().await;
        client.query("hang").await;
        client.until_closed().await;
        let count = async |wanted: Failure| {
            let snapshots = world.pooler.snapshots().await;
            let counts = snapshots.iter().flat_map(|snapshot| &snapshot.failures);
            counts.filter(|(failure, _)| *failure == wanted).map(|(_, count)| count).sum::<u64>()
        };
        for (failure, expected) in [
            (Failure::Login("not_authorized"), 1),
            (Failure::Login("broken_off"), 1),
            (Failure::PoolerError("28"), 1),
            (Failure::ServerError("42"), 1),
            (Failure::PoolerError("57"), 1),
            (Failure::ClientClosed("query_timeout"), 1),
            (Failure::ServerClosed("session ended in the middle of something"), 1),
        ] {
            world.until("it is counted", async || count(failure).await == expected).await;
        }
    });
}
