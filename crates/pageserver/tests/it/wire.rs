//! What the page service answers to clients that do not behave, without any Postgres behind it.

use pageserver::client::{Client, ClientError};
use pageserver::settings::{Password, User};
use pg::lsn::Lsn;
use pg::sqlstate::SqlState;
use pg::wire::error::ErrorFields;
use pg::wire::startup::{ProtocolVersion, write_ssl_request, write_startup};
use pg::wire::{backend, frontend};
use runtime::net::{Address, Stream};

use crate::cluster::Folder;
use crate::service::{Service, block_on, settings};

/// A page server that has never reached a Postgres.
fn lonely(name: &str, users: Vec<User>) -> (Service, Folder) {
    let folder = Folder::new(name);
    let nowhere = folder.path().join("nowhere").display().to_string();
    let mut settings = settings(folder.path(), nowhere);
    settings.users = users;
    (Service::start(settings), folder)
}

fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut packet = Vec::new();
    let pairs = parameters.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    write_startup(&mut packet, ProtocolVersion::V3_0, pairs);
    packet
}

/// Everything the service answers to `bytes` until it closes; a Terminate follows them.
fn answer(service: &Service, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    frontend::write::terminate(&mut bytes);
    let address = Address::Tcp(service.address);
    block_on(async move {
        let stream = Stream::connect(&address).await.expect("the service listens");
        stream.send(&bytes).await.expect("the service reads");
        let mut answer = Vec::new();
        loop {
            match stream.recv().await {
                Ok(chunk) if chunk.is_empty() => return answer,
                Ok(chunk) => answer.extend_from_slice(&chunk),
                // The service closes with bytes of ours unread: that is a reset.
                Err(_reset) => return answer,
            }
        }
    })
}

/// The messages in an answer: kind and body.
fn messages(mut answer: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    while let Some((&[kind, a, b, c, d], rest)) = answer.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([a, b, c, d]) as usize - 4;
        all.push((kind, rest[..length].to_vec()));
        answer = &rest[length..];
    }
    all
}

fn errors(answer: &[u8]) -> Vec<SqlState> {
    messages(answer)
        .iter()
        .filter(|(kind, _)| *kind == backend::kind::ERROR)
        .map(|(_, body)| ErrorFields::read(body).expect("a valid error").sqlstate.expect("a code"))
        .collect()
}

const REPLICATION: [(&str, &str); 2] = [("user", "u"), ("replication", "true")];

#[test]
fn wrong_openings_get_an_error_or_a_clean_close() {
    let (service, _folder) = lonely("openings", Vec::new());
    let not_replication = startup(&[("user", "u"), ("database", "d")]);
    assert_eq!(errors(&answer(&service, &not_replication)), [SqlState::FEATURE_NOT_SUPPORTED]);
    let no_user = startup(&[("replication", "true")]);
    assert_eq!(
        errors(&answer(&service, &no_user)),
        [SqlState::INVALID_AUTHORIZATION_SPECIFICATION]
    );
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xFF; 100], &[0; 100], &[0x16, 3, 1, 0, 5, 1, 2]]
    {
        let all = answer(&service, garbage);
        assert!(all.is_empty() || errors(&all).len() == 1, "{all:?}");
    }
    let mut stuffed = Vec::new();
    write_ssl_request(&mut stuffed);
    stuffed.extend_from_slice(&startup(&REPLICATION));
    assert_eq!(errors(&answer(&service, &stuffed)), [SqlState::PROTOCOL_VIOLATION]);
    service.stop();
}

#[test]
fn wrong_commands_get_an_error_and_the_session_goes_on() {
    let (service, _folder) = lonely("commands", Vec::new());
    let mut packet = startup(&REPLICATION);
    for sql in [
        "SELECT 1",
        "IDENTIFY_SYSTEM",
        "PAGESTREAM (VERSION '1')",
        "PAGESTREAM (VERSION '99')",
        "BASE_BACKUP",
        "BASE_BACKUP (COMPRESSION 'gzip')",
        "BASE_BACKUP (MAX_RATE '1')",
        "BASE_BACKUP (LABEL 'a', NONSENSE)",
        "BASE_BACKUP (MANIFEST_CHECKSUMS 'SHA1')",
        "BASE_BACKUP (MANIFEST 'no', MANIFEST_CHECKSUMS 'SHA256')",
        "START_REPLICATION SLOT \"a\" LOGICAL 0/0",
        "START_REPLICATION SLOT \"a\" 0/1",
        "START_REPLICATION 0/1",
        "START_REPLICATION 0/0 0/0",
        "RELATIONS x",
        "",
    ] {
        frontend::write::query(&mut packet, sql);
    }
    let all = answer(&service, &packet);
    assert_eq!(
        errors(&all),
        [
            SqlState::SYNTAX_ERROR,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::INVALID_PARAMETER_VALUE,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::FEATURE_NOT_SUPPORTED,
            SqlState::SYNTAX_ERROR,
            SqlState::SYNTAX_ERROR,
            SqlState::SYNTAX_ERROR,
            SqlState::SYNTAX_ERROR,
            SqlState::FEATURE_NOT_SUPPORTED,
            SqlState::UNDEFINED_OBJECT,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::SYNTAX_ERROR,
            SqlState::SYNTAX_ERROR,
            SqlState::SYNTAX_ERROR,
        ]
    );
    let ready = messages(&all).iter().filter(|(kind, _)| *kind == b'Z').count();
    assert_eq!(ready, 17, "one after log-in, one after each command");
    service.stop();
}

#[test]
fn lying_lengths_and_unknown_messages_end_the_session() {
    let (service, _folder) = lonely("lengths", Vec::new());
    for bad in [
        &[b'Q', 0x7F, 0xFF, 0xFF, 0xFF][..],
        &[b'Q', 0, 0, 0, 3],
        &[b'Q', 0, 0, 0, 6, b'a', b'b'],
        &[b'P', 0, 0, 0, 5, 0],
        &[0, 0, 0, 0, 4],
    ] {
        let packet = [&startup(&REPLICATION), bad].concat();
        let all = answer(&service, &packet);
        assert_eq!(errors(&all), [SqlState::PROTOCOL_VIOLATION], "{bad:?}");
    }
    service.stop();
}

#[test]
fn only_known_users_with_the_right_password_are_let_in() {
    let secret = pg::auth::scram::Secret::of(b"stored", b"0123456789abcdef", 4096).to_string();
    let user = |name: &str, secret: &str| User {
        name: name.to_owned(),
        secret: Password(secret.to_owned()),
    };
    let (service, _folder) = lonely("users", vec![user("ann", "right"), user("bob", &secret)]);
    let address = service.address.to_string();
    let log_in = |user: &'static str, password: &'static str| {
        let address = address.clone();
        block_on(async move {
            let mut client = Client::connect(&address, user, password).await?;
            client.relations(Lsn::MAX).await.map(drop)
        })
    };
    let state = |result| match result {
        Err(ClientError::Connection(pageserver::error::Error::Server { sqlstate, .. })) => sqlstate,
        other => panic!("not an error of the service: {other:?}"),
    };
    // Let in, and told that there is nothing to see yet.
    assert_eq!(state(log_in("ann", "right")), Some(SqlState::CANNOT_CONNECT_NOW));
    assert_eq!(state(log_in("bob", "stored")), Some(SqlState::CANNOT_CONNECT_NOW));
    for (user, password) in [("ann", "wrong"), ("bob", "right"), ("eve", "right"), ("ann", "")] {
        assert_eq!(state(log_in(user, password)), Some(SqlState::INVALID_PASSWORD), "{user}");
    }
    service.stop();
}
