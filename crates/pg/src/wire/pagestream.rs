//! The page stream: pages as of an LSN, over a replication connection.
//!
//! The client connects to the page service with `replication=true` and sends the query
//! `PAGESTREAM (VERSION '1')`, with the options `TENANT 'name'` and `TIMELINE 'name'` if they are
//! not `main`. The service answers CopyBothResponse; from then on each CopyData of the client is
//! one request and each CopyData of the service one reply. Requests may be sent ahead of replies.
//! Replies may come in any order; they carry the request's id. The client ends with CopyDone,
//! which the service answers with CopyDone, CommandComplete `PAGESTREAM` and ReadyForQuery. A
//! request that cannot be read ends the stream with an ErrorResponse; one that cannot be answered
//! gets an error reply and the stream goes on.
//!
//! All numbers are big-endian. A request:
//!
//! | bytes | field |
//! |---|---|
//! | 1 | kind: `e` exists, `n` size in blocks, `z` size of a database, `g` get pages, `s` get a segment of a transaction log |
//! | 8 | request id, any number of the client's |
//! | 8 | LSN to read at; all ones for the latest |
//! | 8 | not modified since: the client knows that nothing it asks about changed after this LSN, so the service need only have received WAL up to here; 0 if it does not know |
//! | 13 | for `e`, `n`, `g`: the relation fork: tablespace 4, database 4 (0 if shared), relation number 4, fork 1 (0 main, 1 free space map, 2 visibility map, 3 init) |
//! | 8 | for `z`: tablespace 4, database 4 |
//! | 5 | for `s`: log 1 (1 `pg_xact`, 2 `pg_multixact/offsets`, 3 `pg_multixact/members`, 4 `pg_commit_ts`), number of the segment 4 |
//! | 2 | for `g`: count of blocks, 1 to 128 |
//! | 4 × count | for `g`: block numbers |
//!
//! A reply:
//!
//! | bytes | field |
//! |---|---|
//! | 1 | kind: that of the request, or `x` for an error |
//! | 8 | request id |
//! | 8 | LSN that was read at |
//! | 1 | for `e`: 0 or 1 |
//! | 4 | for `n`: blocks |
//! | 8 | for `z`: bytes |
//! | 8192 × count | for `g`: the pages, in the order asked for |
//! | 8192 × count | for `s`: the pages of the segment up to its last one, at most 32; none if there is no such segment |
//! | 5 | for `x`: SQLSTATE |
//! | … | for `x`: message, a zero byte, detail (may be empty), a zero byte |

use super::Malformed;
use super::read::Reader;
use super::write;
use crate::datadir::relation::{Fork, RelTag};
use crate::datadir::slru::{SEGMENT_PAGES, Slru};
use crate::limits::PAGESTREAM_BLOCKS_MAX;
use crate::lsn::Lsn;
use crate::oid::Oid;
use crate::sqlstate::SqlState;

/// The version of this format, as the command's option `VERSION` names it.
pub const VERSION: &str = "1";
/// Bytes of a page (`BLCKSZ`).
pub const PAGE_BYTES: usize = 8192;
/// "As of now" as the LSN to read at.
pub const LATEST: Lsn = Lsn::MAX;

/// A request of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    pub id: u64,
    pub lsn: Lsn,
    pub not_modified_since: Lsn,
    pub question: Question<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question<'a> {
    Exists(RelTag),
    Blocks(RelTag),
    DatabaseBytes { tablespace: Oid, database: Oid },
    Pages(RelTag, Blocks<'a>),
    LogSegment { log: Slru, segment: u32 },
}

/// The block numbers of a request, 1 to 128 of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocks<'a> {
    /// As received.
    Raw(&'a [u8]),
    /// To be sent.
    List(&'a [u32]),
}

impl<'a> Blocks<'a> {
    pub const fn len(&self) -> usize {
        match self {
            Blocks::Raw(bytes) => bytes.len() / 4,
            Blocks::List(blocks) => blocks.len(),
        }
    }

    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = u32> + use<'a> {
        let (raw, list): (&[u8], &[u32]) = match self {
            Blocks::Raw(raw) => (raw, &[]),
            Blocks::List(list) => (&[], list),
        };
        let raw = raw.as_chunks::<4>().0.iter().map(|chunk| u32::from_be_bytes(*chunk));
        raw.chain(list.iter().copied())
    }
}

impl<'a> Request<'a> {
    /// Reads the data of a CopyData message.
    pub fn read(data: &'a [u8]) -> Result<Request<'a>, Malformed> {
        let mut reader = Reader::new(data);
        let kind = reader.u8()?;
        let id = reader.u64()?;
        let lsn = Lsn(reader.u64()?);
        let not_modified_since = Lsn(reader.u64()?);
        let question = match kind {
            b'e' => Question::Exists(read_fork(&mut reader)?),
            b'n' => Question::Blocks(read_fork(&mut reader)?),
            b'z' => Question::DatabaseBytes {
                tablespace: Oid(reader.u32()?),
                database: Oid(reader.u32()?),
            },
            b'g' => {
                let relation = read_fork(&mut reader)?;
                let count = reader.u16()?;
                if !(1..=PAGESTREAM_BLOCKS_MAX).contains(&count) {
                    return Err(Malformed::Field { message: "page stream", field: "block count" });
                }
                let blocks = reader.bytes(usize::from(count) * 4)?;
                Question::Pages(relation, Blocks::Raw(blocks))
            }
            b's' => Question::LogSegment {
                log: log_of_number(reader.u8()?)
                    .ok_or(Malformed::Field { message: "page stream", field: "log" })?,
                segment: reader.u32()?,
            },
            other => return Err(Malformed::Kind(other)),
        };
        reader.end()?;
        Ok(Request { id, lsn, not_modified_since, question })
    }

    /// Appends the data of the CopyData message (without its header). The caller keeps to 1 to
    /// [`PAGESTREAM_BLOCKS_MAX`] blocks; more would be refused.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(match self.question {
            Question::Exists(_) => b'e',
            Question::Blocks(_) => b'n',
            Question::DatabaseBytes { .. } => b'z',
            Question::Pages(..) => b'g',
            Question::LogSegment { .. } => b's',
        });
        write::u64(out, self.id);
        write::u64(out, self.lsn.0);
        write::u64(out, self.not_modified_since.0);
        match self.question {
            Question::Exists(relation) | Question::Blocks(relation) => write_fork(out, relation),
            Question::DatabaseBytes { tablespace, database } => {
                write::u32(out, tablespace.0);
                write::u32(out, database.0);
            }
            Question::Pages(relation, blocks) => {
                write_fork(out, relation);
                write::count(out, blocks.len());
                blocks.iter().for_each(|block| write::u32(out, block));
            }
            Question::LogSegment { log, segment } => {
                out.push(number_of_log(log));
                write::u32(out, segment);
            }
        }
    }
}

