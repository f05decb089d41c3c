//! The page server's state as data, for the HTTP API, the console and `howdah up`'s progress bar.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use runtime::mailbox::{self, Receiver, Reply, Sender};
use runtime::metrics::Histogram;
use serde::{Deserialize, Serialize};

use crate::remote::StoreStatus;

use crate::attachment::Attachment;

/// Questions that may wait for an answer at once.
const QUESTIONS_MAX: usize = 64;

/// Everything at a glance. LSNs are texts as Postgres shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub phase: Phase,
    /// What is wrong at the moment, if something is.
    pub error: Option<Problem>,
    /// The page service's address.
    pub listen: String,
    pub system_identifier: Option<String>,
    pub timeline: Option<u32>,
    pub slot: String,
    /// Pages can be asked for from here on: where the base backup became consistent.
    pub oldest_lsn: Option<String>,
    /// Durable here and acknowledged.
    pub flushed_lsn: Option<String>,
    /// In the index: the newest LSN that can be asked for.
    pub ingested_lsn: Option<String>,
    /// The server's own end of WAL, as it said last.
    pub server_lsn: Option<String>,
    /// From the server's end to the ingested one.
    pub lag_bytes: u64,
    pub backup: Option<Backup>,
    pub wal_bytes: u64,
    /// Everything up to here is in layers: a restart reads WAL from here on.
    #[serde(default)]
    pub layered_lsn: Option<String>,
    #[serde(default)]
    pub layers: u64,
    #[serde(default)]
    pub layer_bytes: u64,
    /// Of the layers, those that hold whole pages as of a moment.
    #[serde(default)]
    pub image_layers: u64,
    /// Those that are still to be merged.
    #[serde(default)]
    pub level0_layers: u64,
    /// Bytes of layers written since the start: of new records, and in all.
    #[serde(default)]
    pub layer_bytes_flushed: u64,
    #[serde(default)]
    pub layer_bytes_written: u64,
    /// Bytes removed since the start: layers that nobody can ask for, WAL that is in layers.
    #[serde(default)]
    pub layer_bytes_removed: u64,
    #[serde(default)]
    pub wal_bytes_removed: u64,
    /// Reads that found a version of the page in memory, and that did not.
    #[serde(default)]
    pub page_cache_hits: u64,
    #[serde(default)]
    pub page_cache_misses: u64,
    /// Requests of clients that were answered with an error.
    #[serde(default)]
    pub page_errors: u64,
    /// Layers and WAL of all branches.
    #[serde(default)]
    pub disk_bytes: u64,
    /// What the layers hold, before compression.
    #[serde(default)]
    pub layer_raw_bytes: u64,
    pub index_memory_bytes: u64,
    pub page_cache_bytes: u64,
    /// Relation forks ever seen.
    pub forks: u64,
    pub records: u64,
    pub record_bytes: u64,
    pub records_by_rmgr: BTreeMap<String, u64>,
    /// Records that change pages in a way we cannot redo, by kind: those pages cannot be read.
    pub unsupported_records: BTreeMap<String, u64>,
    pub clients: u64,
    pub pages_served: u64,
    /// The object store, if there is one.
    #[serde(default)]
    pub store: Option<StoreStatus>,
}

/// What the page server is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    #[default]
    Starting,
    /// Reading WAL of an earlier run.
    Recovering,
    /// Trying to reach Postgres.
    Connecting,
    BaseBackup,
    Streaming,
    /// Given up until restarted; what is there can still be read.
    Failed,
    Stopped,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub message: String,
    pub hint: Option<String>,
}

/// A base backup on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    pub bytes_done: u64,
    /// An estimate of the server.
    pub bytes_total: u64,
    pub files: u64,
}

/// One timeline: `main`, or a branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Branch {
    pub name: String,
    /// The branch it comes from, and where it left it.
    pub from: Option<String>,
    pub at: Option<String>,
    pub newest_lsn: String,
    /// Durable here and acknowledged to the compute that writes it.
    #[serde(default)]
    pub flushed_lsn: Option<String>,
    /// Everything up to here is in layers.
    #[serde(default)]
    pub layered_lsn: Option<String>,
    /// What it has of its own.
    pub layers: u64,
    pub layer_bytes: u64,
    /// Who writes it; `None` for `main`.
    #[serde(default)]
    pub writer: Option<Writer>,
    /// What one has to know about the moment a branch was made at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// The compute that writes a branch, if there is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// Of the compute attached last; 0 if there has been none.
    pub epoch: u64,
    /// The attached compute's address; `None` when detached.
    pub server: Option<String>,
    pub phase: Option<Phase>,
    pub error: Option<Problem>,
    /// The compute's end of WAL, as it said last.
    pub server_lsn: Option<String>,
}

/// A compute attached, or detached, and where the branch ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    pub epoch: u64,
    pub end: String,
}

/// A moment of a timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    pub branch: String,
    pub lsn: String,
    /// Of the newest commit known at or before the LSN.
    pub time: Option<String>,
    /// What one has to know about it: that the server could not be asked for anything newer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A moment that is kept readable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub branch: String,
    pub lsn: String,
    pub holder: String,
    /// RFC 3339.
    pub until: String,
}

/// A check of all checksums, under way or done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrub {
    pub running: bool,
    pub bytes_done: u64,
    pub bytes_total: u64,
    /// What is damaged, each with its file and place.
    pub damaged: Vec<String>,
    /// Objects in the object store that nothing names.
    #[serde(default)]
    pub litter_objects: u64,
    #[serde(default)]
    pub litter_bytes: u64,
}

