//! A pooler on this thread, a server that misbehaves on demand, and clients made of bytes.
//!
//! All of them run on one core, so that a test needs no threads and nothing outlives it.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pg::auth::md5;
use pg::auth::sasl::ClientBinding;
use pg::auth::scram::client::{Client as Scram, Credentials};
use pg::wire::backend::{Authentication, Field, TransactionStatus, write};
use pg::wire::error::{ErrorFields, Report};
use pg::wire::{frontend, startup};
use pg::{oid::Oid, sqlstate::SqlState};
use pooler::resolver::{Place, Resolve, Resolver};
use pooler::rules::Rules;
use pooler::settings::file::SettingsError;
use pooler::settings::{AuthType, Database, Host, ServerAddress, Settings, User};
use pooler::{Load, Pooler, PoolerOptions};
use runtime::app::{Applet, Node, Stop};
use runtime::buffer::Chunk;
use runtime::mailbox::Receiver;
use runtime::net::{Address, ListenOptions, Listener, Stream};
use runtime::nodepool::Control;
use runtime::{clock, executor, io};

/// Against hangs only; nothing is measured.
const PATIENCE: Duration = Duration::from_secs(20);

/// A database by this name does not lead to the [`FakeServer`].
pub(crate) const REAL: &str = "real";

pub(crate) struct World {
    pub(crate) address: Address,
    pub(crate) server: Rc<FakeServer>,
    pub(crate) pooler: Pooler,
}

/// Settings for a pooler in front of a [`FakeServer`]: user `ann` without a password.
pub(crate) fn settings() -> Settings {
    Settings {
        listen_port: 0,
        auth_type: AuthType::Trust,
        default_pool_size: 2,
        admin_users: vec!["ann".to_owned()],
        server_login_retry: Duration::from_millis(50),
        users: [("ann".to_owned(), User::default())].into(),
        ..Settings::default()
    }
}

/// Runs a test in a world with these settings; checks at the end that nothing has leaked.
pub(crate) fn run(settings: Settings, test: impl AsyncFnOnce(&World)) {
    run_with(settings, |version, first, changed| load(version, changed.unwrap_or(first)), test);
}

pub(crate) type Loaded = Result<Rules, Vec<SettingsError>>;

/// The same, with what RELOAD and SET do: it gets the new version, the settings at the start and,
/// from SET, the changed ones.
pub(crate) fn run_with(
    settings: Settings,
    on_reload: impl Fn(u64, Settings, Option<Settings>) -> Loaded + Send + Sync + 'static,
    test: impl AsyncFnOnce(&World),
) {
    run_whole(settings, on_reload, None, test);
}

/// The same in a world where names with an `@` mean something: the test answers where targets are.
pub(crate) fn run_with_targets(
    settings: Settings,
    test: impl AsyncFnOnce(&World, &mut Receiver<Resolve>),
) {
    let (sender, mut questions) = runtime::mailbox::channel(64);
    let resolver: Arc<Resolver> = Arc::new(move |question| {
        sender.try_send(question).expect("the test has not ended");
    });
    let reload =
        |version, first, changed: Option<Settings>| load(version, changed.unwrap_or(first));
    run_whole(settings, reload, Some(resolver), async |world| test(world, &mut questions).await);
}

fn run_whole(
    mut settings: Settings,
    on_reload: impl Fn(u64, Settings, Option<Settings>) -> Loaded + Send + Sync + 'static,
    resolver: Option<Arc<Resolver>>,
    test: impl AsyncFnOnce(&World),
) {
    let whole = async {
        let server = FakeServer::start();
        settings.databases.entry("*".to_owned()).or_insert_with(|| server.database());
        let first = settings.clone();
        let default_target = resolver.is_some().then(|| "main".to_owned());
        let on_reload: Arc<Load> =
            Arc::new(move |version, changed| on_reload(version, first.clone(), changed));
        let pooler = Pooler::alone(PoolerOptions {
            rules: Arc::new(load(1, settings).expect("good rules")),
            load: on_reload,
            resolver,
            default_target,
            provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
        });
        let node = Node { index: 0, nodes: 1, cpu: None, control: Control::new() };
        pooler.start(&node).await.expect("the pooler starts");
        let address = pooler.addresses().first().expect("it listens").clone();
        let world = World { address, server, pooler };
        test(&world).await;
        world.check_that_all_is_well().await;
        world.pooler.stop(Stop::Now).await;
        world
            .until("every server connection is closed", async || world.server.open.get() == 0)
            .await;
    };
    let done = executor::block_on(&io::Options::default(), clock::timeout(PATIENCE, whole));
    assert!(done.expect("a core").is_ok(), "the test hangs");
}

