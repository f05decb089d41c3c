//! Redo of `Hash` records (`access/hash/hash_xlog.c`, `hashpage.c`, `hashovfl.c`).

mod meta;

use super::{Done, Fault, Step, field};
use crate::page::Page;
use crate::page::header::{HEADER_BYTES, align};
use crate::page::item::Placing;
use crate::wal::cursor::{Cursor, u16_at};

const OPAQUE_BYTES: usize = 16;
const PAGE_ID: u16 = 0xFF80;
const NOTHING: u32 = u32::MAX;

const OVERFLOW: u16 = 1 << 0;
const BITMAP: u16 = 1 << 2;
const META: u16 = 1 << 3;
const NEEDS_SPLIT_CLEANUP: u16 = 1 << 6;
const HAS_DEAD_TUPLES: u16 = 1 << 7;

// Places in the special space.
const PREVIOUS: usize = 0;
const NEXT: usize = 4;
const BUCKET: usize = 8;
const FLAGS: usize = 12;
const ID: usize = 14;

const SIZE_MASK: u16 = 0x1FFF;

pub(super) fn redo(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    match (step.kind(), step.block.id) {
        (0x00, 0) => meta::init(step),
        (0x10, 0) | (0x30, 3) => init_bitmap(step),
        (0x10, 1) | (0x20, 1) | (0x30, 4) | (0x40, 2) | (0x80, 6) | (0xB0, 0) | (0xC0, 1) => {
            meta::change(step.existing_page()?)
        }
        (0x20, 0) => {
            let number = field(step.main_data().u16())?;
            let tuple = step.block.data;
            step.existing_page()?.page.add_item(tuple, number, Placing::Shift)?;
            Ok(Done::Changed)
        }
        (0x30, 0) => add_overflow(step),
        (0x30, 1) => {
            let next = field(step.record.block(0))?.number;
            link(step.existing_page()?, NEXT, next)
        }
        (0x30, 2) => bitmap_bit(step.existing_page()?, true),
        (0x80, 5) => bitmap_bit(step.existing_page()?, false),
        (0x40, 0..=1) => split_allocate(step),
        (0x60, 0..=1) => split_complete(step.existing_page()?),
        // Only read by the server to keep others out.
        (0x70 | 0x80 | 0x90, 0) => Ok(Done::Unchanged),
        (0x70 | 0x80, 1) => take_in(step.existing_page()?),
        (0x70, 2) | (0x90, 1) => give_away(step.existing_page()?),
        (0x80, 2..=4) => squeeze_links(step),
        (0xA0, 0) => clear_flag(step.existing_page()?, NEEDS_SPLIT_CLEANUP),
        (0xC0, 0) => vacuum_one_page(step.existing_page()?),
        _ => Err(Fault::Record("unexpected block reference")),
    }
}

/// Whether the block is changed further after its image was restored: the image was taken before.
pub(super) const fn adds_to_image(kind: u8, id: u8) -> bool {
    matches!((kind, id), (0x40, 0) | (0x60, 0 | 1))
}

fn init_page(page: &mut Page<'_>, previous: u32, bucket: u32, flags: u16) {
    page.init(OPAQUE_BYTES);
    let special = page.special();
    page.put_u32(special + PREVIOUS, previous);
    page.put_u32(special + NEXT, NOTHING);
    page.put_u32(special + BUCKET, bucket);
    page.put_u16(special + FLAGS, flags);
    page.put_u16(special + ID, PAGE_ID);
}

fn init_bitmap(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let bytes = usize::from(field(step.main_data().u16())?);
    init_page(&mut step.page, NOTHING, NOTHING, BITMAP);
    let bits = step.page.bytes.get_mut(HEADER_BYTES..HEADER_BYTES + bytes);
    field(bits)?.fill(0xFF);
    step.page.set_lower(HEADER_BYTES + bytes);
    Ok(Done::Changed)
}

fn add_overflow(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let bucket = field(Cursor::new(step.block.data).u32())?;
    let previous = field(step.record.block(1))?.number;
    init_page(&mut step.page, previous, bucket, OVERFLOW);
    Ok(Done::Changed)
}

fn link(step: &mut Step<'_, '_, '_>, place: usize, block: u32) -> Result<Done, Fault> {
    let at = step.page.special() + place;
    step.page.put_u32(at, block);
    Ok(Done::Changed)
}

fn set_flags(step: &mut Step<'_, '_, '_>, flags: u16) {
    let at = step.page.special() + FLAGS;
    step.page.put_u16(at, flags);
}

fn clear_flag(step: &mut Step<'_, '_, '_>, flag: u16) -> Result<Done, Fault> {
    let flags = step.page.u16(step.page.special() + FLAGS);
    set_flags(step, flags & !flag);
    Ok(Done::Changed)
}

