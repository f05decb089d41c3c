//! Rebuilt pages kept in memory: the newest version asked for, per block.
//!
//! A hot page (a branch row of pgbench, an index root) collects thousands of records between two
//! images; with the version before at hand, only those since are applied. And it is noted up to where there are none: as
//! long as that is far enough, neither the index nor a layer is asked. Bounded by bytes; the page unused for longest goes
//! first.

use std::collections::BTreeMap;
use std::rc::Rc;

use pg::datadir::relation::RelTag;
use pg::lsn::Lsn;

use crate::limits::PAGE_BYTES;

/// A page's bytes.
pub type Page = [u8; PAGE_BYTES];

/// What an entry costs beside the page itself.
const ENTRY_OVERHEAD: usize = 160;

/// The cache of one timeline.
pub struct PageCache {
    bytes_max: usize,
    pages: BTreeMap<(RelTag, u32), Entry>,
    /// By when each was last used.
    order: BTreeMap<u64, (RelTag, u32)>,
    now: u64,
    found: u64,
    missed: u64,
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

    /// Keeps a page; one of a later LSN stays.
    pub fn put(&mut self, tag: RelTag, block: u32, cached: Cached) {
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
        self.pages.len() * (PAGE_BYTES + ENTRY_OVERHEAD)
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
        cache.put(TAG, 0, page(1, 100, 100));
        assert!(cache.get(TAG, 0, Lsn(99)).is_none());
        assert_eq!(cache.get(TAG, 0, Lsn(100)).map(|found| found.as_of), Some(Lsn(100)));
        cache.put(TAG, 0, page(2, 50, 99));
        assert_eq!(cache.get(TAG, 0, Lsn(200)).map(|found| found.page[0]), Some(1));
    }

    #[test]
    fn remembers_how_far_nothing_has_changed() {
        let mut cache = PageCache::new(1 << 20);
        let known = |cache: &mut PageCache| cache.get(TAG, 0, Lsn(1000)).map(|it| it.unchanged_to);
        cache.put(TAG, 0, page(1, 100, 100));
        cache.put(TAG, 0, page(1, 100, 300));
        cache.put(TAG, 0, page(1, 100, 200));
        cache.put(TAG, 0, page(2, 50, 400));
        assert_eq!(known(&mut cache), Some(Lsn(300)), "of this version, whoever asked last");
        cache.put(TAG, 0, page(3, 350, 350));
        assert_eq!(known(&mut cache), Some(Lsn(350)));
    }

    #[test]
    fn the_page_unused_for_longest_goes_first() {
        let mut cache = PageCache::new(2 * (PAGE_BYTES + ENTRY_OVERHEAD));
        cache.put(TAG, 0, page(0, 1, 1));
        cache.put(TAG, 1, page(1, 1, 1));
        assert!(cache.get(TAG, 0, Lsn(1)).is_some());
        cache.put(TAG, 2, page(2, 1, 1));
        assert!(cache.get(TAG, 1, Lsn(1)).is_none());
        assert!(cache.get(TAG, 0, Lsn(1)).is_some());
        assert!(cache.bytes() <= 2 * (PAGE_BYTES + ENTRY_OVERHEAD));
    }

    #[test]
    fn a_cache_of_no_bytes_keeps_nothing() {
        let mut cache = PageCache::new(0);
        cache.put(TAG, 0, page(0, 1, 1));
        assert!(cache.get(TAG, 0, Lsn(1)).is_none());
    }
}
