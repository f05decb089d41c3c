//! Redo of what vacuum does to SP-GiST pages.

use super::super::{Fault, Step, field};
use super::tuple::{self, DeadTuple};
use super::{PLACEHOLDERS, REDIRECTIONS, State, bury, count, forget_redirect, numbers};

/// `spgxlogVacuumLeaf`: dead tuples go, chains close up.
pub(super) fn leaf(step: &mut Step<'_, '_, '_>) -> Result<(), Fault> {
    let mut cursor = step.main_data();
    let counts = field(cursor.array::<8>())?;
    let (counts, _none) = counts.as_chunks::<2>();
    let mut counts = counts.iter().map(|pair| usize::from(u16::from_le_bytes(*pair)));
    let mut count = || field(counts.next());
    let (dead, placeholders, moves, chains) = (count()?, count()?, count()?, count()?);
    let _state = State::read(&mut cursor)?;
    let dead = numbers(&mut cursor, dead)?;
    let placeholders = numbers(&mut cursor, placeholders)?;
    let (from, to) = (numbers(&mut cursor, moves)?, numbers(&mut cursor, moves)?);
    let (links, next) = (numbers(&mut cursor, chains)?, numbers(&mut cursor, chains)?);
    let page = &mut step.page;
    bury(page, &dead, DeadTuple::DEAD, DeadTuple::DEAD)?;
    bury(page, &placeholders, DeadTuple::PLACEHOLDER, DeadTuple::PLACEHOLDER)?;
    for (&from, &to) in from.iter().zip(&to) {
        let (source, destination) = (page.item_id(from)?, page.item_id(to)?);
        page.set_item_id(from, destination);
        page.set_item_id(to, source);
    }
    bury(page, &from, DeadTuple::PLACEHOLDER, DeadTuple::PLACEHOLDER)?;
    for (&link, &next) in links.iter().zip(&next) {
        field(tuple::set_next(page.item_mut(link)?, next))?;
    }
    Ok(())
}

/// `spgxlogVacuumRoot`: the root is a leaf, where nothing leads to a tuple.
pub(super) fn root(step: &mut Step<'_, '_, '_>) -> Result<(), Fault> {
    let mut cursor = step.main_data();
    let deleted = usize::from(field(cursor.u16())?);
    let _state = State::read(&mut cursor)?;
    let deleted = numbers(&mut cursor, deleted)?;
    step.page.delete_index_tuples(&deleted)?;
    Ok(())
}

/// `spgxlogVacuumRedirect`: nobody can follow these redirects any more.
pub(super) fn redirects(step: &mut Step<'_, '_, '_>) -> Result<(), Fault> {
    let mut cursor = step.main_data();
    let changed = field(cursor.u16())?;
    let first_placeholder = field(cursor.u16())?;
    let _newest_redirect_xid = field(cursor.u32())?;
    if step.record.version.has_16_records() {
        let _is_catalog = field(cursor.bool())?;
        field(cursor.align(2))?;
    }
    let page = &mut step.page;
    for number in numbers(&mut cursor, changed.into())? {
        forget_redirect(page, number)?;
    }
    count(page, REDIRECTIONS, -i32::from(changed))?;
    count(page, PLACEHOLDERS, changed.into())?;
    if first_placeholder != 0 {
        let trailing: Vec<u16> = (first_placeholder..=page.item_count()).collect();
        let removed = i32::try_from(trailing.len()).unwrap_or(i32::MAX);
        count(page, PLACEHOLDERS, -removed)?;
        page.delete_index_tuples(&trailing)?;
    }
    Ok(())
}
