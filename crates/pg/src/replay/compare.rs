//! A replayed cluster against the files of the stopped one.

use std::collections::BTreeSet;

use super::Replica;
use crate::datadir::layout::{RelationFile, SEGMENT_BLOCKS};
use crate::datadir::relation::{Fork, RelNode, RelTag};
use crate::page::PAGE_BYTES;
use crate::page::mask::{MaskOptions, PageKind, compare};
use crate::state::{StateComparison, StateCounts};

/// Differences of pages that are kept in full; all are counted.
const DIFFERENCES_KEPT: usize = 100;
/// The kind under which pages are counted.
const PAGES: &str = "pages";

/// The comparison, file by file: [`Comparison::file`] for each, then [`Comparison::finish`].
#[derive(Debug)]
pub struct Comparison<'r> {
    replica: &'r Replica,
    state: StateComparison<'r>,
    unlogged: BTreeSet<RelNode>,
    compared: u64,
    different: u64,
    differences: Vec<String>,
}

impl<'r> Comparison<'r> {
    /// Begins, knowing the paths of all files: they tell which relations are unlogged.
    pub fn new<'p>(replica: &'r Replica, paths: impl Iterator<Item = &'p str>) -> Comparison<'r> {
        let files = paths.filter_map(RelationFile::parse);
        let unlogged = files.filter(|file| file.tag.fork == Fork::Init).map(|file| file.tag.node());
        Comparison {
            replica,
            state: StateComparison::new(&replica.state),
            unlogged: unlogged.collect(),
            compared: 0,
            different: 0,
            differences: Vec::new(),
        }
    }

    /// Compares a file with what became of it here.
    pub fn file(&mut self, path: &str, bytes: &[u8]) {
        self.state.file(path, bytes);
        if let Some(file) = RelationFile::parse(path).filter(|file| self.is_logged(file.tag)) {
            self.pages(file, bytes);
        }
    }

    /// All of it, pages being one of the kinds.
    #[must_use]
    pub fn finish(self) -> StateCounts {
        let mut counts = self.state.finish();
        counts.kinds.insert(PAGES, (self.compared, self.different));
        counts.differences.extend(self.differences);
        counts
    }

    /// Whether the WAL says anything about this fork: the free space map and unlogged relations are not in it.
    fn is_logged(&self, tag: RelTag) -> bool {
        let unlogged = tag.fork != Fork::Init && self.unlogged.contains(&tag.node());
        tag.fork != Fork::Fsm && !unlogged
    }

    fn pages(&mut self, file: RelationFile, bytes: &[u8]) {
        let RelationFile { tag, segment } = file;
        let first = segment.saturating_mul(SEGMENT_BLOCKS);
        for (number, theirs) in (0..).zip(bytes.as_chunks::<PAGE_BYTES>().0) {
            let block = first.saturating_add(number);
            let ours = self.replica.pages.get(tag, block);
            let kind = PageKind::of_page(theirs, tag.fork);
            self.compared += 1;
            let Some(what) = compare(ours, theirs, kind, block, MaskOptions::FILES) else {
                continue;
            };
            self.different += 1;
            if self.differences.len() < DIFFERENCES_KEPT {
                self.differences.push(format!("{tag} block {block}: {what}"));
            }
        }
    }
}
