//! A replication connection to the Postgres that we follow: log in, run commands, begin a COPY.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use pg::lsn::Lsn;
use pg::sqlstate::SqlState;
use pg::wire::backend::{self, kind};
use pg::wire::error::ErrorFields;
use pg::wire::frontend;
use pg::wire::replication::command::{Command, CreateSlot, Options};
use pg::wire::startup::{self, ProtocolVersion};
use runtime::net::{Address, Stream};
use runtime::tls::SslMode;

use crate::error::Error;
use crate::limits::{
    ANSWER_ROWS_MAX, ANSWER_VALUE_BYTES_MAX, SERVER_ADDRESSES_MAX, STREAM_MESSAGE_BYTES_MAX,
};
use crate::login::{OWN_USER, authenticate, own_password};
use crate::messages::{Message, Messages};
use crate::settings::{Password, Settings};
use crate::tls::Encryption;

/// A row of an answer: texts, `None` for NULL.
pub type Row = Vec<Option<String>>;

/// What IDENTIFY_SYSTEM tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct System {
    pub identifier: u64,
    pub timeline: u32,
    /// Up to where its WAL is flushed.
    pub flushed: Lsn,
}

/// A logged-in replication connection.
pub struct Connection {
    messages: Messages,
    server: String,
}

/// Whom to connect to, and as whom.
#[derive(Clone, Debug)]
pub struct Login {
    pub server: String,
    pub user: String,
    pub password: Password,
    pub application_name: String,
    /// To a page service: the branch, and `@` and an LSN if it is not about the latest. To Postgres only where SQL is to be
    /// run, else empty.
    pub database: String,
    pub encryption: Encryption,
}

impl Login {
    /// The login that the page server follows Postgres with.
    pub fn of(settings: &Settings) -> Result<Login, Error> {
        Ok(Login {
            server: settings.server.clone(),
            user: settings.user.clone(),
            password: settings.password.clone(),
            application_name: settings.application_name.clone(),
            database: String::new(),
            encryption: Encryption::of(settings)?,
        })
    }

    /// That of this process to its own page service, whatever users that has.
    pub fn within_process(server: &str) -> Login {
        Login {
            server: server.to_owned(),
            user: OWN_USER.to_owned(),
            password: own_password().clone(),
            application_name: "howdah".to_owned(),
            database: String::new(),
            encryption: Encryption::default(),
        }
    }
}

/// What can be done about TLS that fails.
const UNTRUSTED: &str = "the authority that sslrootcert names must have signed the server's certificate, for sslmode verify-full to the host's name as it is connected to";
/// The same about a server without it.
const UNENCRYPTED: &str =
    "set ssl = on in the server, which takes a certificate, or choose an sslmode that does without";

impl Connection {
    /// Connects and logs in, for physical replication.
    pub async fn connect(login: &Login) -> Result<Connection, Error> {
        Self::connect_for(login, "true").await
    }

    /// The same to the database of `login`, where SQL can be run as well ([`Connection::run_text`]).
    pub async fn connect_to_database(login: &Login) -> Result<Connection, Error> {
        Self::connect_for(login, "database").await
    }

    async fn connect_for(login: &Login, replication: &str) -> Result<Connection, Error> {
        let (address, stream) = reach(&login.server).await?;
        let messages = Messages::new(stream, STREAM_MESSAGE_BYTES_MAX);
        let mut connection = Connection { messages, server: login.server.clone() };
        if login.encryption.is_asked_of(&address) {
            connection.encrypt(&login.encryption, host_of(&login.server)).await?;
        }
        let mut packet = Vec::new();
        let parameters: [(&str, &str); 5] = [
            ("user", &login.user),
            ("replication", replication),
            ("application_name", &login.application_name),
            ("client_encoding", "UTF8"),
            ("database", &login.database),
        ];
        let parameters = parameters
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        startup::write_startup(&mut packet, ProtocolVersion::V3_0, parameters);
        connection.send(&packet).await?;
        authenticate(&mut connection, login).await?;
        Ok(connection)
    }