pub(crate) fn load(version: u64, settings: Settings) -> Loaded {
    let files = |_path: &Path| Err(std::io::ErrorKind::NotFound.into());
    Rules::load(version, settings, &files)
}

impl World {
    /// A connection to the pooler on which nothing has been said.
    pub(crate) async fn connect(&self) -> Client {
        let stream = Stream::connect(&self.address).await.expect("the pooler accepts");
        Client { stream, input: Vec::new(), challenge: Vec::new() }
    }

    /// A client that has logged in.
    pub(crate) async fn log_in(&self, database: &str) -> Client {
        let mut client = self.connect().await;
        client.start("ann", database).await;
        let answers = client.log_in_with("ann", "apple").await;
        assert_eq!(answers.last().map(String::as_str), Some("ready I"), "{database}");
        client
    }

    /// What a console command yields, as `column=value`, one list for each row.
    pub(crate) async fn console(&self, command: &str) -> Vec<String> {
        let mut client = self.log_in("howdah").await;
        client.query(command).await;
        client.answers().await
    }

    /// Waits for a condition that must become true.
    pub(crate) async fn until(&self, what: &str, mut condition: impl AsyncFnMut() -> bool) {
        for _attempt in 0..2000 {
            if condition().await {
                return;
            }
            clock::sleep(Duration::from_millis(5)).await;
        }
        panic!("never: {what}");
    }

    /// Somebody else is served, no client and no server of an earlier one is left in use, and the
    /// pooler has as many server connections as it says.
    pub(crate) async fn check_that_all_is_well(&self) {
        let mut other = self.log_in("other").await;
        other.query("still there").await;
        assert_eq!(other.answers().await, ["row still there", "SELECT 1", "ready I"]);
        drop(other);
        self.until("no server is in use", async || {
            let pools = self.pools().await;
            let ours = pools.iter().filter(|pool| pool.database != REAL);
            pools.iter().all(|pool| pool.in_use() == 0)
                && ours.map(Pool::servers).sum::<i64>() == self.server.open.get()
        })
        .await;
    }

    /// SHOW POOLS, without the console's own.
    pub(crate) async fn pools(&self) -> Vec<Pool> {
        let mut client = self.log_in("howdah").await;
        client.query("SHOW POOLS").await;
        let rows = client.answers().await;
        rows.iter()
            .filter_map(|row| row.strip_prefix("row "))
            .map(Pool::read)
            .filter(|pool| pool.database != "pgbouncer")
            .collect()
    }
}

/// One row of SHOW POOLS.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) database: String,
    counts: Vec<i64>,
}

impl Pool {
    fn read(row: &str) -> Self {
        let mut columns = row.split('|');
        let database = columns.next().expect("a database").to_owned();
        let counts = columns.skip(1).map_while(|column| column.parse().ok()).collect();
        Self { database, counts }
    }

    /// Clients that log in, work or wait, and servers that work, are cancelled or log in.
    pub(crate) fn in_use(&self) -> i64 {
        self.counts[..7].iter().sum::<i64>() + self.counts[10]
    }

    pub(crate) fn waiting(&self) -> i64 {
        self.counts[1]
    }

    pub(crate) fn servers(&self) -> i64 {
        self.counts[4..=10].iter().sum()
    }
}

/// A client made of bytes.
pub(crate) struct Client {
    pub(crate) stream: Stream,
    input: Vec<u8>,
    /// The last demand for a proof: its code and data.
    challenge: Vec<u8>,
}

