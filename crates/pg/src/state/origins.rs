//! How far replication origins came (`replication/logical/origin.c`).

use crate::redo::effects::Change;
use crate::wal::cursor::{Cursor, u32_at};

/// First word of `pg_logical/replorigin_checkpoint` (`REPLICATION_STATE_MAGIC`).
const MAGIC: u32 = 0x1257_DADE;
/// `ReplicationStateOnDisk`: the origin's number (2), padding (6), the position at the other side (8).
const SLOT: usize = 16;

/// Brings the slots up to a change. A new origin takes the first free slot, as in the server's memory: the file has
/// them in that order.
pub(super) fn redo(value: &mut Vec<u8>, change: &Change<'_>) -> Result<(), &'static str> {
    if !value.len().is_multiple_of(SLOT) {
        return Err("slots of another length");
    }
    match change {
        Change::OriginSet { origin, remote_lsn } => set(value, *origin, remote_lsn.0, true),
        Change::OriginDropped(origin) => {
            if let Some(slot) =
                value.as_chunks_mut::<SLOT>().0.iter_mut().find(|slot| number(slot) == *origin)
            {
                slot.fill(0);
            }
        }
        Change::TransactionEnded(end) => {
            if let Some(origin) = end.origin.filter(|origin| origin.number != 0) {
                set(value, origin.number, origin.lsn.0, false);
            }
        }
        _ => {}
    }
    Ok(())
}

fn set(value: &mut Vec<u8>, origin: u16, lsn: u64, backward: bool) {
    let slots = value.as_chunks::<SLOT>().0;
    let known = slots.iter().position(|slot| number(slot) == origin);
    let place = known.or_else(|| slots.iter().position(|slot| number(slot) == 0));
    let place = place.unwrap_or(slots.len());
    if place == slots.len() {
        value.resize(value.len() + SLOT, 0);
    }
    let Some(slot) = value.as_chunks_mut::<SLOT>().0.get_mut(place) else { return };
    let [n0, n1, _, _, _, _, _, _, l0, l1, l2, l3, l4, l5, l6, l7] = slot;
    let before = u64::from_le_bytes([*l0, *l1, *l2, *l3, *l4, *l5, *l6, *l7]);
    [*n0, *n1] = origin.to_le_bytes();
    let after = if backward { lsn } else { lsn.max(before) };
    [*l0, *l1, *l2, *l3, *l4, *l5, *l6, *l7] = after.to_le_bytes();
}

const fn number(slot: &[u8; SLOT]) -> u16 {
    let [n0, n1, ..] = slot;
    u16::from_le_bytes([*n0, *n1])
}

/// The file's bytes, of the value.
pub fn origins_file(value: &[u8]) -> Vec<u8> {
    let mut file = MAGIC.to_le_bytes().to_vec();
    for slot in value.as_chunks::<SLOT>().0.iter().filter(|slot| number(slot) != 0) {
        file.extend_from_slice(slot);
    }
    let crc = crc32c::crc32c(&file);
    file.extend_from_slice(&crc.to_le_bytes());
    file
}

/// The value, of the file's bytes; `None` if they are not such a file.
pub fn origins_of_file(file: &[u8]) -> Option<Vec<u8>> {
    let slots = file.len().checked_sub(8).filter(|bytes| bytes.is_multiple_of(SLOT))?;
    let covered = file.get(..4 + slots)?;
    if u32_at(file, covered.len())? != crc32c::crc32c(covered) {
        return None;
    }
    let mut cursor = Cursor::new(covered);
    (cursor.u32()? == MAGIC).then(|| cursor.rest().to_vec())
}
