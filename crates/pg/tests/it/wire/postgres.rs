//! Our client side against a real server, and our server side against a real client (psql).
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "talks to real processes over a unix socket; `pg` itself has no I/O"
)]

use std::collections::{BTreeSet, VecDeque};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use pg::auth::sasl::{ClientBinding, SCRAM_SHA_256};
use pg::auth::scram::client::Credentials;
use pg::auth::scram::{Client, Keys, Secret, Server, ServerBinding};
use pg::auth::{Password, md5};
use pg::lsn::Lsn;
use pg::oid::Oid;
use pg::sqlstate::SqlState;
use pg::wire::backend::{
    self, Authentication, Field, Message, TransactionStatus, kind, write as answer,
};
use pg::wire::error::{ErrorFields, Report};
use pg::wire::frontend::{self, Format, SaslInitial, Target, write};
use pg::wire::replication::backup::BackupPart;
use pg::wire::replication::command::{Command, CreateSlot, Options};
use pg::wire::replication::reply::{CreatedSlot, IdentifySystem, Position, ReadSlot, Tablespace};
use pg::wire::replication::{FromSender, StandbyStatus};
use pg::wire::startup::{self, Opening, Packet, ProtocolVersion};
use pg::wire::stream::{BACKEND, FRONTEND, KindLimits, Splitter};

use crate::cluster::Cluster;

/// A blocking connection that hands out whole messages.
struct Connection {
    stream: UnixStream,
    splitter: Splitter,
    limits: &'static KindLimits,
    partial: Vec<u8>,
    messages: VecDeque<(u8, Vec<u8>)>,
}

type Received = (u8, Vec<u8>);

impl Connection {
    fn new(stream: UnixStream, limits: &'static KindLimits) -> Connection {
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        let (partial, messages) = (Vec::new(), VecDeque::new());
        Connection { stream, splitter: Splitter::new(), limits, partial, messages }
    }

    fn connect(socket: &Path, version: ProtocolVersion, parameters: &[(&str, &str)]) -> Connection {
        let mut connection = Connection::new(UnixStream::connect(socket).unwrap(), &BACKEND);
        let pairs = parameters.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        connection.send(|out| startup::write_startup(out, version, pairs));
        connection
    }

    fn send(&mut self, build: impl FnOnce(&mut Vec<u8>)) {
        let mut out = Vec::new();
        build(&mut out);
        self.stream.write_all(&out).expect("the other side listens");
    }

    /// The next message; `None` at the end of the stream.
    fn receive(&mut self) -> Option<Received> {
        // An odd size, so that messages are cut.
        let mut buffer = [0; 997];
        while self.messages.is_empty() {
            let count = self.stream.read(&mut buffer).expect("an answer in time");
            if count == 0 {
                return None;
            }
            for piece in self.splitter.split(&buffer[..count], self.limits) {
                let piece = piece.expect("a stream in order");
                self.partial.extend_from_slice(piece.bytes());
                if piece.ends() {
                    self.messages.push_back((piece.kind, std::mem::take(&mut self.partial)));
                }
            }
        }
        self.messages.pop_front()
    }

    /// Everything up to ReadyForQuery, which must be readable.
    fn until_ready(&mut self) -> Vec<Received> {
        let mut received = Vec::new();
        loop {
            let (kind, body) = self.receive().expect("a server that goes on");
            Message::read(kind, &body).expect("a message that we understand");
            received.push((kind, body));
            if kind == kind::READY_FOR_QUERY {
                return received;
            }
        }
    }

    fn query(&mut self, sql: &str) -> Vec<Received> {
        self.send(|out| write::query(out, sql));
        self.until_ready()
    }

    /// The bodies of the rows that a query gives.
    fn rows(&mut self, sql: &str) -> Vec<Vec<u8>> {
        let received = self.query(sql).into_iter();
        received.filter(|(kind, _)| *kind == kind::DATA_ROW).map(|(_, body)| body).collect()
    }
}

