//! Redo of `Sequence` records (`commands/sequence.c`).

use super::{Done, Fault, Step, field};

const MAGIC: u32 = 0x1717;
/// The relation, which the block reference tells again.
const REL_NODE_BYTES: usize = 12;

pub(super) fn redo(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let tuple = field(step.record.main_data.get(REL_NODE_BYTES..))?;
    step.page.init(size_of::<u32>());
    if let Some(magic) = step.page.special_bytes_mut().first_chunk_mut() {
        *magic = MAGIC.to_le_bytes();
    }
    step.page.append_item(tuple)?;
    Ok(Done::Changed)
}
