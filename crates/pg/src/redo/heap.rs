//! Redo of `Heap` records (`access/heap/heapam.c`, `access/heapam_xlog.h`).

use std::ops::Range;

use super::visibility::named_vm_clears;
use super::{Done, Fault, Step, field};
use crate::datadir::relation::Fork;
use crate::page::header::ALL_VISIBLE;
use crate::page::item::{HEAP_ITEMS_MAX, ItemId, Placing};
use crate::page::tuple::{
    KEYS_UPDATED, MOVED, TUPLE_HEADER_BYTES, Tuple, XMAX_BITS, XMAX_EXCL_LOCK, XMAX_IS_MULTI,
    XMAX_KEYSHR_LOCK, XMAX_LOCK_ONLY, item_pointer,
};
use crate::page::vm;
use crate::wal::cursor::Cursor;

pub(super) const INIT_PAGE: u8 = 0x80;
const OPERATION: u8 = 0x70;

const INSERT_ALL_VISIBLE_CLEARED: u8 = 1 << 0;

const DELETE_ALL_VISIBLE_CLEARED: u8 = 1 << 0;
const DELETE_IS_SUPER: u8 = 1 << 3;
const DELETE_IS_PARTITION_MOVE: u8 = 1 << 4;

const UPDATE_OLD_ALL_VISIBLE_CLEARED: u8 = 1 << 0;
const UPDATE_NEW_ALL_VISIBLE_CLEARED: u8 = 1 << 1;
const UPDATE_PREFIX_FROM_OLD: u8 = 1 << 5;
const UPDATE_SUFFIX_FROM_OLD: u8 = 1 << 6;

/// Most bytes of a heap tuple (`MaxHeapTupleSize`).
const TUPLE_BYTES_MAX: usize = 8160;

pub(super) fn redo(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    if step.block.tag.fork == Fork::Vm {
        return clear_map(step.existing_page()?);
    }
    match step.kind() & OPERATION {
        0x00 => insert(step),
        0x10 => delete(step.existing_page()?),
        0x20 => update(step, false),
        0x40 => update(step, true),
        0x50 => confirm(step.existing_page()?),
        0x60 => lock(step.existing_page()?),
        0x70 => inplace(step.existing_page()?),
        _ => Ok(Done::Unchanged), // TRUNCATE is for logical decoding only
    }
}

/// The visibility map's block, where the record names it: clears the bits of the heap blocks that the map
/// covers and the record changes (`heap_xlog_vm_clear`). The LSN moves only if a bit was set.
pub(super) fn clear_map(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let mut changed = false;
    for clear in named_vm_clears(step.record).into_iter().flatten() {
        if vm::map_block(clear.heap_block) == step.block.number {
            changed |= vm::clear(step.page.bytes, clear.heap_block, clear.bits);
        }
    }
    Ok(if changed { Done::Changed } else { Done::ChangedWithoutLsn })
}

fn insert(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    prepare_page(step)?;
    let mut cursor = step.main_data();
    let number = field(cursor.u16())?;
    let flags = field(cursor.u8())?;
    let mut data = Cursor::new(step.block.data);
    let header = field(LoggedHeader::read(&mut data))?;
    header.insert(step, number, data.rest())?;
    if flags & INSERT_ALL_VISIBLE_CLEARED != 0 {
        step.page.set_flag(ALL_VISIBLE, false);
    }
    Ok(Done::Changed)
}

fn delete(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let mut cursor = step.main_data();
    let xmax = field(cursor.u32())?;
    let number = field(cursor.u16())?;
    let infobits = field(cursor.u8())?;
    let flags = field(cursor.u8())?;
    let block = step.block.number;
    let mut tuple = tuple_at(step, number)?;
    set_xmax_bits(&mut tuple, infobits);
    tuple.clear_hot_updated();
    if flags & DELETE_IS_SUPER == 0 {
        tuple.set_xmax(xmax);
    } else {
        tuple.set_xmin(0);
    }
    tuple.clear_cmax();
    if flags & DELETE_IS_PARTITION_MOVE != 0 {
        tuple.set_moved_partitions();
    } else {
        tuple.set_ctid(block, number);
    }
    step.page.set_prunable(step.record.header.xid);
    if flags & DELETE_ALL_VISIBLE_CLEARED != 0 {
        step.page.set_flag(ALL_VISIBLE, false);
    }
    Ok(Done::Changed)
}

/// `xl_heap_update`.
struct Update {
    old_xmax: u32,
    old_number: u16,
    old_infobits: u8,
    flags: u8,
    new_xmax: u32,
    new_number: u16,
}

