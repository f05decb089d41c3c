//! A client of the page service: what `howdah page` and `howdah verify` ask with, and later computes.

use std::fmt;

use pg::datadir::relation::{Fork, RelTag};
use pg::datadir::slru::Slru;
use pg::lsn::Lsn;
use pg::oid::Oid;
use pg::sqlstate::SqlState;
use pg::wire::backend::kind;
use pg::wire::frontend;
use pg::wire::pagestream::{Answer, Blocks, Question, Reply, Request, VERSION};
use pg::wire::replication::command::{Command, Options};

use crate::connection::{Connection, Login, Row, System, malformed, unexpected};
use crate::error::Error;
use crate::limits::PAGE_BYTES;
use crate::settings::Password;
use crate::tls::Encryption;

/// Why a question was not answered.
#[derive(Debug)]
pub enum ClientError {
    /// The connection does not work (any more).
    Connection(Error),
    /// The page server says why it cannot answer; the connection goes on.
    Refused { sqlstate: SqlState, message: String, detail: String },
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Connection(error) => fmt::Display::fmt(error, f),
            ClientError::Refused { message, detail, .. } if detail.is_empty() => {
                f.write_str(message)
            }
            ClientError::Refused { message, detail, .. } => write!(f, "{message} ({detail})"),
        }
    }
}

impl std::error::Error for ClientError {}

impl From<Error> for ClientError {
    fn from(error: Error) -> ClientError {
        ClientError::Connection(error)
    }
}

/// A connection to a page service, for commands.
pub struct Client {
    connection: Connection,
}

impl Client {
    /// Connects to `server` (`host:port`) as `user`; the password is used only if it is asked for.
    pub async fn connect(server: &str, user: &str, password: &str) -> Result<Client, ClientError> {
        let login = Login {
            server: server.to_owned(),
            user: user.to_owned(),
            password: Password(password.to_owned()),
            application_name: "howdah".to_owned(),
            database: String::new(),
            encryption: Encryption::default(),
        };
        Client::log_in(&login).await
    }

    /// The same with everything that can be said about a log-in.
    pub async fn log_in(login: &Login) -> Result<Client, ClientError> {
        Ok(Client { connection: Connection::connect(login).await? })
    }

    /// Which cluster the pages are of, and up to where they are known.
    pub async fn system(&mut self) -> Result<System, ClientError> {
        Ok(self.connection.identify_system().await?)
    }

    /// Every relation fork as of `lsn`, with its size in blocks; free space maps are not among them.
    pub async fn relations(&mut self, lsn: Lsn) -> Result<Vec<(RelTag, u32)>, ClientError> {
        let rows = self.connection.run_text(&format!("RELATIONS {lsn}")).await?;
        let wrong = || Error::protocol("RELATIONS answered with something else");
        let parsed = rows.iter().map(|row| relation(row).ok_or_else(wrong));
        Ok(parsed.collect::<Result<_, Error>>()?)
    }

    /// A page of `pg_xact` as of `lsn`: four transactions to a byte; `None` if there is none.
    pub async fn transactions(
        &mut self,
        page: u32,
        lsn: Lsn,
    ) -> Result<Option<Vec<u8>>, ClientError> {
        let rows = self.connection.run_text(&format!("TRANSACTIONS {page} {lsn}")).await?;
        let wrong = || Error::protocol("TRANSACTIONS answered with something else").into();
        match rows.first().map(Vec::as_slice) {
            Some([None]) => Ok(None),
            Some([Some(hex)]) => {
                let bytes = from_bytea(hex).filter(|bytes| bytes.len() == PAGE_BYTES);
                bytes.map(Some).ok_or_else(wrong)
            }
            _ => Err(wrong()),
        }
    }

    /// Turns the connection into a page stream.
    pub async fn into_stream(mut self) -> Result<PageStream, ClientError> {
        let options = Options::new().with("VERSION", VERSION);
        self.connection.begin(&Command::PageStream(options)).await?;
        let message = self.connection.receive().await?;
        if message.kind != kind::COPY_BOTH {
            return Err(unexpected(message.kind, "PAGESTREAM").into());
        }
        Ok(PageStream { connection: self.connection, next_id: 1 })
    }
}

pub(crate) fn relation(row: &Row) -> Option<(RelTag, u32)> {
    let number = |column: usize| row.get(column)?.as_ref()?.parse::<u32>().ok();
    let fork = Fork::from_number(u8::try_from(number(3)?).ok()?)?;
    let (spcnode, dbnode, relnode) = (Oid(number(0)?), Oid(number(1)?), Oid(number(2)?));
    Some((RelTag { spcnode, dbnode, relnode, fork }, number(4)?))
}

