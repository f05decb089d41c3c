//! Index tuples (`access/itup.h`) and what btree makes of their item pointer (`access/nbtree.h`).

use crate::page::header::short;
use crate::wal::cursor::u16_at;

/// Bytes of an index tuple's header: item pointer and length with flags.
pub(super) const HEADER_BYTES: usize = 8;
/// Bytes of an item pointer.
pub(super) const TID_BYTES: usize = 6;

const SIZE_MASK: u16 = 0x1FFF;
/// The item pointer means something else (`INDEX_ALT_TID_MASK`).
const ALTERNATIVE: u16 = 0x2000;
const IS_POSTING: u16 = 0x2000;
const COUNT_MASK: u16 = 0x0FFF;

const NUMBER: usize = 4;
const INFO: usize = 6;

/// Bytes of the tuple as its header says.
pub(super) fn size(tuple: &[u8]) -> Option<usize> {
    u16_at(tuple, INFO).map(|info| usize::from(info & SIZE_MASK))
}

pub(super) fn set_size(tuple: &mut [u8], size: usize) -> Option<()> {
    let info = u16_at(tuple, INFO)?;
    put(tuple, INFO, info & !SIZE_MASK | short(size) & SIZE_MASK)
}

/// The list of heap item pointers of a tuple: where it begins, how many there are.
#[derive(Clone, Copy)]
pub(super) struct Posting {
    pub(super) offset: usize,
    pub(super) count: usize,
}

impl Posting {
    /// `None` for a plain tuple.
    pub(super) fn of(tuple: &[u8]) -> Option<Posting> {
        let info = u16_at(tuple, INFO)?;
        let number = u16_at(tuple, NUMBER)?;
        if info & ALTERNATIVE == 0 || number & IS_POSTING == 0 {
            return None;
        }
        let (high, low) = (u16_at(tuple, 0)?, u16_at(tuple, 2)?);
        let block = u32::from(high) << 16 | u32::from(low);
        let offset = usize::try_from(block).ok()?;
        Some(Posting { offset, count: usize::from(number & COUNT_MASK) })
    }

    pub(super) fn tids<'t>(&self, tuple: &'t [u8]) -> Option<&'t [u8]> {
        tuple.get(self.offset..self.offset.checked_add(self.count * TID_BYTES)?)
    }

    /// Makes the tuple say that it has this list.
    pub(super) fn mark(&self, tuple: &mut [u8]) -> Option<()> {
        set_block(tuple, u32::try_from(self.offset).ok()?)?;
        put(tuple, NUMBER, short(self.count) & COUNT_MASK | IS_POSTING)?;
        let info = u16_at(tuple, INFO)?;
        put(tuple, INFO, info | ALTERNATIVE)
    }
}

/// Makes the tuple plain, with this heap item pointer.
pub(super) fn make_plain(tuple: &mut [u8], tid: &[u8]) -> Option<()> {
    let info = u16_at(tuple, INFO)?;
    put(tuple, INFO, info & !ALTERNATIVE)?;
    tuple.get_mut(..TID_BYTES)?.copy_from_slice(tid.get(..TID_BYTES)?);
    Some(())
}

/// The child that an inner page's tuple leads to.
pub(super) fn downlink(tuple: &[u8]) -> Option<u32> {
    Some(u32::from(u16_at(tuple, 0)?) << 16 | u32::from(u16_at(tuple, 2)?))
}

pub(super) fn set_block(tuple: &mut [u8], block: u32) -> Option<()> {
    let [a, b, c, d] = block.to_le_bytes();
    *tuple.first_chunk_mut::<4>()? = [c, d, a, b];
    Some(())
}

/// The only item of a half-dead page: a high key without columns that leads to the subtree's top.
pub(super) fn top_parent(block: u32) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = block.to_le_bytes();
    let [e, f] = (short(HEADER_BYTES) | ALTERNATIVE).to_le_bytes();
    [c, d, a, b, 0, 0, e, f]
}

fn put(tuple: &mut [u8], at: usize, value: u16) -> Option<()> {
    tuple.get_mut(at..at + 2)?.copy_from_slice(&value.to_le_bytes());
    Some(())
}
