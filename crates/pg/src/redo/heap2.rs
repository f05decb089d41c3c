//! Redo of `Heap2` records (`access/heap/heapam.c`, `pruneheap.c`, `visibilitymap.c`).

mod prune;

use super::heap::{LoggedHeader, clear_map, prepare_page, set_xmax_bits, tuple_at};
use super::{Done, Fault, Step, field};
use crate::datadir::relation::Fork;
use crate::page::header::ALL_VISIBLE;
use crate::page::item::ItemId;
use crate::page::vm;
use crate::wal::cursor::Cursor;
use crate::wal::segment::WalVersion;

const OPERATION: u8 = 0x70;
const INIT_PAGE: u8 = super::heap::INIT_PAGE;

const MULTI_INSERT_ALL_VISIBLE_CLEARED: u8 = 1 << 0;
const MULTI_INSERT_ALL_FROZEN_SET: u8 = 1 << 5;

pub(super) fn redo(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let operation = step.kind() & OPERATION;
    if step.record.version.has_17_records() && matches!(operation, 0x10 | 0x20 | 0x30) {
        return prune::redo(step.existing_page()?);
    }
    match operation {
        0x50 | 0x60 if step.block.tag.fork == Fork::Vm => clear_map(step.existing_page()?),
        0x10 => prune(step.existing_page()?),
        0x20 => vacuum(step.existing_page()?),
        0x30 => freeze(step.existing_page()?),
        0x40 => visible(step),
        0x50 => multi_insert(step),
        0x60 => lock_updated(step.existing_page()?),
        _ => Ok(Done::Unchanged), // NEW_CID and REWRITE are for logical decoding only
    }
}

/// Until 16.
fn prune(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let mut cursor = step.main_data();
    let _latest_removed_xid = field(cursor.u32())?;
    let redirected = field(cursor.u16())?;
    let dead = field(cursor.u16())?;
    let mut numbers = Cursor::new(step.block.data);
    for _each in 0..redirected {
        let (from, to) = (field(numbers.u16())?, field(numbers.u16())?);
        set_state(step, from, ItemId::redirect(to))?;
    }
    for _each in 0..dead {
        let number = field(numbers.u16())?;
        set_state(step, number, ItemId::DEAD)?;
    }
    while !numbers.is_empty() {
        let number = field(numbers.u16())?;
        set_state(step, number, ItemId::UNUSED)?;
    }
    let drop_trailing = step.record.version != WalVersion::V14;
    step.page.repair_fragmentation(drop_trailing)?;
    Ok(Done::Changed)
}

/// Until 16.
fn vacuum(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let count = field(step.main_data().u16())?;
    let mut numbers = Cursor::new(step.block.data);
    for _each in 0..count {
        let number = field(numbers.u16())?;
        set_state(step, number, ItemId::UNUSED)?;
    }
    step.page.truncate_line_pointers()?;
    Ok(Done::Changed)
}

fn set_state(step: &mut Step<'_, '_, '_>, number: u16, id: ItemId) -> Result<(), Fault> {
    let _exists = step.page.item_id(number)?;
    step.page.set_item_id(number, id);
    Ok(())
}

/// From 16 on tuples that are frozen alike share a plan; before, each had its own.
fn freeze(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let mut cursor = step.main_data();
    let _cutoff_xid = field(cursor.u32())?;
    let count = field(cursor.u16())?;
    let mut data = Cursor::new(step.block.data);
    if step.record.version.has_16_records() {
        let plans = field(prune::plans(&mut data, count))?;
        prune::freeze(step, &plans, &mut data)?;
        return Ok(Done::Changed);
    }
    for _each in 0..count {
        let xmax = field(data.u32())?;
        let number = field(data.u16())?;
        let infomask2 = field(data.u16())?;
        let infomask = field(data.u16())?;
        let flags = field(data.u8())?;
        // The structure's size is a multiple of four; the last one may end at its last field.
        let _padding = data.u8();
        prune::Plan { xmax, infomask2, infomask, flags, tuples: 1 }.apply(step, number)?;
    }
    Ok(Done::Changed)
}

/// Block 0 is the map's, block 1 the heap's.
fn visible(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    if step.block.id == 1 {
        let hints_logged = step.options.hints_logged;
        step.existing_page()?.page.set_flag(ALL_VISIBLE, true);
        return Ok(if hints_logged { Done::Changed } else { Done::ChangedWithoutLsn });
    }
    let mut cursor = step.main_data();
    let _cutoff_xid = field(cursor.u32())?;
    let bits = field(cursor.u8())? & vm::VALID_BITS;
    let heap_block = field(step.record.block(1))?.number;
    if step.page.is_new() {
        step.page.init(0);
    }
    if vm::map_block(heap_block) != step.block.number {
        return Err(Fault::Record("visibility map block of another heap block"));
    }
    let changed = vm::set(step.page.bytes, heap_block, bits);
    Ok(if changed { Done::Changed } else { Done::ChangedWithoutLsn })
}

fn multi_insert(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    prepare_page(step)?;
    let mut cursor = step.main_data();
    let flags = field(cursor.u8())?;
    field(cursor.align(2))?;
    let count = field(cursor.u16())?;
    let mut numbers = Cursor::new(cursor.rest());
    let init = step.record.header.info & INIT_PAGE != 0;
    let mut data = Cursor::new(step.block.data);
    for index in 1..=count {
        let number = if init { index } else { field(numbers.u16())? };
        field(data.align(2))?;
        let length = usize::from(field(data.u16())?);
        let header = field(LoggedHeader::read(&mut data))?;
        header.insert(step, number, field(data.bytes(length))?)?;
    }
    if !data.is_empty() {
        return Err(Fault::Record("total tuple length mismatch"));
    }
    if flags & MULTI_INSERT_ALL_VISIBLE_CLEARED != 0 {
        step.page.set_flag(ALL_VISIBLE, false);
    }
    if flags & MULTI_INSERT_ALL_FROZEN_SET != 0 {
        step.page.set_flag(ALL_VISIBLE, true);
    }
    Ok(Done::Changed)
}

fn lock_updated(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let mut cursor = step.main_data();
    let xmax = field(cursor.u32())?;
    let number = field(cursor.u16())?;
    let infobits = field(cursor.u8())?;
    let mut tuple = tuple_at(step, number)?;
    set_xmax_bits(&mut tuple, infobits);
    tuple.set_xmax(xmax);
    Ok(Done::Changed)
}
