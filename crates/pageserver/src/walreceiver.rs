//! Following Postgres: physical WAL over streaming replication, made durable, taken in, acknowledged.
//!
//! Steps of the loop: gather what has arrived (up to a bound), write and sync it, tell Postgres, take its records into
//! the index. While one piece is written and synced, the records of the one before are taken in and the next one is
//! gathered. When that is full, nothing is read from the connection: that is the back-pressure.
//! Invariant: `flushed` in a status message never exceeds what is synced; `applied` never exceeds what the
//! index has.

use std::future::{pending, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use pg::lsn::Lsn;
use pg::wal::reader::StreamDecoder;
use pg::wal::record::{RECORD_HEADER_BYTES, RawRecord};
use pg::wal::rmgr::Rmgr;
use pg::wal::segment::{LONG_HEADER_BYTES, PAGE_BYTES};
use pg::wire::backend::kind;
use pg::wire::frontend;
use pg::wire::replication::command::Command;
use pg::wire::replication::{FromSender, POSTGRES_EPOCH_UNIX_MICROS, StandbyStatus};
use runtime::clock::{self, Instant};
use runtime::executor;

use crate::connection::{Connection, malformed, unexpected};
use crate::error::Error;
use crate::ingest::Ingest;
use crate::limits::{
    ROOM_LOOK_INTERVAL, SILENT_INTERVALS_MAX, WAL_ACKNOWLEDGED_FIRST_BYTES, WAL_GATHERED_BYTES_MAX,
    WAL_OVERLAP_BYTES, WAL_TAKEN_IN_BYTES, WAL_WRITE_BYTES_MAX,
};
use crate::timeline::Timeline;
use crate::wal_store::writer::WalWriter;
use crate::watch::{Watch, unless_stopped};

/// Bytes in which the header of a record has come, whatever page headers stand before it and in it.
const RECORD_START_BYTES: usize = RECORD_HEADER_BYTES + 2 * LONG_HEADER_BYTES;

/// A stream of WAL into one timeline.
pub struct WalReceiver<'t> {
    timeline: &'t Timeline,
    writer: &'t mut WalWriter,
    ingest: &'t mut Ingest,
    /// Where the stream goes on.
    from: Lsn,
    arrived: Arrived,
    /// WAL that is durable and not yet in the index; the first so many bytes of it are.
    durable: (Vec<u8>, usize),
    /// What went wrong with the connection while WAL was written: what has arrived before that comes first.
    failed: Option<Error>,
    status_interval: Duration,
    /// What the last status message said, and when it was sent.
    reported: (Lsn, Lsn),
    reported_at: Instant,
    /// The link of the first record to the last one here is still to be checked.
    unchecked: bool,
    received_at: Instant,
}

/// What has come from the sender.
struct Arrived {
    /// WAL received and not yet durable; it begins at the timeline's durable end, or behind what is being written.
    buffer: Vec<u8>,
    /// The sender's end of WAL, as it said last.
    sender_end: Lsn,
    /// The sender wants a status message now.
    reply_requested: bool,
}

/// What the receiver tells its owner after each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub sender_end: Lsn,
    pub durable: Lsn,
    pub ingested: Lsn,
}

