//! All pages of all relations, in memory.
//!
//! 1. Pages stand in slabs, one allocation for many; a page keeps its place until its fork goes.
//! 2. A fork's table leads from a block's number to its page without a search.
//! 3. A file of the base becomes a slab as it is: nothing of it is copied.

use std::hint::black_box;

use crate::datadir::forks::ForkMap;
use crate::datadir::relation::{Fork, RelNode, RelTag};
use crate::page::header::{lower, lsn, upper};
use crate::page::{PAGE_BYTES, PageBytes, vm};
use crate::redo::effects::Change;

/// Pages of a slab that holds no file of the base.
const SLAB_PAGES: u32 = 512;
/// Blocks of one part of a fork's table: a block that lies far out costs no table of all before it.
const PART_BLOCKS: usize = 4096;

/// Bytes that memory hands over at once.
const CACHE_LINE: usize = 64;
/// So far line pointers are asked for: a heap page of usual rows has no more.
const LINES_WARMED: usize = 512;

/// The pages; sizes of forks are not theirs to tell ([`crate::state::Sizes`]).
#[derive(Debug, Default)]
pub struct Pages {
    forks: ForkMap<ForkPages>,
    slabs: Vec<Vec<u8>>,
    /// Places whose pages are gone.
    free: Vec<Place>,
    /// The slab that new pages go to, and how many it has. 0 is none.
    filling: Place,
    held: usize,
    /// Kept for its memory.
    warming: Vec<Place>,
}

/// Where a page stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    /// Counts from 1; 0 is no page.
    slab: u32,
    page: u32,
}

#[derive(Clone, Debug, Default)]
struct ForkPages {
    /// Parts of [`PART_BLOCKS`], each up to its last page that was ever written.
    table: Vec<Vec<Place>>,
}

impl ForkPages {
    #[inline]
    fn find(&self, block: u32) -> Option<Place> {
        let (part, at) = split(block);
        self.table.get(part)?.get(at).copied().filter(|place| place.slab != 0)
    }

    fn put(&mut self, block: u32, place: Place) {
        let (part, at) = split(block);
        if part >= self.table.len() {
            self.table.resize_with(part + 1, Vec::new);
        }
        let Some(part) = self.table.get_mut(part) else { return };
        if at >= part.len() {
            part.resize(at + 1, Place::default());
        }
        if let Some(entry) = part.get_mut(at) {
            *entry = place;
        }
    }

    fn places(&self) -> impl Iterator<Item = (u32, Place)> {
        let all = (0_u32..).step_by(PART_BLOCKS).zip(&self.table);
        let all = all.flat_map(|(first, part)| (first..).zip(part.iter().copied()));
        all.filter(|(_block, place)| place.slab != 0)
    }
}

fn split(block: u32) -> (usize, usize) {
    let block = block as usize;
    (block / PART_BLOCKS, block % PART_BLOCKS)
}

impl Pages {
    /// Takes whole pages of the base: `bytes` from block `first` on; what is no whole page at the end is left out.
    pub fn load(&mut self, tag: RelTag, first: u32, bytes: Vec<u8>) {
        let count = u32::try_from(bytes.len() / PAGE_BYTES).unwrap_or(u32::MAX);
        self.held += bytes.len() / PAGE_BYTES;
        self.slabs.push(bytes);
        let slab = u32::try_from(self.slabs.len()).unwrap_or(0);
        let Some(fork) = self.forks.entry(tag) else { return };
        for page in 0..count {
            fork.put(first.saturating_add(page), Place { slab, page });
        }
    }

    pub fn get(&self, tag: RelTag, block: u32) -> Option<&PageBytes> {
        self.at(self.forks.get(tag)?.find(block)?)
    }

    #[inline]
    pub fn get_mut(&mut self, tag: RelTag, block: u32) -> Option<&mut PageBytes> {
        let place = self.forks.get_mut(tag)?.find(block)?;
        self.at_mut(place)
    }

    /// The page, all zeroes if it was not there; `None` never comes.
    #[inline]
    pub fn get_or_zero(&mut self, tag: RelTag, block: u32) -> Option<&mut PageBytes> {
        let place = match self.forks.get_mut(tag).and_then(|fork| fork.find(block)) {
            Some(place) => place,
            None => self.add(tag, block),
        };
        self.at_mut(place)
    }

    pub fn put(&mut self, tag: RelTag, block: u32, page: &PageBytes) {
        if let Some(place) = self.get_or_zero(tag, block) {
            *place = *page;
        }
    }

    /// Asks memory for the parts of these blocks that a record is likely to use: header, line pointers, start of the
    /// tuples. The reads depend on nothing, so the processor waits for many at once.
    pub fn warm(&mut self, blocks: impl Iterator<Item = (RelTag, u32)>) {
        let mut places = std::mem::take(&mut self.warming);
        places.clear();
        for (tag, block) in blocks {
            places.extend(self.forks.get_mut(tag).and_then(|fork| fork.find(block)));
        }
        let mut read = 0;
        for place in &places {
            read |= self.at(*place).map_or(0, |page| lsn(page).0);
        }
        for page in places.iter().filter_map(|place| self.at(*place)) {
            let lines = (CACHE_LINE..lower(page).min(LINES_WARMED)).step_by(CACHE_LINE);
            for at in lines.chain([lower(page), upper(page)]) {
                read |= u64::from(page.get(at).copied().unwrap_or(0));
            }
        }
        self.warming = places;
        black_box(read);
    }

