//! A state that was followed against the files of the stopped cluster.

use std::collections::{BTreeMap, BTreeSet};

use super::store::{ORIGINS, blocks_to, values_of_file};
use super::{Counters, Key, State, origins_file};
use crate::datadir::control::ControlFile;
use crate::datadir::layout::RelationFile;
use crate::datadir::relation::{Fork, RelNode, RelTag};
use crate::datadir::slru::Slru;
use crate::page::PAGE_BYTES;
use crate::page::diff::diff;

/// Things of each kind that were compared, and what differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateCounts {
    /// By kind: compared, different.
    pub kinds: BTreeMap<&'static str, (u64, u64)>,
    pub differences: Vec<String>,
}

/// The comparison, file by file: [`StateComparison::file`] for each, then [`StateComparison::finish`].
///
/// Not compared: what no record tells of, which is unlogged relations and free space maps.
#[derive(Debug)]
pub struct StateComparison<'s> {
    state: &'s State,
    counts: StateCounts,
    /// Blocks of a fork's files, and up to the last that is written.
    sizes: BTreeMap<RelTag, (u32, u32)>,
    seen: BTreeSet<Key>,
    origins: Vec<u8>,
}

impl State {
    /// Compares with the files of the stopped cluster, whose paths in the data directory and bytes `files` are.
    pub fn compare<'f>(&self, files: impl Iterator<Item = (&'f str, &'f [u8])>) -> StateCounts {
        let mut comparison = StateComparison::new(self);
        files.for_each(|(path, bytes)| comparison.file(path, bytes));
        comparison.finish()
    }
}

impl<'s> StateComparison<'s> {
    #[must_use]
    pub fn new(state: &'s State) -> StateComparison<'s> {
        StateComparison {
            state,
            counts: StateCounts::default(),
            sizes: BTreeMap::new(),
            seen: BTreeSet::new(),
            origins: Vec::new(),
        }
    }

    /// Takes a file: its path in the data directory, and its bytes.
    pub fn file(&mut self, path: &str, bytes: &[u8]) {
        if let Some(file) = RelationFile::parse(path) {
            let size = self.sizes.entry(file.tag).or_default();
            size.0 = size.0.max(blocks_to(file, bytes.len()));
            size.1 = size.1.max(written_to(file, bytes));
        }
        if path == ORIGINS {
            bytes.clone_into(&mut self.origins);
        }
        if path == "global/pg_control" {
            self.counters(bytes);
        }
        for (key, theirs) in values_of_file(path, bytes) {
            if key != Key::Origins {
                let ours = self.state.values.get(&key);
                self.counts.note(kind(key), different(ours, &theirs, key));
                self.seen.insert(key);
            }
        }
    }

    /// What is here and not there, and what all files together tell.
    #[must_use]
    pub fn finish(mut self) -> StateCounts {
        let ours = self.state.values.get(&Key::Origins).map_or(&[][..], Vec::as_slice);
        let ours = origins_file(ours);
        let same = ours == self.origins || (self.origins.is_empty() && ours.len() == 8);
        let what = (!same).then(|| "replication origins differ".to_owned());
        self.counts.note("replication origins", what);
        for (&key, value) in &self.state.values {
            let compared = match key {
                Key::Origins | Key::Database { .. } | Key::Tablespace(_) => false,
                // A page that was made ready need not have been written.
                Key::Slru(..) => value.iter().any(|&byte| byte != 0),
                Key::Relmap { .. } | Key::TwoPhase(_) => true,
            };
            if compared && !self.seen.contains(&key) {
                self.counts.note(kind(key), Some(format!("{key}: there is no such file")));
            }
        }
        self.compare_sizes();
        self.counts
    }

    fn counters(&mut self, control: &[u8]) {
        let ours = self.state.counters;
        let what = match ControlFile::parse(control) {
            Err(error) => Some(error.to_string()),
            Ok(file) => {
                let theirs = Counters { checkpoint: file.checkpoint, parameters: file.parameters };
                (theirs != ours)
                    .then(|| format!("counters: {ours:?}, the control file has {theirs:?}"))
            }
        };
        self.counts.note("counters", what);
    }

    fn compare_sizes(&mut self) {
        const KIND: &str = "relation sizes";
        let (state, theirs, counts) = (self.state, &self.sizes, &mut self.counts);
        let unlogged: BTreeSet<RelNode> =
            theirs.keys().filter(|tag| tag.fork == Fork::Init).map(|tag| tag.node()).collect();
        let is_logged = |tag: RelTag| {
            tag.fork != Fork::Fsm && (tag.fork == Fork::Init || !unlogged.contains(&tag.node()))
        };
        for (&tag, &(blocks, written)) in theirs.iter().filter(|(tag, _)| is_logged(**tag)) {
            // What the server made ready ahead of use is zeroes.
            let ours = state.sizes.get(tag);
            let fits = ours.map_or(written == 0 && tag.fork == Fork::Vm, |ours| {
                (written..=blocks).contains(&ours)
            });
            let what = (!fits).then(|| {
                let ours = ours.map_or("none".to_owned(), |ours| ours.to_string());
                format!("{tag}: {ours} blocks, the files have {blocks}, {written} of them written")
            });
            counts.note(KIND, what);
        }
        for (tag, blocks) in state.sizes.iter().filter(|(tag, _)| is_logged(*tag)) {
            if !theirs.contains_key(&tag) {
                counts.note(KIND, Some(format!("{tag}: {blocks} blocks, there is no file")));
            }
        }
    }
}

impl StateCounts {
    fn note(&mut self, kind: &'static str, difference: Option<String>) {
        let (compared, different) = self.kinds.entry(kind).or_default();
        *compared += 1;
        *different += u64::from(difference.is_some());
        self.differences.extend(difference);
    }
}

const fn kind(key: Key) -> &'static str {
    match key {
        Key::Slru(Slru::Clog, _) => "pg_xact",
        Key::Slru(Slru::CommitTimestamps, _) => "pg_commit_ts",
        Key::Slru(Slru::MultiXactOffsets, _) => "pg_multixact/offsets",
        Key::Slru(Slru::MultiXactMembers, _) => "pg_multixact/members",
        Key::Relmap { .. } => "relation maps",
        Key::TwoPhase(_) => "prepared transactions",
        Key::Origins => "replication origins",
        Key::Database { .. } => "databases",
        Key::Tablespace(_) => "tablespaces",
    }
}

fn different(ours: Option<&Vec<u8>>, theirs: &[u8], key: Key) -> Option<String> {
    let zeroes = [0; PAGE_BYTES];
    let page = match (key, ours) {
        // A page between two that were written is a hole in the file.
        (Key::Slru(..), None) if theirs == zeroes => return None,
        (Key::Slru(..), Some(ours)) => ours.as_slice().try_into().ok().zip(theirs.try_into().ok()),
        (_, None) => return Some(format!("{key}: not known")),
        _ => None,
    };
    match page {
        Some((ours, theirs)) => diff(ours, theirs).map(|found| format!("{key}: {found}")),
        None => (ours.map(Vec::as_slice) != Some(theirs)).then(|| format!("{key}: other bytes")),
    }
}

/// The same up to the last block of this file that is not all zeroes; 0 if all are.
fn written_to(file: RelationFile, bytes: &[u8]) -> u32 {
    let pages = bytes.as_chunks::<PAGE_BYTES>().0;
    let last = pages.iter().rposition(|page| page.iter().any(|&byte| byte != 0));
    last.map_or(0, |last| blocks_to(file, (last + 1) * PAGE_BYTES))
}
