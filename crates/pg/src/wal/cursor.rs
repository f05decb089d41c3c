//! Checked reading of little-endian fields from bytes that may be anything.

use crate::datadir::relation::RelNode;
use crate::lsn::Lsn;

/// Reads fields one after another; every read answers `None` once the bytes are used up.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    rest: &'a [u8],
    /// Bytes at the beginning.
    length: usize,
}

impl<'a> Cursor<'a> {
    #[inline]
    pub const fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { rest: bytes, length: bytes.len() }
    }

    #[inline]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    pub fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(head)
    }

    #[inline]
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*head)
    }

    /// Skips to the next multiple of `to` (a power of two), counted from where the cursor began.
    pub fn align(&mut self, to: usize) -> Option<()> {
        let taken = self.length - self.rest.len();
        let padding = taken.next_multiple_of(to) - taken;
        self.bytes(padding).map(|_padding| ())
    }

    #[inline]
    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    #[inline]
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    #[inline]
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    #[inline]
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    #[inline]
    pub fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_le_bytes)
    }

    #[inline]
    pub fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    #[inline]
    pub fn lsn(&mut self) -> Option<Lsn> {
        self.u64().map(Lsn)
    }

    /// A C `bool`: one byte, anything but 0 is true.
    #[inline]
    pub fn bool(&mut self) -> Option<bool> {
        self.u8().map(|byte| byte != 0)
    }

    /// An `int` that counts things: `None` also if it is negative.
    #[inline]
    pub fn count(&mut self) -> Option<usize> {
        usize::try_from(self.i32()?).ok()
    }

    /// `RelFileNode`: tablespace, database, relation.
    #[inline]
    pub fn rel_node(&mut self) -> Option<RelNode> {
        Some(RelNode::new(self.u32()?, self.u32()?, self.u32()?))
    }

    /// `count` numbers of 4 bytes.
    pub fn u32s(&mut self, count: usize) -> Option<Vec<u32>> {
        let (chunks, _none) = self.bytes(count.checked_mul(4)?)?.as_chunks::<4>();
        Some(chunks.iter().map(|chunk| u32::from_le_bytes(*chunk)).collect())
    }

    /// The bytes up to a zero byte, which is consumed too.
    pub fn c_string(&mut self) -> Option<&'a [u8]> {
        let length = self.rest.iter().position(|&byte| byte == 0)?;
        let text = self.bytes(length)?;
        self.bytes(1)?;
        Some(text)
    }
}

/// The two bytes at `offset`.
#[inline]
pub fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().map(|chunk| u16::from_le_bytes(*chunk))
}

/// The four bytes at `offset`.
#[inline]
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))
}

/// The eight bytes at `offset`.
#[inline]
pub fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}
