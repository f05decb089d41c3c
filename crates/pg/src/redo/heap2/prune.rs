//! Redo of the one record that prunes, freezes and vacuums a heap page from Postgres 17 on (`xl_heap_prune`), and
//! of freeze plans, which 16 has too.

use super::{set_state, tuple_at};
use crate::page::item::ItemId;
use crate::redo::{Done, Fault, Step, field};
use crate::wal::cursor::Cursor;

// `XLHP_*`
const CLEANUP_LOCK: u8 = 1 << 2;
const HAS_FREEZE_PLANS: u8 = 1 << 4;
const HAS_REDIRECTIONS: u8 = 1 << 5;
const HAS_DEAD_ITEMS: u8 = 1 << 6;
const HAS_UNUSED_ITEMS: u8 = 1 << 7;

const FREEZE_XVAC: u8 = 0x02;
const INVALIDATE_XVAC: u8 = 0x04;
const FROZEN_XID: u32 = 2;

/// How to freeze some tuples alike (`xlhp_freeze_plan`).
pub(super) struct Plan {
    pub(super) xmax: u32,
    pub(super) infomask2: u16,
    pub(super) infomask: u16,
    pub(super) flags: u8,
    /// How many tuples; their numbers come later, plan by plan.
    pub(super) tuples: u16,
}

/// The block's data: freeze plans, redirections, dead and unused items as the flags tell, then the numbers of
/// the tuples to freeze.
pub(super) fn redo(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let mut cursor = step.main_data();
    let _reason = field(cursor.u8())?;
    let flags = field(cursor.u8())?;
    let mut data = Cursor::new(step.block.data);
    let mut frozen = Vec::new();
    if flags & HAS_FREEZE_PLANS != 0 {
        let count = field(data.u16())?;
        field(data.align(4))?;
        frozen = field(plans(&mut data, count))?;
    }
    if flags & HAS_REDIRECTIONS != 0 {
        for _each in 0..field(data.u16())? {
            let (from, to) = (field(data.u16())?, field(data.u16())?);
            set_state(step, from, ItemId::redirect(to))?;
        }
    }
    for (flag, id) in [(HAS_DEAD_ITEMS, ItemId::DEAD), (HAS_UNUSED_ITEMS, ItemId::UNUSED)] {
        if flags & flag != 0 {
            for _each in 0..field(data.u16())? {
                set_state(step, field(data.u16())?, id)?;
            }
        }
    }
    if flags & (HAS_REDIRECTIONS | HAS_DEAD_ITEMS | HAS_UNUSED_ITEMS) != 0 {
        // Without the lock that allows tuples to move, only line pointers were dropped.
        if flags & CLEANUP_LOCK != 0 {
            step.page.repair_fragmentation(true)?;
        } else {
            step.page.truncate_line_pointers()?;
        }
    }
    freeze(step, &frozen, &mut data)?;
    Ok(Done::Changed)
}

pub(super) fn plans(data: &mut Cursor<'_>, count: u16) -> Option<Vec<Plan>> {
    let mut plans = Vec::new();
    for _each in 0..count {
        let (xmax, infomask2, infomask) = (data.u32()?, data.u16()?, data.u16()?);
        let flags = data.u8()?;
        let _padding = data.u8()?;
        plans.push(Plan { xmax, infomask2, infomask, flags, tuples: data.u16()? });
    }
    Some(plans)
}

/// Reads the numbers of the plans' tuples, which end the data, and freezes them.
pub(super) fn freeze(
    step: &mut Step<'_, '_, '_>,
    plans: &[Plan],
    numbers: &mut Cursor<'_>,
) -> Result<(), Fault> {
    for plan in plans {
        for _each in 0..plan.tuples {
            plan.apply(step, field(numbers.u16())?)?;
        }
    }
    if numbers.is_empty() { Ok(()) } else { Err(Fault::Record("more data than it tells of")) }
}

impl Plan {
    pub(super) fn apply(&self, step: &mut Step<'_, '_, '_>, number: u16) -> Result<(), Fault> {
        let mut tuple = tuple_at(step, number)?;
        tuple.set_xmax(self.xmax);
        if self.flags & FREEZE_XVAC != 0 {
            tuple.set_field3(FROZEN_XID);
        }
        if self.flags & INVALIDATE_XVAC != 0 {
            tuple.set_field3(0);
        }
        tuple.set_infomask(self.infomask);
        tuple.set_infomask2(self.infomask2);
        Ok(())
    }
}
