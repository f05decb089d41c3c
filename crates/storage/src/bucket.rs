//! A bucket: a place in an object store where layers, WAL segments and manifests are kept for good.
//!
//! The `object_store` library speaks to S3 and what looks like it, to Google's and Azure's stores and to a local
//! directory. It needs tokio, so that every request crosses [`runtime::bridge`]; nothing here is on a hot path.
//!
//! Rules:
//!
//! 1. Objects are never overwritten with other bytes: a name is written once, or again with the same bytes.
//! 2. What must be written by one writer only goes through [`Bucket::create`], the one conditional write that S3,
//!    Ceph's gateway and a local directory all do atomically. [`Bucket::probe`] proves it before the first use.
//! 3. A reply may be lost: a request that may have been carried out is repeated, and repeating it is harmless.
//! 4. Every request has a time limit and a bounded number of attempts. What still fails is an error that names the
//!    operation and the object; whoever uploads in the background tries again later.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use runtime::bridge::Bridge;
use runtime::executor;
use runtime::fs::{self, File};
use runtime::mailbox::{self, Pending};

pub use address::{Address, AddressError};
pub use error::{BucketError, Fault};
pub use numbered::{Claim, Nonce, Numbered, Published, Writer};
pub use patience::Patience;
pub use sweep::{Sweep, Swept};

use crate::limits::{OBJECTS_LISTED_MAX, TRANSFER_PART_BYTES};

mod address;
mod error;
mod numbered;
mod patience;
mod probe;
mod sweep;

/// A handle on a bucket; clones share the connections.
#[derive(Clone, Debug)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    base: ObjectPath,
    side: Side,
    patience: Patience,
}

/// Where requests run.
#[derive(Clone, Debug)]
enum Side {
    Tokio(Bridge),
    /// On the core itself: for stores that need nothing of tokio, such as one in memory in a simulated world.
    Core,
}

impl Side {
    fn run<F>(&self, request: F) -> Pending<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        match self {
            Side::Tokio(bridge) => bridge.run(request),
            Side::Core => {
                let (reply, pending) = mailbox::oneshot();
                executor::spawn_detached(async move {
                    // Nobody waiting any more is no error.
                    reply.send(request.await).ok();
                });
                pending
            }
        }
    }
}

/// Whether [`Bucket::create`] made the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creation {
    Created,
    /// Another writer's object has that name.
    Exists,
}

/// An object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Below the bucket's base.
    pub name: String,
    pub bytes: u64,
}

impl Bucket {
    /// Opens the bucket at `address`. Nothing is asked of the store yet.
    ///
    /// # Errors
    /// When the address' parts or the credentials in the environment make no sense to the library.
    pub fn open(address: &Address, bridge: Bridge) -> Result<Bucket, BucketError> {
        let (store, base) = address.connect()?;
        Ok(Bucket::over(store, base, bridge, Patience::default()))
    }

    /// A bucket in a store that is open already, below `base`.
    #[must_use]
    pub fn over(
        store: Arc<dyn ObjectStore>,
        base: ObjectPath,
        bridge: Bridge,
        patience: Patience,
    ) -> Bucket {
        Bucket { store, base, side: Side::Tokio(bridge), patience }
    }

