//! Redo of `SPGist` records (`access/spgist/spgxlog.c`, `spgdoinsert.c`, `spgvacuum.c`).

mod split;
mod tuple;
mod vacuum;

use super::{Done, Fault, Step, field};
use crate::page::Page;
use crate::page::item::Placing;
use crate::wal::cursor::Cursor;
use tuple::{DeadTuple, PLACEHOLDER, REDIRECT, set_node_link, set_state};

const OPAQUE_BYTES: usize = 8;
const PAGE_ID: u16 = 0xFF82;

const LEAF: u16 = 1 << 2;
const NULLS: u16 = 1 << 3;

// Places in the special space.
const FLAGS: usize = 0;
const REDIRECTIONS: usize = 2;
const PLACEHOLDERS: usize = 4;
const ID: usize = 6;

pub(super) fn redo(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    match (step.kind(), step.block.id) {
        (0x10, 0..=1) => add_leaf(step),
        (0x20, 0..=2) => move_leafs(step),
        (0x30, 0..=2) => add_node(step),
        (0x40, 0..=1) => split_tuple(step),
        (0x50, 0..=3) => split::redo(step),
        (0x60, 0) => vacuum::leaf(step.existing_page()?),
        (0x70, 0) => vacuum::root(step.existing_page()?),
        (0x80, 0) => vacuum::redirects(step.existing_page()?),
        _ => Err(Fault::Record("unexpected block reference")),
    }?;
    Ok(Done::Changed)
}

/// `spgxlogAddLeaf`: block 0 gets the leaf tuple, 1 is its parent.
fn add_leaf(step: &mut Step<'_, '_, '_>) -> Result<(), Fault> {
    let mut cursor = step.main_data();
    let new_page = field(cursor.bool())?;
    let nulls = field(cursor.bool())?;
    let number = field(cursor.u16())?;
    let head = field(cursor.u16())?;
    let parent = field(cursor.u16())?;
    let node = field(cursor.u16())?;
    if step.block.id == 1 {
        let leaf_block = field(step.record.block(0))?.number;
        return set_link(step, Link { parent, node, block: leaf_block, number });
    }
    let tuple = field(tuple::take_leaf(&mut cursor))?;
    prepare(step, new_page, LEAF | if nulls { NULLS } else { 0 })?;
    if number == head {
        return replace(&mut step.page, tuple, number); // a dead tuple
    }
    add_or_replace(&mut step.page, tuple, number)?;
    if head != 0 {
        field(tuple::set_next(step.page.item_mut(head)?, number))?;
    }
    Ok(())
}

/// `spgxlogMoveLeafs`: a chain of leaf tuples moves from block 0 to 1; 2 is the parent.
fn move_leafs(step: &mut Step<'_, '_, '_>) -> Result<(), Fault> {
    let mut cursor = step.main_data();
    let moves = usize::from(field(cursor.u16())?);
    let new_page = field(cursor.bool())?;
    let replace_dead = field(cursor.bool())?;
    let nulls = field(cursor.bool())?;
    field(cursor.align(2))?;
    let parent = field(cursor.u16())?;
    let node = field(cursor.u16())?;
    let state = State::read(&mut cursor)?;
    let deleted = numbers(&mut cursor, moves)?;
    let inserted = numbers(&mut cursor, if replace_dead { 1 } else { moves + 1 })?;
    let number = field(inserted.last().copied())?;
    let block = field(step.record.block(1))?.number;
    match step.block.id {
        0 => {
            let first = if state.building { PLACEHOLDER } else { REDIRECT };
            let first = DeadTuple { state: first, xid: state.xid, block, number };
            bury(&mut step.existing_page()?.page, &deleted, first, DeadTuple::PLACEHOLDER)
        }
        1 => {
            prepare(step, new_page, LEAF | if nulls { NULLS } else { 0 })?;
            for number in inserted {
                let tuple = field(tuple::take_leaf(&mut cursor))?;
                add_or_replace(&mut step.page, tuple, number)?;
            }
            Ok(())
        }
        _ => set_link(step, Link { parent, node, block, number }),
    }
}

/// `spgxlogAddNode`: an inner tuple grew; in place, or it moved from block 0 to 1 (2 may be the parent).
fn add_node(step: &mut Step<'_, '_, '_>) -> Result<(), Fault> {
    let mut cursor = step.main_data();
    let old = field(cursor.u16())?;
    let number = field(cursor.u16())?;
    let new_page = field(cursor.bool())?;
    let parent_block = field(cursor.u8())?;
    let parent = field(cursor.u16())?;
    let node = field(cursor.u16())?;
    let state = State::read(&mut cursor)?;
    let tuple = field(tuple::take_inner(&mut cursor))?;
    let Some(new) = step.record.block(1) else {
        return replace(&mut step.existing_page()?.page, tuple, old);
    };
    let block = new.number;
    match step.block.id {
        0 => {
            let page = &mut step.existing_page()?.page;
            if state.building {
                replace(page, &DeadTuple::PLACEHOLDER.bytes(), old)?;
                count(page, PLACEHOLDERS, 1)?;
            } else {
                let dead = DeadTuple { state: REDIRECT, xid: state.xid, block, number };
                replace(page, &dead.bytes(), old)?;
                count(page, REDIRECTIONS, 1)?;
            }
        }
        1 => {
            prepare(step, new_page, 0)?;
            add_or_replace(&mut step.page, tuple, number)?;
        }
        _ => {}
    }
    if parent_block == step.block.id {
        set_link(step, Link { parent, node, block, number })?;
    }
    Ok(())
}

