//! All of a cluster's state in memory, kept up to date record by record, and its comparison with a stopped cluster's
//! files: the simplest store there is, and the proof of the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{
    Counters, Key, Sizes, StateError, Touch, origins_file, origins_of_file, redo, touches,
};
use crate::datadir::control::ControlFile;
use crate::datadir::layout::{RelationFile, SEGMENT_BLOCKS, two_phase_xid};
use crate::datadir::relation::{Fork, RelNode, RelTag};
use crate::datadir::slru::Slru;
use crate::oid::Oid;
use crate::page::PAGE_BYTES;
use crate::page::diff::diff;
use crate::redo::effects::effects;
use crate::wal::error::WalError;
use crate::wal::record::Record;

/// The file that [`Key::Origins`] is in.
const ORIGINS: &str = "pg_logical/replorigin_checkpoint";

/// The state of a cluster.
#[derive(Debug)]
pub struct State {
    pub values: BTreeMap<Key, Vec<u8>>,
    pub counters: Counters,
    pub sizes: Sizes,
}

/// Why a record could not be taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApplyError {
    Wal(WalError),
    State(StateError),
}

/// Things of each kind that were compared, and what differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateCounts {
    /// By kind: compared, different.
    pub kinds: BTreeMap<&'static str, (u64, u64)>,
    pub differences: Vec<String>,
}

impl State {
    /// Begins with the control file of a stopped cluster; its other files come with [`State::load`].
    pub fn new(control: &ControlFile) -> State {
        let counters = Counters { checkpoint: control.checkpoint, parameters: control.parameters };
        State { values: BTreeMap::new(), counters, sizes: Sizes::default() }
    }

    /// Takes a file of the stopped cluster: its path in the data directory, and its bytes.
    pub fn load(&mut self, path: &str, bytes: &[u8]) {
        for (key, value) in values_of_file(path, bytes) {
            self.values.insert(key, value);
        }
        if let Some(file) = RelationFile::parse(path) {
            self.sizes.load(file.tag, blocks_to(file, bytes.len()));
        }
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// A record whose data make no sense, or that does not fit the state.
    pub fn apply(&mut self, record: &Record<'_>) -> Result<(), ApplyError> {
        self.counters.note_xid(record.header.xid);
        self.sizes.note_blocks(record);
        for change in effects(record).map_err(ApplyError::Wal)? {
            for touch in touches(&change, &self.counters) {
                match touch {
                    Touch::Redo(key) => {
                        let value = self.values.entry(key).or_default();
                        redo(key, value, &change).map_err(ApplyError::State)?;
                    }
                    Touch::Remove(key) => drop(self.values.remove(&key)),
                    Touch::Copy { key, source } => {
                        let value = self.values.get(&source).cloned().unwrap_or_default();
                        self.values.insert(key, value);
                    }
                    Touch::RemovePages(slru, removal) => self.values.retain(|key, _value| {
                        !matches!(key, Key::Slru(of, page) if *of == slru && removal.removes(slru, *page))
                    }),
                }
            }
            self.sizes.apply(&change);
            self.counters.apply(&change);
        }
        Ok(())
    }

    /// Compares with the files of the stopped cluster, whose paths in the data directory and bytes `files` are.
    ///
    /// Not compared: what no record tells of, which is unlogged relations and free space maps.
    pub fn compare<'f>(&self, files: impl Iterator<Item = (&'f str, &'f [u8])>) -> StateCounts {
        let mut counts = StateCounts::default();
        let mut sizes: BTreeMap<RelTag, (u32, u32)> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let mut origins = Vec::new();
        for (path, bytes) in files {
            if let Some(file) = RelationFile::parse(path) {
                let size = sizes.entry(file.tag).or_default();
                size.0 = size.0.max(blocks_to(file, bytes.len()));
                size.1 = size.1.max(written_to(file, bytes));
            }
            if path == ORIGINS {
                bytes.clone_into(&mut origins);
            }
            if path == "global/pg_control" {
                self.compare_counters(bytes, &mut counts);
            }
            for (key, theirs) in values_of_file(path, bytes) {
                if key != Key::Origins {
                    counts.note(kind(key), different(self.values.get(&key), &theirs, key));
                    seen.insert(key);
                }
            }
        }
        let ours = origins_file(self.values.get(&Key::Origins).map_or(&[], Vec::as_slice));
        let same = ours == origins || (origins.is_empty() && ours.len() == 8);
        counts
            .note("replication origins", (!same).then(|| "replication origins differ".to_owned()));
        let compared =
            |key: &Key| !matches!(key, Key::Origins | Key::Database { .. } | Key::Tablespace(_));
        for key in self.values.keys().filter(|key| compared(key) && !seen.contains(key)) {
            counts.note(kind(*key), Some(format!("{key}: there is no such file")));
        }
        self.compare_sizes(&sizes, &mut counts);
        counts
    }

