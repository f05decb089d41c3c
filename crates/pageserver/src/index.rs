//! Which WAL records touch which block, in memory, and how large every relation fork is by LSN.
//!
//! Invariants: a block's positions are in WAL order; nothing is ever removed (this version has no
//! garbage collection), so memory only grows and [`Index::memory`] is what the limit is held against.

use std::collections::BTreeMap;

use pg::datadir::relation::{Fork, RelNode, RelTag};
use pg::lsn::Lsn;
use pg::oid::Oid;

use crate::history::{History, Origin};

/// A record that touches a page, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Where the record begins.
    pub start: Lsn,
    /// Bytes of WAL from there to the record's end, page headers and padding included.
    span: u32,
    pub effect: Effect,
    /// Number of the block reference in the record; 0 where there is none.
    pub block_id: u8,
}

/// What a record does to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Changes what is there.
    Change,
    /// Writes the whole page: an image or a fresh page. Nothing before it matters.
    Initial,
    /// Changes the page without a block reference to it: bits of a visibility map that a change of
    /// a heap page clears, or that a truncation cuts off.
    Implied,
}

impl Position {
    /// A record from `start` to `end`; `None` if it is longer than a record can be.
    pub fn new(start: Lsn, end: Lsn, effect: Effect, block_id: u8) -> Option<Position> {
        let span = u32::try_from(end.0.checked_sub(start.0)?).ok()?;
        Some(Position { start, span, effect, block_id })
    }

    /// The record's end: the LSN that the page bears after it.
    pub fn end(self) -> Lsn {
        self.start + u64::from(self.span)
    }
}

const _: () =
    assert!(size_of::<Position>() == 16, "one position per record and page: keep it small");

/// Memory that a block costs beside its positions: the tree's entry and the vector's header.
const BLOCK_OVERHEAD: usize = 64;
/// The same for a fork.
const FORK_OVERHEAD: usize = 256;

/// The index of one timeline.
#[derive(Debug, Default)]
pub struct Index {
    forks: BTreeMap<RelTag, ForkIndex>,
    /// Pages of `pg_xact`.
    transactions: BTreeMap<u32, Vec<Position>>,
    memory: usize,
}

/// One fork: its size by LSN, and the records of every block that has any.
#[derive(Debug, Default)]
struct ForkIndex {
    history: History,
    blocks: BTreeMap<u32, Vec<Position>>,
}

/// How to build one page: what it begins as, and the records to apply, in order.
#[derive(Debug, PartialEq, Eq)]
pub struct Recipe {
    pub base: Base,
    pub records: Vec<Position>,
    /// End of the newest record that is in the page then: of the last in `records`, if any.
    pub as_of: Lsn,
}

/// What the records are applied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// The version at hand.
    Known,
    Origin(Origin),
}

impl Index {
    /// A fork whose file in the base backup has so many blocks.
    pub fn add_base(&mut self, tag: RelTag, blocks: u32) {
        let fork = ForkIndex { history: History::with_base(blocks), ..ForkIndex::default() };
        if self.forks.insert(tag, fork).is_none() {
            self.memory += FORK_OVERHEAD;
        }
    }

    /// Blocks of a fork as of `lsn`, or `None` if it does not exist then.
    pub fn blocks_at(&self, tag: RelTag, lsn: Lsn) -> Option<u32> {
        self.forks.get(&tag)?.history.blocks_at(lsn)
    }

    /// How to build a block that exists as of `lsn`. `known` is the end of the newest record in a
    /// version at hand, which is used if it belongs to the same life of the block.
    pub fn recipe(&self, tag: RelTag, block: u32, lsn: Lsn, known: Option<Lsn>) -> Recipe {
        let Some(fork) = self.forks.get(&tag) else {
            let base = Base::Origin(Origin::Zero(Lsn::INVALID));
            return Recipe { base, records: Vec::new(), as_of: Lsn::INVALID };
        };
        let origin = fork.history.origin(block, lsn);
        let born = match origin {
            Origin::Base { .. } => Lsn::INVALID,
            Origin::Zero(at) | Origin::Copy(_, at) => at,
        };
        let all = fork.blocks.get(&block).map_or(&[][..], |all| chain(all, born, lsn));
        // Not of a block that was cut off and made anew since, nor from before the newest image.
        let begun = match all.first() {
            Some(first) if first.effect == Effect::Initial => first.end(),
            _ => born + 1,
        };
        let as_of = all.last().map_or(Lsn::INVALID, |last| last.end());
        match known.filter(|known| *known >= begun) {
            Some(known) => {
                let rest = all.partition_point(|record| record.end() <= known);
                Recipe { base: Base::Known, records: all[rest..].to_vec(), as_of }
            }
            None => Recipe { base: Base::Origin(origin), records: all.to_vec(), as_of },
        }
    }

