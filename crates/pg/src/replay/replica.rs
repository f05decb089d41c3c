//! A cluster kept up to date from its WAL alone, in memory: what recovery does, but for the files.

use std::fmt;

use super::Pages;
use crate::datadir::layout::{RelationFile, SEGMENT_BLOCKS};
use crate::datadir::relation::Fork;
use crate::page::vm;
use crate::redo::effects::Change;
use crate::redo::visibility::implied_vm_clears;
use crate::redo::{Options, RedoError, redo};
use crate::state::{ApplyError, State};
use crate::wal::error::WalError;
use crate::wal::reader::{BATCH_RECORDS, Batch};
use crate::wal::record::Record;

/// Pages, and what is kept beside them.
#[derive(Debug)]
pub struct Replica {
    pub pages: Pages,
    pub state: State,
    pub options: Options,
    data_checksums: bool,
}

/// Why a record could not be taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicaError {
    Wal(WalError),
    Page(RedoError),
    State(ApplyError),
}

impl Replica {
    /// Begins with the state of a base; its pages and the rest of its files come with [`Replica::load`].
    #[must_use]
    pub fn new(state: State, data_checksums: bool) -> Replica {
        let hints_logged = data_checksums || state.counters.parameters.wal_log_hints;
        let options = Options { hints_logged };
        Replica { pages: Pages::default(), state, options, data_checksums }
    }

    /// Takes a file of the base: its path relative to the data directory, and its bytes.
    pub fn load(&mut self, path: &str, bytes: Vec<u8>) {
        self.state.load(path, &bytes);
        if let Some(file) = RelationFile::parse(path) {
            let first = file.segment.saturating_mul(SEGMENT_BLOCKS);
            self.pages.load(file.tag, first, bytes);
        }
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// When it does not fit what is here.
    pub fn apply(&mut self, record: &Record<'_>) -> Result<(), ReplicaError> {
        for block in &record.blocks {
            if let Some(page) = self.pages.get_or_zero(block.tag, block.number) {
                redo(record, block.id, page, self.options).map_err(ReplicaError::Page)?;
            }
        }
        self.apply_effects(record).map_err(ReplicaError::State)
    }

    /// Takes the next records.
    ///
    /// # Errors
    /// When one cannot be decoded, or does not fit what is here; those before it have been taken.
    pub fn apply_batch(&mut self, batch: &Batch<'_>) -> Result<(), ReplicaError> {
        let mut records = Vec::with_capacity(BATCH_RECORDS);
        let mut outcome = Ok(());
        for raw in batch.records() {
            match raw.decode() {
                Ok(record) => records.push(record),
                Err(error) => {
                    outcome = Err(ReplicaError::Wal(error));
                    break;
                }
            }
        }
        let blocks = records.iter().flat_map(|record: &Record<'_>| record.blocks.iter());
        self.pages.warm(blocks.map(|block| (block.tag, block.number)));
        records.iter().try_for_each(|record| self.apply(record)).and(outcome)
    }

    /// What the record does besides changing the blocks that it names.
    ///
    /// # Errors
    /// When its data make no sense, or do not fit the state.
    pub fn apply_effects(&mut self, record: &Record<'_>) -> Result<(), ApplyError> {
        for clear in implied_vm_clears(record) {
            let (map, block) = (clear.node.fork(Fork::Vm), vm::map_block(clear.heap_block));
            if let Some(page) = self.pages.get_mut(map, block) {
                vm::clear(page, clear.heap_block, clear.bits);
            }
        }
        let Replica { pages, state, options, data_checksums } = self;
        state.apply_and(record, |change| {
            if let Change::ParametersChanged(parameters) = change {
                options.hints_logged = *data_checksums || parameters.wal_log_hints;
            }
            pages.apply(change);
        })
    }
}

impl fmt::Display for ReplicaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReplicaError::Wal(error) => fmt::Display::fmt(error, f),
            ReplicaError::Page(error) => fmt::Display::fmt(error, f),
            ReplicaError::State(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl std::error::Error for ReplicaError {}