    /// The same with other time limits.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Bucket {
        Bucket { patience, ..self }
    }

    /// The same of a store whose requests need nothing of tokio: they run on the core that asks.
    #[must_use]
    pub fn on_core(store: Arc<dyn ObjectStore>, base: ObjectPath, patience: Patience) -> Bucket {
        Bucket { store, base, side: Side::Core, patience }
    }

    /// Makes sure that the store creates an object for one of several concurrent writers only.
    ///
    /// # Errors
    /// [`Fault::Unsafe`] when it does not; others when it cannot be asked.
    pub async fn probe(&self) -> Result<(), BucketError> {
        probe::race(self).await
    }

    /// Writes an object whose name stands for its bytes.
    ///
    /// # Errors
    /// When the store refuses or cannot be reached for long.
    pub async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), BucketError> {
        let payload = PutPayload::from(bytes);
        let put = || {
            let (store, path, payload) = (self.store(), self.path(name), payload.clone());
            self.side.run(async move { store.put(&path, payload).await.map(drop) })
        };
        self.patience.persist("write", name, put).await
    }

    /// Creates an object unless one of that name exists. `bytes` must be unique to the writer: after a lost reply
    /// they are how it recognises its own object.
    ///
    /// # Errors
    /// When the store refuses or cannot be reached for long; then the object may exist or not.
    pub async fn create(&self, name: &str, bytes: Vec<u8>) -> Result<Creation, BucketError> {
        let payload = PutPayload::from(bytes.clone());
        let create = || {
            let (store, path, payload) = (self.store(), self.path(name), payload.clone());
            let options = PutOptions::from(PutMode::Create);
            self.side.run(async move { store.put_opts(&path, payload, options).await.map(drop) })
        };
        match self.patience.persist("create", name, create).await {
            Ok(()) => Ok(Creation::Created),
            Err(error) if error.fault == Fault::Exists => {
                // Ours, if an earlier attempt went through and its reply was lost.
                let ours = self.get(name, bytes.len()).await;
                match ours {
                    Ok(Some(found)) if found == bytes => Ok(Creation::Created),
                    Ok(_) => Ok(Creation::Exists),
                    Err(error) if error.fault == Fault::TooLarge => Ok(Creation::Exists),
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// The whole of a small object, or `None` if there is none.
    ///
    /// # Errors
    /// [`Fault::TooLarge`] when it has more than `bytes_max`; others when the store refuses or cannot be reached.
    pub async fn get(&self, name: &str, bytes_max: usize) -> Result<Option<Vec<u8>>, BucketError> {
        let get = || {
            let (store, path) = (self.store(), self.path(name));
            self.side.run(async move {
                let found = store.get(&path).await?;
                if found.meta.size > bytes_max as u64 {
                    return Ok(None);
                }
                found.bytes().await.map(|bytes| Some(Vec::from(bytes)))
            })
        };
        match self.patience.persist("read", name, get).await {
            Ok(Some(bytes)) => Ok(Some(bytes)),
            Ok(None) => Err(BucketError::new("read", name, Fault::TooLarge)),
            Err(error) if error.fault == Fault::Missing => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Objects whose names begin with the folder `prefix` (no slash at its end), in order of name.
    ///
    /// # Errors
    /// When there are more than [`OBJECTS_LISTED_MAX`], or the store refuses or cannot be reached.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>, BucketError> {
        self.list_after(prefix, None).await
    }

    /// The same, but only those whose names come after `after`.
    ///
    /// # Errors
    /// As [`Bucket::list`].
    pub async fn list_after(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<Vec<Listed>, BucketError> {
        let list = || {
            let (store, path) = (self.store(), self.path(prefix));
            let after = after.map(|name| self.path(name));
            self.side.run(async move {
                let found = match after {
                    Some(after) => store.list_with_offset(Some(&path), &after),
                    None => store.list(Some(&path)),
                };
                let mut listed = Vec::new();
                let mut found = std::pin::pin!(found);
                while let Some(object) = found.try_next().await? {
                    if listed.len() == OBJECTS_LISTED_MAX {
                        return Ok(None);
                    }
                    listed.push((object.location, object.size));
                }
                Ok(Some(listed))
            })
        };
        let found = self.patience.persist("list", prefix, list).await?;
        let found = found.ok_or_else(|| BucketError::new("list", prefix, Fault::TooLarge))?;
        let mut listed: Vec<Listed> = found
            .into_iter()
            .filter_map(|(path, bytes)| Some(Listed { name: self.name(&path)?, bytes }))
            .collect();
        listed.sort_unstable();
        Ok(listed)
    }

    /// Removes an object; that there is none is no error.
    ///
    /// # Errors
    /// When the store refuses or cannot be reached for long.
    pub async fn delete(&self, name: &str) -> Result<(), BucketError> {
        let delete = || {
            let (store, path) = (self.store(), self.path(name));
            self.side.run(async move { store.delete(&path).await })
        };
        match self.patience.persist("remove", name, delete).await {
            Err(error) if error.fault == Fault::Missing => Ok(()),
            other => other,
        }
    }

    /// Copies a local file into the bucket, in parts; `sent` hears how many bytes each part had.
    ///
    /// # Errors
    /// When the file cannot be read, or the store refuses or cannot be reached for long. No part of it is visible then.
    pub async fn upload(
        &self,
        file: &Path,
        name: &str,
        mut sent: impl FnMut(u64),
    ) -> Result<u64, BucketError> {
        let failed = |error: io::Error| BucketError::local(file, error);
        let source = File::open(file, fs::OpenOptions::default()).await.map_err(failed)?;
        let bytes = source.len().await.map_err(failed)?;
        if bytes <= TRANSFER_PART_BYTES as u64 {
            self.put(name, read_part(&source, 0, bytes).await.map_err(failed)?).await?;
            sent(bytes);
            return Ok(bytes);
        }
        let mut attempts = self.patience.attempts();
        loop {
            match self.upload_parts(&source, bytes, name, &mut sent).await {
                Ok(()) => return Ok(bytes),
                Err(PartError::Local(error)) => return Err(failed(error)),
                Err(PartError::Store(error)) => attempts.again("write", name, error).await?,
            }
        }
    }

    async fn upload_parts(
        &self,
        source: &File,
        bytes: u64,
        name: &str,
        sent: &mut impl FnMut(u64),
    ) -> Result<(), PartError> {
        let (store, path) = (self.store(), self.path(name));
        let begun = self.side.run(async move { store.put_multipart(&path).await });
        let mut upload = self.patience.once(begun).await.map_err(PartError::Store)?;
        let mut at = 0;
        while at < bytes {
            let part = read_part(source, at, bytes).await.map_err(PartError::Local)?;
            let length = part.len() as u64;
            let putting = {
                // Some stores start work of their own when asked, for which they look for tokio here.
                let _tokio = match &self.side {
                    Side::Tokio(bridge) => Some(bridge.handle().enter()),
                    Side::Core => None,
                };
                upload.put_part(part.into())
            };
            let put = self.patience.once(self.side.run(putting)).await;
            if let Err(error) = put {
                self.abandon(upload);
                return Err(PartError::Store(error));
            }
            at += length;
            sent(length);
        }
        let completing = self.side.run(async move { upload.complete().await.map(drop) });
        self.patience.once(completing).await.map_err(PartError::Store)
    }

    /// Lets the store forget the parts of an upload that failed; if it does not hear, it forgets them by its own rules.
    fn abandon(&self, mut upload: Box<dyn MultipartUpload>) {
        drop(self.side.run(async move { upload.abort().await }));
    }

    /// Copies an object into a local file, which appears under its name only when it is whole and durable; `received`
    /// hears how many bytes each part had.
    ///
    /// # Errors
    /// [`Fault::Missing`] when there is no such object; [`Fault::Local`] when the file cannot be written; others when
    /// the store refuses or cannot be reached for long.
    pub async fn download(
        &self,
        name: &str,
        file: &Path,
        received: impl FnMut(u64),
    ) -> Result<u64, BucketError> {
        let partial = partial_name(file);
        let downloaded = self.download_as(name, &partial, received).await;
        let failed = |error: io::Error| BucketError::local(&partial, error);
        if downloaded.is_err() {
            // The next attempt may come late, and the disk may be full. There is none if it could not be looked up.
            let _gone = fs::remove_file(&partial).await;
            return downloaded;
        }
        fs::rename(&partial, file).await.map_err(failed)?;
        fs::sync_dir(file.parent().unwrap_or(Path::new("."))).await.map_err(failed)?;
        downloaded
    }

    async fn download_as(
        &self,
        name: &str,
        partial: &Path,
        mut received: impl FnMut(u64),
    ) -> Result<u64, BucketError> {
        let head = || {
            let (store, path) = (self.store(), self.path(name));
            self.side.run(async move { store.head(&path).await.map(|meta| meta.size) })
        };
        let bytes = self.patience.persist("look up", name, head).await?;
        let failed = |error: io::Error| BucketError::local(partial, error);
        let target = File::create(partial).await.map_err(failed)?;
        let mut at = 0;
        while at < bytes {
            let until = bytes.min(at + TRANSFER_PART_BYTES as u64);
            let get = || {
                let (store, path) = (self.store(), self.path(name));
                self.side.run(async move { store.get_range(&path, at..until).await })
            };
            let part = Vec::from(self.patience.persist("read", name, get).await?);
            if part.len() as u64 != until - at {
                return Err(BucketError::new("read", name, Fault::Short));
            }
            target.write_all_at(part, at).await.0.map_err(failed)?;
            received(until - at);
            at = until;
        }
        target.sync_all().await.map_err(failed)?;
        Ok(bytes)
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }

    fn path(&self, name: &str) -> ObjectPath {
        let mut path = self.base.clone();
        for part in name.split('/') {
            path = path.join(part);
        }
        path
    }

    fn name(&self, path: &ObjectPath) -> Option<String> {
        let parts: Vec<String> =
            path.prefix_match(&self.base)?.map(|part| part.as_ref().to_owned()).collect();
        Some(parts.join("/"))
    }
}

enum PartError {
    Local(io::Error),
    Store(error::Failure),
}

/// The next part of a file of `bytes` bytes, from `at` on.
async fn read_part(source: &File, at: u64, bytes: u64) -> io::Result<Vec<u8>> {
    let length = (bytes - at).min(TRANSFER_PART_BYTES as u64);
    let mut part = Vec::with_capacity(usize::try_from(length).map_err(io::Error::other)?);
    while (part.len() as u64) < length {
        let missing = usize::try_from(length - part.len() as u64).map_err(io::Error::other)?;
        let (read, piece) = source.read_at(vec![0; missing], at + part.len() as u64).await;
        match read? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => part.extend_from_slice(piece.get(..read).unwrap_or_default()),
        }
    }
    Ok(part)
}

fn partial_name(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}
