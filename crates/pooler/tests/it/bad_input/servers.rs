//! Servers that die, hang, refuse and answer nonsense.

use std::time::Duration;

use pooler::settings::{Database, Host, PoolMode, Settings};
use runtime::clock;

use crate::world::{World, run, settings};

/// Asks a server that then misbehaves; gives the answers of the one client.
fn check_query(sql: &str, expected: &[&str]) {
    run(settings(), async |world| {
        let mut client = world.log_in("shop").await;
        client.query(sql).await;
        assert_eq!(client.answers().await, expected, "{sql}");
    });
}

#[test]
fn a_server_that_dies_takes_one_client_with_it() {
    check_query("die", &["FATAL 08006 server closed the connection unexpectedly", "closed"]);
    check_query("die with an error", &["FATAL 57P01 terminating connection", "closed"]);
}

#[test]
fn a_reply_that_breaks_off_is_not_completed_by_another() {
    run(settings(), async |world| {
        for sql in ["die mid-rows", "die mid-message"] {
            let mut client = world.log_in("shop").await;
            client.query(sql).await;
            client.until_closed().await;
        }
    });
}

#[test]
fn nonsense_from_a_server_ends_both_connections() {
    for sql in ["garbage", "lying length", "huge length", "bad status", "login again"] {
        run(settings(), async |world| {
            let mut client = world.log_in("shop").await;
            client.query(sql).await;
            client.until_closed().await;
        });
    }
}

#[test]
fn nobody_gets_an_answer_that_was_not_asked_for() {
    let settings = Settings { default_pool_size: 1, ..settings() };
    run(settings, async |world| {
        let mut first = world.log_in("shop").await;
        first.query("answers twice").await;
        let _whatever: Vec<String> = first.answers().await;
        for _time in 0..3 {
            let mut next = world.log_in("shop").await;
            next.query("mine").await;
            assert_eq!(next.answers().await, ["row mine", "SELECT 1", "ready I"]);
        }
    });
}

#[test]
fn a_hanging_query_can_be_timed_out() {
    let settings = Settings { query_timeout: Duration::from_millis(100), ..settings() };
    run(settings, async |world| {
        let mut client = world.log_in("shop").await;
        client.query("hang").await;
        assert_eq!(client.answers().await, ["FATAL 57014 query_timeout", "closed"]);
    });
}

#[test]
fn a_hanging_query_is_timed_out_however_long_its_client_has_had_the_server() {
    for pool_mode in [PoolMode::Transaction, PoolMode::Session] {
        let limit = Duration::from_millis(400);
        let settings = Settings { query_timeout: limit, pool_mode, ..settings() };
        run(settings, async |world| {
            let mut client = world.log_in("shop").await;
            client.query("begin").await;
            assert_eq!(client.answers().await, ["BEGIN", "ready T"], "{pool_mode:?}");
            // What was to be looked at when it got the server is looked at and done with.
            clock::sleep(limit * 3 / 2).await;
            client.query("hang").await;
            let end = ["FATAL 57014 query_timeout", "closed"];
            assert_eq!(client.answers().await, end, "{pool_mode:?}");
        });
    }
}

/// Logs in to a database whose server misbehaves at log-in.
fn check_login(database: &str, expected: &str) {
    let settings = Settings { server_connect_timeout: Duration::from_millis(200), ..settings() };
    run(settings, async |world| {
        let mut client = world.connect().await;
        client.start("ann", database).await;
        assert_eq!(client.answers().await, [expected, "closed"], "{database}");
    });
}

#[test]
fn a_server_that_cannot_be_logged_in_to_is_an_error_for_its_clients_only() {
    check_login("login_refused", "FATAL 3D000 database \"login_refused\" does not exist");
    for database in [
        "login_garbage",
        "login_lie",
        "login_short",
        "login_closes",
        "login_half",
        "login_gss",
        "login_copy",
    ] {
        run(settings(), async |world| {
            let mut client = world.connect().await;
            client.start("ann", database).await;
            let answers = client.answers().await;
            assert!(answers[0].starts_with("FATAL 08"), "{database}: {answers:?}");
            assert_eq!(answers[1..], ["closed"], "{database}");
        });
    }
    check_login("login_hangs", "FATAL 08006 server_connect_timeout");
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let mut settings = settings();
    let host = vec![Host::Tcp("127.0.0.1".to_owned())];
    settings.databases.insert("gone".to_owned(), Database { host, port: 1, ..Database::default() });
    let nowhere = vec![Host::Unix("/nonexistent".to_owned())];
    settings
        .databases
        .insert("nowhere".to_owned(), Database { host: nowhere, ..Database::default() });
    run(settings, async |world: &World| {
        for database in ["gone", "nowhere"] {
            let mut client = world.connect().await;
            client.start("ann", database).await;
            let answers = client.answers().await;
            assert!(answers[0].starts_with("FATAL 08"), "{answers:?}");
            assert_eq!(answers[1..], ["closed"]);
        }
    });
}
