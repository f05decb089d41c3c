//! Streaming replication: messages, commands and their answers.

use pg::lsn::Lsn;
use pg::oid::Oid;
use pg::wire::backend::{self, Message};
use pg::wire::replication::backup::BackupPart;
use pg::wire::replication::command::{Command, CreateSlot, Options, parse};
use pg::wire::replication::reply::{CreatedSlot, IdentifySystem, Position, ReadSlot, Tablespace};
use pg::wire::replication::{
    FromReceiver, FromSender, HotStandbyFeedback, Keepalive, StandbyStatus, XLogData,
};
use pg::wire::stream::BACKEND;
use proptest::prelude::*;

use super::{config, only_message};

#[test]
fn messages_have_the_bytes_of_the_manual() {
    let mut bytes = Vec::new();
    XLogData { start: Lsn(1), end: Lsn(2), sent_at: 3, wal: b"wal" }.write(&mut bytes);
    assert_eq!(bytes, *b"w\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03wal");
    assert_eq!(bytes.len(), XLogData::HEADER_BYTES + 3);

    bytes.clear();
    Keepalive { end: Lsn(1), sent_at: -1, reply_requested: true }.write(&mut bytes);
    assert_eq!(bytes, *b"k\0\0\0\0\0\0\0\x01\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01");

    bytes.clear();
    let (written, flushed, applied) = (Lsn(3), Lsn(2), Lsn(1));
    StandbyStatus { written, flushed, applied, sent_at: 0, reply_requested: false }
        .write(&mut bytes);
    assert_eq!(bytes.len(), 34);
    assert_eq!(bytes[0], b'r');

    bytes.clear();
    let (xmin, xmin_epoch, catalog_xmin, catalog_xmin_epoch) = (1, 2, 3, 4);
    HotStandbyFeedback { sent_at: 0, xmin, xmin_epoch, catalog_xmin, catalog_xmin_epoch }
        .write(&mut bytes);
    assert_eq!(bytes, *b"h\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04");
}

#[test]
fn broken_messages_are_refused() {
    for data in [&b""[..], b"x", b"w\0", b"k\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", b"r"] {
        assert!(FromSender::read(data).is_err(), "{data:?}");
        assert!(FromReceiver::read(data).is_err(), "{data:?}");
    }
    let mut status = Vec::new();
    let lsn = Lsn(1);
    StandbyStatus { written: lsn, flushed: lsn, applied: lsn, sent_at: 0, reply_requested: false }
        .write(&mut status);
    status.push(0);
    assert!(FromReceiver::read(&status).is_err());
}

#[test]
fn parts_of_a_backup_read_back() {
    for part in [
        BackupPart::Archive { file_name: b"base.tar", tablespace: b"" },
        BackupPart::Archive { file_name: b"16384.tar", tablespace: b"/space" },
        BackupPart::Manifest,
        BackupPart::Data(b"ustar"),
        BackupPart::Data(b""),
        BackupPart::Progress(1 << 40),
    ] {
        let mut bytes = Vec::new();
        part.write(&mut bytes);
        assert_eq!(BackupPart::read(&bytes), Ok(part));
    }
    for data in [&b""[..], b"nbase.tar", b"nbase.tar\0", b"mx", b"p\0\0", b"zx"] {
        assert!(BackupPart::read(data).is_err(), "{data:?}");
    }
}

fn name(name: &str) -> String {
    name.to_owned()
}

