//! Redo of deletions: of items, and of whole pages.

use super::super::{Done, Fault, Step, field};
use super::{
    DELETED, HALF_DEAD, HAS_FULL_XID, HAS_GARBAGE, LEAF, NEXT, OPAQUE_BYTES, Opaque, PREVIOUS,
    opaque, posting, set_link, tuple,
};
use crate::page::Page;
use crate::page::header::HEADER_BYTES;
use crate::wal::cursor::Cursor;
use crate::wal::segment::WalVersion;

const VACUUM: u8 = 0xC0;

/// Takes items away and shrinks posting lists; the counts stand in the main data from `counts_at`.
pub(super) fn items(step: &mut Step<'_, '_, '_>, counts_at: usize) -> Result<Done, Fault> {
    let mut cursor = step.main_data();
    field(cursor.bytes(counts_at))?;
    let deleted = usize::from(field(cursor.u16())?);
    let updated = usize::from(field(cursor.u16())?);
    let mut data = Cursor::new(step.block.data);
    let mut numbers = |count| (0..count).map(|_each| data.u16()).collect::<Option<Vec<u16>>>();
    let deleted = field(numbers(deleted))?;
    let updated = field(numbers(updated))?;
    for number in updated {
        let places = field(posting::places(&mut data))?;
        let shrunk = posting::shrink(step.page.item(number)?, &places)?;
        step.page.overwrite_index_tuple(number, &shrunk)?;
    }
    step.page.delete_index_tuples(&deleted)?;
    let mut opaque = opaque(&step.page)?;
    opaque.flags &= !HAS_GARBAGE;
    if step.kind() == VACUUM && step.record.version >= WalVersion::V18 {
        opaque.cycle = 0;
    }
    opaque.write(&mut step.page);
    Ok(Done::Changed)
}

/// `xl_btree_mark_page_halfdead`.
struct HalfDead {
    parent_item: u16,
    left: u32,
    right: u32,
    top_parent: u32,
}

impl HalfDead {
    fn read(mut cursor: Cursor<'_>) -> Option<HalfDead> {
        let parent_item = cursor.u16()?;
        cursor.align(4)?;
        let _leaf = cursor.u32()?;
        let (left, right, top_parent) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
        Some(HalfDead { parent_item, left, right, top_parent })
    }
}

pub(super) fn half_dead_leaf(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let record = field(HalfDead::read(step.main_data()))?;
    write_half_dead(&mut step.page, record.left, record.right, record.top_parent)?;
    Ok(Done::Changed)
}

fn write_half_dead(
    page: &mut Page<'_>,
    previous: u32,
    next: u32,
    top_parent: u32,
) -> Result<(), Fault> {
    page.init(OPAQUE_BYTES);
    Opaque { previous, next, level: 0, flags: HALF_DEAD | LEAF, cycle: 0 }.write(page);
    page.append_item(&tuple::top_parent(top_parent))?;
    Ok(())
}

/// The downlink to the dead subtree now leads to its right sibling, whose own downlink goes.
pub(super) fn parent_of_half_dead(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let number = field(HalfDead::read(step.main_data()))?.parent_item;
    let next = number.checked_add(1).ok_or(Fault::Record("line pointer number too large"))?;
    let right = field(tuple::downlink(step.page.item(next)?))?;
    field(tuple::set_block(step.page.item_mut(number)?, right))?;
    step.page.delete_index_tuple(next)?;
    Ok(Done::Changed)
}

/// `xl_btree_unlink_page`.
struct Unlink {
    left: u32,
    right: u32,
    level: u32,
    safe_xid: u64,
    leaf_left: u32,
    leaf_right: u32,
    leaf_top_parent: u32,
}

impl Unlink {
    fn read(mut cursor: Cursor<'_>) -> Option<Unlink> {
        let (left, right, level) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
        cursor.align(8)?;
        let safe_xid = cursor.u64()?;
        let (leaf_left, leaf_right) = (cursor.u32()?, cursor.u32()?);
        let leaf_top_parent = cursor.u32()?;
        Some(Unlink { left, right, level, safe_xid, leaf_left, leaf_right, leaf_top_parent })
    }
}

/// Block 0 is deleted, 1 and 2 are its siblings, 3 the half-dead leaf below it.
pub(super) fn unlink(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let record = field(Unlink::read(step.main_data()))?;
    match step.block.id {
        0 => {
            write_deleted(&mut step.page, &record)?;
            Ok(Done::Changed)
        }
        1 => set_link(step.existing_page()?, NEXT, record.right),
        2 => set_link(step.existing_page()?, PREVIOUS, record.left),
        _ => {
            let Unlink { leaf_left, leaf_right, leaf_top_parent, .. } = record;
            write_half_dead(&mut step.page, leaf_left, leaf_right, leaf_top_parent)?;
            Ok(Done::Changed)
        }
    }
}

/// A deleted page keeps the transaction id after which it may be used again.
fn write_deleted(page: &mut Page<'_>, record: &Unlink) -> Result<(), Fault> {
    page.init(OPAQUE_BYTES);
    let leaf = if record.level == 0 { LEAF } else { 0 };
    let flags = DELETED | HAS_FULL_XID | leaf;
    let (previous, next, level) = (record.left, record.right, record.level);
    Opaque { previous, next, level, flags, cycle: 0 }.write(page);
    page.set_lower(HEADER_BYTES + size_of::<u64>());
    page.write(HEADER_BYTES, &record.safe_xid.to_le_bytes())?;
    Ok(())
}
