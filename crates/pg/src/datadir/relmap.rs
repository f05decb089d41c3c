//! `pg_filenode.map`: which file a mapped catalog is in (`utils/cache/relmapper.c`).

use std::fmt;

use crate::oid::Oid;
use crate::wal::cursor::{Cursor, u32_at};

/// Bytes of the file (and of the data of a `RelMap/UPDATE` record) up to Postgres 15.
pub const FILE_BYTES: usize = 512;
/// The same from Postgres 16 on: room for 64 mappings instead of 62, and no padding at the end.
pub const FILE_BYTES_16: usize = 524;
const MAGIC: u32 = 0x0059_2717;

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
        let mappings_max = match bytes.len() {
            FILE_BYTES => 62,
            FILE_BYTES_16 => 64,
            _ => return Err(RelationMapError("wrong length")),
        };
        let checksum_at = 8 + mappings_max * 8;
        let covered = bytes.get(..checksum_at).unwrap_or_default();
        if u32_at(bytes, checksum_at) != Some(crc32c::crc32c(covered)) {
            return Err(RelationMapError("incorrect checksum"));
        }
        RelationMap::fields(covered, mappings_max)
            .ok_or(RelationMapError("wrong magic number or count"))
    }

    fn fields(bytes: &[u8], mappings_max: usize) -> Option<RelationMap> {
        let mut cursor = Cursor::new(bytes);
        let magic = cursor.u32()?;
        let count = cursor.count()?;
        if magic != MAGIC || count > mappings_max {
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
