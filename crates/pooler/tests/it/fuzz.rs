//! Every fuzz target over its corpus and what a little damage makes of it, always in the same way.
//!
//! The targets are those of `/fuzz`, which a coverage-led fuzzer calls without end; here they run as any other test, on
//! the compiler of the rest. The corpus is bounded, so is the damage, and a watch ends an input that would not end.

#[expect(unreachable_pub, let_underscore_drop, reason = "a library of its own for the fuzzers")]
#[path = "../../../../fuzz/src/lib.rs"]
mod targets;

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Damaged inputs for each file of a corpus, and for an empty one.
const ROUNDS: usize = 20;
/// Scripts say which record to take in their first bytes: this many are made up, so that every record has its turn.
const SCRIPTS: usize = 2000;
const SCRIPT_BYTES: usize = 64;
/// No input takes a thousandth of it on a machine at rest.
const PATIENCE: Duration = Duration::from_secs(60);

/// Their inputs say how to damage real records.
const SCRIPTED: [&str; 5] = ["page", "redo", "replay", "state", "wal"];

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus");

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound.max(1)
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }

    /// Flips bits, cuts, repeats, and makes lengths lie.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _each in 0..=self.below(4) {
            let at = self.below(bytes.len());
            let lie = [[0; 4], [0xFF; 4], [0x7F, 0xFF, 0xFF, 0xFF], [0, 0, 0, 0x80]][self.below(4)];
            match self.below(6) {
                0 => bytes.truncate(at),
                1 => bytes.extend_from_within(at..),
                2 => bytes.iter_mut().skip(at).zip(lie).for_each(|(byte, lie)| *byte = lie),
                3 => bytes.insert(at, self.byte()),
                _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << self.below(8)),
            }
        }
    }
}

#[test]
fn no_target_fails_on_its_corpus_or_on_what_damage_makes_of_it() {
    for (name, run) in targets::TARGETS {
        watch(name, run);
    }
}

#[test]
#[should_panic(expected = "sql fails on [")]
fn a_target_that_fails_is_told_with_the_input() {
    watch("sql", |input| assert!(input.len() < 10));
}

fn watch(name: &'static str, run: targets::Target) {
    let (send, inputs) = channel();
    #[expect(clippy::disallowed_methods, reason = "one that hangs cannot be joined")]
    let worker = std::thread::spawn(move || take_all(name, run, &send));
    let (mut last, mut count) = (Vec::new(), 0);
    loop {
        match inputs.recv_timeout(PATIENCE) {
            Ok(input) => (last, count) = (input, count + 1),
            Err(RecvTimeoutError::Timeout) => panic!("{name} does not end on {last:02x?}"),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    assert!(worker.join().is_ok(), "{name} fails on {last:02x?}");
    assert!(count > ROUNDS * 2, "{name} has no corpus");
}

/// Tells of each input before it is taken.
fn take_all(name: &str, run: targets::Target, tell: &Sender<Vec<u8>>) {
    let take = |input: &[u8]| {
        tell.send(input.to_vec()).unwrap();
        run(input);
    };
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    take(&[]);
    for seed in corpus(name) {
        take(&seed);
        for _round in 0..ROUNDS {
            let mut input = seed.clone();
            random.damage(&mut input);
            take(&input);
        }
    }
    for _round in 0..if SCRIPTED.contains(&name) { SCRIPTS } else { 0 } {
        let length = random.below(SCRIPT_BYTES);
        let script: Vec<u8> = (0..length).map(|_at| random.byte()).collect();
        take(&script);
    }
}

#[expect(clippy::disallowed_methods, reason = "reads the seed files")]
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = std::fs::read_dir(format!("{CORPUS}/{name}"));
    let mut files: Vec<_> =
        folder.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|path| std::fs::read(path).unwrap()).collect()
}
