//! Line pointers and the tuples they point to (`storage/itemid.h`, `PageAddItemExtended`).

use crate::page::header::{HAS_FREE_LINES, HEADER_BYTES, align, short};
use crate::page::{Page, PageError};

/// Most line pointers of a heap page (`MaxHeapTuplesPerPage`).
pub const HEAP_ITEMS_MAX: u16 = 291;
/// Most line pointers of an index page (`MaxIndexTuplesPerPage`).
pub const INDEX_ITEMS_MAX: usize = 408;
const ITEM_ID_BYTES: usize = 4;

/// A line pointer (`ItemIdData`): 15 bits offset, 2 bits state, 15 bits length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemId(pub u32);

/// `lp_flags`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemState {
    Unused = 0,
    Normal = 1,
    /// Leads to another line pointer, whose number stands in place of the offset.
    Redirect = 2,
    Dead = 3,
}

impl ItemId {
    pub const UNUSED: ItemId = ItemId(0);
    pub const DEAD: ItemId = ItemId(3 << 15);

    /// A pointer to `length` bytes at `offset`.
    pub fn normal(offset: usize, length: usize) -> ItemId {
        ItemId(u32::from(short(length)) << 17 | 1 << 15 | u32::from(short(offset)) & 0x7FFF)
    }

    pub fn redirect(to: u16) -> ItemId {
        ItemId(2 << 15 | u32::from(to) & 0x7FFF)
    }

    pub const fn state(self) -> ItemState {
        match self.0 >> 15 & 3 {
            0 => ItemState::Unused,
            1 => ItemState::Normal,
            2 => ItemState::Redirect,
            _ => ItemState::Dead,
        }
    }

    pub const fn offset(self) -> usize {
        (self.0 & 0x7FFF) as usize
    }

    pub const fn length(self) -> usize {
        (self.0 >> 17) as usize
    }

    pub const fn has_storage(self) -> bool {
        self.length() != 0
    }

    pub const fn is_normal(self) -> bool {
        matches!(self.state(), ItemState::Normal)
    }

    pub const fn is_used(self) -> bool {
        !matches!(self.state(), ItemState::Unused)
    }

    pub(crate) fn with_offset(self, offset: usize) -> ItemId {
        ItemId(self.0 & !0x7FFF | u32::from(short(offset)) & 0x7FFF)
    }

    pub(crate) fn with_length(self, length: usize) -> ItemId {
        ItemId(self.0 & 0x1_FFFF | u32::from(short(length)) << 17)
    }
}

/// How [`Page::add_item`] treats the line pointer it is told to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placing {
    /// Use it as it is; it must be unused, or one past the last (`PAI_OVERWRITE`).
    Overwrite,
    /// Move it and those behind it one further.
    Shift,
}

