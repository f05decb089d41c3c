//! Values by fork: an ordered map that finds the forks that were asked for lately without a search.
//!
//! WAL names the same few forks over and over; each record asks once or more for each of its blocks.

use std::collections::BTreeMap;

use crate::datadir::relation::RelTag;

/// Forks that are remembered, each in the one place that its name leads to.
const RECENT: usize = 64;

/// A map from forks to values.
#[derive(Clone, Debug)]
pub struct ForkMap<T> {
    names: BTreeMap<RelTag, usize>,
    values: Vec<T>,
    /// Places in `values` that are in no use.
    free: Vec<usize>,
    recent: Vec<Option<(RelTag, usize)>>,
}

impl<T> Default for ForkMap<T> {
    fn default() -> ForkMap<T> {
        ForkMap {
            names: BTreeMap::new(),
            values: Vec::new(),
            free: Vec::new(),
            recent: vec![None; RECENT],
        }
    }
}

impl<T: Default> ForkMap<T> {
    pub fn get(&self, tag: RelTag) -> Option<&T> {
        self.values.get(*self.names.get(&tag)?)
    }

    pub fn get_mut(&mut self, tag: RelTag) -> Option<&mut T> {
        let place = self.place(tag)?;
        self.values.get_mut(place)
    }

    /// The fork's value, which begins as the default; `None` never comes.
    pub fn entry(&mut self, tag: RelTag) -> Option<&mut T> {
        let place = match self.place(tag) {
            Some(place) => place,
            None => {
                let place = self.free.pop().unwrap_or(self.values.len());
                if place == self.values.len() {
                    self.values.push(T::default());
                }
                self.names.insert(tag, place);
                place
            }
        };
        self.values.get_mut(place)
    }

    pub fn insert(&mut self, tag: RelTag, value: T) {
        if let Some(place) = self.entry(tag) {
            *place = value;
        }
    }

    pub fn remove(&mut self, tag: RelTag) -> Option<T> {
        let place = self.names.remove(&tag)?;
        if let Some(recent) = self.recent.get_mut(hash(tag)) {
            *recent = None;
        }
        self.free.push(place);
        self.values.get_mut(place).map(std::mem::take)
    }

    /// In the order of the forks' names.
    pub fn iter(&self) -> impl Iterator<Item = (RelTag, &T)> {
        self.names.iter().filter_map(|(tag, place)| Some((*tag, self.values.get(*place)?)))
    }

    #[inline]
    fn place(&mut self, tag: RelTag) -> Option<usize> {
        let recent = self.recent.get_mut(hash(tag))?;
        match *recent {
            Some((found, place)) if found == tag => Some(place),
            _ => {
                let place = *self.names.get(&tag)?;
                *recent = Some((tag, place));
                Some(place)
            }
        }
    }
}

/// One multiplication: nobody chooses these numbers to make them meet, and a search is all that it would cost.
const fn hash(tag: RelTag) -> usize {
    let mixed = tag.relnode.0.wrapping_mul(4).wrapping_add(tag.fork.number() as u32) ^ tag.dbnode.0;
    (mixed.wrapping_mul(0x9E37_79B1) >> 26) as usize % RECENT
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datadir::relation::{Fork, RelNode};

    const fn tag(number: u32) -> RelTag {
        RelNode::new(1663, 5, number).fork(Fork::Main)
    }

    #[test]
    fn finds_each_of_more_forks_than_it_remembers() {
        let mut map = ForkMap::default();
        for number in 1..1000 {
            *map.entry(tag(number)).unwrap() = number;
        }
        for number in (1..1000).rev() {
            assert_eq!(map.get_mut(tag(number)).copied(), Some(number));
            assert_eq!(map.get(tag(number)).copied(), Some(number));
        }
        assert_eq!(map.get_mut(tag(1000)), None);
    }

    #[test]
    fn a_removed_fork_is_gone_and_its_place_begins_anew() {
        let mut map = ForkMap::default();
        map.insert(tag(1), 7);
        assert_eq!(map.get_mut(tag(1)).copied(), Some(7));
        assert_eq!(map.remove(tag(1)), Some(7));
        assert_eq!(map.get_mut(tag(1)), None);
        assert_eq!(map.remove(tag(1)), None);
        assert_eq!(map.entry(tag(2)).copied(), Some(0));
        assert_eq!(map.iter().collect::<Vec<_>>(), [(tag(2), &0)]);
    }
}
