//! Redo of `Gist` records (`access/gist/gistxlog.c`, `gistutil.c`).

use super::{Done, Fault, Step, field};
use crate::lsn::Lsn;
use crate::page::Page;
use crate::page::header::HEADER_BYTES;
use crate::wal::cursor::{Cursor, u16_at};

const OPAQUE_BYTES: usize = 16;
const PAGE_ID: u16 = 0xFF81;
const ROOT_BLOCK: u32 = 0;

const LEAF: u16 = 1 << 0;
const DELETED: u16 = 1 << 1;
const TUPLES_DELETED: u16 = 1 << 2;
const FOLLOW_RIGHT: u16 = 1 << 3;
const HAS_GARBAGE: u16 = 1 << 4;

/// Low bits of an index tuple's second field.
const SIZE_MASK: u16 = 0x1FFF;

pub(super) fn redo(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    match (step.kind(), step.block.id) {
        (0x00, 0) => update(step.existing_page()?),
        (0x00, 1) | (0x30, 0) => split_finished(step.existing_page()?),
        (0x10, 0) => delete(step.existing_page()?),
        (0x30, id) => split(step, id),
        (0x60, 0) => mark_deleted(step.existing_page()?),
        (0x60, 1) => {
            let mut cursor = step.main_data();
            let _delete_xid = field(cursor.u64())?;
            let number = field(cursor.u16())?;
            step.existing_page()?.page.delete_index_tuple(number)?;
            Ok(Done::Changed)
        }
        _ => Err(Fault::Record("unexpected block reference")),
    }
}

/// Whether the block is changed further after its image was restored: the image was taken before.
pub(super) const fn adds_to_image(kind: u8, id: u8) -> bool {
    matches!((kind, id), (0x00, 1) | (0x30, 0))
}

fn update(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let mut cursor = step.main_data();
    let deleted = usize::from(field(cursor.u16())?);
    let inserted = field(cursor.u16())?;
    let mut data = Cursor::new(step.block.data);
    if deleted == 1 && inserted == 1 {
        let number = field(data.u16())?;
        step.page.overwrite_index_tuple(number, take_tuple(&mut data)?)?;
    } else if deleted > 0 {
        let numbers: Option<Vec<u16>> = (0..deleted).map(|_each| data.u16()).collect();
        step.page.delete_index_tuples(&field(numbers)?)?;
        if flags(&step.page) & LEAF != 0 {
            set_flag(&mut step.page, TUPLES_DELETED, true);
        }
    }
    while !data.is_empty() {
        step.page.append_item(take_tuple(&mut data)?)?;
    }
    Ok(Done::Changed)
}

fn delete(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let mut cursor = step.main_data();
    let _latest_removed_xid = field(cursor.u32())?;
    let count = field(cursor.u16())?;
    if step.record.version.has_16_records() {
        let _is_catalog = field(cursor.bool())?;
        field(cursor.align(2))?;
    }
    let numbers: Option<Vec<u16>> = (0..count).map(|_each| cursor.u16()).collect();
    step.page.delete_index_tuples(&field(numbers)?)?;
    set_flag(&mut step.page, HAS_GARBAGE, false);
    set_flag(&mut step.page, TUPLES_DELETED, true);
    Ok(Done::Changed)
}

/// The left page's right sibling now has its downlink.
fn split_finished(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    set_sequence(&mut step.page, step.record.end_lsn);
    set_flag(&mut step.page, FOLLOW_RIGHT, false);
    Ok(Done::Changed)
}

/// `gistxlogPageSplit`.
struct Split {
    right_link: u32,
    sequence: Lsn,
    was_leaf: bool,
    pages: u16,
    mark_follow_right: bool,
}

impl Split {
    fn read(mut cursor: Cursor<'_>) -> Option<Split> {
        let right_link = cursor.u32()?;
        cursor.align(8)?;
        let sequence = cursor.lsn()?;
        let was_leaf = cursor.bool()?;
        cursor.align(2)?;
        let pages = cursor.u16()?;
        let mark_follow_right = cursor.bool()?;
        Some(Split { right_link, sequence, was_leaf, pages, mark_follow_right })
    }
}

/// Blocks 1 to n are the pages that came of the split, from left to right; the root may be the first.
fn split(step: &mut Step<'_, '_, '_>, id: u8) -> Result<Done, Fault> {
    let split = field(Split::read(step.main_data()))?;
    let is_root = step.block.number == ROOT_BLOCK;
    let of_root = field(step.record.block(1))?.number == ROOT_BLOCK;
    let is_last = u16::from(id) >= split.pages;
    let flags = if split.was_leaf && !is_root { LEAF } else { 0 };
    let right_link = if is_root {
        u32::MAX
    } else if is_last {
        split.right_link
    } else {
        field(step.record.block(id + 1))?.number
    };
    let page = &mut step.page;
    page.init(OPAQUE_BYTES);
    let special = page.special();
    page.put_u32(special + 8, right_link);
    page.put_u16(special + 12, flags);
    page.put_u16(special + 14, PAGE_ID);
    let mut data = Cursor::new(step.block.data);
    let _count = field(data.u32())?;
    while !data.is_empty() {
        page.append_item(take_tuple(&mut data)?)?;
    }
    set_sequence(page, split.sequence);
    let follow = !is_root && !is_last && !of_root && split.mark_follow_right;
    set_flag(page, FOLLOW_RIGHT, follow);
    Ok(Done::Changed)
}

/// A deleted page keeps the transaction id after which it may be used again.
fn mark_deleted(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let delete_xid = field(step.main_data().u64())?;
    set_flag(&mut step.page, DELETED, true);
    step.page.set_lower(HEADER_BYTES + size_of::<u64>());
    step.page.write(HEADER_BYTES, &delete_xid.to_le_bytes())?;
    Ok(Done::Changed)
}

fn take_tuple<'d>(data: &mut Cursor<'d>) -> Result<&'d [u8], Fault> {
    let size = field(u16_at(data.rest(), 6))? & SIZE_MASK;
    if size == 0 {
        return Err(Fault::Record("index tuple without length"));
    }
    field(data.bytes(size.into()))
}

fn flags(page: &Page<'_>) -> u16 {
    page.u16(page.special() + 12)
}

fn set_flag(page: &mut Page<'_>, flag: u16, on: bool) {
    let flags = flags(page) & !flag;
    page.put_u16(page.special() + 12, if on { flags | flag } else { flags });
}

/// The page's sequence number is an LSN: scans tell by it whether the page was split under them.
fn set_sequence(page: &mut Page<'_>, lsn: Lsn) {
    let special = page.special();
    page.put_u32(special, (lsn.0 >> 32) as u32);
    page.put_u32(special + 4, (lsn.0 & 0xFFFF_FFFF) as u32);
}
