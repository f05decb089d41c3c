//! Redo of page splits: the left page keeps its tuples' order, the right one is built anew.

use super::super::{Done, Fault, Step, field};
use super::{INCOMPLETE_SPLIT, LEAF, OPAQUE_BYTES, Opaque, opaque, posting, restore_items, tuple};
use crate::page::Page;
use crate::page::header::align;
use crate::wal::cursor::Cursor;

/// `xl_btree_split`.
struct Split {
    level: u32,
    /// Of the old page, the first line pointer that moved to the right page.
    first_right: u16,
    new_item: u16,
    /// Place in the posting list before the new item; 0 if no list is split.
    posting: u16,
}

impl Split {
    fn read(mut cursor: Cursor<'_>) -> Option<Split> {
        Some(Split {
            level: cursor.u32()?,
            first_right: cursor.u16()?,
            new_item: cursor.u16()?,
            posting: cursor.u16()?,
        })
    }
}

pub(super) fn right(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let split = field(Split::read(step.main_data()))?;
    let previous = field(step.record.block(0))?.number;
    let next = step.record.block(2).map_or(0, |block| block.number);
    step.page.init(OPAQUE_BYTES);
    let flags = if split.level == 0 { LEAF } else { 0 };
    Opaque { previous, next, level: split.level, flags, cycle: 0 }.write(&mut step.page);
    restore_items(&mut step.page, step.block.data)?;
    Ok(Done::Changed)
}

pub(super) fn left(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let split = field(Split::read(step.main_data()))?;
    let new_is_left = step.kind() == 0x30;
    let right = field(step.record.block(1))?.number;
    let mut old = *step.page.bytes();
    let old = Page::new(&mut old);
    let mut state = opaque(&old)?;

    let mut data = Cursor::new(step.block.data);
    let mut new_item = Vec::new();
    let mut new_list = None;
    if new_is_left || split.posting != 0 {
        new_item = take_tuple(&mut data)?.to_vec();
    }
    if split.posting != 0 {
        let list = split.new_item.saturating_sub(1);
        new_list = Some((list, posting::swap(&mut new_item, old.item(list)?, split.posting)?));
    }
    let high_key = take_tuple(&mut data)?;

    let page = &mut step.page;
    page.init(OPAQUE_BYTES);
    page.append_item(high_key)?;
    for number in state.first_data_key()..split.first_right {
        if let Some((_, list)) = new_list.as_ref().filter(|list| list.0 == number) {
            page.append_item(list)?;
            continue;
        }
        if new_is_left && number == split.new_item {
            page.append_item(&new_item)?;
        }
        page.append_item(old.item(number)?)?;
    }
    if new_is_left && split.first_right == split.new_item {
        page.append_item(&new_item)?;
    }
    state.flags = INCOMPLETE_SPLIT | if split.level == 0 { LEAF } else { 0 };
    state.next = right;
    state.cycle = 0;
    state.write(page);
    Ok(Done::Changed)
}

fn take_tuple<'d>(data: &mut Cursor<'d>) -> Result<&'d [u8], Fault> {
    let size = field(tuple::size(data.rest()))?;
    field(data.bytes(align(size)))
}