/// `spgxlogSplitTuple`: an inner tuple's prefix was split; the lower half may go to block 1.
fn split_tuple(step: &mut Step<'_, '_, '_>) -> Result<(), Fault> {
    let mut cursor = step.main_data();
    let upper_number = field(cursor.u16())?;
    let lower_number = field(cursor.u16())?;
    let new_page = field(cursor.bool())?;
    let same_page = field(cursor.bool())?;
    let upper = field(tuple::take_inner(&mut cursor))?;
    let lower = field(tuple::take_inner(&mut cursor))?;
    if step.block.id == 1 {
        prepare(step, new_page, 0)?;
        return add_or_replace(&mut step.page, lower, lower_number);
    }
    let page = &mut step.existing_page()?.page;
    replace(page, upper, upper_number)?;
    if same_page {
        add_or_replace(page, lower, lower_number)?;
    }
    Ok(())
}

/// What dead tuples must know of the transaction (`spgxlogState`).
struct State {
    xid: u32,
    /// The index is being built: nobody can be on the way to a tuple that moves.
    building: bool,
}

impl State {
    fn read(cursor: &mut Cursor<'_>) -> Result<State, Fault> {
        field(cursor.align(4))?;
        let state = State { xid: field(cursor.u32())?, building: field(cursor.bool())? };
        field(cursor.align(4))?;
        Ok(state)
    }
}

fn numbers(cursor: &mut Cursor<'_>, count: usize) -> Result<Vec<u16>, Fault> {
    field((0..count).map(|_each| cursor.u16()).collect())
}

/// Where an inner tuple's node should lead.
struct Link {
    parent: u16,
    node: u16,
    block: u32,
    number: u16,
}

fn set_link(step: &mut Step<'_, '_, '_>, link: Link) -> Result<(), Fault> {
    let parent = step.existing_page()?.page.item_mut(link.parent)?;
    set_node_link(parent, link.node, link.block, link.number)
        .ok_or(Fault::Page("inner tuple without that node"))
}

/// An empty page where the record makes one, else one that exists.
fn prepare(step: &mut Step<'_, '_, '_>, new_page: bool, flags: u16) -> Result<(), Fault> {
    if !new_page {
        return step.existing_page().map(|_step| ());
    }
    step.page.init(OPAQUE_BYTES);
    let special = step.page.special();
    step.page.put_u16(special + FLAGS, flags);
    step.page.put_u16(special + ID, PAGE_ID);
    Ok(())
}

/// Puts another tuple in the place of one.
fn replace(page: &mut Page<'_>, tuple: &[u8], number: u16) -> Result<(), Fault> {
    page.delete_index_tuple(number)?;
    page.add_item(tuple, number, Placing::Shift)?;
    Ok(())
}

/// Adds a tuple at the end or in the place of a placeholder (`SpGistPageAddNewItem`).
fn add_or_replace(page: &mut Page<'_>, tuple: &[u8], number: u16) -> Result<(), Fault> {
    if number <= page.item_count() {
        if tuple::state(page.item(number)?) != Some(PLACEHOLDER) {
            return Err(Fault::Page("tuple to be replaced is not a placeholder"));
        }
        count(page, PLACEHOLDERS, -1)?;
        page.delete_index_tuple(number)?;
    }
    page.add_item(tuple, number, Placing::Shift)?;
    Ok(())
}

/// Replaces tuples by dead ones, the first of the list differently (`spgPageIndexMultiDelete`).
fn bury(page: &mut Page<'_>, list: &[u16], first: DeadTuple, rest: DeadTuple) -> Result<(), Fault> {
    let mut sorted = list.to_vec();
    sorted.sort_unstable();
    page.delete_index_tuples(&sorted)?;
    for number in sorted {
        let dead = if Some(&number) == list.first() { first } else { rest };
        page.add_item(&dead.bytes(), number, Placing::Shift)?;
        match dead.state {
            REDIRECT => count(page, REDIRECTIONS, 1)?,
            PLACEHOLDER => count(page, PLACEHOLDERS, 1)?,
            _ => {}
        }
    }
    Ok(())
}

/// Changes one of the page's counts.
fn count(page: &mut Page<'_>, place: usize, by: i32) -> Result<(), Fault> {
    let at = page.special() + place;
    let new = i32::from(page.u16(at)) + by;
    let new = u16::try_from(new).map_err(|_negative| Fault::Page("wrong count of dead tuples"))?;
    page.put_u16(at, new);
    Ok(())
}

/// Makes a redirect a placeholder.
fn forget_redirect(page: &mut Page<'_>, number: u16) -> Result<(), Fault> {
    let tuple = page.item_mut(number)?;
    let pointer = DeadTuple::PLACEHOLDER.bytes();
    field(set_state(tuple, PLACEHOLDER))?;
    let nothing = field(pointer.get(tuple::POINTER..tuple::POINTER + 6))?;
    field(tuple.get_mut(tuple::POINTER..tuple::POINTER + 6))?.copy_from_slice(nothing);
    Ok(())
}
