//! Block references: which block a record changes, with what data, with which page image.

use std::ops::{Deref, DerefMut};

use crate::datadir::relation::{Fork, RelNode, RelTag};
use crate::wal::cursor::Cursor;
use crate::wal::image::{Compression, Image};
use crate::wal::segment::WalVersion;

/// The highest block reference id (`XLR_MAX_BLOCK_ID`).
pub const MAX_BLOCK_ID: u8 = 32;
/// Bytes of a page as an image's header has them.
const PAGE_SHORT: u16 = 8192;
const _: () = assert!(PAGE_SHORT as usize == crate::page::PAGE_BYTES, "one size of pages");

/// Block references that nearly every record keeps within: no kind that is frequent has more.
const FEW: usize = 2;

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
    pub(crate) data_length: u16,
}

impl Block<'_> {
    /// A place to [`Block::read`] into.
    pub(crate) const NONE: Block<'static> = Block {
        id: 0,
        tag: RelNode::new(0, 0, 0).fork(Fork::Main),
        number: 0,
        will_init: false,
        image: None,
        data: &[],
        data_length: 0,
    };

    /// Reads what follows the id (`XLogRecordBlockHeader`); `None` if the bytes end too early, `Err` if they
    /// contradict themselves. Image and data are known by their lengths only.
    #[inline]
    pub(crate) fn read(
        &mut self,
        cursor: &mut Cursor<'_>,
        same: Option<RelNode>,
        version: WalVersion,
    ) -> Option<Result<(), &'static str>> {
        let flags = cursor.u8()?;
        self.data_length = cursor.u16()?;
        if (flags & HAS_DATA != 0) != (self.data_length > 0) {
            return Some(Err("data length and flag disagree"));
        }
        self.image = None;
        if flags & HAS_IMAGE != 0 {
            match image_header(cursor, version)? {
                Ok(image) => self.image = Some(image),
                Err(what) => return Some(Err(what)),
            }
        }
        let node = if flags & SAME_REL == 0 {
            cursor.rel_node()?
        } else {
            let Some(node) = same else { return Some(Err("same relation as none before")) };
            node
        };
        let Some(fork) = Fork::from_number(flags & FORK_MASK) else {
            return Some(Err("no such fork"));
        };
        self.tag = node.fork(fork);
        self.number = cursor.u32()?;
        self.will_init = flags & WILL_INIT != 0;
        self.data = &[];
        Some(Ok(()))
    }

    /// Appends its header (with the id, as [`Block::read`] found it) as if it had no image.
    pub(crate) fn write_without_image(&self, header: &[u8], out: &mut Vec<u8>) {
        let Some((&[id, flags, l0, l1], rest)) = header.split_first_chunk() else { return };
        let image = self.image.as_ref().map_or(0, Image::header_bytes);
        out.extend_from_slice(&[id, flags & !HAS_IMAGE, l0, l1]);
        out.extend_from_slice(rest.get(image..).unwrap_or_default());
    }

    /// Bytes of the image and of the data.
    #[inline]
    pub(crate) fn promised(&self) -> usize {
        let image = self.image.as_ref().map_or(0, |image| image.length);
        usize::from(image) + usize::from(self.data_length)
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

/// The block references of a record, in the order of their ids: a slice, mostly without an allocation.
#[derive(Clone, Debug)]
pub struct Blocks<'a> {
    /// All of them while they are few.
    few: [Block<'a>; FEW],
    count: usize,
    /// All of them once they are more.
    many: Vec<Block<'a>>,
}

impl<'a> Blocks<'a> {
    pub(crate) const fn new() -> Blocks<'a> {
        Blocks { few: [const { Block::NONE }; FEW], count: 0, many: Vec::new() }
    }

    /// Forgets all of them, but for the memory.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.count = 0;
        self.many.clear();
    }

    #[inline]
    pub(crate) fn push(&mut self, block: Block<'a>) {
        if let Some(place) = self.few.get_mut(self.count) {
            *place = block;
        } else {
            self.spill(block);
        }
        self.count += 1;
    }

    #[cold]
    fn spill(&mut self, block: Block<'a>) {
        if self.many.is_empty() {
            self.many.extend_from_slice(&self.few);
        }
        self.many.push(block);
    }
}

impl<'a> Deref for Blocks<'a> {
    type Target = [Block<'a>];

    #[inline]
    fn deref(&self) -> &[Block<'a>] {
        self.few.get(..self.count).unwrap_or(&self.many)
    }
}

impl<'a> DerefMut for Blocks<'a> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [Block<'a>] {
        self.few.get_mut(..self.count).unwrap_or(&mut self.many)
    }
}

impl<'b, 'a> IntoIterator for &'b Blocks<'a> {
    type Item = &'b Block<'a>;
    type IntoIter = std::slice::Iter<'b, Block<'a>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// One header in front of the data.
pub(crate) enum Part {
    /// A block reference, which was written where the caller said.
    Block,
    Origin(u16),
    ToplevelXid(u32),
    MainData(usize),
    /// The headers end here.
    End,
}

/// `XLogRecordBlockImageHeader`, checked as `DecodeXLogRecord` does.
fn image_header(
    cursor: &mut Cursor<'_>,
    version: WalVersion,
) -> Option<Result<Image<'static>, &'static str>> {
    let length = cursor.u16()?;
    let hole_offset = cursor.u16()?;
    let flags = cursor.u8()?;
    let has_hole = flags & IMAGE_HAS_HOLE != 0;
    let (apply, compression) = image_flags(flags, version);
    let hole_length = if compression == Compression::None {
        PAGE_SHORT.saturating_sub(length)
    } else if has_hole {
        cursor.u16()?
    } else {
        0
    };
    if has_hole && (hole_offset == 0 || hole_length == 0 || length == PAGE_SHORT) {
        return Some(Err("hole flag without a hole"));
    }
    if !has_hole && (hole_offset != 0 || hole_length != 0) {
        return Some(Err("hole without its flag"));
    }
    if length > PAGE_SHORT || hole_offset.saturating_add(hole_length) > PAGE_SHORT {
        return Some(Err("image longer than a page"));
    }
    if compression != Compression::None && length == PAGE_SHORT {
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
