//! The files of the base backup that are neither relations nor kept by us in another way: copied as they were.

use std::path::PathBuf;

use pg::datadir::control::ControlFile;
use pg::datadir::layout::RelationFile;
use pg::datadir::slru::Slru;
use pg::oid::Oid;
use runtime::fs;

use crate::basebackup;
use crate::error::PageError;
use crate::timeline::Timeline;

/// Folders whose contents a server makes anew when it starts, or that belong to the server we follow.
const EMPTIED: [&str; 10] = [
    "pg_dynshmem",
    "pg_logical/mappings",
    "pg_logical/snapshots",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
];
/// Folders that this crate fills from what it knows.
const KEPT: [&str; 6] = ["base", "pg_multixact", "pg_tblspc", "pg_twophase", "pg_wal", "pg_xact"];
/// Files that are never copied: they belong to the running server, or to its last start.
const SKIPPED: [&str; 11] = [
    "backup_label",
    "backup_label.old",
    "backup_manifest",
    "current_logfiles",
    "pg_control",
    "pg_internal.init",
    "postmaster.opts",
    "postmaster.pid",
    "recovery.signal",
    "standby.signal",
    "tablespace_map",
];
/// Levels of folders below the data directory.
const DEPTH_MAX: usize = 8;
/// A file that is copied whole: configuration, and what extensions leave.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// The directory of the base backup.
pub struct BaseDirectory {
    directory: PathBuf,
    /// `global/pg_control`.
    pub control: Vec<u8>,
    /// Other files: path relative to the data directory, and bytes.
    pub others: Vec<(String, u64)>,
    /// Folders, relative to the data directory.
    pub folders: Vec<String>,
    /// Every segment of the transaction logs: which, its first page, pages.
    pub logs: Vec<(Slru, u32, u32)>,
    /// Tablespace and database of every folder with a relation map, shared relations' included.
    pub databases: Vec<(Oid, Oid)>,
    /// Transactions that have a file in `pg_twophase`.
    pub prepared: Vec<u32>,
}

