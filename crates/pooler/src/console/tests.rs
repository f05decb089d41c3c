//! Tests of the console as a whole, against a pooler that only remembers what it was told.

use std::cell::RefCell;
use std::future::{Future, ready};
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use pg::wire::backend;
use pg::wire::error::ErrorFields;
use pg::wire::frontend::write;

use super::snapshot::{DatabaseState, Snapshot, State};
use super::*;
use crate::command::Order;

/// What the two cores of the fake pooler were told, and what they say of themselves.
#[derive(Default)]
struct Pooler {
    told: RefCell<Vec<String>>,
    snapshot: RefCell<Snapshot>,
    settings: RefCell<Settings>,
    reload_fails: bool,
}

fn host(pooler: &Rc<Pooler>) -> Host {
    let [asked, ruled, reloaded, replaced, stopped] = [(); 5].map(|()| Rc::clone(pooler));
    Host {
        ask: Box::new(move |command| {
            let answer = match &command {
                Command::Snapshot => {
                    let snapshot = asked.snapshot.borrow().clone();
                    let other = Snapshot { core: 1, ..Snapshot::default() };
                    return Box::pin(ready(vec![
                        Answer::Snapshot(Box::new(snapshot)),
                        Answer::Snapshot(Box::new(other)),
                    ]));
                }
                Command::Order(Order::KillClient { id: 7 }) => Answer::Done,
                Command::Order(Order::KillClient { .. }) => Answer::Unknown,
                _ => Answer::Done,
            };
            if let Command::Order(order) = &command {
                asked.told.borrow_mut().push(format!("{order:?}"));
            }
            Box::pin(ready(vec![Answer::Unknown, answer]))
        }),
        rules: Box::new(move || Arc::new(rules(ruled.settings.borrow().clone()))),
        reload: Box::new(move || {
            let error = SettingsError {
                file: "howdah.toml".to_owned(),
                line: Some(7),
                key: Some("pooler.pool_mode".to_owned()),
                message: "broken".to_owned(),
            };
            Box::pin(ready(if reloaded.reload_fails { Err(vec![error]) } else { Ok(()) }))
        }),
        replace: Box::new(move |settings| {
            *replaced.settings.borrow_mut() = settings;
            Box::pin(ready(Ok(())))
        }),
        shutdown: Box::new(move |how| stopped.told.borrow_mut().push(format!("{how:?}"))),
    }
}

fn rules(mut settings: Settings) -> Rules {
    settings.databases.insert("shop".to_owned(), crate::settings::Database::default());
    let files = |_path: &Path| Ok(String::new());
    Rules::load(1, settings, &files).expect("good rules")
}

/// Types commands; gives tags, error texts and counts of rows.
fn type_in(pooler: &Rc<Pooler>, right: ConsoleRight, commands: &[&str]) -> Vec<String> {
    let (host, mut console) = (host(pooler), Console::new("ann", right));
    let mut answers = Vec::new();
    for command in commands {
        let mut input = Vec::new();
        write::query(&mut input, command);
        let mut out = Vec::new();
        assert_eq!(now(console.feed(&input, &host, &mut out)), Flow::Continue, "{command}");
        answers.push(shown(&out));
    }
    answers
}

fn check(commands: &[&str], expected: &[&str]) {
    let pooler = Rc::new(Pooler::default());
    assert_eq!(type_in(&pooler, ConsoleRight::Admin, commands), expected);
}

/// Nothing in these tests waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the console waits for something"),
    }
}

fn shown(out: &[u8]) -> String {
    let mut rows = 0;
    let mut rest = out;
    while let Some((&[kind, a, b, c, d], after)) = rest.split_first_chunk() {
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).expect("a length") - 4;
        let (body, next) = after.split_at(length);
        rest = next;
        match backend::Message::read(kind, body).expect("our own message") {
            backend::Message::DataRow(_) => rows += 1,
            backend::Message::CommandComplete(tag) => {
                let tag = String::from_utf8_lossy(tag.0);
                return if rows > 0 { format!("{tag}: {rows}") } else { tag.into_owned() };
            }
            backend::Message::Error(_) => {
                let fields = ErrorFields::read(body).expect("our own error");
                let (state, text) = (fields.sqlstate.expect("it has one"), fields.message);
                let detail =
                    fields.detail.map(|detail| format!(" ({})", String::from_utf8_lossy(detail)));
                return format!(
                    "{state} {}{}",
                    String::from_utf8_lossy(text),
                    detail.unwrap_or_default()
                );
            }
            _ => {}
        }
    }
    "nothing".to_owned()
}

#[test]
fn orders_reach_all_cores() {
    let pooler = Rc::new(Pooler::default());
    let commands = [
        "PAUSE shop",
        "DISABLE shop",
        "ENABLE shop",
        "RECONNECT",
        "KILL shop",
        "KILL_CLIENT 7",
        "WAIT_CLOSE",
        "SUSPEND",
        "SHUTDOWN WAIT_FOR_CLIENTS",
    ];
    assert_eq!(
        type_in(&pooler, ConsoleRight::Admin, &commands),
        [
            "PAUSE",
            "DISABLE",
            "ENABLE",
            "RECONNECT",
            "KILL",
            "KILL_CLIENT",
            "WAIT_CLOSE",
            "SUSPEND",
            "SHUTDOWN",
        ]
    );
    assert_eq!(
        *pooler.told.borrow(),
        [
            "Pause { database: Some(\"shop\") }",
            "Disable { database: \"shop\" }",
            "Enable { database: \"shop\" }",
            "Reconnect { database: None }",
            "Kill { database: Some(\"shop\") }",
            "KillClient { id: 7 }",
            "WaitClose { database: None }",
            "Suspend",
            "After(Clients)",
        ]
    );
}

