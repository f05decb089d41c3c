//! Names with an `@`: who waits for what, what is told, and what happens when a target's server goes.

use std::time::Duration;

use pg::sqlstate::SqlState;
use pg::wire::error::{ErrorFields, Report};
use pooler::resolver::{Place, Resolve};
use pooler::settings::{AuthType, Database, Host, Secret, ServerAddress, Settings, User};
use runtime::clock;
use runtime::mailbox::Receiver;

use crate::world::{Client, World, run, run_with_targets, settings};

async fn question(questions: &mut Receiver<Resolve>, target: &str) -> Resolve {
    let question = questions.recv().await.expect("the pooler runs");
    assert_eq!(question.target, target);
    question
}

/// Somebody has asked for the target, and is told where its server is.
async fn is_found(world: &World, questions: &mut Receiver<Resolve>, target: &str) {
    let asked = question(questions, target).await;
    asked.reply.send(Ok(world.server.place())).expect("it waits");
}

/// Asks, and is answered.
async fn check(client: &mut Client, sql: &str) {
    client.query(sql).await;
    assert_eq!(client.answers().await, [&format!("row {sql}"), "SELECT 1", "ready I"]);
}

/// The text of the notice that comes next.
async fn notice(client: &mut Client) -> String {
    let (kind, body) = client.message().await.expect("it is connected");
    assert_eq!(char::from(kind), 'N');
    String::from_utf8_lossy(ErrorFields::read(&body).expect("a whole notice").message).into_owned()
}

/// A client that asks for the database and has not been answered.
async fn begin(world: &World, database: &str) -> Client {
    let mut client = world.connect().await;
    client.start("ann", database).await;
    client
}

/// Nobody has asked anything.
async fn nothing_asked(questions: &mut Receiver<Resolve>) {
    clock::sleep(Duration::from_millis(20)).await;
    assert!(questions.try_recv().is_none());
}

#[test]
fn a_log_in_waits_for_the_address_and_is_told_so() {
    run_with_targets(settings(), async |world, questions| {
        let mut client = begin(world, "shop@feature").await;
        let asked = question(questions, "feature").await;
        assert!(!asked.is_unreachable);
        asked.notice.send("starting".to_owned()).expect("it is heard");
        let (kind, body) = client.message().await.expect("it is connected");
        assert_eq!(
            (char::from(kind), &*body),
            ('R', &[0, 0, 0, 0][..]),
            "libpq takes no notice before"
        );
        assert_eq!(notice(&mut client).await, "starting");
        let mut place = world.server.place();
        place.parameters = vec![("default_transaction_read_only", "on".to_owned())];
        asked.reply.send(Ok(place)).expect("it waits");
        assert_eq!(client.answers().await, ["ready I"]);
        check(&mut client, "hello").await;
        let login = world.server.logins.borrow().last().cloned().expect("one has logged in");
        assert!(login.contains("database,shop,"), "{login}");
        assert!(login.contains("default_transaction_read_only,on,"), "{login}");
    });
}

#[test]
fn one_question_serves_all_who_ask() {
    run_with_targets(settings(), async |world, questions| {
        let mut clients = Vec::new();
        for _client in 0..3 {
            clients.push(begin(world, "shop@feature").await);
        }
        let asked = question(questions, "feature").await;
        nothing_asked(questions).await;
        asked.reply.send(Ok(world.server.place())).expect("they wait");
        for client in &mut clients {
            assert_eq!(client.answers().await, ["ready I"]);
        }
        let mut later = world.log_in("shop@feature").await;
        check(&mut later, "later").await;
        nothing_asked(questions).await;
        let targets = world.pooler.targets().await;
        assert_eq!(targets.into_iter().collect::<Vec<_>>(), [("feature".to_owned(), 4)]);
    });
}

#[test]
fn a_refusal_is_told_and_not_remembered() {
    run_with_targets(settings(), async |world, questions| {
        for attempt in ["first", "second"] {
            let mut client = begin(world, "shop@nosuch").await;
            let asked = question(questions, "nosuch").await;
            let refusal = Report::fatal(SqlState::INVALID_CATALOG_NAME, attempt)
                .with_detail("why")
                .with_hint("what to do");
            asked.reply.send(Err(refusal)).expect("it waits");
            assert_eq!(client.answers().await, [&format!("FATAL 3D000 {attempt}"), "closed"]);
        }
        let mut client = begin(world, "shop@nosuch").await;
        drop(question(questions, "nosuch").await);
        let said = client.answers().await;
        assert_eq!(said, ["FATAL 57P03 nothing starts computes at the moment", "closed"]);
    });
}

