//! The relation files of a cluster to compare with.

use std::path::{Path, PathBuf};

use runtime::fs;

use crate::error::Error;

/// Levels of folders below the data directory that can hold relation files:
/// `pg_tblspc/oid/PG_15_…/database/file`.
const DEPTH_MAX: usize = 4;
/// Folders at the top that hold relation files.
const RELATION_FOLDERS: [&str; 3] = ["base", "global", "pg_tblspc"];

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