impl Page<'_> {
    /// Number of line pointers (`PageGetMaxOffsetNumber`); they count from 1.
    pub fn item_count(&self) -> u16 {
        short(self.lower().saturating_sub(HEADER_BYTES) / ITEM_ID_BYTES)
    }

    pub fn item_id(&self, number: u16) -> Result<ItemId, PageError> {
        if number == 0 || number > self.item_count() {
            return Err(PageError("no such line pointer"));
        }
        Ok(ItemId(self.u32(place(number))))
    }

    /// Writes a line pointer; the caller knows that it is there.
    pub fn set_item_id(&mut self, number: u16, id: ItemId) {
        self.put_u32(place(number), id.0);
    }

    /// The bytes of a tuple.
    pub fn item(&self, number: u16) -> Result<&[u8], PageError> {
        let id = self.stored(number)?;
        let end = id.offset() + id.length();
        self.bytes.get(id.offset()..end).ok_or(PageError("line pointer leads out of the page"))
    }

    pub fn item_mut(&mut self, number: u16) -> Result<&mut [u8], PageError> {
        let id = self.stored(number)?;
        let end = id.offset() + id.length();
        self.bytes.get_mut(id.offset()..end).ok_or(PageError("line pointer leads out of the page"))
    }

    fn stored(&self, number: u16) -> Result<ItemId, PageError> {
        let id = self.item_id(number)?;
        if id.has_storage() { Ok(id) } else { Err(PageError("line pointer without a tuple")) }
    }

    /// Puts a tuple on the page with this line pointer (`PageAddItemExtended` with a given number).
    pub fn add_item(
        &mut self,
        tuple: &[u8],
        number: u16,
        placing: Placing,
    ) -> Result<(), PageError> {
        let at = self.reserve_item(tuple.len(), number, placing)?;
        self.write(at, tuple)
    }

    /// Makes room for a tuple of so many bytes with this line pointer; answers where its bytes are to be written.
    pub(crate) fn reserve_item(
        &mut self,
        length: usize,
        number: u16,
        placing: Placing,
    ) -> Result<usize, PageError> {
        self.check_pointers()?;
        let limit = self.item_count() + 1;
        if number == 0 || number > limit {
            return Err(PageError("line pointer beyond the last one"));
        }
        if placing == Placing::Overwrite && number < limit {
            let old = self.item_id(number)?;
            if old.is_used() || old.has_storage() {
                return Err(PageError("line pointer is in use"));
            }
        }
        let shift = placing == Placing::Shift && number < limit;
        let grows = number == limit || shift;
        let lower = self.lower() + if grows { ITEM_ID_BYTES } else { 0 };
        let upper = self.upper().checked_sub(align(length));
        let Some(upper) = upper.filter(|&upper| lower <= upper) else {
            return Err(PageError("no room for the tuple"));
        };
        if shift {
            let (from, end) = (place(number), place(limit));
            self.move_bytes(from, end, from + ITEM_ID_BYTES)?;
        }
        self.set_item_id(number, ItemId::normal(upper, length));
        self.set_lower(lower);
        self.set_upper(upper);
        Ok(upper)
    }

    /// Adds a tuple behind the last line pointer.
    pub fn append_item(&mut self, tuple: &[u8]) -> Result<(), PageError> {
        let number = self.item_count() + 1;
        self.add_item(tuple, number, Placing::Overwrite)
    }

    /// Puts a tuple at the first unused line pointer or behind the last one, as Postgres does when it is
    /// given no number; answers the number.
    pub fn add_item_anywhere(&mut self, tuple: &[u8]) -> Result<u16, PageError> {
        let limit = self.item_count() + 1;
        let mut number = limit;
        if self.flags() & HAS_FREE_LINES != 0 {
            let free = (1..limit).find(|&n| self.item_id(n).is_ok_and(|id| !id.is_used()));
            match free {
                Some(free) => number = free,
                None => self.set_flag(HAS_FREE_LINES, false),
            }
        }
        self.add_item(tuple, number, Placing::Overwrite)?;
        Ok(number)
    }

    pub(crate) fn write(&mut self, at: usize, bytes: &[u8]) -> Result<(), PageError> {
        let target = self.bytes.get_mut(at..at + bytes.len());
        target.ok_or(PageError("write beyond the page"))?.copy_from_slice(bytes);
        Ok(())
    }

    /// Moves `from..end` so that it begins at `to`.
    pub(crate) fn move_bytes(
        &mut self,
        from: usize,
        end: usize,
        to: usize,
    ) -> Result<(), PageError> {
        let length = end.checked_sub(from).ok_or(PageError("corrupted page pointers"))?;
        if end > self.bytes.len() || to + length > self.bytes.len() {
            return Err(PageError("move beyond the page"));
        }
        self.bytes.copy_within(from..end, to);
        Ok(())
    }
}

/// Where a line pointer stands; numbers count from 1.
pub(crate) fn place(number: u16) -> usize {
    HEADER_BYTES + usize::from(number.saturating_sub(1)) * ITEM_ID_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::PAGE_BYTES;

    fn empty() -> [u8; PAGE_BYTES] {
        let mut bytes = [0; PAGE_BYTES];
        Page::new(&mut bytes).init(0);
        bytes
    }

    #[test]
    fn places_tuples_from_the_end_at_multiples_of_eight() {
        let mut bytes = empty();
        let mut page = Page::new(&mut bytes);
        page.append_item(b"abc").unwrap();
        page.append_item(b"defghijkl").unwrap();
        page.add_item(b"first", 1, Placing::Shift).unwrap();
        assert_eq!(page.item_count(), 3);
        let tuples: Vec<_> = (1..=3).map(|n| page.item(n).unwrap()).collect();
        assert_eq!(tuples, [&b"first"[..], b"abc", b"defghijkl"]);
        let offsets: Vec<_> = (1..=3).map(|n| page.item_id(n).unwrap().offset()).collect();
        assert_eq!(offsets, [8160, 8184, 8168]);
    }

    #[test]
    fn refuses_what_would_destroy_something() {
        let mut bytes = empty();
        let mut page = Page::new(&mut bytes);
        page.append_item(b"abc").unwrap();
        assert!(page.add_item(b"x", 1, Placing::Overwrite).is_err());
        assert!(page.add_item(b"x", 3, Placing::Overwrite).is_err());
        assert!(page.add_item(b"x", 0, Placing::Shift).is_err());
        assert!(page.append_item(&[0; 8160]).is_err());
        assert!(page.item(2).is_err());
        page.set_item_id(1, ItemId::normal(8190, 100));
        assert!(page.item(1).is_err());
    }

    #[test]
    fn finds_the_first_unused_line_pointer() {
        let mut bytes = empty();
        let mut page = Page::new(&mut bytes);
        for _each in 0..3 {
            page.append_item(b"abc").unwrap();
        }
        page.set_item_id(2, ItemId::UNUSED);
        assert_eq!(page.add_item_anywhere(b"x"), Ok(4));
        page.set_flag(HAS_FREE_LINES, true);
        assert_eq!(page.add_item_anywhere(b"y"), Ok(2));
    }
}
