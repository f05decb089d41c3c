//! Which WAL records touch which key, in memory: the WAL that is not in the store yet.
//!
//! Two generations: new records go into one; the other, if there is one, is being written to the store and is dropped as a
//! whole when that is done. Invariants: a key's positions are in WAL order; everything in the older generation comes
//! before everything in the newer.

use std::collections::BTreeSet;
use std::collections::hash_map::{Entry, IntoIter};

use pg::lsn::Lsn;
use runtime::collections::HashMap;
use storage::key::{Chunk, Key};

/// A record that touches a page, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Where the record begins.
    pub start: Lsn,
    /// Bytes of WAL from there to the record's end, page headers and padding included.
    span: u32,
    pub effect: Effect,
    /// Number of the block reference in the record; 0 where there is none.
    pub block_id: u8,
}

/// What a record does to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Changes what is there.
    Change,
    /// Writes the whole page: an image or a fresh page. Nothing before it matters.
    Initial,
    /// Changes the page without a block reference to it: bits of a visibility map that a change of
    /// a heap page clears, or that a truncation cuts off.
    Implied,
}

impl Effect {
    /// The number that stands for it in files.
    pub const fn number(self) -> u8 {
        match self {
            Effect::Change => 0,
            Effect::Initial => 1,
            Effect::Implied => 2,
        }
    }

    pub const fn from_number(number: u8) -> Option<Effect> {
        match number {
            0 => Some(Effect::Change),
            1 => Some(Effect::Initial),
            2 => Some(Effect::Implied),
            _ => None,
        }
    }
}

impl Position {
    /// A record from `start` to `end`; `None` if it is longer than a record can be.
    pub fn new(start: Lsn, end: Lsn, effect: Effect, block_id: u8) -> Option<Position> {
        let span = u32::try_from(end.0.checked_sub(start.0)?).ok()?;
        Some(Position { start, span, effect, block_id })
    }

    /// Bytes of WAL from the record's start to its end.
    pub fn span(self) -> u32 {
        self.span
    }

    /// The record's end: the LSN that the page bears after it.
    pub fn end(self) -> Lsn {
        self.start + u64::from(self.span)
    }
}

const _: () =
    assert!(size_of::<Position>() == 16, "one position per record and page: keep it small");

/// The records that touch one key. Most keys are touched once between two flushes, and those need no allocation.
#[derive(Debug)]
enum Positions {
    One([Position; 1]),
    Many(Vec<Position>),
}

impl Positions {
    fn all(&self) -> &[Position] {
        match self {
            Positions::One(one) => one,
            Positions::Many(many) => many,
        }
    }

    /// Appends; one record counts once per page. Answers by how many bytes the vector grew.
    fn push(&mut self, position: Position) -> usize {
        let last = match self {
            Positions::One([one]) => Some(one),
            Positions::Many(many) => many.last_mut(),
        };
        if let Some(last) = last.filter(|last| last.start == position.start) {
            // Two effects of one record on one page: the one that needs no page before it wins.
            if position.effect == Effect::Initial {
                *last = position;
            }
            return 0;
        }
        match self {
            Positions::One([one]) => {
                debug_assert!(one.start < position.start, "WAL goes forward");
                let many = vec![*one, position];
                let grown = many.capacity() * size_of::<Position>();
                *self = Positions::Many(many);
                grown
            }
            Positions::Many(many) => {
                let before = many.capacity();
                many.push(position);
                (many.capacity() - before) * size_of::<Position>()
            }
        }
    }
}

/// The touched blocks of a chunk. At most as many as a file of 1 GiB has, so that growing it never takes long.
type Blocks = HashMap<u32, Positions>;
type Chunks = HashMap<Chunk, Blocks>;

/// Memory of a table's entry with room for so many: one byte of control each, and an eighth of the places stays free.
fn table_bytes<K, V>(capacity: usize) -> usize {
    capacity * (size_of::<(K, V)>() + 1) * 8 / 7
}

/// The index of one timeline's newest WAL.
#[derive(Debug, Default)]
pub struct Index {
    newer: Chunks,
    /// What is being written to the store.
    older: Chunks,
    memory: usize,
    older_memory: usize,
}

