//! A replayed cluster against the files of the stopped one.

use std::collections::BTreeSet;

use super::Replay;
use super::state::{prepared_xid, relmap_place};
use crate::datadir::layout::{RelationFile, SEGMENT_BLOCKS};
use crate::datadir::relation::{Fork, RelNode, RelTag};
use crate::datadir::slru::Slru;
use crate::page::diff::diff;
use crate::page::mask::{MaskOptions, PageKind, compare};
use crate::page::{PAGE_BYTES, PageBytes};

/// Differences that are kept in full; all are counted.
const DIFFERENCES_KEPT: usize = 100;

/// What was compared of one kind of thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub compared: u64,
    pub different: u64,
}

/// The comparison, file by file: [`Comparison::file`] for each, then [`Comparison::finish`].
#[derive(Debug)]
pub struct Comparison<'r> {
    replay: &'r Replay,
    unlogged: BTreeSet<RelNode>,
    seen_forks: BTreeSet<RelTag>,
    seen_slru: BTreeSet<(Slru, u32)>,
    seen_prepared: BTreeSet<u32>,
    pub pages: Counts,
    /// Sizes of forks.
    pub sizes: Counts,
    pub transaction_logs: Counts,
    pub relation_maps: Counts,
    pub prepared: Counts,
    /// The first of them.
    pub differences: Vec<String>,
}

impl<'r> Comparison<'r> {
    /// Begins, knowing the paths of all files: they tell which relations are unlogged.
    pub fn new<'p>(replay: &'r Replay, paths: impl Iterator<Item = &'p str>) -> Comparison<'r> {
        let files = paths.filter_map(RelationFile::parse);
        let unlogged = files.filter(|file| file.tag.fork == Fork::Init).map(|file| file.tag.node());
        Comparison {
            replay,
            unlogged: unlogged.collect(),
            seen_forks: BTreeSet::new(),
            seen_slru: BTreeSet::new(),
            seen_prepared: BTreeSet::new(),
            pages: Counts::default(),
            sizes: Counts::default(),
            transaction_logs: Counts::default(),
            relation_maps: Counts::default(),
            prepared: Counts::default(),
            differences: Vec::new(),
        }
    }

    /// Whether the WAL says anything about this fork: the free space map and unlogged relations are not in it.
    fn is_logged(&self, tag: RelTag) -> bool {
        let unlogged = tag.fork != Fork::Init && self.unlogged.contains(&tag.node());
        tag.fork != Fork::Fsm && !unlogged
    }

    /// Compares a file with what became of it here.
    pub fn file(&mut self, path: &str, bytes: &[u8]) {
        let pages = (0..).zip(bytes.as_chunks::<PAGE_BYTES>().0);
        if let Some(file) = RelationFile::parse(path) {
            self.relation(file, bytes);
        } else if let Some((slru, first)) = Slru::parse(path) {
            for (number, page) in pages {
                self.slru_page(slru, first.saturating_add(number), page);
            }
        } else if let Some(place) = relmap_place(path) {
            let ours = self.replay.state.relmaps.get(&place);
            let same = ours.is_some_and(|ours| ours == bytes);
            self.relation_maps.note(same);
            self.differ_unless(same, || format!("{path}: another map"));
        } else if let Some(xid) = prepared_xid(path) {
            self.seen_prepared.insert(xid);
            let same = self.replay.state.prepared.get(&xid).is_some_and(|ours| ours == bytes);
            self.prepared.note(same);
            self.differ_unless(same, || format!("{path}: another state"));
        }
    }

    fn relation(&mut self, file: RelationFile, bytes: &[u8]) {
        let RelationFile { tag, segment } = file;
        if !self.is_logged(tag) {
            return;
        }
        self.seen_forks.insert(tag);
        let first = segment.saturating_mul(SEGMENT_BLOCKS);
        let mut last_written = 0;
        for (number, theirs) in (0..).zip(bytes.as_chunks::<PAGE_BYTES>().0) {
            let block = first.saturating_add(number);
            let ours = self.replay.pages.get(tag, block);
            let kind = PageKind::of_page(theirs, tag.fork);
            let found = compare(ours, theirs, kind, block, MaskOptions::FILES);
            if ours.is_some() || found.is_some() {
                last_written = block.saturating_add(1);
            }
            self.pages.note(found.is_none());
            if let Some(what) = found {
                self.differ_unless(false, || format!("{tag} block {block}: {what}"));
            }
        }
        // The file may go on with pages that the server made ready and never used; it must not be shorter.
        let in_file = u32::try_from(bytes.len() / PAGE_BYTES).unwrap_or(u32::MAX);
        let theirs = first.saturating_add(in_file);
        let ours = self.replay.pages.blocks(tag).unwrap_or(0);
        let is_last = in_file < SEGMENT_BLOCKS;
        let same = !is_last || (last_written..=theirs).contains(&ours.max(last_written));
        self.sizes.note(same);
        self.differ_unless(same, || format!("{tag}: {ours} blocks, the file has {theirs}"));
    }

    fn slru_page(&mut self, slru: Slru, number: u32, theirs: &PageBytes) {
        self.seen_slru.insert((slru, number));
        let ours = self.replay.state.slru.get(&(slru, number));
        let zeroes = [0; PAGE_BYTES];
        let found = diff(ours.map_or(&zeroes, |page| &**page), theirs);
        self.transaction_logs.note(found.is_none());
        if let Some(what) = found {
            self.differ_unless(false, || format!("{} page {number}: {what}", slru.directory()));
        }
    }

    /// What is here and not there.
    pub fn finish(&mut self) {
        for (tag, blocks) in self.replay.pages.forks() {
            if self.is_logged(tag) && blocks > 0 && !self.seen_forks.contains(&tag) {
                self.sizes.note(false);
                self.differ_unless(false, || {
                    format!("{tag}: {blocks} blocks, and there is no file")
                });
            }
        }
        let zeroes = [0; PAGE_BYTES];
        for (&(slru, number), page) in &self.replay.state.slru {
            // A page that was made ready need not have been written.
            if **page != zeroes && !self.seen_slru.contains(&(slru, number)) {
                self.transaction_logs.note(false);
                let directory = slru.directory();
                self.differ_unless(false, || format!("{directory} page {number}: no such page"));
            }
        }
        for &xid in self.replay.state.prepared.keys() {
            if !self.seen_prepared.contains(&xid) {
                self.prepared.note(false);
                self.differ_unless(false, || format!("transaction {xid} is not prepared there"));
            }
        }
    }

    /// How many things differ.
    #[must_use]
    pub fn different(&self) -> u64 {
        let all =
            [self.pages, self.sizes, self.transaction_logs, self.relation_maps, self.prepared];
        all.iter().map(|counts| counts.different).sum()
    }

    fn differ_unless(&mut self, same: bool, what: impl FnOnce() -> String) {
        if !same && self.differences.len() < DIFFERENCES_KEPT {
            self.differences.push(what());
        }
    }
}

impl Counts {
    fn note(&mut self, same: bool) {
        self.compared += 1;
        self.different += u64::from(!same);
    }
}
