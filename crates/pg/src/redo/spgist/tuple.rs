//! Tuples of SP-GiST pages (`access/spgist_private.h`): leaf, inner, dead.

use crate::page::tuple::item_pointer;
use crate::wal::cursor::{Cursor, u16_at, u32_at};

/// States of a tuple, its lowest two bits.
pub(super) const REDIRECT: u32 = 1;
pub(super) const DEAD: u32 = 2;
pub(super) const PLACEHOLDER: u32 = 3;
const STATE_MASK: u32 = 3;

/// Where a leaf or dead tuple's next line pointer stands.
const NEXT: usize = 4;
const NEXT_MASK: u16 = 0x3FFF;
/// Where a dead tuple's item pointer stands.
pub(super) const POINTER: usize = 6;
const DEAD_BYTES: u32 = 16;

const INNER_HEADER_BYTES: usize = 8;
const NODE_SIZE_MASK: u16 = 0x1FFF;

/// What stands in the place of a tuple that others may still lead to.
#[derive(Clone, Copy)]
pub(super) struct DeadTuple {
    pub(super) state: u32,
    /// Of a redirect only: who made it, and where it leads.
    pub(super) xid: u32,
    pub(super) block: u32,
    pub(super) number: u16,
}

impl DeadTuple {
    pub(super) const PLACEHOLDER: DeadTuple =
        DeadTuple { state: PLACEHOLDER, xid: 0, block: u32::MAX, number: 0 };
    pub(super) const DEAD: DeadTuple = DeadTuple { state: DEAD, ..DeadTuple::PLACEHOLDER };

    pub(super) fn bytes(&self) -> [u8; DEAD_BYTES as usize] {
        let (xid, block, number) = match self.state {
            REDIRECT => (self.xid, self.block, self.number),
            _ => (0, u32::MAX, 0),
        };
        let [a, b, c, d] = (self.state | DEAD_BYTES << 2).to_le_bytes();
        let [e, f, g, h, i, j] = item_pointer(block, number);
        let [k, l, m, n] = xid.to_le_bytes();
        [a, b, c, d, 0, 0, e, f, g, h, i, j, k, l, m, n]
    }
}

pub(super) fn state(tuple: &[u8]) -> Option<u32> {
    u32_at(tuple, 0).map(|word| word & STATE_MASK)
}

pub(super) fn set_state(tuple: &mut [u8], state: u32) -> Option<()> {
    let first = tuple.first_mut()?;
    *first = *first & !3 | state.to_le_bytes()[0];
    Some(())
}

pub(super) fn set_next(tuple: &mut [u8], number: u16) -> Option<()> {
    let info = u16_at(tuple, NEXT)? & !NEXT_MASK | number & NEXT_MASK;
    tuple.get_mut(NEXT..NEXT + 2)?.copy_from_slice(&info.to_le_bytes());
    Some(())
}

/// A leaf tuple from a record: its length is in its first word.
pub(super) fn take_leaf<'d>(cursor: &mut Cursor<'d>) -> Option<&'d [u8]> {
    let size = usize::try_from(u32_at(cursor.rest(), 0)? >> 2).ok()?;
    cursor.bytes(size).filter(|_| size > 0)
}

/// An inner tuple from a record: its length stands behind its first word.
pub(super) fn take_inner<'d>(cursor: &mut Cursor<'d>) -> Option<&'d [u8]> {
    let size = usize::from(u16_at(cursor.rest(), 4)?);
    cursor.bytes(size).filter(|_| size > 0)
}

/// Makes a node of an inner tuple lead somewhere.
pub(super) fn set_node_link(tuple: &mut [u8], node: u16, block: u32, number: u16) -> Option<()> {
    let word = u32_at(tuple, 0)?;
    let nodes = (word >> 3 & 0x1FFF) as u16;
    if node >= nodes {
        return None;
    }
    let mut at = INNER_HEADER_BYTES + (word >> 16) as usize;
    for _each in 0..node {
        at += usize::from(u16_at(tuple, at + 6)? & NODE_SIZE_MASK);
    }
    tuple.get_mut(at..at + 6)?.copy_from_slice(&item_pointer(block, number));
    Some(())
}