    /// The records of one page of `pg_xact` up to `lsn`, from the newest that zeroes it.
    pub fn transaction_records(&self, page: u32, lsn: Lsn) -> Vec<Position> {
        self.transactions.get(&page).map_or(&[][..], |all| chain(all, Lsn::INVALID, lsn)).to_vec()
    }

    /// Forks that exist as of `lsn`, with their sizes in blocks.
    pub fn forks_at(&self, lsn: Lsn) -> impl Iterator<Item = (RelTag, u32)> {
        self.forks.iter().filter_map(move |(&tag, fork)| Some((tag, fork.history.blocks_at(lsn)?)))
    }

    /// Forks of one database in one tablespace that exist as of now, with their sizes in blocks.
    pub fn forks_of(&self, tablespace: Oid, database: Oid) -> Vec<(RelTag, u32)> {
        let node = |number| RelNode { spcnode: tablespace, dbnode: database, relnode: Oid(number) };
        self.forks
            .range(node(0).fork(Fork::Main)..=node(u32::MAX).fork(Fork::Init))
            .filter_map(|(&tag, fork)| Some((tag, fork.history.blocks()?)))
            .collect()
    }

    /// Tablespaces in which a database has files as of now.
    pub fn tablespaces_of(&self, database: Oid) -> Vec<Oid> {
        let mut found: Vec<Oid> = self
            .forks
            .iter()
            .filter(|(tag, fork)| tag.dbnode == database && fork.history.blocks().is_some())
            .map(|(tag, _)| tag.spcnode)
            .collect();
        found.dedup();
        found
    }

    /// A record touches a block; the fork grows over it if it must.
    pub fn touch(&mut self, tag: RelTag, block: u32, position: Position) {
        self.change(tag, |history| history.extend(position.end(), block.saturating_add(1)));
        let Some(fork) = self.forks.get_mut(&tag) else { return };
        let known = fork.blocks.len();
        let grown = push(fork.blocks.entry(block).or_default(), position);
        self.memory += grown + (fork.blocks.len() - known) * BLOCK_OVERHEAD;
    }

    /// A record touches a page of `pg_xact`.
    pub fn touch_transactions(&mut self, page: u32, position: Position) {
        let known = self.transactions.len();
        let grown = push(self.transactions.entry(page).or_default(), position);
        self.memory += grown + (self.transactions.len() - known) * BLOCK_OVERHEAD;
    }

    /// Changes a fork's history; a fork not yet known is made for it.
    pub fn change(&mut self, tag: RelTag, change: impl FnOnce(&mut History)) {
        let known = self.forks.len();
        let fork = self.forks.entry(tag).or_default();
        let before = fork.history.memory();
        change(&mut fork.history);
        let grown = fork.history.memory() - before;
        self.memory += grown + (self.forks.len() - known) * FORK_OVERHEAD;
    }

    /// Blocks of a fork as of now.
    pub fn blocks(&self, tag: RelTag) -> Option<u32> {
        self.forks.get(&tag)?.history.blocks()
    }

    /// Bytes of memory in use, by our own count.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Forks ever seen.
    pub fn forks(&self) -> usize {
        self.forks.len()
    }
}

/// Appends; one record counts once per page. Answers by how many bytes the vector grew.
fn push(all: &mut Vec<Position>, position: Position) -> usize {
    let before = all.capacity();
    match all.last_mut() {
        Some(last) if last.start == position.start => {
            // Two effects of one record on one page: the one that needs no base page wins.
            if position.effect == Effect::Initial {
                *last = position;
            }
        }
        last => {
            debug_assert!(last.is_none_or(|last| last.start < position.start), "WAL goes forward");
            all.push(position);
        }
    }
    (all.capacity() - before) * size_of::<Position>()
}

