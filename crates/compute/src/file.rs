//! A file of the mount: what was written here since, over what the branch has.
//!
//! Local bytes are in a sparse file under the overlay, at their own offsets. Of a relation's file, blocks that were
//! never written here come from the page server; which these are is known in memory alone, for the overlay is scratch:
//! what lasts is the WAL. A file that was truncated never shows blocks of the branch beyond that point again.

use std::ops::Range;
use std::path::PathBuf;

use pg::datadir::relation::RelTag;

use crate::limits::PAGE_BYTES;

const PAGE: u64 = PAGE_BYTES as u64;

/// A regular file.
#[derive(Debug)]
pub struct File {
    /// Where its local bytes are, or will be.
    pub local: PathBuf,
    pub size: u64,
    /// Whether there are local bytes: to look for them costs a system call.
    pub has_local: bool,
    base: Option<Base>,
}

/// What the branch has of a relation's file.
#[derive(Debug)]
struct Base {
    /// The fork whose pages these are. For an unlogged relation it is its init fork.
    tag: RelTag,
    /// Number of the file's first block in the fork.
    first: u32,
    /// Blocks of the whole fork as of the branch's LSN.
    fork_blocks: u32,
    /// Blocks of this file that may still come from the branch; only ever shrinks.
    blocks: u32,
    /// A bit for each of them: written here.
    written: Vec<u64>,
}

/// Blocks of the branch in a read, one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub tag: RelTag,
    /// Number in the fork.
    pub block: u32,
    pub count: u32,
    pub fork_blocks: u32,
    /// Where they begin in the file, in bytes.
    pub offset: u64,
}

impl File {
    /// A file that is wholly local.
    #[must_use]
    pub fn local(local: PathBuf, size: u64) -> File {
        File { local, size, has_local: true, base: None }
    }

    /// A relation's file of `blocks` blocks, `first` being the fork's block that it begins with.
    #[must_use]
    pub fn relation(
        local: PathBuf,
        tag: RelTag,
        first: u32,
        blocks: u32,
        fork_blocks: u32,
    ) -> File {
        let words = usize::try_from(blocks.div_ceil(64)).unwrap_or(usize::MAX);
        let base = Base { tag, first, fork_blocks, blocks, written: vec![0; words] };
        File { local, size: u64::from(blocks) * PAGE, has_local: false, base: Some(base) }
    }

    /// The part of `offset..offset + bytes` that the file has.
    #[must_use]
    pub fn range(&self, offset: u64, bytes: u64) -> Range<u64> {
        let end = offset.saturating_add(bytes).min(self.size);
        offset.min(end)..end
    }

    /// What of a range of the file must come from the branch.
    #[must_use]
    pub fn missing(&self, range: &Range<u64>) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::new();
        let Some(base) = &self.base else { return pieces };
        let blocks = range.start / PAGE..range.end.div_ceil(PAGE).min(u64::from(base.blocks));
        for block in blocks {
            let Some(piece) = base.piece(block) else { continue };
            match pieces.last_mut() {
                Some(last) if last.block + last.count == piece.block => last.count += 1,
                _ => pieces.push(piece),
            }
        }
        pieces
    }

    /// Blocks of the branch that a write to `range` changes in part, or that end inside it: at most two.
    #[must_use]
    pub fn partly_covered(&self, range: &Range<u64>) -> Vec<Piece> {
        let Some(base) = &self.base else { return Vec::new() };
        let mut edges = Vec::new();
        if !range.start.is_multiple_of(PAGE) {
            edges.push(range.start / PAGE);
        }
        if !range.end.is_multiple_of(PAGE) {
            edges.push(range.end / PAGE);
        }
        edges.dedup();
        edges.into_iter().filter_map(|block| base.piece(block)).collect()
    }

    /// The bytes of `range` are local now; every block of it that was partly covered had been filled before.
    pub fn written(&mut self, range: &Range<u64>) {
        self.has_local = true;
        self.size = self.size.max(range.end);
        if let Some(base) = &mut self.base {
            let blocks = range.start / PAGE..range.end.div_ceil(PAGE).min(u64::from(base.blocks));
            blocks.for_each(|block| base.mark(block));
        }
    }

    /// Cuts or extends (with zeroes). A block that is cut in two had been filled before.
    pub fn resize(&mut self, size: u64) {
        self.size = size;
        if let Some(base) = &mut self.base {
            let blocks = u32::try_from(size.div_ceil(PAGE)).unwrap_or(u32::MAX);
            base.blocks = base.blocks.min(blocks);
            if base.blocks == 0 {
                self.base = None;
            }
        }
    }
}

