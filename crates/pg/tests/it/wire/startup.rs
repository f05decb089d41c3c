//! Start-up packets, protocol versions 3.0 to 3.9999.

use pg::sqlstate::SqlState;
use pg::wire::backend::{self, Message, NegotiateProtocolVersion};
use pg::wire::startup::{
    self, Opening, Packet, ProtocolVersion, Replication, Startup, StartupError,
};
use pg::wire::stream::BACKEND;
use proptest::prelude::*;

use super::{config, only_message, string};

fn packet(code: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 8).expect("a short packet");
    [&length.to_be_bytes(), &code.to_be_bytes(), body].concat()
}

fn open(bytes: &[u8]) -> Result<Packet<'_>, StartupError> {
    match startup::open(bytes)? {
        Opening::Packet(packet, length) => {
            assert_eq!(length, bytes.len());
            Ok(packet)
        }
        other => panic!("expected a packet, not {other:?}"),
    }
}

fn opened(bytes: &[u8]) -> Startup<'_> {
    match open(bytes) {
        Ok(Packet::Startup(startup)) => startup,
        other => panic!("expected a StartupMessage, not {other:?}"),
    }
}

fn v3(parameters: &[u8]) -> Vec<u8> {
    packet(ProtocolVersion::V3_0.0, parameters)
}

#[test]
fn recognises_requests_for_encryption() {
    let mut bytes = Vec::new();
    startup::write_ssl_request(&mut bytes);
    assert_eq!(bytes, [0, 0, 0, 8, 4, 210, 22, 47]);
    assert_eq!(open(&bytes), Ok(Packet::Ssl));
    assert!(!Packet::Ssl.may_be_followed());

    bytes.clear();
    startup::write_gssenc_request(&mut bytes);
    assert_eq!(bytes, [0, 0, 0, 8, 4, 210, 22, 48]);
    assert_eq!(open(&bytes), Ok(Packet::Gss));

    assert_eq!(open(&packet(80_877_103, b"x")), Err(StartupError::Length));
}

#[test]
fn recognises_direct_tls_by_its_first_byte() {
    assert_eq!(startup::open(&[0x16, 3, 1, 0]), Ok(Opening::DirectTls));
    assert_eq!(startup::open(&[0x16]), Ok(Opening::DirectTls));
}