/// What one can ask a page server.
pub(crate) enum Question {
    Status(Reply<Status>),
    Branches(Reply<Option<Vec<Branch>>>),
    CreateBranch {
        name: String,
        from: String,
        at: String,
        reply: Reply<Result<Branch, Problem>>,
    },
    DeleteBranch {
        name: String,
        reply: Reply<Result<(), Problem>>,
    },
    Attach {
        name: String,
        wanted: Attachment,
        reply: Reply<Result<Attached, Problem>>,
    },
    Detach {
        name: String,
        reply: Reply<Result<Attached, Problem>>,
    },
    ReleaseMain(Reply<Result<Attached, Problem>>),
    LsnAt {
        branch: String,
        at: String,
        reply: Reply<Result<Moment, Problem>>,
    },
    Leases {
        branch: String,
        reply: Reply<Result<Vec<Lease>, Problem>>,
    },
    Lease {
        branch: String,
        lsn: String,
        holder: String,
        seconds: u32,
        reply: Reply<Result<Lease, Problem>>,
    },
    EndLease {
        branch: String,
        lsn: String,
        holder: String,
        reply: Reply<Result<(), Problem>>,
    },
    /// The times of reads are to be counted there from now on.
    Measure {
        page_seconds: Histogram,
        reply: Reply<()>,
    },
    BeginScrub(Reply<Scrub>),
    Scrub(Reply<Scrub>),
}

/// Asks the page server from anywhere in the process.
#[derive(Clone, Default)]
pub struct Handle {
    /// Set when the page server's applet starts.
    questions: Arc<OnceLock<Sender<Question>>>,
}

impl Handle {
    /// The status; `None` if the page server does not run (yet).
    pub async fn status(&self) -> Option<Status> {
        self.ask(Question::Status).await
    }

    /// All timelines by name; `None` if there is no page server or no base backup yet, or WAL of an earlier run is still
    /// to be taken in.
    pub async fn branches(&self) -> Option<Vec<Branch>> {
        self.ask(Question::Branches).await?
    }

    /// Makes a branch of `from` at an LSN, a time or a restore point; at the latest moment if `at` is empty.
    pub async fn create_branch(
        &self,
        name: String,
        from: String,
        at: String,
    ) -> Option<Result<Branch, Problem>> {
        self.ask(|reply| Question::CreateBranch { name, from, at, reply }).await
    }

    pub async fn delete_branch(&self, name: String) -> Option<Result<(), Problem>> {
        self.ask(|reply| Question::DeleteBranch { name, reply }).await
    }

    /// Lets a branch be written by this compute and nobody else.
    pub async fn attach(
        &self,
        name: String,
        wanted: Attachment,
    ) -> Option<Result<Attached, Problem>> {
        self.ask(|reply| Question::Attach { name, wanted, reply }).await
    }

    /// Lets a branch be written by nobody; its end stays as it is then.
    pub async fn detach(&self, name: String) -> Option<Result<Attached, Problem>> {
        self.ask(|reply| Question::Detach { name, reply }).await
    }

    /// Gives `main` up for lost by the server of the settings, for good: computes can be attached to it then.
    pub async fn release_main(&self) -> Option<Result<Attached, Problem>> {
        self.ask(Question::ReleaseMain).await
    }

    /// Which LSN a time (or a restore point) is on a branch.
    pub async fn lsn_at(&self, branch: String, at: String) -> Option<Result<Moment, Problem>> {
        self.ask(|reply| Question::LsnAt { branch, at, reply }).await
    }

    /// The leases of a branch.
    pub async fn leases(&self, branch: String) -> Option<Result<Vec<Lease>, Problem>> {
        self.ask(|reply| Question::Leases { branch, reply }).await
    }

    /// Keeps a moment of a branch readable for so many seconds from now on.
    pub async fn lease(
        &self,
        branch: String,
        lsn: String,
        holder: String,
        seconds: u32,
    ) -> Option<Result<Lease, Problem>> {
        self.ask(|reply| Question::Lease { branch, lsn, holder, seconds, reply }).await
    }

    /// Ends a lease before its time.
    pub async fn end_lease(
        &self,
        branch: String,
        lsn: String,
        holder: String,
    ) -> Option<Result<(), Problem>> {
        self.ask(|reply| Question::EndLease { branch, lsn, holder, reply }).await
    }

    /// From now on the times of reads are counted in this.
    pub async fn measure(&self, page_seconds: Histogram) -> Option<()> {
        self.ask(|reply| Question::Measure { page_seconds, reply }).await
    }

    /// Begins to compare all checksums, unless that is going on already.
    pub async fn begin_scrub(&self) -> Option<Scrub> {
        self.ask(Question::BeginScrub).await
    }

    /// How far that has come.
    pub async fn scrub(&self) -> Option<Scrub> {
        self.ask(Question::Scrub).await
    }

    async fn ask<T: Send>(&self, question: impl FnOnce(Reply<T>) -> Question) -> Option<T> {
        let (reply, pending) = mailbox::oneshot();
        self.questions.get()?.try_send(question(reply)).ok()?;
        pending.await.ok()
    }

    /// Where the questions of all copies of this handle arrive; `None` the second time.
    pub(crate) fn connect(&self) -> Option<Receiver<Question>> {
        let (sender, receiver) = mailbox::channel(QUESTIONS_MAX);
        self.questions.set(sender).ok().map(|()| receiver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phase_is_one_word_in_json() {
        let status = Status { phase: Phase::BaseBackup, ..Status::default() };
        let json = serde_json::to_value(&status).expect("plain fields become JSON");
        assert_eq!(json["phase"], "base_backup");
    }
}