/// Answers whatever the server demands; the keys, if it was SCRAM.
fn authenticate(
    connection: &mut Connection,
    user: &str,
    password: &str,
    keys: Option<Keys>,
) -> Result<Option<Keys>, SqlState> {
    let mut scram = None;
    loop {
        let (kind, body) = connection.receive().expect("an answer to the log-in");
        match Message::read(kind, &body).expect("a message that we understand") {
            Message::Authentication(Authentication::Ok) => {
                return Ok(scram.and_then(Client::into_keys));
            }
            Message::Authentication(Authentication::CleartextPassword) => {
                connection.send(|out| write::password(out, password));
            }
            Message::Authentication(Authentication::Md5Password { salt }) => {
                let stored = md5::Stored::of(password.as_bytes(), user.as_bytes());
                connection.send(|out| write::password(out, stored.response(salt)));
            }
            Message::Authentication(Authentication::Sasl(offer)) => {
                let binding = ClientBinding::choose(offer.names(), None).expect("SCRAM");
                let credentials = match keys.clone() {
                    Some(keys) => Credentials::Keys(keys),
                    None => {
                        let password = password.as_bytes().to_vec();
                        Credentials::Password { password, cached: None }
                    }
                };
                let mut client = Client::new(credentials, binding, [7; 18]);
                let (mechanism, first) = (client.mechanism(), client.first().unwrap());
                let data = Some(first.as_bytes());
                connection.send(|out| write::sasl_initial(out, mechanism, data));
                scram = Some(client);
            }
            Message::Authentication(Authentication::SaslContinue(data)) => {
                let last = scram.as_mut().expect("after the first").on_server_first(data).unwrap();
                connection.send(|out| write::sasl_response(out, last.as_bytes()));
            }
            Message::Authentication(Authentication::SaslFinal(data)) => {
                scram.as_mut().expect("after the first").on_server_final(data).unwrap();
            }
            Message::Error(error) => {
                assert!(error.ends_session());
                return Err(error.sqlstate.expect("a code"));
            }
            other => panic!("unexpected {other:?}"),
        }
    }
}

fn log_in(socket: &Path, user: &str, password: &str) -> Result<Option<Keys>, SqlState> {
    let parameters = [("user", user), ("database", "postgres")];
    let mut connection = Connection::connect(socket, ProtocolVersion::V3_0, &parameters);
    let keys = authenticate(&mut connection, user, password, None)?;
    connection.until_ready();
    Ok(keys)
}

fn trusted(cluster: &Cluster, more: &[(&str, &str)]) -> Connection {
    let parameters = [&[("user", "postgres"), ("database", "postgres")], more].concat();
    let mut connection = Connection::connect(&cluster.socket(), ProtocolVersion::V3_0, &parameters);
    assert!(authenticate(&mut connection, "postgres", "", None).unwrap().is_none());
    connection.until_ready();
    connection
}