impl Client {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        // The other side may have closed: then the answers say so.
        let _closed = self.stream.send(bytes).await;
    }

    pub(crate) async fn start(&mut self, user: &str, database: &str) {
        let mut out = Vec::new();
        let pairs = [(&b"user"[..], user.as_bytes()), (b"database", database.as_bytes())];
        startup::write_startup(&mut out, startup::ProtocolVersion::V3_0, pairs);
        self.send(&out).await;
    }

    /// Proves who it is by the method that it is asked for; gives the last answers.
    pub(crate) async fn log_in_with(&mut self, user: &str, password: &str) -> Vec<String> {
        let answers = self.answers().await;
        let mut out = Vec::new();
        match answers.last().map(String::as_str) {
            Some("authentication 3") => frontend::write::password(&mut out, password),
            Some("authentication 5") => {
                let salt = *self.challenge.last_chunk().expect("a salt of 4 bytes");
                let stored = md5::Stored::of(password.as_bytes(), user.as_bytes());
                frontend::write::password(&mut out, stored.response(salt));
            }
            Some("authentication 10") => return self.log_in_by_scram(password).await,
            _ => return answers,
        }
        self.send(&out).await;
        self.answers().await
    }

    async fn log_in_by_scram(&mut self, password: &str) -> Vec<String> {
        let credentials =
            Credentials::Password { password: password.as_bytes().to_vec(), cached: None };
        let mut scram = Scram::new(credentials, ClientBinding::None, [7; 18]);
        let mut out = Vec::new();
        let first = scram.first().expect("it begins");
        frontend::write::sasl_initial(&mut out, scram.mechanism(), Some(first.as_bytes()));
        self.send(&out).await;
        assert_eq!(self.answers().await, ["authentication 11"]);
        let last = scram.on_server_first(&self.challenge[4..]).expect("a good challenge");
        out.clear();
        frontend::write::sasl_response(&mut out, last.as_bytes());
        self.send(&out).await;
        let answers = self.answers().await;
        if answers != ["authentication 12"] {
            return answers;
        }
        scram.on_server_final(&self.challenge[4..]).expect("the pooler knows the password too");
        self.answers().await
    }

    pub(crate) async fn query(&mut self, sql: &str) {
        let mut out = Vec::new();
        frontend::write::query(&mut out, sql);
        self.send(&out).await;
    }

    /// What it must say to cancel something: the process id and key that it is told next.
    pub(crate) async fn cancel_key(&mut self) -> (u32, Vec<u8>) {
        loop {
            let (kind, body) = self.message().await.expect("it is let in");
            if kind == b'K'
                && let Some((id, key)) = body.split_first_chunk()
            {
                return (u32::from_be_bytes(*id), key.to_vec());
            }
        }
    }

    /// Waits for the end, whatever comes before.
    pub(crate) async fn until_closed(&mut self) {
        while let Ok(chunk) = self.stream.recv().await {
            if chunk.is_empty() {
                return;
            }
        }
    }

    /// The next message; `None` when the connection is closed.
    pub(crate) async fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((&[kind, a, b, c, d], rest)) = self.input.split_first_chunk() {
                let body = usize::try_from(u32::from_be_bytes([a, b, c, d])).expect("a length") - 4;
                if rest.len() >= body {
                    let message = (kind, rest[..body].to_vec());
                    self.input.drain(..5 + body);
                    return Some(message);
                }
            }
            let chunk = self.stream.recv().await.unwrap_or_else(|_reset| Chunk::empty());
            if chunk.is_empty() {
                assert!(self.input.is_empty(), "the connection ends within a message");
                return None;
            }
            self.input.extend_from_slice(&chunk);
        }
    }

    /// What comes up to ReadyForQuery, an error that ends the session, or the end, in short.
    pub(crate) async fn answers(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        loop {
            let Some((kind, body)) = self.message().await else {
                found.push("closed".to_owned());
                return found;
            };
            match kind {
                b'Z' => {
                    found.push(format!("ready {}", char::from(body[0])));
                    return found;
                }
                b'E' => found.push(error(&body)),
                b'C' => found.push(text(&body)),
                b'D' => found.push(format!("row {}", row(&body))),
                b'R' if body != [0, 0, 0, 0] => {
                    found.push(format!("authentication {}", body[3]));
                    self.challenge = body;
                    return found;
                }
                _ => {}
            }
        }
    }
}