impl<'t> WalReceiver<'t> {
    pub fn new(
        timeline: &'t Timeline,
        writer: &'t mut WalWriter,
        ingest: &'t mut Ingest,
        status_interval: Duration,
    ) -> WalReceiver<'t> {
        WalReceiver {
            timeline,
            writer,
            ingest,
            from: timeline.durable(),
            arrived: Arrived {
                buffer: Vec::new(),
                sender_end: Lsn::INVALID,
                reply_requested: false,
            },
            durable: (Vec::new(), 0),
            failed: None,
            status_interval,
            reported: (Lsn::INVALID, Lsn::INVALID),
            reported_at: clock::now(),
            unchecked: true,
            received_at: clock::now(),
        }
    }

    /// Whether the server's WAL goes on behind the last whole record here, as far as it can be seen; then good-bye.
    pub async fn probe(mut self, connection: &mut Connection) -> Result<(), Error> {
        self.from = self.timeline.ingested();
        self.start(connection, None).await?;
        let is_first = self.is_at_branch_point();
        while self.unchecked && (is_first || self.from < self.arrived.sender_end) {
            let expected = self.from + self.arrived.buffer.len() as u64;
            self.gather_one(connection, expected).await?;
            self.check_continuation().await?;
        }
        let mut packet = Vec::new();
        frontend::write::copy_done(&mut packet);
        frontend::write::terminate(&mut packet);
        connection.send(&packet).await
    }

    /// Streams until `stop` (then `Ok`, after a last status message) or an error.
    pub async fn run(
        mut self,
        connection: &mut Connection,
        slot: &str,
        stop: &Watch,
        report: impl Fn(Position),
    ) -> Result<(), Error> {
        self.catch_up().await?;
        let ended = self.stream(connection, slot, stop, report).await;
        // What is durable can be asked for, however the stream ended; why it ended comes first.
        let taken_in = self.take_in_all().await;
        ended.and(taken_in)
    }

    /// Takes in what an earlier stream made durable and did not come to take in.
    async fn catch_up(&mut self) -> Result<(), Error> {
        while self.ingest.position() < self.timeline.durable() {
            let from = self.ingest.position();
            let until = self.timeline.durable().min(from + WAL_WRITE_BYTES_MAX as u64);
            let wal = self.own(from, until).await?;
            self.ingest.feed(self.timeline, &wal)?;
        }
        Ok(())
    }

    async fn stream(
        &mut self,
        connection: &mut Connection,
        slot: &str,
        stop: &Watch,
        report: impl Fn(Position),
    ) -> Result<(), Error> {
        self.start(connection, Some(slot)).await?;
        if self.arrived.buffer.is_empty() {
            self.timeline.taken_in.raise(self.from.0);
        }
        report(self.position());
        self.send_status(connection).await?;
        loop {
            if self.timeline.is_full() && !self.wait_for_room(connection, stop).await? {
                return self.leave(connection).await;
            }
            let received = unless_stopped(stop, self.receive(connection)).await;
            // Before anything else, an error of the connection included: what has arrived counts.
            self.check_continuation().await?;
            if !self.arrived.buffer.is_empty() && !self.unchecked {
                self.store(connection).await?;
            }
            match received {
                Some(received) => received?,
                None => {
                    self.take_in_all().await?;
                    return self.leave(connection).await;
                }
            }
            report(self.position());
            let now = (self.timeline.durable(), self.timeline.ingested());
            if now != self.reported || self.arrived.reply_requested || self.is_status_due() {
                self.send_status(connection).await?;
            }
        }
    }

    async fn start(
        &mut self,
        connection: &mut Connection,
        slot: Option<&str>,
    ) -> Result<(), Error> {
        let end = self.from;
        let (begin, is_here) = self.begin(end).await?;
        let command = Command::StartPhysical {
            slot: slot.map(str::to_owned),
            start: begin,
            timeline: Some(self.timeline.postgres_timeline()),
        };
        connection.begin(&command).await?;
        let message = connection.receive().await?;
        if message.kind != kind::COPY_BOTH {
            return Err(unexpected(message.kind, "START_REPLICATION"));
        }
        let head = self.gather_head(connection, begin, end).await?;
        if !is_here {
            self.writer.append(begin, head).await.0?;
        } else if head != self.own(begin, end).await? {
            return Err(self.another_history());
        }
        // In the middle of a record there is no link to be checked.
        self.unchecked = end == self.timeline.ingested();
        self.check_continuation().await
    }

    /// Where to begin to ask so as to go on at `end`, and whether what comes up to there is here already.
    async fn begin(&self, end: Lsn) -> Result<(Lsn, bool), Error> {
        let segment_bytes = self.timeline.manifest.wal_segment_bytes;
        let segment = Lsn(end.0 - end.segment_offset(segment_bytes));
        let is_main = self.timeline.ancestor.is_none();
        if is_main && !self.timeline.wal_layout.has_segment_up_to(end).await {
            // So that every file is whole.
            return Ok((segment, false));
        }
        let oldest = Lsn(self.timeline.wal.oldest().await?.0.next_multiple_of(PAGE_BYTES));
        let overlap = Lsn(end.0.saturating_sub(WAL_OVERLAP_BYTES));
        Ok((overlap.max(segment).max(oldest).min(end), true))
    }

    /// The WAL from `begin` up to `end`; what comes behind that is in the buffer then.
    async fn gather_head(
        &mut self,
        connection: &mut Connection,
        begin: Lsn,
        end: Lsn,
    ) -> Result<Vec<u8>, Error> {
        let mut head = Vec::new();
        while begin + (head.len() as u64) < end {
            self.gather_one(connection, begin + head.len() as u64).await?;
            head.append(&mut self.arrived.buffer);
        }
        let length = usize::try_from(end.bytes_since(begin)).unwrap_or(usize::MAX);
        self.arrived.buffer = head.split_off(length);
        Ok(head)
    }

    async fn own(&self, begin: Lsn, end: Lsn) -> Result<Vec<u8>, Error> {
        let read = self.timeline.wal.read(begin, end).await;
        let directory = &self.timeline.wal_layout.directory;
        read.map_err(|source| Error::file("read WAL in", directory, source))
    }

    /// Whether the first record that comes links to the last one here, as soon as enough of it has come to tell.
    async fn check_continuation(&mut self) -> Result<(), Error> {
        if !self.unchecked || self.arrived.buffer.is_empty() {
            return Ok(());
        }
        let start = self.from;
        let last = self.timeline.last_record(start).await?.filter(|last| last.end == start);
        let is_first = self.is_at_branch_point();
        if last.is_none() && !is_first {
            self.unchecked = false;
            return Ok(());
        }
        let manifest = &self.timeline.manifest;
        let mut decoder = StreamDecoder::at_record(start, manifest.wal_segment_bytes)
            .expect_system(manifest.system_identifier)
            .assume_version(manifest.wal_version());
        // An ancestor's WAL may be gone.
        if let Some(last) = last {
            decoder = decoder.expect_previous(last.start);
        }
        match decoder.next(&mut self.arrived.buffer.as_slice()) {
            Ok(Some(record)) if is_first && !is_shutdown_checkpoint(&record) => {
                return Err(self.another_history());
            }
            Ok(Some(_)) => self.unchecked = false,
            Ok(None) if is_first => {}
            // Its header comes first.
            Ok(None) => self.unchecked = self.arrived.buffer.len() < RECORD_START_BYTES,
            Err(_) => return Err(self.another_history()),
        }
        Ok(())
    }

    /// A compute's first record is the checkpoint that it was started with; a server without it is none of ours.
    fn is_at_branch_point(&self) -> bool {
        self.timeline.ancestor.as_ref().is_some_and(|(_, at)| *at == self.from)
    }

    fn another_history(&self) -> Error {
        let (end, name) = (self.from, self.timeline.name.as_str());
        let message =
            format!("the server's WAL does not go on from what \"{name}\" has up to {end}");
        let hint = "it wrote another history from some earlier point on; a compute has to be started at the end of the branch";
        Error::Refused { message, hint }
    }

    /// Waits until some of what came in is in the store; Postgres is told meanwhile that we are here. False when
    /// stopped.
    async fn wait_for_room(
        &mut self,
        connection: &Connection,
        stop: &Watch,
    ) -> Result<bool, Error> {
        self.take_in_all().await?;
        while self.timeline.is_full() {
            let next = self.timeline.flushed.get() + 1;
            let flushed = self.timeline.flushed.reaches(next);
            let waiting = clock::timeout(ROOM_LOOK_INTERVAL, flushed);
            if unless_stopped(stop, waiting).await.is_none() {
                return Ok(false);
            }
            self.timeline.check_store()?;
            if self.is_status_due() {
                self.send_status(connection).await?;
            }
        }
        // Not its fault that it could say nothing.
        self.received_at = clock::now();
        Ok(true)
    }

    /// Waits for WAL, or until a status message is due; then takes what else has arrived.
    async fn receive(&mut self, connection: &mut Connection) -> Result<(), Error> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let expected = self.timeline.durable() + self.arrived.buffer.len() as u64;
        let left = self.status_interval.saturating_sub(clock::now() - self.reported_at);
        if self.arrived.buffer.is_empty() || self.unchecked {
            match clock::timeout(left, self.gather_one(connection, expected)).await {
                Ok(gathered) => gathered?,
                Err(_elapsed) => return self.check_silence(),
            }
        }
        self.received_at = clock::now();
        while self.arrived.buffer.len() < WAL_GATHERED_BYTES_MAX {
            let Some(message) = connection.try_receive()? else { break };
            let expected = self.timeline.durable() + self.arrived.buffer.len() as u64;
            self.arrived.take(message.kind, connection.body(&message), expected)?;
        }
        Ok(())
    }

    /// A server that does not even answer to our status messages is gone.
    fn check_silence(&self) -> Result<(), Error> {
        if self.silence() < self.status_interval * SILENT_INTERVALS_MAX {
            return Ok(());
        }
        let source = io::Error::new(io::ErrorKind::TimedOut, "the server says nothing any more");
        Err(Error::Connection { server: "streaming replication".to_owned(), source })
    }

    fn silence(&self) -> Duration {
        clock::now() - self.received_at
    }

    async fn gather_one(
        &mut self,
        connection: &mut Connection,
        expected: Lsn,
    ) -> Result<(), Error> {
        let message = connection.receive().await?;
        self.arrived.take(message.kind, connection.body(&message), expected)
    }

    /// Makes what has arrived durable. While it is being written, what is durable already is taken in, and more may arrive.
    async fn store(&mut self, connection: &mut Connection) -> Result<(), Error> {
        let WalReceiver { timeline, writer, ingest, arrived, durable, failed, .. } = self;
        let start = timeline.durable();
        let wal = std::mem::take(&mut arrived.buffer);
        let end = start + wal.len() as u64;
        let (result, wal) = {
            let mut writing = pin!(writer.append(start, wal));
            let mut meanwhile = pin!(async {
                take_in(timeline, ingest, durable).await?;
                arrived.reuse(durable);
                arrived.gather(connection, end).await
            });
            poll_fn(|context| {
                if let Poll::Ready(written) = writing.as_mut().poll(context) {
                    return Poll::Ready(written);
                }
                if failed.is_none()
                    && let Poll::Ready(Err(error)) = meanwhile.as_mut().poll(context)
                {
                    *failed = Some(error);
                }
                Poll::Pending
            })
            .await
        };
        result?;
        self.timeline.wal.set_readable(end);
        if wal.len() >= WAL_ACKNOWLEDGED_FIRST_BYTES {
            // A commit waits for this; the error, if it is one, comes again when the loop goes on.
            let _sent = self.send_status(connection).await;
        }
        self.take_in_all().await?;
        self.durable = (wal, 0);
        if self.arrived.buffer.is_empty() {
            self.take_in_all().await?;
        }
        Ok(())
    }

    /// Takes in all that is durable.
    async fn take_in_all(&mut self) -> Result<(), Error> {
        take_in(self.timeline, self.ingest, &mut self.durable).await?;
        self.arrived.reuse(&mut self.durable);
        Ok(())
    }

    fn position(&self) -> Position {
        let durable = self.timeline.durable();
        let sender_end = self.arrived.sender_end.max(durable);
        Position { sender_end, durable, ingested: self.timeline.ingested() }
    }

    fn is_status_due(&self) -> bool {
        clock::now() - self.reported_at >= self.status_interval
    }

    /// The last position, and good-bye.
    async fn leave(&mut self, connection: &Connection) -> Result<(), Error> {
        self.send_status(connection).await?;
        let mut packet = Vec::new();
        frontend::write::copy_done(&mut packet);
        frontend::write::terminate(&mut packet);
        connection.send(&packet).await
    }

    async fn send_status(&mut self, connection: &Connection) -> Result<(), Error> {
        let (flushed, applied) = (self.timeline.durable(), self.timeline.ingested());
        let status = StandbyStatus {
            written: flushed,
            flushed,
            applied,
            sent_at: clock::wall_micros() - POSTGRES_EPOCH_UNIX_MICROS,
            reply_requested: self.silence() >= self.status_interval * 2,
        };
        let (mut data, mut packet) = (Vec::new(), Vec::new());
        status.write(&mut data);
        frontend::write::copy_data(&mut packet, &data);
        connection.send(&packet).await?;
        self.reported = (flushed, applied);
        self.reported_at = clock::now();
        self.arrived.reply_requested = false;
        Ok(())
    }
}

