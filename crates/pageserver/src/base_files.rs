//! The relation files of the base backup, read by block.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pg::datadir::control::ControlFile;
use pg::datadir::layout::{RelationFile, SEGMENT_BLOCKS};
use pg::datadir::relation::RelTag;
use pg::datadir::slru::{SEGMENT_PAGES, Slru};
use pg::page::checksum;
use pg::page::header::is_new;
use runtime::fs::{self, File, OpenOptions};

use crate::basebackup;
use crate::error::{Error, PageError};
use crate::index::Index;
use crate::limits::PAGE_BYTES;
use crate::manifest::Manifest;
use crate::page_cache::Page;

/// Levels of folders below the data directory that can hold relation files:
/// `pg_tblspc/oid/PG_15_…/database/file`.
const DEPTH_MAX: usize = 4;
/// Folders at the top that hold relation files.
const RELATION_FOLDERS: [&str; 3] = ["base", "global", "pg_tblspc"];

/// The files of one base backup.
pub struct BaseFiles {
    directory: PathBuf,
    data_checksums: bool,
    /// Where each relation file is: the name of the folder in a tablespace is the server's.
    paths: BTreeMap<RelationFile, PathBuf>,
    open: RefCell<Option<(PathBuf, File)>>,
}

impl BaseFiles {
    /// Finds all relation files and tells their sizes to the index.
    pub async fn open(
        directory: &Path,
        manifest: &Manifest,
        index: &mut Index,
    ) -> Result<BaseFiles, Error> {
        let directory = directory.join(basebackup::FOLDER);
        let mut paths = BTreeMap::new();
        let mut sizes: BTreeMap<RelTag, u32> = BTreeMap::new();
        for (path, bytes) in relation_files(&directory).await? {
            let Some(file) = path.to_str().and_then(RelationFile::parse) else { continue };
            let blocks = u32::try_from(bytes / PAGE_BYTES as u64).unwrap_or(SEGMENT_BLOCKS);
            let end = file.segment.saturating_mul(SEGMENT_BLOCKS).saturating_add(blocks);
            let size = sizes.entry(file.tag).or_default();
            *size = (*size).max(end);
            paths.insert(file, path);
        }
        for (tag, blocks) in sizes {
            index.add_base(tag, blocks);
        }
        let data_checksums = manifest.data_checksums;
        Ok(BaseFiles { directory, data_checksums, paths, open: RefCell::new(None) })
    }

    /// A block as it was copied; `None` if the file does not reach so far.
    pub async fn block(&self, tag: RelTag, block: u32) -> Result<Option<Box<Page>>, PageError> {
        let name = || format!("block {block} of relation {tag}");
        let Some(path) = self.paths.get(&RelationFile::of_block(tag, block)) else {
            return Ok(None);
        };
        let offset = u64::from(block % SEGMENT_BLOCKS) * PAGE_BYTES as u64;
        let failed =
            |error: std::io::Error| PageError::Io { page: name(), what: error.to_string() };
        let Some(page) = self.read(path, offset).await.map_err(failed)? else { return Ok(None) };
        if self.data_checksums && !has_valid_checksum(&page, block) {
            let what = "its copy in the base backup does not match its checksum".to_owned();
            return Err(PageError::Damaged { page: name(), what });
        }
        Ok(Some(page))
    }

    /// A page of `pg_xact` as it was copied; `None` if there was none.
    pub async fn transactions(&self, page: u32) -> std::io::Result<Option<Box<Page>>> {
        let offset = u64::from(page % SEGMENT_PAGES) * PAGE_BYTES as u64;
        match self.read(Path::new(&Slru::Clog.path(page)), offset).await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            other => other,
        }
    }

    /// What the cluster said of itself when the backup was taken.
    pub async fn control(&self) -> Result<ControlFile, Error> {
        let path = self.directory.join("global/pg_control");
        let bytes = fs::read(&path).await.map_err(|source| Error::file("read", &path, source))?;
        ControlFile::parse(&bytes).map_err(|error| Error::Damaged(error.to_string()))
    }

    async fn read(&self, path: &Path, offset: u64) -> std::io::Result<Option<Box<Page>>> {
        let file = self.file(path).await?;
        let (read, buffer) = file.read_at(vec![0; PAGE_BYTES], offset).await;
        if read? < PAGE_BYTES {
            return Ok(None);
        }
        let page: Result<Box<Page>, _> = buffer.into_boxed_slice().try_into();
        Ok(page.ok())
    }

    async fn file(&self, path: &Path) -> std::io::Result<File> {
        let open = self.open.borrow().as_ref().map(|(open, file)| (open == path, file.clone()));
        if let Some((true, file)) = open {
            return Ok(file);
        }
        let file = File::open(self.directory.join(path), OpenOptions::default()).await?;
        *self.open.borrow_mut() = Some((path.to_owned(), file.clone()));
        Ok(file)
    }
}

/// An empty page has none.
fn has_valid_checksum(page: &Page, block: u32) -> bool {
    let told = u16::from_le_bytes([page[8], page[9]]);
    is_new(page) || told == checksum::checksum(page, block)
}

/// All files in the folders of a data directory that hold relations: path relative to it, and bytes.
/// Links (tablespaces) are followed.
pub(crate) async fn relation_files(directory: &Path) -> Result<Vec<(PathBuf, u64)>, Error> {
    let mut found = Vec::new();
    let mut folders: Vec<(PathBuf, usize)> =
        RELATION_FOLDERS.iter().map(|name| (PathBuf::from(name), 1)).collect();
    while let Some((folder, depth)) = folders.pop() {
        let path = directory.join(&folder);
        let entries = match fs::read_dir(&path).await {
            Ok(entries) => entries,
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => continue,
            Err(source) => return Err(Error::file("read directory", &path, source)),
        };
        for entry in entries {
            let relative = folder.join(&entry.name);
            // What stands in pg_tblspc are links to folders.
            let is_folder = entry.is_dir || folder.as_os_str() == "pg_tblspc";
            if is_folder && depth < DEPTH_MAX {
                folders.push((relative, depth + 1));
            } else if !is_folder {
                found.push((relative, entry.len));
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}
