//! Frontend messages: built, read, rewritten.

use pg::oid::Oid;
use pg::wire::Malformed;
use pg::wire::frontend::{
    self, BindHead, Format, Message, Parse, SaslInitial, Target, kind, rewrite, write,
};
use pg::wire::stream::FRONTEND;
use proptest::prelude::*;

use super::{config, only_message, string, value};

fn read(bytes: &[u8]) -> Message<'_> {
    let (kind, body) = only_message(bytes, &FRONTEND);
    Message::read(kind, body).expect("we built it")
}

fn format() -> impl Strategy<Value = Format> {
    prop::sample::select(vec![Format::Text, Format::Binary])
}

fn borrow(values: &[Option<Vec<u8>>]) -> Vec<Option<&[u8]>> {
    values.iter().map(Option::as_deref).collect()
}

#[test]
fn messages_without_a_body_have_none() {
    type Build = fn(&mut Vec<u8>);
    for (build, wanted) in [
        (write::flush as Build, Message::Flush),
        (write::sync, Message::Sync),
        (write::terminate, Message::Terminate),
        (write::copy_done, Message::CopyDone),
    ] {
        let mut bytes = Vec::new();
        build(&mut bytes);
        assert_eq!(bytes.len(), 5);
        assert_eq!(read(&bytes), wanted);
        let refused = Message::read(bytes[0], b"x");
        assert_eq!(refused, Err(Malformed::TrailingBytes), "{wanted:?}");
    }
}

#[test]
fn refuses_kinds_that_no_client_sends() {
    for kind in 0..=255_u8 {
        let known = kind::ALL.contains(&kind);
        assert_eq!(Message::read(kind, b"") == Err(Malformed::Kind(kind)), !known, "{kind}");
    }
}

#[test]
fn refuses_broken_bodies_in_postgres_own_words() {
    for (kind, body, text) in [
        (kind::QUERY, &b"select 1"[..], "invalid string in message"),
        (kind::QUERY, b"a\0b\0", "invalid message format"),
        (kind::PARSE, b"s\0q\0\0\x01\0\0", "insufficient data left in message"),
        (
            kind::BIND,
            b"\0\0\0\x02\0\0\0\0\0\x01\0\0\0\0\0\0",
            "bind message has 2 parameter formats but 1 parameters",
        ),
        (kind::BIND, b"\0\0\0\0\0\x01\xFF\xFF\xFF\xFE\0\0", "invalid message format"),
        (kind::BIND, b"\0\0\0\0\0\x01\0\0\0\x09abc\0\0", "insufficient data left in message"),
        (kind::DESCRIBE, b"Xname\0", "invalid DESCRIBE message subtype 88"),
        (kind::CLOSE, b"xname\0", "invalid CLOSE message subtype 120"),
        (kind::EXECUTE, b"p\0\0\0", "insufficient data left in message"),
    ] {
        let error = Message::read(kind, body).unwrap_err();
        assert_eq!(error.to_string(), text, "{body:?}");
        assert_eq!(error.sqlstate().as_str(), "08P01");
    }
}

#[test]
fn a_zero_byte_cannot_smuggle_in_fields() {
    let mut bytes = Vec::new();
    write::parse(&mut bytes, b"name\0evil", b"select 1\0", &[]);
    let Message::Parse(parse) = read(&bytes) else { panic!("a Parse") };
    assert_eq!((parse.name, parse.sql), (&b"name"[..], &b"select 1"[..]));
}

#[test]
fn formats_count_for_none_one_or_each() {
    let of = |formats: &[Format], index| {
        let mut bytes = Vec::new();
        write::bind(&mut bytes, "", "", &[], &[], formats);
        let Message::Bind(bind) = read(&bytes) else { panic!("a Bind") };
        bind.result_formats.of(index)
    };
    assert_eq!(of(&[], 5), Some(Format::Text));
    assert_eq!(of(&[Format::Binary], 5), Some(Format::Binary));
    assert_eq!(of(&[Format::Binary, Format::Text], 1), Some(Format::Text));
    assert_eq!(of(&[Format::Binary, Format::Text], 2), None);
}

#[test]
fn a_function_call_reads_back() {
    let mut bytes = Vec::new();
    let arguments = [Some(&b"abc"[..]), None];
    write::function_call(&mut bytes, Oid(957), &[Format::Binary], &arguments, Format::Binary);
    let Message::FunctionCall(call) = read(&bytes) else { panic!("a FunctionCall") };
    assert_eq!((call.function, call.result_format), (Oid(957), 1));
    assert!(call.arguments.eq(arguments));
}