#[test]
fn logs_in_by_every_method() {
    let cluster = Cluster::start(&[], &[]);
    let scram = Secret::of("pässword".as_bytes(), b"0123456789abcdef", 4096);
    let md5 = md5::Stored::of(b"secret", b"by_md5");
    cluster.sql(&format!(
        "create role by_scram login password '{scram}'; create role by_md5 login password '{md5}';
         create role made_here login password 'i\u{AD}x'; create role by_password login password 'x';"
    ));
    cluster.shell(
        "printf 'local all by_scram scram-sha-256\nlocal all made_here scram-sha-256\nlocal all by_md5 md5\n\
         local all by_password password\nlocal all all trust\n' > data/pg_hba.conf",
    );
    cluster.sql("select pg_reload_conf()");
    let socket = cluster.socket();

    let keys = log_in(&socket, "by_scram", "pässword").unwrap().expect("keys");
    assert!(keys.secret() == scram);
    // Postgres hashed this one; SASLprep takes the soft hyphen out on both sides.
    assert!(log_in(&socket, "made_here", "ix").unwrap().is_some());
    assert!(log_in(&socket, "by_md5", "secret").unwrap().is_none());
    assert!(log_in(&socket, "by_password", "x").unwrap().is_none());
    assert!(log_in(&socket, "postgres", "").unwrap().is_none());
    for user in ["by_scram", "by_md5", "by_password", "made_here"] {
        assert_eq!(log_in(&socket, user, "wrong").unwrap_err(), SqlState::INVALID_PASSWORD);
    }

    // What Postgres stored verifies here.
    let stored = cluster.sql("select rolpassword from pg_authid where rolname = 'made_here'");
    let stored = Password::parse(stored.trim());
    assert!(matches!(stored, Password::Scram(_)));
    assert!(stored.verify_clear(b"made_here", b"ix"));

    // Pass-through: a client proves itself to us; with its keys we log in without a password.
    let credentials = Credentials::Password { password: "pässword".into(), cached: None };
    let mut client = Client::new(credentials, ClientBinding::None, [1; 18]);
    let mut server = Server::new(scram, ServerBinding::None, [2; 18]);
    let first = client.first().unwrap();
    let first = server.on_client_first(SCRAM_SHA_256.as_bytes(), first.as_bytes()).unwrap();
    let last = client.on_server_first(first.as_bytes()).unwrap();
    let keys = server.on_client_final(last.as_bytes()).unwrap().keys;
    let parameters = [("user", "by_scram"), ("database", "postgres")];
    let mut connection = Connection::connect(&socket, ProtocolVersion::V3_0, &parameters);
    assert!(authenticate(&mut connection, "by_scram", "", Some(keys)).unwrap().is_some());
    connection.until_ready();
}

#[test]
fn understands_every_message_of_a_session() {
    let cluster = Cluster::start(&[], &[]);
    let mut connection = trusted(&cluster, &[]);
    let mut seen = BTreeSet::new();
    let mut note = |received: &[Received]| seen.extend(received.iter().map(|(kind, _)| *kind));

    note(&connection.query(
        "create table t(a int, b text); insert into t values (1, 'x'), (2, null); select * from t",
    ));
    note(&connection.query("; --"));
    note(&connection.query("do $$ begin raise notice 'hello %', 1; end $$"));
    note(&connection.query("listen c; notify c, 'payload'"));
    note(&connection.query("set application_name to 'pg'"));
    note(&connection.query("select 1/0"));
    note(&connection.query("copy t to stdout"));

    connection.send(|out| {
        write::parse(out, "s", "select a, b from t where a > $1", &[Oid::INT4]);
        write::describe(out, Target::Statement(b"s"));
        write::bind(out, "p", "s", &[Format::Binary], &[Some(&0_i32.to_be_bytes())], &[]);
        write::describe(out, Target::Portal(b"p"));
        write::execute(out, "p", 1);
        write::execute(out, "p", 0);
        write::close(out, Target::Statement(b"s"));
        write::parse(out, "", "set work_mem to '5MB'", &[]);
        write::describe(out, Target::Statement(b""));
        write::sync(out);
    });
    note(&connection.until_ready());
    // int4pl through the fast path.
    connection.send(|out| {
        let (one, two) = (1_i32.to_be_bytes(), 2_i32.to_be_bytes());
        let arguments = [Some(&one[..]), Some(&two[..])];
        write::function_call(out, Oid(177), &[Format::Binary], &arguments, Format::Binary);
    });
    let call = connection.until_ready();
    let sum = Message::FunctionCallResponse(Some(&[0, 0, 0, 3]));
    assert_eq!(Message::read(call[0].0, &call[0].1), Ok(sum));
    note(&call);

    connection.send(|out| {
        write::query(out, "copy t from stdin");
        write::copy_data(out, b"3\tthree\n");
        write::copy_done(out);
    });
    note(&connection.until_ready());
    assert_eq!(connection.rows("select * from t where a = 3").len(), 1);

    // All that an ordinary session gets after its log-in.
    let log_in = [kind::AUTHENTICATION, kind::BACKEND_KEY_DATA];
    let special = [kind::COPY_BOTH, kind::NEGOTIATE_PROTOCOL_VERSION];
    let expected: BTreeSet<u8> = kind::ALL
        .into_iter()
        .filter(|kind| !log_in.contains(kind) && !special.contains(kind))
        .collect();
    assert_eq!(seen, expected);

    let refused = connection.query("select 'unterminated");
    let error = ErrorFields::read(&refused[0].1).unwrap();
    assert_eq!(error.sqlstate, Some(SqlState::SYNTAX_ERROR));
    assert!(error.position.is_some() && error.routine.is_some());
}