/// The part of `all` that ends in `(after, upto]`, cut to begin with its last whole-page record.
fn chain(all: &[Position], after: Lsn, upto: Lsn) -> &[Position] {
    let first = all.partition_point(|position| position.end() <= after);
    let end = all.partition_point(|position| position.end() <= upto);
    let window = all.get(first..end).unwrap_or(&[]);
    let initial = window.iter().rposition(|position| position.effect == Effect::Initial);
    &window[initial.unwrap_or(0)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: RelTag = RelNode::new(1663, 5, 16384).fork(Fork::Main);

    fn position(start: u64, effect: Effect) -> Position {
        Position::new(Lsn(start), Lsn(start + 8), effect, 0).expect("8 bytes are a valid span")
    }

    fn starts(recipe: &Recipe) -> Vec<u64> {
        recipe.records.iter().map(|position| position.start.0).collect()
    }

    #[test]
    fn a_page_begins_with_the_newest_image_at_or_below_the_lsn() {
        let mut index = Index::default();
        index.add_base(TAG, 1);
        for (start, effect) in [
            (100, Effect::Change),
            (200, Effect::Initial),
            (300, Effect::Change),
            (400, Effect::Initial),
        ] {
            index.touch(TAG, 0, position(start, effect));
        }
        let recipe = |lsn| index.recipe(TAG, 0, Lsn(lsn), None);
        assert_eq!(starts(&recipe(107)), [] as [u64; 0]);
        assert_eq!(starts(&recipe(108)), [100]);
        assert_eq!(starts(&recipe(399)), [200, 300]);
        assert_eq!(starts(&recipe(1000)), [400]);
        assert_eq!(recipe(399).as_of, Lsn(308));
        assert_eq!(recipe(399).base, Base::Origin(Origin::Base { blocks: 1 }));
    }

    #[test]
    fn a_version_at_hand_is_used_if_nothing_replaced_it() {
        let mut index = Index::default();
        for (start, effect) in
            [(100, Effect::Initial), (200, Effect::Change), (300, Effect::Change)]
        {
            index.touch(TAG, 0, position(start, effect));
        }
        let recipe = |index: &Index, known| index.recipe(TAG, 0, Lsn(1000), Some(Lsn(known)));
        assert_eq!(starts(&recipe(&index, 208)), [300]);
        assert_eq!(recipe(&index, 208).base, Base::Known);
        assert_eq!(starts(&recipe(&index, 308)), [] as [u64; 0]);
        assert_eq!(starts(&recipe(&index, 100)), [100, 200, 300]);
        index.change(TAG, |history| history.drop(Lsn(400)));
        index.touch(TAG, 0, position(500, Effect::Change));
        assert_eq!(recipe(&index, 308).base, Base::Origin(Origin::Zero(Lsn(400))));
        assert_eq!(starts(&recipe(&index, 308)), [500]);
        assert_eq!(recipe(&index, 508).base, Base::Known);
    }

    #[test]
    fn records_before_a_truncation_do_not_count() {
        let mut index = Index::default();
        index.touch(TAG, 3, position(100, Effect::Initial));
        index.change(TAG, |history| history.truncate(Lsn(208), 2));
        index.touch(TAG, 5, position(300, Effect::Initial));
        assert_eq!(index.blocks_at(TAG, Lsn(107)), None);
        assert_eq!(index.blocks_at(TAG, Lsn(108)), Some(4));
        assert_eq!(index.blocks_at(TAG, Lsn(208)), Some(2));
        assert_eq!(index.blocks_at(TAG, Lsn(308)), Some(6));
        let recipe = index.recipe(TAG, 3, Lsn(400), None);
        assert_eq!(recipe.base, Base::Origin(Origin::Zero(Lsn(208))));
        assert_eq!(starts(&recipe), [] as [u64; 0]);
        assert_eq!(starts(&index.recipe(TAG, 3, Lsn(207), None)), [100]);
    }

    #[test]
    fn one_record_counts_once_per_page() {
        let mut index = Index::default();
        index.touch(TAG, 0, position(100, Effect::Change));
        index.touch(TAG, 0, position(100, Effect::Initial));
        assert_eq!(index.recipe(TAG, 0, Lsn::MAX, None).records, [position(100, Effect::Initial)]);
    }

    #[test]
    fn finds_the_forks_of_one_database() {
        let mut index = Index::default();
        index.add_base(TAG, 7);
        index.add_base(RelNode::new(1663, 6, 1).fork(Fork::Main), 1);
        index.add_base(RelNode::new(1700, 5, 1).fork(Fork::Vm), 2);
        index.add_base(RelNode::new(1700, 5, 2).fork(Fork::Main), 2);
        assert_eq!(index.forks_of(Oid(1663), Oid(5)), [(TAG, 7)]);
        assert_eq!(index.tablespaces_of(Oid(5)), [Oid(1663), Oid(1700)]);
        assert_eq!(index.tablespaces_of(Oid(9)), []);
    }

    #[test]
    fn memory_grows_with_what_is_kept() {
        let mut index = Index::default();
        for start in 0..1000 {
            index.touch(TAG, 0, position(start * 8, Effect::Change));
        }
        assert!(index.memory() >= 1000 * size_of::<Position>());
    }
}
