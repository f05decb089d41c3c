//! Backend messages: built and read.

use pg::oid::Oid;
use pg::sqlstate::SqlState;
use pg::wire::Malformed;
use pg::wire::backend::{
    Authentication, BackendKeyData, CommandTag, CopyResponse, Field, Format, Message, Notification,
    ParameterStatus, TransactionStatus, kind, write,
};
use pg::wire::error::{ErrorFields, Report, Severity};
use pg::wire::stream::BACKEND;
use proptest::prelude::*;

use super::{config, only_message, string, value};

fn read(bytes: &[u8]) -> Message<'_> {
    let (kind, body) = only_message(bytes, &BACKEND);
    Message::read(kind, body).expect("we built it")
}

fn build(builder: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    builder(&mut bytes);
    bytes
}

#[test]
fn messages_without_a_body_have_none() {
    type Build = fn(&mut Vec<u8>);
    for (builder, wanted) in [
        (write::bind_complete as Build, Message::BindComplete),
        (write::close_complete, Message::CloseComplete),
        (write::copy_done, Message::CopyDone),
        (write::empty_query, Message::EmptyQuery),
        (write::no_data, Message::NoData),
        (write::parse_complete, Message::ParseComplete),
        (write::portal_suspended, Message::PortalSuspended),
    ] {
        let bytes = build(builder);
        assert_eq!(bytes.len(), 5);
        assert_eq!(read(&bytes), wanted);
        assert_eq!(Message::read(bytes[0], b"x"), Err(Malformed::TrailingBytes), "{wanted:?}");
    }
}

#[test]
fn refuses_kinds_that_no_server_sends() {
    for kind in 0..=255_u8 {
        let known = kind::ALL.contains(&kind);
        assert_eq!(Message::read(kind, b"") == Err(Malformed::Kind(kind)), !known, "{kind}");
    }
}

#[test]
fn authentication_reads_back() {
    for wanted in [
        Authentication::Ok,
        Authentication::KerberosV5,
        Authentication::CleartextPassword,
        Authentication::Md5Password { salt: *b"\0\xFFab" },
        Authentication::Gss,
        Authentication::GssContinue(b"gss"),
        Authentication::Sspi,
        Authentication::SaslContinue(b"r=x"),
        Authentication::SaslFinal(b"v=x"),
    ] {
        let bytes = build(|out| write::authentication(out, wanted));
        assert_eq!(read(&bytes), Message::Authentication(wanted));
    }
    let names = ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"];
    let bytes = build(|out| write::sasl(out, &names));
    let Message::Authentication(Authentication::Sasl(mechanisms)) = read(&bytes) else {
        panic!("SASL")
    };
    assert!(mechanisms.names().eq(names.map(str::as_bytes)));
    assert!(mechanisms.contains("SCRAM-SHA-256") && !mechanisms.contains("SCRAM"));
    let again = build(|out| write::authentication(out, Authentication::Sasl(mechanisms)));
    assert_eq!(again, bytes);
}

#[test]
fn refuses_unknown_or_broken_authentication() {
    for body in [
        &b""[..],
        b"\0\0\0\x01",
        b"\0\0\0\x05abc",
        b"\0\0\0\0x",
        b"\0\0\0\x0AA\0",
        b"\0\0\0\x0AA\0\0x",
    ] {
        assert!(Authentication::read(body).is_err(), "{body:?}");
    }
}

#[test]
fn key_data_holds_keys_of_both_protocols() {
    for key in [&[1; 4][..], &[2; 32], &[3; 256]] {
        let bytes = build(|out| write::backend_key_data(out, 99, key));
        assert_eq!(read(&bytes), Message::BackendKeyData(BackendKeyData { process_id: 99, key }));
    }
    for length in [0, 3, 257] {
        let bytes = build(|out| write::backend_key_data(out, 99, &vec![0; length]));
        let (_, body) = only_message(&bytes, &BACKEND);
        assert!(BackendKeyData::read(body).is_err(), "{length}");
    }
}

#[test]
fn ready_for_query_tells_the_transaction_status() {
    for status in
        [TransactionStatus::Idle, TransactionStatus::InTransaction, TransactionStatus::Failed]
    {
        let bytes = build(|out| write::ready_for_query(out, status));
        assert_eq!(read(&bytes), Message::ReadyForQuery(status));
    }
    for body in [&b""[..], b"X", b"II"] {
        assert!(TransactionStatus::read(body).is_err());
    }
}

#[test]
fn a_command_tag_ends_with_its_rows() {
    for (tag, rows) in [
        ("SELECT 5", Some(5)),
        ("INSERT 0 12", Some(12)),
        ("COPY 18446744073709551615", Some(u64::MAX)),
        ("BEGIN", None),
        ("", None),
    ] {
        assert_eq!(CommandTag(tag.as_bytes()).rows(), rows, "{tag}");
    }
}

#[test]
fn copy_responses_read_back() {
    let columns = [Format::Binary, Format::Binary];
    let bytes = build(|out| write::copy_in(out, Format::Binary, &columns));
    let Message::CopyIn(CopyResponse { format, columns }) = read(&bytes) else { panic!("CopyIn") };
    assert_eq!((format, columns.len(), columns.of(1)), (Format::Binary, 2, Some(Format::Binary)));
    let bytes = build(|out| write::copy_out(out, Format::Text, &[Format::Text]));
    assert!(matches!(read(&bytes), Message::CopyOut(_)));
    let bytes = build(write::copy_both);
    assert!(matches!(read(&bytes), Message::CopyBoth(response) if response.columns.is_empty()));
    assert!(Message::read(kind::COPY_IN, b"\x02\0\0").is_err());
}

