//! The end of a layer: where its blocks are, and the footer that says what the layer is.

use crate::key::Key;
use crate::layer::{Kind, LayerInfo, Place};
use crate::version::Version;

/// Before the checksum at the end of every layer file.
const MAGIC: [u8; 8] = *b"HWDLAYER";
pub(crate) const FORMAT: u32 = 1;
/// Index offset and length, entries, raw bytes, number, oldest, newest: 8 each; first and last key; kind; index checksum,
/// format: 4 each; magic; checksum.
pub(crate) const FOOTER_BYTES: usize = 7 * 8 + 2 * Key::BYTES + 1 + 2 * 4 + 8 + 4;
/// First and last key with version, offset (8), length, raw length, checksum (4 each).
pub(crate) const PLACE_BYTES: usize = 2 * (Key::BYTES + 8) + 8 + 3 * 4;

/// One block of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockPlace {
    pub(crate) first: (Key, Version),
    pub(crate) last: (Key, Version),
    pub(crate) offset: u64,
    pub(crate) length: u32,
    pub(crate) raw_length: u32,
    pub(crate) checksum: u32,
}

impl BlockPlace {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        for (key, version) in [self.first, self.last] {
            out.extend_from_slice(&key.to_bytes());
            out.extend_from_slice(&version.0.to_be_bytes());
        }
        out.extend_from_slice(&self.offset.to_be_bytes());
        for number in [self.length, self.raw_length, self.checksum] {
            out.extend_from_slice(&number.to_be_bytes());
        }
    }

    pub(crate) fn read(bytes: &[u8]) -> Option<BlockPlace> {
        let mut input = Input(bytes);
        let place = BlockPlace {
            first: (input.key()?, Version(input.u64()?)),
            last: (input.key()?, Version(input.u64()?)),
            offset: input.u64()?,
            length: input.u32()?,
            raw_length: input.u32()?,
            checksum: input.u32()?,
        };
        input.0.is_empty().then_some(place)
    }
}

/// The fixed end of a layer file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) index_offset: u64,
    pub(crate) index_length: u64,
    pub(crate) index_checksum: u32,
    /// What the file says it is. `bytes` and `place` are not in it.
    pub(crate) info: LayerInfo,
}

/// Why some bytes are no footer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FooterError {
    Invalid,
    UnknownFormat(u32),
}

impl Footer {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let info = &self.info;
        for number in [
            self.index_offset,
            self.index_length,
            info.entries,
            info.raw_bytes,
            info.number,
            info.oldest.0,
            info.newest.0,
        ] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(&info.first.to_bytes());
        out.extend_from_slice(&info.last.to_bytes());
        out.push(info.kind.to_byte());
        out.extend_from_slice(&self.index_checksum.to_be_bytes());
        out.extend_from_slice(&FORMAT.to_be_bytes());
        out.extend_from_slice(&MAGIC);
        let checksum = crc32c::crc32c(&out[start..]);
        out.extend_from_slice(&checksum.to_be_bytes());
    }

    pub(crate) fn read(bytes: &[u8]) -> Result<Footer, FooterError> {
        let (fields, checksum) = bytes.split_last_chunk::<4>().ok_or(FooterError::Invalid)?;
        if *checksum != crc32c::crc32c(fields).to_be_bytes() || !fields.ends_with(&MAGIC) {
            return Err(FooterError::Invalid);
        }
        Footer::fields(fields).ok_or(FooterError::Invalid)?
    }

    fn fields(bytes: &[u8]) -> Option<Result<Footer, FooterError>> {
        let (_, format) = bytes[..bytes.len() - MAGIC.len()].split_last_chunk::<4>()?;
        let format = u32::from_be_bytes(*format);
        if format != FORMAT {
            return Some(Err(FooterError::UnknownFormat(format)));
        }
        let mut input = Input(bytes);
        let (index_offset, index_length) = (input.u64()?, input.u64()?);
        let (entries, raw_bytes, number) = (input.u64()?, input.u64()?, input.u64()?);
        let (oldest, newest) = (Version(input.u64()?), Version(input.u64()?));
        let (first, last) = (input.key()?, input.key()?);
        let kind = Kind::from_byte(input.u8()?)?;
        let index_checksum = input.u32()?;
        let place = Place::LOCAL;
        let info = LayerInfo {
            number,
            kind,
            place,
            first,
            last,
            oldest,
            newest,
            bytes: 0,
            raw_bytes,
            entries,
        };
        Some(Ok(Footer { index_offset, index_length, index_checksum, info }))
    }
}

/// Bytes that are read from the front.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl Input<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn key(&mut self) -> Option<Key> {
        self.array().map(|bytes| Key::from_bytes(&bytes))
    }
}
