//! What the store's keys mean: 16 bytes for a chunk, then the number of a block in it, or of a thing of that kind.
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
    pub(super) const RELMAP: u8 = 3;
    pub(super) const TWO_PHASE: u8 = 4;
    pub(super) const ORIGINS: u8 = 5;
    pub(super) const DATABASE: u8 = 6;
    pub(super) const TABLESPACE: u8 = 7;
    pub(super) const FILE: u8 = 8;
    /// Behind all others: it is written last.
    pub(super) const SNAPSHOT: u8 = 0xF0;
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

/// The key of any value beside relation pages.
pub fn value(key: pg::state::Key) -> Key {
    let (kind, tablespace, database, block) = match key {
        pg::state::Key::Slru(log, page) => return slru(log, page),
        pg::state::Key::Relmap { tablespace, database } => (kind::RELMAP, tablespace, database, 0),
        pg::state::Key::TwoPhase(xid) => (kind::TWO_PHASE, Oid(0), Oid(0), xid),
        pg::state::Key::Origins => (kind::ORIGINS, Oid(0), Oid(0), 0),
        pg::state::Key::Database { tablespace, database } => {
            (kind::DATABASE, tablespace, database, 0)
        }
        pg::state::Key::Tablespace(oid) => (kind::TABLESPACE, oid, Oid(0), 0),
    };
    let mut chunk = [0; 16];
    chunk[0] = kind;
    chunk[1..5].copy_from_slice(&tablespace.0.to_be_bytes());
    chunk[5..9].copy_from_slice(&database.0.to_be_bytes());
    Key { chunk: Chunk(chunk), block }
}

/// Which value beside relation pages a key stands for.
pub fn value_of(key: Key) -> Option<pg::state::Key> {
    let chunk = key.chunk.0;
    let oid = |from: usize| Some(Oid(u32::from_be_bytes(*chunk[from..].first_chunk()?)));
    let (tablespace, database) = (oid(1)?, oid(5)?);
    match chunk[0] {
        kind::SLRU => slru_page(key).map(|(log, page)| pg::state::Key::Slru(log, page)),
        kind::RELMAP => Some(pg::state::Key::Relmap { tablespace, database }),
        kind::TWO_PHASE => Some(pg::state::Key::TwoPhase(key.block)),
        kind::ORIGINS => Some(pg::state::Key::Origins),
        kind::DATABASE => Some(pg::state::Key::Database { tablespace, database }),
        kind::TABLESPACE => Some(pg::state::Key::Tablespace(tablespace)),
        _ => None,
    }
}

/// Snapshots of the counters and of which values there are, and what changed since.
pub const SNAPSHOT: Key = {
    let mut chunk = [0; 16];
    chunk[0] = kind::SNAPSHOT;
    Key { chunk: Chunk(chunk), block: 0 }
};

/// A piece of a file of the base backup; that of number 0 is the list of them.
pub fn file(number: u32, piece: u32) -> Key {
    let mut chunk = [0; 16];
    chunk[0] = kind::FILE;
    chunk[9..13].copy_from_slice(&number.to_be_bytes());
    Key { chunk: Chunk(chunk), block: piece }
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
    fn a_value_comes_back_from_its_key() {
        let (tablespace, database) = (Oid(1663), Oid(5));
        for key in [
            pg::state::Key::Slru(Slru::Clog, 9),
            pg::state::Key::Relmap { tablespace, database },
            pg::state::Key::TwoPhase(700),
            pg::state::Key::Origins,
            pg::state::Key::Database { tablespace, database },
            pg::state::Key::Tablespace(Oid(16_400)),
        ] {
            assert_eq!(value_of(value(key)), Some(key));
            assert!(value(key) < SNAPSHOT);
        }
        assert_eq!((value_of(SNAPSHOT), value_of(file(1, 2))), (None, None));
    }

    #[test]
    fn an_slru_page_comes_back_from_its_key() {
        for kind in Slru::ALL {
            assert_eq!(slru_page(slru(kind, 77)), Some((kind, 77)));
            assert_eq!(relation_block(slru(kind, 77)), None);
        }
    }
}
