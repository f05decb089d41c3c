//! Rebuilt pages kept in memory: the newest version asked for, per block.
//!
//! A hot page (a branch row of pgbench, an index root) collects thousands of records between two
//! images; with the version before at hand, only those since are applied. And it is noted up to where there are none: as
//! long as that is far enough, neither the index nor a layer is asked. Bounded by bytes; the page unused for longest goes
//! first.
//!
//! Somebody who reads a table that is larger than the cache would drive everything out, his own pages before he comes back
//! for them included. So of what is read by many pages at once, a full cache takes one in [`SCANNED_PAGES_FOR_ONE_KEPT`]:
//! what was there stays, and yet makes way in time if it is of no use (bimodal insertion: Qureshi et al., "Adaptive
//! Insertion Policies for High Performance Caching", 2007).

use std::collections::BTreeMap;
use std::rc::Rc;

use pg::datadir::relation::RelTag;
use pg::lsn::Lsn;

use crate::limits::{PAGE_BYTES, SCANNED_PAGES_FOR_ONE_KEPT};

/// A page's bytes.
pub type Page = [u8; PAGE_BYTES];

/// What an entry costs beside the page itself.
const ENTRY_OVERHEAD: usize = 160;
const ENTRY_BYTES: usize = PAGE_BYTES + ENTRY_OVERHEAD;

/// The cache of one timeline.
pub struct PageCache {
    bytes_max: usize,
    pages: BTreeMap<(RelTag, u32), Entry>,
    /// By when each was last used.
    order: BTreeMap<u64, (RelTag, u32)>,
    now: u64,
    /// Scanned pages for which there was no room.
    scanned: u32,
    found: u64,
    missed: u64,
}

/// How pages are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Few, each for its own sake.
    Few,
    /// One after another, as they come.
    Scan,
}

/// A page that was rebuilt before.
#[derive(Clone)]
pub struct Cached {
    pub page: Rc<Page>,
    /// End of the last record that is in the page.
    pub as_of: Lsn,
    /// No other record touches it up to here: at or behind `as_of`.
    pub unchanged_to: Lsn,
}

struct Entry {
    cached: Cached,
    used: u64,
}

impl PageCache {
    pub fn new(bytes_max: usize) -> PageCache {
        PageCache {
            bytes_max,
            pages: BTreeMap::new(),
            order: BTreeMap::new(),
            now: 0,
            scanned: 0,
            found: 0,
            missed: 0,
        }
    }

    /// The page as some record up to `upto` left it.
    pub fn get(&mut self, tag: RelTag, block: u32, upto: Lsn) -> Option<Cached> {
        let key = (tag, block);
        let entry = self.pages.get_mut(&key).filter(|entry| entry.cached.as_of <= upto);
        let Some(entry) = entry else {
            self.missed += 1;
            return None;
        };
        self.found += 1;
        self.order.remove(&entry.used);
        self.now += 1;
        entry.used = self.now;
        self.order.insert(self.now, key);
        Some(entry.cached.clone())
    }

    /// Keeps a page, as far as there is room for what is read so; one of a later LSN stays.
    pub fn put(&mut self, tag: RelTag, block: u32, cached: Cached, reading: Reading) {
        let key = (tag, block);
        if let Some(known) = self.pages.get_mut(&key) {
            if known.cached.as_of == cached.as_of {
                let known = &mut known.cached.unchanged_to;
                *known = cached.unchanged_to.max(*known);
            }
            if known.cached.as_of >= cached.as_of {
                return;
            }
            self.order.remove(&known.used);
        } else if reading == Reading::Scan && self.bytes() + ENTRY_BYTES > self.bytes_max {
            self.scanned += 1;
            if !self.scanned.is_multiple_of(SCANNED_PAGES_FOR_ONE_KEPT) {
                return;
            }
        }
        self.now += 1;
        self.order.insert(self.now, key);
        self.pages.insert(key, Entry { cached, used: self.now });
        while self.bytes() > self.bytes_max {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            self.pages.remove(&oldest);
        }
    }

    /// How often a version was found, and how often not.
    pub fn looked_up(&self) -> (u64, u64) {
        (self.found, self.missed)
    }

    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        self.pages.len() * ENTRY_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg::datadir::relation::{Fork, RelNode};

    const TAG: RelTag = RelNode::new(1663, 5, 16384).fork(Fork::Main);

    fn page(byte: u8, as_of: u64, unchanged_to: u64) -> Cached {
        let page = Rc::new([byte; PAGE_BYTES]);
        Cached { page, as_of: Lsn(as_of), unchanged_to: Lsn(unchanged_to) }
    }

