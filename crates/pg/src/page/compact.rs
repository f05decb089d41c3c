//! Taking tuples away and closing the gaps, in the order that Postgres leaves them (`bufpage.c`).

use crate::page::header::{HAS_FREE_LINES, HEADER_BYTES, align, short};
use crate::page::item::{ItemId, place};
use crate::page::{Page, PageError};

/// A tuple that stays, by its (future) line pointer.
#[derive(Clone, Copy)]
struct Kept {
    number: u16,
    id: ItemId,
}

impl Kept {
    /// With what aligns the next one.
    const fn bytes(self) -> usize {
        align(self.id.length())
    }

    const fn end(self) -> usize {
        self.id.offset() + self.bytes()
    }
}

impl Page<'_> {
    /// Closes the gaps of a heap page after pruning (`PageRepairFragmentation`); from Postgres 15 on with
    /// `drop_trailing`: unused line pointers at the end go, too.
    pub fn repair_fragmentation(&mut self, drop_trailing: bool) -> Result<(), PageError> {
        self.check_aligned()?;
        let (lower, upper, special) = (self.lower(), self.upper(), self.special());
        let lines = self.bytes.get_mut(HEADER_BYTES..lower).unwrap_or_default();
        let lines = lines.as_chunks_mut::<4>().0;
        let count = short(lines.len());
        let mut kept = Vec::with_capacity(lines.len());
        let (mut last_used, mut unused) = (0, 0);
        for (number, line) in (1..=count).zip(lines) {
            let id = ItemId(u32::from_le_bytes(*line));
            if !id.is_used() {
                *line = ItemId::UNUSED.0.to_le_bytes();
                unused += 1;
                continue;
            }
            if id.has_storage() {
                if id.offset() < upper || id.offset() >= special {
                    return Err(PageError("corrupted line pointer"));
                }
                kept.push(Kept { number, id });
            }
            last_used = number;
        }
        self.compactify(&kept)?;
        let trailing = if drop_trailing { count - last_used } else { 0 };
        self.set_lower(lower - usize::from(trailing) * 4);
        self.set_flag(HAS_FREE_LINES, unused > trailing);
        Ok(())
    }

    /// Drops unused line pointers at the end, all but the first (`PageTruncateLinePointerArray`).
    pub fn truncate_line_pointers(&mut self) -> Result<(), PageError> {
        let mut count = self.item_count();
        while count > 1 && !self.item_id(count)?.is_used() {
            count -= 1;
        }
        let mut unused = false;
        for number in 1..=count {
            unused |= !self.item_id(number)?.is_used();
        }
        self.set_lower(HEADER_BYTES + usize::from(count) * 4);
        self.set_flag(HAS_FREE_LINES, unused);
        Ok(())
    }

    /// Removes one tuple and its line pointer from an index page (`PageIndexTupleDelete`).
    pub fn delete_index_tuple(&mut self, number: u16) -> Result<(), PageError> {
        let id = self.check_index_item(number)?;
        let size = align(id.length());
        let (from, end) = (place(number) + 4, self.lower());
        self.move_bytes(from, end, from - 4)?;
        self.set_lower(end - 4);
        self.close_gap(id.offset(), size)
    }

    /// Removes one tuple but keeps the numbers of those behind it (`PageIndexTupleDeleteNoCompact`).
    pub fn delete_index_tuple_in_place(&mut self, number: u16) -> Result<(), PageError> {
        let id = self.check_index_item(number)?;
        if number < self.item_count() {
            self.set_item_id(number, ItemId::UNUSED);
        } else {
            self.set_lower(self.lower() - 4);
        }
        self.close_gap(id.offset(), align(id.length()))
    }

    /// Removes several tuples, given in ascending order (`PageIndexMultiDelete`).
    pub fn delete_index_tuples(&mut self, numbers: &[u16]) -> Result<(), PageError> {
        if numbers.len() <= 2 {
            return numbers.iter().rev().try_for_each(|&number| self.delete_index_tuple(number));
        }
        self.check_aligned()?;
        let mut doomed = numbers.iter().copied().peekable();
        let mut kept = Vec::with_capacity(usize::from(self.item_count()));
        let mut next = 1;
        for number in 1..=self.item_count() {
            let id = self.check_index_item(number)?;
            if doomed.next_if_eq(&number).is_none() {
                kept.push(Kept { number: next, id });
                next += 1;
            }
        }
        if doomed.next().is_some() {
            return Err(PageError("incorrect line pointers to delete"));
        }
        for item in &kept {
            self.set_item_id(item.number, item.id);
        }
        self.set_lower(HEADER_BYTES + kept.len() * 4);
        self.compactify(&kept)
    }

    /// Replaces a tuple where it is, moving those before it if the length changes
    /// (`PageIndexTupleOverwrite`).
    pub fn overwrite_index_tuple(&mut self, number: u16, tuple: &[u8]) -> Result<(), PageError> {
        let id = self.check_index_item(number)?;
        let (old, new) = (align(id.length()), align(tuple.len()));
        if new > old + self.upper().saturating_sub(self.lower()) {
            return Err(PageError("no room for the new tuple"));
        }
        let mut offset = id.offset();
        if old != new {
            let upper = self.upper() + old - new;
            self.move_bytes(self.upper(), offset, upper)?;
            self.set_upper(upper);
            for other in 1..=self.item_count() {
                let moved = self.item_id(other)?;
                if moved.has_storage() && moved.offset() <= id.offset() {
                    self.set_item_id(other, moved.with_offset(moved.offset() + old - new));
                }
            }
            offset = offset + old - new;
        }
        self.set_item_id(number, id.with_offset(offset).with_length(tuple.len()));
        self.write(offset, tuple)
    }

    /// Moves everything before a removed tuple up by its size.
    fn close_gap(&mut self, offset: usize, size: usize) -> Result<(), PageError> {
        let upper = self.upper();
        self.move_bytes(upper, offset, upper + size)?;
        self.set_upper(upper + size);
        for number in 1..=self.item_count() {
            let id = self.item_id(number)?;
            if id.has_storage() && id.offset() <= offset {
                self.set_item_id(number, id.with_offset(id.offset() + size));
            }
        }
        Ok(())
    }

    /// Packs tuples to the end of the page in the order given (`compactify_tuples`).
    fn compactify(&mut self, kept: &[Kept]) -> Result<(), PageError> {
        let total: usize = kept.iter().map(|item| item.bytes()).sum();
        let special = self.special();
        if total > special.saturating_sub(self.lower()) {
            return Err(PageError("corrupted item lengths"));
        }
        let (in_place, end) = self.already_packed(kept);
        let (_stays, moves) = kept.split_at_checked(in_place).unwrap_or_default();
        let descending = kept.is_sorted_by(|one, next| next.end() <= one.id.offset());
        if descending {
            self.close_up(moves, end)?;
        } else {
            self.rebuild(moves, total - (special - end), end)?;
        }
        let mut upper = end;
        for item in moves {
            upper -= item.bytes();
            self.set_item_id(item.number, item.id.with_offset(upper));
        }
        self.set_upper(upper);
        Ok(())
    }

    /// Moves tuples that stand in their order already, neighbours at once, up to `end`.
    fn close_up(&mut self, moves: &[Kept], end: usize) -> Result<(), PageError> {
        let mut upper = end;
        for run in moves.chunk_by(|one, next| next.end() == one.id.offset()) {
            let ends = run.first().zip(run.last());
            let Some((first, last)) = ends else { continue };
            let (from, until) = (last.id.offset(), first.end());
            upper -= until - from;
            self.move_bytes(from, until, upper)?;
        }
        Ok(())
    }

    /// Puts tuples into another order: `total` bytes up to `end`.
    fn rebuild(&mut self, moves: &[Kept], total: usize, end: usize) -> Result<(), PageError> {
        let mut tuples = Vec::with_capacity(total);
        for item in moves.iter().rev() {
            let tuple = self.bytes.get(item.id.offset()..item.end());
            tuples.extend_from_slice(tuple.ok_or(PageError("corrupted line pointer"))?);
        }
        self.write(end - total, &tuples)
    }

    /// How many of the first tuples stand where they are to go, and where the others are to end.
    fn already_packed(&self, kept: &[Kept]) -> (usize, usize) {
        let mut end = self.special();
        let packed = |item: &&Kept| {
            let there = item.end() == end;
            end = if there { item.id.offset() } else { end };
            there
        };
        (kept.iter().take_while(packed).count(), end)
    }

    fn check_aligned(&self) -> Result<(), PageError> {
        self.check_pointers()?;
        if self.special().is_multiple_of(8) {
            return Ok(());
        }
        Err(PageError("corrupted page pointers"))
    }

    fn check_index_item(&self, number: u16) -> Result<ItemId, PageError> {
        self.check_aligned()?;
        let id = self.item_id(number)?;
        let end = id.offset() + id.length();
        let sane = id.has_storage()
            && id.offset() >= self.upper()
            && end <= self.special()
            && id.offset().is_multiple_of(8);
        if sane { Ok(id) } else { Err(PageError("corrupted line pointer")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::PAGE_BYTES;

    /// A page with tuples `a`, `bb`, `ccc`, … of 8, 16, 24 … bytes.
    fn filled(count: u8) -> [u8; PAGE_BYTES] {
        let mut bytes = [0; PAGE_BYTES];
        let mut page = Page::new(&mut bytes);
        page.init(16);
        for number in 1..=count {
            page.append_item(&vec![b'a' + number - 1; usize::from(number) * 8]).unwrap();
        }
        bytes
    }

    fn shown(page: &Page<'_>) -> String {
        let item = |number| match page.item(number) {
            Ok(tuple) => {
                let id = page.item_id(number).unwrap();
                format!("{}{}@{}", char::from(tuple[0]), tuple.len(), PAGE_BYTES - id.offset())
            }
            Err(_) => "-".to_owned(),
        };
        (1..=page.item_count()).map(item).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn deleting_closes_the_gap() {
        let mut bytes = filled(4);
        let mut page = Page::new(&mut bytes);
        assert_eq!(shown(&page), "a8@24 b16@40 c24@64 d32@96");
        page.delete_index_tuple(2).unwrap();
        assert_eq!(shown(&page), "a8@24 c24@48 d32@80");
        page.delete_index_tuple_in_place(1).unwrap();
        assert_eq!(shown(&page), "- c24@40 d32@72");
        assert!(page.delete_index_tuple(9).is_err());
    }

    #[test]
    fn deleting_many_packs_in_line_pointer_order() {
        let mut bytes = filled(5);
        let mut page = Page::new(&mut bytes);
        page.delete_index_tuples(&[1, 3, 4]).unwrap();
        assert_eq!(shown(&page), "b16@32 e40@72");
        assert!(Page::new(&mut filled(5)).delete_index_tuples(&[4, 3, 1]).is_err());
    }

    #[test]
    fn overwriting_moves_what_stands_before() {
        let mut bytes = filled(3);
        let mut page = Page::new(&mut bytes);
        page.overwrite_index_tuple(2, &[b'x'; 31]).unwrap();
        assert_eq!(shown(&page), "a8@24 x31@56 c24@80");
        page.overwrite_index_tuple(2, &[b'y'; 8]).unwrap();
        assert_eq!(shown(&page), "a8@24 y8@32 c24@56");
    }

    #[test]
    fn repairing_drops_unused_pointers_at_the_end() {
        let mut bytes = filled(5);
        let mut page = Page::new(&mut bytes);
        for number in [2, 4, 5] {
            page.set_item_id(number, ItemId::UNUSED);
        }
        page.repair_fragmentation(true).unwrap();
        assert_eq!(shown(&page), "a8@24 - c24@48");
        assert_eq!(page.flags(), HAS_FREE_LINES);
        page.set_item_id(3, ItemId::UNUSED);
        page.set_item_id(1, ItemId::UNUSED);
        page.truncate_line_pointers().unwrap();
        assert_eq!((page.item_count(), page.flags()), (1, HAS_FREE_LINES));
    }
}
