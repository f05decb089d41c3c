//! Which forks exist, and their sizes.

use crate::datadir::forks::ForkMap;
use crate::datadir::relation::{Fork, RelTag};
use crate::page::vm;
use crate::redo::effects::Change;
use crate::wal::record::Record;

/// Sizes in blocks, as far as the WAL tells: a fork is as long as the last block that a record named and that was not
/// cut off since. (A server may make a file longer ahead of use; those blocks are zeroes.)
#[derive(Clone, Debug, Default)]
pub struct Sizes {
    forks: ForkMap<u32>,
}

impl Sizes {
    /// A fork of the base: it has at least so many blocks.
    pub fn load(&mut self, tag: RelTag, blocks: u32) {
        if let Some(size) = self.forks.entry(tag) {
            *size = blocks.max(*size);
        }
    }

    pub fn get(&self, tag: RelTag) -> Option<u32> {
        self.forks.get(tag).copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = (RelTag, u32)> {
        self.forks.iter().map(|(tag, blocks)| (tag, *blocks))
    }

    /// A record's blocks exist now.
    pub fn note_blocks(&mut self, record: &Record<'_>) {
        for block in &record.blocks {
            self.load(block.tag, block.number.saturating_add(1));
        }
    }

    /// Takes in a change.
    pub fn apply(&mut self, change: &Change<'_>) {
        match change {
            Change::RelationCreated(tag) => self.load(*tag, 0),
            Change::RelationDropped(node) => {
                for fork in Fork::ALL {
                    self.forks.remove(node.fork(fork));
                }
            }
            Change::RelationTruncated { node, blocks, heap, vm: map, .. } => {
                let kept = blocks.div_ceil(vm::HEAP_BLOCKS_PER_PAGE);
                for (fork, cut, kept) in [(Fork::Main, *heap, *blocks), (Fork::Vm, *map, kept)] {
                    if let Some(size) = self.forks.get_mut(node.fork(fork)).filter(|_| cut) {
                        *size = kept.min(*size);
                    }
                }
            }
            Change::DatabaseCreated { tablespace, database, source: Some(source) } => {
                let of_source = |tag: &RelTag| (tag.spcnode, tag.dbnode) == *source;
                let copies: Vec<_> = self
                    .iter()
                    .filter(|(tag, _blocks)| of_source(tag))
                    .map(|(tag, blocks)| {
                        (RelTag { spcnode: *tablespace, dbnode: *database, ..tag }, blocks)
                    })
                    .collect();
                copies.into_iter().for_each(|(tag, blocks)| self.forks.insert(tag, blocks));
            }
            Change::DatabaseDropped { database, tablespaces } => {
                let gone =
                    |tag: &RelTag| tag.dbnode == *database && tablespaces.contains(&tag.spcnode);
                let tags: Vec<RelTag> =
                    self.iter().map(|(tag, _blocks)| tag).filter(gone).collect();
                for tag in tags {
                    self.forks.remove(tag);
                }
            }
            _ => {}
        }
    }
}
