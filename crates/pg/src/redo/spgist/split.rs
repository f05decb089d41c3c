//! Redo of `PICKSPLIT`: leaf tuples that no longer fit get an inner tuple above them.

use super::super::{Fault, Step, field};
use super::tuple::{self, DeadTuple, REDIRECT};
use super::{LEAF, Link, NULLS, State, add_or_replace, bury, numbers, prepare, set_link};

/// `spgxlogPickSplit` with what follows it.
struct PickSplit<'d> {
    init_source: bool,
    init_destination: bool,
    inner_number: u16,
    init_inner: bool,
    nulls: bool,
    inner_is_parent: bool,
    parent: u16,
    node: u16,
    state: State,
    deleted: Vec<u16>,
    inner: &'d [u8],
    /// Line pointer, whether to the destination (else the source), tuple.
    inserted: Vec<(u16, bool, &'d [u8])>,
}

impl<'d> PickSplit<'d> {
    fn read(step: &Step<'_, 'd, '_>) -> Result<PickSplit<'d>, Fault> {
        let mut cursor = step.main_data();
        let _is_root_split = field(cursor.bool())?;
        field(cursor.align(2))?;
        let delete_count = usize::from(field(cursor.u16())?);
        let insert_count = usize::from(field(cursor.u16())?);
        let init_source = field(cursor.bool())?;
        let init_destination = field(cursor.bool())?;
        let inner_number = field(cursor.u16())?;
        let init_inner = field(cursor.bool())?;
        let nulls = field(cursor.bool())?;
        let inner_is_parent = field(cursor.bool())?;
        field(cursor.align(2))?;
        let parent = field(cursor.u16())?;
        let node = field(cursor.u16())?;
        let state = State::read(&mut cursor)?;
        let deleted = numbers(&mut cursor, delete_count)?;
        let places = numbers(&mut cursor, insert_count)?;
        let selection = field(cursor.bytes(insert_count))?;
        let inner = field(tuple::take_inner(&mut cursor))?;
        let mut inserted = Vec::with_capacity(insert_count);
        for (number, &selected) in places.into_iter().zip(selection) {
            inserted.push((number, selected != 0, field(tuple::take_leaf(&mut cursor))?));
        }
        Ok(PickSplit {
            init_source,
            init_destination,
            inner_number,
            init_inner,
            nulls,
            inner_is_parent,
            parent,
            node,
            state,
            deleted,
            inner,
            inserted,
        })
    }
}

/// Block 0 is where the leaf tuples were, 1 where some went, 2 has the inner tuple, 3 is the parent.
pub(super) fn redo(step: &mut Step<'_, '_, '_>) -> Result<(), Fault> {
    let split = PickSplit::read(step)?;
    let nulls = if split.nulls { NULLS } else { 0 };
    let block = field(step.record.block(2))?.number;
    let number = split.inner_number;
    let link = Link { parent: split.parent, node: split.node, block, number };
    match step.block.id {
        0 => {
            prepare(step, split.init_source, LEAF | nulls)?;
            if !split.init_source {
                let first = if split.state.building {
                    DeadTuple::PLACEHOLDER
                } else {
                    DeadTuple { state: REDIRECT, xid: split.state.xid, block, number }
                };
                bury(&mut step.page, &split.deleted, first, DeadTuple::PLACEHOLDER)?;
            }
            insert(step, &split, false)
        }
        1 => {
            prepare(step, split.init_destination, LEAF | nulls)?;
            insert(step, &split, true)
        }
        2 => {
            prepare(step, split.init_inner, nulls)?;
            add_or_replace(&mut step.page, split.inner, number)?;
            if split.inner_is_parent { set_link(step, link) } else { Ok(()) }
        }
        _ => set_link(step, link),
    }
}

fn insert(
    step: &mut Step<'_, '_, '_>,
    split: &PickSplit<'_>,
    to_destination: bool,
) -> Result<(), Fault> {
    for &(number, selected, tuple) in &split.inserted {
        if selected == to_destination {
            add_or_replace(&mut step.page, tuple, number)?;
        }
    }
    Ok(())
}