    #[test]
    fn never_gives_a_page_from_the_future() {
        let mut cache = PageCache::new(1 << 20);
        cache.put(TAG, 0, page(1, 100, 100), Reading::Few);
        assert!(cache.get(TAG, 0, Lsn(99)).is_none());
        assert_eq!(cache.get(TAG, 0, Lsn(100)).map(|found| found.as_of), Some(Lsn(100)));
        cache.put(TAG, 0, page(2, 50, 99), Reading::Few);
        assert_eq!(cache.get(TAG, 0, Lsn(200)).map(|found| found.page[0]), Some(1));
    }

    #[test]
    fn remembers_how_far_nothing_has_changed() {
        let mut cache = PageCache::new(1 << 20);
        let known = |cache: &mut PageCache| cache.get(TAG, 0, Lsn(1000)).map(|it| it.unchanged_to);
        cache.put(TAG, 0, page(1, 100, 100), Reading::Few);
        cache.put(TAG, 0, page(1, 100, 300), Reading::Few);
        cache.put(TAG, 0, page(1, 100, 200), Reading::Few);
        cache.put(TAG, 0, page(2, 50, 400), Reading::Few);
        assert_eq!(known(&mut cache), Some(Lsn(300)), "of this version, whoever asked last");
        cache.put(TAG, 0, page(3, 350, 350), Reading::Few);
        assert_eq!(known(&mut cache), Some(Lsn(350)));
    }

    #[test]
    fn the_page_unused_for_longest_goes_first() {
        let mut cache = PageCache::new(2 * ENTRY_BYTES);
        cache.put(TAG, 0, page(0, 1, 1), Reading::Few);
        cache.put(TAG, 1, page(1, 1, 1), Reading::Few);
        assert!(cache.get(TAG, 0, Lsn(1)).is_some());
        cache.put(TAG, 2, page(2, 1, 1), Reading::Few);
        assert!(cache.get(TAG, 1, Lsn(1)).is_none());
        assert!(cache.get(TAG, 0, Lsn(1)).is_some());
        assert!(cache.bytes() <= 2 * ENTRY_BYTES);
    }

    /// What is found of so many blocks.
    fn found(cache: &mut PageCache, blocks: std::ops::Range<u32>) -> Vec<u32> {
        blocks.filter(|&block| cache.get(TAG, block, Lsn(1)).is_some()).collect()
    }

    #[test]
    fn a_scan_leaves_most_of_a_full_cache_as_it_was() {
        let mut cache = PageCache::new(100 * ENTRY_BYTES);
        for block in 0..60 {
            cache.put(TAG, block, page(0, 1, 1), Reading::Few);
        }
        for block in 1000..1000 + 10 * SCANNED_PAGES_FOR_ONE_KEPT {
            cache.put(TAG, block, page(0, 1, 1), Reading::Scan);
        }
        let scanned = found(&mut cache, 1000..1000 + 10 * SCANNED_PAGES_FOR_ONE_KEPT);
        assert!(
            scanned.starts_with(&(1000..1040).collect::<Vec<_>>()),
            "there was room: {scanned:?}"
        );
        assert_eq!(found(&mut cache, 0..60).len() + scanned.len(), 100, "it is full, and no more");
        assert!(found(&mut cache, 0..60).len() >= 50);
    }

    #[test]
    fn a_second_scan_of_more_than_there_is_room_for_finds_some() {
        let mut cache = PageCache::new(100 * ENTRY_BYTES);
        let scan = |cache: &mut PageCache| {
            let mut found = 0;
            for block in 0..150 {
                match cache.get(TAG, block, Lsn(1)) {
                    Some(_) => found += 1,
                    None => cache.put(TAG, block, page(0, 1, 1), Reading::Scan),
                }
            }
            found
        };
        assert_eq!(scan(&mut cache), 0);
        assert!(scan(&mut cache) > 80);
    }

    #[test]
    fn what_is_of_no_use_makes_way_for_scans_in_time() {
        let mut cache = PageCache::new(4 * ENTRY_BYTES);
        for block in 0..4 {
            cache.put(TAG, block, page(0, 1, 1), Reading::Few);
        }
        for block in 1000..1000 + 4 * SCANNED_PAGES_FOR_ONE_KEPT {
            cache.put(TAG, block, page(0, 1, 1), Reading::Scan);
        }
        assert_eq!(found(&mut cache, 0..4), [0; 0]);
    }

    #[test]
    fn a_cache_of_no_bytes_keeps_nothing() {
        let mut cache = PageCache::new(0);
        cache.put(TAG, 0, page(0, 1, 1), Reading::Few);
        assert!(cache.get(TAG, 0, Lsn(1)).is_none());
    }
}
