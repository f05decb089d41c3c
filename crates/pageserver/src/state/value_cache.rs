//! Values kept in memory that took many records to rebuild: the newest version asked for, per key.
//!
//! A page of `pg_xact` collects a record for each of 32768 transactions, and whatever starts somewhere needs all pages
//! as of then; with the version before at hand, only the records since are read.
//!
//! Invariant: what is kept was rebuilt from records up to the timeline's end then, none of which is ever cut off: WAL
//! goes on behind it or is refused (see [`crate::promotion`]). So nothing has to be forgotten for being wrong.

use std::collections::BTreeMap;
use std::rc::Rc;

use pg::lsn::Lsn;
use pg::page::PAGE_BYTES;
use pg::state::Key;

use crate::limits::{VALUE_KEPT_RECORDS_MIN, VALUES_KEPT_MAX};

/// The cache of one timeline.
#[derive(Debug, Default)]
pub struct ValueCache {
    values: BTreeMap<Key, Entry>,
    now: u64,
}

#[derive(Debug)]
struct Entry {
    value: Rc<Vec<u8>>,
    /// End of the last record that is in it.
    as_of: Lsn,
    used: u64,
}

impl ValueCache {
    /// The value as some record up to `upto` left it, and that record's end.
    pub fn get(&mut self, key: Key, upto: Lsn) -> Option<(Rc<Vec<u8>>, Lsn)> {
        let entry = self.values.get_mut(&key).filter(|entry| entry.as_of <= upto)?;
        self.now += 1;
        entry.used = self.now;
        Some((Rc::clone(&entry.value), entry.as_of))
    }

    /// Keeps a value that so many records were read for, if they were many or an earlier one is here; one of a later LSN
    /// stays.
    pub fn put(&mut self, key: Key, as_of: Lsn, value: &[u8], records: usize) {
        let is_kept = match self.values.get(&key) {
            Some(known) => known.as_of < as_of,
            None => records >= VALUE_KEPT_RECORDS_MIN,
        };
        if !is_kept || value.len() > PAGE_BYTES {
            return;
        }
        self.now += 1;
        let entry = Entry { value: Rc::new(value.to_vec()), as_of, used: self.now };
        self.values.insert(key, entry);
        if self.values.len() > VALUES_KEPT_MAX {
            let oldest = self.values.iter().min_by_key(|(_, entry)| entry.used);
            if let Some(key) = oldest.map(|(key, _)| *key) {
                self.values.remove(&key);
            }
        }
    }

    /// End of the last record in what is kept of a value.
    pub fn as_of(&self, key: Key) -> Option<Lsn> {
        self.values.get(&key).map(|entry| entry.as_of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg::datadir::slru::Slru;

    const KEY: Key = Key::Slru(Slru::Clog, 0);
    const MANY: usize = VALUE_KEPT_RECORDS_MIN;

    #[test]
    fn never_gives_a_value_from_the_future() {
        let mut cache = ValueCache::default();
        cache.put(KEY, Lsn(100), &[1], MANY);
        assert_eq!(cache.get(KEY, Lsn(99)), None);
        assert_eq!(cache.get(KEY, Lsn(100)), Some((Rc::new(vec![1]), Lsn(100))));
        cache.put(KEY, Lsn(50), &[2], MANY);
        assert_eq!(cache.get(KEY, Lsn(200)), Some((Rc::new(vec![1]), Lsn(100))), "the later stays");
        cache.put(KEY, Lsn(150), &[3], 1);
        assert_eq!(cache.get(KEY, Lsn(200)), Some((Rc::new(vec![3]), Lsn(150))), "it goes on");
    }

    #[test]
    fn keeps_what_took_many_records_and_the_values_used_last() {
        let mut cache = ValueCache::default();
        cache.put(KEY, Lsn(1), &[1], MANY - 1);
        cache.put(KEY, Lsn(1), &[1; PAGE_BYTES + 1], MANY);
        assert_eq!(cache.as_of(KEY), None);
        cache.put(KEY, Lsn(1), &[1], MANY);
        for xid in 0..u32::try_from(VALUES_KEPT_MAX).expect("small") {
            assert!(cache.get(KEY, Lsn(1)).is_some());
            cache.put(Key::TwoPhase(xid), Lsn(1), &[], MANY);
        }
        assert_eq!(cache.as_of(Key::TwoPhase(0)), None);
        assert_eq!([KEY, Key::TwoPhase(1)].map(|key| cache.as_of(key)), [Some(Lsn(1)); 2]);
    }
}
