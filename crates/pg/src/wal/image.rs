//! Full-page images: with or without a hole, plain or compressed.

use crate::page::{PAGE_BYTES, PageBytes};

/// How an image's bytes are compressed (`wal_compression`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Pglz,
    Lz4,
    Zstd,
}

/// A page as it was after the record (with the LSN still to be set), its unused middle left out.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// As they are in the record.
    pub bytes: &'a [u8],
    /// Bytes of `bytes`.
    pub length: u16,
    pub hole_offset: u16,
    pub hole_length: u16,
    pub compression: Compression,
    /// Redo restores it; otherwise it only serves comparison (`wal_consistency_checking`).
    pub apply: bool,
}

impl Image<'_> {
    /// Bytes of its header: length, where its hole is, flags; if it is compressed, how long that is.
    pub(crate) fn header_bytes(&self) -> usize {
        let has_length = self.compression != Compression::None && self.hole_length > 0;
        if has_length { 7 } else { 5 }
    }

    /// Writes the page, its hole filled with zeros; says what is wrong if the bytes are not an image.
    pub fn restore(&self, page: &mut PageBytes) -> Result<(), &'static str> {
        let plain = PAGE_BYTES.checked_sub(usize::from(self.hole_length));
        let plain = plain.ok_or("hole longer than the page")?;
        if self.compression == Compression::None {
            if self.bytes.len() != plain {
                return Err("length of image and hole is not a page");
            }
            return self.spread(self.bytes, page).ok_or("hole outside the page");
        }
        // Without a hole it goes straight to its place.
        let mut buffer = [0; PAGE_BYTES];
        let target = if self.hole_length == 0 { &mut *page } else { &mut buffer };
        let target = target.get_mut(..plain).ok_or("hole longer than the page")?;
        let length =
            match self.compression {
                Compression::None => plain,
                Compression::Pglz => {
                    pglz_decompress(self.bytes, target)?;
                    plain
                }
                Compression::Lz4 => lz4_flex::block::decompress_into(self.bytes, target)
                    .map_err(|_inner| "not lz4")?,
                Compression::Zstd => zstd::bulk::decompress_to_buffer(self.bytes, target)
                    .map_err(|_inner| "not zstd")?,
            };
        if length != plain {
            return Err("wrong length after decompression");
        }
        if self.hole_length == 0 {
            return Ok(());
        }
        self.spread(buffer.get(..plain).unwrap_or_default(), page).ok_or("hole outside the page")
    }

    /// Writes the bytes of a page without its hole to their places, zeroes into the hole.
    fn spread(&self, plain: &[u8], page: &mut PageBytes) -> Option<()> {
        let hole = usize::from(self.hole_offset);
        let hole_end = hole + usize::from(self.hole_length);
        let (before, after) = plain.split_at_checked(hole)?;
        page.get_mut(..hole)?.copy_from_slice(before);
        page.get_mut(hole..hole_end)?.fill(0);
        let rest = page.get_mut(hole_end..).filter(|rest| rest.len() == after.len())?;
        rest.copy_from_slice(after);
        Some(())
    }
}

/// Postgres' own LZ compression (`common/pg_lzcompress.c`): control bytes of eight items, each a literal
/// byte or a match of 3 to 273 bytes up to 4095 bytes back. Fills `target` exactly.
pub fn pglz_decompress(source: &[u8], target: &mut [u8]) -> Result<(), &'static str> {
    let mut input = source.iter().copied();
    let mut filled = 0;
    while filled < target.len() {
        let control = input.next().ok_or("pglz data too short")?;
        for item in 0..8 {
            if filled == target.len() {
                break;
            }
            let first = input.next().ok_or("pglz data too short")?;
            if control & (1 << item) == 0 {
                *target.get_mut(filled).ok_or("pglz data too long")? = first;
                filled += 1;
                continue;
            }
            let second = input.next().ok_or("pglz data too short")?;
            let back = usize::from(first & 0xF0) << 4 | usize::from(second);
            let mut length = usize::from(first & 0x0F) + 3;
            if length == 18 {
                length += usize::from(input.next().ok_or("pglz data too short")?);
            }
            let from = filled.checked_sub(back).filter(|_| back > 0).ok_or("wrong pglz match")?;
            for step in 0..length.min(target.len() - filled) {
                let byte = *target.get(from + step).ok_or("wrong pglz match")?;
                *target.get_mut(filled + step).ok_or("wrong pglz match")? = byte;
            }
            filled += length.min(target.len() - filled);
        }
    }
    if input.next().is_some() { Err("pglz data too long") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decompresses_overlapping_matches() {
        // "abc", then a match 3 back of 9 bytes: control bits 0,0,0,1.
        let mut target = [0; 12];
        pglz_decompress(&[0b1000, b'a', b'b', b'c', 0x06, 3], &mut target).unwrap();
        assert_eq!(&target, b"abcabcabcabc");
        assert!(pglz_decompress(&[0b1000, b'a', b'b', b'c', 0x06, 4], &mut target).is_err());
        assert!(pglz_decompress(&[0b1000, b'a', b'b', b'c'], &mut target).is_err());
        assert!(pglz_decompress(&[0b1000, b'a', b'b', b'c', 0x06, 3, 0], &mut target).is_err());
    }

    #[test]
    fn restores_every_form_to_the_same_page() {
        let mut page = [7; PAGE_BYTES];
        page[100..1100].fill(0);
        let without_hole: Vec<u8> = [&page[..100], &page[1100..]].concat();
        let lz4 = lz4_flex::block::compress(&without_hole);
        let zstd = zstd::bulk::compress(&without_hole, 1).unwrap();
        for (bytes, compression) in [
            (&without_hole, Compression::None),
            (&lz4, Compression::Lz4),
            (&zstd, Compression::Zstd),
        ] {
            let image = Image {
                bytes,
                length: u16::try_from(bytes.len()).unwrap(),
                hole_offset: 100,
                hole_length: 1000,
                compression,
                apply: true,
            };
            let mut restored = [1; PAGE_BYTES];
            image.restore(&mut restored).unwrap();
            assert!(restored == page, "{compression:?}");
            let cut = Image { bytes: &bytes[..bytes.len() - 1], ..image };
            assert!(cut.restore(&mut restored).is_err(), "{compression:?}");
        }
    }
}
