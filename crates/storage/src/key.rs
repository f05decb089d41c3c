//! Keys: 16 bytes that name a chunk, and the number of a block in it. What they mean is the owner's business.

/// Things that are read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chunk(pub [u8; 16]);

/// Ordered by chunk, then block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub chunk: Chunk,
    pub block: u32,
}

impl Key {
    /// Bytes of a key in a file.
    pub const BYTES: usize = 20;
    pub const FIRST: Key = Key { chunk: Chunk([0; 16]), block: 0 };
    pub const LAST: Key = Key { chunk: Chunk([0xFF; 16]), block: u32::MAX };

    /// The key after this one; none comes after the last.
    pub fn next(self) -> Option<Key> {
        if let Some(block) = self.block.checked_add(1) {
            return Some(Key { block, ..self });
        }
        let chunk = u128::from_be_bytes(self.chunk.0).checked_add(1)?;
        Some(Key { chunk: Chunk(chunk.to_be_bytes()), block: 0 })
    }

    /// The key before this one; none comes before the first.
    pub fn previous(self) -> Option<Key> {
        if let Some(block) = self.block.checked_sub(1) {
            return Some(Key { block, ..self });
        }
        let chunk = u128::from_be_bytes(self.chunk.0).checked_sub(1)?;
        Some(Key { chunk: Chunk(chunk.to_be_bytes()), block: u32::MAX })
    }

    /// Big endian, so that bytes sort as keys do.
    pub fn to_bytes(self) -> [u8; Key::BYTES] {
        let mut bytes = [0; Key::BYTES];
        bytes[..16].copy_from_slice(&self.chunk.0);
        bytes[16..].copy_from_slice(&self.block.to_be_bytes());
        bytes
    }

    pub fn from_bytes(bytes: &[u8; Key::BYTES]) -> Key {
        let (chunk, block) = bytes.split_first_chunk().expect("20 bytes are more than 16");
        let block = block.first_chunk().expect("4 bytes are left");
        Key { chunk: Chunk(*chunk), block: u32::from_be_bytes(*block) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_sort_as_keys_do() {
        let key = |chunk: u8, block| Key { chunk: Chunk([chunk; 16]), block };
        let keys = [Key::FIRST, key(0, 1), key(0, 256), key(1, 0), key(2, 7), Key::LAST];
        assert!(keys.is_sorted());
        assert!(keys.map(Key::to_bytes).is_sorted());
        assert_eq!(keys.map(|key| Key::from_bytes(&key.to_bytes())), keys);
    }

    #[test]
    fn next_and_previous_are_neighbours() {
        let chunk = Chunk(7u128.to_be_bytes());
        for block in [0, 1, u32::MAX - 1, u32::MAX] {
            let key = Key { chunk, block };
            let next = key.next().expect("not the last");
            assert!(key < next);
            assert_eq!(next.previous(), Some(key));
        }
        assert_eq!((Key::FIRST.previous(), Key::LAST.next()), (None, None));
    }
}
