//! What belongs into which archive of a base backup: one for each tablespace, and last that of the data directory.

use std::collections::{BTreeMap, BTreeSet};

use pg::datadir::layout::version_directory;
use pg::datadir::relation::{Fork, RelTag};
use pg::oid::Oid;

use crate::limits::PAGE_BYTES;
use crate::moment::Moment;
use crate::moment::cluster_state::database_folder;

/// The name of a tablespace's folder as a path in the archives of the data directory.
const LINKS: &str = "pg_tblspc";

/// Everything, archive by archive.
pub(super) struct Contents {
    /// The folder that the server makes in each tablespace.
    pub(super) version_directory: String,
    pub(super) archives: Vec<Archive>,
}

/// One archive.
pub(super) struct Archive {
    /// `None`: the data directory.
    pub(super) tablespace: Option<Oid>,
    /// Where the tablespace is on the server; empty for the data directory.
    pub(super) location: String,
    pub(super) file_name: String,
    /// Folders of databases, relative to the data directory.
    pub(super) databases: BTreeSet<(Oid, Oid)>,
    /// Forks and their blocks; a fork to be filled from another one names that.
    pub(super) forks: Vec<Piece>,
    /// Relation bytes.
    pub(super) bytes: u64,
}

/// A fork to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) tag: RelTag,
    pub(super) blocks: u32,
    /// Whose pages they are: those of the init fork for an unlogged relation's main fork.
    pub(super) source: RelTag,
}

impl Contents {
    pub(super) fn of(moment: &Moment, catalog_version: u32) -> Contents {
        let forks = moment.timeline.forks(moment.lsn);
        let pieces = pieces(&forks);
        let mut by_tablespace: BTreeMap<Option<Oid>, Vec<Piece>> = BTreeMap::new();
        for piece in pieces {
            by_tablespace.entry(own_archive(piece.tag.spcnode)).or_default().push(piece);
        }
        let places = moment.state.tablespaces.iter();
        let mut archives: Vec<Archive> = places
            .map(|(oid, location)| Archive {
                tablespace: Some(*oid),
                location: location.clone(),
                file_name: format!("{oid}.tar"),
                databases: BTreeSet::new(),
                forks: Vec::new(),
                bytes: 0,
            })
            .collect();
        archives.push(Archive {
            tablespace: None,
            location: String::new(),
            file_name: "base.tar".to_owned(),
            databases: BTreeSet::new(),
            forks: Vec::new(),
            bytes: 0,
        });
        for archive in &mut archives {
            archive.forks = by_tablespace.remove(&archive.tablespace).unwrap_or_default();
            let databases = moment.state.maps.keys();
            archive.databases = databases
                .filter(|database| own_archive(database.0) == archive.tablespace)
                .copied()
                .collect();
            // A database's relations may be in tablespaces other than its own.
            let of_forks = archive.forks.iter().map(|piece| (piece.tag.spcnode, piece.tag.dbnode));
            archive.databases.extend(of_forks);
            archive.bytes =
                archive.forks.iter().map(|piece| u64::from(piece.blocks) * PAGE_BYTES as u64).sum();
        }
        let major = moment.timeline.manifest.server_version / 10_000;
        Contents { version_directory: version_directory(major, catalog_version), archives }
    }

    /// A path relative to the data directory as it is called in the archive: those of tablespaces begin inside.
    pub(super) fn name_in<'p>(&self, archive: &Archive, path: &'p str) -> &'p str {
        let Some(oid) = archive.tablespace else { return path };
        path.strip_prefix(&format!("{LINKS}/{oid}/")).unwrap_or(path)
    }

    /// The folder of a database, relative to the data directory.
    pub(super) fn database_folder(&self, database: (Oid, Oid)) -> String {
        database_folder(database, &self.version_directory)
    }
}

/// The archive of a tablespace: the two that are in the data directory have none of their own.
fn own_archive(tablespace: Oid) -> Option<Oid> {
    let inside = matches!(tablespace, Oid::GLOBAL_TABLESPACE | Oid::DEFAULT_TABLESPACE);
    (!inside).then_some(tablespace)
}

/// All forks of logged relations; of unlogged ones the init fork and, made of it, the main fork: what is left of
/// them after a crash, and the server resets them at no other occasion.
fn pieces(forks: &[(RelTag, u32)]) -> Vec<Piece> {
    let unlogged: BTreeSet<_> =
        forks.iter().filter(|(tag, _)| tag.fork == Fork::Init).map(|(tag, _)| tag.node()).collect();
    let mut pieces = Vec::new();
    for &(tag, blocks) in forks {
        match tag.fork {
            Fork::Init => {
                let main = tag.node().fork(Fork::Main);
                pieces.push(Piece { tag: main, blocks, source: tag });
                pieces.push(Piece { tag, blocks, source: tag });
            }
            _ if unlogged.contains(&tag.node()) => {}
            _ => pieces.push(Piece { tag, blocks, source: tag }),
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg::datadir::relation::RelNode;

    #[test]
    fn an_unlogged_relation_is_made_of_its_init_fork() {
        let node = RelNode::new(1663, 5, 16_384);
        let logged = RelNode::new(1663, 5, 16_390).fork(Fork::Main);
        let (main, init) = (node.fork(Fork::Main), node.fork(Fork::Init));
        let vm = node.fork(Fork::Vm);
        let found = pieces(&[(main, 7), (vm, 1), (init, 2), (logged, 3)]);
        let piece = |tag, blocks, source| Piece { tag, blocks, source };
        let expected = [piece(main, 2, init), piece(init, 2, init), piece(logged, 3, logged)];
        assert_eq!(found, expected);
    }
}
