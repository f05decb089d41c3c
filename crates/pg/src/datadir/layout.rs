//! Paths of relation files ↔ relations (`common/relpath.c`), and what may be served of a data directory.

use std::fmt;

use crate::datadir::relation::{Fork, RelNode, RelTag};
use crate::oid::Oid;
use crate::wal::segment::WalVersion;

/// Blocks of a relation's file before the next one begins (`RELSEG_SIZE`): 1 GiB.
pub const SEGMENT_BLOCKS: u32 = 131_072;

/// One file of a relation's fork: `segment` 0 has no suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationFile {
    pub tag: RelTag,
    pub segment: u32,
}

impl RelationFile {
    /// The file that holds a block.
    pub const fn of_block(tag: RelTag, block: u32) -> RelationFile {
        RelationFile { tag, segment: block / SEGMENT_BLOCKS }
    }

    /// Reads a path relative to the data directory: `base/5/1259_vm.1`, `global/1262`,
    /// `pg_tblspc/16400/PG_15_202209061/5/16402`. Temporary relations (`t3_16384`) are `None`.
    pub fn parse(path: &str) -> Option<RelationFile> {
        let parts: Vec<&str> = path.split('/').collect();
        let (spcnode, dbnode, name) = match *parts.as_slice() {
            ["global", name] => (Oid::GLOBAL_TABLESPACE, Oid(0), name),
            ["base", database, name] => (Oid::DEFAULT_TABLESPACE, Oid(number(database)?), name),
            ["pg_tblspc", tablespace, version, database, name] if version.starts_with("PG_") => {
                (Oid(number(tablespace)?), Oid(number(database)?), name)
            }
            _ => return None,
        };
        let (relnode, fork, segment) = file_name(name)?;
        let tag = RelTag { spcnode, dbnode, relnode: Oid(relnode), fork };
        Some(RelationFile { tag, segment })
    }

    /// The path relative to the data directory; `version_directory` (`PG_15_202209061`) is used in tablespaces.
    pub const fn path(self, version_directory: &str) -> RelationPath<'_> {
        RelationPath { file: self, version_directory }
    }
}

/// `1259`, `1259_vm`, `1259.1`, `1259_fsm.2`.
fn file_name(name: &str) -> Option<(u32, Fork, u32)> {
    let (stem, segment) = match name.split_once('.') {
        Some((stem, segment)) => (stem, number(segment).filter(|&segment| segment > 0)?),
        None => (name, 0),
    };
    let (digits, fork) = match stem.split_once('_') {
        None => (stem, Fork::Main),
        Some((digits, "fsm")) => (digits, Fork::Fsm),
        Some((digits, "vm")) => (digits, Fork::Vm),
        Some((digits, "init")) => (digits, Fork::Init),
        Some(_) => return None,
    };
    Some((number(digits)?, fork, segment))
}

fn number(digits: &str) -> Option<u32> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let leading_zero = digits.len() > 1 && digits.starts_with('0');
    if plain && !leading_zero { digits.parse().ok() } else { None }
}

/// Shows a [`RelationFile`] as a path.
#[derive(Clone, Copy, Debug)]
pub struct RelationPath<'v> {
    file: RelationFile,
    version_directory: &'v str,
}

impl fmt::Display for RelationPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RelationFile { tag, segment } = self.file;
        write!(f, "{}/{}", database_directory(tag.node(), self.version_directory), tag.relnode)?;
        if tag.fork != Fork::Main {
            write!(f, "_{}", tag.fork)?;
        }
        if segment > 0 {
            write!(f, ".{segment}")?;
        }
        Ok(())
    }
}

/// The directory that holds a relation's files; `relnode` does not matter.
pub fn database_directory(node: RelNode, version_directory: &str) -> String {
    match node.spcnode {
        Oid::GLOBAL_TABLESPACE => "global".to_owned(),
        Oid::DEFAULT_TABLESPACE => format!("base/{}", node.dbnode),
        tablespace => format!("pg_tblspc/{tablespace}/{version_directory}/{}", node.dbnode),
    }
}

/// The directory that a major version makes in each tablespace: `PG_15_202209061`.
pub fn version_directory(major: u32, catalog_version: u32) -> String {
    format!("PG_{major}_{catalog_version}")
}

/// The file of a prepared transaction. From 17 on its name has the epoch, too, which follows from the next
/// transaction id: prepared transactions are at most half the circle of ids older than that.
pub fn two_phase_file(version: WalVersion, xid: u32, next_xid: u64) -> String {
    if !version.has_17_records() {
        return format!("pg_twophase/{xid:08X}");
    }
    let (epoch, next) = (next_xid >> 32, next_xid & 0xFFFF_FFFF);
    let epoch = if u64::from(xid) > next { epoch.saturating_sub(1) } else { epoch };
    format!("pg_twophase/{epoch:08X}{xid:08X}")
}

/// The transaction of a file in `pg_twophase`: 8 hexadecimal digits, from 17 on 16.
pub fn two_phase_xid(name: &str) -> Option<u32> {
    let plain = name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    let start = name.len().checked_sub(8).filter(|&start| plain && matches!(start, 0 | 8))?;
    u32::from_str_radix(name.get(start..)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_relations_are_the_same_thing() {
        let node = |spc, db, rel| RelNode::new(spc, db, rel);
        for (path, tag, segment) in [
            ("base/5/1259", node(1663, 5, 1259).fork(Fork::Main), 0),
            ("base/5/1259_vm.1", node(1663, 5, 1259).fork(Fork::Vm), 1),
            ("base/16384/16385_fsm", node(1663, 16384, 16385).fork(Fork::Fsm), 0),
            ("global/1262", node(1664, 0, 1262).fork(Fork::Main), 0),
            ("base/1/16390_init", node(1663, 1, 16390).fork(Fork::Init), 0),
            (
                "pg_tblspc/16400/PG_15_202209061/5/16402.3",
                node(16400, 5, 16402).fork(Fork::Main),
                3,
            ),
        ] {
            let file = RelationFile { tag, segment };
            assert_eq!(RelationFile::parse(path), Some(file), "{path}");
            assert_eq!(file.path("PG_15_202209061").to_string(), path);
        }
    }

    #[test]
    fn files_of_prepared_transactions_have_the_epoch_from_17_on() {
        let next = 5 << 32 | 0x2F1;
        for (version, xid, name) in [
            (WalVersion::V16, 0x2F0, "000002F0"),
            (WalVersion::V17, 0x2F0, "00000005000002F0"),
            (WalVersion::V17, 0xFFFF_FFF0, "00000004FFFFFFF0"),
        ] {
            assert_eq!(two_phase_file(version, xid, next), format!("pg_twophase/{name}"));
            assert_eq!(two_phase_xid(name), Some(xid));
        }
        for name in ["", "2F0", "00000005000002f0", "00000005000002F00"] {
            assert_eq!(two_phase_xid(name), None, "{name}");
        }
    }

    #[test]
    fn other_files_are_not_relations() {
        for path in [
            "base/5/pg_filenode.map",
            "base/5/PG_VERSION",
            "base/5/t3_16384",
            "base/5/1259.0",
            "base/5/01259",
            "base/5/1259_xx",
            "base/5",
            "global/pg_control",
            "base/pgsql_tmp/pgsql_tmp1.0",
            "pg_tblspc/16400/5/16402",
            "pg_xact/0000",
            "base/5/99999999999",
            "",
        ] {
            assert_eq!(RelationFile::parse(path), None, "{path}");
        }
    }
}
