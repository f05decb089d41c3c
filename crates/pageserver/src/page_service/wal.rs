//! START_REPLICATION: the WAL we have received, from any position on, and what arrives meanwhile; or, for a base
//! backup, the WAL up to its end, which is partly our own (see [`crate::moment`]).

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use pg::lsn::Lsn;
use pg::oid::Oid;
use pg::sqlstate::SqlState;
use pg::wire::backend::{self, Field};
use pg::wire::error::Report;
use pg::wire::frontend::kind;
use pg::wire::replication::{FromReceiver, Keepalive, POSTGRES_EPOCH_UNIX_MICROS, XLogData};
use runtime::clock;

use super::session::{End, Session, violation};
use crate::limits::{STREAM_REPLY_BYTES_MAX, WAL_MESSAGE_BYTES_MAX, WAL_SILENCE_MAX};
use crate::messages::Message;
use crate::moment::{Moment, oldest_wal};
use crate::timeline::Timeline;
use crate::wal_store::Hold;

/// Whose WAL is sent.
enum Source {
    /// With the WAL from where it has come to held.
    Received(Rc<Timeline>, RefCell<Hold>),
    Backup(Rc<Moment>),
}

impl Source {
    /// Up to where there is WAL now. Only whole records count: the next compute of a branch may write something else
    /// behind the last one.
    fn end(&self) -> Lsn {
        match self {
            Source::Received(timeline, _) => timeline.durable().min(timeline.ingested()),
            Source::Backup(moment) => moment.wal_end(),
        }
    }

    async fn read(&self, start: Lsn, end: Lsn) -> std::io::Result<Vec<u8>> {
        match self {
            Source::Received(timeline, hold) => {
                hold.borrow_mut().advance(start);
                timeline.wal.read(start, end).await
            }
            Source::Backup(moment) => moment.wal(start, end).await,
        }
    }

    /// The first byte that can be sent.
    async fn oldest(&self) -> Result<Lsn, Report> {
        match self {
            Source::Received(timeline, _) => {
                oldest_wal(timeline).await.map_err(|error| error.report())
            }
            Source::Backup(moment) => Ok(moment.wal_start()),
        }
    }

    /// Waits until there is more WAL than up to `end`.
    async fn grows_beyond(&self, end: Lsn) {
        match self {
            Source::Received(timeline, _) => timeline.grows_beyond(end).await,
            Source::Backup(_) => std::future::pending().await,
        }
    }
}

/// What ended a wait.
enum Event {
    Wal,
    Silence,
    Message(std::io::Result<Message>),
}

