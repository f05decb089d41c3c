//! A replica in memory that takes damaged records: it never takes more memory than the blocks that they name.

use pg::page::PAGE_BYTES;
use pg::replay::{Replay, Replica};
use pg::state::State;

use super::seeds::{Script, changes, records, with_damaged};

/// Takes one input.
pub fn run(input: &[u8]) {
    let mut script = Script(input);
    let flags = script.u8();
    let mut replica = Replica::new(State::unknown(), flags & 1 != 0);
    let mut judge = Replay::from_nothing();
    let mut blocks = 0;
    for _ in 0..1 + script.u8() % 8 {
        let seeds = if script.u8() & 3 != 0 { records() } else { changes() };
        let seed = &seeds[script.u16() % seeds.len()];
        with_damaged(seed, &mut script, |record, _script| {
            for (block, page) in record.blocks.iter().zip(&seed.pages) {
                replica.pages.put(block.tag, block.number, page);
            }
            blocks += record.blocks.len();
            if let Err(error) = replica.apply(record) {
                assert!(!error.to_string().is_empty());
            }
            if let Err(error) = judge.apply(record) {
                assert!(!error.to_string().is_empty());
            }
        });
    }
    // A database may have been made as a copy of another, with each of its pages.
    assert!(replica.pages.bytes() <= (blocks << 8) * PAGE_BYTES);
    assert!(judge.complaints.iter().all(|complaint| !complaint.what.is_empty()));
}
