//! Streaming replication: what goes inside CopyData while WAL or a base backup flows, and the
//! commands that start it.
//!
//! Times are microseconds since 2000-01-01 00:00:00 UTC ([`POSTGRES_EPOCH_UNIX_MICROS`]).

pub mod backup;
pub mod command;
mod command_scanner;
pub mod reply;

use super::Malformed;
use super::read::Reader;
use super::write;
use crate::lsn::Lsn;

/// 2000-01-01 in microseconds since 1970-01-01: add it to a time of the protocol for Unix time.
pub const POSTGRES_EPOCH_UNIX_MICROS: i64 = 946_684_800_000_000;

/// What a walsender sends inside CopyData.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromSender<'a> {
    XLogData(XLogData<'a>),
    Keepalive(Keepalive),
}

impl<'a> FromSender<'a> {
    /// Reads the data of a CopyData message.
    pub fn read(data: &'a [u8]) -> Result<FromSender<'a>, Malformed> {
        let mut reader = Reader::new(data);
        match reader.u8()? {
            b'w' => XLogData::read(reader).map(FromSender::XLogData),
            b'k' => Keepalive::read(reader).map(FromSender::Keepalive),
            other => Err(Malformed::Kind(other)),
        }
    }
}

/// `w`: a stretch of WAL. It may begin and end anywhere; at most 128 KiB as Postgres sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XLogData<'a> {
    pub start: Lsn,
    /// The sender's current end of WAL.
    pub end: Lsn,
    pub sent_at: i64,
    pub wal: &'a [u8],
}

impl<'a> XLogData<'a> {
    /// Bytes before the WAL: the kind and three 8-byte numbers.
    pub const HEADER_BYTES: usize = 25;

    fn read(mut reader: Reader<'a>) -> Result<XLogData<'a>, Malformed> {
        Ok(XLogData {
            start: Lsn(reader.u64()?),
            end: Lsn(reader.u64()?),
            sent_at: reader.i64()?,
            wal: reader.rest(),
        })
    }

    /// Appends the data of the CopyData message (without its header).
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(b'w');
        write::u64(out, self.start.0);
        write::u64(out, self.end.0);
        write::i64(out, self.sent_at);
        out.extend_from_slice(self.wal);
    }
}

/// `k`: the sender is alive, and may want an answer at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    pub end: Lsn,
    pub sent_at: i64,
    pub reply_requested: bool,
}

impl Keepalive {
    fn read(mut reader: Reader<'_>) -> Result<Keepalive, Malformed> {
        let keepalive = Keepalive {
            end: Lsn(reader.u64()?),
            sent_at: reader.i64()?,
            reply_requested: reader.u8()? != 0,
        };
        reader.end()?;
        Ok(keepalive)
    }

    /// Appends the data of the CopyData message (without its header).
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(b'k');
        write::u64(out, self.end.0);
        write::i64(out, self.sent_at);
        out.push(u8::from(self.reply_requested));
    }
}

/// What a walreceiver sends inside CopyData.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromReceiver {
    Status(StandbyStatus),
    Feedback(HotStandbyFeedback),
}

impl FromReceiver {
    /// Reads the data of a CopyData message.
    pub fn read(data: &[u8]) -> Result<FromReceiver, Malformed> {
        let mut reader = Reader::new(data);
        match reader.u8()? {
            b'r' => StandbyStatus::read(reader).map(FromReceiver::Status),
            b'h' => HotStandbyFeedback::read(reader).map(FromReceiver::Feedback),
            other => Err(Malformed::Kind(other)),
        }
    }
}

/// `r`: how far the receiver has come. Each position is that of the byte after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandbyStatus {
    pub written: Lsn,
    /// On disk: what synchronous commit waits for, and up to where the slot may forget WAL.
    pub flushed: Lsn,
    pub applied: Lsn,
    pub sent_at: i64,
    pub reply_requested: bool,
}

impl StandbyStatus {
    fn read(mut reader: Reader<'_>) -> Result<StandbyStatus, Malformed> {
        let status = StandbyStatus {
            written: Lsn(reader.u64()?),
            flushed: Lsn(reader.u64()?),
            applied: Lsn(reader.u64()?),
            sent_at: reader.i64()?,
            reply_requested: reader.u8()? != 0,
        };
        reader.end()?;
        Ok(status)
    }

    /// Appends the data of the CopyData message (without its header).
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(b'r');
        write::u64(out, self.written.0);
        write::u64(out, self.flushed.0);
        write::u64(out, self.applied.0);
        write::i64(out, self.sent_at);
        out.push(u8::from(self.reply_requested));
    }
}

/// `h`: the oldest transactions that the receiver still needs rows of; all 0 withdraws it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HotStandbyFeedback {
    pub sent_at: i64,
    pub xmin: u32,
    pub xmin_epoch: u32,
    pub catalog_xmin: u32,
    pub catalog_xmin_epoch: u32,
}

impl HotStandbyFeedback {
    fn read(mut reader: Reader<'_>) -> Result<HotStandbyFeedback, Malformed> {
        let feedback = HotStandbyFeedback {
            sent_at: reader.i64()?,
            xmin: reader.u32()?,
            xmin_epoch: reader.u32()?,
            catalog_xmin: reader.u32()?,
            catalog_xmin_epoch: reader.u32()?,
        };
        reader.end()?;
        Ok(feedback)
    }

    /// Appends the data of the CopyData message (without its header).
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(b'h');
        write::i64(out, self.sent_at);
        write::u32(out, self.xmin);
        write::u32(out, self.xmin_epoch);
        write::u32(out, self.catalog_xmin);
        write::u32(out, self.catalog_xmin_epoch);
    }
}