/// The bytes with one thing wrong.
pub(crate) fn mutated(right: &[u8], seed: u64) -> Vec<u8> {
    // Numbers of Vigna's SplitMix64.
    let mut state = seed;
    let mut random = |below: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) >> 16).unwrap_or(usize::MAX) % below.max(1)
    };
    let mut bytes = right.to_vec();
    let at = random(bytes.len());
    let end = (at + 1 + random(12)).min(bytes.len());
    match random(5) {
        0 => bytes[at] = u8::try_from(random(256)).unwrap_or_default(),
        1 => bytes.truncate(at),
        2 => drop(bytes.drain(at..end)),
        3 => {
            let again = bytes[at..end].to_vec();
            drop(bytes.splice(at..at, again));
        }
        _ => bytes[at..end].iter_mut().for_each(|byte| *byte ^= 0x80),
    }
    bytes
}

fn error(body: &[u8]) -> String {
    let fields = ErrorFields::read(body).expect("a whole error");
    let severity = String::from_utf8_lossy(fields.severity).into_owned();
    let sqlstate = fields.sqlstate.expect("an error has an SQLSTATE");
    format!("{severity} {sqlstate} {}", String::from_utf8_lossy(fields.message))
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body.strip_suffix(b"\0").unwrap_or(body)).into_owned()
}

fn row(body: &[u8]) -> String {
    let values = pg::wire::backend::data_row(body).expect("a whole row");
    let texts: Vec<String> = values
        .map(|value| {
            value.map_or("NULL".to_owned(), |value| String::from_utf8_lossy(value).into_owned())
        })
        .collect();
    texts.join("|")
}

/// A server that speaks as much of the protocol as the pooler needs, and misbehaves when the query,
/// or the database's name, asks for it.
pub(crate) struct FakeServer {
    address: Address,
    /// Connections that are open now.
    pub(crate) open: Cell<i64>,
    /// Queries that have arrived.
    pub(crate) queries: RefCell<Vec<String>>,
    /// Cancel requests that have arrived.
    pub(crate) cancels: Cell<u32>,
    /// Start-up packets that have arrived, with a comma between their texts.
    pub(crate) logins: RefCell<Vec<String>>,
    /// Whether it breaks or hangs when a database's name asks for that; a target's next server does not.
    pub(crate) dying: Cell<bool>,
}

/// How often a query that hangs looks whether it is canceled.
const GLANCE: Duration = Duration::from_millis(5);

impl FakeServer {
    fn start() -> Rc<Self> {
        let any = "127.0.0.1:0".parse().expect("an address");
        let listener = Listener::bind(&any, &ListenOptions::default()).expect("a free port");
        let server = Rc::new(Self {
            address: listener.local_address(),
            open: Cell::new(0),
            queries: RefCell::default(),
            cancels: Cell::new(0),
            logins: RefCell::default(),
            dying: Cell::new(true),
        });
        let accepting = Rc::clone(&server);
        executor::spawn_detached(async move {
            while let Ok((stream, _peer)) = listener.accept().await {
                let server = Rc::clone(&accepting);
                executor::spawn_detached(async move {
                    server.open.set(server.open.get() + 1);
                    let _ended = server.serve(&stream).await;
                    drop(stream);
                    server.open.set(server.open.get() - 1);
                });
            }
        });
        server
    }

    /// The same as the answer to where a target is.
    pub(crate) fn place(&self) -> Place {
        let Address::Tcp(address) = &self.address else { panic!("it listens on TCP") };
        let server = ServerAddress::Tcp { host: address.ip().to_string(), port: address.port() };
        Place { server, parameters: Vec::new() }
    }

    /// A database entry that leads here.
    pub(crate) fn database(&self) -> Database {
        let Address::Tcp(address) = &self.address else { panic!("it listens on TCP") };
        Database {
            host: vec![Host::Tcp(address.ip().to_string())],
            port: address.port(),
            ..Database::default()
        }
    }