#[test]
fn commands_are_written_with_everything_quoted() {
    for (command, text) in [
        (Command::IdentifySystem, "IDENTIFY_SYSTEM"),
        (Command::Show(name("wal_segment_size")), "SHOW \"wal_segment_size\""),
        (
            Command::CreateSlot(CreateSlot {
                name: name("ho\"wdah"),
                temporary: true,
                plugin: None,
                options: Options::new().flag("RESERVE_WAL"),
            }),
            "CREATE_REPLICATION_SLOT \"ho\"\"wdah\" TEMPORARY PHYSICAL (RESERVE_WAL)",
        ),
        (
            Command::CreateSlot(CreateSlot {
                name: name("l"),
                temporary: false,
                plugin: Some(name("pgoutput")),
                options: Options::new().with("snapshot", "nothing"),
            }),
            "CREATE_REPLICATION_SLOT \"l\" LOGICAL \"pgoutput\" (SNAPSHOT 'nothing')",
        ),
        (Command::ReadSlot(name("s")), "READ_REPLICATION_SLOT \"s\""),
        (Command::DropSlot { name: name("s"), wait: true }, "DROP_REPLICATION_SLOT \"s\" WAIT"),
        (
            Command::StartPhysical {
                slot: Some(name("s")),
                start: Lsn(0x16_0000_0000),
                timeline: Some(2),
            },
            "START_REPLICATION SLOT \"s\" PHYSICAL 16/0 TIMELINE 2",
        ),
        (
            Command::StartPhysical { slot: None, start: Lsn(0), timeline: None },
            "START_REPLICATION PHYSICAL 0/0",
        ),
        (
            Command::StartLogical {
                slot: name("s"),
                start: Lsn(0xAB),
                options: Options::new().with("proto_version", "1").with("names", "a'b"),
            },
            "START_REPLICATION SLOT \"s\" LOGICAL 0/AB (\"proto_version\" '1', \"names\" 'a''b')",
        ),
        (Command::TimelineHistory(3), "TIMELINE_HISTORY 3"),
        (Command::BaseBackup(Options::new()), "BASE_BACKUP"),
        (
            Command::BaseBackup(
                Options::new()
                    .with("label", "it's")
                    .with("checkpoint", "fast")
                    .flag("wal")
                    .with("manifest", "yes"),
            ),
            "BASE_BACKUP (LABEL 'it''s', CHECKPOINT 'fast', WAL, MANIFEST 'yes')",
        ),
        (Command::PageStream(Options::new().with("version", "1")), "PAGESTREAM (VERSION '1')"),
    ] {
        assert_eq!(command.to_string(), text);
        assert_eq!(parse(text), Ok(Some(command)), "{text}");
    }
}

#[test]
fn parses_what_postgres_own_clients_send() {
    let timeline =
        |timeline| Command::StartPhysical { slot: None, start: Lsn(0x300_0000), timeline };
    for (text, wanted) in [
        ("IDENTIFY_SYSTEM;", Command::IdentifySystem),
        ("identify_system", Command::IdentifySystem),
        ("SHOW data_directory_mode", Command::Show(name("data_directory_mode"))),
        ("SHOW a.b", Command::Show(name("a.b"))),
        ("START_REPLICATION 0/3000000 TIMELINE 1", timeline(Some(1))),
        ("START_REPLICATION PHYSICAL 0/3000000", timeline(None)),
        (
            "CREATE_REPLICATION_SLOT pg_basebackup_1 TEMPORARY PHYSICAL RESERVE_WAL",
            Command::CreateSlot(CreateSlot {
                name: name("pg_basebackup_1"),
                temporary: true,
                plugin: None,
                options: Options::new().flag("reserve_wal"),
            }),
        ),
        (
            "BASE_BACKUP ( LABEL 'pg_basebackup base backup',  PROGRESS,  CHECKPOINT 'fast',  WAIT 0,  MANIFEST 'yes',  TARGET 'client')",
            Command::BaseBackup(
                Options::new()
                    .with("label", "pg_basebackup base backup")
                    .flag("progress")
                    .with("checkpoint", "fast")
                    .with("wait", "0")
                    .with("manifest", "yes")
                    .with("target", "client"),
            ),
        ),
    ] {
        assert_eq!(parse(text), Ok(Some(wanted)), "{text}");
    }
}

#[test]
fn leaves_sql_to_others() {
    for text in ["", "select 1", "-- x", "SHOWx", "'x'", "\"identify_system\"", "\\"] {
        assert_eq!(parse(text), Ok(None), "{text}");
    }
}

#[test]
fn names_the_word_where_a_command_goes_wrong() {
    for (text, near) in [
        ("IDENTIFY_SYSTEM x", "x"),
        ("TIMELINE_HISTORY 0", "0"),
        ("TIMELINE_HISTORY", ""),
        ("START_REPLICATION PHYSICAL nowhere", "nowhere"),
        ("START_REPLICATION LOGICAL 0/0", "LOGICAL"),
        ("CREATE_REPLICATION_SLOT s", ""),
        ("CREATE_REPLICATION_SLOT s PHYSICAL two_phase", "two_phase"),
        ("BASE_BACKUP (LABEL 'x'", ""),
        ("BASE_BACKUP (LABEL 'x)", "'x)"),
        ("DROP_REPLICATION_SLOT \"s\" ?", "?"),
    ] {
        let error = parse(text).expect_err(text);
        assert_eq!(error.near, near, "{text}");
    }
}

#[test]
fn options_know_booleans() {
    let options = Options::new().flag("PROGRESS").with("WAL", "off").with("wait", "maybe");
    assert_eq!(options.boolean("progress"), Some(Some(true)));
    assert_eq!(options.boolean("wal"), Some(Some(false)));
    assert_eq!(options.boolean("wait"), Some(None));
    assert_eq!(options.boolean("label"), None);
}