impl Update {
    fn read(mut cursor: Cursor<'_>) -> Option<Update> {
        Some(Update {
            old_xmax: cursor.u32()?,
            old_number: cursor.u16()?,
            old_infobits: cursor.u8()?,
            flags: cursor.u8()?,
            new_xmax: cursor.u32()?,
            new_number: cursor.u16()?,
        })
    }
}

/// Block 0 gets the new tuple; the old one is in block 1 or, if there is no such reference, also in 0.
fn update(step: &mut Step<'_, '_, '_>, hot: bool) -> Result<Done, Fault> {
    let update = field(Update::read(step.main_data()))?;
    let same_page = step.record.block(1).is_none();
    let new_block = field(step.record.block(0))?.number;
    if step.block.id == 1 {
        retire_old(step.existing_page()?, &update, hot, new_block)?;
        return Ok(Done::Changed);
    }
    if same_page {
        retire_old(step.existing_page()?, &update, hot, new_block)?;
    } else {
        prepare_page(step)?;
    }
    add_new(step, &update)?;
    Ok(Done::Changed)
}

fn retire_old(
    step: &mut Step<'_, '_, '_>,
    update: &Update,
    hot: bool,
    new_block: u32,
) -> Result<(), Fault> {
    let mut tuple = tuple_at(step, update.old_number)?;
    set_xmax_bits(&mut tuple, update.old_infobits);
    if hot {
        tuple.set_hot_updated();
    } else {
        tuple.clear_hot_updated();
    }
    tuple.set_xmax(update.old_xmax);
    tuple.clear_cmax();
    tuple.set_ctid(new_block, update.new_number);
    step.page.set_prunable(step.record.header.xid);
    if update.flags & UPDATE_OLD_ALL_VISIBLE_CLEARED != 0 {
        step.page.set_flag(ALL_VISIBLE, false);
    }
    Ok(())
}

/// The new tuple may share its beginning and its end with the old one, which then is on the same page.
fn add_new(step: &mut Step<'_, '_, '_>, update: &Update) -> Result<(), Fault> {
    let mut data = Cursor::new(step.block.data);
    let shared = |bit, data: &mut Cursor<'_>| {
        if update.flags & bit == 0 { Some(0) } else { data.u16().map(usize::from) }
    };
    let prefix = field(shared(UPDATE_PREFIX_FROM_OLD, &mut data))?;
    let suffix = field(shared(UPDATE_SUFFIX_FROM_OLD, &mut data))?;
    let header = field(LoggedHeader::read(&mut data))?;
    let (number, xmax) = (update.new_number, update.new_xmax);
    if prefix == 0 && suffix == 0 {
        let at = header.begin(step, number, xmax, data.rest().len())?;
        step.page.write(at, data.rest())?;
    } else {
        let old = step.page.item_id(update.old_number)?;
        let hoff = usize::from(field(step.page.item(update.old_number)?.get(22).copied())?);
        let beginning = field(within(old, hoff, prefix))?;
        let end =
            field(old.length().checked_sub(suffix).and_then(|from| within(old, from, suffix)))?;
        let bitmap = if prefix == 0 {
            Some(0)
        } else {
            usize::from(header.hoff).checked_sub(TUPLE_HEADER_BYTES)
        };
        let bitmap = field(bitmap.and_then(|length| data.bytes(length)))?;
        let changed = data.rest();
        let length = bitmap.len() + prefix + changed.len() + suffix;
        let mut at = header.begin(step, number, xmax, length)?;
        step.page.write(at, bitmap)?;
        at += bitmap.len();
        step.page.move_bytes(beginning.start, beginning.end, at)?;
        at += prefix;
        step.page.write(at, changed)?;
        at += changed.len();
        step.page.move_bytes(end.start, end.end, at)?;
    }
    if update.flags & UPDATE_NEW_ALL_VISIBLE_CLEARED != 0 {
        step.page.set_flag(ALL_VISIBLE, false);
    }
    Ok(())
}

/// Where on the page a part of a tuple stands.
fn within(tuple: ItemId, from: usize, length: usize) -> Option<Range<usize>> {
    let end = from.checked_add(length).filter(|&end| end <= tuple.length())?;
    Some(tuple.offset() + from..tuple.offset() + end)
}

fn confirm(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let number = field(step.main_data().u16())?;
    let block = step.block.number;
    tuple_at(step, number)?.set_ctid(block, number);
    Ok(Done::Changed)
}

