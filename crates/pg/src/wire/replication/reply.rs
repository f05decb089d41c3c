//! Result rows of replication commands: their columns as Postgres names them (`walsender.c`,
//! `basebackup_copy.c`), and readers.
//!
//! The timeline of IDENTIFY_SYSTEM is an int4 in PostgreSQL 15 and an int8 since 16: the same in
//! text. Each command answers with RowDescription, DataRow and CommandComplete, all in text format.

use crate::lsn::Lsn;
use crate::oid::Oid;
use crate::wire::Malformed;
use crate::wire::backend::{Field, Values};

/// `IDENTIFY_SYSTEM`: who the server is and where its WAL ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentifySystem {
    pub system_identifier: u64,
    pub timeline: u32,
    /// Flushed so far.
    pub end: Lsn,
    /// On a logical connection, the database.
    pub database: Option<String>,
}

impl IdentifySystem {
    pub const FIELDS: [Field<'static>; 4] = [
        Field::text(b"systemid", Oid::TEXT, -1),
        Field::text(b"timeline", Oid::INT8, 8),
        Field::text(b"xlogpos", Oid::TEXT, -1),
        Field::text(b"dbname", Oid::TEXT, -1),
    ];

    pub fn read(mut row: Values<'_>) -> Result<IdentifySystem, Malformed> {
        Ok(IdentifySystem {
            system_identifier: needed(&mut row, "systemid")?,
            timeline: needed(&mut row, "timeline")?,
            end: needed(&mut row, "xlogpos")?,
            database: optional(&mut row, "dbname")?,
        })
    }
}

/// `READ_REPLICATION_SLOT`: all NULL if there is no such slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadSlot {
    /// `physical`; logical slots are refused by the server.
    pub slot_type: Option<String>,
    /// The oldest WAL that the slot keeps.
    pub restart: Option<Lsn>,
    pub restart_timeline: Option<u32>,
}

impl ReadSlot {
    pub const FIELDS: [Field<'static>; 3] = [
        Field::text(b"slot_type", Oid::TEXT, -1),
        Field::text(b"restart_lsn", Oid::TEXT, -1),
        Field::text(b"restart_tli", Oid::INT8, 8),
    ];

    pub fn read(mut row: Values<'_>) -> Result<ReadSlot, Malformed> {
        Ok(ReadSlot {
            slot_type: optional(&mut row, "slot_type")?,
            restart: optional(&mut row, "restart_lsn")?,
            restart_timeline: optional(&mut row, "restart_tli")?,
        })
    }
}

/// `CREATE_REPLICATION_SLOT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedSlot {
    pub name: String,
    /// `0/0` for a physical slot.
    pub consistent_point: Lsn,
    pub snapshot: Option<String>,
    pub plugin: Option<String>,
}

impl CreatedSlot {
    pub const FIELDS: [Field<'static>; 4] = [
        Field::text(b"slot_name", Oid::TEXT, -1),
        Field::text(b"consistent_point", Oid::TEXT, -1),
        Field::text(b"snapshot_name", Oid::TEXT, -1),
        Field::text(b"output_plugin", Oid::TEXT, -1),
    ];

    pub fn read(mut row: Values<'_>) -> Result<CreatedSlot, Malformed> {
        Ok(CreatedSlot {
            name: needed(&mut row, "slot_name")?,
            consistent_point: needed(&mut row, "consistent_point")?,
            snapshot: optional(&mut row, "snapshot_name")?,
            plugin: optional(&mut row, "output_plugin")?,
        })
    }
}

/// A position on a timeline: the first and the last result of `BASE_BACKUP`, and the answer at
/// the end of `START_REPLICATION` on a historic timeline (whose columns come in the other order:
/// see [`Position::read_next_timeline`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub lsn: Lsn,
    pub timeline: u32,
}

impl Position {
    pub const FIELDS: [Field<'static>; 2] =
        [Field::text(b"recptr", Oid::TEXT, -1), Field::text(b"tli", Oid::INT8, 8)];

    pub fn read(mut row: Values<'_>) -> Result<Position, Malformed> {
        Ok(Position { lsn: needed(&mut row, "recptr")?, timeline: needed(&mut row, "tli")? })
    }

    /// `next_tli` and `next_tli_startpos`.
    pub fn read_next_timeline(mut row: Values<'_>) -> Result<Position, Malformed> {
        let timeline = needed(&mut row, "next_tli")?;
        Ok(Position { timeline, lsn: needed(&mut row, "next_tli_startpos")? })
    }
}

/// A row of `BASE_BACKUP`'s second result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tablespace {
    /// `None` for the data directory itself.
    pub oid: Option<Oid>,
    pub location: Option<String>,
    /// Estimated KiB, if progress was asked for.
    pub kibibytes: Option<u64>,
}

impl Tablespace {
    pub const FIELDS: [Field<'static>; 3] = [
        Field::text(b"spcoid", Oid::OID, 4),
        Field::text(b"spclocation", Oid::TEXT, -1),
        Field::text(b"size", Oid::INT8, 8),
    ];

    pub fn read(mut row: Values<'_>) -> Result<Tablespace, Malformed> {
        Ok(Tablespace {
            oid: optional(&mut row, "spcoid")?,
            location: optional(&mut row, "spclocation")?,
            kibibytes: optional(&mut row, "size")?,
        })
    }
}

/// `TIMELINE_HISTORY`. Both columns are sent as raw bytes, whatever the encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimelineHistory<'a> {
    pub file_name: &'a [u8],
    pub content: &'a [u8],
}

impl<'a> TimelineHistory<'a> {
    pub const FIELDS: [Field<'static>; 2] =
        [Field::text(b"filename", Oid::TEXT, -1), Field::text(b"content", Oid::TEXT, -1)];

    pub fn read(mut row: Values<'a>) -> Result<TimelineHistory<'a>, Malformed> {
        let mut column = |field| row.next().flatten().ok_or(malformed(field));
        Ok(TimelineHistory { file_name: column("filename")?, content: column("content")? })
    }
}

const fn malformed(field: &'static str) -> Malformed {
    Malformed::Field { message: "DataRow", field }
}

fn optional<T: std::str::FromStr>(
    row: &mut Values<'_>,
    field: &'static str,
) -> Result<Option<T>, Malformed> {
    let Some(value) = row.next().ok_or(malformed(field))? else {
        return Ok(None);
    };
    let text = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    text.map(Some).ok_or(malformed(field))
}

fn needed<T: std::str::FromStr>(row: &mut Values<'_>, field: &'static str) -> Result<T, Malformed> {
    optional(row, field)?.ok_or(malformed(field))
}