#[test]
fn statistics_users_may_only_look() {
    let pooler = Rc::new(Pooler::default());
    let commands = ["SHOW POOLS", "select 1", "RELOAD", "SET log_stats = 1", "KILL_CLIENT 7"];
    assert_eq!(
        type_in(&pooler, ConsoleRight::Stats, &commands),
        [
            "SHOW: 1",
            "SELECT 1: 1",
            "42501 admin access needed",
            "42501 admin access needed",
            "42501 admin access needed",
        ]
    );
    assert!(pooler.told.borrow().is_empty(), "nothing was done");
}

#[test]
fn what_is_not_there_is_refused() {
    check(
        &[
            "PAUSE gone",
            "KILL pgbouncer",
            "RECONNECT howdah",
            "WAIT_CLOSE howdah",
            "DISABLE",
            "KILL_CLIENT 8",
            "nonsense",
        ],
        &[
            "3D000 no such database: gone",
            "55000 cannot kill admin db: pgbouncer",
            "55000 cannot reconnect admin db: howdah",
            "55000 cannot wait in admin db: howdah",
            "42601 a database is required",
            "42704 client not found",
            "42601 invalid command 'nonsense', use SHOW HELP;",
        ],
    );
}

#[test]
fn pause_and_resume_must_alternate() {
    check(
        &["RESUME", "RESUME shop"],
        &["55000 pooler is not paused/suspended", "55000 database shop is not paused"],
    );
    let paused = Snapshot {
        state: State::Paused,
        databases: vec![DatabaseState { name: "shop".into(), paused: true, disabled: false }],
        ..Snapshot::default()
    };
    let pooler = Rc::new(Pooler { snapshot: RefCell::new(paused), ..Pooler::default() });
    assert_eq!(
        type_in(&pooler, ConsoleRight::Admin, &["PAUSE", "KILL", "RESUME shop", "RESUME"]),
        ["55000 already suspended/paused", "55000 already suspended/paused", "RESUME", "RESUME"]
    );
    pooler.snapshot.borrow_mut().state = State::Active;
    assert_eq!(
        type_in(&pooler, ConsoleRight::Admin, &["SUSPEND"]),
        ["55000 cannot suspend with paused databases"]
    );
    pooler.snapshot.borrow_mut().finishing = true;
    assert_eq!(
        type_in(&pooler, ConsoleRight::Admin, &["RESUME shop", "RESUME"]),
        ["55000 pooler is shutting down", "55000 pooler is shutting down"]
    );
}

#[test]
fn a_broken_configuration_is_told_and_changes_nothing() {
    let pooler = Rc::new(Pooler { reload_fails: true, ..Pooler::default() });
    assert_eq!(
        type_in(&pooler, ConsoleRight::Admin, &["RELOAD"]),
        ["F0000 RELOAD failed, the old configuration stays \
          (howdah.toml:7: pooler.pool_mode: broken)"]
    );
    check(&["RELOAD"], &["RELOAD"]);
}

#[test]
fn set_changes_one_setting() {
    let pooler = Rc::new(Pooler::default());
    let commands = [
        "SET default_pool_size = 7",
        "SET query_timeout = '1.5'",
        "SET default_pool_size = many",
        "SET listen_port = 1",
        "SET nothing = 1",
        "SET pkt_buf = 1",
        "SET client_encoding = 'UTF8'",
    ];
    assert_eq!(
        type_in(&pooler, ConsoleRight::Admin, &commands),
        [
            "SET default_pool_size=7",
            "SET query_timeout=1.5",
            "22023 invalid value for parameter \"default_pool_size\": \
             \"many\" is not a whole number",
            "55P02 parameter \"listen_port\" cannot be changed without restarting the pooler",
            "42704 unrecognized configuration parameter \"nothing\"",
            "42704 unrecognized configuration parameter \"pkt_buf\"",
            "SET",
        ]
    );
    let settings = pooler.settings.borrow();
    assert_eq!(settings.default_pool_size, 7);
    assert_eq!(settings.query_timeout.as_millis(), 1500);
}

#[test]
fn bytes_may_come_one_by_one() {
    let pooler = Rc::new(Pooler::default());
    let (host, mut console) = (host(&pooler), Console::new("ann", ConsoleRight::Admin));
    let (mut input, mut out) = (Vec::new(), Vec::new());
    write::query(&mut input, "SHOW STATE");
    write::terminate(&mut input);
    let mut flows = Vec::new();
    for byte in input {
        flows.push(now(console.feed(&[byte], &host, &mut out)));
    }
    assert_eq!(flows.pop(), Some(Flow::Close));
    assert!(flows.iter().all(|flow| *flow == Flow::Continue));
    assert_eq!(shown(&out), "SHOW: 3");
}

#[test]
fn a_lying_length_ends_the_connection() {
    for length in [0_u32, 3, u32::MAX, 1 << 20] {
        let pooler = Rc::new(Pooler::default());
        let (host, mut console) = (host(&pooler), Console::new("ann", ConsoleRight::Admin));
        let mut out = Vec::new();
        let input = [&b"Q"[..], &length.to_be_bytes()].concat();
        assert_eq!(now(console.feed(&input, &host, &mut out)), Flow::Close, "{length}");
        assert_eq!(shown(&out), "08P01 invalid message length");
    }
}
