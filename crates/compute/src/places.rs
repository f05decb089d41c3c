//! Where a compute has its things: all below one directory, all of it scratch.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use runtime::fs::blocking;

use crate::error::Error;

/// The directories and files of one compute.
#[derive(Clone, Debug)]
pub struct Places {
    /// Holds all the others, and the server's unix socket.
    pub directory: PathBuf,
    /// Where the branch is mounted.
    pub data: PathBuf,
    /// Files of the data directory that are no relations, as of the LSN: what Postgres starts from.
    pub skeleton: PathBuf,
    /// What is written to the mount.
    pub overlay: PathBuf,
    /// Where `pg_wal` really is.
    pub wal: PathBuf,
    /// Who may log in.
    pub hba: PathBuf,
    /// A replica's password for the page service.
    pub password: PathBuf,
}

impl Places {
    #[must_use]
    pub fn below(directory: &Path) -> Places {
        Places {
            directory: directory.to_owned(),
            data: directory.join("data"),
            skeleton: directory.join("skeleton"),
            overlay: directory.join("overlay"),
            wal: directory.join("pg_wal"),
            hba: directory.join("pg_hba.conf"),
            password: directory.join("pgpass"),
        }
    }

    /// Makes everything anew and empty; what an earlier compute left is thrown away.
    ///
    /// # Errors
    /// When something cannot be removed or made.
    pub fn clear(&self) -> Result<(), Error> {
        self.remove()?;
        for folder in self.folders() {
            blocking::create_dir_all(folder)
                .map_err(|source| Error::file("create directory", folder, source))?;
        }
        Ok(())
    }

    /// Gives everything to a user.
    ///
    /// # Errors
    /// When we may not.
    pub fn give(&self, uid: u32, gid: u32) -> Result<(), Error> {
        for folder in [&self.directory].into_iter().chain(self.folders()) {
            blocking::set_owner(folder, uid, gid)
                .map_err(|source| Error::file("change the owner of", folder, source))?;
        }
        Ok(())
    }

    /// Removes what a compute leaves. The mount must not be there (any more) for whoever calls this.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove(&self) -> Result<(), Error> {
        remove(&self.folders())
    }

    /// Removes the scratch while the mount is still there.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn discard(&self) -> Result<(), Error> {
        remove(&[&self.skeleton, &self.overlay, &self.wal])
    }

    fn folders(&self) -> [&PathBuf; 4] {
        [&self.data, &self.skeleton, &self.overlay, &self.wal]
    }
}

fn remove(folders: &[&PathBuf]) -> Result<(), Error> {
    for folder in folders {
        match blocking::remove_dir_all(folder) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                return Err(Error::file("remove directory", folder, source));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_compute_left_is_thrown_away() {
        let folder = std::env::temp_dir().join(format!("howdah-places-{}", std::process::id()));
        let places = Places::below(&folder);
        places.clear().expect("it can be made");
        let left = places.overlay.join("1a");
        blocking::write_atomic(&left, b"old").expect("it can be written");
        places.clear().expect("it can be made again");
        assert!(!blocking::exists(&left) && blocking::exists(&places.data));
        places.remove().expect("it can be removed");
        places.remove().expect("it is gone already");
        blocking::remove_dir_all(&folder).expect("it is ours");
    }
}
