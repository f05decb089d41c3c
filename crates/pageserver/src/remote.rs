//! The object store: everything that a page server needs to begin anew elsewhere, copied there as it comes to be.
//!
//! Invariants:
//! 1. What the newest inventory names is in the store, whole; it is published after everything that it names.
//! 2. Only the page server that has claimed the inventory last may publish; another one finds that out at its next
//!    attempt, or when it looks, and stops.
//! 3. An object goes only when it has been in no inventory for a while: see [`crate::limits::DROPPED_VERSIONS_KEPT`];
//!    one that was in none at all, as `litter` says.
//!
//! Steps: race the store, claim, find out which WAL is there, then for ever: WAL as it becomes durable (`wal`), layers and
//! then the inventory as timelines change (`uploader`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use pg::lsn::Lsn;
use runtime::bridge::Bridge;
use runtime::clock::Instant;
use runtime::fs;
use serde::{Deserialize, Serialize};
use storage::bucket::{Address, Bucket, BucketError, Fault, Patience, Swept};
use storage::store::remote::{Remote, UploadError};

use crate::branches::Branches;
use crate::error::Error;
use crate::limits::STORE_REQUEST_TIME_MAX;
use crate::settings::Settings;
use crate::timeline::Timeline;

pub mod inventory;
mod litter;
pub(crate) mod owner;
pub mod recover;
mod scrub;
mod uploader;
mod wal;

/// Name of the file in a timeline's directory that tells the folder of its objects.
const FOLDER_FILE: &str = "object-folder";

/// The object store of a page server, and how far it has what is here.
pub struct ObjectStore {
    pub(crate) bucket: Bucket,
    address: String,
    wal_interval: std::time::Duration,
    local_layer_bytes_max: u64,
    /// What an earlier run left is read: timelines may be copied.
    ready: Cell<bool>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    generation: u64,
    problem: Option<String>,
    /// WAL of each timeline, by the folder of its objects.
    wal: BTreeMap<String, wal::Stream>,
    sent_bytes: u64,
    failures: u64,
    published_at: Option<Instant>,
    /// Since when layers or an inventory wait.
    waiting_since: Option<Instant>,
    /// What nothing names, as of the last look, without what was removed since.
    litter: Swept,
    litter_removed: u64,
}

/// How a page server's object store is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    pub address: String,
    /// Of our claim; 0 before it.
    pub generation: u64,
    /// The WAL of `main` is there up to here.
    pub uploaded_lsn: Option<String>,
    /// Bytes of WAL and layers that are not there yet, and for how long the oldest of them has waited.
    pub waiting_bytes: u64,
    pub waiting_ms: u64,
    /// Bytes of layers that are there, and of those that are here.
    pub remote_layer_bytes: u64,
    pub local_layer_bytes: u64,
    /// Bytes fetched since the start.
    pub fetched_bytes: u64,
    /// Bytes of layers, WAL and catalogs copied there since the start, and removed here because they are there.
    pub sent_bytes: u64,
    pub evicted_bytes: u64,
    /// Failed attempts to copy something there, each after all its repetitions.
    pub failures: u64,
    /// Objects that nothing names, found at the last look, and those removed since the start.
    #[serde(default)]
    pub litter_objects: u64,
    #[serde(default)]
    pub litter_bytes: u64,
    #[serde(default)]
    pub litter_removed: u64,
    /// Why nothing is copied at the moment.
    pub error: Option<String>,
}

/// How far the object store has a timeline's WAL; part of the timeline.
#[derive(Debug, Default)]
pub struct Stored {
    /// `None`: there is no object store.
    wal: Cell<Option<Lsn>>,
    backlog_bytes_max: u64,
    /// Why no more may be taken in: another page server has taken over, or the store cannot be trusted.
    ended: RefCell<Option<(String, &'static str)>>,
}

impl Stored {
    pub(crate) fn new(settings: &Settings) -> Stored {
        let wal = if settings.store.is_empty() { None } else { Some(Lsn::INVALID) };
        Stored {
            wal: Cell::new(wal),
            backlog_bytes_max: settings.store_backlog_bytes_max,
            ended: RefCell::default(),
        }
    }

    fn set_wal(&self, end: Lsn) {
        self.wal.set(Some(end));
    }

    fn end(&self, error: &Error) {
        let hint = error.hint().unwrap_or("see pageserver.store");
        self.ended.borrow_mut().get_or_insert((error.to_string(), hint));
    }
}

impl Timeline {
    /// The object store needs no WAL before this from here any more: it has it. [`Lsn::MAX`] without an object store.
    pub fn wal_uploaded(&self) -> Lsn {
        self.stored.wal.get().unwrap_or(Lsn::MAX)
    }

    /// The limit of WAL that may wait for the object store, if it is reached.
    pub(crate) fn store_shortage(&self) -> Option<u64> {
        let uploaded = self.stored.wal.get()?;
        let first =
            self.manifest.start.max(self.ancestor.as_ref().map_or(Lsn::INVALID, |(_, at)| *at));
        let limit = self.stored.backlog_bytes_max;
        (limit != 0 && self.durable().bytes_since(uploaded.max(first)) > limit).then_some(limit)
    }

