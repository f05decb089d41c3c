//! Redo of `Gin` records (`access/gin/ginxlog.c`, `ginblock.h`).

mod posting;

use super::{Done, Fault, Step, field};
use crate::page::Page;
use crate::page::header::HEADER_BYTES;
use crate::page::item::Placing;
use crate::page::tuple::item_pointer;
use crate::wal::cursor::{Cursor, u16_at};

const OPAQUE_BYTES: usize = 8;
const NOTHING: u32 = u32::MAX;

// Places in the special space.
const RIGHT_LINK: usize = 0;
const COUNT: usize = 4;
const FLAGS: usize = 6;

const DATA: u16 = 1 << 0;
const LEAF: u16 = 1 << 1;
const DELETED: u16 = 1 << 2;
const META: u16 = 1 << 3;
const LIST: u16 = 1 << 4;
const LIST_FULL_ROW: u16 = 1 << 5;
const INCOMPLETE_SPLIT: u16 = 1 << 6;
const COMPRESSED: u16 = 1 << 7;

const INSERT_IS_DATA: u16 = 0x01;
const INSERT_IS_LEAF: u16 = 0x02;

/// Bytes of the metapage's structure (`GinMetaPageData`).
const META_BYTES: usize = 56;
/// Where a data page's content begins: behind its right bound.
const DATA_AT: usize = HEADER_BYTES + 8;
/// Bytes of an entry of an inner data page: a child, and its greatest key.
const POSTING_ITEM_BYTES: usize = 10;

const SIZE_MASK: u16 = 0x1FFF;

pub(super) fn redo(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    match (step.kind(), step.block.id) {
        (0x10, 0) => create_posting_tree(step),
        (0x20, 0) => insert(step.existing_page()?),
        (0x20, 1) | (0x30, 3) => {
            change_flags(&mut step.existing_page()?.page, |flags| flags & !INCOMPLETE_SPLIT);
            Ok(())
        }
        (0x30 | 0x40, _) => Err(Fault::Record("page image missing")),
        (0x90, 0) => {
            let data = Cursor::new(step.block.data);
            posting::recompress(&mut step.existing_page()?.page, data)
        }
        (0x50, 0..=2) => delete_page(step.existing_page()?),
        (0x60, 0) => {
            let mut cursor = step.main_data();
            let _rel_node = field(cursor.rel_node())?;
            field(cursor.align(8))?;
            write_meta(step, cursor)
        }
        (0x60, 1) => grow_list(step.existing_page()?),
        (0x70, 0) => list_page(step),
        (0x80, 0) => write_meta(step, step.main_data()),
        (0x80, _) => {
            init(&mut step.page, DELETED);
            Ok(())
        }
        _ => Err(Fault::Record("unexpected block reference")),
    }?;
    Ok(Done::Changed)
}

fn init(page: &mut Page<'_>, flags: u16) {
    page.init(OPAQUE_BYTES);
    let special = page.special();
    page.put_u32(special + RIGHT_LINK, NOTHING);
    page.put_u16(special + FLAGS, flags);
}

fn flags(page: &Page<'_>) -> u16 {
    page.u16(page.special() + FLAGS)
}

fn change_flags(page: &mut Page<'_>, new: impl Fn(u16) -> u16) {
    let flags = new(flags(page));
    page.put_u16(page.special() + FLAGS, flags);
}

/// The number of entries of an inner data page, or of heap tuples on a list page.
fn count(page: &Page<'_>) -> u16 {
    page.u16(page.special() + COUNT)
}

fn set_count(page: &mut Page<'_>, count: u16) {
    page.put_u16(page.special() + COUNT, count);
}

fn set_right_link(page: &mut Page<'_>, block: u32) {
    page.put_u32(page.special() + RIGHT_LINK, block);
}

fn create_posting_tree(step: &mut Step<'_, '_, '_>) -> Result<(), Fault> {
    let mut cursor = step.main_data();
    let size = field(cursor.count())?;
    let lists = field(cursor.bytes(size))?;
    init(&mut step.page, DATA | LEAF | COMPRESSED);
    posting::write_lists(&mut step.page, lists)
}

/// `ginxlogInsert`: into the entry tree or a posting tree, a leaf or an inner page.
fn insert(step: &mut Step<'_, '_, '_>) -> Result<(), Fault> {
    let mut cursor = step.main_data();
    let kind = field(cursor.u16())?;
    let is_leaf = kind & INSERT_IS_LEAF != 0;
    let mut right_child = None;
    if !is_leaf {
        let _left_child = field(cursor.u32())?;
        let (high, low) = (field(cursor.u16())?, field(cursor.u16())?);
        right_child = Some(u32::from(high) << 16 | u32::from(low));
    }
    let data = Cursor::new(step.block.data);
    let page = &mut step.page;
    match (kind & INSERT_IS_DATA != 0, right_child) {
        (false, right_child) => insert_entry(page, data, right_child),
        (true, None) => posting::recompress(page, data),
        (true, Some(right_child)) => insert_posting_item(page, data, right_child),
    }
}

