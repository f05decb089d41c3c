//! A hierarchical timer wheel: six levels of 64 slots, one millisecond at the bottom, two years at the
//! top. Insert and cancel cost the same however many timers there are.
//!
//! Invariants:
//! 1. An entry at level L lies between 64^L and 64^(L+1) ticks after `elapsed` when put there, so it comes
//!    down a level each time its slot's start is reached, and fires from wherever its tick is due.
//! 2. A timer never fires early: deadlines round up to the tick, the clock rounds down.
//! 3. A [`Key`] of a fired or cancelled timer is recognised by its generation and does nothing.

use std::task::Waker;

const LEVELS: usize = 6;
const SLOTS: usize = 64;
/// Nanoseconds.
const TICK: u64 = 1_000_000;
/// Later deadlines wait here and are then found to be not yet due, and put back.
const TICKS_MAX: u64 = (1 << (6 * LEVELS)) - 1;
const NONE: u32 = u32::MAX;

/// Names one timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    index: u32,
    generation: u32,
}

struct Entry {
    /// Ticks, rounded up.
    when: u64,
    waker: Option<Waker>,
    generation: u32,
    /// Level and slot, as `level * SLOTS + slot`.
    place: u16,
    previous: u32,
    next: u32,
}

pub(crate) struct Wheel {
    /// Ticks up to which everything has fired.
    elapsed: u64,
    /// First entry of each slot.
    heads: [[u32; SLOTS]; LEVELS],
    /// Which slots have entries.
    occupied: [u64; LEVELS],
    entries: Vec<Entry>,
    free: u32,
    live: usize,
}

impl Wheel {
    pub(crate) const fn new() -> Self {
        Self {
            elapsed: 0,
            heads: [[NONE; SLOTS]; LEVELS],
            occupied: [0; LEVELS],
            entries: Vec::new(),
            free: NONE,
            live: 0,
        }
    }

    /// Forgets everything and begins at `now` (nanoseconds).
    pub(crate) fn reset(&mut self, now: u64) {
        *self = Self::new();
        self.elapsed = now / TICK;
    }

    /// `deadline` in nanoseconds.
    pub(crate) fn insert(&mut self, deadline: u64, waker: Waker) -> Key {
        let when = deadline.div_ceil(TICK);
        let index = self.allocate(when, waker);
        self.link(index);
        self.live += 1;
        Key { index, generation: self.entry(index).generation }
    }

    /// Makes a waiting timer wake `waker`; false when it has fired or been cancelled.
    pub(crate) fn renew(&mut self, key: Key, waker: &Waker) -> bool {
        let Some(entry) = self.entries.get_mut(key.index as usize) else { return false };
        if entry.generation != key.generation {
            return false;
        }
        match &mut entry.waker {
            Some(known) => known.clone_from(waker),
            None => return false,
        }
        true
    }

    pub(crate) fn cancel(&mut self, key: Key) {
        let live =
            self.entries.get(key.index as usize).is_some_and(|e| e.generation == key.generation);
        if live {
            self.unlink(key.index);
            drop(self.release(key.index));
        }
    }

    /// When to look again, in nanoseconds: the first deadline, or an earlier moment at which entries
    /// come down a level. `None` when nothing waits.
    pub(crate) fn next(&self) -> Option<u64> {
        self.next_slot().map(|(_, _, start)| start.saturating_mul(TICK))
    }

    /// Wakes everything due at `now` (nanoseconds).
    pub(crate) fn advance(&mut self, now: u64) {
        let now = now / TICK;
        if self.live == 0 {
            self.elapsed = self.elapsed.max(now);
            return;
        }
        while let Some((level, slot, start)) = self.next_slot() {
            if start > now {
                break;
            }
            self.elapsed = start;
            self.empty_slot(level, slot);
        }
        self.elapsed = self.elapsed.max(now);
    }

    /// Fires what is due in the slot and moves the rest down.
    fn empty_slot(&mut self, level: usize, slot: usize) {
        let mut index = std::mem::replace(&mut self.heads[level][slot], NONE);
        self.occupied[level] &= !(1 << slot);
        while index != NONE {
            let next = self.entry(index).next;
            if self.entry(index).when <= self.elapsed {
                if let Some(waker) = self.release(index) {
                    waker.wake();
                }
            } else {
                self.link(index);
            }
            index = next;
        }
    }