#[test]
fn cancels_with_the_key_it_was_given() {
    let cluster = Cluster::start(&[], &[]);
    let parameters = [("user", "postgres"), ("database", "postgres")];
    let mut connection = Connection::connect(&cluster.socket(), ProtocolVersion::V3_0, &parameters);
    authenticate(&mut connection, "postgres", "", None).unwrap();
    let ready = connection.until_ready();
    let (_, body) = ready.iter().find(|(kind, _)| *kind == kind::BACKEND_KEY_DATA).expect("a key");
    let key = backend::BackendKeyData::read(body).unwrap();
    connection.send(|out| write::query(out, "select pg_sleep(30)"));
    // The server may not have begun: ask until it has.
    let watched = format!(
        "select 1 from pg_stat_activity where pid = {} and query like '%sleep%'",
        key.process_id
    );
    let mut other = trusted(&cluster, &[]);
    while other.rows(&watched).is_empty() {}
    let mut request = Connection::new(UnixStream::connect(cluster.socket()).unwrap(), &BACKEND);
    request.send(|out| startup::write_cancel_request(out, key.process_id, key.key));
    assert!(request.receive().is_none());
    let received = connection.until_ready();
    let error = received.iter().find(|(kind, _)| *kind == kind::ERROR).expect("a cancelled query");
    let error = ErrorFields::read(&error.1).unwrap();
    assert_eq!(error.sqlstate, Some(SqlState::QUERY_CANCELED));
}

#[test]
fn a_server_of_3_0_negotiates_us_down() {
    let cluster = Cluster::start(&[], &[]);
    let parameters = [("user", "postgres"), ("_pq_.unknown", "1"), ("database", "postgres")];
    let mut connection =
        Connection::connect(&cluster.socket(), ProtocolVersion::GREASE, &parameters);
    let (kind, body) = connection.receive().unwrap();
    let Ok(Message::NegotiateProtocolVersion(negotiated)) = Message::read(kind, &body) else {
        panic!("expected NegotiateProtocolVersion, not {kind}")
    };
    assert_eq!(negotiated.version, ProtocolVersion::V3_0);
    assert!(negotiated.options().eq([&b"_pq_.unknown"[..]]));
    authenticate(&mut connection, "postgres", "", None).unwrap();
    connection.until_ready();
}

#[test]
fn speaks_the_replication_commands() {
    let cluster = Cluster::start(&[], &["wal_level=replica"]);
    let mut connection = trusted(&cluster, &[("replication", "true")]);
    let mut row = |command: Command| {
        let rows = connection.rows(&command.to_string());
        assert_eq!(rows.len(), 1, "{command}");
        rows[0].clone()
    };

    let body = row(Command::IdentifySystem);
    let system = IdentifySystem::read(backend::data_row(&body).unwrap()).unwrap();
    assert_eq!((system.timeline, system.database), (1, None));
    let body = row(Command::Show("wal_segment_size".into()));
    assert!(backend::data_row(&body).unwrap().eq([Some(&b"16MB"[..])]));

    let name = "ho_wdah".to_owned();
    let options = Options::new().flag("RESERVE_WAL");
    let create = CreateSlot { name: name.clone(), temporary: false, plugin: None, options };
    let body = row(Command::CreateSlot(create));
    let created = CreatedSlot::read(backend::data_row(&body).unwrap()).unwrap();
    assert_eq!((created.name, created.consistent_point), (name.clone(), Lsn(0)));
    let body = row(Command::ReadSlot(name.clone()));
    let slot = ReadSlot::read(backend::data_row(&body).unwrap()).unwrap();
    assert_eq!(slot.slot_type.as_deref(), Some("physical"));
    let restart = slot.restart.expect("reserved");

    stream_wal(&mut connection, &cluster, &name, restart);
    let dropped = connection.query(&Command::DropSlot { name, wait: true }.to_string());
    assert!(dropped.iter().any(|(kind, _)| *kind == kind::COMMAND_COMPLETE));
    take_backup(&mut connection, system.end);
}