/// The bytes of `\x0123…`.
fn from_bytea(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?.as_bytes();
    let value =
        |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let (pairs, rest) = digits.as_chunks::<2>();
    let byte = |&[high, low]: &[u8; 2]| Some(value(high)? << 4 | value(low)?);
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

/// A stream of questions and answers, one at a time.
pub struct PageStream {
    connection: Connection,
    next_id: u64,
}

impl PageStream {
    pub async fn exists(&mut self, tag: RelTag, lsn: Lsn) -> Result<bool, ClientError> {
        self.ask(Question::Exists(tag), lsn, |answer| match answer {
            Answer::Exists(exists) => Some(exists),
            _ => None,
        })
        .await
    }

    /// The pages of a segment of a transaction log up to its last one; none if there is no such segment.
    pub async fn log_segment(
        &mut self,
        log: Slru,
        segment: u32,
        lsn: Lsn,
    ) -> Result<Vec<u8>, ClientError> {
        self.ask(Question::LogSegment { log, segment }, lsn, |answer| match answer {
            Answer::LogSegment(pages) => Some(pages.to_vec()),
            _ => None,
        })
        .await
    }

    /// Size of a fork in blocks.
    pub async fn blocks(&mut self, tag: RelTag, lsn: Lsn) -> Result<u32, ClientError> {
        self.ask(Question::Blocks(tag), lsn, |answer| match answer {
            Answer::Blocks(blocks) => Some(blocks),
            _ => None,
        })
        .await
    }

    /// Bytes of a database's relations in one tablespace, without free space maps.
    pub async fn database_bytes(
        &mut self,
        tablespace: Oid,
        database: Oid,
        lsn: Lsn,
    ) -> Result<u64, ClientError> {
        self.ask(Question::DatabaseBytes { tablespace, database }, lsn, |answer| match answer {
            Answer::DatabaseBytes(bytes) => Some(bytes),
            _ => None,
        })
        .await
    }

    /// Blocks of one fork as of `lsn` ([`Lsn::MAX`] for the latest), one after another; at most
    /// [`crate::limits::BATCH_BLOCKS_MAX`] of them. All or none: one that cannot be given fails all.
    pub async fn pages(
        &mut self,
        tag: RelTag,
        blocks: &[u32],
        lsn: Lsn,
    ) -> Result<Vec<u8>, ClientError> {
        self.ask_pages(tag, blocks, lsn, <[u8]>::to_vec).await
    }

    /// The same, each by itself.
    pub async fn pages_apart(
        &mut self,
        tag: RelTag,
        blocks: &[u32],
        lsn: Lsn,
    ) -> Result<Vec<Box<[u8]>>, ClientError> {
        let apart = |pages: &[u8]| pages.chunks_exact(PAGE_BYTES).map(Box::from).collect();
        self.ask_pages(tag, blocks, lsn, apart).await
    }

    async fn ask_pages<T>(
        &mut self,
        tag: RelTag,
        blocks: &[u32],
        lsn: Lsn,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, ClientError> {
        let expected = blocks.len() * PAGE_BYTES;
        let question = Question::Pages(tag, Blocks::List(blocks));
        self.ask(question, lsn, |answer| match answer {
            Answer::Pages(pages) if pages.len() == expected => Some(take(pages)),
            _ => None,
        })
        .await
    }

    async fn ask<T>(
        &mut self,
        question: Question<'_>,
        lsn: Lsn,
        take: impl FnOnce(Answer<'_>) -> Option<T>,
    ) -> Result<T, ClientError> {
        let id = self.next_id;
        self.next_id += 1;
        let (mut data, mut packet) = (Vec::new(), Vec::new());
        Request { id, lsn, not_modified_since: Lsn::INVALID, question }.write(&mut data);
        frontend::write::copy_data(&mut packet, &data);
        self.connection.send(&packet).await?;
        let message = self.connection.receive().await?;
        if message.kind != kind::COPY_DATA {
            return Err(unexpected(message.kind, "a page stream").into());
        }
        let reply = Reply::read(self.connection.body(&message)).map_err(malformed)?;
        if reply.id != id {
            return Err(Error::protocol("a reply to another request").into());
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if let Answer::Error { sqlstate, message, detail } = reply.answer {
            let (message, detail) = (text(message), text(detail));
            return Err(ClientError::Refused { sqlstate, message, detail });
        }
        let wrong = || Error::protocol("a reply of another kind than the request").into();
        take(reply.answer).ok_or_else(wrong)
    }
}