    /// Memory that pages have taken; what was dropped is used again before more is taken.
    pub const fn bytes(&self) -> usize {
        self.held * PAGE_BYTES
    }

    /// What a record does to whole forks.
    pub fn apply(&mut self, change: &Change<'_>) {
        match change {
            Change::RelationDropped(node) => {
                for fork in Fork::ALL {
                    self.remove(node.fork(fork));
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
                let of_source = |tag: &RelTag| (tag.spcnode, tag.dbnode) == *source;
                let sources: Vec<RelTag> =
                    self.forks.iter().map(|(tag, _fork)| tag).filter(of_source).collect();
                for tag in sources {
                    let copy = RelTag { spcnode: *tablespace, dbnode: *database, ..tag };
                    self.copy(tag, copy);
                }
            }
            Change::DatabaseDropped { database, tablespaces } => {
                let gone =
                    |tag: &RelTag| tag.dbnode == *database && tablespaces.contains(&tag.spcnode);
                let tags: Vec<RelTag> =
                    self.forks.iter().map(|(tag, _fork)| tag).filter(gone).collect();
                tags.into_iter().for_each(|tag| self.remove(tag));
            }
            _ => {}
        }
    }

    #[inline]
    fn at(&self, place: Place) -> Option<&PageBytes> {
        let slab = self.slabs.get(place.slab.checked_sub(1)? as usize)?;
        slab.as_chunks::<PAGE_BYTES>().0.get(place.page as usize)
    }

    #[inline]
    fn at_mut(&mut self, place: Place) -> Option<&mut PageBytes> {
        let slab = self.slabs.get_mut(place.slab.checked_sub(1)? as usize)?;
        slab.as_chunks_mut::<PAGE_BYTES>().0.get_mut(place.page as usize)
    }

    /// A new page of zeroes.
    #[cold]
    fn add(&mut self, tag: RelTag, block: u32) -> Place {
        let place = self.take_place();
        if let Some(fork) = self.forks.entry(tag) {
            fork.put(block, place);
        }
        place
    }

    fn take_place(&mut self) -> Place {
        if let Some(place) = self.free.pop() {
            if let Some(page) = self.at_mut(place) {
                page.fill(0);
            }
            return place;
        }
        if self.filling.slab == 0 || self.filling.page == SLAB_PAGES {
            self.slabs.push(vec![0; SLAB_PAGES as usize * PAGE_BYTES]);
            self.filling = Place { slab: u32::try_from(self.slabs.len()).unwrap_or(0), page: 0 };
        }
        let place = self.filling;
        self.filling.page += 1;
        self.held += 1;
        place
    }

    fn remove(&mut self, tag: RelTag) {
        if let Some(fork) = self.forks.remove(tag) {
            self.free.extend(fork.places().map(|(_block, place)| place));
        }
    }

    fn copy(&mut self, from: RelTag, to: RelTag) {
        let Some(fork) = self.forks.get(from).cloned() else { return };
        self.remove(to);
        for (block, place) in fork.places() {
            let Some(page) = self.at(place).copied() else { continue };
            self.put(to, block, &page);
        }
    }

    fn truncate(&mut self, tag: RelTag, blocks: u32) {
        let Some(fork) = self.forks.get_mut(tag) else { return };
        self.free
            .extend(fork.places().filter(|(block, _)| *block >= blocks).map(|(_, place)| place));
        let (part, at) = split(blocks);
        fork.table.truncate(part + 1);
        if let Some(part) = fork.table.get_mut(part) {
            part.truncate(at);
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

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: RelNode = RelNode::new(1663, 5, 16384);
    const MAIN: RelTag = NODE.fork(Fork::Main);

    #[test]
    fn a_page_that_is_cut_off_comes_back_as_zeroes() {
        let mut pages = Pages::default();
        pages.put(MAIN, 0, &[1; PAGE_BYTES]);
        pages.put(MAIN, 9000, &[2; PAGE_BYTES]);
        pages.truncate(MAIN, 9000);
        assert_eq!((pages.get(MAIN, 9000), pages.held), (None, 2));
        assert_eq!(pages.get_or_zero(MAIN, 9000), Some(&mut [0; PAGE_BYTES]));
        assert_eq!((pages.get(MAIN, 0), pages.held), (Some(&[1; PAGE_BYTES]), 2));
    }

    #[test]
    fn a_copied_database_has_pages_of_its_own() {
        let mut pages = Pages::default();
        pages.load(MAIN, 0, [[1; PAGE_BYTES], [2; PAGE_BYTES]].concat());
        let copied = Change::DatabaseCreated {
            tablespace: MAIN.spcnode,
            database: crate::oid::Oid(6),
            source: Some((MAIN.spcnode, MAIN.dbnode)),
        };
        pages.apply(&copied);
        pages.put(MAIN, 1, &[3; PAGE_BYTES]);
        let copy = RelNode::new(1663, 6, 16384).fork(Fork::Main);
        assert_eq!(pages.get(copy, 1), Some(&[2; PAGE_BYTES]));
        pages.apply(&Change::RelationDropped(NODE));
        assert_eq!((pages.get(MAIN, 1), pages.get(copy, 0)), (None, Some(&[1; PAGE_BYTES])));
        assert_eq!(pages.held, 4);
    }

    #[test]
    fn a_block_far_out_costs_little() {
        let mut pages = Pages::default();
        pages.put(MAIN, u32::MAX - 1, &[1; PAGE_BYTES]);
        assert_eq!((pages.get(MAIN, u32::MAX - 1), pages.held), (Some(&[1; PAGE_BYTES]), 1));
    }
}
