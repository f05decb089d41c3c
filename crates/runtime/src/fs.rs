//! Files as services see them. Each call is an [`Operation`] that the driver does, or that a blocking
//! thread does where the driver has no way to (readiness says nothing about files).
//!
//! Buffers travel by value: the kernel may write into one for as long as the operation runs, whatever becomes of
//! the future.

use std::ffi::OsString;
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};

use crate::bridge;
use crate::executor::{try_with_reactor, with_reactor};
use crate::io::FileToken;

pub(crate) use operation::{Handle, Lasting, Operation, Outcome};

pub mod blocking;
mod operation;

/// How to open a file. The default opens for reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    pub write: bool,
    /// Make it if it is not there.
    pub create: bool,
    /// Make it; an existing one is an error.
    pub create_new: bool,
    /// Empty it.
    pub truncate: bool,
    /// Permission bits of a new file; 0o600 by default.
    pub mode: Option<u32>,
}

/// An entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    pub name: OsString,
    pub is_dir: bool,
    /// Bytes, of a file.
    pub len: u64,
}

/// An open file. Positions are explicit: there is no cursor.
#[derive(Clone, Debug)]
pub struct File {
    handle: Handle,
}

impl File {
    /// # Errors
    /// What the system says.
    pub async fn open(path: impl AsRef<Path>, options: OpenOptions) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        match perform(Operation::Open { path, options }).await? {
            Outcome::Opened(handle) => Ok(Self { handle }),
            other => Err(other.unexpected()),
        }
    }

    /// Opens for reading and writing, making it or emptying it.
    ///
    /// # Errors
    /// What the system says.
    pub async fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        let options =
            OpenOptions { write: true, create: true, truncate: true, ..OpenOptions::default() };
        Self::open(path, options).await
    }

    /// Reads up to `buffer.len()` bytes at `offset`; fewer near the end of the file, 0 at it. The buffer comes back
    /// (empty if the operation could not even be started).
    pub async fn read_at(&self, buffer: Vec<u8>, offset: u64) -> (io::Result<usize>, Vec<u8>) {
        let file = self.handle.clone();
        match perform(Operation::ReadAt { file, buffer, offset }).await {
            Ok(Outcome::Moved(result, buffer)) => (result, buffer),
            Ok(other) => (Err(other.unexpected()), Vec::new()),
            Err(error) => (Err(error), Vec::new()),
        }
    }

    /// Writes all of `buffer` at `offset`. The buffer comes back, as for [`read_at`](Self::read_at).
    pub async fn write_all_at(&self, buffer: Vec<u8>, offset: u64) -> (io::Result<()>, Vec<u8>) {
        self.write(buffer, offset, Lasting::No).await
    }

    /// The same, and what was written is durable then, as after [`sync_data`](Self::sync_data); of earlier writes it says
    /// nothing. An error may be one of the sync: the contents must then be taken for lost. Where the driver and the file
    /// system can, it is one operation; a write and a sync are two, for each of which a thread is woken that wakes us.
    pub async fn write_all_at_durably(
        &self,
        buffer: Vec<u8>,
        offset: u64,
    ) -> (io::Result<()>, Vec<u8>) {
        self.write(buffer, offset, Lasting::Yes).await
    }

    async fn write(
        &self,
        buffer: Vec<u8>,
        offset: u64,
        lasting: Lasting,
    ) -> (io::Result<()>, Vec<u8>) {
        let file = self.handle.clone();
        match perform(Operation::WriteAllAt { file, buffer, offset, lasting }).await {
            Ok(Outcome::Moved(result, buffer)) => (result.map(drop), buffer),
            Ok(other) => (Err(other.unexpected()), Vec::new()),
            Err(error) => (Err(error), Vec::new()),
        }
    }

    /// Makes the contents durable.
    ///
    /// # Errors
    /// When that failed. The contents must then be taken for lost: a second sync proves nothing.
    pub async fn sync_data(&self) -> io::Result<()> {
        perform(Operation::Sync { file: self.handle.clone(), data_only: true }).await.map(drop)
    }

    /// Makes contents and metadata durable.
    ///
    /// # Errors
    /// As [`sync_data`](Self::sync_data).
    pub async fn sync_all(&self) -> io::Result<()> {
        perform(Operation::Sync { file: self.handle.clone(), data_only: false }).await.map(drop)
    }

    /// Bytes.
    ///
    /// # Errors
    /// What the system says.
    pub async fn len(&self) -> io::Result<u64> {
        match perform(Operation::Length { file: self.handle.clone() }).await? {
            Outcome::Length(length) => Ok(length),
            other => Err(other.unexpected()),
        }
    }

    /// Cuts or extends (with zeros).
    ///
    /// # Errors
    /// What the system says.
    pub async fn set_len(&self, length: u64) -> io::Result<()> {
        perform(Operation::SetLength { file: self.handle.clone(), length }).await.map(drop)
    }
}

