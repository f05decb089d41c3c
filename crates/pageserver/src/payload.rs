//! What a version of a page looks like in the store: an image, or a record to redo. Redo needs nothing but these bytes.
//!
//! | first byte | then |
//! |---|---|
//! | 0 | an image that we built; zeroes at its end are left out |
//! | 1 | an image as the base backup had it: the checksum in it is still to be compared |
//! | 2 | effect (1), block reference (1), WAL version (1), bytes of WAL from the record's start to its end (4, little endian), the record without page headers; it may be without the images of other blocks, too |
//! | 3 | a value that is no page, as it is |
//! | 4 | bytes of WAL from a record's start to its end (4), the transaction id in its header (4): all of it that counts |

use pg::lsn::Lsn;
use pg::wal::error::WalError;
use pg::wal::record::RawRecord;
use pg::wal::segment::WalVersion;

use crate::index::{Effect, Position};
use crate::limits::PAGE_BYTES;
use crate::page_cache::Page;

const IMAGE: u8 = 0;
const COPIED_IMAGE: u8 = 1;
const RECORD: u8 = 2;
const VALUE: u8 = 3;
const XID: u8 = 4;
/// Bytes before a record's own.
const RECORD_HEAD: usize = 8;
/// A shorter record is not searched for images: what they could save is less than the search.
const IMAGES_BYTES_MIN: usize = 512;

/// One version, as it is stored.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    Image {
        /// At most a page; what is missing is zero.
        bytes: &'a [u8],
        /// Its checksum has not been compared since it was copied.
        copied: bool,
    },
    Record {
        position: Position,
        record: RawRecord<'a>,
    },
    /// A value that is no page.
    Value(&'a [u8]),
    /// The record from `start` on bears this transaction id.
    Xid {
        start: Lsn,
        xid: u32,
    },
}

impl<'a> Payload<'a> {
    /// Reads a payload; the version is the record's end. The error says what is wrong.
    pub fn read(bytes: &'a [u8], version: Lsn) -> Result<Payload<'a>, String> {
        let Some((&kind, rest)) = bytes.split_first() else {
            return Err("an empty version is stored".to_owned());
        };
        match kind {
            IMAGE | COPIED_IMAGE if rest.len() <= PAGE_BYTES => {
                Ok(Payload::Image { bytes: rest, copied: kind == COPIED_IMAGE })
            }
            RECORD => read_record(rest, version),
            VALUE => Ok(Payload::Value(rest)),
            XID => read_xid(rest, version),
            IMAGE | COPIED_IMAGE => Err(format!("an image of {} bytes is stored", rest.len())),
            other => Err(format!("a version of unknown kind {other} is stored")),
        }
    }
}

fn read_xid(bytes: &[u8], version: Lsn) -> Result<Payload<'_>, String> {
    let numbers = bytes.as_chunks::<4>();
    let ([span, xid], []) = numbers else { return Err("a transaction id is cut off".to_owned()) };
    let span = u64::from(u32::from_le_bytes(*span));
    let start = version.0.checked_sub(span).map(Lsn).ok_or("a record has another start")?;
    Ok(Payload::Xid { start, xid: u32::from_le_bytes(*xid) })
}

fn read_record(bytes: &[u8], version: Lsn) -> Result<Payload<'_>, String> {
    let cut = || "a record is stored in too few bytes".to_owned();
    let (head, record) = bytes.split_at_checked(RECORD_HEAD - 1).ok_or_else(cut)?;
    let [effect, block_id, major, s0, s1, s2, s3] = *head else { return Err(cut()) };
    let effect = Effect::from_number(effect).ok_or("a record of unknown effect is stored")?;
    let wal_version = WalVersion::from_major(u32::from(major))
        .ok_or("a record of an unknown WAL version is stored")?;
    let span = u32::from_le_bytes([s0, s1, s2, s3]);
    let start = version.0.checked_sub(u64::from(span)).map(Lsn).ok_or_else(cut)?;
    let position = Position::new(start, version, effect, block_id).ok_or_else(cut)?;
    let record = RawRecord::new(record, start, version, wal_version);
    Ok(Payload::Record { position, record: record.map_err(|error| error.to_string())? })
}

/// An image that we built.
pub fn image(page: &Page) -> Vec<u8> {
    encode_image(IMAGE, page)
}

/// An image as the base backup had it.
pub fn copied_image(page: &Page) -> Vec<u8> {
    encode_image(COPIED_IMAGE, page)
}

fn encode_image(kind: u8, page: &Page) -> Vec<u8> {
    let end = page.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let mut bytes = Vec::with_capacity(1 + end);
    bytes.push(kind);
    bytes.extend_from_slice(&page[..end]);
    bytes
}

/// A value that is no page.
pub fn value(value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + value.len());
    bytes.push(VALUE);
    bytes.extend_from_slice(value);
    bytes
}

/// Of a record, the transaction id in its header.
pub fn xid(record: &RawRecord<'_>) -> Vec<u8> {
    let span = record.end_lsn.bytes_since(record.lsn);
    let mut bytes = vec![XID];
    bytes.extend_from_slice(&u32::try_from(span).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&record.header.xid.to_le_bytes());
    bytes
}

/// A record that touches the page as `position` says, whole.
pub fn record(position: Position, record: &RawRecord<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(RECORD_HEAD + record.bytes.len());
    write_head(position, record.version, &mut bytes);
    bytes.extend_from_slice(record.bytes);
    bytes
}

/// Appends what of a record's bytes is needed to redo it there: of its page images, that of this page alone.
pub fn write_record(
    position: Position,
    version: WalVersion,
    bytes: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), WalError> {
    write_head(position, version, out);
    if bytes.len() < IMAGES_BYTES_MIN {
        out.extend_from_slice(bytes);
        return Ok(());
    }
    let record = RawRecord::new(bytes, position.start, position.end(), version)?;
    let names_it = position.effect != Effect::Implied;
    record.write_with_image_of(names_it.then_some(position.block_id), out)
}

fn write_head(position: Position, version: WalVersion, out: &mut Vec<u8>) {
    let [major, ..] = version.major().to_le_bytes();
    out.extend_from_slice(&[RECORD, position.effect.number(), position.block_id, major]);
    out.extend_from_slice(&position.span().to_le_bytes());
}