impl Index {
    /// A record touches a key.
    pub fn touch(&mut self, key: Key, position: Position) {
        let blocks = match self.newer.entry(key.chunk) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                self.memory += table_bytes::<Chunk, Blocks>(1);
                place.insert(Blocks::default())
            }
        };
        let before = blocks.capacity();
        match blocks.entry(key.block) {
            Entry::Occupied(mut known) => self.memory += known.get_mut().push(position),
            Entry::Vacant(place) => {
                place.insert(Positions::One([position]));
                let grown = blocks.capacity() - before;
                self.memory += table_bytes::<u32, Positions>(grown);
            }
        }
    }

    /// The records of a key that end in `(after, upto]`, from the newest whole one on.
    pub fn chain(&self, key: Key, after: Lsn, upto: Lsn) -> Vec<Position> {
        let newer = chain(of_key(&self.newer, key), after, upto).to_vec();
        if newer.first().is_some_and(|first| first.effect == Effect::Initial) {
            return newer;
        }
        let mut all = chain(of_key(&self.older, key), after, upto).to_vec();
        all.extend_from_slice(&newer);
        all
    }

    /// The keys of a chunk that at least so many records touch that end behind an LSN of each key's own.
    pub fn busy(&self, chunk: Chunk, records_min: usize, after: impl Fn(Key) -> Lsn) -> Vec<Key> {
        let blocks = [&self.older, &self.newer].map(|chunks| chunks.get(&chunk));
        let blocks = blocks.into_iter().flatten().flat_map(|blocks| blocks.keys().copied());
        let keys: BTreeSet<Key> = blocks.map(|block| Key { chunk, block }).collect();
        let behind = |key: Key| {
            let after = after(key);
            let all = [&self.older, &self.newer].map(|chunks| of_key(chunks, key));
            let counts =
                all.map(|all| all.len() - all.partition_point(|position| position.end() <= after));
            counts[0] + counts[1]
        };
        keys.into_iter().filter(|key| behind(*key) >= records_min).collect()
    }

    /// Sets everything so far aside, to be written to the store; [`Index::finish_flush`] ends that. Begun a second
    /// time before the end, it goes on with what was set aside the first time: then false.
    pub fn begin_flush(&mut self) -> bool {
        if !self.older.is_empty() {
            return false;
        }
        self.older = std::mem::take(&mut self.newer);
        self.older_memory = std::mem::take(&mut self.memory);
        true
    }

    /// The chunks with keys that were set aside, sorted.
    pub fn chunks_set_aside(&self) -> Vec<Chunk> {
        let mut chunks: Vec<Chunk> = self.older.keys().copied().collect();
        chunks.sort_unstable();
        chunks
    }

    /// The keys of a chunk that were set aside, sorted.
    pub fn keys_set_aside(&self, chunk: Chunk) -> Vec<Key> {
        let blocks = self.older.get(&chunk);
        let mut blocks: Vec<u32> =
            blocks.map(|all| all.keys().copied().collect()).unwrap_or_default();
        blocks.sort_unstable();
        blocks.into_iter().map(|block| Key { chunk, block }).collect()
    }

    /// The positions of these keys that were set aside, instead of what is in `touches`.
    pub fn touches_set_aside(&self, keys: &[Key], touches: &mut Vec<(Key, Position)>) {
        touches.clear();
        for &key in keys {
            touches.extend(of_key(&self.older, key).iter().map(|&position| (key, position)));
        }
    }

    /// What was set aside is in the store. Answers its memory, to be given back in pieces.
    pub fn finish_flush(&mut self) -> SetAside {
        self.older_memory = 0;
        SetAside(std::mem::take(&mut self.older).into_iter())
    }

    /// Bytes of memory in use, by our own count.
    pub fn memory(&self) -> usize {
        self.memory + self.older_memory
    }

    /// Bytes of what has not been set aside.
    pub fn newer_memory(&self) -> usize {
        self.memory
    }
}

/// What was set aside and is not wanted any more.
#[derive(Debug)]
pub struct SetAside(IntoIter<Chunk, Blocks>);

impl SetAside {
    /// Gives back the memory of one chunk; false when none was left.
    pub fn forget_some(&mut self) -> bool {
        self.0.next().is_some()
    }
}

fn of_key(chunks: &Chunks, key: Key) -> &[Position] {
    let blocks = chunks.get(&key.chunk);
    blocks.and_then(|blocks| blocks.get(&key.block)).map_or(&[], Positions::all)
}

