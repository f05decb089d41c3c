//! The first difference of two pages, explained.

use std::fmt;

use crate::page::header::HEADER_BYTES;
use crate::page::item::ItemId;
use crate::page::{PAGE_BYTES, PageBytes};
use crate::wal::cursor::{u16_at, u32_at};

/// Where two pages differ first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    pub offset: usize,
    pub place: Place,
    /// The bytes at `offset` of the first and the second page.
    pub bytes: (u8, u8),
    /// How many bytes differ in all.
    pub count: usize,
}

/// What stands there, going by the first page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Header(&'static str),
    LinePointer(u16),
    /// Byte `byte` of the tuple of a line pointer.
    Tuple {
        number: u16,
        byte: usize,
    },
    /// Behind the tuple of a line pointer, up to the next multiple of eight.
    Padding(u16),
    /// Between line pointers and tuples.
    Unused,
    /// Byte of the access method's own space.
    Special(usize),
    Other,
}

/// `None` if the pages are equal.
pub fn diff(one: &PageBytes, other: &PageBytes) -> Option<Difference> {
    if one == other {
        return None; // the common case, and fast
    }
    let mut differing = one.iter().zip(other).enumerate().filter(|(_, (a, b))| a != b);
    let (offset, (&a, &b)) = differing.next()?;
    let count = 1 + differing.count();
    Some(Difference { offset, place: place(one, offset), bytes: (a, b), count })
}

fn place(page: &PageBytes, offset: usize) -> Place {
    if offset < HEADER_BYTES {
        return Place::Header(match offset {
            0..8 => "pd_lsn",
            8..10 => "pd_checksum",
            10..12 => "pd_flags",
            12..14 => "pd_lower",
            14..16 => "pd_upper",
            16..18 => "pd_special",
            18..20 => "pd_pagesize_version",
            _ => "pd_prune_xid",
        });
    }
    let bound = |at| u16_at(page, at).map_or(0, usize::from);
    let (lower, upper, special) = (bound(12), bound(14), bound(16));
    if !(HEADER_BYTES <= lower && lower <= upper && upper <= special && special <= PAGE_BYTES) {
        return Place::Other;
    }
    if offset < lower {
        return Place::LinePointer(number((offset - HEADER_BYTES) / 4));
    }
    if offset < upper {
        return Place::Unused;
    }
    if offset >= special {
        return Place::Special(offset - special);
    }
    for index in 0..(lower - HEADER_BYTES) / 4 {
        let id = ItemId(u32_at(page, HEADER_BYTES + index * 4).unwrap_or(0));
        let end = id.offset() + id.length();
        if id.has_storage() && (id.offset()..end).contains(&offset) {
            return Place::Tuple { number: number(index), byte: offset - id.offset() };
        }
        if id.has_storage() && (end..end.next_multiple_of(8)).contains(&offset) {
            return Place::Padding(number(index));
        }
    }
    Place::Other
}

fn number(index: usize) -> u16 {
    u16::try_from(index + 1).unwrap_or(u16::MAX)
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Header(name) => f.write_str(name)?,
            Place::LinePointer(number) => write!(f, "line pointer {number}")?,
            Place::Tuple { number, byte } => write!(f, "tuple {number} byte {byte}")?,
            Place::Padding(number) => write!(f, "padding behind tuple {number}")?,
            Place::Unused => f.write_str("unused space")?,
            Place::Special(byte) => write!(f, "special space byte {byte}")?,
            Place::Other => f.write_str("no tuple")?,
        }
        let Difference { offset, bytes: (a, b), count, .. } = self;
        write!(f, " at offset {offset}: {a:02X} against {b:02X}, {count} bytes differ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::Page;

    #[test]
    fn names_what_differs() {
        let mut one = [0; PAGE_BYTES];
        let mut page = Page::new(&mut one);
        page.init(16);
        page.append_item(b"first tuple").unwrap();
        page.append_item(b"second").unwrap();
        assert_eq!(diff(&one, &one), None);
        for (offset, text) in [
            (10, "pd_flags at offset 10"),
            (29, "line pointer 2 at offset 29"),
            (40, "unused space at offset 40"),
            (8161, "tuple 1 byte 1 at offset 8161"),
            (8153, "tuple 2 byte 1 at offset 8153"),
            (8159, "padding behind tuple 2 at offset 8159"),
            (8180, "special space byte 4 at offset 8180"),
        ] {
            let mut other = one;
            other[offset] ^= 0xFF;
            other[8191] ^= 0xFF;
            let shown = diff(&one, &other).unwrap().to_string();
            assert!(shown.starts_with(text), "{shown}");
            assert!(shown.ends_with("2 bytes differ"), "{shown}");
        }
    }
}
