//! Users who are not who they say.

use pg::wire::frontend;
use pooler::settings::{AuthType, Secret, Settings, User};

use crate::world::{World, run, settings};

/// User `ann` with password `apple`, as plain text and as a verifier, and one without any.
fn with(auth_type: AuthType) -> Settings {
    let user = |password: &str| User { password: Some(Secret::new(password)), ..User::default() };
    // Made by Postgres 15: CREATE ROLE scram PASSWORD 'apple'.
    let md5 = "md53bdd2bd1a7bf5e5c6d4a4a4b6c3d6e1e";
    let users = [
        ("ann".to_owned(), user("apple")),
        ("wrong_md5".to_owned(), user(md5)),
        ("nothing".to_owned(), User::default()),
        ("empty".to_owned(), user("")),
    ];
    Settings { auth_type, users: users.into(), ..settings() }
}

const METHODS: [AuthType; 3] = [AuthType::Plain, AuthType::Md5, AuthType::ScramSha256];

async fn log_in(world: &World, user: &str, password: &str) -> Vec<String> {
    let mut client = world.connect().await;
    client.start(user, "shop").await;
    client.log_in_with(user, password).await
}

#[test]
fn a_wrong_password_is_refused_by_every_method() {
    for method in METHODS {
        run(with(method), async |world| {
            for (user, password) in [
                ("ann", "pear"),
                ("ann", ""),
                ("ann", "Apple"),
                ("ann", "apple "),
                ("wrong_md5", "apple"),
                ("nothing", ""),
                ("nothing", "x"),
                ("empty", ""),
                ("nobody", "x"),
            ] {
                let answers = log_in(world, user, password).await;
                let expected =
                    format!("FATAL 28P01 password authentication failed for user \"{user}\"");
                assert_eq!(answers, [expected.as_str(), "closed"], "{method} {user} {password}");
            }
            assert_eq!(log_in(world, "ann", "apple").await, ["ready I"], "{method}");
        });
    }
}

#[test]
fn who_is_unknown_is_asked_like_anybody() {
    for method in METHODS {
        run(with(method), async |world| {
            let mut known = world.connect().await;
            known.start("ann", "shop").await;
            let mut unknown = world.connect().await;
            unknown.start("nobody", "shop").await;
            assert_eq!(known.answers().await, unknown.answers().await, "{method}");
        });
    }
}

#[test]
fn nonsense_instead_of_a_proof_ends_the_connection() {
    for method in METHODS {
        run(with(method), async |world| {
            for bytes in [
                &b"p\0\0\0\x04"[..],
                b"p\0\0\0\x05x",
                b"p\0\0\0\x03",
                b"p\xff\xff\xff\xff",
                b"p\x7f\xff\xff\xff",
                b"Q\0\0\0\x0dselect 1\0",
                b"p\0\0\0\x1bSCRAM-SHA-256\0\xff\xff\xff\xf0\0\0\0\0\0",
                b"p\0\0\0\x17SCRAM-SHA-256\0\0\0\0\x01x",
                b"p\0\0\0\x0aOAUTH\0",
            ] {
                let mut client = world.connect().await;
                client.start("ann", "shop").await;
                let _demand: Vec<String> = client.answers().await;
                client.send(bytes).await;
                let answers = client.answers().await;
                let shown = bytes.escape_ascii().to_string();
                assert_eq!(answers.last().map(String::as_str), Some("closed"), "{method} {shown}");
                if let [error, _closed] = answers.as_slice() {
                    let good =
                        error.starts_with("FATAL 28P01 ") || error.starts_with("FATAL 08P01 ");
                    assert!(good, "{method} {shown}: {error}");
                }
            }
        });
    }
}

#[test]
fn a_query_before_the_proof_is_not_carried_out() {
    run(with(AuthType::ScramSha256), async |world| {
        let mut client = world.connect().await;
        client.start("ann", "shop").await;
        let mut out = Vec::new();
        frontend::write::query(&mut out, "sneaked in");
        client.send(&out).await;
        client.until_closed().await;
        assert!(!world.server.queries.borrow().iter().any(|query| query == "sneaked in"));
    });
}

#[test]
fn nobody_gets_into_the_console_without_a_proof() {
    run(with(AuthType::ScramSha256), async |world| {
        for (user, password) in [("ann", "pear"), ("nobody", "x")] {
            let mut client = world.connect().await;
            client.start(user, "pgbouncer").await;
            let answers = client.log_in_with(user, password).await;
            assert!(answers[0].starts_with("FATAL 28P01 "), "{answers:?}");
        }
    });
}