impl BaseDirectory {
    /// Lists what is there.
    pub async fn open(timeline: &Timeline) -> Result<BaseDirectory, PageError> {
        let mut base = BaseDirectory {
            directory: timeline.directory.join(basebackup::FOLDER),
            control: Vec::new(),
            others: Vec::new(),
            folders: Vec::new(),
            logs: Vec::new(),
            databases: Vec::new(),
            prepared: Vec::new(),
        };
        base.control = base.read("global/pg_control").await?;
        let mut folders = vec![(String::new(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            let path = base.directory.join(&folder);
            let entries = fs::read_dir(&path).await.map_err(|error| failed(&folder, &error))?;
            for entry in entries {
                let Some(name) = entry.name.to_str() else { continue };
                let relative = match folder.as_str() {
                    "" => name.to_owned(),
                    folder => format!("{folder}/{name}"),
                };
                // What stands in pg_tblspc are links to folders.
                if entry.is_dir || folder == "pg_tblspc" {
                    if depth < DEPTH_MAX {
                        base.folders.push(relative.clone());
                        folders.push((relative, depth + 1));
                    }
                } else {
                    base.file(relative, entry.len);
                }
            }
        }
        base.others.sort_unstable();
        base.folders.sort_unstable();
        Ok(base)
    }

    /// What the cluster said of itself when the backup was taken.
    pub fn control(&self) -> Result<ControlFile, PageError> {
        ControlFile::parse(&self.control).map_err(|error| PageError::Damaged {
            page: "the base backup".to_owned(),
            what: error.to_string(),
        })
    }

    /// A file's bytes.
    pub async fn read(&self, path: &str) -> Result<Vec<u8>, PageError> {
        fs::read(self.directory.join(path)).await.map_err(|error| failed(path, &error))
    }

    fn file(&mut self, path: String, bytes: u64) {
        let name = path.rsplit('/').next().unwrap_or_default();
        let folder = path.strip_suffix(name).unwrap_or_default().trim_end_matches('/');
        if let Some((log, page)) = Slru::parse(&path) {
            let pages = u32::try_from(bytes / pg::page::PAGE_BYTES as u64).unwrap_or(0);
            self.logs.push((log, page, pages));
        } else if name == "pg_filenode.map" {
            self.databases.extend(database_of(folder));
        } else if folder == "pg_twophase" {
            self.prepared.extend(pg::datadir::layout::two_phase_xid(name));
        } else if is_copied(&path, folder, name) && bytes <= FILE_BYTES_MAX {
            self.others.push((path, bytes));
        }
    }
}

fn is_copied(path: &str, folder: &str, name: &str) -> bool {
    let top = folder.split('/').next().unwrap_or_default();
    let below = |list: &[&str]| {
        list.iter().any(|known| *known == top || folder.starts_with(&format!("{known}/")))
    };
    let temporary = name.starts_with("pgsql_tmp") || folder.contains("pgsql_tmp");
    let emptied = EMPTIED.contains(&folder);
    !(SKIPPED.contains(&name)
        || temporary
        || emptied
        || below(&KEPT)
        || below(&EMPTIED)
        || path.starts_with("pg_commit_ts/")
        || name.starts_with("pg_internal.init")
        || is_temporary_relation(name)
        || RelationFile::parse(path).is_some())
}

/// `t3_16384`, and its forks.
fn is_temporary_relation(name: &str) -> bool {
    let rest = name.strip_prefix('t').and_then(|rest| rest.split_once('_'));
    rest.is_some_and(|(backend, relation)| {
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        !backend.is_empty() && digits(backend) && relation.starts_with(|c: char| c.is_ascii_digit())
    })
}

/// Which database a folder is of.
fn database_of(folder: &str) -> Option<(Oid, Oid)> {
    let parts: Vec<&str> = folder.split('/').collect();
    let oid = |text: &str| text.parse().ok().map(Oid);
    match *parts.as_slice() {
        ["global"] => Some((Oid::GLOBAL_TABLESPACE, Oid(0))),
        ["base", database] => Some((Oid::DEFAULT_TABLESPACE, oid(database)?)),
        ["pg_tblspc", tablespace, _version, database] => Some((oid(tablespace)?, oid(database)?)),
        _ => None,
    }
}

fn failed(path: &str, error: &std::io::Error) -> PageError {
    PageError::Io { page: format!("file \"{path}\" of the base backup"), what: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_configuration_and_nothing_of_a_running_server() {
        let copied = |path: &str| {
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
            is_copied(path, folder, name)
        };
        for path in ["PG_VERSION", "postgresql.conf", "conf.d/a.conf", "pg_logical/x"] {
            assert!(copied(path), "{path}");
        }
        for path in [
            "postmaster.pid",
            "postmaster.opts",
            "backup_label",
            "global/pg_control",
            "global/pg_internal.init",
            "global/1262",
            "base/5/PG_VERSION",
            "base/5/t3_16384",
            "base/pgsql_tmp/pgsql_tmp1.0",
            "pg_stat/pgstat.stat",
            "pg_replslot/howdah/state",
            "pg_logical/snapshots/0-1.snap",
            "pg_wal/000000010000000000000001",
            "pg_xact/0000",
            "pg_commit_ts/0000",
            "pg_twophase/000002F0",
        ] {
            assert!(!copied(path), "{path}");
        }
    }

    #[test]
    fn names_the_database_of_a_folder() {
        assert_eq!(database_of("global"), Some((Oid(1664), Oid(0))));
        assert_eq!(database_of("base/5"), Some((Oid(1663), Oid(5))));
        let in_space = database_of("pg_tblspc/16400/PG_15_202209061/5");
        assert_eq!(in_space, Some((Oid(16400), Oid(5))));
        assert_eq!(database_of("base"), None);
    }
}
