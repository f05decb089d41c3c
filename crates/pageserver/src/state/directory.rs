//! Which values there are beside relation pages: pages of transaction logs as ranges, the others by name.

use std::collections::{BTreeMap, BTreeSet};

use pg::datadir::slru::{SEGMENT_PAGES, Slru};
use pg::oid::Oid;
use pg::state::{Key, Removal};

use crate::bytes::{Reader, Writer};

/// The keys that have a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// First pages of the ranges of each log, and where each range ends; ranges neither overlap nor touch.
    logs: BTreeMap<Slru, BTreeMap<u32, u64>>,
    /// All others.
    named: BTreeSet<Key>,
}

impl Directory {
    pub fn has(&self, key: Key) -> bool {
        match key {
            Key::Slru(log, page) => {
                let before = self.logs.get(&log).and_then(|all| all.range(..=page).next_back());
                before.is_some_and(|(_, end)| u64::from(page) < *end)
            }
            named => self.named.contains(&named),
        }
    }

    /// Answers whether it is new.
    pub fn insert(&mut self, key: Key) -> bool {
        let Key::Slru(log, page) = key else { return self.named.insert(key) };
        if self.has(key) {
            return false;
        }
        let ranges = self.logs.entry(log).or_default();
        let mut end = u64::from(page) + 1;
        let following = u32::try_from(end).ok().and_then(|next| ranges.remove(&next));
        end = following.unwrap_or(end);
        match ranges.range_mut(..page).next_back() {
            Some((_, before)) if *before == u64::from(page) => *before = end,
            _ => drop(ranges.insert(page, end)),
        }
        true
    }

    /// Answers whether it was there.
    pub fn remove(&mut self, key: Key) -> bool {
        self.named.remove(&key)
    }

    /// Whole segments of a log go. Answers whether any was there.
    pub fn remove_pages(&mut self, log: Slru, removal: Removal) -> bool {
        let firsts: Vec<u32> = self.segments(log);
        let mut removed = false;
        for first in firsts.into_iter().filter(|&first| removal.removes(log, first)) {
            self.remove_segment(log, first);
            removed = true;
        }
        removed
    }

    fn remove_segment(&mut self, log: Slru, first: u32) {
        let (start, end) = (u64::from(first), u64::from(first) + u64::from(SEGMENT_PAGES));
        let Some(ranges) = self.logs.get_mut(&log) else { return };
        let mut changed = BTreeMap::new();
        for (&from, &to) in ranges.iter() {
            // What is left of a range before the segment and behind it.
            if u64::from(from) < start.min(to) {
                changed.insert(from, to.min(start));
            }
            let behind = u64::from(from).max(end);
            if let Ok(behind) = u32::try_from(behind)
                && u64::from(behind) < to
            {
                changed.insert(behind, to);
            }
        }
        match changed.is_empty() {
            true => drop(self.logs.remove(&log)),
            false => *ranges = changed,
        }
    }

    /// First pages of all segments of a log that have a page.
    pub fn segments(&self, log: Slru) -> Vec<u32> {
        let mut firsts = Vec::new();
        for (&from, &to) in self.logs.get(&log).into_iter().flatten() {
            let mut first = u64::from(from - from % SEGMENT_PAGES);
            while first < to {
                firsts.extend(u32::try_from(first));
                first += u64::from(SEGMENT_PAGES);
            }
        }
        firsts.dedup();
        firsts
    }

    /// The pages of one segment of a log, by its first page.
    pub fn pages(&self, log: Slru, first: u32) -> Vec<u32> {
        let pages = first..=first.saturating_add(SEGMENT_PAGES - 1);
        pages.filter(|&page| self.has(Key::Slru(log, page))).collect()
    }

    /// All but pages of transaction logs.
    pub fn named(&self) -> impl Iterator<Item = Key> {
        self.named.iter().copied()
    }

