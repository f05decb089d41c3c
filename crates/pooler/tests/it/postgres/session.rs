//! A client that sends what it is told and writes down what comes back.

use pg::auth::md5;
use pg::auth::sasl::ClientBinding;
use pg::auth::scram::client::{Client as Scram, Credentials};
use pg::oid::Oid;
use pg::wire::backend::{Authentication, data_row};
use pg::wire::error::ErrorFields;
use pg::wire::frontend::{Target, write};
use pg::wire::startup;
use runtime::buffer::Chunk;
use runtime::net::{Address, Stream};
use runtime::tls::{ClientTls, Transport};

pub(crate) struct Session {
    pub(crate) stream: Transport,
    input: Vec<u8>,
    out: Vec<u8>,
    /// Process id and key, as the pooler gave them.
    pub(crate) cancel: (u32, Vec<u8>),
    /// What has been reported.
    pub(crate) parameters: std::collections::BTreeMap<String, String>,
}

impl Session {
    pub(crate) async fn connect(address: &Address) -> Session {
        let stream = Stream::connect(address).await.expect("the pooler accepts");
        Session::over(Transport::Plain(stream))
    }

    pub(crate) fn over(stream: Transport) -> Session {
        Session {
            stream,
            input: Vec::new(),
            out: Vec::new(),
            cancel: (0, Vec::new()),
            parameters: std::collections::BTreeMap::new(),
        }
    }

    /// Asks for TLS and goes on encrypted.
    pub(crate) async fn encrypt(self, tls: &ClientTls) -> Session {
        let Transport::Plain(stream) = self.stream else { panic!("it is encrypted already") };
        let mut out = Vec::new();
        startup::write_ssl_request(&mut out);
        stream.queue(&out);
        let answer = stream.recv().await.expect("an answer");
        assert_eq!(&*answer, b"S");
        let stream = tls.connect(stream, "localhost").await.expect("a handshake");
        Session { stream: Transport::Tls(stream), ..self }
    }

    /// Logs in, to database `postgres` if no parameter says otherwise, and proves what is asked for; gives the transcript.
    pub(crate) async fn log_in(
        &mut self,
        user: &str,
        password: &str,
        parameters: &[(&str, &str)],
    ) -> String {
        self.log_in_with(startup::ProtocolVersion::V3_0, user, password, parameters).await
    }

    pub(crate) async fn log_in_with(
        &mut self,
        version: startup::ProtocolVersion,
        user: &str,
        password: &str,
        parameters: &[(&str, &str)],
    ) -> String {
        let who = [("user", user), ("database", "postgres")];
        let named = |name: &str| parameters.iter().any(|(other, _)| *other == name);
        let who = who.iter().filter(|(name, _)| !named(name));
        let pairs = who.chain(parameters).map(|(n, v)| (n.as_bytes(), v.as_bytes()));
        startup::write_startup(&mut self.out, version, pairs);
        self.send();
        let mut transcript = String::new();
        let mut scram: Option<Scram> = None;
        loop {
            let Some((kind, body)) = self.message().await else { return transcript + "." };
            if kind != b'R' {
                transcript.push_str(&self.note(kind, &body));
                if kind == b'Z' {
                    return transcript;
                }
                continue;
            }
            let demand = Authentication::read(&body).expect("a demand");
            transcript.push_str(&format!("R{} ", body[3]));
            match demand {
                Authentication::CleartextPassword => write::password(&mut self.out, password),
                Authentication::Md5Password { salt } => {
                    let stored = md5::Stored::of(password.as_bytes(), user.as_bytes());
                    write::password(&mut self.out, stored.response(salt));
                }
                Authentication::Sasl(offer) => {
                    let hash = self.stream.tls().and_then(|tls| tls.end_point_hash());
                    let binding = ClientBinding::choose(offer.names(), hash).expect("a mechanism");
                    let password = password.as_bytes().to_vec();
                    let credentials = Credentials::Password { password, cached: None };
                    let mut client = Scram::new(credentials, binding, [7; 18]);
                    let first = client.first().expect("it begins");
                    let mechanism = client.mechanism();
                    write::sasl_initial(&mut self.out, mechanism, Some(first.as_bytes()));
                    transcript.push_str(&format!("{mechanism} "));
                    scram = Some(client);
                }
                Authentication::SaslContinue(data) => {
                    let client = scram.as_mut().expect("an exchange");
                    let last = client.on_server_first(data).expect("a good challenge");
                    write::sasl_response(&mut self.out, last.as_bytes());
                }
                Authentication::SaslFinal(data) => {
                    let client = scram.as_mut().expect("an exchange");
                    client.on_server_final(data).expect("the pooler knows the secret");
                }
                _ => {}
            }
            self.send();
        }
    }

