//! What the store's keys mean: 16 bytes for a chunk, then the number of a block in it.
//!
//! A chunk is `[kind: 1][tablespace: 4][database: 4][relation: 4][fork: 1][segment: 2]`, big endian, so that keys sort as
//! relations do and a chunk holds what one file of 1 GiB holds. Other kinds leave the fields zero that they have no use for.

use pg::datadir::layout::SEGMENT_BLOCKS;
use pg::datadir::relation::{Fork, RelTag};
use pg::datadir::slru::Slru;
use pg::oid::Oid;
use storage::key::{Chunk, Key};

/// First byte of a chunk.
mod kind {
    pub(super) const RELATION: u8 = 1;
    pub(super) const SLRU: u8 = 2;
}

/// The key of a relation's block.
pub fn block(tag: RelTag, block: u32) -> Key {
    let mut chunk = [0; 16];
    chunk[0] = kind::RELATION;
    chunk[1..5].copy_from_slice(&tag.spcnode.0.to_be_bytes());
    chunk[5..9].copy_from_slice(&tag.dbnode.0.to_be_bytes());
    chunk[9..13].copy_from_slice(&tag.relnode.0.to_be_bytes());
    chunk[13] = tag.fork.number();
    // 2^32 blocks are 2^15 segments.
    let segment = (block / SEGMENT_BLOCKS) as u16;
    chunk[14..].copy_from_slice(&segment.to_be_bytes());
    Key { chunk: Chunk(chunk), block: block % SEGMENT_BLOCKS }
}

/// The key of a page of `pg_xact` and its like.
pub fn slru(slru: Slru, page: u32) -> Key {
    let mut chunk = [0; 16];
    chunk[0] = kind::SLRU;
    chunk[12] = slru_number(slru);
    Key { chunk: Chunk(chunk), block: page }
}

/// Which block a key stands for; `None` if it is not a relation's.
pub fn relation_block(key: Key) -> Option<(RelTag, u32)> {
    let chunk = key.chunk.0;
    if chunk[0] != kind::RELATION {
        return None;
    }
    let oid = |from: usize| Some(Oid(u32::from_be_bytes(*chunk[from..].first_chunk()?)));
    let tag = RelTag {
        spcnode: oid(1)?,
        dbnode: oid(5)?,
        relnode: oid(9)?,
        fork: Fork::from_number(chunk[13])?,
    };
    let segment = u32::from(u16::from_be_bytes([chunk[14], chunk[15]]));
    Some((tag, segment.checked_mul(SEGMENT_BLOCKS)?.checked_add(key.block)?))
}

/// Which page of which SLRU a key stands for.
pub fn slru_page(key: Key) -> Option<(Slru, u32)> {
    if key.chunk.0[0] != kind::SLRU {
        return None;
    }
    let slru = Slru::ALL.into_iter().find(|&slru| slru_number(slru) == key.chunk.0[12])?;
    Some((slru, key.block))
}

/// Numbers are for ever: they are in files.
const fn slru_number(slru: Slru) -> u8 {
    match slru {
        Slru::Clog => 1,
        Slru::MultiXactOffsets => 2,
        Slru::MultiXactMembers => 3,
        Slru::CommitTimestamps => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tags() -> impl Strategy<Value = RelTag> {
        (any::<u32>(), any::<u32>(), any::<u32>(), 0..4_u8).prop_map(|(spc, db, rel, fork)| {
            let fork = Fork::from_number(fork).expect("there are four forks");
            RelTag { spcnode: Oid(spc), dbnode: Oid(db), relnode: Oid(rel), fork }
        })
    }

    proptest! {
        #[test]
        fn a_block_comes_back_from_its_key(tag in tags(), number in 0..u32::MAX) {
            prop_assert_eq!(relation_block(block(tag, number)), Some((tag, number)));
            prop_assert_eq!(slru_page(block(tag, number)), None);
        }

        #[test]
        fn keys_sort_as_blocks_do(one in (tags(), 0..u32::MAX), other in (tags(), 0..u32::MAX)) {
            let key = |(tag, number): (RelTag, u32)| {
                let key = block(tag, number);
                (key.chunk, key.block)
            };
            prop_assert_eq!(key(one).cmp(&key(other)), one.cmp(&other));
        }
    }

    #[test]
    fn an_slru_page_comes_back_from_its_key() {
        for kind in Slru::ALL {
            assert_eq!(slru_page(slru(kind, 77)), Some((kind, 77)));
            assert_eq!(relation_block(slru(kind, 77)), None);
        }
    }
}
