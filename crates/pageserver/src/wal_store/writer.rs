//! Appending to the received WAL: see the rules of the module above.

use std::io;

use pg::lsn::Lsn;
use runtime::fs::{self, File, OpenOptions};

use super::WalLayout;
use crate::error::Error;
use crate::limits::WAL_ZEROES_AHEAD_BYTES;

/// Appends received WAL.
pub struct WalWriter {
    layout: WalLayout,
    open: Option<Open>,
    /// Bytes of zeroes behind what is written.
    ahead: usize,
}

/// The segment that is being written.
struct Open {
    number: u64,
    file: File,
    length: u64,
}

impl WalWriter {
    /// A writer into an existing directory.
    pub fn new(layout: WalLayout) -> WalWriter {
        WalWriter { layout, open: None, ahead: 0 }
    }

    /// A writer of WAL that comes in small pieces, each of which somebody waits for. To sync a file that has grown takes
    /// twice as long as one that has not, whose length the file system need not note: so it grows ahead of the WAL.
    pub fn of_stream(layout: WalLayout) -> WalWriter {
        WalWriter { layout, open: None, ahead: WAL_ZEROES_AHEAD_BYTES }
    }

    /// Writes `wal`, whose first byte is at `start`, and syncs it. Gives the buffer back, for the next
    /// time. After an error any part may be written; writing the same bytes again is safe.
    pub async fn append(&mut self, start: Lsn, wal: Vec<u8>) -> (Result<(), Error>, Vec<u8>) {
        let mut wal = wal;
        let mut written = 0;
        while written < wal.len() {
            let at = start + written as u64;
            let offset = at.segment_offset(self.layout.segment_bytes);
            let room = u64::from(self.layout.segment_bytes) - offset;
            let length = (wal.len() - written).min(usize::try_from(room).unwrap_or(usize::MAX));
            let whole = written == 0 && length == wal.len();
            let part = if whole {
                std::mem::take(&mut wal)
            } else {
                wal[written..written + length].to_vec()
            };
            let (result, part) = self.write_part(at, offset, part).await;
            if whole {
                wal = part;
            }
            if let Err(source) = result {
                // The file's state is unknown now (a failed fsync may have dropped pages): the
                // next attempt opens it anew and writes the bytes again.
                self.open = None;
                let path = self.layout.path(at.segment(self.layout.segment_bytes));
                return (Err(Error::file("write WAL segment", &path, source)), wal);
            }
            written += length;
        }
        (Ok(()), wal)
    }

    async fn write_part(
        &mut self,
        at: Lsn,
        offset: u64,
        part: Vec<u8>,
    ) -> (io::Result<()>, Vec<u8>) {
        let number = at.segment(self.layout.segment_bytes);
        let mut open = match self.open.take() {
            Some(open) if open.number == number => open,
            // Rule 1 holds: every append has synced what it wrote.
            _ => match self.open_segment(number).await {
                Ok(open) => open,
                Err(error) => return (Err(error), part),
            },
        };
        let (bytes, mut part) = (part.len(), part);
        let end = offset + bytes as u64;
        if end > open.length && bytes < self.ahead {
            let room = u64::from(self.layout.segment_bytes) - end;
            part.resize(
                bytes + usize::try_from(room).map_or(self.ahead, |room| room.min(self.ahead)),
                0,
            );
        }
        let length = offset + part.len() as u64;
        let (result, mut part) = open.file.write_all_at_durably(part, offset).await;
        part.truncate(bytes);
        open.length = open.length.max(length);
        self.open = Some(open);
        (result, part)
    }

    async fn open_segment(&self, number: u64) -> io::Result<Open> {
        let options = OpenOptions { write: true, create: true, ..OpenOptions::default() };
        let file = File::open(self.layout.path(number), options).await?;
        fs::sync_dir(&self.layout.directory).await?;
        let length = file.len().await?;
        Ok(Open { number, file, length })
    }
}