#[test]
fn answers_read_back() {
    let row = |values: &[Option<&[u8]>]| {
        let mut bytes = Vec::new();
        backend::write::data_row(&mut bytes, values);
        bytes
    };
    let values = |bytes: &[u8]| {
        let (kind, body) = only_message(bytes, &BACKEND);
        assert!(matches!(Message::read(kind, body), Ok(Message::DataRow(_))));
        body.to_vec()
    };
    let read = |columns: &[Option<&[u8]>]| values(&row(columns));

    let body = read(&[Some(b"7123456789012345678"), Some(b"1"), Some(b"0/16B3748"), None]);
    let system = IdentifySystem::read(backend::data_row(&body).unwrap()).unwrap();
    assert_eq!((system.system_identifier, system.timeline), (7_123_456_789_012_345_678, 1));
    assert_eq!((system.end, system.database), (Lsn(0x16B_3748), None));

    let body = read(&[Some(b"physical"), Some(b"0/0"), Some(b"1")]);
    let slot = ReadSlot::read(backend::data_row(&body).unwrap()).unwrap();
    assert_eq!((slot.slot_type.as_deref(), slot.restart), (Some("physical"), Some(Lsn(0))));
    let body = read(&[None, None, None]);
    let slot = ReadSlot::read(backend::data_row(&body).unwrap()).unwrap();
    assert_eq!((slot.slot_type, slot.restart, slot.restart_timeline), (None, None, None));

    let body = read(&[Some(b"s"), Some(b"0/0"), None, None]);
    assert_eq!(CreatedSlot::read(backend::data_row(&body).unwrap()).unwrap().name, "s");

    let body = read(&[Some(b"0/28"), Some(b"1")]);
    let position = Position::read(backend::data_row(&body).unwrap());
    assert_eq!(position, Ok(Position { lsn: Lsn(0x28), timeline: 1 }));
    let body = read(&[Some(b"2"), Some(b"0/28")]);
    let position = Position::read_next_timeline(backend::data_row(&body).unwrap());
    assert_eq!(position, Ok(Position { lsn: Lsn(0x28), timeline: 2 }));

    let body = read(&[Some(b"16384"), Some(b"/space"), Some(b"12")]);
    let space = Tablespace::read(backend::data_row(&body).unwrap()).unwrap();
    assert_eq!((space.oid, space.kibibytes), (Some(Oid(16384)), Some(12)));

    // A column short, NULL where a value must be, and no number.
    for broken in [&[Some(&b"1"[..])][..], &[None, Some(b"1")], &[Some(b"0/28"), Some(b"x")]] {
        let body = read(broken);
        assert!(Position::read(backend::data_row(&body).unwrap()).is_err(), "{broken:?}");
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn messages_read_back(a in any::<u64>(), b in any::<u64>(), c in any::<i64>(), reply_requested in any::<bool>(), wal in prop::collection::vec(any::<u8>(), 0..40)) {
        let mut bytes = Vec::new();
        let data = XLogData { start: Lsn(a), end: Lsn(b), sent_at: c, wal: &wal };
        data.write(&mut bytes);
        prop_assert_eq!(FromSender::read(&bytes), Ok(FromSender::XLogData(data)));

        bytes.clear();
        let keepalive = Keepalive { end: Lsn(a), sent_at: c, reply_requested };
        keepalive.write(&mut bytes);
        prop_assert_eq!(FromSender::read(&bytes), Ok(FromSender::Keepalive(keepalive)));

        bytes.clear();
        let status = StandbyStatus {
            written: Lsn(a), flushed: Lsn(b), applied: Lsn(a ^ b), sent_at: c, reply_requested,
        };
        status.write(&mut bytes);
        prop_assert_eq!(FromReceiver::read(&bytes), Ok(FromReceiver::Status(status)));
    }

    #[test]
    fn quoted_names_and_values_survive(name in "\\PC{1,12}", value in "\\PC{0,12}") {
        let options = Options::new().with("label", value);
        let command = Command::CreateSlot(CreateSlot {
            name, temporary: false, plugin: None, options,
        });
        prop_assert_eq!(parse(&command.to_string()), Ok(Some(command)));
    }

    #[test]
    fn any_text_is_parsed_without_panic(text in "(BASE_BACKUP|START_REPLICATION|CREATE_REPLICATION_SLOT|SHOW)?[ ('\",)a-z0-9/]{0,30}\\PC{0,5}") {
        prop_assert_eq!(parse(&text), parse(&text));
    }
}
