//! A whole cluster as of one moment: everything besides relation pages that a stock server needs to start there,
//! and the WAL that it starts from.
//!
//! Up to the last record before the moment the WAL is as received. Behind it stands one record of our own, the
//! shutdown checkpoint of [`pg::datadir::boot`], and then nothing: a server that starts there writes a history of its
//! own.

use std::rc::Rc;

use pg::datadir::boot::{BootImage, Facts, pages_needed, segment_header};
use pg::lsn::Lsn;
use pg::wal::segment::{PAGE_BYTES, SegmentName};
use runtime::clock;

use crate::error::PageError;
use crate::retention::Pin;
use crate::timeline::Timeline;
use crate::wal_store::Hold;

pub mod base_directory;
pub mod cluster_state;
pub mod standby;
pub mod transaction_logs;

use base_directory::BaseDirectory;
use cluster_state::ClusterState;
use standby::Standby;

/// A cluster as of one moment.
pub struct Moment {
    pub timeline: Rc<Timeline>,
    /// Pages are read as of here. The last record ends at `state.end`, which may lie before and may not be readable any more.
    pub lsn: Lsn,
    pub state: ClusterState,
    pub base: BaseDirectory,
    pub image: BootImage,
    /// For a server that is to follow the branch: `image` is not for that.
    pub standby: Option<Standby>,
    /// Received WAL reaches back to here.
    received_from: Lsn,
    /// It stays readable, and its WAL on disk.
    _kept: (Pin, Hold),
}

impl Moment {
    /// The moment of the last record that ends at or before `lsn`, which [`Timeline::lsn_for`] has
    /// approved.
    pub async fn of(timeline: Rc<Timeline>, lsn: Lsn) -> Result<Moment, PageError> {
        let kept = (timeline.pin(lsn)?, timeline.wal.hold(Lsn::INVALID));
        let base = BaseDirectory::open(&timeline, lsn).await?;
        let state = ClusterState::as_of(&timeline, lsn).await?;
        let received_from = oldest_wal(&timeline).await?;
        let page = Lsn(state.end.0 - state.end.0 % PAGE_BYTES);
        let wal = match page >= received_from && page < state.end {
            true => timeline.wal.read(page, state.end).await.map_err(|error| wal_error(&error))?,
            false => Vec::new(),
        };
        let image = BootImage::new(&Facts {
            control: &base.control,
            end: state.end,
            last_record: state.last_record,
            timeline: timeline.postgres_timeline_before(state.end),
            counters: state.counters,
            parameters: state.parameters,
            time: clock::wall_micros() / 1_000_000,
            wal: &wal,
        });
        let image = image.map_err(|error| cannot(state.end, &error.to_string()))?;
        for (log, page) in pages_needed(&state.counters) {
            if !state.logs.has(log, page) {
                let what = format!("page {page} of {} is not there", log.directory());
                return Err(cannot(state.end, &what));
            }
        }
        let mut moment =
            Moment { lsn, timeline, state, base, image, standby: None, received_from, _kept: kept };
        let wal_start = moment.wal_start();
        moment._kept.1.advance(wal_start);
        Ok(moment)
    }

    /// The same for a server that is to follow the branch from there.
    pub async fn to_follow(timeline: Rc<Timeline>, lsn: Lsn) -> Result<Moment, PageError> {
        let mut moment = Moment::of(timeline, lsn).await?;
        let standby = Standby::of(&moment.timeline, &moment.state, &moment.image).await?;
        moment.standby = Some(standby);
        Ok(moment)
    }

    /// `global/pg_control`.
    pub fn control(&self) -> &[u8] {
        self.standby.as_ref().map_or(&self.image.control, |standby| &standby.control)
    }

    /// Where a server starts, and on which of Postgres' timelines.
    pub fn start(&self) -> (Lsn, u32) {
        match &self.standby {
            Some(standby) => (standby.redo, standby.timeline),
            None => (self.image.checkpoint, self.postgres_timeline()),
        }
    }

    /// Where the segment begins that a server starts from.
    pub fn wal_start(&self) -> Lsn {
        let bytes = self.timeline.manifest.wal_segment_bytes;
        SegmentName::of(1, self.image.wal_start.min(self.image.checkpoint), bytes).start()
    }

    /// The number of Postgres' timeline that a server goes on with.
    pub fn postgres_timeline(&self) -> u32 {
        self.timeline.postgres_timeline_before(self.lsn)
    }

    /// Where the WAL of this moment ends: behind the checkpoint. For a server that follows there is none of our own.
    pub fn wal_end(&self) -> Lsn {
        if self.standby.is_some() { self.state.end } else { self.image.end }
    }

    /// The WAL from `start` (not before [`Moment::wal_start`]) up to `end`; zeroes behind its end.
    pub async fn wal(&self, start: Lsn, end: Lsn) -> std::io::Result<Vec<u8>> {
        let received_until = self.image.wal_start.min(end);
        let mut bytes = Vec::new();
        if start < received_until {
            let received_from = self.received_from.clamp(start, received_until);
            bytes = self.missing(start, received_from);
            // Whoever follows the server compares what both have.
            bytes.append(&mut self.timeline.wal.read(received_from, received_until).await?);
        }
        let at = (start + bytes.len() as u64).bytes_since(self.image.wal_start);
        let length = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let ours = self.image.wal.get(length(at)..).unwrap_or_default();
        let wanted = length(end.bytes_since(start));
        let room = wanted.saturating_sub(bytes.len()).min(ours.len());
        bytes.extend_from_slice(ours.get(..room).unwrap_or_default());
        bytes.resize(wanted, 0);
        Ok(bytes)
    }

    /// What stands for WAL that is not kept any more: the headers of segments, and zeroes.
    fn missing(&self, start: Lsn, end: Lsn) -> Vec<u8> {
        let manifest = &self.timeline.manifest;
        let (system, bytes) = (manifest.system_identifier, manifest.wal_segment_bytes);
        let mut wal = vec![0; usize::try_from(end.bytes_since(start)).unwrap_or(0)];
        let version = manifest.wal_version();
        let mut first = SegmentName::of(1, start, bytes).start();
        while first < end {
            let header = segment_header(version, system, self.postgres_timeline(), bytes, first);
            for (place, byte) in (first.0..).zip(header) {
                let at = place.checked_sub(start.0).and_then(|at| usize::try_from(at).ok());
                if let Some(to) = at.and_then(|at| wal.get_mut(at)) {
                    *to = byte;
                }
            }
            first = first + u64::from(bytes);
        }
        wal
    }
}

/// Where the oldest received segment begins.
pub async fn oldest_wal(timeline: &Timeline) -> Result<Lsn, PageError> {
    timeline.wal.oldest().await.map_err(|error| PageError::Io {
        page: "the received WAL".to_owned(),
        what: error.to_string(),
    })
}

fn wal_error(error: &std::io::Error) -> PageError {
    PageError::Io { page: "the received WAL".to_owned(), what: error.to_string() }
}

/// The cluster of this moment cannot be given.
fn cannot(lsn: Lsn, what: &str) -> PageError {
    PageError::Damaged { page: format!("the cluster as of {lsn}"), what: what.to_owned() }
}
