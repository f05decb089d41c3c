//! Redo of `BRIN` records (`access/brin/brin_xlog.c`, `brin_pageops.c`, `brin_revmap.c`).

use super::{Done, Fault, Step, field};
use crate::page::Page;
use crate::page::header::HEADER_BYTES;
use crate::page::item::Placing;
use crate::page::tuple::item_pointer;
use crate::wal::cursor::Cursor;

const INIT_PAGE: u8 = 0x80;
const OPERATION: u8 = 0x70;

const META: u16 = 0xF091;
const REVMAP: u16 = 0xF092;
const REGULAR: u16 = 0xF093;
const SPECIAL_BYTES: usize = 8;

const META_MAGIC: u32 = 0xA810_9CFA;
/// Bytes of the metapage's structure: magic, version, pages per range, last page of the range map.
const META_BYTES: usize = 16;
const LAST_REVMAP_PAGE: usize = HEADER_BYTES + 12;

/// Entries of one page of the range map: an item pointer each.
const REVMAP_ENTRIES: u32 = 1360;

pub(super) fn redo(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    match (step.kind() & OPERATION, step.block.id) {
        (0x00, 0) => create_index(step),
        (0x10 | 0x20, 0) => insert(step),
        (0x10 | 0x20, 1) => point_to_new(step.existing_page()?),
        (0x20, 2) => {
            let number = field(step.main_data().u16())?;
            step.existing_page()?.page.delete_index_tuple_in_place(number)?;
            Ok(Done::Changed)
        }
        (0x30, 0) => {
            let number = field(step.main_data().u16())?;
            let tuple = step.block.data;
            step.existing_page()?.page.overwrite_index_tuple(number, tuple)?;
            Ok(Done::Changed)
        }
        (0x40, 0) => {
            let last = field(step.main_data().u32())?;
            let page = &mut step.existing_page()?.page;
            page.put_u32(LAST_REVMAP_PAGE, last);
            page.set_lower(HEADER_BYTES + META_BYTES);
            Ok(Done::Changed)
        }
        (0x40, 1) => {
            init(&mut step.page, REVMAP);
            Ok(Done::Changed)
        }
        (0x50, id @ 0..=1) => desummarize(step.existing_page()?, id),
        _ => Err(Fault::Record("unexpected block reference")),
    }
}

fn init(page: &mut Page<'_>, kind: u16) {
    page.init(SPECIAL_BYTES);
    if let Some(field) = page.special_bytes_mut().last_chunk_mut::<2>() {
        *field = kind.to_le_bytes();
    }
}

fn create_index(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let mut cursor = step.main_data();
    let pages_per_range = field(cursor.u32())?;
    let version = field(cursor.u16())?;
    init(&mut step.page, META);
    for (at, value) in [(0, META_MAGIC), (4, version.into()), (8, pages_per_range), (12, 0)] {
        step.page.put_u32(HEADER_BYTES + at, value);
    }
    step.page.set_lower(HEADER_BYTES + META_BYTES);
    Ok(Done::Changed)
}

/// `xl_brin_insert`.
struct Insert {
    heap_block: u32,
    pages_per_range: u32,
    number: u16,
}

impl Insert {
    /// In an update the old tuple's line pointer stands before.
    fn read(step: &Step<'_, '_, '_>) -> Option<Insert> {
        let mut cursor = step.main_data();
        if step.kind() & OPERATION == 0x20 {
            let _old_number = cursor.u16()?;
            cursor.align(4)?;
        }
        let (heap_block, pages_per_range) = (cursor.u32()?, cursor.u32()?);
        Some(Insert { heap_block, pages_per_range, number: cursor.u16()? })
    }
}

fn insert(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let insert = field(Insert::read(step))?;
    if step.kind() & INIT_PAGE != 0 {
        init(&mut step.page, REGULAR);
    }
    let tuple = step.block.data;
    step.existing_page()?.page.add_item(tuple, insert.number, Placing::Overwrite)?;
    Ok(Done::Changed)
}

fn point_to_new(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let insert = field(Insert::read(step))?;
    let block = field(step.record.block(0))?.number;
    let pointer = item_pointer(block, insert.number);
    set_entry(&mut step.page, insert.heap_block, insert.pages_per_range, pointer)
}

fn set_entry(
    page: &mut Page<'_>,
    heap_block: u32,
    pages_per_range: u32,
    pointer: [u8; 6],
) -> Result<Done, Fault> {
    let range = heap_block.checked_div(pages_per_range);
    let entry = range.ok_or(Fault::Record("no pages per range"))? % REVMAP_ENTRIES;
    page.write(HEADER_BYTES + entry as usize * pointer.len(), &pointer)?;
    Ok(Done::Changed)
}

/// Block 0 is of the range map, 1 has the tuple.
fn desummarize(step: &mut Step<'_, '_, '_>, id: u8) -> Result<Done, Fault> {
    let mut cursor: Cursor<'_> = step.main_data();
    let (pages_per_range, heap_block) = (field(cursor.u32())?, field(cursor.u32())?);
    let number = field(cursor.u16())?;
    if id == 0 {
        let nothing = item_pointer(u32::MAX, 0);
        return set_entry(&mut step.page, heap_block, pages_per_range, nothing);
    }
    step.page.delete_index_tuple_in_place(number)?;
    Ok(Done::Changed)
}
