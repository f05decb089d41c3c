//! What a cluster keeps beside relation pages, as values under keys: which of them a change touches, and what it makes
//! of each.
//!
//! A store keeps (key, LSN, record), and rebuilds a value when it is asked for, as it does pages: [`touches`] says where
//! the record goes, [`redo`] rebuilds one value from its earlier version and the record's changes, nothing else.
//!
//! | key | value |
//! |---|---|
//! | [`Key::Slru`] | the page's 8192 bytes |
//! | [`Key::Relmap`] | the bytes of `pg_filenode.map` |
//! | [`Key::TwoPhase`] | the bytes of the file in `pg_twophase`, checksum included |
//! | [`Key::Origins`] | slots of 16 bytes, free ones too: [`origins_file`] makes `pg_logical/replorigin_checkpoint` of it |
//! | [`Key::Database`] | nothing; it exists |
//! | [`Key::Tablespace`] | the path of its folder |
//!
//! [`Counters`] and [`Sizes`] change with nearly every record and are small: they are kept up to date as the WAL comes,
//! and stored as a whole from time to time.

mod compare;
mod counters;
mod origins;
mod sizes;
mod slru;
mod store;

use std::fmt;

use crate::datadir::slru::Slru;
use crate::oid::Oid;
use crate::redo::effects::Change;

pub use compare::{StateComparison, StateCounts};
pub use counters::Counters;
pub use origins::{origins_file, origins_of_file};
pub use sizes::Sizes;
pub use slru::Removal;
pub use store::{ApplyError, State, values_of_file};

/// Names a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A page of a transaction log.
    Slru(Slru, u32),
    /// The relation map of a database in its tablespace; (1664, 0) is the shared one.
    Relmap {
        tablespace: Oid,
        database: Oid,
    },
    /// A prepared transaction.
    TwoPhase(u32),
    /// How far each replication origin came.
    Origins,
    /// A database has a folder in a tablespace.
    Database {
        tablespace: Oid,
        database: Oid,
    },
    Tablespace(Oid),
}

/// What a change does to the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// The value is what [`redo`] makes of it.
    Redo(Key),
    /// There is no such value any more.
    Remove(Key),
    /// The value is that of `source` as of this record.
    Copy { key: Key, source: Key },
    /// Pages of a transaction log are gone.
    RemovePages(Slru, Removal),
}

/// A stored value that the change does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateError {
    pub key: Key,
    pub what: &'static str,
}

/// What the change touches. `before` are the counters before it: they tell whether commit timestamps are kept.
pub fn touches(change: &Change<'_>, before: &Counters) -> Vec<Touch> {
    match change {
        Change::RelmapUpdated { tablespace, database, .. } => {
            vec![Touch::Redo(Key::Relmap { tablespace: *tablespace, database: *database })]
        }
        Change::TransactionPrepared { xid, .. } => vec![Touch::Redo(Key::TwoPhase(*xid))],
        Change::TransactionEnded(end) => {
            let mut touches = slru::transaction_pages(end, before);
            if end.prepared {
                touches.push(Touch::Remove(Key::TwoPhase(end.xid)));
            }
            if end.origin.is_some_and(|origin| origin.number != 0) {
                touches.push(Touch::Redo(Key::Origins));
            }
            touches
        }
        Change::OriginSet { .. } | Change::OriginDropped(_) => vec![Touch::Redo(Key::Origins)],
        Change::DatabaseCreated { tablespace, database, source } => {
            let (tablespace, database) = (*tablespace, *database);
            let copied = source.map(|(from, template)| Touch::Copy {
                key: Key::Relmap { tablespace, database },
                source: Key::Relmap { tablespace: from, database: template },
            });
            let created = Touch::Redo(Key::Database { tablespace, database });
            [created].into_iter().chain(copied).collect()
        }
        Change::DatabaseDropped { database, tablespaces } => tablespaces
            .iter()
            .flat_map(|&tablespace| {
                let database = *database;
                [Key::Relmap { tablespace, database }, Key::Database { tablespace, database }]
            })
            .map(Touch::Remove)
            .collect(),
        Change::TablespaceCreated { tablespace, .. } => {
            vec![Touch::Redo(Key::Tablespace(*tablespace))]
        }
        Change::TablespaceDropped(tablespace) => vec![Touch::Remove(Key::Tablespace(*tablespace))],
        _ => slru::log_touches(change, before),
    }
}

/// Brings one value up to a change that touches it; an empty value is one that did not exist. A change that does not
/// touch it leaves it alone, so all changes of a record may be passed in turn.
///
/// # Errors
/// A value that is not one of this key's; it is unchanged then.
pub fn redo(key: Key, value: &mut Vec<u8>, change: &Change<'_>) -> Result<(), StateError> {
    let error = |what| StateError { key, what };
    match (key, change) {
        (Key::Slru(slru, page), _) => slru::redo(slru, page, value, change).map_err(error),
        (
            Key::Relmap { tablespace, database },
            Change::RelmapUpdated { tablespace: space, database: of, bytes },
        ) if (tablespace, database) == (*space, *of) => {
            (**bytes).clone_into(value);
            Ok(())
        }
        (Key::TwoPhase(xid), Change::TransactionPrepared { xid: prepared, state, .. })
            if xid == *prepared =>
        {
            // `EndPrepare`: the file is the record's data and their checksum.
            (**state).clone_into(value);
            value.extend_from_slice(&crc32c::crc32c(state).to_le_bytes());
            Ok(())
        }
        (Key::Origins, _) => origins::redo(value, change).map_err(error),
        (Key::Tablespace(oid), Change::TablespaceCreated { tablespace, path })
            if oid == *tablespace =>
        {
            (**path).clone_into(value);
            Ok(())
        }
        _ => Ok(()),
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Slru(slru, page) => write!(f, "{} page {page}", slru.directory()),
            Key::Relmap { tablespace, database } => {
                write!(f, "relation map of database {database} in tablespace {tablespace}")
            }
            Key::TwoPhase(xid) => write!(f, "prepared transaction {xid}"),
            Key::Origins => f.write_str("replication origins"),
            Key::Database { tablespace, database } => {
                write!(f, "database {database} in tablespace {tablespace}")
            }
            Key::Tablespace(oid) => write!(f, "tablespace {oid}"),
        }
    }
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid state of {}: {}", self.key, self.what)
    }
}

impl std::error::Error for StateError {}

#[cfg(test)]
mod tests;
