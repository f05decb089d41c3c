//! A block of a layer: entries one after another, as bytes and as a table.
//!
//! An entry that has its key or chunk in common with the one before it in the block leaves it out.

use crate::entry::Entry;
use crate::key::{Chunk, Key};
use crate::version::Version;

/// Bits of an entry's first byte. The others are zero.
const WHOLE: u8 = 1;
/// A block number follows, in the chunk of the entry before.
const BLOCK_FOLLOWS: u8 = 2;
/// A key follows. Without either bit the key is that of the entry before.
const KEY_FOLLOWS: u8 = 4;

/// Appends an entry's bytes to a block, after the entry of key `before`.
pub(crate) fn write(out: &mut Vec<u8>, before: Option<Key>, entry: &Entry<'_>) {
    let whole = if entry.whole { WHOLE } else { 0 };
    match before {
        Some(key) if key == entry.key => out.push(whole),
        Some(key) if key.chunk == entry.key.chunk => {
            out.push(whole | BLOCK_FOLLOWS);
            out.extend_from_slice(&entry.key.block.to_be_bytes());
        }
        _ => {
            out.push(whole | KEY_FOLLOWS);
            out.extend_from_slice(&entry.key.to_bytes());
        }
    }
    out.extend_from_slice(&entry.version.0.to_be_bytes());
    let length = u32::try_from(entry.payload.len()).expect("the writer refuses longer payloads");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(entry.payload);
}

/// A block, decompressed and understood.
#[derive(Debug)]
pub struct Block {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    key: Key,
    version: Version,
    whole: bool,
    start: u32,
    length: u32,
}

impl Block {
    /// `None` if the bytes are no entries in order of key and version.
    pub fn parse(bytes: Vec<u8>) -> Option<Block> {
        let mut slots: Vec<Slot> = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let before = slots.last();
            let slot = take(&mut rest, bytes.len(), before.map(|slot| slot.key))?;
            if before.is_some_and(|before| (before.key, before.version) >= (slot.key, slot.version))
            {
                return None;
            }
            slots.push(slot);
        }
        Some(Block { bytes, slots })
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Memory that the block takes.
    pub fn weight(&self) -> usize {
        self.bytes.len() + self.slots.len() * size_of::<Slot>()
    }

    /// How many entries lie at or before a version of a key.
    pub fn rank(&self, key: Key, version: Version) -> usize {
        self.slots.partition_point(|slot| (slot.key, slot.version) <= (key, version))
    }

    /// How many entries have smaller keys.
    pub fn rank_of(&self, key: Key) -> usize {
        self.slots.partition_point(|slot| slot.key < key)
    }

    pub fn get(&self, number: usize) -> Option<Entry<'_>> {
        let slot = self.slots.get(number)?;
        let payload = &self.bytes[slot.start as usize..][..slot.length as usize];
        Some(Entry { key: slot.key, version: slot.version, whole: slot.whole, payload })
    }
}

fn take(rest: &mut &[u8], total: usize, before: Option<Key>) -> Option<Slot> {
    let (&flags, mut input) = rest.split_first()?;
    let key = match flags & !WHOLE {
        0 => before?,
        BLOCK_FOLLOWS => {
            Key { chunk: before?.chunk, block: u32::from_be_bytes(array(&mut input)?) }
        }
        KEY_FOLLOWS => {
            let chunk = Chunk(array(&mut input)?);
            Key { chunk, block: u32::from_be_bytes(array(&mut input)?) }
        }
        _ => return None,
    };
    let version = Version(u64::from_be_bytes(array(&mut input)?));
    let length = u32::from_be_bytes(array(&mut input)?);
    let start = u32::try_from(total - input.len()).ok()?;
    *rest = input.get(length as usize..)?;
    Some(Slot { key, version, whole: flags & WHOLE != 0, start, length })
}

fn array<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, rest) = input.split_first_chunk()?;
    *input = rest;
    Some(*bytes)
}