fn insert_entry(
    page: &mut Page<'_>,
    mut data: Cursor<'_>,
    right_child: Option<u32>,
) -> Result<(), Fault> {
    let number = field(data.u16())?;
    let is_delete = field(data.bool())?;
    field(data.align(2))?;
    let tuple = take_tuple(&mut data)?;
    if let Some(child) = right_child {
        let downlink = field(page.item_mut(number)?.first_chunk_mut::<6>())?;
        *downlink = item_pointer(child, 0);
    }
    if is_delete {
        page.delete_index_tuple(number)?;
    }
    page.add_item(tuple, number, Placing::Shift)?;
    Ok(())
}

/// The entry there now leads to the right half of the split; a new one before it to the left half.
fn insert_posting_item(
    page: &mut Page<'_>,
    mut data: Cursor<'_>,
    right_child: u32,
) -> Result<(), Fault> {
    let number = field(data.u16())?;
    let new = field(data.bytes(POSTING_ITEM_BYTES))?;
    let entries = count(page);
    if number == 0 || number > entries {
        return Err(Fault::Page("no such entry on the posting tree page"));
    }
    let place = posting_item(number);
    let end = posting_item(entries) + POSTING_ITEM_BYTES;
    if end + POSTING_ITEM_BYTES > page.special() {
        return Err(Fault::Page("no room on the posting tree page"));
    }
    let child = item_pointer(right_child, 0);
    page.write(place, field(child.get(..4))?)?;
    page.move_bytes(place, end, place + POSTING_ITEM_BYTES)?;
    page.write(place, new)?;
    set_entries(page, entries + 1);
    Ok(())
}

fn posting_item(number: u16) -> usize {
    DATA_AT + usize::from(number.saturating_sub(1)) * POSTING_ITEM_BYTES
}

fn set_entries(page: &mut Page<'_>, entries: u16) {
    set_count(page, entries);
    page.set_lower(DATA_AT + usize::from(entries) * POSTING_ITEM_BYTES);
}

/// `ginxlogDeletePage`: block 0 goes, 1 is its parent, 2 its left neighbour.
fn delete_page(step: &mut Step<'_, '_, '_>) -> Result<(), Fault> {
    let mut cursor = step.main_data();
    let parent_entry = field(cursor.u16())?;
    field(cursor.align(4))?;
    let right_link = field(cursor.u32())?;
    let delete_xid = field(cursor.u32())?;
    let id = step.block.id;
    let page = &mut step.page;
    match id {
        0 => {
            change_flags(page, |flags| flags | DELETED);
            page.set_prune_xid(delete_xid);
        }
        1 => {
            let entries = count(page);
            if parent_entry == 0 || parent_entry > entries {
                return Err(Fault::Page("no such entry on the posting tree page"));
            }
            let from = posting_item(parent_entry) + POSTING_ITEM_BYTES;
            let end = posting_item(entries) + POSTING_ITEM_BYTES;
            page.move_bytes(from, end, from - POSTING_ITEM_BYTES)?;
            set_entries(page, entries - 1);
        }
        _ => set_right_link(page, right_link),
    }
    Ok(())
}

fn write_meta(step: &mut Step<'_, '_, '_>, mut cursor: Cursor<'_>) -> Result<(), Fault> {
    let meta = field(cursor.bytes(META_BYTES))?;
    init(&mut step.page, META);
    step.page.write(HEADER_BYTES, meta)?;
    step.page.set_lower(HEADER_BYTES + META_BYTES);
    Ok(())
}

/// The last page of the pending list gets tuples, or a right neighbour.
fn grow_list(step: &mut Step<'_, '_, '_>) -> Result<(), Fault> {
    let mut cursor = step.main_data();
    let _rel_node = field(cursor.rel_node())?;
    field(cursor.align(8))?;
    let _meta = field(cursor.bytes(META_BYTES))?;
    let _previous_tail = field(cursor.u32())?;
    let right_link = field(cursor.u32())?;
    let tuples = field(cursor.i32())?;
    if tuples <= 0 {
        set_right_link(&mut step.page, right_link);
        return Ok(());
    }
    append_tuples(&mut step.page, step.block.data)?;
    let rows = count(&step.page);
    set_count(&mut step.page, rows.wrapping_add(1));
    Ok(())
}

/// `ginxlogInsertListPage`: a page of the pending list; the last one has whole rows.
fn list_page(step: &mut Step<'_, '_, '_>) -> Result<(), Fault> {
    let right_link = field(step.main_data().u32())?;
    let page = &mut step.page;
    init(page, LIST);
    set_right_link(page, right_link);
    if right_link == NOTHING {
        change_flags(page, |flags| flags | LIST_FULL_ROW);
        set_count(page, 1);
    }
    append_tuples(page, step.block.data)
}

fn append_tuples(page: &mut Page<'_>, data: &[u8]) -> Result<(), Fault> {
    let mut data = Cursor::new(data);
    while !data.is_empty() {
        page.append_item(take_tuple(&mut data)?)?;
    }
    Ok(())
}

fn take_tuple<'d>(data: &mut Cursor<'d>) -> Result<&'d [u8], Fault> {
    let size = field(u16_at(data.rest(), 6))? & SIZE_MASK;
    if size == 0 {
        return Err(Fault::Record("index tuple without length"));
    }
    field(data.bytes(size.into()))
}
