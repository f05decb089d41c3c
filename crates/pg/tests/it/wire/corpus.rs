//! One of every message, by our own builders. They seed the fuzzers
//! (`cargo test -p pg -- --ignored writes_the_fuzz_corpus`), and here every one of them is cut
//! short and damaged at every byte: an answer each time, the same each time, never a panic.

use pg::oid::Oid;
use pg::sqlstate::SqlState;
use pg::wire::backend::{self, Authentication, Field, TransactionStatus};
use pg::wire::error::Report;
use pg::wire::frontend::{self, Format, Target};
use pg::wire::startup::{self, ProtocolVersion};
use pg::wire::stream::{BACKEND, FRONTEND, KindLimits, Splitter};

/// Every frontend message, most in more than one shape.
pub(super) fn frontend_messages() -> Vec<Vec<u8>> {
    use frontend::write;
    type Build = fn(&mut Vec<u8>);
    let builders: [Build; 18] = [
        |out| write::query(out, "select 'a;b', $$x$$ -- c"),
        |out| write::query(out, ""),
        |out| write::parse(out, "s1", "select $1::int", &[Oid::INT4]),
        |out| write::parse(out, "", "", &[]),
        |out| write::bind(out, "", "s1", &[], &[], &[]),
        |out| {
            let values = [Some(&b"\0\0\0\x07"[..]), None, Some(b"")];
            let formats = [Format::Binary, Format::Text, Format::Text];
            write::bind(out, "p", "s1", &formats, &values, &[Format::Binary]);
        },
        |out| write::describe(out, Target::Statement(b"s1")),
        |out| write::describe(out, Target::Portal(b"")),
        |out| write::execute(out, "", 0),
        |out| write::close(out, Target::Statement(b"s1")),
        write::flush,
        write::sync,
        |out| write::function_call(out, Oid(957), &[], &[Some(b"x")], Format::Text),
        |out| write::copy_data(out, b"1\ttwo\n"),
        write::copy_done,
        |out| write::copy_fail(out, "no more"),
        |out| write::sasl_initial(out, "SCRAM-SHA-256", Some(b"n,,n=,r=abc")),
        write::terminate,
    ];
    builders.map(build).to_vec()
}

