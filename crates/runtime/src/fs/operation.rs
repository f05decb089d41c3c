//! What can be done with files, as values: so that a thread, the ring or the simulator can do it.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::{DirEntry, OpenOptions, parent};

/// An open file, shared with the operations on it.
#[derive(Clone, Debug)]
pub(crate) enum Handle {
    System(Arc<fs::File>),
    /// A file of the simulated disk.
    Simulated(u64),
}

impl Handle {
    /// The system's file.
    ///
    /// # Errors
    /// EBADF for a simulated one, which only the simulator can work on.
    pub(crate) fn system(&self) -> io::Result<&Arc<fs::File>> {
        match self {
            Self::System(file) => Ok(file),
            Self::Simulated(_) => Err(Errno::BADF.into()),
        }
    }
}

/// Whether what was written is durable when the operation is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lasting {
    No,
    Yes,
}

/// Something to be done with files.
#[derive(Debug)]
pub(crate) enum Operation {
    Open { path: PathBuf, options: OpenOptions },
    ReadAt { file: Handle, buffer: Vec<u8>, offset: u64 },
    WriteAllAt { file: Handle, buffer: Vec<u8>, offset: u64, lasting: Lasting },
    Sync { file: Handle, data_only: bool },
    Length { file: Handle },
    SetLength { file: Handle, length: u64 },
    ReadFile { path: PathBuf },
    WriteAtomic { path: PathBuf, bytes: Vec<u8> },
    Rename { from: PathBuf, to: PathBuf },
    RemoveFile { path: PathBuf },
    CreateDirAll { path: PathBuf },
    RemoveDirAll { path: PathBuf },
    ReadDir { path: PathBuf },
    SyncDir { path: PathBuf },
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Outcome {
    Done,
    Opened(Handle),
    /// Bytes read or written, and their buffer.
    Moved(io::Result<usize>, Vec<u8>),
    Length(u64),
    Entries(Vec<DirEntry>),
}

impl Outcome {
    /// For a driver that answers something else than it was asked.
    pub(super) fn unexpected(&self) -> io::Error {
        io::Error::other(format!("unexpected outcome of a file operation: {self:?}"))
    }
}

impl Operation {
    /// Does it here and now.
    pub(super) fn execute(self) -> io::Result<Outcome> {
        match self {
            Self::Open { path, options } => {
                open(&path, options).map(|file| Outcome::Opened(Handle::System(Arc::new(file))))
            }
            Self::ReadAt { file, mut buffer, offset } => {
                let result = file.system().and_then(|file| read_at(file, &mut buffer, offset));
                Ok(Outcome::Moved(result, buffer))
            }
            Self::WriteAllAt { file, buffer, offset, lasting } => {
                let result = file.system().and_then(|file| {
                    file.write_all_at(&buffer, offset)?;
                    if lasting == Lasting::Yes { file.sync_data() } else { Ok(()) }
                });
                let result = result.map(|()| buffer.len());
                Ok(Outcome::Moved(result, buffer))
            }
            Self::Sync { file, data_only: true } => done(file.system()?.sync_data()),
            Self::Sync { file, data_only: false } => done(file.system()?.sync_all()),
            Self::Length { file } => {
                file.system()?.metadata().map(|metadata| Outcome::Length(metadata.len()))
            }
            Self::SetLength { file, length } => done(file.system()?.set_len(length)),
            Self::ReadFile { path } => {
                fs::read(path).map(|bytes| Outcome::Moved(Ok(bytes.len()), bytes))
            }
            Self::WriteAtomic { path, bytes } => done(write_atomic(&path, &bytes)),
            Self::Rename { from, to } => done(fs::rename(from, to)),
            Self::RemoveFile { path } => done(fs::remove_file(path)),
            Self::CreateDirAll { path } => done(create_dir_all(&path)),
            Self::RemoveDirAll { path } => done(fs::remove_dir_all(path)),
            Self::ReadDir { path } => read_dir(&path).map(Outcome::Entries),
            Self::SyncDir { path } => done(sync_dir(&path)),
        }
    }
}

fn done(result: io::Result<()>) -> io::Result<Outcome> {
    result.map(|()| Outcome::Done)
}

pub(super) fn open(path: &Path, options: OpenOptions) -> io::Result<fs::File> {
    fs::OpenOptions::new()
        .read(true)
        .write(options.write)
        .create(options.create)
        .create_new(options.create_new)
        .truncate(options.truncate)
        .mode(options.mode.unwrap_or(0o600))
        .open(path)
}

pub(super) fn read_at(file: &fs::File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

pub(super) fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary_beside(path)?;
    let options =
        OpenOptions { write: true, create: true, truncate: true, ..OpenOptions::default() };
    let file = open(&temporary, options)?;
    let written = file
        .write_all_at(bytes, 0)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        // The first error is the one to report; a temporary file left behind is replaced by the next attempt.
        let _left_behind = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_dir(&parent(path))
}

/// `folder/.name.tmp` for `folder/name`.
fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(".tmp");
    Ok(path.with_file_name(temporary))
}

pub(super) fn create_dir_all(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

pub(super) fn read_dir(path: &Path) -> io::Result<Vec<DirEntry>> {
    let mut entries = fs::read_dir(path)?
        .map(|entry| {
            let entry = entry?;
            let metadata = entry.metadata()?;
            Ok(DirEntry { name: entry.file_name(), is_dir: metadata.is_dir(), len: metadata.len() })
        })
        .collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    Ok(entries)
}

pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}