#[test]
fn asks_for_what_is_missing() {
    let mut bytes = Vec::new();
    startup::write_startup(&mut bytes, ProtocolVersion::V3_0, [(&b"user"[..], &b"me"[..])]);
    assert_eq!(startup::open(&[]), Ok(Opening::More(4)));
    for end in 1..bytes.len() {
        let wanted = if end < 4 { 4 - end } else { bytes.len() - end };
        assert_eq!(startup::open(&bytes[..end]), Ok(Opening::More(wanted)), "{end}");
    }
    bytes.push(b'Q');
    match startup::open(&bytes) {
        Ok(Opening::Packet(Packet::Startup(_), length)) => assert_eq!(length, bytes.len() - 1),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_length_out_of_bounds_gets_no_answer() {
    for length in [0_u32, 4, 7, 10_005, 0x1500_0000, u32::MAX] {
        let error = startup::open(&length.to_be_bytes()).unwrap_err();
        assert_eq!(error, StartupError::Length, "{length}");
        assert!(!error.deserves_answer());
    }
    assert!(startup::open(&10_004_u32.to_be_bytes()).is_ok());
    // What an HTTP client sends.
    assert_eq!(startup::open(b"GET / HTTP/1.1\r\n"), Err(StartupError::Length));
}

#[test]
fn reads_cancel_keys_of_four_to_256_bytes() {
    for key in [&b"1234"[..], &[7; 32], &[7; 256], b"1"] {
        let mut bytes = Vec::new();
        startup::write_cancel_request(&mut bytes, 4711, key);
        match open(&bytes) {
            Ok(Packet::Cancel(cancel)) => {
                assert_eq!((cancel.process_id, cancel.key), (4711, key));
                assert!(!format!("{cancel:?}").contains("key"), "a key is a secret");
            }
            other => panic!("{other:?}"),
        }
    }
    let cancel = |body: &[u8]| open(&packet(80_877_102, body)).unwrap_err();
    assert_eq!(cancel(&[0; 3]), StartupError::CancelLength);
    assert_eq!(cancel(&[0; 4]), StartupError::CancelKeyLength);
    assert_eq!(cancel(&[0; 4 + 257]), StartupError::CancelKeyLength);
}

#[test]
fn the_last_of_two_equal_parameters_counts() {
    let bytes = v3(b"user\0a\0application_name\0x\0user\0b\0\0");
    let startup = opened(&bytes);
    assert_eq!(startup.user(), Ok(&b"b"[..]));
    assert_eq!(startup.database(), Ok(&b"b"[..]));
    assert_eq!(startup.parameters().count(), 3);
    assert_eq!(startup.get("absent"), None);
}

#[test]
fn a_user_must_be_named() {
    for parameters in [&b"\0"[..], b"database\0d\0\0", b"user\0\0\0"] {
        let bytes = v3(parameters);
        let error = opened(&bytes).user().unwrap_err();
        assert_eq!(error.sqlstate(), SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
        assert_eq!(error.to_string(), "no PostgreSQL user name specified in startup packet");
    }
}

#[test]
fn parameters_must_be_pairs_up_to_the_last_byte() {
    for parameters in
        [&b""[..], b"user", b"user\0", b"user\0a", b"user\0a\0", b"user\0a\0\0x", b"\0\0"]
    {
        assert_eq!(open(&v3(parameters)), Err(StartupError::Layout), "{parameters:?}");
    }
}

#[test]
fn refuses_other_major_versions_as_postgres_does() {
    for version in [(0, 0), (2, 0), (4, 0), (1234, 5681)] {
        let version = ProtocolVersion::new(version.0, version.1);
        let error = open(&packet(version.0, b"\0")).unwrap_err();
        assert_eq!(error, StartupError::Version(version));
        assert_eq!(error.sqlstate(), SqlState::FEATURE_NOT_SUPPORTED);
    }
    assert_eq!(
        StartupError::Version(ProtocolVersion::new(2, 0)).to_string(),
        "unsupported frontend protocol 2.0: server supports 3.0 to 3.2"
    );
}

#[test]
fn negotiates_down_newer_minor_versions_and_unknown_options() {
    for (asked, options, spoken, negotiates) in [
        (ProtocolVersion::V3_0, false, ProtocolVersion::V3_0, false),
        (ProtocolVersion::V3_1, false, ProtocolVersion::V3_1, false),
        (ProtocolVersion::V3_2, false, ProtocolVersion::V3_2, false),
        (ProtocolVersion::V3_2, true, ProtocolVersion::V3_2, true),
        (ProtocolVersion::new(3, 3), false, ProtocolVersion::V3_2, true),
        (ProtocolVersion::GREASE, true, ProtocolVersion::V3_2, true),
        (ProtocolVersion::V3_0, true, ProtocolVersion::V3_0, true),
    ] {
        let mut bytes = Vec::new();
        let option = options.then_some((&b"_pq_.test_protocol_negotiation"[..], &b""[..]));
        let parameters = [(&b"user"[..], &b"me"[..])].into_iter().chain(option);
        startup::write_startup(&mut bytes, asked, parameters);
        let startup = opened(&bytes);
        assert_eq!(startup.version_to_speak(ProtocolVersion::LATEST), spoken, "{asked}");
        assert_eq!(startup.needs_negotiation(ProtocolVersion::LATEST), negotiates, "{asked}");

        let mut answer = Vec::new();
        backend::write::negotiate_protocol_version(&mut answer, spoken, startup.protocol_options());
        let (kind, body) = only_message(&answer, &BACKEND);
        match Message::read(kind, body) {
            Ok(Message::NegotiateProtocolVersion(read)) => {
                assert_eq!(read.version, spoken);
                assert!(read.options().eq(startup.protocol_options()));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(!ProtocolVersion::V3_1.has_long_cancel_keys());
    assert!(ProtocolVersion::V3_2.has_long_cancel_keys());
}

#[test]
fn a_lying_count_of_options_is_refused_at_once() {
    let body = [&ProtocolVersion::V3_2.0.to_be_bytes()[..], &u32::MAX.to_be_bytes()].concat();
    assert!(NegotiateProtocolVersion::read(&body).is_err());
}

#[test]
fn reads_the_replication_parameter_as_postgres_does() {
    for (text, wanted) in [
        ("true", Ok(Replication::Physical)),
        ("on", Ok(Replication::Physical)),
        ("1", Ok(Replication::Physical)),
        ("YES", Ok(Replication::Physical)),
        ("t", Ok(Replication::Physical)),
        ("database", Ok(Replication::Logical)),
        ("false", Ok(Replication::None)),
        ("off", Ok(Replication::None)),
        ("n", Ok(Replication::None)),
        ("0", Ok(Replication::None)),
        ("o", Err(StartupError::Replication)),
        ("", Err(StartupError::Replication)),
        ("truely", Err(StartupError::Replication)),
    ] {
        let bytes = v3(format!("user\0u\0replication\0{text}\0\0").as_bytes());
        assert_eq!(opened(&bytes).replication(), wanted, "{text}");
    }
    assert_eq!(opened(&v3(b"user\0u\0\0")).replication(), Ok(Replication::None));
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_written_reads_back(
        minor in any::<u16>(),
        parameters in prop::collection::vec((string(), string()), 0..10),
    ) {
        let mut bytes = Vec::new();
        let version = ProtocolVersion::new(3, minor);
        let pairs = parameters.iter().map(|(name, value)| (&name[..], &value[..]));
        startup::write_startup(&mut bytes, version, pairs.clone());
        let startup = opened(&bytes);
        prop_assert_eq!(startup.version, version);
        // A pair without a name would end the list and is not written.
        let named: Vec<_> = pairs.filter(|(name, _)| !name.is_empty()).collect();
        prop_assert_eq!(startup.parameters().collect::<Vec<_>>(), named);
    }

    #[test]
    fn any_bytes_give_an_answer_and_always_the_same(
        bytes in prop::collection::vec(any::<u8>(), 0..64),
        code in prop::sample::select(vec![196_608_u32, 196_610, 80_877_102, 80_877_103, 0]),
    ) {
        prop_assert_eq!(startup::open(&bytes), startup::open(&bytes));
        let bytes = packet(code, &bytes);
        let opening = startup::open(&bytes);
        prop_assert_eq!(opening, startup::open(&bytes));
        if let Ok(Opening::Packet(Packet::Startup(startup), _)) = opening {
            prop_assert!(startup.parameters().count() <= bytes.len());
            let _ = (startup.user(), startup.database(), startup.replication());
        }
    }
}
