//! Random numbers: the operating system's for secrets, a seeded generator for everything that must
//! run the same way twice.

use std::cell::RefCell;

/// Fills `bytes` from the operating system's generator. For keys, salts and nonces.
///
/// Short ones come from a store of the thread, so that not every log-in costs a system call. Bytes that were given out
/// are wiped from it.
///
/// # Panics
/// When the system has no randomness to give; no secret may be made from anything else.
pub fn fill(bytes: &mut [u8]) {
    let stored = bytes.len() <= STORED_FILL_MAX
        && STORE.try_with(|store| store.borrow_mut().give(bytes)).is_ok();
    if !stored {
        ask(bytes);
    }
}

fn ask(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the operating system has no random bytes to give");
}

/// Bytes asked for at once: getrandom(2) answers up to 256 without being interrupted.
const STORE_BYTES: usize = 256;
/// Longest fill from the store.
const STORED_FILL_MAX: usize = 64;

/// Random bytes that nobody has seen yet: those from `used` on.
struct Store {
    bytes: [u8; STORE_BYTES],
    used: usize,
}

thread_local! {
    static STORE: RefCell<Store> =
        const { RefCell::new(Store { bytes: [0; STORE_BYTES], used: STORE_BYTES }) };
}

impl Store {
    fn give(&mut self, bytes: &mut [u8]) {
        if STORE_BYTES - self.used < bytes.len() {
            ask(&mut self.bytes);
            self.used = 0;
        }
        let given = &mut self.bytes[self.used..self.used + bytes.len()];
        bytes.copy_from_slice(given);
        given.fill(0);
        self.used += bytes.len();
    }
}

/// A small, fast, seeded generator (xoshiro256**, Blackman and Vigna, "Scrambled linear pseudorandom
/// number generators"). Never for secrets.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The same seed gives the same numbers on every machine.
    pub fn seeded(seed: u64) -> Self {
        let mut seed = seed;
        Self { state: std::array::from_fn(|_| split_mix(&mut seed)) }
    }

    /// Seeded by the operating system.
    pub fn from_os() -> Self {
        let mut seed = [0; 8];
        fill(&mut seed);
        Self::seeded(u64::from_le_bytes(seed))
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// Uniform in `0..n` (Lemire's multiplication, with rejection, so there is no bias).
    ///
    /// # Panics
    /// When `n` is zero: there is no such number.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "there is no number below zero");
        let rejected = n.wrapping_neg() % n;
        loop {
            let (low, high) = self.next_u64().carrying_mul(n, 0);
            if low >= rejected {
                return high;
            }
        }
    }
}

/// The seeding generator xoshiro's authors recommend (Steele, Lea, Flood: SplitMix64).
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_is_one_sequence() {
        let take = |seed| {
            let mut rng = Rng::seeded(seed);
            (0..8).map(|_| rng.next_u64()).collect::<Vec<_>>()
        };
        assert_eq!(take(1), take(1));
        assert_ne!(take(1), take(2));
    }

    #[test]
    fn below_reaches_every_number_and_none_beyond() {
        let mut rng = Rng::seeded(7);
        let mut seen = [0u32; 10];
        for _ in 0..10_000 {
            seen[usize::try_from(rng.below(10)).expect("below ten")] += 1;
        }
        assert!(seen.iter().all(|count| (800..1200).contains(count)), "uneven: {seen:?}");
        assert_eq!(rng.below(1), 0);
    }

    #[test]
    fn the_operating_system_gives_different_bytes_each_time() {
        let (mut a, mut b) = ([0; 32], [0; 32]);
        fill(&mut a);
        fill(&mut b);
        assert_ne!(a, b);
    }

    #[test]
    fn the_store_gives_no_byte_twice() {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..10 * STORE_BYTES {
            let mut bytes = [0; 12];
            fill(&mut bytes);
            assert!(seen.insert(bytes), "given before, or not filled: {bytes:?}");
        }
    }
}
