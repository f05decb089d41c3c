//! Heap tuple headers (`HeapTupleHeaderData`, `access/htup_details.h`).

use crate::wal::cursor::{u16_at, u32_at};

/// Bytes of the fixed part (`SizeofHeapTupleHeader`); the null bitmap follows.
pub const TUPLE_HEADER_BYTES: usize = 23;

pub const XMAX_KEYSHR_LOCK: u16 = 0x0010;
pub const COMBOCID: u16 = 0x0020;
pub const XMAX_EXCL_LOCK: u16 = 0x0040;
pub const XMAX_LOCK_ONLY: u16 = 0x0080;
pub const XMIN_COMMITTED: u16 = 0x0100;
pub const XMIN_INVALID: u16 = 0x0200;
pub const XMIN_FROZEN: u16 = XMIN_COMMITTED | XMIN_INVALID;
pub const XMAX_COMMITTED: u16 = 0x0400;
pub const XMAX_INVALID: u16 = 0x0800;
pub const XMAX_IS_MULTI: u16 = 0x1000;
pub const MOVED: u16 = 0x4000 | 0x8000;
/// All that an update or a lock sets anew (`HEAP_XMAX_BITS`).
pub const XMAX_BITS: u16 = XMAX_COMMITTED
    | XMAX_INVALID
    | XMAX_IS_MULTI
    | XMAX_KEYSHR_LOCK
    | XMAX_EXCL_LOCK
    | XMAX_LOCK_ONLY;
/// Everything about visibility (`HEAP_XACT_MASK`).
pub const XACT_MASK: u16 = 0xFFF0;

/// In the second mask.
pub const KEYS_UPDATED: u16 = 0x2000;
pub const HOT_UPDATED: u16 = 0x4000;

/// Line pointer number of a tuple that is inserted speculatively (`SpecTokenOffsetNumber`).
pub const SPECULATIVE_NUMBER: u16 = 0xFFFE;
/// Line pointer number of a tuple that moved to another partition.
pub const MOVED_PARTITIONS_NUMBER: u16 = 0xFFFD;
const MOVED_PARTITIONS_BLOCK: u32 = 0xFFFF_FFFF;

const XMIN: usize = 0;
const XMAX: usize = 4;
const FIELD3: usize = 8;
const CTID: usize = 12;
const INFOMASK2: usize = 18;
const INFOMASK: usize = 20;
const HOFF: usize = 22;

/// A heap tuple on a page; absent bytes read as 0 and swallow writes (see [`Tuple::new`]).
#[derive(Debug)]
pub struct Tuple<'t> {
    bytes: &'t mut [u8],
}

impl<'t> Tuple<'t> {
    /// `None` if the bytes are too few for a header.
    pub fn new(bytes: &'t mut [u8]) -> Option<Tuple<'t>> {
        (bytes.len() >= TUPLE_HEADER_BYTES).then_some(Tuple { bytes })
    }

    pub fn infomask(&self) -> u16 {
        u16_at(self.bytes, INFOMASK).unwrap_or(0)
    }

    pub fn infomask2(&self) -> u16 {
        u16_at(self.bytes, INFOMASK2).unwrap_or(0)
    }

    pub fn set_infomask(&mut self, mask: u16) {
        self.put(INFOMASK, &mask.to_le_bytes());
    }

    pub fn set_infomask2(&mut self, mask: u16) {
        self.put(INFOMASK2, &mask.to_le_bytes());
    }

    /// Where the data begins.
    pub fn hoff(&self) -> usize {
        self.bytes.get(HOFF).copied().map_or(0, usize::from)
    }

    pub fn set_xmin(&mut self, xid: u32) {
        self.put(XMIN, &xid.to_le_bytes());
    }

    pub fn set_xmax(&mut self, xid: u32) {
        self.put(XMAX, &xid.to_le_bytes());
    }

    pub fn xmax(&self) -> u32 {
        u32_at(self.bytes, XMAX).unwrap_or(0)
    }

    /// Command id or, of old `VACUUM FULL`, the transaction that moved the tuple.
    pub fn set_field3(&mut self, value: u32) {
        self.put(FIELD3, &value.to_le_bytes());
    }

    /// Command id 0 as deleter (`HeapTupleHeaderSetCmax`).
    pub fn clear_cmax(&mut self) {
        self.set_field3(0);
        self.set_infomask(self.infomask() & !COMBOCID);
    }

    pub fn set_ctid(&mut self, block: u32, number: u16) {
        self.put(CTID, &item_pointer(block, number));
    }

    /// The line pointer number in `t_ctid`.
    pub fn ctid_number(&self) -> u16 {
        u16_at(self.bytes, CTID + 4).unwrap_or(0)
    }

    pub fn set_moved_partitions(&mut self) {
        self.set_ctid(MOVED_PARTITIONS_BLOCK, MOVED_PARTITIONS_NUMBER);
    }

    pub fn clear_hot_updated(&mut self) {
        self.set_infomask2(self.infomask2() & !HOT_UPDATED);
    }

    pub fn set_hot_updated(&mut self) {
        self.set_infomask2(self.infomask2() | HOT_UPDATED);
    }

    pub fn xmin_frozen(&self) -> bool {
        self.infomask() & XMIN_FROZEN == XMIN_FROZEN
    }

    /// Whether xmax only locks (`HEAP_XMAX_IS_LOCKED_ONLY`).
    pub fn xmax_is_locked_only(&self) -> bool {
        let mask = self.infomask();
        mask & XMAX_LOCK_ONLY != 0
            || mask & (XMAX_IS_MULTI | XMAX_EXCL_LOCK | XMAX_KEYSHR_LOCK) == XMAX_EXCL_LOCK
    }

    fn put(&mut self, at: usize, value: &[u8]) {
        if let Some(field) = self.bytes.get_mut(at..at + value.len()) {
            field.copy_from_slice(value);
        }
    }
}

/// `ItemPointerData`: the block's high half, its low half, the line pointer number.
pub fn item_pointer(block: u32, number: u16) -> [u8; 6] {
    let [a, b, c, d] = block.to_le_bytes();
    let [e, f] = number.to_le_bytes();
    [c, d, a, b, e, f]
}

/// Block and line pointer number of an `ItemPointerData`.
pub fn read_item_pointer(bytes: &[u8]) -> Option<(u32, u16)> {
    let [c, d, a, b, e, f] = *bytes.first_chunk::<6>()?;
    Some((u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f])))
}
