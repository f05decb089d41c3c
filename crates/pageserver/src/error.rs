//! What goes wrong in the page server: following Postgres ([`Error`]), and reading pages ([`PageError`]).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use pg::datadir::relation::RelTag;
use pg::lsn::Lsn;
use pg::sqlstate::SqlState;
use pg::wire::error::Report;

/// Why the page server does not follow its Postgres.
#[derive(Debug)]
pub enum Error {
    /// A file of ours.
    File { what: &'static str, path: PathBuf, source: io::Error },
    /// The connection to Postgres.
    Connection { server: String, source: io::Error },
    /// There is no encrypted connection to Postgres although there has to be one.
    Encryption { server: String, message: String, hint: &'static str },
    /// Postgres refused.
    Server { sqlstate: Option<SqlState>, message: String },
    /// Postgres answered what the protocol does not allow here.
    Protocol(String),
    /// The server has not all of the WAL that is here already.
    Behind { server_end: Lsn, received: Lsn },
    /// Postgres has ended the stream because it shuts down; we have all of its WAL.
    StreamEnded,
    /// The server has gone on to another timeline; what it has of this one is here.
    TimelineEnded,
    /// The cluster is not the one that this directory holds, or is one that we cannot follow.
    /// Connecting again does not help.
    Refused { message: String, hint: &'static str },
    /// A file of ours is damaged.
    Damaged(String),
    /// The object store does not do what it is asked to; it is asked again.
    Store { message: String, hint: Option<&'static str> },
}

impl Error {
    /// A file or directory that could not be dealt with as `what` says ("read", "create directory").
    #[must_use]
    pub fn file(what: &'static str, path: &Path, source: io::Error) -> Error {
        Error::File { what, path: path.to_owned(), source }
    }

    pub(crate) fn protocol(message: impl Into<String>) -> Error {
        Error::Protocol(message.into())
    }

    /// Whether trying again later may succeed without an operator changing anything here.
    pub fn is_passing(&self) -> bool {
        match self {
            Error::File { .. } | Error::Connection { .. } | Error::Server { .. } => true,
            Error::Protocol(_) | Error::StreamEnded | Error::Store { .. } => true,
            Error::Encryption { .. } => true,
            Error::Behind { .. } | Error::TimelineEnded => true,
            Error::Refused { .. } | Error::Damaged(_) => false,
        }
    }

    /// Whether Postgres is only starting up or shutting down.
    pub(crate) fn is_a_pause(&self) -> bool {
        let starting = Some(SqlState::CANNOT_CONNECT_NOW);
        match self {
            Error::StreamEnded | Error::TimelineEnded => true,
            Error::Server { sqlstate, .. } => *sqlstate == starting,
            _ => false,
        }
    }

    /// What an operator can do about it, if there is something to say.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Error::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("free space on the disk of the page server; it goes on by itself")
            }
            // `could not read WAL … has already been removed`
            Error::Server { sqlstate: Some(SqlState::UNDEFINED_FILE), .. } => Some(
                "if the slot was dropped, start with an empty directory to take a new base backup",
            ),
            Error::Refused { hint, .. } | Error::Encryption { hint, .. } => Some(hint),
            Error::Store { hint, .. } => *hint,
            Error::Damaged(_) => Some("start with an empty directory to take a new base backup"),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::File { what, path, source } => {
                write!(f, "could not {what} \"{}\": {source}", path.display())
            }
            Error::Connection { server, source } => {
                write!(f, "connection to Postgres at {server} failed: {source}")
            }
            Error::Encryption { server, message, .. } => {
                write!(f, "connection to Postgres at {server} failed: {message}")
            }
            Error::Server { sqlstate: Some(state), message } => {
                write!(f, "Postgres refused: {message} ({state})")
            }
            Error::Server { sqlstate: None, message } => write!(f, "Postgres refused: {message}"),
            Error::Protocol(message) => write!(f, "unexpected answer of Postgres: {message}"),
            Error::StreamEnded => f.write_str("Postgres is shutting down"),
            Error::TimelineEnded => f.write_str("Postgres has gone on to another timeline"),
            Error::Behind { server_end, received } => {
                write!(
                    f,
                    "the server's WAL ends at {server_end}, before {received}, up to where it is here"
                )
            }
            Error::Refused { message, .. }
            | Error::Store { message, .. }
            | Error::Damaged(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::File { source, .. } | Error::Connection { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Why a page (or a size) as of an LSN cannot be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageError {
    /// The LSN has not arrived within the time we wait for it.
    NotYet {
        requested: Lsn,
        ingested: Lsn,
    },
    /// The server that writes the timeline does not tell how far it is, so nobody knows what "now" is.
    Unknown {
        server: String,
        why: String,
    },
    /// The LSN is before the base backup was consistent.
    TooOld {
        requested: Lsn,
        oldest: Lsn,
    },
    /// The LSN lies before what is kept.
    Forgotten {
        requested: Lsn,
        horizon: Lsn,
    },
    /// WAL that a replica would have to replay is not kept any more.
    WalGone {
        needed: Lsn,
        oldest: Lsn,
    },
    /// There is no base backup yet.
    NotReady,
    /// The branch was deleted.
    NoBranch {
        branch: String,
    },
    NoRelation {
        tag: RelTag,
        lsn: Lsn,
    },
    BeyondEnd {
        tag: RelTag,
        block: u32,
        blocks: u32,
        lsn: Lsn,
    },
    /// The free space map is not in the WAL, so nobody can know its past.
    NotLogged {
        tag: RelTag,
    },
    /// A record that we cannot redo yet.
    Unsupported {
        page: String,
        lsn: Lsn,
        record: String,
        why: String,
    },
    /// WAL or base backup do not give a valid page.
    Damaged {
        page: String,
        what: String,
    },
    /// Reading our own files failed.
    Io {
        page: String,
        what: String,
    },
}

impl PageError {
    pub fn sqlstate(&self) -> SqlState {
        match self {
            PageError::NotYet { .. } | PageError::Unknown { .. } | PageError::NotReady => {
                SqlState::CANNOT_CONNECT_NOW
            }
            PageError::TooOld { .. }
            | PageError::Forgotten { .. }
            | PageError::BeyondEnd { .. } => SqlState::INVALID_PARAMETER_VALUE,
            PageError::WalGone { .. } => SqlState::UNDEFINED_FILE,
            PageError::NoBranch { .. } => SqlState::INVALID_CATALOG_NAME,
            PageError::NoRelation { .. } => SqlState::UNDEFINED_TABLE,
            PageError::NotLogged { .. } | PageError::Unsupported { .. } => {
                SqlState::FEATURE_NOT_SUPPORTED
            }
            PageError::Damaged { .. } => SqlState::DATA_CORRUPTED,
            PageError::Io { .. } => SqlState::IO_ERROR,
        }
    }

    /// The error as a client of the page service gets it.
    pub fn report(&self) -> Report {
        let report = Report::error(self.sqlstate(), self.to_string());
        match self {
            PageError::Unsupported { why, .. } => report.with_detail(why.clone()),
            PageError::Unknown { .. } => report.with_hint("name an LSN"),
            PageError::NotReady => report.with_hint("the base backup is still being taken"),
            PageError::WalGone { oldest, .. } => report
                .with_detail(format!("the oldest WAL here begins at {oldest}"))
                .with_hint("wait for the branch's next checkpoint; pageserver.wal_keep_bytes says how much WAL is kept"),
            PageError::Forgotten { .. } => report.with_hint(
                "pageserver.retention_seconds and pageserver.retention_bytes say how much is kept",
            ),
            _ => report,
        }
    }
}

impl fmt::Display for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PageError::NotYet { requested, ingested } => {
                write!(f, "LSN {requested} has not arrived yet: WAL is known up to {ingested}")
            }
            PageError::Unknown { server, why } => {
                write!(f, "the server at {server} does not tell how far it is: {why}")
            }
            PageError::TooOld { requested, oldest } => {
                write!(f, "LSN {requested} is older than the base backup, which begins at {oldest}")
            }
            PageError::Forgotten { requested, horizon } => {
                write!(f, "LSN {requested} is not kept any more: what is kept begins at {horizon}")
            }
            PageError::WalGone { needed, .. } => {
                write!(
                    f,
                    "a replica would begin with the WAL from {needed} on, which has already been removed"
                )
            }
            PageError::NotReady => f.write_str("there is no base backup yet"),
            PageError::NoBranch { branch } => write!(f, "there is no branch \"{branch}\""),
            PageError::NoRelation { tag, lsn } => {
                write!(f, "relation {tag} does not exist as of {lsn}")
            }
            PageError::BeyondEnd { tag, block, blocks, lsn } => {
                write!(
                    f,
                    "relation {tag} has {blocks} blocks as of {lsn}; there is no block {block}"
                )
            }
            PageError::NotLogged { tag } => {
                write!(
                    f,
                    "relation {tag} is not kept: the free space map is not written to the WAL"
                )
            }
            PageError::Unsupported { page, lsn, record, .. } => {
                write!(f, "{page} needs WAL record {record} at {lsn}, which is not supported")
            }
            PageError::Damaged { page, what } => write!(f, "{page} cannot be rebuilt: {what}"),
            PageError::Io { page, what } => write!(f, "{page} cannot be read: {what}"),
        }
    }
}

impl std::error::Error for PageError {}
