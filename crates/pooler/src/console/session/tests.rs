//! Tests of the console's protocol: what a client sends, what it is answered, byte for byte by kind.

use pg::wire::backend;
use pg::wire::frontend::write as client;

use super::super::statement::Show;
use super::super::table::Value;
use super::*;

/// Feeds messages, answers every Run with `rows` rows, and gives the answers in short.
fn talk(session: &mut Session, input: &[u8], rows: i64) -> Vec<String> {
    let mut out = Vec::new();
    let mut rest = input;
    while let Some((&[kind, a, b, c, d], after)) = rest.split_first_chunk() {
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).expect("a length") - 4;
        let (body, next) = after.split_at(length);
        rest = next;
        match session.message(kind, body, &mut out) {
            Next::Continue => {}
            Next::Run(statement) => {
                let columns = statement_columns(&statement).map_or(0, |columns| columns.len());
                let row = |n: i64| vec![Value::Int(n); columns];
                let result = if columns > 0 {
                    Ok(Outcome::Rows((0..rows).map(row).collect()))
                } else {
                    Ok(Outcome::Done { tag: "DONE".to_owned(), notice: None })
                };
                session.finish(result, &mut out);
            }
            Next::Close => return [answers(&out), vec!["(closed)".to_owned()]].concat(),
            Next::Fail => return [answers(&out), vec!["(failed)".to_owned()]].concat(),
        }
    }
    answers(&out)
}

fn answers(out: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = out;
    while let Some((&[kind, a, b, c, d], after)) = rest.split_first_chunk() {
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).expect("a length") - 4;
        let (body, next) = after.split_at(length);
        rest = next;
        found.push(match backend::Message::read(kind, body).expect("our own message") {
            backend::Message::CommandComplete(tag) => String::from_utf8_lossy(tag.0).into_owned(),
            backend::Message::ReadyForQuery(status) => format!("Z{}", char::from(status.code())),
            backend::Message::Error(_) => {
                let fields = pg::wire::error::ErrorFields::read(body).expect("our own error");
                format!("E{}", fields.sqlstate.expect("it has one"))
            }
            backend::Message::RowDescription(row) => format!("T{}", row.len()),
            _ => char::from(kind).to_string(),
        });
    }
    assert!(rest.is_empty(), "whole messages");
    found
}

fn check(build: impl FnOnce(&mut Vec<u8>), expected: &[&str]) {
    let mut input = Vec::new();
    build(&mut input);
    assert_eq!(talk(&mut Session::default(), &input, 2), expected);
}

fn bind(out: &mut Vec<u8>, portal: &str, statement: &str, formats: &[Format]) {
    client::bind(out, portal, statement, &[], &[], formats);
}

#[test]
fn simple_queries_are_answered() {
    check(|out| client::query(out, "SHOW STATE"), &["T2", "D", "D", "SHOW", "ZI"]);
    check(|out| client::query(out, "RELOAD;"), &["DONE", "ZI"]);
    check(|out| client::query(out, ""), &["I", "ZI"]);
    check(|out| client::query(out, "nonsense"), &["E42601", "ZI"]);
    check(|out| client::query(out, "SET timezone = 'UTC'"), &["SET", "ZI"]);
    check(
        |out| {
            client::query(out, "begin");
            client::query(out, "select 1");
            client::query(out, "commit");
        },
        &["BEGIN", "ZT", "T1", "D", "D", "SELECT 1", "ZT", "COMMIT", "ZI"],
    );
}

#[test]
fn drivers_that_prepare_everything_are_served() {
    check(
        |out| {
            client::parse(out, "s1", "SHOW STATE", &[]);
            client::describe(out, Target::Statement(b"s1"));
            client::sync(out);
            bind(out, "", "s1", &[Format::Binary]);
            client::describe(out, Target::Portal(b""));
            client::execute(out, "", 0);
            client::sync(out);
            client::close(out, Target::Statement(b"s1"));
            client::sync(out);
        },
        &["1", "t", "T2", "ZI", "2", "T2", "D", "D", "SHOW", "ZI", "3", "ZI"],
    );
    check(
        |out| {
            client::parse(out, "", "RELOAD", &[]);
            bind(out, "", "", &[]);
            client::describe(out, Target::Portal(b""));
            client::execute(out, "", 0);
            client::sync(out);
        },
        &["1", "2", "n", "DONE", "ZI"],
    );
}

