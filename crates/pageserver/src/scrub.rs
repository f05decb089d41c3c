//! A scrub: the checksums of all that is kept, compared: layers and catalogs, the received WAL, the object store.
//!
//! WAL is decoded: each of its records has a checksum, and a link to the one before. Behind damage the next segment is where
//! it can be gone on with.

use std::io;
use std::rc::Rc;

use pg::lsn::Lsn;
use pg::wal::reader::StreamDecoder;
use runtime::executor;
use storage::store::scrub::ScrubProgress;

use crate::error::Error;
use crate::follower::Follower;
use crate::limits::WAL_WRITE_BYTES_MAX;
use crate::timeline::Timeline;

/// Compares everything once; [`Follower::scrub`] says how far it is, and in the end what is damaged.
pub async fn run(follower: Rc<Follower>) {
    let all = follower.branches().map(|branches| branches.all()).unwrap_or_default();
    let bytes_total =
        all.iter().map(|timeline| timeline.store.stats().bytes + timeline.wal.bytes()).sum();
    follower.scrub.borrow_mut().bytes_total = bytes_total;
    let more = |bytes| {
        let mut scrub = follower.scrub.borrow_mut();
        scrub.bytes_done += bytes;
        scrub.bytes_total = scrub.bytes_total.max(scrub.bytes_done);
    };
    let or_why =
        |found: Result<Vec<String>, Error>| found.unwrap_or_else(|error| vec![error.to_string()]);
    for timeline in &all {
        let before = follower.scrub.borrow().bytes_done;
        let report = |progress: ScrubProgress| {
            follower.scrub.borrow_mut().bytes_done = before + progress.bytes_done;
        };
        let found = timeline.store.scrub(report).await;
        let found = found.unwrap_or_else(|error| vec![error.to_string()]);
        follower.scrub.borrow_mut().damaged.extend(found);
        let found = or_why(timeline.scrub_wal(more).await);
        // Of a branch that was deleted meanwhile nothing is missed.
        if timeline.store.is_closed() {
            continue;
        }
        follower.scrub.borrow_mut().damaged.extend(found);
    }
    if let Some(store) = follower.store() {
        let found = or_why(store.scrub(more).await);
        follower.scrub.borrow_mut().damaged.extend(found);
        // One that cannot be read is damaged enough.
        let litter = store.litter(&all).await.unwrap_or_default();
        let mut scrub = follower.scrub.borrow_mut();
        (scrub.litter_objects, scrub.litter_bytes) = (litter.objects, litter.bytes);
    }
    let mut scrub = follower.scrub.borrow_mut();
    scrub.bytes_done = scrub.bytes_total;
    scrub.running = false;
    tracing::info!(bytes = scrub.bytes_total, damaged = scrub.damaged.len(), "checksums compared");
}

impl Timeline {
    /// Decodes the timeline's own WAL up to the end of the last record that is here; the answer names what is damaged, the
    /// first place of each segment. `report` is told how many bytes were read.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    async fn scrub_wal(&self, report: impl Fn(u64)) -> Result<Vec<String>, Error> {
        let bytes = u64::from(self.manifest.wal_segment_bytes);
        let until = self.ingested().min(self.durable());
        let mut damaged = Vec::new();
        let mut decoder: Option<StreamDecoder> = None;
        for (number, _) in self.wal_layout.segments().await? {
            let (start, end) = (Lsn(number * bytes), Lsn((number + 1) * bytes).min(until));
            let _hold = self.wal.hold(start);
            let mut going_on = decoder.take().filter(|decoder| decoder.position() == start);
            if going_on.is_none() {
                going_on = self.first_decoder(start, end).await;
            }
            let Some(mut segment) = going_on else { continue };
            let from = segment.position();
            match self.scrub_segment(&mut segment, end).await {
                Ok(()) => decoder = Some(segment),
                // One that was removed before it was held is nobody's loss.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let path = self.wal_layout.path(number);
                    damaged.push(format!("WAL segment \"{}\": {error}", path.display()));
                }
            }
            report(end.bytes_since(from));
        }
        Ok(damaged)
    }

    /// Where decoding can begin between two positions of one segment: a segment that was begun in the middle has nothing
    /// before.
    async fn first_decoder(&self, start: Lsn, end: Lsn) -> Option<StreamDecoder> {
        let (segment_bytes, known) = (self.manifest.wal_segment_bytes, self.flushed());
        let decoder = if start < end && self.wal_layout.has_head(start).await {
            StreamDecoder::resync(start, segment_bytes)
        } else if start <= known && known < end {
            let version = self.manifest.wal_version();
            StreamDecoder::at_record(known, segment_bytes).assume_version(version)
        } else {
            return None;
        };
        Some(decoder.expect_system(self.manifest.system_identifier))
    }

    async fn scrub_segment(&self, decoder: &mut StreamDecoder, end: Lsn) -> io::Result<()> {
        while decoder.position() < end {
            let start = decoder.position();
            let until = end.min(start + WAL_WRITE_BYTES_MAX as u64);
            let wal = self.wal_layout.read(start, until).await?;
            let mut input = &wal[..];
            while decoder.next(&mut input).map_err(io::Error::other)?.is_some() {}
            executor::yield_now().await;
        }
        Ok(())
    }
}
