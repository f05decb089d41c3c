//! Wire protocol: what is built reads back, what is broken is refused and never a panic, and a
//! stream cut anywhere gives the same messages.

mod backend;
mod corpus;
mod frontend;
mod pagestream;
mod postgres;
mod replication;
mod splitter;
mod startup;

use pg::wire::stream::{KindLimits, Splitter};
use proptest::prelude::*;

/// Many small cases, none remembered on disk.
fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) }
}

/// A string of the protocol: no zero byte.
fn string() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(1_u8..=255, 0..20)
}

fn value() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop::option::of(prop::collection::vec(any::<u8>(), 0..30))
}

/// Kind and body of the one whole message that these bytes are.
fn only_message<'a>(bytes: &'a [u8], limits: &KindLimits) -> (u8, &'a [u8]) {
    let mut splitter = Splitter::new();
    let mut pieces = splitter.split(bytes, limits);
    let piece = pieces.next().expect("one message").expect("in order");
    assert!(pieces.next().is_none(), "one message only");
    assert!(splitter.is_between_messages());
    (piece.kind, piece.whole().expect("a whole message"))
}