/// The whole contents of a file.
///
/// # Errors
/// What the system says.
pub async fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    match perform(Operation::ReadFile { path: path.as_ref().to_owned() }).await? {
        Outcome::Moved(result, bytes) => result.map(|_| bytes),
        other => Err(other.unexpected()),
    }
}

/// Replaces the contents of a file so that after a crash either the old or the new ones are there: a temporary
/// file beside it, fsync, rename, fsync of the folder.
///
/// # Errors
/// What the system says; the old contents are then still there, unless the folder's fsync failed.
pub async fn write_atomic(path: impl AsRef<Path>, bytes: Vec<u8>) -> io::Result<()> {
    perform(Operation::WriteAtomic { path: path.as_ref().to_owned(), bytes }).await.map(drop)
}

/// Renames. Durable only after [`sync_dir`] of both folders.
///
/// # Errors
/// What the system says.
pub async fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let (from, to) = (from.as_ref().to_owned(), to.as_ref().to_owned());
    perform(Operation::Rename { from, to }).await.map(drop)
}

/// # Errors
/// What the system says.
pub async fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
    perform(Operation::RemoveFile { path: path.as_ref().to_owned() }).await.map(drop)
}

/// Makes a folder, and those above it. Mode 0700.
///
/// # Errors
/// What the system says.
pub async fn create_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    perform(Operation::CreateDirAll { path: path.as_ref().to_owned() }).await.map(drop)
}

/// Removes a folder with all that is in it.
///
/// # Errors
/// What the system says.
pub async fn remove_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    perform(Operation::RemoveDirAll { path: path.as_ref().to_owned() }).await.map(drop)
}

/// The entries of a folder, sorted by name.
///
/// # Errors
/// What the system says.
pub async fn read_dir(path: impl AsRef<Path>) -> io::Result<Vec<DirEntry>> {
    match perform(Operation::ReadDir { path: path.as_ref().to_owned() }).await? {
        Outcome::Entries(entries) => Ok(entries),
        other => Err(other.unexpected()),
    }
}

/// Makes the names in a folder durable.
///
/// # Errors
/// What the system says.
pub async fn sync_dir(path: impl AsRef<Path>) -> io::Result<()> {
    perform(Operation::SyncDir { path: path.as_ref().to_owned() }).await.map(drop)
}

/// By the driver if it can, else by a blocking thread.
async fn perform(operation: Operation) -> io::Result<Outcome> {
    let started = with_reactor(|reactor| reactor.driver.begin_file(operation));
    match started {
        Ok(token) => Running(Some(token)).await_outcome().await,
        Err(operation) => match bridge::blocking(move || operation.execute()).await {
            Ok(outcome) => outcome,
            Err(_dropped) => Err(io::Error::other("no thread is free for file operations")),
        },
    }
}

/// An operation with the driver; if it is no longer waited for, its outcome is thrown away when it comes.
struct Running(Option<FileToken>);

impl Running {
    async fn await_outcome(mut self) -> io::Result<Outcome> {
        let Some(token) = self.0 else { return Err(io::ErrorKind::InvalidInput.into()) };
        let outcome =
            poll_fn(|cx| with_reactor(|reactor| reactor.driver.poll_file(token, cx))).await;
        self.0 = None;
        outcome
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(token) = self.0 {
            try_with_reactor(|reactor| reactor.driver.abandon_file(token));
        }
    }
}

/// The folder of a file.
fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests;
