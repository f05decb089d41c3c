//! Block references: which block a record changes, with what data, with which page image.

use crate::datadir::relation::{Fork, RelNode, RelTag};
use crate::wal::cursor::Cursor;
use crate::wal::image::{Compression, Image};
use crate::wal::segment::WalVersion;

/// The highest block reference id (`XLR_MAX_BLOCK_ID`).
pub const MAX_BLOCK_ID: u8 = 32;
const PAGE_BYTES: usize = crate::page::PAGE_BYTES;

const FORK_MASK: u8 = 0x0F;
const HAS_IMAGE: u8 = 0x10;
const HAS_DATA: u8 = 0x20;
const WILL_INIT: u8 = 0x40;
const SAME_REL: u8 = 0x80;

const IMAGE_HAS_HOLE: u8 = 0x01;

/// What an index of the WAL keeps of a block reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRef {
    /// The reference's id within the record.
    pub id: u8,
    pub tag: RelTag,
    pub number: u32,
    /// Redo needs no earlier version of the block: an image to apply, or the page begins anew.
    pub starts_anew: bool,
}

/// A block reference with its data.
#[derive(Clone, Debug)]
pub struct Block<'a> {
    pub id: u8,
    pub tag: RelTag,
    pub number: u32,
    /// Redo begins from an empty page (`BKPBLOCK_WILL_INIT`).
    pub will_init: bool,
    pub image: Option<Image<'a>>,
    /// Data of the resource manager for this block; left out by the server when an image is applied instead.
    pub data: &'a [u8],
    pub(crate) data_length: usize,
}

impl Block<'_> {
    pub(crate) fn from_header(header: &BlockHeader) -> Block<'static> {
        Block {
            id: header.id,
            tag: header.tag,
            number: header.number,
            will_init: header.will_init,
            image: header.image,
            data: &[],
            data_length: header.data_length,
        }
    }

    /// The image that redo must restore, as opposed to one that only serves comparison.
    pub fn image_to_apply(&self) -> Option<&Image<'_>> {
        self.image.as_ref().filter(|image| image.apply)
    }

    pub const fn block_ref(&self) -> BlockRef {
        let applies = matches!(&self.image, Some(image) if image.apply);
        BlockRef {
            id: self.id,
            tag: self.tag,
            number: self.number,
            starts_anew: self.will_init || applies,
        }
    }
}

/// One header in front of the data.
pub(crate) enum Part {
    Block(BlockHeader),
    Origin(u16),
    ToplevelXid(u32),
    MainData(usize),
}

/// `XLogRecordBlockHeader` with all that follows it.
pub(crate) struct BlockHeader {
    pub(crate) id: u8,
    pub(crate) tag: RelTag,
    pub(crate) number: u32,
    pub(crate) will_init: bool,
    pub(crate) data_length: usize,
    pub(crate) image: Option<Image<'static>>,
}

impl BlockHeader {
    /// Reads what follows the id; `None` if the bytes end too early, `Err` if they contradict themselves.
    pub(crate) fn read(
        cursor: &mut Cursor<'_>,
        id: u8,
        same: Option<RelNode>,
        version: WalVersion,
    ) -> Option<Result<BlockHeader, &'static str>> {
        let flags = cursor.u8()?;
        let data_length = usize::from(cursor.u16()?);
        if (flags & HAS_DATA != 0) != (data_length > 0) {
            return Some(Err("data length and flag disagree"));
        }
        let image = if flags & HAS_IMAGE != 0 {
            match image_header(cursor, version)? {
                Ok(image) => Some(image),
                Err(what) => return Some(Err(what)),
            }
        } else {
            None
        };
        let node = if flags & SAME_REL == 0 {
            cursor.rel_node()?
        } else {
            let Some(node) = same else { return Some(Err("same relation as none before")) };
            node
        };
        let Some(fork) = Fork::from_number(flags & FORK_MASK) else {
            return Some(Err("no such fork"));
        };
        let number = cursor.u32()?;
        let will_init = flags & WILL_INIT != 0;
        let tag = node.fork(fork);
        Some(Ok(BlockHeader { id, tag, number, will_init, data_length, image }))
    }

    pub(crate) fn image_length(&self) -> usize {
        self.image.as_ref().map_or(0, |image| image.length)
    }

    pub(crate) fn block_ref(&self) -> BlockRef {
        let applies = self.image.as_ref().is_some_and(|image| image.apply);
        BlockRef {
            id: self.id,
            tag: self.tag,
            number: self.number,
            starts_anew: self.will_init || applies,
        }
    }
}

/// `XLogRecordBlockImageHeader`, checked as `DecodeXLogRecord` does.
fn image_header(
    cursor: &mut Cursor<'_>,
    version: WalVersion,
) -> Option<Result<Image<'static>, &'static str>> {
    let length = usize::from(cursor.u16()?);
    let hole_offset = usize::from(cursor.u16()?);
    let flags = cursor.u8()?;
    let has_hole = flags & IMAGE_HAS_HOLE != 0;
    let (apply, compression) = image_flags(flags, version);
    let hole_length = if compression == Compression::None {
        PAGE_BYTES.saturating_sub(length)
    } else if has_hole {
        usize::from(cursor.u16()?)
    } else {
        0
    };
    if has_hole && (hole_offset == 0 || hole_length == 0 || length == PAGE_BYTES) {
        return Some(Err("hole flag without a hole"));
    }
    if !has_hole && (hole_offset != 0 || hole_length != 0) {
        return Some(Err("hole without its flag"));
    }
    if length > PAGE_BYTES || hole_offset + hole_length > PAGE_BYTES {
        return Some(Err("image longer than a page"));
    }
    if compression != Compression::None && length == PAGE_BYTES {
        return Some(Err("compressed image as long as a page"));
    }
    Some(Ok(Image { bytes: &[], length, hole_offset, hole_length, compression, apply }))
}

/// Whether to apply and how it is compressed; the bits moved in 15.
const fn image_flags(flags: u8, version: WalVersion) -> (bool, Compression) {
    if matches!(version, WalVersion::V14) {
        let compression = if flags & 0x02 != 0 { Compression::Pglz } else { Compression::None };
        return (flags & 0x04 != 0, compression);
    }
    let compression = if flags & 0x04 != 0 {
        Compression::Pglz
    } else if flags & 0x08 != 0 {
        Compression::Lz4
    } else if flags & 0x10 != 0 {
        Compression::Zstd
    } else {
        Compression::None
    };
    (flags & 0x02 != 0, compression)
}
