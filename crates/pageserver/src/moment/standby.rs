//! Where a standby begins that is to follow a branch.
//!
//! A server that goes its own way starts from a checkpoint that we make up. One that follows cannot: it is not in the
//! branch's WAL. It starts as from a base backup that was taken of a standby: its pages are as of the moment, it replays
//! from a checkpoint that is in the WAL (changes that its pages have already are passed over), and it is consistent when
//! it comes to the moment. Sources: `xlogrecovery.c` (`InitWalRecovery`, `CheckRecoveryConsistency`).
//!
//! Files of prepared transactions are as of the moment, too: of those prepared behind the redo pointer the server
//! keeps the file or the record, with a warning, as it does after a crash in a checkpoint (`PrepareRedoAdd`).

use pg::datadir::backup_label::BackupLabel;
use pg::datadir::boot::{BootImage, StandbyStart, standby_control};
use pg::lsn::Lsn;
use pg::redo::effects::{Change, effects};
use pg::wal::reader::StreamDecoder;
use pg::wal::rmgr::Rmgr;
use pg::wal::segment::SegmentName;
use runtime::{clock, executor};

use super::cluster_state::ClusterState;
use super::{cannot, oldest_wal, wal_error};
use crate::error::PageError;
use crate::limits::WAL_WRITE_BYTES_MAX;
use crate::timeline::Timeline;
use crate::wal_store::Hold;

/// The files that make a server a standby, and where its replay begins.
pub struct Standby {
    /// Replay begins here, on this timeline of Postgres'.
    pub redo: Lsn,
    pub timeline: u32,
    /// `backup_label`.
    pub label: String,
    /// `global/pg_control`.
    pub control: Vec<u8>,
    /// WAL from the segment of the redo pointer on.
    _hold: Hold,
}

impl Standby {
    /// For the moment of `state`, whose image for a server of its own is `image`.
    ///
    /// # Errors
    /// When WAL is gone that it would have to replay.
    pub async fn of(
        timeline: &Timeline,
        state: &ClusterState,
        image: &BootImage,
    ) -> Result<Standby, PageError> {
        let bytes = timeline.manifest.wal_segment_bytes;
        let redo = state.counters.redo;
        let start = SegmentName::of(1, redo, bytes).start();
        let hold = timeline.wal.hold(start);
        let oldest = oldest_wal(timeline).await?;
        if start < oldest {
            return Err(PageError::WalGone { needed: start, oldest });
        }
        let (checkpoint, number) = checkpoint_of(timeline, redo, state.end).await?;
        let place = StandbyStart {
            checkpoint,
            end: state.end,
            timeline: timeline.postgres_timeline_before(state.end),
        };
        let control = standby_control(&image.control, &place);
        let control = control.map_err(|error| cannot(state.end, &error.to_string()))?;
        let label = BackupLabel {
            start: redo,
            checkpoint,
            timeline: number,
            from_standby: true,
            label: "howdah replica".to_owned(),
        };
        let label = label.to_text(bytes, &format!("@{}", clock::wall_micros() / 1_000_000));
        Ok(Standby { redo, timeline: number, label, control, _hold: hold })
    }
}

/// Where the record of the checkpoint with this redo pointer stands, and its timeline.
async fn checkpoint_of(timeline: &Timeline, redo: Lsn, end: Lsn) -> Result<(Lsn, u32), PageError> {
    let manifest = &timeline.manifest;
    let mut decoder = StreamDecoder::at_record(redo, manifest.wal_segment_bytes)
        .expect_system(manifest.system_identifier)
        .assume_version(manifest.wal_version());
    let damaged = |error: pg::wal::error::WalError| cannot(end, &error.to_string());
    while decoder.position() < end {
        let start = decoder.position();
        let until = end.min(start + WAL_WRITE_BYTES_MAX as u64);
        let wal = timeline.wal.read(start, until).await.map_err(|error| wal_error(&error))?;
        let mut input = wal.as_slice();
        while let Some(raw) = decoder.next(&mut input).map_err(damaged)? {
            if raw.header.rmgr != Rmgr::XLOG {
                continue;
            }
            let record = raw.decode().map_err(damaged)?;
            for change in effects(&record).map_err(damaged)? {
                if let Change::Checkpoint(found) = change
                    && found.redo == redo
                {
                    return Ok((raw.lsn, found.timeline));
                }
            }
        }
        executor::yield_now().await;
    }
    Err(cannot(end, &format!("no checkpoint has its redo pointer at {redo}")))
}
