//! The files of the base backup that are neither relations nor values of another kind (see [`crate::state`]): kept as they
//! were.

use std::rc::Rc;

use pg::datadir::control::ControlFile;
use pg::datadir::layout::RelationFile;
use pg::lsn::Lsn;

use crate::bytes::{Reader, Writer};
use crate::error::PageError;
use crate::keys;
use crate::limits::{FILE_PIECE_BYTES, FOLDER_DEPTH_MAX};
use crate::payload::Payload;
use crate::timeline::Timeline;

/// What the cluster says of itself.
pub const CONTROL: &str = "global/pg_control";
/// First byte of a written list.
const FORMAT: u64 = 1;
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
const KEPT: [&str; 7] =
    ["base", "pg_commit_ts", "pg_multixact", "pg_tblspc", "pg_twophase", "pg_wal", "pg_xact"];
/// Files that are never copied: they belong to the running server, or to its last start, or are values.
const SKIPPED: [&str; 13] = [
    "backup_label",
    "backup_label.old",
    "backup_manifest",
    "current_logfiles",
    "pg_control",
    "pg_filenode.map",
    "pg_internal.init",
    "postmaster.opts",
    "postmaster.pid",
    "recovery.signal",
    "replorigin_checkpoint",
    "standby.signal",
    "tablespace_map",
];

/// Which files and folders there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileList {
    /// Path relative to the data directory, and bytes; the first one's number in the store is 1.
    files: Vec<(String, u64)>,
    /// Folders, relative to the data directory.
    pub folders: Vec<String>,
}

impl FileList {
    /// Answers the file's number.
    pub fn add(&mut self, path: String, bytes: u64) -> u32 {
        self.files.push((path, bytes));
        u32::try_from(self.files.len()).unwrap_or(u32::MAX)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.number(FORMAT);
        out.number(self.files.len() as u64);
        for (path, bytes) in &self.files {
            out.bytes(path.as_bytes());
            out.number(*bytes);
        }
        out.number(self.folders.len() as u64);
        self.folders.iter().for_each(|folder| out.bytes(folder.as_bytes()));
        out.0
    }

    /// Reads what [`FileList::to_bytes`] made; `None` if it is not that.
    pub fn from_bytes(bytes: &[u8]) -> Option<FileList> {
        let (mut input, mut list) = (Reader(bytes), FileList::default());
        if input.number()? != FORMAT {
            return None;
        }
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
        for _ in 0..input.count()? {
            list.files.push((text(input.bytes()?)?, input.number()?));
        }
        for _ in 0..input.count()? {
            list.folders.push(text(input.bytes()?)?);
        }
        input.0.is_empty().then_some(list)
    }
}

/// The base backup's other files.
pub struct BaseDirectory {
    timeline: Rc<Timeline>,
    /// As of when they are read.
    lsn: Lsn,
    list: FileList,
    /// `global/pg_control`.
    pub control: Vec<u8>,
    /// Other files: path relative to the data directory, and bytes.
    pub others: Vec<(String, u64)>,
    /// Folders, relative to the data directory.
    pub folders: Vec<String>,
}

impl BaseDirectory {
    /// Lists what is there.
    pub async fn open(timeline: &Rc<Timeline>, lsn: Lsn) -> Result<BaseDirectory, PageError> {
        let list = read_piece(timeline, (0, 0), lsn, "the list of files").await?;
        let list = FileList::from_bytes(&list)
            .ok_or_else(|| damaged("the list of files", "it is invalid"))?;
        let mut others = list.files.clone();
        others.retain(|(path, _bytes)| path != CONTROL);
        others.sort_unstable();
        let mut folders = list.folders.clone();
        folders.retain(|folder| folder.split('/').count() <= FOLDER_DEPTH_MAX);
        folders.sort_unstable();
        let timeline = Rc::clone(timeline);
        let control = Vec::new();
        let mut base = BaseDirectory { timeline, lsn, list, control, others, folders };
        base.control = base.read(CONTROL).await?;
        Ok(base)
    }

    /// What the cluster said of itself when the backup was taken.
    pub fn control(&self) -> Result<ControlFile, PageError> {
        ControlFile::parse(&self.control).map_err(|error| damaged(CONTROL, &error.to_string()))
    }

    /// A file's bytes.
    pub async fn read(&self, path: &str) -> Result<Vec<u8>, PageError> {
        let found = (1..).zip(&self.list.files).find(|(_, file)| file.0 == path);
        let (number, bytes) = match found {
            Some((number, (_, bytes))) => (number, *bytes),
            None => return Err(damaged(path, "it is not there")),
        };
        let pieces = bytes.div_ceil(FILE_PIECE_BYTES as u64);
        let mut all = Vec::new();
        for piece in 0..u32::try_from(pieces).unwrap_or(u32::MAX) {
            all.append(&mut read_piece(&self.timeline, (number, piece), self.lsn, path).await?);
        }
        if all.len() as u64 != bytes {
            return Err(damaged(path, "it has another length"));
        }
        Ok(all)
    }
}

async fn read_piece(
    timeline: &Timeline,
    (number, piece): (u32, u32),
    lsn: Lsn,
    path: &str,
) -> Result<Vec<u8>, PageError> {
    let failed = |error: std::io::Error| PageError::Io {
        page: format!("file \"{path}\" of the base backup"),
        what: error.to_string(),
    };
    let key = keys::file(number, piece);
    let versions = timeline.versions(key, Lsn::INVALID, lsn).await.map_err(failed)?;
    let version = versions.last().ok_or_else(|| damaged(path, "it is not there"))?;
    let content = timeline.content(version).await.map_err(failed)?;
    match content.payload(version.lsn) {
        Ok(Payload::Value(value)) => Ok(value.to_vec()),
        Ok(_) => Err(damaged(path, "another kind is stored")),
        Err(what) => Err(damaged(path, &what)),
    }
}

/// Whether a file belongs into a copy of the cluster as it is.
pub fn is_copied(path: &str) -> bool {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
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

fn damaged(path: &str, what: &str) -> PageError {
    let page = format!("file \"{path}\" of the base backup");
    PageError::Damaged { page, what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_configuration_and_nothing_of_a_running_server() {
        for path in ["PG_VERSION", "postgresql.conf", "conf.d/a.conf", "pg_logical/x"] {
            assert!(is_copied(path), "{path}");
        }
        for path in [
            "postmaster.pid",
            "postmaster.opts",
            "backup_label",
            "global/pg_control",
            "global/pg_filenode.map",
            "global/pg_internal.init",
            "global/1262",
            "base/5/PG_VERSION",
            "base/5/t3_16384",
            "base/pgsql_tmp/pgsql_tmp1.0",
            "pg_stat/pgstat.stat",
            "pg_replslot/howdah/state",
            "pg_logical/replorigin_checkpoint",
            "pg_logical/snapshots/0-1.snap",
            "pg_wal/000000010000000000000001",
            "pg_xact/0000",
            "pg_commit_ts/0000",
            "pg_twophase/000002F0",
        ] {
            assert!(!is_copied(path), "{path}");
        }
    }

    #[test]
    fn a_list_comes_back_from_its_bytes() {
        let mut list = FileList::default();
        assert_eq!(list.add("postgresql.conf".to_owned(), 70_000), 1);
        assert_eq!(list.add("PG_VERSION".to_owned(), 3), 2);
        list.folders.push("conf.d".to_owned());
        let bytes = list.to_bytes();
        assert_eq!(FileList::from_bytes(&bytes), Some(list));
        for end in 0..bytes.len() {
            assert_eq!(FileList::from_bytes(&bytes[..end]), None, "cut at {end}");
        }
    }
}