    fn compare_counters(&self, control: &[u8], counts: &mut StateCounts) {
        let what = match ControlFile::parse(control) {
            Err(error) => Some(error.to_string()),
            Ok(file) => {
                let theirs = Counters { checkpoint: file.checkpoint, parameters: file.parameters };
                (theirs != self.counters).then(|| {
                    format!("counters: {:?}, the control file has {theirs:?}", self.counters)
                })
            }
        };
        counts.note("counters", what);
    }

    fn compare_sizes(&self, theirs: &BTreeMap<RelTag, (u32, u32)>, counts: &mut StateCounts) {
        let unlogged: BTreeSet<RelNode> =
            theirs.keys().filter(|tag| tag.fork == Fork::Init).map(|tag| tag.node()).collect();
        let is_logged = |tag: RelTag| {
            tag.fork != Fork::Fsm && (tag.fork == Fork::Init || !unlogged.contains(&tag.node()))
        };
        for (&tag, &(blocks, written)) in theirs.iter().filter(|(tag, _)| is_logged(**tag)) {
            // What the server made ready ahead of use is zeroes.
            let ours = self.sizes.get(tag);
            let fits = ours.map_or(written == 0 && tag.fork == Fork::Vm, |ours| {
                (written..=blocks).contains(&ours)
            });
            let ours = ours.map_or("none".to_owned(), |ours| ours.to_string());
            let what =
                format!("{tag}: {ours} blocks, the files have {blocks}, {written} of them written");
            counts.note("relation sizes", (!fits).then_some(what));
        }
        for (tag, blocks) in self.sizes.iter().filter(|(tag, _)| is_logged(*tag)) {
            if !theirs.contains_key(&tag) {
                counts.note(
                    "relation sizes",
                    Some(format!("{tag}: {blocks} blocks, there is no file")),
                );
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

/// Which values a file of the data directory holds.
fn values_of_file(path: &str, bytes: &[u8]) -> Vec<(Key, Vec<u8>)> {
    if let Some((slru, first)) = Slru::parse(path) {
        let pages = bytes.as_chunks::<PAGE_BYTES>().0;
        let pages = (first..).zip(pages);
        return pages.map(|(number, page)| (Key::Slru(slru, number), page.to_vec())).collect();
    }
    if let Some((tablespace, database)) = relmap_place(path) {
        return vec![(Key::Relmap { tablespace, database }, bytes.to_vec())];
    }
    if let Some(xid) = path.strip_prefix("pg_twophase/").and_then(two_phase_xid) {
        return vec![(Key::TwoPhase(xid), bytes.to_vec())];
    }
    if path == ORIGINS {
        return origins_of_file(bytes).map(|value| (Key::Origins, value)).into_iter().collect();
    }
    Vec::new()
}

/// `global/pg_filenode.map`, `base/5/pg_filenode.map`, `pg_tblspc/16400/PG_15_202209061/5/pg_filenode.map`.
fn relmap_place(path: &str) -> Option<(Oid, Oid)> {
    let parts: Vec<&str> = path.strip_suffix("/pg_filenode.map")?.split('/').collect();
    let oid = |text: &str| text.parse().ok().map(Oid);
    match *parts.as_slice() {
        ["global"] => Some((Oid::GLOBAL_TABLESPACE, Oid(0))),
        ["base", database] => Some((Oid::DEFAULT_TABLESPACE, oid(database)?)),
        ["pg_tblspc", tablespace, _version, database] => Some((oid(tablespace)?, oid(database)?)),
        _ => None,
    }
}

/// Blocks of the fork up to the end of this file of it.
fn blocks_to(file: RelationFile, bytes: usize) -> u32 {
    let here = u32::try_from(bytes / PAGE_BYTES).unwrap_or(u32::MAX);
    file.segment.saturating_mul(SEGMENT_BLOCKS).saturating_add(here)
}

/// The same up to the last block of this file that is not all zeroes; 0 if all are.
fn written_to(file: RelationFile, bytes: &[u8]) -> u32 {
    let pages = bytes.as_chunks::<PAGE_BYTES>().0;
    let last = pages.iter().rposition(|page| page.iter().any(|&byte| byte != 0));
    last.map_or(0, |last| blocks_to(file, (last + 1) * PAGE_BYTES))
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApplyError::Wal(error) => fmt::Display::fmt(error, f),
            ApplyError::State(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl std::error::Error for ApplyError {}