/// The part of `all` that ends in `(after, upto]`, cut to begin with its last whole-page record.
fn chain(all: &[Position], after: Lsn, upto: Lsn) -> &[Position] {
    let first = all.partition_point(|position| position.end() <= after);
    let end = all.partition_point(|position| position.end() <= upto);
    let window = all.get(first..end).unwrap_or(&[]);
    let initial = window.iter().rposition(|position| position.effect == Effect::Initial);
    &window[initial.unwrap_or(0)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key { chunk: Chunk([1; 16]), block: 7 };

    fn position(start: u64, effect: Effect) -> Position {
        Position::new(Lsn(start), Lsn(start + 8), effect, 0).expect("8 bytes are a valid span")
    }

    fn starts(index: &Index, after: u64, upto: u64) -> Vec<u64> {
        let chain = index.chain(KEY, Lsn(after), Lsn(upto));
        chain.iter().map(|position| position.start.0).collect()
    }

    fn sample() -> Index {
        let mut index = Index::default();
        for (start, effect) in [
            (100, Effect::Change),
            (200, Effect::Initial),
            (300, Effect::Change),
            (400, Effect::Initial),
        ] {
            index.touch(KEY, position(start, effect));
        }
        index
    }

    #[test]
    fn a_chain_begins_with_the_newest_whole_page_at_or_below_the_lsn() {
        let index = sample();
        assert_eq!(starts(&index, 0, 107), [] as [u64; 0]);
        assert_eq!(starts(&index, 0, 108), [100]);
        assert_eq!(starts(&index, 0, 399), [200, 300]);
        assert_eq!(starts(&index, 208, 399), [300]);
        assert_eq!(starts(&index, 207, 399), [200, 300]);
        assert_eq!(starts(&index, 0, 1000), [400]);
        assert_eq!(starts(&index, 1000, 2000), [] as [u64; 0]);
    }

    #[test]
    fn what_is_set_aside_is_still_found() {
        let mut index = sample();
        assert!(index.begin_flush());
        index.touch(KEY, position(500, Effect::Change));
        assert_eq!(starts(&index, 0, 1000), [400, 500]);
        assert_eq!(starts(&index, 0, 399), [200, 300]);
        assert!(!index.begin_flush(), "one flush at a time");
        index.touch(KEY, position(600, Effect::Initial));
        assert_eq!(starts(&index, 0, 1000), [600]);
        assert_eq!(starts(&index, 0, 599), [400, 500]);
        assert_eq!(index.chunks_set_aside(), [KEY.chunk]);
        assert_eq!(index.keys_set_aside(KEY.chunk), [KEY]);
        let mut touches = Vec::new();
        index.touches_set_aside(&[KEY], &mut touches);
        let at: Vec<u64> = touches.iter().map(|(_, position)| position.start.0).collect();
        assert_eq!(at, [100, 200, 300, 400]);
        let memory = index.memory();
        index.finish_flush();
        assert_eq!(starts(&index, 0, 599), [500]);
        assert!(index.memory() < memory);
        assert_eq!(index.memory(), index.newer_memory());
    }

    #[test]
    fn keys_are_busy_by_the_records_behind_where_each_is_known() {
        let mut index = sample();
        let busy = |index: &Index, count, after| index.busy(KEY.chunk, count, |_key| Lsn(after));
        assert_eq!(busy(&index, 4, 0), [KEY]);
        assert_eq!(busy(&index, 5, 0), []);
        assert_eq!(busy(&index, 2, 208), [KEY], "of 300 and 400");
        assert_eq!(busy(&index, 2, 308), []);
        assert!(index.begin_flush());
        index.touch(KEY, position(500, Effect::Change));
        assert_eq!(busy(&index, 3, 208), [KEY], "what is set aside counts");
        assert_eq!(index.busy(Chunk([2; 16]), 0, |_key| Lsn(0)), []);
    }

    #[test]
    fn one_record_counts_once_per_page() {
        let mut index = Index::default();
        index.touch(KEY, position(100, Effect::Change));
        index.touch(KEY, position(100, Effect::Initial));
        let all = index.chain(KEY, Lsn::INVALID, Lsn::MAX);
        assert_eq!(all, [position(100, Effect::Initial)]);
    }

    #[test]
    fn memory_grows_with_what_is_kept() {
        let mut index = Index::default();
        for start in 0..1000 {
            index.touch(KEY, position(start * 8, Effect::Change));
        }
        assert!(index.memory() >= 1000 * size_of::<Position>());
    }

    #[test]
    fn effects_come_back_from_their_numbers() {
        for effect in [Effect::Change, Effect::Initial, Effect::Implied] {
            assert_eq!(Effect::from_number(effect.number()), Some(effect));
        }
        assert_eq!(Effect::from_number(9), None);
    }
}
