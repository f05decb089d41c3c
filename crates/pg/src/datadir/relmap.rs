//! `pg_filenode.map` of Postgres up to 15: which file a mapped catalog is in (`utils/cache/relmapper.c`).

use std::fmt;

use crate::oid::Oid;
use crate::wal::cursor::{Cursor, u32_at};

/// Bytes of the file (and of the data of a `RelMap/UPDATE` record).
pub const FILE_BYTES: usize = 512;
const MAGIC: u32 = 0x0059_2717;
const MAPPINGS_MAX: usize = 62;
const CHECKSUM_AT: usize = 504;

/// The map: (relation, file) pairs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationMap {
    pub mappings: Vec<(Oid, Oid)>,
}

/// What is wrong with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationMapError(pub &'static str);

impl RelationMap {
    pub fn parse(bytes: &[u8]) -> Result<RelationMap, RelationMapError> {
        if bytes.len() != FILE_BYTES {
            return Err(RelationMapError("wrong length"));
        }
        let covered = bytes.get(..CHECKSUM_AT).unwrap_or_default();
        if u32_at(bytes, CHECKSUM_AT) != Some(crc32c::crc32c(covered)) {
            return Err(RelationMapError("incorrect checksum"));
        }
        RelationMap::fields(covered).ok_or(RelationMapError("wrong magic number or count"))
    }

    fn fields(bytes: &[u8]) -> Option<RelationMap> {
        let mut cursor = Cursor::new(bytes);
        let magic = cursor.u32()?;
        let count = cursor.count()?;
        if magic != MAGIC || count > MAPPINGS_MAX {
            return None;
        }
        let mut mappings = Vec::with_capacity(count);
        for _each in 0..count {
            mappings.push((Oid(cursor.u32()?), Oid(cursor.u32()?)));
        }
        Some(RelationMap { mappings })
    }

    /// The file of a mapped relation.
    pub fn file_of(&self, relation: Oid) -> Option<Oid> {
        self.mappings.iter().find(|mapping| mapping.0 == relation).map(|mapping| mapping.1)
    }
}

impl fmt::Display for RelationMapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "relation mapping file contains invalid data: {}", self.0)
    }
}

impl std::error::Error for RelationMapError {}