#[test]
fn a_configured_database_of_that_name_comes_first() {
    let mut settings = settings();
    let host = vec![Host::Unix("/nowhere".to_owned())];
    let elsewhere = Database { host, ..Database::default() };
    settings.databases.insert("shop@feature".to_owned(), elsewhere);
    run_with_targets(settings, async |world, questions| {
        drop(begin(world, "shop@feature").await);
        nothing_asked(questions).await;
        let mut client = begin(world, "howdah@feature").await;
        assert_eq!(
            client.answers().await,
            ["FATAL 3D000 database \"howdah\" does not exist", "closed"]
        );
        nothing_asked(questions).await;
    });
    // And where nobody knows of targets, it is a name like others.
    run(crate::world::settings(), async |world| {
        let mut client = world.log_in("shop@feature").await;
        check(&mut client, "hello").await;
        let login = world.server.logins.borrow().last().cloned().expect("one has logged in");
        assert!(login.contains("database,shop@feature,"), "{login}");
    });
}

#[test]
fn clients_are_let_in_by_the_rules_of_the_database_and_before_anything_is_asked() {
    let mut settings = settings();
    settings.auth_type = AuthType::ScramSha256;
    let user = User { password: Some(Secret::new("apple")), ..User::default() };
    settings.users.insert("ann".to_owned(), user);
    run_with_targets(settings, async |world, questions| {
        let mut client = begin(world, "shop@feature").await;
        let refused = client.log_in_with("ann", "pear").await;
        assert!(refused[0].starts_with("FATAL 28P01"), "{refused:?}");
        nothing_asked(questions).await;
    });
}

#[test]
fn clients_are_held_while_a_dead_server_is_replaced() {
    run_with_targets(settings(), async |world, questions| {
        let mut idle = begin(world, "shop@feature").await;
        is_found(world, questions, "feature").await;
        assert_eq!(idle.answers().await, ["ready I"]);
        check(&mut idle, "before").await;
        let mut inside = world.log_in("shop@feature").await;
        inside.query("begin").await;
        assert_eq!(inside.answers().await, ["BEGIN", "ready T"]);

        world.pooler.target_lost("feature").await;
        inside.query("die").await;
        let said = inside.answers().await;
        assert_eq!(said, ["FATAL 08006 server closed the connection unexpectedly", "closed"]);
        nothing_asked(questions).await;
        idle.query("after").await;
        let asked = question(questions, "feature").await;
        asked.notice.send("replacing".to_owned()).expect("it is heard");
        assert_eq!(notice(&mut idle).await, "replacing");
        let mut late = begin(world, "shop@feature").await;
        asked.reply.send(Ok(world.server.place())).expect("it waits");
        assert_eq!(idle.answers().await, ["row after", "SELECT 1", "ready I"]);
        let said = late.answers().await;
        assert_eq!(said.last().map(String::as_str), Some("ready I"));
    });
}

#[test]
fn a_server_that_lets_nobody_in_is_asked_for_again() {
    run_with_targets(settings(), async |world, questions| {
        let mut client = begin(world, "shop@feature").await;
        let nowhere = ServerAddress::Unix("/nowhere/.s.PGSQL.1".into());
        let place = Place { server: nowhere, parameters: Vec::new() };
        question(questions, "feature").await.reply.send(Ok(place)).expect("it waits");
        let again = question(questions, "feature").await;
        assert!(again.is_unreachable);
        again.reply.send(Ok(world.server.place())).expect("it waits");
        assert_eq!(client.answers().await, ["ready I"]);
        world.pooler.target_lost("feature").await;
        client.query("lost").await;
        let refusal = Report::fatal(SqlState::TOO_MANY_CONNECTIONS, "full");
        question(questions, "feature").await.reply.send(Err(refusal)).expect("it waits");
        assert_eq!(client.answers().await, ["FATAL 53300 full", "closed"]);
    });
}

/// A client that waits for a server that is dying; the next will not be.
async fn come_to_a_dying_server(
    world: &World,
    questions: &mut Receiver<Resolve>,
    base: &str,
) -> Client {
    world.server.dying.set(true);
    let client = begin(world, &format!("{base}@feature")).await;
    is_found(world, questions, "feature").await;
    let tried = || world.server.logins.borrow().iter().any(|login| login.contains(base));
    world.until("it is tried", async || tried()).await;
    world.server.dying.set(false);
    client
}

#[test]
fn what_a_dying_server_says_to_those_who_come_is_not_told() {
    run_with_targets(settings(), async |world, questions| {
        let mut client = come_to_a_dying_server(world, questions, "login_broken").await;
        let again = question(questions, "feature").await;
        assert!(again.is_unreachable);
        again.reply.send(Ok(world.server.place())).expect("it waits");
        assert_eq!(client.answers().await, ["ready I"]);
        check(&mut client, "hello").await;
    });
}

