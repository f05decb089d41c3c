//! Hash maps and sets with a fixed, fast hasher: the same iteration order in every run, which the
//! simulator relies on. Not for keys an attacker chooses freely in large numbers: bound those maps.

use std::hash::{BuildHasherDefault, Hasher};

/// `std`'s map with [`FixedHasher`]. Make one with `HashMap::default()`.
pub type HashMap<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<FixedHasher>>;
/// `std`'s set with [`FixedHasher`]. Make one with `HashSet::default()`.
pub type HashSet<T> = std::collections::HashSet<T, BuildHasherDefault<FixedHasher>>;

/// Multiply-and-rotate hashing of 8-byte words, finished by a folded multiplication so that the low
/// bits, which choose the bucket, depend on all of the input.
#[derive(Clone, Copy, Default)]
pub struct FixedHasher {
    state: u64,
}

/// 2^64 divided by the golden ratio, made odd: the usual constant of multiplicative hashing.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

impl FixedHasher {
    fn mix(&mut self, word: u64) {
        self.state = (self.state.rotate_left(23) ^ word).wrapping_mul(MULTIPLIER);
    }
}

impl Hasher for FixedHasher {
    fn finish(&self) -> u64 {
        let wide = u128::from(self.state) * u128::from(MULTIPLIER | 1 << 63);
        let bytes = wide.to_le_bytes();
        let (low, high) = bytes.split_at(8);
        let word = |half: &[u8]| half.iter().rev().fold(0, |w, b| (w << 8) | u64::from(*b));
        word(low) ^ word(high)
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.mix(word.iter().rev().fold(0, |w, b| (w << 8) | u64::from(*b)));
        }
        let rest = words.remainder();
        if !rest.is_empty() {
            self.mix(rest.iter().rev().fold(rest.len() as u64, |w, b| (w << 8) | u64::from(*b)));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.mix(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.mix(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.mix(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.mix(value as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::hash::Hash;

    use super::*;

    fn hash(value: impl Hash) -> u64 {
        let mut hasher = FixedHasher::default();
        value.hash(&mut hasher);
        hasher.finish()
    }

    #[test]
    fn iteration_order_is_the_same_for_the_same_insertions() {
        let build = || (0..1000u32).map(|n| (n * 7, n)).collect::<HashMap<_, _>>();
        let order = |map: &HashMap<u32, u32>| map.keys().copied().collect::<Vec<_>>();
        assert_eq!(order(&build()), order(&build()));
    }

    #[test]
    fn low_bits_spread_for_consecutive_and_aligned_keys() {
        for step in [1u64, 4096, 1 << 32] {
            let mut buckets = [0u32; 64];
            for n in 0..6400 {
                buckets[(hash(n * step) % 64) as usize] += 1;
            }
            let fullest = buckets.iter().max().copied();
            assert!(fullest < Some(200), "step {step}: a bucket of {fullest:?} out of 6400 / 64");
        }
    }

    #[test]
    fn strings_that_differ_in_length_only_hash_apart() {
        assert_ne!(hash("a"), hash("a\0"));
        assert_ne!(hash([0u8; 3].as_slice()), hash([0u8; 4].as_slice()));
    }
}
