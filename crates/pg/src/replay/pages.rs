//! All pages of all relations, by fork.

use std::collections::BTreeMap;

use crate::datadir::relation::{Fork, RelNode, RelTag};
use crate::page::{PAGE_BYTES, PageBytes, vm};
use crate::redo::effects::Change;

/// The pages. A fork is as long as the last block of it that was ever named, and not cut off since.
#[derive(Debug, Default)]
pub struct Pages {
    forks: BTreeMap<RelTag, ForkPages>,
}

#[derive(Clone, Debug, Default)]
struct ForkPages {
    /// Those that were ever written.
    pages: BTreeMap<u32, Box<PageBytes>>,
    blocks: u32,
}

impl Pages {
    pub fn get(&self, tag: RelTag, block: u32) -> Option<&PageBytes> {
        self.forks.get(&tag)?.pages.get(&block).map(|page| &**page)
    }

    pub fn get_mut(&mut self, tag: RelTag, block: u32) -> Option<&mut PageBytes> {
        self.forks.get_mut(&tag)?.pages.get_mut(&block).map(|page| &mut **page)
    }

    /// The page, all zeroes if it was not there.
    pub fn get_or_zero(&mut self, tag: RelTag, block: u32) -> &mut PageBytes {
        let fork = self.forks.entry(tag).or_default();
        fork.blocks = fork.blocks.max(block.saturating_add(1));
        fork.pages.entry(block).or_insert_with(|| Box::new([0; PAGE_BYTES]))
    }

    pub fn put(&mut self, tag: RelTag, block: u32, page: Box<PageBytes>) {
        let fork = self.forks.entry(tag).or_default();
        fork.blocks = fork.blocks.max(block.saturating_add(1));
        fork.pages.insert(block, page);
    }

    /// The fork exists, with no blocks if it had none.
    pub fn create(&mut self, tag: RelTag) {
        self.forks.entry(tag).or_default();
    }

    /// Size of a fork in blocks, if it exists.
    pub fn blocks(&self, tag: RelTag) -> Option<u32> {
        self.forks.get(&tag).map(|fork| fork.blocks)
    }

    /// All forks with their sizes in blocks.
    pub fn forks(&self) -> impl Iterator<Item = (RelTag, u32)> {
        self.forks.iter().map(|(tag, fork)| (*tag, fork.blocks))
    }

    /// What a record does to whole forks.
    pub fn apply(&mut self, change: &Change<'_>) {
        match change {
            Change::RelationCreated(tag) => self.create(*tag),
            Change::RelationDropped(node) => {
                for fork in Fork::ALL {
                    self.forks.remove(&node.fork(fork));
                }
            }
            Change::RelationTruncated { node, blocks, heap, vm, .. } => {
                if *heap {
                    self.truncate(node.fork(Fork::Main), *blocks);
                }
                if *vm {
                    self.truncate_map(*node, *blocks);
                }
            }
            Change::DatabaseCreated { tablespace, database, source: Some(source) } => {
                let copied = |tag: &RelTag| (tag.spcnode, tag.dbnode) == *source;
                let copies: Vec<_> = self
                    .forks
                    .iter()
                    .filter(|(tag, _)| copied(tag))
                    .map(|(tag, pages)| {
                        let tag = RelTag { spcnode: *tablespace, dbnode: *database, ..*tag };
                        (tag, pages.clone())
                    })
                    .collect();
                self.forks.extend(copies);
            }
            Change::DatabaseDropped { database, tablespaces } => {
                let gone =
                    |tag: &RelTag| tag.dbnode == *database && tablespaces.contains(&tag.spcnode);
                self.forks.retain(|tag, _| !gone(tag));
            }
            _ => {}
        }
    }

    fn truncate(&mut self, tag: RelTag, blocks: u32) {
        if let Some(fork) = self.forks.get_mut(&tag) {
            fork.blocks = fork.blocks.min(blocks);
            drop(fork.pages.split_off(&blocks));
        }
    }

    /// The map keeps what `blocks` heap blocks need; bits beyond them in its last page are cleared.
    fn truncate_map(&mut self, node: RelNode, blocks: u32) {
        let map = node.fork(Fork::Vm);
        let last = vm::map_block(blocks);
        let whole = blocks.is_multiple_of(vm::HEAP_BLOCKS_PER_PAGE);
        self.truncate(map, if whole { last } else { last.saturating_add(1) });
        if let Some(page) = self.get_mut(map, last) {
            vm::clear_from(page, blocks);
        }
    }
}