    async fn serve(&self, stream: &Stream) -> Option<()> {
        let mut input = Input { stream, bytes: Vec::new() };
        let packet = input.packet().await?;
        let packet = if packet[..4] == 80_877_103_u32.to_be_bytes() {
            stream.queue(b"N");
            input.packet().await?
        } else {
            packet
        };
        if packet[..4] == 80_877_102_u32.to_be_bytes() {
            self.cancels.set(self.cancels.get() + 1);
            return None;
        }
        let login = String::from_utf8_lossy(&packet[4..]).replace('\0', ",");
        self.logins.borrow_mut().push(login);
        self.welcome(stream, &String::from_utf8_lossy(&packet)).await?;
        loop {
            let (kind, body) = input.message().await?;
            match kind {
                b'Q' => {
                    let sql = text(&body);
                    self.queries.borrow_mut().push(sql.clone());
                    if sql == "hang" {
                        self.hang(&mut input).await?;
                        continue;
                    }
                    self.answer(stream, &sql).await?;
                }
                b'X' => return None,
                _ => self.extended(stream, kind),
            }
        }
    }

    async fn welcome(&self, stream: &Stream, packet: &str) -> Option<()> {
        let mut out = Vec::new();
        for (database, bytes) in [
            ("login_garbage", &b"\xff\xfe\xfd\xfc\xfb\xfa garbage garbage"[..]),
            ("login_lie", b"R\xff\xff\xff\xff"),
            ("login_short", b"R\0\0\0\x04"),
            ("login_closes", b""),
            ("login_half", b"R\0\0\0\x08\0\0"),
            ("login_gss", b"R\0\0\0\x08\0\0\0\x07"),
            ("login_copy", b"R\0\0\0\x08\0\0\0\0G\0\0\0\x07\0\0\0"),
        ] {
            if packet.contains(database) {
                let _gone = stream.send(bytes).await;
                return None;
            }
        }
        if packet.contains("login_broken") && self.dying.get() {
            let gone =
                "could not open file \"global/pg_filenode.map\": Software caused connection abort";
            Report::fatal(SqlState::INTERNAL_ERROR, gone).write(&mut out);
            let _gone = stream.send(&out).await;
            return None;
        }
        if packet.contains("login_hangs") && self.dying.get() {
            let mut input = Input { stream, bytes: Vec::new() };
            return input.fill(usize::MAX).await;
        }
        if packet.contains("login_refused") {
            Report::fatal(
                SqlState::INVALID_CATALOG_NAME,
                "database \"login_refused\" does not exist",
            )
            .write(&mut out);
            let _gone = stream.send(&out).await;
            return None;
        }
        write::authentication(&mut out, Authentication::Ok);
        for (name, value) in [
            ("server_version", "15.0"),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, MDY"),
            ("TimeZone", "UTC"),
            ("standard_conforming_strings", "on"),
            ("application_name", ""),
            ("IntervalStyle", "postgres"),
        ] {
            write::parameter_status(&mut out, name, value);
        }
        write::backend_key_data(&mut out, 4711, &[1, 2, 3, 4]);
        write::ready_for_query(&mut out, TransactionStatus::Idle);
        stream.send(&out).await.ok()
    }

    /// Works until somebody cancels or the connection ends, whatever else is sent.
    async fn hang(&self, input: &mut Input<'_>) -> Option<()> {
        let before = self.cancels.get();
        while self.cancels.get() == before {
            let more = input.bytes.len() + 1;
            if let Ok(ended) = clock::timeout(GLANCE, input.fill(more)).await {
                ended?;
            }
        }
        let mut out = Vec::new();
        Report::error(SqlState::QUERY_CANCELED, "canceling statement").write(&mut out);
        write::ready_for_query(&mut out, TransactionStatus::Idle);
        input.stream.send(&out).await.ok()
    }

