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

use super::transaction_logs::TransactionLogs;
use crate::error::PageError;
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
        for key in snapshot.directory.named() {
            let value = timeline.value(key, lsn);
            match key {
                Key::Relmap { tablespace, database } => {
                    maps.insert((tablespace, database), value.await?);
                }
                Key::TwoPhase(xid) => drop(prepared.insert(xid, value.await?)),
                Key::Tablespace(oid) => {
                    let path = String::from_utf8_lossy(&value.await?).into_owned();
                    tablespaces.insert(oid, path);
                }
                Key::Origins => origins = Some(value.await?),
                // A database's folder comes with its map.
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

/// The folder of a database in a tablespace, relative to the data directory.
pub fn database_folder(database: (Oid, Oid), version_directory: &str) -> String {
    let node = RelNode::new(database.0.0, database.1.0, 0);
    layout::database_directory(node, version_directory)
}
