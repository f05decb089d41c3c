//! What a branch looks like as a data directory: the files that are no relations, and the relations.

use std::collections::BTreeSet;
use std::path::Path;

use pg::datadir::layout::{RelationFile, SEGMENT_BLOCKS};
use pg::datadir::relation::{Fork, RelTag};

use crate::error::Error;
use crate::file::File;
use crate::places::Places;
use crate::skeleton::Skeleton;
use crate::tree::{Kind, Tree, new_directory};

/// The names of a branch. Every file belongs to the user `uid`, `gid`.
///
/// # Errors
/// When there are more files than we hold.
pub fn tree(skeleton: &Skeleton, places: &Places, (uid, gid): (u32, u32)) -> Result<Tree, Error> {
    let mut tree = Tree::new(uid, gid);
    let target = places.wal.as_os_str().as_encoded_bytes().to_owned();
    tree.add("pg_wal", Kind::Link(target))?;
    for entry in &skeleton.entries {
        let kind = match &entry.file {
            None => new_directory(),
            Some((local, bytes)) => Kind::File(File::local(local.clone(), *bytes)),
        };
        tree.add(&entry.path, kind)?;
    }
    let image = &skeleton.image;
    add_relations(&mut tree, &image.relations, &places.overlay, &image.facts.version_directory)?;
    Ok(tree)
}

fn add_relations(
    tree: &mut Tree,
    relations: &[(RelTag, u32)],
    overlay: &Path,
    version_directory: &str,
) -> Result<(), Error> {
    let unlogged: BTreeSet<_> = relations
        .iter()
        .filter(|(tag, _)| tag.fork == Fork::Init)
        .map(|(tag, _)| tag.node())
        .collect();
    let mut add = |tag: RelTag, pages_of: RelTag, blocks: u32| -> Result<(), Error> {
        let segments = blocks.div_ceil(SEGMENT_BLOCKS).max(1);
        for segment in 0..segments {
            let first = segment * SEGMENT_BLOCKS;
            let in_file = (blocks - first).min(SEGMENT_BLOCKS);
            let path = RelationFile { tag, segment }.path(version_directory).to_string();
            let local = overlay.join(path.replace('/', "-"));
            let file = File::relation(local, pages_of, first, in_file, blocks);
            tree.add(&path, Kind::File(file))?;
        }
        Ok(())
    };
    for &(tag, blocks) in relations {
        match tag.fork {
            // An unlogged relation begins empty: its main fork is a copy of the init fork, and there are no others.
            Fork::Init => {
                add(tag, tag, blocks)?;
                add(tag.with_fork(Fork::Main), tag, blocks)?;
            }
            _ if unlogged.contains(&tag.node()) => {}
            _ => add(tag, tag, blocks)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::{Errno, ROOT};
    use pg::datadir::relation::RelNode;

    fn size(tree: &mut Tree, path: &str) -> Result<u64, Errno> {
        let mut node = ROOT;
        let mut size = 0;
        for name in path.split('/') {
            let found = tree.look_up(node, name.as_bytes())?;
            (node, size) = (found.node, found.size);
        }
        Ok(size)
    }

    #[test]
    fn relations_have_as_many_files_as_their_blocks_need() {
        let fork = |number, fork| RelNode::new(1663, 5, number).fork(fork);
        let relations = [
            (fork(16384, Fork::Main), SEGMENT_BLOCKS + 3),
            (fork(16384, Fork::Vm), 1),
            (fork(16390, Fork::Main), 0),
            (fork(16400, Fork::Main), 9),
            (fork(16400, Fork::Init), 1),
            (RelNode::new(16500, 5, 16510).fork(Fork::Main), 2),
        ];
        let mut tree = Tree::new(26, 26);
        add_relations(&mut tree, &relations, Path::new("/o"), "PG_15_202209061").expect("few");
        let sizes = [
            ("base/5/16384", u64::from(SEGMENT_BLOCKS)),
            ("base/5/16384.1", 3),
            ("base/5/16384_vm", 1),
            ("base/5/16390", 0),
            ("base/5/16400", 1),
            ("base/5/16400_init", 1),
            ("pg_tblspc/16500/PG_15_202209061/5/16510", 2),
        ];
        for (path, blocks) in sizes {
            assert_eq!(size(&mut tree, path), Ok(blocks * 8192), "{path}");
        }
        assert_eq!(size(&mut tree, "base/5/16384.2"), Err(Errno::NoEntry));
    }
}