    /// Runs a simple query; gives the transcript.
    pub(crate) async fn query(&mut self, sql: &str) -> String {
        write::query(&mut self.out, sql);
        self.flush().await
    }

    pub(crate) fn add_query(&mut self, sql: &str) -> &mut Self {
        write::query(&mut self.out, sql);
        self
    }

    pub(crate) fn parse(&mut self, name: &str, sql: &str) -> &mut Self {
        self.parse_typed(name, sql, &[])
    }

    pub(crate) fn parse_typed(&mut self, name: &str, sql: &str, types: &[Oid]) -> &mut Self {
        write::parse(&mut self.out, name, sql, types);
        self
    }

    pub(crate) fn bind(&mut self, name: &str, values: &[&str]) -> &mut Self {
        let values: Vec<Option<&[u8]>> = values.iter().map(|v| Some(v.as_bytes())).collect();
        write::bind(&mut self.out, "", name, &[], &values, &[]);
        self
    }

    pub(crate) fn describe(&mut self, name: &str) -> &mut Self {
        write::describe(&mut self.out, Target::Statement(name.as_bytes()));
        self
    }

    pub(crate) fn execute(&mut self) -> &mut Self {
        write::execute(&mut self.out, "", 0);
        self
    }

    pub(crate) fn close(&mut self, name: &str) -> &mut Self {
        write::close(&mut self.out, Target::Statement(name.as_bytes()));
        self
    }

    pub(crate) fn sync(&mut self) -> &mut Self {
        write::sync(&mut self.out);
        self
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    pub(crate) fn send(&mut self) {
        self.stream.queue(&self.out);
        self.out.clear();
    }

    /// Sends what has been added in pieces of growing size, each in a packet of its own.
    pub(crate) async fn send_in_pieces(&mut self) {
        let bytes = std::mem::take(&mut self.out);
        let (mut at, mut size) = (0, 1);
        while at < bytes.len() {
            let end = bytes.len().min(at + size);
            self.stream.send(&bytes[at..end]).await.expect("the pooler reads");
            runtime::executor::yield_now().await;
            (at, size) = (end, size + size / 8 + 1);
        }
    }

    /// Sends what has been added; gives the transcript up to ReadyForQuery.
    pub(crate) async fn flush(&mut self) -> String {
        self.send();
        self.answer().await
    }

    /// The transcript up to ReadyForQuery, or the end (a dot).
    pub(crate) async fn answer(&mut self) -> String {
        self.answer_up_to(b'Z').await
    }

    /// The transcript up to the first message of this kind, or the end (a dot).
    pub(crate) async fn answer_up_to(&mut self, last: u8) -> String {
        let mut transcript = String::new();
        loop {
            let Some((kind, body)) = self.message().await else { return transcript + "." };
            transcript.push_str(&self.note(kind, &body));
            if kind == last {
                return transcript;
            }
        }
    }

    /// Kinds by their letter; rows, tags and SQLSTATEs in parentheses; ReadyForQuery outside of an
    /// idle session with its status before it.
    fn note(&mut self, kind: u8, body: &[u8]) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match kind {
            b'D' => {
                let values = data_row(body).expect("a row");
                let texts: Vec<String> =
                    values.map(|value| value.map_or("NULL".to_owned(), text)).collect();
                format!("({})", texts.join("|"))
            }
            b'C' => String::new(),
            b'E' => {
                let fields = ErrorFields::read(body).expect("an error");
                format!("E({})", fields.sqlstate.expect("a state"))
            }
            b'Z' if body == b"I" => "Z".to_owned(),
            b'Z' => format!("{}Z", text(body)),
            b'S' => {
                let mut parts = body.split(|b| *b == 0).map(text);
                let (name, value) = (parts.next().expect("name"), parts.next().expect("value"));
                self.parameters.insert(name, value);
                String::new()
            }
            b'K' => {
                let id = u32::from_be_bytes(*body.first_chunk().expect("an id"));
                self.cancel = (id, body[4..].to_vec());
                String::new()
            }
            b'N' => String::new(),
            other => char::from(other).to_string(),
        }
    }

    async fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((&[kind, a, b, c, d], rest)) = self.input.split_first_chunk() {
                let body = u32::from_be_bytes([a, b, c, d]) as usize - 4;
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
}
