//! The things used last, up to a weight.

use std::collections::BTreeMap;
use std::rc::Rc;

pub(crate) struct Recent<K, V> {
    things: BTreeMap<K, Thing<V>>,
    /// Keys by when they were last used.
    order: BTreeMap<u64, K>,
    now: u64,
    weight: usize,
    weight_max: usize,
    count_max: usize,
}

struct Thing<V> {
    value: Rc<V>,
    used: u64,
    weight: usize,
}

impl<K: Ord + Copy, V> Recent<K, V> {
    pub(crate) fn new(weight_max: usize, count_max: usize) -> Recent<K, V> {
        let (things, order) = (BTreeMap::new(), BTreeMap::new());
        Recent { things, order, now: 0, weight: 0, weight_max, count_max }
    }

    pub(crate) fn get(&mut self, key: &K) -> Option<Rc<V>> {
        let thing = self.things.get_mut(key)?;
        if thing.used != self.now {
            self.now += 1;
            self.order.remove(&thing.used);
            self.order.insert(self.now, *key);
            thing.used = self.now;
        }
        Some(Rc::clone(&thing.value))
    }

    /// A thing heavier than all of the room is not kept.
    pub(crate) fn put(&mut self, key: K, value: Rc<V>, weight: usize) {
        self.remove(&key);
        if weight > self.weight_max {
            return;
        }
        self.now += 1;
        self.things.insert(key, Thing { value, used: self.now, weight });
        self.order.insert(self.now, key);
        self.weight += weight;
        while self.weight > self.weight_max || self.things.len() > self.count_max {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            self.weight -= self.things.remove(&oldest).map_or(0, |thing| thing.weight);
        }
    }

    pub(crate) fn remove(&mut self, key: &K) {
        if let Some(thing) = self.things.remove(key) {
            self.order.remove(&thing.used);
            self.weight -= thing.weight;
        }
    }

    pub(crate) fn weight(&self) -> usize {
        self.weight
    }

    pub(crate) fn len(&self) -> usize {
        self.things.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_goes_first_and_what_is_too_heavy_never_comes() {
        let mut recent = Recent::new(10, 3);
        for key in 0..3 {
            recent.put(key, Rc::new(key), 3);
        }
        assert!(recent.get(&0).is_some());
        recent.put(3, Rc::new(3), 3);
        assert!(recent.get(&1).is_none());
        assert!(recent.get(&0).is_some());
        recent.put(4, Rc::new(4), 8);
        assert_eq!((recent.len(), recent.weight()), (1, 8));
        recent.put(5, Rc::new(5), 11);
        assert!(recent.get(&5).is_none());
        assert!(recent.get(&4).is_some());
        recent.put(4, Rc::new(4), 2);
        assert_eq!((recent.len(), recent.weight()), (1, 2));
    }
}