    /// Asks for TLS, and goes on encrypted, or not if the mode allows that.
    async fn encrypt(&mut self, encryption: &Encryption, host: &str) -> Result<(), Error> {
        let refused = |message: String, hint| Error::Encryption {
            server: self.server.clone(),
            message,
            hint,
        };
        let mut packet = Vec::new();
        startup::write_ssl_request(&mut packet);
        self.send(&packet).await?;
        let answered = self.messages.receive_raw().await.map(<[u8]>::to_vec);
        let answer = answered.map_err(|source| self.failed(source))?;
        self.messages.take_raw(1);
        match (answer.as_slice(), &encryption.tls) {
            (b"S", Some(tls)) => {
                let shaken = self.messages.connect_tls(tls, host).await;
                shaken.map_err(|error| refused(error.to_string(), UNTRUSTED))
            }
            (b"N", _) if encryption.mode < SslMode::Require => Ok(()),
            (b"N", _) => Err(refused("the server does not support TLS".to_owned(), UNENCRYPTED)),
            // More bytes than one would be taken for encrypted ones (CVE-2021-23222).
            _ => Err(Error::protocol("an answer to the request for TLS that is none")),
        }
    }

    /// Runs a command to its end; answers the rows of all its results.
    pub async fn run(&mut self, command: &Command) -> Result<Vec<Row>, Error> {
        self.run_text(&command.to_string()).await
    }

    /// The same for a command outside the replication grammar.
    pub async fn run_text(&mut self, command: &str) -> Result<Vec<Row>, Error> {
        self.begin_text(command).await?;
        let mut rows = Vec::new();
        loop {
            let message = self.receive().await?;
            match message.kind {
                kind::DATA_ROW => add_row(&mut rows, self.body(&message))?,
                kind::READY_FOR_QUERY => return Ok(rows),
                kind::ROW_DESCRIPTION | kind::COMMAND_COMPLETE | kind::EMPTY_QUERY => {}
                other => return Err(unexpected(other, "a command")),
            }
        }
    }

    /// Sends a command without waiting for its answer.
    pub async fn begin(&mut self, command: &Command) -> Result<(), Error> {
        self.begin_text(&command.to_string()).await
    }

    /// The same for a command outside the replication grammar.
    pub async fn begin_text(&mut self, command: &str) -> Result<(), Error> {
        let mut packet = Vec::new();
        frontend::write::query(&mut packet, command);
        self.send(&packet).await
    }

    /// The next message that is not a notice; an ErrorResponse becomes an error.
    pub async fn receive(&mut self) -> Result<Message, Error> {
        loop {
            let message = self.messages.receive().await.map_err(|source| self.failed(source))?;
            if self.is_to_be_seen(&message)? {
                return Ok(message);
            }
        }
    }

    /// The same if it has arrived already.
    pub fn try_receive(&mut self) -> Result<Option<Message>, Error> {
        loop {
            let received = self.messages.try_receive().map_err(|source| self.failed(source))?;
            let Some(message) = received else { return Ok(None) };
            if self.is_to_be_seen(&message)? {
                return Ok(Some(message));
            }
        }
    }

    /// The body of the message received last.
    pub fn body(&self, message: &Message) -> &[u8] {
        self.messages.body(message)
    }

    pub async fn send(&self, bytes: &[u8]) -> Result<(), Error> {
        self.messages.send(bytes).await.map_err(|source| self.failed(source))
    }

    /// Value of a server setting.
    pub async fn show(&mut self, name: &str) -> Result<String, Error> {
        let rows = self.run(&Command::Show(name.to_owned())).await?;
        let value = rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten();
        value.ok_or_else(|| Error::protocol(format!("no value for {name}")))
    }

    pub async fn identify_system(&mut self) -> Result<System, Error> {
        let rows = self.run(&Command::IdentifySystem).await?;
        let wrong = || Error::protocol("IDENTIFY_SYSTEM did not answer with one row");
        let row = rows.first().ok_or_else(wrong)?;
        let column = |number: usize| row.get(number).cloned().flatten().ok_or_else(wrong);
        Ok(System {
            identifier: column(0)?.parse().map_err(|_invalid| wrong())?,
            timeline: column(1)?.parse().map_err(|_invalid| wrong())?,
            flushed: column(2)?.parse().map_err(|_invalid| wrong())?,
        })
    }

    /// Creates the physical slot, WAL reserved from now on; a slot that is there is taken.
    pub async fn create_slot(&mut self, name: &str) -> Result<(), Error> {
        // Asking first keeps an error out of the server's log each time that somebody connects.
        let rows = self.run(&Command::ReadSlot(name.to_owned())).await?;
        if rows.first().and_then(|row| row.first()).is_some_and(Option::is_some) {
            return Ok(());
        }
        let create = Command::CreateSlot(CreateSlot {
            name: name.to_owned(),
            temporary: false,
            plugin: None,
            options: Options::new().flag("RESERVE_WAL"),
        });
        match self.run(&create).await {
            Err(Error::Server { sqlstate: Some(SqlState::DUPLICATE_OBJECT), .. }) => {
                self.until_ready().await
            }
            other => other.map(|_rows| ()),
        }
    }

