//! Where a record ends: the last one before a position, found by reading backwards from there.
//!
//! WAL cannot be read backwards record by record; so decoding begins at a page further and further back until a record
//! is met that ends at or before the position.

use std::io;

use pg::lsn::Lsn;
use pg::wal::reader::StreamDecoder;
use pg::wal::segment::PAGE_BYTES;

use crate::error::Error;
use crate::limits::WAL_RECORD_BYTES_MAX;
use crate::timeline::Timeline;

/// A record's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub start: Lsn,
    /// Where the next record can begin; after a switch of segments, in the next one.
    pub end: Lsn,
}

impl Timeline {
    /// The last record that ends at or before `lsn`; `None` if the WAL that has it is not here any more.
    ///
    /// # Errors
    /// Of reading files. WAL that cannot be decoded counts as not being here.
    pub async fn last_record(&self, lsn: Lsn) -> Result<Option<Place>, Error> {
        let failed = |source| Error::file("read WAL in", &self.wal_layout.directory, source);
        let oldest = self.wal.oldest().await?;
        let upto = lsn.min(self.durable());
        let mut distance = PAGE_BYTES;
        loop {
            let from = Lsn(upto.0.saturating_sub(distance) / PAGE_BYTES * PAGE_BYTES).max(oldest);
            let found = self.last_record_between(from, upto, lsn).await.map_err(failed)?;
            let is_enough = distance > u64::from(WAL_RECORD_BYTES_MAX);
            if found.is_some() || from == oldest || is_enough {
                return Ok(found);
            }
            distance *= 4;
        }
    }

    async fn last_record_between(
        &self,
        from: Lsn,
        upto: Lsn,
        lsn: Lsn,
    ) -> io::Result<Option<Place>> {
        let mut decoder = StreamDecoder::resync(from, self.manifest.wal_segment_bytes)
            .expect_system(self.manifest.system_identifier);
        let mut found = None;
        while decoder.position() < upto {
            let start = decoder.position();
            let wal = match self.wal.read(start, upto.min(start + (1 << 20))).await {
                // After a switch of segments: it is known where the record ends before the rest of its segment is here.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(found),
                read => read?,
            };
            let mut input = &wal[..];
            loop {
                match decoder.next(&mut input) {
                    Ok(Some(record)) if record.end_lsn <= lsn => {
                        found = Some(Place { start: record.lsn, end: record.end_lsn });
                    }
                    Ok(None) => break,
                    Ok(Some(_)) | Err(_) => return Ok(found),
                }
            }
        }
        Ok(found)
    }
}
