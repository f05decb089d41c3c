//! Compressed posting lists of posting tree leaves (`access/gin/ginpostinglist.c`, `gindatapage.c`).
//!
//! A leaf holds segments: first item pointer (6 bytes), length (2), then the differences between
//! neighbours as numbers of seven bits a byte, low bits first, padded to two bytes.

use super::super::{Fault, field};
use super::{COMPRESSED, DATA_AT, LEAF, change_flags, count, flags, set_count};
use crate::page::Page;
use crate::page::tuple::{item_pointer, read_item_pointer};
use crate::wal::cursor::{Cursor, u16_at};

const TID_BYTES: usize = 6;
const SEGMENT_HEADER_BYTES: usize = 8;
/// Bits of a line pointer number within an encoded item pointer.
const NUMBER_BITS: u32 = 11;
/// Most bytes of an encoded difference.
const VARBYTE_MAX: usize = 7;

const DELETE: u8 = 1;
const INSERT: u8 = 2;
const REPLACE: u8 = 3;
const ADD_ITEMS: u8 = 4;

/// Replaces a leaf's segments.
pub(super) fn write_lists(page: &mut Page<'_>, lists: &[u8]) -> Result<(), Fault> {
    if DATA_AT + lists.len() > page.special() {
        return Err(Fault::Page("no room on the posting tree page"));
    }
    page.write(DATA_AT, lists)?;
    page.set_lower(DATA_AT + lists.len());
    Ok(())
}

/// Carries out a record's actions on the segments, in order of segments (`ginRedoRecompress`).
pub(super) fn recompress(page: &mut Page<'_>, mut data: Cursor<'_>) -> Result<(), Fault> {
    if flags(page) & LEAF == 0 {
        return Err(Fault::Page("not a leaf of a posting tree"));
    }
    if flags(page) & COMPRESSED == 0 {
        compress_old_format(page)?;
    }
    let old = page.bytes().get(DATA_AT..page.lower());
    let old = old.ok_or(Fault::Page("corrupted page pointers"))?.to_vec();
    let mut segments = Cursor::new(&old);
    let mut next_segment = 0;
    let mut new = Vec::with_capacity(old.len() + 64);
    for _each in 0..field(data.u16())? {
        let segment = field(data.u8())?;
        let action = field(data.u8())?;
        while next_segment < segment {
            new.extend_from_slice(take_segment(&mut segments)?);
            next_segment += 1;
        }
        match action {
            INSERT => {
                new.extend_from_slice(take_segment(&mut data)?);
                continue;
            }
            DELETE => {
                take_segment(&mut segments)?;
            }
            REPLACE => {
                new.extend_from_slice(take_segment(&mut data)?);
                take_segment(&mut segments)?;
            }
            ADD_ITEMS => {
                let added = usize::from(field(data.u16())?);
                let mut items = decode(take_segment(&mut segments)?)?;
                for tid in field(data.bytes(added * TID_BYTES))?.chunks_exact(TID_BYTES) {
                    items.push(to_number(tid)?);
                }
                items.sort_unstable();
                items.dedup();
                new.extend_from_slice(&encode(&items)?);
            }
            _ => return Err(Fault::Record("unexpected action on a posting list")),
        }
        next_segment = next_segment.saturating_add(1);
    }
    new.extend_from_slice(segments.rest());
    write_lists(page, &new)
}

/// Leaves from before 9.4 have plain item pointers.
fn compress_old_format(page: &mut Page<'_>) -> Result<(), Fault> {
    let length = usize::from(count(page)) * TID_BYTES;
    let items = page.bytes().get(DATA_AT..DATA_AT + length);
    let items = items.ok_or(Fault::Page("too many items"))?.chunks_exact(TID_BYTES);
    let items: Vec<u64> = items.map(to_number).collect::<Result<_, _>>()?;
    let list = if items.is_empty() { Vec::new() } else { encode(&items)? };
    write_lists(page, &list)?;
    change_flags(page, |flags| flags | COMPRESSED);
    set_count(page, 0);
    Ok(())
}

fn take_segment<'s>(cursor: &mut Cursor<'s>) -> Result<&'s [u8], Fault> {
    let length = usize::from(field(u16_at(cursor.rest(), TID_BYTES))?);
    field(cursor.bytes(SEGMENT_HEADER_BYTES + length.next_multiple_of(2)))
}

fn to_number(tid: &[u8]) -> Result<u64, Fault> {
    let (block, number) = field(read_item_pointer(tid))?;
    Ok(u64::from(block) << NUMBER_BITS | u64::from(number))
}

fn decode(segment: &[u8]) -> Result<Vec<u64>, Fault> {
    let mut cursor = Cursor::new(segment);
    let mut value = to_number(field(cursor.bytes(TID_BYTES))?)?;
    let length = usize::from(field(cursor.u16())?);
    let mut bytes = Cursor::new(field(cursor.bytes(length))?);
    let mut items = vec![value];
    while !bytes.is_empty() {
        let mut difference = 0;
        for place in 0..VARBYTE_MAX {
            let byte = field(bytes.u8())?;
            difference |= u64::from(byte & 0x7F) << (place * 7);
            if byte & 0x80 == 0 {
                break;
            }
        }
        value = value.wrapping_add(difference);
        items.push(value);
    }
    Ok(items)
}

/// The items, ascending, as one segment.
fn encode(items: &[u64]) -> Result<Vec<u8>, Fault> {
    let first = field(items.first().copied())?;
    let mut bytes = Vec::new();
    for pair in items.windows(2) {
        if let &[previous, next] = pair {
            let mut difference = next.wrapping_sub(previous);
            while difference > 0x7F {
                bytes.push(0x80 | difference.to_le_bytes()[0]);
                difference >>= 7;
            }
            bytes.push(difference.to_le_bytes()[0]);
        }
    }
    let too_long = Fault::Page("posting list too long");
    let length = u16::try_from(bytes.len()).map_err(|_longer| too_long)?;
    let block = u32::try_from(first >> NUMBER_BITS).map_err(|_larger| too_long)?;
    let [low, high, ..] = first.to_le_bytes();
    let number = u16::from_le_bytes([low, high]) & ((1 << NUMBER_BITS) - 1);
    let mut segment = item_pointer(block, number).to_vec();
    segment.extend_from_slice(&length.to_le_bytes());
    segment.extend_from_slice(&bytes);
    segment.resize(segment.len().next_multiple_of(2), 0);
    Ok(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_survive_coding() {
        let items: Vec<u64> = vec![2049, 2050, 2178, 4_000_000, 0xFFFF_FFFE << 11 | 3];
        let segment = encode(&items).unwrap();
        assert_eq!(&segment[..8], &[0, 0, 1, 0, 1, 0, 14, 0]);
        assert_eq!(&segment[8..11], &[1, 0x80, 1]);
        assert_eq!(decode(&segment).unwrap(), items);
        assert_eq!(segment.len() % 2, 0);
    }
}
