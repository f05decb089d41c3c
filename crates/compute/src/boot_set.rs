//! The pages that a start reads, remembered from one compute to the next: asked for in a few questions while the server
//! starts, instead of one by one when it misses them.
//!
//! It is only a hint. A page that is in it for nothing is read for nothing; one that is missing is read as any other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use pg::datadir::relation::{Fork, RelTag};
use pg::oid::Oid;

use crate::limits::BOOT_PAGES_MAX;

/// Blocks by fork.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootSet {
    blocks: BTreeMap<RelTag, BTreeSet<u32>>,
    pages: usize,
}

impl BootSet {
    /// Adds a page, if there is still room for it.
    pub fn add(&mut self, tag: RelTag, block: u32) {
        if self.pages < BOOT_PAGES_MAX && self.blocks.entry(tag).or_default().insert(block) {
            self.pages += 1;
        }
    }

    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// What of it is there: forks with their blocks, ascending.
    pub fn existing<'s>(
        &'s self,
        sizes: &'s BTreeMap<RelTag, u32>,
    ) -> impl Iterator<Item = (RelTag, Vec<u32>)> + 's {
        self.blocks.iter().filter_map(|(tag, blocks)| {
            let size = *sizes.get(tag)?;
            let blocks: Vec<u32> = blocks.range(..size).copied().collect();
            (!blocks.is_empty()).then_some((*tag, blocks))
        })
    }

    /// Reads what [`BootSet::to_text`] wrote. Lines that make no sense are passed over: it is only a hint.
    #[must_use]
    pub fn parse(text: &str) -> BootSet {
        let mut set = BootSet::default();
        for line in text.lines() {
            let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
            let mut next = || numbers.next().and_then(Result::ok);
            let (Some(space), Some(database), Some(relation), Some(fork)) =
                (next(), next(), next(), next())
            else {
                continue;
            };
            let Some(fork) = u8::try_from(fork).ok().and_then(Fork::from_number) else { continue };
            let (spcnode, dbnode, relnode) = (Oid(space), Oid(database), Oid(relation));
            let tag = RelTag { spcnode, dbnode, relnode, fork };
            while let Some(block) = next() {
                set.add(tag, block);
            }
        }
        set
    }

    /// A line for each fork: tablespace, database, relation, fork, blocks.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (tag, blocks) in &self.blocks {
            let RelTag { spcnode, dbnode, relnode, fork } = tag;
            let number = fork.number();
            // Writing to a string does not fail.
            write!(text, "{} {} {} {number}", spcnode.0, dbnode.0, relnode.0).ok();
            for block in blocks {
                write!(text, " {block}").ok();
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg::datadir::relation::RelNode;

    fn tag(number: u32) -> RelTag {
        RelNode::new(1663, 5, number).fork(Fork::Main)
    }

    #[test]
    fn comes_back_from_its_text() {
        let mut set = BootSet::default();
        for (number, block) in [(1259, 3), (1259, 0), (1249, 7), (1259, 3)] {
            set.add(tag(number), block);
        }
        assert_eq!(set.pages(), 3);
        assert_eq!(BootSet::parse(&set.to_text()), set);
        assert_eq!(BootSet::parse("1663 5 x 0 1\n\n1663 5 1 9 1\n"), BootSet::default());
    }

    #[test]
    fn only_what_is_there_is_asked_for() {
        let mut set = BootSet::default();
        for (number, block) in [(1, 0), (1, 4), (1, 5), (2, 0), (3, 9)] {
            set.add(tag(number), block);
        }
        let sizes = BTreeMap::from([(tag(1), 5), (tag(3), 9)]);
        assert_eq!(set.existing(&sizes).collect::<Vec<_>>(), [(tag(1), vec![0, 4])]);
    }

    #[test]
    fn has_a_bound() {
        let mut set = BootSet::default();
        (0..u32::MAX).take(2 * BOOT_PAGES_MAX).for_each(|block| set.add(tag(1), block));
        assert_eq!(set.pages(), BOOT_PAGES_MAX);
    }
}