#[test]
fn rows_can_be_fetched_in_parts() {
    let mut input = Vec::new();
    client::parse(&mut input, "", "SHOW STATE", &[]);
    bind(&mut input, "p", "", &[]);
    for _fetch in 0..4 {
        client::execute(&mut input, "p", 2);
    }
    client::sync(&mut input);
    assert_eq!(
        talk(&mut Session::default(), &input, 5),
        ["1", "2", "D", "D", "s", "D", "D", "s", "D", "SHOW", "SHOW", "ZI"]
    );
}

#[test]
fn numbers_can_be_had_in_binary() {
    let mut session = Session::default();
    let mut input = Vec::new();
    client::parse(&mut input, "", "select 7", &[]);
    bind(&mut input, "", "", &[Format::Binary]);
    client::execute(&mut input, "", 0);
    let mut out = Vec::new();
    let mut rest = input.as_slice();
    while let Some((&[kind, a, b, c, d], after)) = rest.split_first_chunk() {
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).expect("a length") - 4;
        let (body, next) = after.split_at(length);
        rest = next;
        if let Next::Run(_) = session.message(kind, body, &mut out) {
            session.finish(Ok(Outcome::Rows(vec![vec![Value::Int(7)]])), &mut out);
        }
    }
    let row = [b'D', 0, 0, 0, 18, 0, 1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 7];
    assert!(out.windows(row.len()).any(|window| window == row), "{out:?}");
}

#[test]
fn after_an_error_everything_is_skipped_up_to_sync() {
    check(
        |out| {
            client::parse(out, "", "nonsense", &[]);
            bind(out, "", "", &[]);
            client::execute(out, "", 0);
            client::sync(out);
            client::query(out, "RELOAD");
        },
        &["E42601", "ZI", "DONE", "ZI"],
    );
}

#[test]
fn what_is_not_there_is_named() {
    check(
        |out| {
            bind(out, "", "gone", &[]);
            client::sync(out);
            client::execute(out, "gone", 0);
            client::sync(out);
            client::describe(out, Target::Portal(b"gone"));
            client::sync(out);
            client::parse(out, "a", "RELOAD", &[]);
            client::parse(out, "a", "RELOAD", &[]);
            client::sync(out);
        },
        &["E26000", "ZI", "E34000", "ZI", "E34000", "ZI", "1", "E42P05", "ZI"],
    );
}

#[test]
fn parameters_and_wrong_formats_are_refused() {
    check(
        |out| {
            client::parse(out, "", "SHOW STATE", &[]);
            client::bind(out, "", "", &[], &[Some(&b"x"[..])], &[]);
            client::sync(out);
            client::parse(out, "", "SHOW STATE", &[]);
            bind(out, "", "", &[Format::Text; 3]);
            client::sync(out);
        },
        &["1", "E08P01", "ZI", "1", "E08P01", "ZI"],
    );
}

#[test]
fn what_does_not_belong_here_ends_the_connection() {
    check(client::terminate, &["(closed)"]);
    check(client::copy_done, &["E08P01", "(failed)"]);
    check(|out| out.extend_from_slice(b"Q\0\0\0\x05x"), &["E08P01", "(failed)"]);
    check(|out| out.extend_from_slice(b"?\0\0\0\x04"), &["E08P01", "(failed)"]);
}

#[test]
fn statements_and_portals_are_bounded() {
    let mut session = Session::default();
    let mut input = Vec::new();
    for index in 0..=CONSOLE_STATEMENTS_MAX {
        client::parse(&mut input, format!("s{index}"), "RELOAD", &[]);
    }
    client::sync(&mut input);
    let answers = talk(&mut session, &input, 0);
    assert_eq!(answers[CONSOLE_STATEMENTS_MAX..], ["E53400", "ZI"]);
    let mut input = Vec::new();
    for index in 0..=CONSOLE_STATEMENTS_MAX {
        bind(&mut input, &format!("p{index}"), "s1", &[]);
    }
    client::sync(&mut input);
    let answers = talk(&mut session, &input, 0);
    assert_eq!(answers[CONSOLE_STATEMENTS_MAX..], ["E53400", "ZI"]);
}

#[test]
fn every_show_can_be_described_without_running_it() {
    for show in [Show::Pools, Show::Stats, Show::Help] {
        assert!(statement_columns(&Statement::Show(show)).is_some());
    }
    assert_eq!(statement_columns(&Statement::Reload), None);
}
