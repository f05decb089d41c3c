//! Files where waiting does no harm: at start-up, on the command line, and on blocking threads.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{DirEntry, OpenOptions, operation};

/// An open file, with a cursor for [`Read`], [`Write`] and [`Seek`].
#[derive(Debug)]
pub struct File(fs::File);

impl File {
    /// # Errors
    /// What the system says.
    pub fn open(path: impl AsRef<Path>, options: OpenOptions) -> io::Result<Self> {
        operation::open(path.as_ref(), options).map(Self)
    }

    /// Opens for reading and writing, making it or emptying it.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        let options =
            OpenOptions { write: true, create: true, truncate: true, ..OpenOptions::default() };
        Self::open(path, options)
    }

    /// Reads up to `buffer.len()` bytes at `offset`.
    ///
    /// # Errors
    /// What the system says.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        operation::read_at(&self.0, buffer, offset)
    }

    /// # Errors
    /// What the system says; [`io::ErrorKind::UnexpectedEof`] when there are fewer bytes.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    /// # Errors
    /// What the system says.
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    /// Makes the contents durable.
    ///
    /// # Errors
    /// When that failed; the contents must then be taken for lost.
    pub fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    /// Makes contents and metadata durable.
    ///
    /// # Errors
    /// As [`sync_data`](Self::sync_data).
    pub fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    /// Bytes.
    ///
    /// # Errors
    /// What the system says.
    #[expect(
        clippy::len_without_is_empty,
        reason = "a file is asked for its length; emptiness is not a property"
    )]
    pub fn len(&self) -> io::Result<u64> {
        self.0.metadata().map(|metadata| metadata.len())
    }

    /// Cuts or extends (with zeros).
    ///
    /// # Errors
    /// What the system says.
    pub fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }
}

impl Read for File {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for File {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.0.seek(position)
    }
}

/// The whole contents of a file.
///
/// # Errors
/// What the system says.
pub fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    fs::read(path)
}

/// The whole contents of a text file.
///
/// # Errors
/// What the system says; [`io::ErrorKind::InvalidData`] when it is not UTF-8.
pub fn read_to_string(path: impl AsRef<Path>) -> io::Result<String> {
    fs::read_to_string(path)
}

/// See [`super::write_atomic`].
///
/// # Errors
/// What the system says.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> io::Result<()> {
    operation::write_atomic(path.as_ref(), bytes)
}

/// # Errors
/// What the system says.
pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    fs::rename(from, to)
}

/// # Errors
/// What the system says.
pub fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
    fs::remove_file(path)
}

/// Makes a folder, and those above it. Mode 0700.
///
/// # Errors
/// What the system says.
pub fn create_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    operation::create_dir_all(path.as_ref())
}

/// Removes a folder with all that is in it.
///
/// # Errors
/// What the system says.
pub fn remove_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    fs::remove_dir_all(path)
}

/// The entries of a folder, sorted by name.
///
/// # Errors
/// What the system says.
pub fn read_dir(path: impl AsRef<Path>) -> io::Result<Vec<DirEntry>> {
    operation::read_dir(path.as_ref())
}

/// Makes the names in a folder durable.
///
/// # Errors
/// What the system says.
pub fn sync_dir(path: impl AsRef<Path>) -> io::Result<()> {
    operation::sync_dir(path.as_ref())
}

/// Whether there is anything at `path`.
pub fn exists(path: impl AsRef<Path>) -> bool {
    path.as_ref().exists()
}

/// A file that only one process holds at a time; given up when it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock(fs::File);

impl Lock {
    /// Takes the lock, making the file if it is not there. `None`: another process holds it.
    ///
    /// # Errors
    /// What the system says.
    pub fn take(path: impl AsRef<Path>) -> io::Result<Option<Self>> {
        let options = OpenOptions { write: true, create: true, ..OpenOptions::default() };
        let file = operation::open(path.as_ref(), options)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// Replaces what the file says, for whoever looks who holds it.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, text: &str) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.write_all_at(text.as_bytes(), 0)
    }
}

/// The one absolute path of something that is there: without links, and without steps up.
///
/// # Errors
/// What the system says.
pub fn canonicalize(path: impl AsRef<Path>) -> io::Result<PathBuf> {
    fs::canonicalize(path)
}

/// Makes `link` point to `target`.
///
/// # Errors
/// What the system says; something that is already there is an error.
pub fn symlink(target: impl AsRef<Path>, link: impl AsRef<Path>) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

/// Gives a file or folder to a user and group. Only root may.
///
/// # Errors
/// What the system says.
pub fn set_owner(path: impl AsRef<Path>, uid: u32, gid: u32) -> io::Result<()> {
    std::os::unix::fs::chown(path, Some(uid), Some(gid))
}

/// Sets the permission bits of a file or folder.
///
/// # Errors
/// What the system says.
pub fn set_mode(path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// User and group that a file or folder belongs to.
///
/// # Errors
/// What the system says.
pub fn owner(path: impl AsRef<Path>) -> io::Result<(u32, u32)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(path)?;
    Ok((metadata.uid(), metadata.gid()))
}

/// Bytes that an ordinary user may still write to the file system that `path` is on.
///
/// # Errors
/// What the system says.
pub fn free_bytes(path: impl AsRef<Path>) -> io::Result<u64> {
    let system = rustix::fs::statvfs(path.as_ref())?;
    Ok(system.f_bavail.saturating_mul(system.f_frsize))
}

/// The user whose folder this is; `None` if it is something else, a link to one included.
///
/// # Errors
/// What the system says.
pub fn folder_owner(path: impl AsRef<Path>) -> io::Result<Option<u32>> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::symlink_metadata(path)?;
    Ok(metadata.is_dir().then(|| metadata.uid()))
}