    /// Passes over what comes up to the end of the answer, after an error in it.
    pub async fn until_ready(&mut self) -> Result<(), Error> {
        while self.receive().await?.kind != kind::READY_FOR_QUERY {}
        Ok(())
    }

    /// Whether the message is for the caller; errors come out as errors.
    fn is_to_be_seen(&self, message: &Message) -> Result<bool, Error> {
        match message.kind {
            kind::NOTICE | kind::PARAMETER_STATUS | kind::NOTIFICATION => Ok(false),
            kind::ERROR => {
                let fields = ErrorFields::read(self.body(message)).map_err(malformed)?;
                let message = String::from_utf8_lossy(fields.message).into_owned();
                Err(Error::Server { sqlstate: fields.sqlstate, message })
            }
            _ => Ok(true),
        }
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Connection { server: self.server.clone(), source }
    }
}

/// Connects to the first address of a server that answers.
async fn reach(server: &str) -> Result<(Address, Stream), Error> {
    let failed = |source| Error::Connection { server: server.to_owned(), source };
    let mut last = io::Error::other("the name has no address");
    for address in addresses(server).await? {
        match Stream::connect(&address).await {
            Ok(stream) => return Ok((address, stream)),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

/// Where a server is: `host:port`, or the path of a unix socket. A name is looked up by the system's resolver each time, so
/// that it may come to mean another machine.
async fn addresses(server: &str) -> Result<Vec<Address>, Error> {
    if let Ok(address) = server.parse() {
        return Ok(vec![address]);
    }
    let port = server.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let (host, Some(port)) = (host_of(server), port) else {
        return Err(Error::Refused {
            message: format!("\"{server}\" is not the address of a server"),
            hint: "write host:port, or the path of a unix socket",
        });
    };
    let name = host.to_owned();
    let look_up = move || {
        let found = (name.as_str(), port).to_socket_addrs()?;
        Ok(found.take(SERVER_ADDRESSES_MAX).collect::<Vec<SocketAddr>>())
    };
    let found = runtime::bridge::blocking(look_up).await;
    let found = found.unwrap_or_else(|_dropped| Err(io::Error::other("shutting down")));
    let failed = |source| Error::Connection { server: server.to_owned(), source };
    Ok(found.map_err(failed)?.into_iter().map(Address::Tcp).collect())
}

/// The host of `host:port`, as a certificate names it.
fn host_of(server: &str) -> &str {
    let host = server.rsplit_once(':').map_or(server, |(host, _port)| host);
    host.trim_matches(['[', ']'])
}

/// The error for a message that must not come here.
pub fn unexpected(kind: u8, during: &str) -> Error {
    Error::protocol(format!("message type \"{}\" during {during}", char::from(kind)))
}

/// The error for a message that cannot be read.
pub fn malformed(error: pg::wire::Malformed) -> Error {
    Error::protocol(error.to_string())
}

/// Appends a DataRow's texts to `rows`, within bounds.
pub fn add_row(rows: &mut Vec<Row>, body: &[u8]) -> Result<(), Error> {
    if rows.len() >= ANSWER_ROWS_MAX {
        return Err(Error::protocol(format!("an answer of more than {ANSWER_ROWS_MAX} rows")));
    }
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let values = backend::data_row(body).map_err(malformed)?;
    let row: Row = values.map(|value| value.map(text)).collect();
    if row.iter().flatten().any(|value| value.len() > ANSWER_VALUE_BYTES_MAX) {
        return Err(Error::protocol("an answer with a value that is too long"));
    }
    rows.push(row);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_by_address_name_or_path() {
        let found = |server: &'static str| {
            runtime::executor::block_on(&runtime::io::Options::default(), addresses(server))
                .expect("a core")
        };
        for (server, first) in [
            ("127.0.0.1:5433", "127.0.0.1:5433"),
            ("[::1]:5433", "[::1]:5433"),
            ("/run/.s.PGSQL.5432", "unix:/run/.s.PGSQL.5432"),
        ] {
            let addresses = found(server).expect("it is one");
            assert_eq!(addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), [first]);
        }
        let local = found("localhost:7").expect("every machine has it");
        assert!(local.iter().all(|address| address.to_string().ends_with(":7")), "{local:?}");
        assert!(matches!(found("localhost"), Err(Error::Refused { .. })));
        assert!(matches!(found("no such name:5"), Err(Error::Connection { .. })));
        assert_eq!((host_of("db.example:5432"), host_of("[::1]:1")), ("db.example", "::1"));
    }
}