    /// Whether WAL may be taken in, as far as the object store is concerned.
    ///
    /// # Errors
    /// [`Error::Refused`] when another page server has taken over, or the store cannot be trusted.
    pub(crate) fn check_store(&self) -> Result<(), Error> {
        match &*self.stored.ended.borrow() {
            Some((message, hint)) => Err(Error::Refused { message: message.clone(), hint }),
            None => Ok(()),
        }
    }
}

fn overtaken(generation: u64) -> Error {
    Error::Refused {
        message: format!(
            "another page server has taken over: the object store is written by its generation {generation}"
        ),
        hint: "stop one of the two; to go on here, recover from the store into an empty directory",
    }
}

impl ObjectStore {
    /// The one that the settings name, if they name one.
    ///
    /// # Errors
    /// When it cannot be opened with the credentials of the environment.
    pub fn of(settings: &Settings) -> Result<Option<ObjectStore>, Error> {
        let Some(address) = settings.store_address()? else { return Ok(None) };
        let bridge = Bridge::start()
            .map_err(|source| Error::Connection { server: "side thread".to_owned(), source })?;
        let bucket = Bucket::open(&address, bridge).map_err(|error| failed(&error))?;
        // Whoever waits for a page should hear why before long; what copies tries again for ever.
        let patience = Patience { request: STORE_REQUEST_TIME_MAX, ..Patience::default() };
        let bucket = bucket.with_patience(patience);
        Ok(Some(ObjectStore::over(bucket, &address, settings)))
    }

    fn over(bucket: Bucket, address: &Address, settings: &Settings) -> ObjectStore {
        ObjectStore {
            bucket,
            address: address.to_string(),
            wal_interval: settings.store_wal_interval(),
            local_layer_bytes_max: settings.local_layer_bytes_max,
            ready: Cell::new(false),
            state: RefCell::default(),
        }
    }

    /// Lets the layers be fetched that an earlier run has copied, or that a recovered directory never had.
    pub(crate) async fn connect(&self, branches: &Branches) -> Result<(), Error> {
        for timeline in branches.all() {
            if let Some(folder) = read_folder(&timeline.layers).await? {
                timeline.store.connect(Remote { bucket: self.bucket.clone(), folder });
            }
        }
        Ok(())
    }

    /// What an earlier run left is read.
    pub(crate) fn set_ready(&self) {
        self.ready.set(true);
    }

    /// How it is, in sum over these timelines.
    pub fn status(&self, timelines: &[Rc<Timeline>]) -> StoreStatus {
        let state = self.state.borrow();
        let now = runtime::clock::now();
        let mut oldest = state.waiting_since;
        let mut status = StoreStatus {
            address: self.address.clone(),
            generation: state.generation,
            error: state.problem.clone(),
            sent_bytes: state.sent_bytes,
            failures: state.failures,
            litter_objects: state.litter.objects,
            litter_bytes: state.litter.bytes,
            litter_removed: state.litter_removed,
            ..StoreStatus::default()
        };
        for timeline in timelines {
            let stats = timeline.store.stats();
            status.remote_layer_bytes += stats.remote_bytes;
            status.local_layer_bytes += stats.local_bytes;
            status.fetched_bytes += stats.fetched_bytes;
            status.evicted_bytes += stats.evicted_bytes;
            status.waiting_bytes += stats.bytes - stats.remote_bytes;
            if timeline.ancestor.is_none() {
                status.uploaded_lsn = timeline.stored.wal.get().map(|lsn| lsn.to_string());
            }
        }
        for stream in state.wal.values() {
            status.waiting_bytes += stream.waiting_bytes();
            oldest = [oldest, stream.waiting_since()].into_iter().flatten().min();
        }
        let waited = oldest.map_or(0, |since| (now - since).as_millis());
        status.waiting_ms = u64::try_from(waited).unwrap_or(u64::MAX);
        status
    }
}

/// The folder of a timeline's objects, if it has one yet.
async fn read_folder(directory: &Path) -> Result<Option<String>, Error> {
    let path = directory.join(FOLDER_FILE);
    match fs::read(&path).await {
        Ok(bytes) => String::from_utf8(bytes)
            .map(|text| Some(text.trim_end().to_owned()))
            .map_err(|_other| Error::Damaged(format!("\"{}\" is damaged", path.display()))),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::file("read", &path, source)),
    }
}

async fn write_folder(directory: &Path, folder: &str) -> Result<(), Error> {
    let path = directory.join(FOLDER_FILE);
    let written = fs::write_atomic(&path, format!("{folder}\n").into_bytes()).await;
    written.map_err(|source| Error::file("write", &path, source))
}

/// An error of the store as one of the page server: whether waiting helps is the difference that counts.
fn failed(error: &BucketError) -> Error {
    match &error.fault {
        Fault::Stale { generation } => overtaken(*generation),
        Fault::Unavailable(_)
        | Fault::Refused(_)
        | Fault::Short
        | Fault::Missing
        | Fault::Local(_) => Error::Store { message: error.to_string(), hint: error.hint() },
        _ => Error::Refused {
            message: error.to_string(),
            hint: error.hint().unwrap_or("see pageserver.store"),
        },
    }
}

fn upload_failed(error: UploadError, timeline: &Timeline) -> Error {
    match error {
        UploadError::Store(error) => failed(&error),
        UploadError::Local(source) => Error::file("copy layers of", &timeline.layers, source),
    }
}