impl Base {
    /// A block of this file as a piece, if it still comes from the branch.
    fn piece(&self, block: u64) -> Option<Piece> {
        let number = u32::try_from(block).ok().filter(|number| *number < self.blocks)?;
        if self.is_written(number) {
            return None;
        }
        let Base { tag, first, fork_blocks, .. } = *self;
        Some(Piece { tag, block: first + number, count: 1, fork_blocks, offset: block * PAGE })
    }

    fn is_written(&self, block: u32) -> bool {
        let word = usize::try_from(block / 64).ok().and_then(|word| self.written.get(word));
        word.is_none_or(|word| word & 1 << (block % 64) != 0)
    }

    fn mark(&mut self, block: u64) {
        let word = usize::try_from(block / 64).ok().and_then(|word| self.written.get_mut(word));
        if let Some(word) = word {
            *word |= 1 << (block % 64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg::datadir::relation::{Fork, RelNode};

    fn file(blocks: u32) -> File {
        let tag = RelNode::new(1663, 5, 16384).fork(Fork::Main);
        File::relation(PathBuf::new(), tag, 1000, blocks, 2000)
    }

    /// (Block, count) of what is missing in the whole file.
    fn missing(file: &File) -> Vec<(u32, u32)> {
        let pieces = file.missing(&(0..file.size));
        pieces.into_iter().map(|piece| (piece.block, piece.count)).collect()
    }

    #[test]
    fn what_is_written_no_longer_comes_from_the_branch() {
        let mut file = file(200);
        assert_eq!(missing(&file), [(1000, 200)]);
        file.written(&(0..PAGE));
        file.written(&(64 * PAGE..66 * PAGE));
        assert_eq!(missing(&file), [(1001, 63), (1066, 134)]);
        assert_eq!(file.missing(&(64 * PAGE..66 * PAGE)), []);
        file.written(&(199 * PAGE..202 * PAGE));
        assert_eq!(file.size, 202 * PAGE);
        assert_eq!(missing(&file), [(1001, 63), (1066, 133)]);
    }

    #[test]
    fn what_was_cut_off_never_comes_back() {
        let mut file = file(10);
        file.resize(4 * PAGE);
        file.resize(10 * PAGE);
        assert_eq!(missing(&file), [(1000, 4)]);
        file.resize(0);
        file.resize(10 * PAGE);
        assert_eq!(missing(&file), []);
    }

    #[test]
    fn blocks_at_the_edges_of_a_write_are_filled_first() {
        let mut file = file(10);
        let partly = |file: &File, range: Range<u64>| {
            file.partly_covered(&range).into_iter().map(|piece| piece.block).collect::<Vec<_>>()
        };
        let none: [u32; 0] = [];
        assert_eq!(partly(&file, PAGE..3 * PAGE), none, "whole blocks need no filling");
        assert_eq!(partly(&file, 100..200), [1000]);
        assert_eq!(partly(&file, 100..2 * PAGE + 1), [1000, 1002]);
        file.written(&(0..PAGE));
        assert_eq!(partly(&file, 100..200), none, "it is local already");
        let beyond = 20 * PAGE + 1..20 * PAGE + 2;
        assert_eq!(partly(&file, beyond), none, "the branch has no such block");
    }

    #[test]
    fn a_read_ends_with_the_file() {
        let file = file(2);
        assert_eq!(file.range(PAGE, 2 * PAGE), PAGE..2 * PAGE);
        assert_eq!(file.range(5 * PAGE, PAGE), 2 * PAGE..2 * PAGE);
    }
}