/// Every backend message.
pub(super) fn backend_messages() -> Vec<Vec<u8>> {
    use backend::write;
    type Build = fn(&mut Vec<u8>);
    let builders: [Build; 28] = [
        |out| write::authentication(out, Authentication::Ok),
        |out| write::authentication(out, Authentication::Md5Password { salt: *b"salt" }),
        |out| write::authentication(out, Authentication::SaslContinue(b"r=abc,s=AAAA,i=1")),
        |out| write::sasl(out, &["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]),
        |out| write::backend_key_data(out, 4711, b"1234"),
        |out| write::backend_key_data(out, 4711, &[9; 32]),
        |out| write::parameter_status(out, "server_version", "15.8 (Debian)"),
        |out| write::ready_for_query(out, TransactionStatus::InTransaction),
        |out| {
            let fields = [Field::text(b"a", Oid::INT4, 4), Field::text(b"b", Oid::TEXT, -1)];
            write::row_description(out, &fields);
        },
        |out| write::data_row(out, &[Some(b"1"), None, Some(b"")]),
        |out| write::command_complete(out, "INSERT 0 1"),
        write::empty_query,
        |out| Report::error(SqlState::SYNTAX_ERROR, "no").with_hint("yes").write(out),
        |out| Report::notice("look").write(out),
        |out| write::notification(out, 7, "channel", "payload"),
        write::parse_complete,
        write::bind_complete,
        write::close_complete,
        write::portal_suspended,
        write::no_data,
        |out| write::parameter_description(out, &[Oid::INT4, Oid::TEXT]),
        |out| write::copy_in(out, Format::Text, &[Format::Text, Format::Text]),
        |out| write::copy_out(out, Format::Binary, &[Format::Binary]),
        write::copy_both,
        |out| write::copy_data(out, b"w\0\0"),
        write::copy_done,
        |out| write::function_call_response(out, Some(b"x")),
        |out| {
            let options = [&b"_pq_.a"[..], b"_pq_.b"];
            write::negotiate_protocol_version(out, ProtocolVersion::V3_2, options);
        },
    ];
    builders.map(build).to_vec()
}

/// Every start-up packet.
pub(super) fn startup_packets() -> Vec<Vec<u8>> {
    type Build = fn(&mut Vec<u8>);
    let builders: [Build; 6] = [
        startup::write_ssl_request,
        startup::write_gssenc_request,
        |out| startup::write_cancel_request(out, 4711, b"1234"),
        |out| startup::write_cancel_request(out, 4711, &[9; 32]),
        |out| {
            let parameters = [(&b"user"[..], &b"u"[..]), (b"database", b"d")];
            startup::write_startup(out, ProtocolVersion::V3_0, parameters);
        },
        |out| {
            let parameters = [(&b"user"[..], &b"u"[..]), (b"_pq_.x", b"1"), (b"user", b"v")];
            startup::write_startup(out, ProtocolVersion::GREASE, parameters);
        },
    ];
    builders.map(build).to_vec()
}

fn build(builder: fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    builder(&mut bytes);
    bytes
}

/// Reads whatever whole messages these bytes hold, twice, and gives a trace of what was found.
fn trace(bytes: &[u8], limits: &KindLimits, read: fn(u8, &[u8]) -> String) -> Vec<String> {
    let mut trace = Vec::new();
    let mut splitter = Splitter::new();
    for piece in splitter.split(bytes, limits) {
        match piece {
            Ok(piece) => trace.extend(piece.whole().map(|body| read(piece.kind, body))),
            Err(error) => {
                trace.push(format!("{error:?}"));
                break;
            }
        }
    }
    trace
}

fn damage_everywhere(sample: &[u8], check: impl Fn(&[u8])) {
    for end in 0..sample.len() {
        check(&sample[..end]);
        for replacement in [0, 1, 0x7F, 0x80, 0xFF, sample[end].wrapping_add(1)] {
            let mut damaged = sample.to_vec();
            damaged[end] = replacement;
            check(&damaged);
        }
    }
}

#[test]
fn every_kind_is_among_the_samples() {
    let kinds = |messages: Vec<Vec<u8>>| {
        let mut kinds: Vec<_> = messages.iter().map(|message| message[0]).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    };
    let sorted = |all: &[u8]| {
        let mut all = all.to_vec();
        all.sort_unstable();
        all
    };
    assert_eq!(kinds(frontend_messages()), sorted(&frontend::kind::ALL));
    assert_eq!(kinds(backend_messages()), sorted(&backend::kind::ALL));
}

#[test]
fn damaged_frontend_messages_give_a_stable_answer() {
    let read = |kind, body: &[u8]| format!("{:?}", frontend::Message::read(kind, body));
    for sample in frontend_messages() {
        assert_eq!(trace(&sample, &FRONTEND, read).len(), 1);
        damage_everywhere(&sample, |bytes| {
            assert_eq!(trace(bytes, &FRONTEND, read), trace(bytes, &FRONTEND, read));
        });
    }
}

#[test]
fn damaged_backend_messages_give_a_stable_answer() {
    let read = |kind, body: &[u8]| format!("{:?}", backend::Message::read(kind, body));
    for sample in backend_messages() {
        assert_eq!(trace(&sample, &BACKEND, read).len(), 1);
        damage_everywhere(&sample, |bytes| {
            assert_eq!(trace(bytes, &BACKEND, read), trace(bytes, &BACKEND, read));
        });
    }
}

#[test]
fn damaged_startup_packets_give_a_stable_answer() {
    for sample in startup_packets() {
        assert!(startup::open(&sample).is_ok());
        damage_everywhere(&sample, |bytes| {
            assert_eq!(startup::open(bytes), startup::open(bytes));
        });
    }
}

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus");

/// What each fuzz target begins with: the samples that the tests here damage.
fn corpus() -> [(&'static str, Vec<Vec<u8>>); 4] {
    [
        ("wire_frontend", frontend_messages()),
        ("wire_backend", backend_messages()),
        ("startup", startup_packets()),
        ("splitter", vec![frontend_messages().concat(), backend_messages().concat()]),
    ]
}

#[test]
#[expect(clippy::disallowed_methods, reason = "reads the seed files")]
fn the_fuzz_corpus_is_these_samples() {
    for (target, samples) in corpus() {
        for (number, sample) in samples.iter().enumerate() {
            let seed = std::fs::read(format!("{CORPUS}/{target}/{number:02}")).unwrap();
            assert!(seed == *sample, "{target}/{number:02}: write the corpus anew");
        }
    }
}

#[test]
#[ignore = "writes fuzz/corpus; run it by hand after a change of the samples"]
#[expect(clippy::disallowed_methods, reason = "a tool for developers that writes seed files")]
fn writes_the_fuzz_corpus() {
    for (target, samples) in corpus() {
        let folder = format!("{CORPUS}/{target}");
        std::fs::create_dir_all(&folder).expect("a folder for the seeds");
        for (number, sample) in samples.iter().enumerate() {
            let path = format!("{folder}/{number:02}");
            std::fs::write(path, sample).expect("a seed file");
        }
    }
}