#[test]
fn the_password_kind_carries_three_messages() {
    let mut bytes = Vec::new();
    write::password(&mut bytes, "secret");
    let (kind, body) = only_message(&bytes, &FRONTEND);
    assert_eq!((kind, frontend::password(body)), (kind::PASSWORD, Ok(&b"secret"[..])));

    for data in [None, Some(&b"n,,n=,r=x"[..]), Some(b"")] {
        bytes.clear();
        write::sasl_initial(&mut bytes, "SCRAM-SHA-256", data);
        let (_, body) = only_message(&bytes, &FRONTEND);
        let wanted = SaslInitial { mechanism: b"SCRAM-SHA-256", data };
        assert_eq!(SaslInitial::read(body), Ok(wanted));
    }

    bytes.clear();
    write::sasl_response(&mut bytes, b"c=biws");
    let (_, body) = only_message(&bytes, &FRONTEND);
    assert_eq!(frontend::sasl_response(body), b"c=biws");
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn queries_and_copies_read_back(text in string(), data in prop::collection::vec(any::<u8>(), 0..50)) {
        let mut bytes = Vec::new();
        write::query(&mut bytes, &text);
        prop_assert_eq!(read(&bytes), Message::Query(&text));
        bytes.clear();
        write::copy_fail(&mut bytes, &text);
        prop_assert_eq!(read(&bytes), Message::CopyFail(&text));
        bytes.clear();
        write::copy_data(&mut bytes, &data);
        prop_assert_eq!(read(&bytes), Message::CopyData(&data));
    }

    #[test]
    fn a_parse_reads_back_and_changes_only_its_name(
        name in string(),
        other in string(),
        sql in string(),
        types in prop::collection::vec(any::<u32>().prop_map(Oid), 0..8),
    ) {
        let mut bytes = Vec::new();
        write::parse(&mut bytes, &name, &sql, &types);
        let Message::Parse(parse) = read(&bytes) else { panic!("a Parse") };
        prop_assert_eq!((parse.name, parse.sql), (&name[..], &sql[..]));
        prop_assert!(parse.types().eq(types.iter().copied()));

        let (_, body) = only_message(&bytes, &FRONTEND);
        prop_assert_eq!(frontend::parse_name(body), Ok(&name[..]));
        let (mut rewritten, mut built) = (Vec::new(), Vec::new());
        rewrite::parse(&mut rewritten, body, &other).unwrap();
        write::parse(&mut built, &other, &sql, &types);
        prop_assert_eq!(&rewritten, &built);
        // The same statement under any name has the same identity.
        let (_, other_body) = only_message(&rewritten, &FRONTEND);
        prop_assert_eq!(Parse::identity(body), Parse::identity(other_body));
    }

    #[test]
    fn a_bind_reads_back_and_changes_only_its_statement(
        portal in string(),
        statement in string(),
        other in string(),
        values in prop::collection::vec(value(), 0..8),
        one_format in prop::option::of(format()),
        results in prop::collection::vec(format(), 0..4),
    ) {
        let formats: Vec<_> = one_format.into_iter().collect();
        let values = borrow(&values);
        let mut bytes = Vec::new();
        write::bind(&mut bytes, &portal, &statement, &formats, &values, &results);
        let Message::Bind(bind) = read(&bytes) else { panic!("a Bind") };
        prop_assert_eq!((bind.portal, bind.statement), (&portal[..], &statement[..]));
        prop_assert!(bind.values().eq(values.iter().copied()));
        prop_assert_eq!(bind.result_formats.len(), results.len());

        let (_, body) = only_message(&bytes, &FRONTEND);
        let mut built = Vec::new();
        write::bind(&mut built, &portal, &other, &formats, &values, &results);
        let mut rewritten = Vec::new();
        rewrite::bind(&mut rewritten, body, &other).unwrap();
        prop_assert_eq!(&rewritten, &built);

        // And while the message is still arriving.
        let head = BindHead::read(&body[..portal.len() + statement.len() + 2]).unwrap();
        let mut streamed = Vec::new();
        let body_bytes = u32::try_from(body.len()).unwrap();
        rewrite::bind_head(&mut streamed, head, body_bytes, &other);
        streamed.extend_from_slice(&body[head.bytes..]);
        prop_assert_eq!(&streamed, &built);
    }

    #[test]
    fn targets_and_executes_read_back(name in string(), rows_max in any::<i32>()) {
        for target in [Target::Statement(&name), Target::Portal(&name)] {
            let mut bytes = Vec::new();
            write::describe(&mut bytes, target);
            prop_assert_eq!(read(&bytes), Message::Describe(target));
            bytes.clear();
            write::close(&mut bytes, target);
            prop_assert_eq!(read(&bytes), Message::Close(target));
        }
        let mut bytes = Vec::new();
        write::execute(&mut bytes, &name, rows_max);
        prop_assert_eq!(
            read(&bytes),
            Message::Execute(frontend::Execute { portal: &name, rows_max })
        );
    }
}