fn lock(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let mut cursor = step.main_data();
    let xid = field(cursor.u32())?;
    let number = field(cursor.u16())?;
    let infobits = field(cursor.u8())?;
    let block = step.block.number;
    let mut tuple = tuple_at(step, number)?;
    set_xmax_bits(&mut tuple, infobits);
    if tuple.xmax_is_locked_only() {
        tuple.clear_hot_updated();
        tuple.set_ctid(block, number);
    }
    tuple.set_xmax(xid);
    tuple.clear_cmax();
    Ok(Done::Changed)
}

fn inplace(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let number = field(step.main_data().u16())?;
    let new = step.block.data;
    let hoff = tuple_at(step, number)?.hoff();
    let old = field(step.page.item_mut(number)?.get_mut(hoff..))?;
    if old.len() != new.len() {
        return Err(Fault::Page("wrong tuple length"));
    }
    old.copy_from_slice(new);
    Ok(Done::Changed)
}

/// An empty page where the record makes one, else one that exists.
pub(super) fn prepare_page(step: &mut Step<'_, '_, '_>) -> Result<(), Fault> {
    if step.record.header.info & INIT_PAGE != 0 {
        step.page.init(0);
        return Ok(());
    }
    step.existing_page().map(|_step| ())
}

pub(super) fn tuple_at<'t>(
    step: &'t mut Step<'_, '_, '_>,
    number: u16,
) -> Result<Tuple<'t>, Fault> {
    if !step.page.item_id(number)?.is_normal() {
        return Err(Fault::Page("line pointer does not lead to a tuple"));
    }
    Tuple::new(step.page.item_mut(number)?).ok_or(Fault::Page("tuple shorter than its header"))
}

/// Sets xmax's bits from a record's short form (`fix_infomask_from_infobits`), all others of xmax cleared.
pub(super) fn set_xmax_bits(tuple: &mut Tuple<'_>, infobits: u8) {
    let mut mask = tuple.infomask() & !(XMAX_BITS | MOVED);
    for (bit, flag) in [
        (0x01, XMAX_IS_MULTI),
        (0x02, XMAX_LOCK_ONLY),
        (0x04, XMAX_EXCL_LOCK),
        (0x08, XMAX_KEYSHR_LOCK),
    ] {
        if infobits & bit != 0 {
            mask |= flag;
        }
    }
    tuple.set_infomask(mask);
    let mask2 = tuple.infomask2() & !KEYS_UPDATED;
    tuple.set_infomask2(if infobits & 0x10 != 0 { mask2 | KEYS_UPDATED } else { mask2 });
}

/// The part of a tuple header that is logged (`xl_heap_header`); the rest follows from the record.
pub(super) struct LoggedHeader {
    pub(super) infomask2: u16,
    pub(super) infomask: u16,
    pub(super) hoff: u8,
}

impl LoggedHeader {
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Option<LoggedHeader> {
        let infomask2 = cursor.u16()?;
        let infomask = cursor.u16()?;
        Some(LoggedHeader { infomask2, infomask, hoff: cursor.u8()? })
    }

    /// Adds a tuple of the record's transaction that nobody has changed since.
    pub(super) fn insert(
        &self,
        step: &mut Step<'_, '_, '_>,
        number: u16,
        data: &[u8],
    ) -> Result<(), Fault> {
        let at = self.begin(step, number, 0, data.len())?;
        step.page.write(at, data)?;
        Ok(())
    }

    /// Adds a tuple of the record's transaction: its header. Answers where its `length` further bytes are to be written.
    fn begin(
        &self,
        step: &mut Step<'_, '_, '_>,
        number: u16,
        xmax: u32,
        length: usize,
    ) -> Result<usize, Fault> {
        let length = TUPLE_HEADER_BYTES + length;
        if length > TUPLE_BYTES_MAX {
            return Err(Fault::Record("tuple too long"));
        }
        if number > HEAP_ITEMS_MAX {
            return Err(Fault::Record("line pointer number too large"));
        }
        let at = step.page.reserve_item(length, number, Placing::Overwrite)?;
        let [a, b, c, d] = step.record.header.xid.to_le_bytes();
        let [e, f, g, h] = xmax.to_le_bytes();
        let [i, j, k, l, m, n] = item_pointer(step.block.number, number);
        let ([o, p], [q, r]) = (self.infomask2.to_le_bytes(), self.infomask.to_le_bytes());
        // Between xmax and the tuple's own place stands the command id.
        let header: [u8; TUPLE_HEADER_BYTES] =
            [a, b, c, d, e, f, g, h, 0, 0, 0, 0, i, j, k, l, m, n, o, p, q, r, self.hoff];
        step.page.write(at, &header)?;
        Ok(at + TUPLE_HEADER_BYTES)
    }
}
