//! The visibility map: two bits per heap block (`access/visibilitymap.h`).

use crate::page::header::HEADER_BYTES;
use crate::page::{PAGE_BYTES, PageBytes};

pub const ALL_VISIBLE: u8 = 0x01;
pub const ALL_FROZEN: u8 = 0x02;
/// Both.
pub const VALID_BITS: u8 = 0x03;

/// Heap blocks of one map page: four to a byte, behind the page header.
pub const HEAP_BLOCKS_PER_PAGE: u32 = 32_672;
const _: () = assert!((PAGE_BYTES - HEADER_BYTES) * 4 == HEAP_BLOCKS_PER_PAGE as usize);

/// The map block that holds the bits of a heap block.
pub const fn map_block(heap_block: u32) -> u32 {
    heap_block / HEAP_BLOCKS_PER_PAGE
}

const fn place(heap_block: u32) -> (usize, u32) {
    let in_page = heap_block % HEAP_BLOCKS_PER_PAGE;
    (HEADER_BYTES + (in_page / 4) as usize, in_page % 4 * 2)
}

/// The bits of a heap block.
pub fn status(page: &PageBytes, heap_block: u32) -> u8 {
    let (byte, shift) = place(heap_block);
    page.get(byte).map_or(0, |byte| byte >> shift & VALID_BITS)
}

/// Sets bits; answers whether any changed.
pub fn set(page: &mut PageBytes, heap_block: u32, bits: u8) -> bool {
    change(page, heap_block, |old| old | bits)
}

/// Clears bits; answers whether any changed.
pub fn clear(page: &mut PageBytes, heap_block: u32, bits: u8) -> bool {
    change(page, heap_block, |old| old & !bits)
}

/// Clears the bits of this heap block and all later ones on the page: what truncation does to the last
/// map page that stays (`visibilitymap_prepare_truncate`).
pub fn clear_from(page: &mut PageBytes, heap_block: u32) {
    let (byte, shift) = place(heap_block);
    if let Some(rest) = page.get_mut(byte + 1..) {
        rest.fill(0);
    }
    if let Some(byte) = page.get_mut(byte) {
        *byte &= (1 << shift) - 1;
    }
}

fn change(page: &mut PageBytes, heap_block: u32, new: impl Fn(u8) -> u8) -> bool {
    let (byte, shift) = place(heap_block);
    let Some(byte) = page.get_mut(byte) else { return false };
    let old = *byte >> shift & VALID_BITS;
    *byte = *byte & !(VALID_BITS << shift) | (new(old) & VALID_BITS) << shift;
    *byte >> shift & VALID_BITS != old
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_two_bits_per_heap_block() {
        let mut page = [0; PAGE_BYTES];
        assert!(set(&mut page, 5, VALID_BITS));
        assert!(!set(&mut page, 5, ALL_VISIBLE));
        assert_eq!(page[25], 0b1100);
        assert!(clear(&mut page, 5, ALL_FROZEN));
        assert_eq!(status(&page, 5), ALL_VISIBLE);
        assert_eq!((map_block(32_671), map_block(32_672)), (0, 1));
        for block in 0..12 {
            set(&mut page, block, VALID_BITS);
        }
        clear_from(&mut page, 6);
        assert_eq!(page[24..28], [0xFF, 0x0F, 0, 0]);
    }
}