    pub(super) fn write(&self, out: &mut Writer) {
        for log in Slru::ALL {
            let ranges = self.logs.get(&log);
            out.number(ranges.map_or(0, BTreeMap::len) as u64);
            for (&from, &to) in ranges.into_iter().flatten() {
                out.number(from.into());
                out.number(to - u64::from(from));
            }
        }
        out.number(self.named.len() as u64);
        for key in &self.named {
            let (kind, one, other) = match *key {
                // It is in the ranges.
                Key::Slru(..) => continue,
                Key::Relmap { tablespace, database } => (0, tablespace.0, database.0),
                Key::TwoPhase(xid) => (1, xid, 0),
                Key::Origins => (2, 0, 0),
                Key::Database { tablespace, database } => (3, tablespace.0, database.0),
                Key::Tablespace(oid) => (4, oid.0, 0),
            };
            [kind, one, other].into_iter().for_each(|number| out.number(number.into()));
        }
    }

    pub(super) fn read(input: &mut Reader<'_>) -> Option<Directory> {
        let mut directory = Directory::default();
        for log in Slru::ALL {
            for _ in 0..input.count()? {
                let from = input.small()?;
                let to = u64::from(from).checked_add(input.number()?)?;
                directory.logs.entry(log).or_default().insert(from, to);
            }
        }
        for _ in 0..input.count()? {
            let (kind, one, other) = (input.number()?, input.small()?, input.small()?);
            let (tablespace, database) = (Oid(one), Oid(other));
            directory.named.insert(match kind {
                0 => Key::Relmap { tablespace, database },
                1 => Key::TwoPhase(one),
                2 => Key::Origins,
                3 => Key::Database { tablespace, database },
                4 => Key::Tablespace(tablespace),
                _ => return None,
            });
        }
        Some(directory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(directory: &Directory) -> Vec<u8> {
        let mut out = Writer::default();
        directory.write(&mut out);
        out.0
    }

    fn removals() -> impl Strategy<Value = Removal> {
        prop_oneof![
            (0..400_u32).prop_map(Removal::Before),
            (0..12_u32, 0..12_u32).prop_map(|(from, until)| Removal::Segments { from, until }),
            Just(Removal::All),
        ]
    }

    proptest! {
        #[test]
        fn ranges_are_as_good_as_a_set_of_pages(
            steps in prop::collection::vec(
                prop_oneof![
                    8 => (0..400_u32).prop_map(Ok),
                    1 => removals().prop_map(Err),
                ],
                0..200,
            ),
        ) {
            let (log, mut set) = (Slru::MultiXactMembers, BTreeSet::new());
            let mut directory = Directory::default();
            for step in steps {
                match step {
                    Ok(page) => {
                        let is_new = directory.insert(Key::Slru(log, page));
                        prop_assert_eq!(is_new, set.insert(page));
                    }
                    Err(removal) => {
                        let before = set.len();
                        set.retain(|&page| !removal.removes(log, page));
                        prop_assert_eq!(directory.remove_pages(log, removal), set.len() < before);
                    }
                }
            }
            for page in 0..440 {
                prop_assert_eq!(directory.has(Key::Slru(log, page)), set.contains(&page));
            }
            let mut firsts: Vec<u32> = set.iter().map(|page| page - page % SEGMENT_PAGES).collect();
            firsts.dedup();
            prop_assert_eq!(directory.segments(log), firsts);
            let bytes = written(&directory);
            prop_assert_eq!(Directory::read(&mut Reader(&bytes)), Some(directory));
        }
    }

    #[test]
    fn all_kinds_come_back_from_their_bytes() {
        let mut directory = Directory::default();
        let (tablespace, database) = (Oid(1663), Oid(5));
        for key in [
            Key::Slru(Slru::Clog, 0),
            Key::Slru(Slru::CommitTimestamps, u32::MAX),
            Key::Relmap { tablespace, database },
            Key::TwoPhase(745),
            Key::Origins,
            Key::Database { tablespace, database },
            Key::Tablespace(Oid(16_400)),
        ] {
            assert!(directory.insert(key));
            assert!(!directory.insert(key));
            assert!(directory.has(key));
        }
        let bytes = written(&directory);
        assert_eq!(Directory::read(&mut Reader(&bytes)), Some(directory));
        for end in 0..bytes.len() {
            assert_eq!(Directory::read(&mut Reader(&bytes[..end])), None, "cut at {end}");
        }
    }
}