    /// The earliest occupied slot: level, slot, first tick.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        if self.live == 0 {
            return None;
        }
        (0..LEVELS).find_map(|level| {
            let shift = 6 * level;
            let here = (self.elapsed >> shift) % SLOTS as u64;
            let ahead = self.occupied[level].rotate_right(u32::try_from(here).unwrap_or(0));
            if ahead == 0 {
                return None;
            }
            let slot = (u64::from(ahead.trailing_zeros()) + here) % SLOTS as u64;
            let base = self.elapsed >> (shift + 6) << (shift + 6);
            let start = base + (slot << shift);
            // A slot behind us belongs to the next round; the present one of an upper level does too,
            // for whatever is due in it stands on a lower level.
            let wrapped = start < self.elapsed || (level > 0 && slot == here);
            let round = if wrapped { 1 << (shift + 6) } else { 0 };
            Some((level, usize::try_from(slot).unwrap_or(0), start + round))
        })
    }

    fn allocate(&mut self, when: u64, waker: Waker) -> u32 {
        if self.free == NONE {
            let index = u32::try_from(self.entries.len()).expect("fewer than 2^32 timers wait");
            let (previous, next) = (NONE, NONE);
            let waker = Some(waker);
            self.entries.push(Entry { when, waker, generation: 0, place: 0, previous, next });
            return index;
        }
        let index = self.free;
        self.free = self.entry(index).next;
        let entry = self.entry_mut(index);
        entry.when = when;
        entry.waker = Some(waker);
        index
    }

    /// Gives the entry back, with its waker.
    fn release(&mut self, index: u32) -> Option<Waker> {
        let free = self.free;
        let entry = self.entry_mut(index);
        entry.generation = entry.generation.wrapping_add(1);
        entry.next = free;
        let waker = entry.waker.take();
        self.free = index;
        self.live -= 1;
        waker
    }

    fn link(&mut self, index: u32) {
        let when = self.entry(index).when.clamp(self.elapsed + 1, self.elapsed + TICKS_MAX);
        let apart = (self.elapsed ^ when) | (SLOTS as u64 - 1);
        let level = ((63 - apart.leading_zeros() as usize) / 6).min(LEVELS - 1);
        let slot = usize::try_from((when >> (6 * level)) % SLOTS as u64).unwrap_or(0);
        let head = std::mem::replace(&mut self.heads[level][slot], index);
        self.occupied[level] |= 1 << slot;
        if head != NONE {
            self.entry_mut(head).previous = index;
        }
        let entry = self.entry_mut(index);
        entry.previous = NONE;
        entry.next = head;
        entry.place = u16::try_from(level * SLOTS + slot).unwrap_or(0);
    }

    fn unlink(&mut self, index: u32) {
        let Entry { previous, next, place, .. } = *self.entry(index);
        if next != NONE {
            self.entry_mut(next).previous = previous;
        }
        if previous != NONE {
            self.entry_mut(previous).next = next;
            return;
        }
        let (level, slot) = (place as usize / SLOTS, place as usize % SLOTS);
        self.heads[level][slot] = next;
        if next == NONE {
            self.occupied[level] &= !(1 << slot);
        }
    }

    fn entry(&self, index: u32) -> &Entry {
        &self.entries[index as usize]
    }

    fn entry_mut(&mut self, index: u32) -> &mut Entry {
        &mut self.entries[index as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::Wake;

    use super::*;
    use crate::random::Rng;

    #[derive(Default)]
    struct Count(AtomicU64);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn fired(count: &Count) -> u64 {
        count.0.load(Ordering::Relaxed)
    }

    #[test]
    fn fires_at_its_tick_and_not_before() {
        for distance in [1, 63, 64, 65, 4095, 4096, 100_000, 1 << 24, 1 << 35] {
            let count = Arc::new(Count::default());
            let mut wheel = Wheel::new();
            wheel.reset(12_345 * TICK);
            let deadline = (12_345 + distance) * TICK;
            wheel.insert(deadline, Arc::clone(&count).into());
            while let Some(next) = wheel.next() {
                assert!(next <= deadline, "asks to be looked at after the deadline");
                assert_eq!(fired(&count), 0, "early at distance {distance}");
                wheel.advance(next.min(deadline) - 1);
                assert_eq!(fired(&count), 0, "early at distance {distance}");
                wheel.advance(next);
            }
            assert_eq!(fired(&count), 1, "distance {distance}");
        }
    }

    #[test]
    fn a_cancelled_timer_stays_silent_and_its_key_is_stale() {
        let (first, second) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let mut wheel = Wheel::new();
        let key = wheel.insert(5 * TICK, Arc::clone(&first).into());
        wheel.cancel(key);
        let reused = wheel.insert(5 * TICK, Arc::clone(&second).into());
        assert_eq!(reused.index, key.index);
        wheel.cancel(key);
        assert!(!wheel.renew(key, &Arc::clone(&first).into()));
        wheel.advance(6 * TICK);
        assert_eq!((fired(&first), fired(&second)), (0, 1));
    }

    #[test]
    fn agrees_with_a_sorted_map_on_random_timers() {
        let mut rng = Rng::seeded(3);
        let mut wheel = Wheel::new();
        let mut model = BTreeMap::<(u64, usize), Arc<Count>>::new();
        let mut keys = Vec::new();
        let mut now = 0;
        for step in 0..20_000usize {
            match rng.below(10) {
                0..5 => {
                    let bits = rng.below(26);
                    let deadline = now + 1 + rng.below(1 << bits) * (TICK / 3);
                    let count = Arc::new(Count::default());
                    let key = wheel.insert(deadline, Arc::clone(&count).into());
                    model.insert((deadline, step), count);
                    keys.push((key, (deadline, step)));
                }
                5..7 if !keys.is_empty() => {
                    let chosen = usize::try_from(rng.below(keys.len() as u64)).expect("an index");
                    let (key, name) = keys.swap_remove(chosen);
                    wheel.cancel(key);
                    model.remove(&name);
                }
                _ => {
                    let bits = rng.below(24);
                    now += rng.below(1 << bits) * (TICK / 2);
                    wheel.advance(now);
                    let due = |deadline: u64| deadline.div_ceil(TICK) <= now / TICK;
                    for ((deadline, _), count) in &model {
                        assert_eq!(fired(count), u64::from(due(*deadline)), "at {now}");
                    }
                    model.retain(|(deadline, _), _| !due(*deadline));
                }
            }
            assert_eq!(wheel.live, model.len());
        }
    }
}
