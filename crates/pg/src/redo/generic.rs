//! Redo of `Generic` records: byte ranges to be overwritten (`access/transam/generic_xlog.c`).

use super::{Done, Fault, Step, field};
use crate::wal::cursor::Cursor;

pub(super) fn redo(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let mut cursor = Cursor::new(step.block.data);
    while !cursor.is_empty() {
        let offset = usize::from(field(cursor.u16())?);
        let length = usize::from(field(cursor.u16())?);
        step.page.write(offset, field(cursor.bytes(length))?)?;
    }
    // What stood between the line pointers and the tuples was not logged: it counts as zeros.
    let (lower, upper) = (step.page.lower(), step.page.upper());
    let hole = step.page.bytes.get_mut(lower..upper);
    hole.ok_or(Fault::Page("corrupted page pointers"))?.fill(0);
    Ok(Done::Changed)
}