impl Session<'_> {
    pub(super) async fn send_wal(
        &mut self,
        slot: Option<&str>,
        start: Lsn,
        timeline: Option<u32>,
    ) -> Result<Result<(), Report>, End> {
        let (source, next) = match self.wal_source(slot, start, timeline).await {
            Ok(source) => source,
            Err(report) => return Ok(Err(report)),
        };
        let last = next.map(|(_, left)| left);
        if last != Some(start) {
            backend::write::copy_both(&mut self.out);
            self.flush();
            self.stream_wal(&source, start, last).await?;
        }
        if let Some((id, left)) = next {
            let (id, left) = (id.to_string(), left.to_string());
            let fields = [
                Field::text(b"next_tli", Oid::INT8, 8),
                Field::text(b"next_tli_startpos", Oid::TEXT, -1),
            ];
            backend::write::row_description(&mut self.out, &fields);
            backend::write::data_row(&mut self.out, &[Some(id.as_bytes()), Some(left.as_bytes())]);
            backend::write::command_complete(&mut self.out, "SELECT");
        }
        backend::write::command_complete(&mut self.out, "START_STREAMING");
        Ok(Ok(()))
    }

    async fn wal_source(
        &self,
        slot: Option<&str>,
        start: Lsn,
        number: Option<u32>,
    ) -> Result<(Source, Option<(u32, Lsn)>), Report> {
        self.check_slot(slot)?;
        let timeline = self.service.timeline(&self.target.branch)?;
        let lineage = &timeline.wal_layout.lineage;
        if let Some(number) = number.filter(|number| !lineage.has(*number)) {
            let message = format!("requested timeline {number} is not in this server's history");
            return Err(Report::error(SqlState::UNDEFINED_FILE, message));
        }
        let next = number.and_then(|number| lineage.next(number));
        if let Some((_, left)) = next.filter(|(_, left)| start > *left) {
            let number = number.unwrap_or_default();
            let message = format!(
                "requested starting point {start} on timeline {number} is not in this server's history"
            );
            let report = Report::error(SqlState::UNDEFINED_FILE, message);
            let detail = format!("This server's history forked from timeline {number} at {left}.");
            return Err(report.with_detail(detail));
        }
        let source = match self.moment_of_backup(&timeline, start).await? {
            Some(moment) => Source::Backup(moment),
            None => {
                let hold = RefCell::new(timeline.wal.hold(start));
                Source::Received(timeline, hold)
            }
        };
        let end = source.end();
        if start > end {
            let message = format!(
                "requested starting point {start} is ahead of the WAL flush position of this server {end}"
            );
            return Err(Report::error(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message));
        }
        let oldest = source.oldest().await?;
        if start < oldest {
            let message = format!("requested WAL from {start} on has already been removed");
            let report = Report::error(SqlState::UNDEFINED_FILE, message);
            return Err(report.with_detail(format!("the oldest WAL here begins at {oldest}")));
        }
        // A backup's WAL goes on to its end, whatever the timeline did later.
        let next = next.filter(|_| matches!(source, Source::Received(..)));
        Ok((source, next))
    }

    /// Sends until the client has enough, or up to `last`.
    async fn stream_wal(
        &mut self,
        source: &Source,
        start: Lsn,
        last: Option<Lsn>,
    ) -> Result<(), End> {
        let mut at = start;
        let mut caught_up = false;
        loop {
            while let Some(message) = self.messages.try_receive()? {
                if self.take_reply(&message, at)? {
                    backend::write::copy_done(&mut self.out);
                    return Ok(());
                }
            }
            if last == Some(at) {
                return self.end_stream(at).await;
            }
            let end = source.end().min(last.unwrap_or(Lsn::MAX));
            if at < end {
                at = self.send_some(source, at, end).await?;
                caught_up = false;
                continue;
            }
            if !caught_up {
                caught_up = true;
                self.keepalive(at);
            }
            match self.wait(source, at).await {
                Event::Wal => {}
                Event::Silence => self.keepalive(at),
                Event::Message(message) => {
                    let message = message?;
                    if self.take_reply(&message, at)? {
                        backend::write::copy_done(&mut self.out);
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Says that there is no more, and waits until the client has seen that.
    async fn end_stream(&mut self, at: Lsn) -> Result<(), End> {
        backend::write::copy_done(&mut self.out);
        self.flush();
        loop {
            let message = self.messages.receive().await?;
            if self.take_reply(&message, at)? {
                return Ok(());
            }
        }
    }

    /// Sends one message of WAL; answers up to where. It ends at a page's end if it can, as a walsender's.
    async fn send_some(&mut self, source: &Source, at: Lsn, end: Lsn) -> Result<Lsn, End> {
        let whole = Lsn((at.0 + WAL_MESSAGE_BYTES_MAX) & !(pg::wal::segment::PAGE_BYTES - 1));
        let until = if whole > at { end.min(whole) } else { end };
        let wal = source.read(at, until).await.map_err(|error| {
            let message = format!("could not read WAL from {at} on: {error}");
            End::Fatal(Report::fatal(SqlState::IO_ERROR, message))
        })?;
        let mut data = Vec::with_capacity(wal.len() + XLogData::HEADER_BYTES);
        XLogData { start: at, end, sent_at: now(), wal: &wal }.write(&mut data);
        backend::write::copy_data(&mut self.out, &data);
        self.flush();
        self.messages.writable(STREAM_REPLY_BYTES_MAX).await?;
        Ok(until)
    }

    fn keepalive(&mut self, end: Lsn) {
        let mut data = Vec::new();
        Keepalive { end, sent_at: now(), reply_requested: false }.write(&mut data);
        backend::write::copy_data(&mut self.out, &data);
        self.flush();
    }

    /// Whether the client has ended the stream.
    fn take_reply(&mut self, message: &Message, at: Lsn) -> Result<bool, End> {
        match message.kind {
            kind::COPY_DATA => {
                let reply = FromReceiver::read(self.messages.body(message))
                    .map_err(|error| violation(error.to_string()))?;
                if matches!(reply, FromReceiver::Status(status) if status.reply_requested) {
                    self.keepalive(at);
                }
                Ok(false)
            }
            kind::COPY_DONE => Ok(true),
            kind::TERMINATE => Err(End::Closed),
            other => Err(violation(format!("unexpected message type {other} in streaming"))),
        }
    }

    async fn wait(&mut self, source: &Source, at: Lsn) -> Event {
        let mut more = pin!(source.grows_beyond(at));
        let mut silence = pin!(clock::sleep(WAL_SILENCE_MAX));
        let mut message = pin!(self.messages.receive());
        poll_fn(|context| {
            if let Poll::Ready(message) = message.as_mut().poll(context) {
                return Poll::Ready(Event::Message(message));
            }
            if more.as_mut().poll(context).is_ready() {
                return Poll::Ready(Event::Wal);
            }
            silence.as_mut().poll(context).map(|()| Event::Silence)
        })
        .await
    }
}

/// The time as the protocol counts it.
fn now() -> i64 {
    clock::wall_micros() - POSTGRES_EPOCH_UNIX_MICROS
}