impl Arrived {
    fn take(&mut self, message_kind: u8, body: &[u8], expected: Lsn) -> Result<(), Error> {
        match message_kind {
            kind::COPY_DATA => {}
            // The server has gone on to another timeline: see `promotion`.
            kind::COPY_DONE => return Err(Error::TimelineEnded),
            // What a walsender says when its server shuts down and we have everything.
            kind::COMMAND_COMPLETE => return Err(Error::StreamEnded),
            other => return Err(unexpected(other, "streaming replication")),
        }
        match FromSender::read(body).map_err(malformed)? {
            FromSender::XLogData(data) => {
                if data.start != expected {
                    let message = format!("WAL from {} where {expected} is next", data.start);
                    return Err(Error::Protocol(message));
                }
                self.sender_end = data.end.max(data.start + data.wal.len() as u64);
                self.buffer.extend_from_slice(data.wal);
            }
            FromSender::Keepalive(keepalive) => {
                self.sender_end = keepalive.end;
                self.reply_requested |= keepalive.reply_requested;
            }
        }
        Ok(())
    }

    /// Takes the memory of WAL that has been taken in, if there is none yet: growing some costs more than filling it.
    fn reuse(&mut self, durable: &mut (Vec<u8>, usize)) {
        if self.buffer.capacity() == 0 {
            self.buffer = std::mem::take(durable).0;
            self.buffer.clear();
        }
    }

    /// Takes WAL from `from` on as it arrives, until there is enough; then waits for ever.
    async fn gather(&mut self, connection: &mut Connection, from: Lsn) -> Result<(), Error> {
        while self.buffer.len() < WAL_GATHERED_BYTES_MAX {
            let message = connection.receive().await?;
            let expected = from + self.buffer.len() as u64;
            self.take(message.kind, connection.body(&message), expected)?;
        }
        pending().await
    }
}

/// Takes in what is durable, in pieces between which other tasks have a turn.
async fn take_in(
    timeline: &Timeline,
    ingest: &mut Ingest,
    (wal, taken): &mut (Vec<u8>, usize),
) -> Result<(), Error> {
    while *taken < wal.len() {
        executor::yield_now().await;
        let until = wal.len().min(*taken + WAL_TAKEN_IN_BYTES);
        ingest.feed(timeline, wal.get(*taken..until).unwrap_or_default())?;
        *taken = until;
        timeline.taken_in.raise(ingest.position().0);
    }
    Ok(())
}

/// `XLOG_CHECKPOINT_SHUTDOWN`.
fn is_shutdown_checkpoint(record: &RawRecord<'_>) -> bool {
    record.header.rmgr == Rmgr::XLOG && record.header.kind_bits() == 0
}
