//! All of a cluster's state in memory, kept up to date record by record: the simplest store there is, and with its
//! comparison with a stopped cluster's files the proof of the rest.

use std::collections::BTreeMap;
use std::fmt;

use super::{Counters, Key, Sizes, StateError, Touch, origins_of_file, redo, touches};
use crate::datadir::control::ControlFile;
use crate::datadir::layout::{RelationFile, SEGMENT_BLOCKS, two_phase_xid};
use crate::datadir::slru::Slru;
use crate::oid::Oid;
use crate::page::PAGE_BYTES;
use crate::redo::effects::{Change, effects, has_effects};
use crate::wal::error::WalError;
use crate::wal::record::Record;

/// The file that [`Key::Origins`] is in.
pub(super) const ORIGINS: &str = "pg_logical/replorigin_checkpoint";

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

impl State {
    /// Begins with the control file of a stopped cluster; its other files come with [`State::load`].
    pub fn new(control: &ControlFile) -> State {
        let counters = Counters { checkpoint: control.checkpoint, parameters: control.parameters };
        State { values: BTreeMap::new(), counters, sizes: Sizes::default() }
    }

    /// Begins with nothing known: what the WAL does not set stays at zero.
    #[must_use]
    pub fn unknown() -> State {
        State { values: BTreeMap::new(), counters: Counters::ZERO, sizes: Sizes::default() }
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
        self.apply_and(record, |_change| {})
    }

    /// The same, and shows each change before it is taken in.
    ///
    /// # Errors
    /// As [`State::apply`].
    pub fn apply_and(
        &mut self,
        record: &Record<'_>,
        mut each: impl FnMut(&Change<'_>),
    ) -> Result<(), ApplyError> {
        self.counters.note_xid(record.header.xid);
        self.sizes.note_blocks(record);
        if !has_effects(record.rmgr()) {
            return Ok(());
        }
        for change in effects(record).map_err(ApplyError::Wal)? {
            each(&change);
            for touch in touches(&change, &self.counters) {
                self.touch(touch, &change)?;
            }
            self.sizes.apply(&change);
            self.counters.apply(&change);
        }
        Ok(())
    }

    fn touch(&mut self, touch: Touch, change: &Change<'_>) -> Result<(), ApplyError> {
        match touch {
            Touch::Redo(key) => {
                let value = self.values.entry(key).or_default();
                redo(key, value, change).map_err(ApplyError::State)?;
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
        Ok(())
    }
}

/// Which values a file of the data directory holds: its path there, and its bytes.
pub fn values_of_file(path: &str, bytes: &[u8]) -> Vec<(Key, Vec<u8>)> {
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
pub(super) fn blocks_to(file: RelationFile, bytes: usize) -> u32 {
    let here = u32::try_from(bytes / PAGE_BYTES).unwrap_or(u32::MAX);
    file.segment.saturating_mul(SEGMENT_BLOCKS).saturating_add(here)
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