    async fn answer(&self, stream: &Stream, sql: &str) -> Option<()> {
        let mut out = Vec::new();
        let mut status = TransactionStatus::Idle;
        match sql {
            "" => write::empty_query(&mut out),
            "begin" => {
                write::command_complete(&mut out, "BEGIN");
                status = TransactionStatus::InTransaction;
            }
            "die" => return None,
            "fail" => Report::error(SqlState::SYNTAX_ERROR, "as asked").write(&mut out),
            "die mid-message" => {
                let _gone = stream.send(b"T\0\0\0\x40\0\x01half a row desc").await;
                return None;
            }
            "die mid-rows" => {
                write_rows(&mut out, &["one", "two"]);
                let _gone = stream.send(&out).await;
                return None;
            }
            "die with an error" => {
                Report::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection").write(&mut out);
                let _gone = stream.send(&out).await;
                return None;
            }
            "garbage" => {
                out.extend_from_slice(&[0xff; 64]);
                let _sent = stream.send(&out).await;
                return Some(());
            }
            "lying length" => {
                let _sent = stream.send(b"D\0\0\0\x01").await;
                return Some(());
            }
            "huge length" => {
                let _sent = stream.send(b"D\x7f\xff\xff\xff\0\x01").await;
                return Some(());
            }
            "answers twice" => {
                for _time in 0..2 {
                    write_rows(&mut out, &["for you"]);
                    write::command_complete(&mut out, "SELECT 1");
                    write::ready_for_query(&mut out, TransactionStatus::Idle);
                }
                return stream.send(&out).await.ok();
            }
            "bad status" => {
                write::command_complete(&mut out, "SELECT 0");
                out.extend_from_slice(b"Z\0\0\0\x05?");
                return stream.send(&out).await.ok();
            }
            "login again" => {
                write::authentication(&mut out, Authentication::CleartextPassword);
                return stream.send(&out).await.ok();
            }
            "slow rows" => {
                write_rows(&mut out, &["one"]);
                stream.send(&out).await.ok()?;
                clock::sleep(Duration::from_millis(300)).await;
                out.clear();
                write::command_complete(&mut out, "SELECT 1");
            }
            other => {
                write_rows(&mut out, &[other]);
                write::command_complete(&mut out, "SELECT 1");
            }
        }
        write::ready_for_query(&mut out, status);
        if let Some(seed) = sql.strip_prefix("mutate ").and_then(|seed| seed.parse().ok()) {
            out = mutated(&out, seed);
        }
        stream.send(&out).await.ok()
    }

    /// Enough of the extended protocol for a client that prepares.
    fn extended(&self, stream: &Stream, kind: u8) {
        let mut out = Vec::new();
        match kind {
            b'P' => write::parse_complete(&mut out),
            b'B' => write::bind_complete(&mut out),
            b'D' => write::no_data(&mut out),
            b'E' => write::command_complete(&mut out, "SELECT 0"),
            b'C' => write::close_complete(&mut out),
            b'S' => write::ready_for_query(&mut out, TransactionStatus::Idle),
            _ => {}
        }
        stream.queue(&out);
    }
}

fn write_rows(out: &mut Vec<u8>, rows: &[&str]) {
    write::row_description(out, &[Field::text(b"echo", Oid::TEXT, -1)]);
    for row in rows {
        write::data_row(out, &[Some(row.as_bytes())]);
    }
}

/// The server's side of a connection.
struct Input<'a> {
    stream: &'a Stream,
    bytes: Vec<u8>,
}

impl Input<'_> {
    async fn packet(&mut self) -> Option<Vec<u8>> {
        self.fill(4).await?;
        let length = u32::from_be_bytes(*self.bytes.first_chunk()?);
        let length = usize::try_from(length).ok()?;
        self.fill(length).await?;
        let packet = self.bytes[4..length].to_vec();
        self.bytes.drain(..length);
        Some(packet)
    }

    async fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        self.fill(5).await?;
        let kind = self.bytes[0];
        let length =
            u32::from_be_bytes([self.bytes[1], self.bytes[2], self.bytes[3], self.bytes[4]]);
        let length = usize::try_from(length).ok()?;
        self.fill(1 + length).await?;
        let body = self.bytes[5..=length].to_vec();
        self.bytes.drain(..=length);
        Some((kind, body))
    }

    async fn fill(&mut self, count: usize) -> Option<()> {
        while self.bytes.len() < count {
            let chunk = self.stream.recv().await.ok()?;
            if chunk.is_empty() {
                return None;
            }
            self.bytes.extend_from_slice(&chunk);
        }
        Some(())
    }
}