/// Follows the WAL from `start` until a transaction of now has arrived, and ends in order.
fn stream_wal(connection: &mut Connection, cluster: &Cluster, slot: &str, start: Lsn) {
    let command = Command::StartPhysical { slot: Some(slot.to_owned()), start, timeline: Some(1) };
    connection.send(|out| write::query(out, command.to_string()));
    assert_eq!(connection.receive().map(|(kind, _)| kind), Some(kind::COPY_BOTH));
    cluster.sql("create table streamed()");
    let wanted: Lsn = cluster.sql("select pg_current_wal_flush_lsn()").trim().parse().unwrap();

    let mut position = start;
    while position < wanted {
        let (kind, body) = connection.receive().expect("WAL");
        assert_eq!(kind, kind::COPY_DATA);
        match FromSender::read(&body).unwrap() {
            FromSender::XLogData(data) => {
                assert_eq!(data.start, position);
                position = position + u64::try_from(data.wal.len()).unwrap();
            }
            FromSender::Keepalive(keepalive) => assert!(keepalive.sent_at > 0),
        }
    }
    let (written, flushed, applied) = (position, position, Lsn(0));
    let status = StandbyStatus { written, flushed, applied, sent_at: 0, reply_requested: true };
    connection.send(|out| {
        let mut data = Vec::new();
        status.write(&mut data);
        write::copy_data(out, &data);
    });
    // The reply that was asked for.
    loop {
        let (_, body) = connection.receive().expect("a reply");
        if let Ok(FromSender::Keepalive(_)) = FromSender::read(&body) {
            break;
        }
    }
    connection.send(write::copy_done);
    let end = connection.until_ready();
    assert!(end.iter().any(|(kind, _)| *kind == kind::COPY_DONE));
}

/// A base backup: its two results, its parts and its end.
fn take_backup(connection: &mut Connection, not_before: Lsn) {
    let options = Options::new()
        .with("label", "it's")
        .flag("progress")
        .with("checkpoint", "fast")
        .with("manifest", "yes");
    let received = connection.query(&Command::BaseBackup(options).to_string());
    let rows: Vec<_> =
        received.iter().filter(|(kind, _)| *kind == kind::DATA_ROW).map(|(_, body)| body).collect();
    let [start, space, end] = rows[..] else { panic!("three rows, not {}", rows.len()) };
    let start = Position::read(backend::data_row(start).unwrap()).unwrap();
    let end = Position::read(backend::data_row(end).unwrap()).unwrap();
    assert!(not_before <= start.lsn && start.lsn < end.lsn && start.timeline == 1);
    let space = Tablespace::read(backend::data_row(space).unwrap()).unwrap();
    assert!(space.oid.is_none() && space.kibibytes.is_some());

    let (mut archives, mut manifest, mut bytes) = (0, String::new(), 0);
    let mut in_manifest = false;
    for (_, body) in received.iter().filter(|(kind, _)| *kind == kind::COPY_DATA) {
        match BackupPart::read(body).expect("a part that we know") {
            BackupPart::Archive { file_name, tablespace } => {
                assert_eq!((file_name, tablespace), (&b"base.tar"[..], &b""[..]));
                archives += 1;
            }
            BackupPart::Manifest => in_manifest = true,
            BackupPart::Data(data) if in_manifest => {
                manifest.push_str(std::str::from_utf8(data).unwrap());
            }
            BackupPart::Data(data) => bytes += data.len(),
            BackupPart::Progress(_) => {}
        }
    }
    assert_eq!(archives, 1);
    assert!(bytes > 1 << 20 && bytes % 512 == 0, "{bytes} bytes of tar");
    assert!(manifest.starts_with("{ \"PostgreSQL-Backup-Manifest-Version\": 1"));
}