fn bitmap_bit(step: &mut Step<'_, '_, '_>, on: bool) -> Result<Done, Fault> {
    let bit = field(Cursor::new(step.block.data).u32())?;
    let at = HEADER_BYTES + (bit / 8) as usize;
    let byte = step.page.bytes.get_mut(at).ok_or(Fault::Record("bit beyond the bitmap"))?;
    let mask = 1 << (bit % 8);
    *byte = if on { *byte | mask } else { *byte & !mask };
    Ok(Done::Changed)
}

/// Block 0 is the bucket that is split, 1 the new one.
fn split_allocate(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let mut cursor = step.main_data();
    let new_bucket = field(cursor.u32())?;
    let (old_flags, new_flags) = (field(cursor.u16())?, field(cursor.u16())?);
    if step.block.id == 1 {
        init_page(&mut step.page, new_bucket, new_bucket, new_flags);
        return Ok(Done::Changed);
    }
    set_flags(step.existing_page()?, old_flags);
    link(step, PREVIOUS, new_bucket)
}

fn split_complete(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let mut cursor = step.main_data();
    let (old_flags, new_flags) = (field(cursor.u16())?, field(cursor.u16())?);
    set_flags(step, if step.block.id == 0 { old_flags } else { new_flags });
    Ok(Done::Changed)
}

/// `xl_hash_squeeze_page`.
struct Squeeze {
    previous: u32,
    next: u32,
    tuples: u16,
    previous_is_written: bool,
}

impl Squeeze {
    fn read(mut cursor: Cursor<'_>) -> Option<Squeeze> {
        let (previous, next, tuples) = (cursor.u32()?, cursor.u32()?, cursor.u16()?);
        let _primary_is_written = cursor.bool()?;
        Some(Squeeze { previous, next, tuples, previous_is_written: cursor.bool()? })
    }
}

/// Tuples come from a page further on in the bucket: their line pointers, then they themselves.
fn take_in(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let squeeze =
        if step.kind() == 0x80 { Some(field(Squeeze::read(step.main_data()))?) } else { None };
    let count = match &squeeze {
        Some(squeeze) => squeeze.tuples,
        None => field(step.main_data().u16())?,
    };
    let mut data = Cursor::new(step.block.data);
    let numbers: Option<Vec<u16>> = (0..count).map(|_each| data.u16()).collect();
    for number in field(numbers)? {
        let size = field(u16_at(data.rest(), 6))? & SIZE_MASK;
        let tuple = field(data.bytes(align(size.into())))?;
        step.page.add_item(tuple, number, Placing::Shift)?;
    }
    if let Some(squeeze) = squeeze.filter(|squeeze| squeeze.previous_is_written) {
        return link(step, NEXT, squeeze.next);
    }
    // From 17 on the LSN moves only if the page changes; it may be named without.
    let named_only = count == 0 && step.record.version.has_17_records();
    Ok(if named_only { Done::Unchanged } else { Done::Changed })
}

fn give_away(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let (pairs, _none) = step.block.data.as_chunks::<2>();
    let numbers: Vec<u16> = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
    step.page.delete_index_tuples(&numbers)?;
    let clear_dead = step.kind() == 0x90 && field(step.main_data().bool())?;
    if clear_dead {
        return clear_flag(step, HAS_DEAD_TUPLES);
    }
    Ok(Done::Changed)
}

/// Block 2 is the overflow page that becomes free, 3 and 4 its neighbours.
fn squeeze_links(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let squeeze = field(Squeeze::read(step.main_data()))?;
    match step.block.id {
        2 => {
            init_page(&mut step.existing_page()?.page, NOTHING, NOTHING, 0);
            Ok(Done::Changed)
        }
        3 => link(step.existing_page()?, NEXT, squeeze.next),
        _ => link(step.existing_page()?, PREVIOUS, squeeze.previous),
    }
}

fn vacuum_one_page(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let (count, mut cursor) = field(removed_tuples(step))?;
    let numbers: Option<Vec<u16>> = (0..count).map(|_each| cursor.u16()).collect();
    step.page.delete_index_tuples(&field(numbers)?)?;
    clear_flag(step, HAS_DEAD_TUPLES)
}

/// How many tuples a `VACUUM_ONE_PAGE` record removes, and their numbers (`xl_hash_vacuum_one_page`).
fn removed_tuples<'d>(step: &Step<'_, 'd, '_>) -> Option<(u16, Cursor<'d>)> {
    let mut cursor = step.main_data();
    let _latest_removed_xid = cursor.u32()?;
    let count = cursor.u16()?;
    // Until 15 the upper half of the count, which a page never needs; later, whether it is a catalog's index.
    let _rest = cursor.u16()?;
    Some((count, cursor))
}
