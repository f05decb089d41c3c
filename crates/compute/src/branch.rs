//! What a branch looks like as a data directory: the files that are no relations, and the relations.

use std::path::{Path, PathBuf};

use pageserver::client::Client;
use pg::datadir::layout::{RelationFile, SEGMENT_BLOCKS};
use pg::datadir::relation::{Fork, RelTag};
use pg::lsn::Lsn;
use runtime::fs::blocking;

use crate::error::Error;
use crate::file::File;
use crate::pages::Source;
use crate::tree::{Kind, Tree, new_directory};

/// Where things are on this machine.
#[derive(Clone, Debug)]
pub struct Places {
    /// Files of the data directory that are no relations, as of the LSN: what Postgres starts from.
    pub skeleton: PathBuf,
    /// Empty; holds what is written to relations.
    pub overlay: PathBuf,
    /// Where `pg_wal` really is: a directory that is not on the mount.
    pub wal: PathBuf,
}

/// The names of a branch as of `lsn`. Every file belongs to the user `uid`, `gid`.
///
/// # Errors
/// When the skeleton cannot be read, or the page server does not answer.
pub async fn tree(
    source: &Source,
    lsn: Lsn,
    places: &Places,
    version_directory: &str,
    (uid, gid): (u32, u32),
) -> Result<Tree, Error> {
    let mut tree = Tree::new(uid, gid);
    let target = places.wal.as_os_str().as_encoded_bytes().to_owned();
    tree.add("pg_wal", Kind::Link(target))?;
    add_skeleton(&mut tree, &places.skeleton, "")?;
    let Source { server, user, password } = source;
    let mut client = Client::connect(server, user, password).await?;
    let relations = client.relations(lsn).await?;
    add_relations(&mut tree, &relations, places, version_directory)?;
    Ok(tree)
}

/// Files and directories below `folder`, but for relations: they come from the branch.
fn add_skeleton(tree: &mut Tree, folder: &Path, prefix: &str) -> Result<(), Error> {
    let listed = blocking::read_dir(folder);
    for entry in listed.map_err(|source| Error::file("list", folder, source))? {
        let name = entry.name.to_string_lossy().into_owned();
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
        let local = folder.join(&name);
        if path == "pg_wal" {
            continue;
        }
        if entry.is_dir {
            tree.add(&path, new_directory())?;
            add_skeleton(tree, &local, &path)?;
        } else if RelationFile::parse(&path).is_none() {
            tree.add(&path, Kind::File(File::local(local, entry.len)))?;
        }
    }
    Ok(())
}

fn add_relations(
    tree: &mut Tree,
    relations: &[(RelTag, u32)],
    places: &Places,
    version_directory: &str,
) -> Result<(), Error> {
    let mut add = |tag: RelTag, pages_of: RelTag, blocks: u32| -> Result<(), Error> {
        let segments = blocks.div_ceil(SEGMENT_BLOCKS).max(1);
        for segment in 0..segments {
            let first = segment * SEGMENT_BLOCKS;
            let in_file = (blocks - first).min(SEGMENT_BLOCKS);
            let path = RelationFile { tag, segment }.path(version_directory).to_string();
            let local = places.overlay.join(path.replace('/', "-"));
            let file = File::relation(local, pages_of, first, in_file, blocks);
            tree.add(&path, Kind::File(file))?;
        }
        Ok(())
    };
    for &(tag, blocks) in relations {
        add(tag, tag, blocks)?;
        if tag.fork == Fork::Init {
            // An unlogged relation begins empty: its main fork is a copy of the init fork.
            add(tag.with_fork(Fork::Main), tag, blocks)?;
        }
    }
    Ok(())
}