#[test]
fn a_report_has_both_severities_and_reads_back() {
    let report = Report::fatal(SqlState::TOO_MANY_CONNECTIONS, "no more")
        .with_detail("none at all")
        .with_hint("wait")
        .at_position(7);
    let bytes = build(|out| report.write(out));
    assert_eq!(bytes, *b"E\0\0\0\x39SFATAL\0VFATAL\0C53300\0Mno more\0Dnone at all\0Hwait\0P7\0\0");
    let Message::Error(fields) = read(&bytes) else { panic!("an error") };
    let wanted = ErrorFields {
        severity: b"FATAL",
        severity_code: Some(Severity::Fatal),
        sqlstate: Some(SqlState::TOO_MANY_CONNECTIONS),
        message: b"no more",
        detail: Some(b"none at all"),
        hint: Some(b"wait"),
        position: Some(b"7"),
        ..ErrorFields::default()
    };
    assert_eq!(fields, wanted);
    assert!(fields.ends_session());
    assert_eq!(fields.to_string(), "FATAL: 53300: no more (none at all)");
    assert_eq!(report.to_string(), fields.to_string());
}

#[test]
fn a_notice_is_a_message_of_its_own() {
    let bytes = build(|out| Report::notice("hello").write(out));
    let Message::Notice(fields) = read(&bytes) else { panic!("a notice") };
    assert_eq!(fields.severity_code, Some(Severity::Notice));
    assert!(!fields.ends_session());
}

#[test]
fn error_fields_are_all_found_and_unknown_ones_ignored() {
    let body = b"SFEHLER\0VERROR\0C42601\0Mm\0Dd\0Hh\0P1\0p2\0qq\0Ww\0ss\0tt\0cc\0dt\0nn\0Ff\0L3\0Rr\0zwhat\0\0";
    let fields = ErrorFields::read(body).unwrap();
    assert_eq!(fields.severity, b"FEHLER");
    assert_eq!(fields.severity_code, Some(Severity::Error));
    let others = [
        (fields.internal_position, b"2"),
        (fields.internal_query, b"q"),
        (fields.context, b"w"),
        (fields.schema, b"s"),
        (fields.table, b"t"),
        (fields.column, b"c"),
        (fields.data_type, b"t"),
        (fields.constraint, b"n"),
        (fields.file, b"f"),
        (fields.line, b"3"),
        (fields.routine, b"r"),
    ];
    for (found, wanted) in others {
        assert_eq!(found, Some(&wanted[..]));
    }
    // Servers before 9.6 send only the localized severity.
    let old = ErrorFields::read(b"SPANIC\0C57P02\0Mx\0\0").unwrap();
    assert!(old.ends_session());
}

#[test]
fn broken_error_fields_are_refused() {
    for body in [&b""[..], b"S", b"SERROR", b"SERROR\0", b"\0x"] {
        assert!(ErrorFields::read(body).is_err(), "{body:?}");
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn rows_read_back(values in prop::collection::vec(value(), 0..10)) {
        let values: Vec<_> = values.iter().map(Option::as_deref).collect();
        let bytes = build(|out| write::data_row(out, &values));
        let Message::DataRow(row) = read(&bytes) else { panic!("a DataRow") };
        prop_assert_eq!(row.len(), values.len());
        prop_assert!(row.eq(values));
    }

    #[test]
    fn row_descriptions_read_back(names in prop::collection::vec(string(), 0..6), number in any::<i16>()) {
        let fields: Vec<_> = names
            .iter()
            .map(|name| Field {
                table: Oid(7), column: number, type_modifier: i32::from(number), format: 1,
                ..Field::text(name, Oid::INT4, number)
            })
            .collect();
        let bytes = build(|out| write::row_description(out, &fields));
        let Message::RowDescription(row) = read(&bytes) else { panic!("a RowDescription") };
        prop_assert_eq!(row.len(), fields.len());
        prop_assert_eq!(row.fields().collect::<Vec<_>>(), fields);
    }

    #[test]
    fn strings_read_back(name in string(), text in string(), process_id in any::<u32>()) {
        let bytes = build(|out| write::parameter_status(out, &name, &text));
        let status = ParameterStatus { name: &name, value: &text };
        prop_assert_eq!(read(&bytes), Message::ParameterStatus(status));

        let bytes = build(|out| write::notification(out, process_id, &name, &text));
        let notification = Notification { process_id, channel: &name, payload: &text };
        prop_assert_eq!(read(&bytes), Message::Notification(notification));

        let bytes = build(|out| write::command_complete(out, &text));
        prop_assert_eq!(read(&bytes), Message::CommandComplete(CommandTag(&text)));
    }

    #[test]
    fn results_and_types_read_back(result in value(), types in prop::collection::vec(any::<u32>().prop_map(Oid), 0..8)) {
        let bytes = build(|out| write::function_call_response(out, result.as_deref()));
        prop_assert_eq!(read(&bytes), Message::FunctionCallResponse(result.as_deref()));

        let bytes = build(|out| write::parameter_description(out, &types));
        let Message::ParameterDescription(description) = read(&bytes) else { panic!("types") };
        prop_assert!(description.types().eq(types.iter().copied()));
    }
}
