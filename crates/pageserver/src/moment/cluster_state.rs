//! What a cluster is as of a moment besides its pages: counters, transaction logs, relation maps, prepared transactions,
//! databases and tablespaces.
//!
//! Rule: the counters decide whether a server that starts there sees the right rows; what cannot be read is an error,
//! never passed over.

use std::collections::BTreeMap;
use std::rc::Rc;

use pg::datadir::layout;
use pg::datadir::relation::RelNode;
use pg::lsn::Lsn;
use pg::oid::Oid;
use pg::redo::effects::{Checkpoint, Parameters};
use pg::state::Key;
use runtime::executor;

use super::transaction_logs::TransactionLogs;
use crate::error::PageError;
use crate::limits::VALUES_READ_AT_ONCE;
use crate::timeline::Timeline;

/// The state as of the end of a record.
pub struct ClusterState {
    /// End of the last record, and its start.
    pub end: Lsn,
    pub last_record: Lsn,
    pub counters: Checkpoint,
    pub parameters: Parameters,
    pub logs: TransactionLogs,
    /// Relation maps by tablespace and database: there is one for each database in its own tablespace.
    pub maps: BTreeMap<(Oid, Oid), Vec<u8>>,
    /// Prepared transactions' files.
    pub prepared: BTreeMap<u32, Vec<u8>>,
    /// Where each tablespace is on the server.
    pub tablespaces: BTreeMap<Oid, String>,
    /// Replication origins, as [`pg::state::origins_file`] takes them; `None` if there has never been one.
    pub origins: Option<Vec<u8>>,
}

impl ClusterState {
    /// The state as of the last record that ends at or before `lsn`.
    pub async fn as_of(timeline: &Rc<Timeline>, lsn: Lsn) -> Result<ClusterState, PageError> {
        let snapshot = timeline.snapshot_at(lsn).await?;
        let mut maps = BTreeMap::new();
        let mut prepared = BTreeMap::new();
        let mut tablespaces = BTreeMap::new();
        let mut origins = None;
        // A database's folder comes with its map.
        let is_read = |key: &Key| !matches!(key, Key::Database { .. } | Key::Slru(..));
        let keys: Vec<Key> = snapshot.directory.named().filter(is_read).collect();
        for (key, value) in values(timeline, &keys, lsn).await? {
            match key {
                Key::Relmap { tablespace, database } => {
                    maps.insert((tablespace, database), value);
                }
                Key::TwoPhase(xid) => drop(prepared.insert(xid, value)),
                Key::Tablespace(oid) => {
                    let path = String::from_utf8_lossy(&value).into_owned();
                    tablespaces.insert(oid, path);
                }
                Key::Origins => origins = Some(value),
                Key::Database { .. } | Key::Slru(..) => {}
            }
        }
        let logs =
            TransactionLogs { timeline: Rc::clone(timeline), lsn, directory: snapshot.directory };
        Ok(ClusterState {
            end: snapshot.end,
            last_record: snapshot.last_record,
            counters: snapshot.counters.checkpoint,
            parameters: snapshot.counters.parameters,
            logs,
            maps,
            prepared,
            tablespaces,
            origins,
        })
    }
}

/// Values as of `lsn`, several read at once: each may have to come from a disk, or from far away.
async fn values(
    timeline: &Rc<Timeline>,
    keys: &[Key],
    lsn: Lsn,
) -> Result<Vec<(Key, Vec<u8>)>, PageError> {
    let mut all = Vec::with_capacity(keys.len());
    for some in keys.chunks(VALUES_READ_AT_ONCE) {
        let read = |&key: &Key| {
            let timeline = Rc::clone(timeline);
            (key, executor::spawn(async move { timeline.value(key, lsn).await }))
        };
        let tasks: Vec<_> = some.iter().map(read).collect();
        for (key, task) in tasks {
            let ended = task.await.map_err(|error| {
                let (page, what) = (key.to_string(), error.to_string());
                PageError::Io { page, what }
            });
            all.push((key, ended??));
        }
    }
    Ok(all)
}

/// The folder of a database in a tablespace, relative to the data directory.
pub fn database_folder(database: (Oid, Oid), version_directory: &str) -> String {
    let node = RelNode::new(database.0.0, database.1.0, 0);
    layout::database_directory(node, version_directory)
}
