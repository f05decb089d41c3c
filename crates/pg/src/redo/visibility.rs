//! Visibility-map bits that heap records clear, most of them without naming the map's block.

use crate::datadir::relation::{Fork, RelNode};
use crate::page::vm::{ALL_FROZEN, VALID_BITS};
use crate::wal::record::Record;
use crate::wal::rmgr::Rmgr;

/// Bits of one heap block that a record clears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmClear {
    pub node: RelNode,
    pub heap_block: u32,
    /// See [`crate::page::vm`].
    pub bits: u8,
}

/// At most two: the old and the new block of an update.
///
/// At first, heap records told by a flag that all-visible was cleared, and redo cleared the map's bits
/// whether or not the heap page needs the record. The map page's LSN does not move. Records that do name the
/// map's block (17.11 and 18.6 on, where a bit was set) clear it through that reference and imply nothing.
pub fn implied_vm_clears(record: &Record<'_>) -> impl Iterator<Item = VmClear> {
    let named = record.blocks.iter().any(|block| block.tag.fork == Fork::Vm);
    let clears = if named { [None; 2] } else { named_vm_clears(record) };
    clears.into_iter().flatten()
}

/// The same for records that do name the map's block.
pub(super) fn named_vm_clears(record: &Record<'_>) -> [Option<VmClear>; 2] {
    clears(record).unwrap_or_default()
}

fn clears(record: &Record<'_>) -> Option<[Option<VmClear>; 2]> {
    let flag = |at: usize, bit: u8| record.main_data.get(at).is_some_and(|byte| byte & bit != 0);
    let clear = |id: u8, bits| {
        let block = record.block(id)?;
        Some(VmClear { node: block.tag.node(), heap_block: block.number, bits })
    };
    let when = |on: bool, id, bits| if on { clear(id, bits) } else { None };
    Some(match (record.rmgr(), record.kind_bits() & 0x70) {
        (Rmgr::HEAP, 0x00) => [when(flag(2, 1), 0, VALID_BITS), None],
        (Rmgr::HEAP, 0x10) => [when(flag(7, 1), 0, VALID_BITS), None],
        (Rmgr::HEAP, 0x20 | 0x40) => {
            let old = if record.block(1).is_some() { 1 } else { 0 };
            [when(flag(7, 1), old, VALID_BITS), when(flag(7, 2), 0, VALID_BITS)]
        }
        (Rmgr::HEAP, 0x60) | (Rmgr::HEAP2, 0x60) => [when(flag(7, 1), 0, ALL_FROZEN), None],
        (Rmgr::HEAP2, 0x50) => [when(flag(0, 1), 0, VALID_BITS), None],
        _ => return None,
    })
}
