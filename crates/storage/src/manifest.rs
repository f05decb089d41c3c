//! The manifest of a timeline: which layers count, up to where they go, and the owner's catalog.
//!
//! One file, written anew as a whole and put in place atomically. What it does not name does not exist.

use std::io;
use std::path::Path;

use runtime::fs;

use crate::key::Key;
use crate::layer::LayerInfo;
use crate::version::Version;

/// Name of the file in the timeline's directory.
pub const FILE_NAME: &str = "manifest";
/// At the beginning of the file; then the CRC-32C of what follows.
const MAGIC: [u8; 8] = *b"HWDMANI1";

/// Everything that counts of one timeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Everything up to here is in layers.
    pub flushed_through: Version,
    /// The next file gets this number.
    pub next_number: u64,
    /// The file with the owner's catalog, and its checksum.
    pub catalog: Option<(u64, u32)>,
    pub layers: Vec<LayerInfo>,
}

impl Manifest {
    /// Reads the manifest in a timeline's directory.
    pub async fn open(directory: &Path) -> io::Result<Manifest> {
        let path = directory.join(FILE_NAME);
        let bytes = fs::read(&path).await?;
        Manifest::from_bytes(&bytes).ok_or_else(|| {
            let message = format!("manifest \"{}\" is damaged", path.display());
            io::Error::new(io::ErrorKind::InvalidData, message)
        })
    }

    /// Makes this the timeline's manifest, durably.
    pub async fn write(&self, directory: &Path) -> io::Result<()> {
        fs::write_atomic(directory.join(FILE_NAME), self.to_bytes()).await
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        let number = |body: &mut Vec<u8>, value: u64| body.extend_from_slice(&value.to_be_bytes());
        number(&mut body, self.flushed_through.0);
        number(&mut body, self.next_number);
        let (file, checksum) = self.catalog.unwrap_or((u64::MAX, 0));
        number(&mut body, file);
        number(&mut body, u64::from(checksum));
        number(&mut body, self.layers.len() as u64);
        for layer in &self.layers {
            body.extend_from_slice(&layer.first.to_bytes());
            body.extend_from_slice(&layer.last.to_bytes());
            for value in [
                layer.number,
                layer.oldest.0,
                layer.newest.0,
                layer.bytes,
                layer.raw_bytes,
                layer.entries,
            ] {
                number(&mut body, value);
            }
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&crc32c::crc32c(&body).to_be_bytes());
        bytes.append(&mut body);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Manifest> {
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (checksum, body) = rest.split_first_chunk()?;
        if *magic != MAGIC || u32::from_be_bytes(*checksum) != crc32c::crc32c(body) {
            return None;
        }
        let mut input = body;
        let number = |input: &mut &[u8]| {
            let (value, rest) = input.split_first_chunk()?;
            *input = rest;
            Some(u64::from_be_bytes(*value))
        };
        let flushed_through = Version(number(&mut input)?);
        let next_number = number(&mut input)?;
        let (file, checksum) = (number(&mut input)?, u32::try_from(number(&mut input)?).ok()?);
        let catalog = (file != u64::MAX).then_some((file, checksum));
        let count = number(&mut input)?;
        let mut layers = Vec::new();
        for _ in 0..count {
            let (first, rest) = input.split_first_chunk()?;
            let (last, rest) = rest.split_first_chunk()?;
            input = rest;
            layers.push(LayerInfo {
                first: Key::from_bytes(first),
                last: Key::from_bytes(last),
                number: number(&mut input)?,
                oldest: Version(number(&mut input)?),
                newest: Version(number(&mut input)?),
                bytes: number(&mut input)?,
                raw_bytes: number(&mut input)?,
                entries: number(&mut input)?,
            });
        }
        input.is_empty().then_some(Manifest { flushed_through, next_number, catalog, layers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_byte_changed_or_cut_is_refused() {
        let layer = LayerInfo {
            number: 3,
            first: Key::FIRST,
            last: Key::LAST,
            oldest: Version(7),
            newest: Version(9),
            bytes: 100,
            raw_bytes: 300,
            entries: 5,
        };
        let manifest = Manifest {
            flushed_through: Version(9),
            next_number: 5,
            catalog: Some((4, 77)),
            layers: vec![layer, layer],
        };
        let bytes = manifest.to_bytes();
        assert_eq!(Manifest::from_bytes(&bytes), Some(manifest));
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            assert_eq!(Manifest::from_bytes(&changed), None, "byte {place}");
            assert_eq!(Manifest::from_bytes(&bytes[..place]), None, "cut {place}");
        }
    }
}