#[test]
fn a_log_in_that_hangs_is_given_up_when_its_server_is_found_dead() {
    run_with_targets(settings(), async |world, questions| {
        let mut client = come_to_a_dying_server(world, questions, "login_hangs").await;
        nothing_asked(questions).await;
        world.pooler.target_lost("feature").await;
        is_found(world, questions, "feature").await;
        assert_eq!(client.answers().await, ["ready I"]);
        check(&mut client, "hello").await;
    });
}

#[test]
fn who_gave_up_logging_in_is_no_client_of_the_target() {
    // It hangs for longer than that.
    let settings = Settings { client_login_timeout: Duration::from_secs(1), ..settings() };
    run_with_targets(settings, async |world, questions| {
        let mut client = come_to_a_dying_server(world, questions, "login_hangs").await;
        world.server.dying.set(true);
        assert_eq!(client.answers().await, ["closed"]);
        assert_eq!(world.pooler.targets().await.get("feature"), Some(&0));
        world.pooler.target_lost("feature").await;
    });
}

#[test]
fn suspending_does_not_cut_off_who_waits_for_a_target() {
    let settings = Settings { suspend_timeout: Duration::from_millis(100), ..settings() };
    run_with_targets(settings, async |world, questions| {
        let mut waiting = begin(world, "shop@feature").await;
        let asked = question(questions, "feature").await;
        let mut half = world.connect().await;
        half.send(b"\0\0\0\x64\0\x03").await;
        let login_clients = || world.console("SHOW LISTS");
        world
            .until("it logs in", async || {
                login_clients().await.contains(&"row login_clients|1".to_owned())
            })
            .await;
        let mut admin = world.log_in("howdah").await;
        admin.query("SUSPEND").await;
        assert_eq!(admin.answers().await, ["SUSPEND", "ready I"]);
        asked.reply.send(Ok(world.server.place())).expect("it waits");
        half.send(b"\0\0").await;
        assert_eq!(half.answers().await, ["closed"]);
        admin.query("RESUME").await;
        assert_eq!(admin.answers().await, ["RESUME", "ready I"]);
        assert_eq!(waiting.answers().await, ["ready I"]);
        check(&mut waiting, "hello").await;
    });
}

#[test]
fn a_target_is_released_only_without_clients() {
    run_with_targets(settings(), async |world, questions| {
        let mut client = begin(world, "shop@feature").await;
        is_found(world, questions, "feature").await;
        assert_eq!(client.answers().await, ["ready I"]);
        check(&mut client, "hello").await;
        assert!(!world.pooler.release_target("feature").await, "it has a client");
        check(&mut client, "it goes on").await;
        drop(client);
        world
            .until("the client is gone", async || {
                world.pooler.targets().await.values().all(|clients| *clients == 0)
            })
            .await;
        assert!(world.pooler.release_target("feature").await);
        world.until("its servers are closed", async || world.server.open.get() == 0).await;
        assert!(world.pools().await.iter().all(|pool| pool.database != "shop@feature"));
        let mut again = begin(world, "shop@feature").await;
        is_found(world, questions, "feature").await;
        assert_eq!(again.answers().await, ["ready I"]);
    });
}

#[test]
fn the_console_shows_targets() {
    run_with_targets(settings(), async |world, questions| {
        let mut client = begin(world, "shop@feature").await;
        is_found(world, questions, "feature").await;
        assert_eq!(client.answers().await, ["ready I"]);
        let rows = world.console("SHOW DATABASES").await;
        let row = rows.iter().find(|row| row.starts_with("row shop@feature|"));
        let Place { server: ServerAddress::Tcp { host, port }, .. } = world.server.place() else {
            panic!("it listens on TCP")
        };
        let begins = format!("row shop@feature|{host}|{port}|shop|");
        assert!(row.is_some_and(|row| row.starts_with(&begins)), "{rows:?}");
        assert!(world.pools().await.iter().any(|pool| pool.database == "shop@feature"));
    });
}

#[test]
fn a_database_without_a_host_is_at_the_default_target() {
    let mut settings = settings();
    settings.databases.insert("shop".to_owned(), Database::default());
    run_with_targets(settings, async |world, questions| {
        let mut client = begin(world, "shop").await;
        is_found(world, questions, "main").await;
        assert_eq!(client.answers().await, ["ready I"]);
        check(&mut client, "hello").await;
        world.pooler.target_lost("main").await;
        client.query("held").await;
        is_found(world, questions, "main").await;
        assert_eq!(client.answers().await, ["row held", "SELECT 1", "ready I"]);
        let mut elsewhere = begin(world, "other").await;
        assert_eq!(elsewhere.answers().await, ["ready I"], "its entry has a host");
        nothing_asked(questions).await;
        assert!(world.pools().await.iter().any(|pool| pool.database == "shop"));
    });
}