#[test]
fn psql_logs_in_here_by_scram_and_reads_our_rows() {
    let cluster = Cluster::create(&[]);
    let secret = Secret::of(b"secret", b"0123456789abcdef", 4096);
    for (password, wanted) in [("secret", "42|\n"), ("wrong", "")] {
        let folder = cluster.socket().parent().unwrap().join(password);
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777))
            .unwrap();
        let socket = folder.join(".s.PGSQL.5432");
        let listener = UnixListener::bind(&socket).unwrap();
        std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o777))
            .unwrap();
        let secret = secret.clone();
        let server = std::thread::spawn(move || serve_one(&listener, &secret));
        let output = cluster.shell(&format!(
            "PGPASSWORD={password} psql -XAtq -h {} -d postgres -c 'select 42' 2>&1 || true",
            folder.display()
        ));
        server.join().unwrap();
        match wanted {
            "" => assert!(output.contains("password authentication failed"), "{output}"),
            rows => assert_eq!(output, rows.trim_end()),
        }
    }
}

/// Serves one client: SCRAM, one query, one row.
fn serve_one(listener: &UnixListener, secret: &Secret) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut bytes = Vec::new();
    let mut buffer = [0; 64];
    loop {
        let count = stream.read(&mut buffer).unwrap();
        bytes.extend_from_slice(&buffer[..count]);
        match startup::open(&bytes).unwrap() {
            Opening::Packet(Packet::Startup(message), _) => {
                assert_eq!(message.user(), Ok(&b"postgres"[..]));
                break;
            }
            // psql asks for encryption only over TCP.
            Opening::Packet(other, _) => panic!("unexpected {other:?}"),
            _ => {}
        }
    }
    let mut client = Connection::new(stream, &FRONTEND);
    let mut scram = Server::new(secret.clone(), ServerBinding::None, [9; 18]);
    client.send(|out| answer::sasl(out, &[SCRAM_SHA_256]));
    let (_, body) = client.receive().unwrap();
    let initial = SaslInitial::read(&body).unwrap();
    let first = scram.on_client_first(initial.mechanism, initial.data.unwrap()).unwrap();
    client.send(|out| {
        answer::authentication(out, Authentication::SaslContinue(first.as_bytes()));
    });
    let (_, body) = client.receive().unwrap();
    let accepted = match scram.on_client_final(frontend::sasl_response(&body)) {
        Ok(accepted) => accepted,
        Err(error) => {
            let text = format!("password authentication failed: {error}");
            client.send(|out| Report::fatal(error.sqlstate(), text).write(out));
            return;
        }
    };
    client.send(|out| {
        let last = accepted.server_final.as_bytes();
        answer::authentication(out, Authentication::SaslFinal(last));
        answer::authentication(out, Authentication::Ok);
        answer::parameter_status(out, "client_encoding", "UTF8");
        answer::backend_key_data(out, 1, b"1234");
        answer::ready_for_query(out, TransactionStatus::Idle);
    });
    let (kind, body) = client.receive().unwrap();
    let wanted = frontend::Message::Query(b"select 42");
    assert_eq!(frontend::Message::read(kind, &body), Ok(wanted));
    client.send(|out| {
        let fields = [Field::text(b"a", Oid::INT4, 4), Field::text(b"b", Oid::TEXT, -1)];
        answer::row_description(out, &fields);
        answer::data_row(out, &[Some(b"42"), None]);
        answer::command_complete(out, "SELECT 1");
        answer::ready_for_query(out, TransactionStatus::Idle);
    });
    assert_eq!(client.receive().map(|(kind, _)| kind), Some(frontend::kind::TERMINATE));
}