/// A reply of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    pub id: u64,
    pub lsn: Lsn,
    pub answer: Answer<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    Exists(bool),
    Blocks(u32),
    DatabaseBytes(u64),
    /// Pages of [`PAGE_BYTES`] each, one after another.
    Pages(&'a [u8]),
    /// The same of a transaction log; none if there is no such segment.
    LogSegment(&'a [u8]),
    Error {
        sqlstate: SqlState,
        message: &'a [u8],
        detail: &'a [u8],
    },
}

impl<'a> Reply<'a> {
    /// Reads the data of a CopyData message.
    pub fn read(data: &'a [u8]) -> Result<Reply<'a>, Malformed> {
        let mut reader = Reader::new(data);
        let kind = reader.u8()?;
        let id = reader.u64()?;
        let lsn = Lsn(reader.u64()?);
        let answer = match kind {
            b'e' => Answer::Exists(reader.u8()? != 0),
            b'n' => Answer::Blocks(reader.u32()?),
            b'z' => Answer::DatabaseBytes(reader.u64()?),
            b'g' => {
                let pages = reader.take_rest();
                if pages.is_empty() || !pages.len().is_multiple_of(PAGE_BYTES) {
                    return Err(Malformed::Field { message: "page stream", field: "page length" });
                }
                Answer::Pages(pages)
            }
            b's' => {
                let pages = reader.take_rest();
                let fits = pages.len() <= SEGMENT_PAGES as usize * PAGE_BYTES;
                if !fits || !pages.len().is_multiple_of(PAGE_BYTES) {
                    return Err(Malformed::Field { message: "page stream", field: "segment" });
                }
                Answer::LogSegment(pages)
            }
            b'x' => {
                let sqlstate = SqlState::from_bytes(reader.bytes(5)?)
                    .ok_or(Malformed::Field { message: "page stream", field: "SQLSTATE" })?;
                Answer::Error { sqlstate, message: reader.string()?, detail: reader.string()? }
            }
            other => return Err(Malformed::Kind(other)),
        };
        reader.end()?;
        Ok(Reply { id, lsn, answer })
    }

    /// Appends the data of the CopyData message (without its header).
    pub fn write(&self, out: &mut Vec<u8>) {
        let (kind, id, lsn) = (self.answer.kind(), self.id, self.lsn);
        out.push(kind);
        write::u64(out, id);
        write::u64(out, lsn.0);
        match self.answer {
            Answer::Exists(exists) => out.push(u8::from(exists)),
            Answer::Blocks(blocks) => write::u32(out, blocks),
            Answer::DatabaseBytes(bytes) => write::u64(out, bytes),
            Answer::Pages(pages) | Answer::LogSegment(pages) => out.extend_from_slice(pages),
            Answer::Error { sqlstate, message, detail } => {
                out.extend_from_slice(sqlstate.as_bytes());
                write::string(out, message);
                write::string(out, detail);
            }
        }
    }
}

impl Answer<'_> {
    const fn kind(&self) -> u8 {
        match self {
            Answer::Exists(_) => b'e',
            Answer::Blocks(_) => b'n',
            Answer::DatabaseBytes(_) => b'z',
            Answer::Pages(_) => b'g',
            Answer::LogSegment(_) => b's',
            Answer::Error { .. } => b'x',
        }
    }
}

const fn number_of_log(log: Slru) -> u8 {
    match log {
        Slru::Clog => 1,
        Slru::MultiXactOffsets => 2,
        Slru::MultiXactMembers => 3,
        Slru::CommitTimestamps => 4,
    }
}

fn log_of_number(number: u8) -> Option<Slru> {
    Slru::ALL.into_iter().find(|log| number_of_log(*log) == number)
}

fn read_fork(reader: &mut Reader<'_>) -> Result<RelTag, Malformed> {
    let spcnode = Oid(reader.u32()?);
    let dbnode = Oid(reader.u32()?);
    let relnode = Oid(reader.u32()?);
    let fork = Fork::from_number(reader.u8()?)
        .ok_or(Malformed::Field { message: "page stream", field: "fork" })?;
    Ok(RelTag { spcnode, dbnode, relnode, fork })
}

fn write_fork(out: &mut Vec<u8>, relation: RelTag) {
    write::u32(out, relation.spcnode.0);
    write::u32(out, relation.dbnode.0);
    write::u32(out, relation.relnode.0);
    out.push(relation.fork.number());
}
