//! What records do besides changing pages, and values under keys: real records, damaged, on any value.

use pg::redo::effects::{Change, Checkpoint, Parameters, effects, prepared_header};
use pg::state::{Counters, Sizes, Touch, origins_file, origins_of_file, redo, touches};

use super::seeds::{Script, changes, with_damaged};

/// Takes one input.
pub fn run(input: &[u8]) {
    let mut script = Script(input);
    let seeds = changes();
    let seed = &seeds[script.u16() % seeds.len()];
    let mut counters = counters(script.u8() & 1 != 0);
    let mut sizes = Sizes::default();
    with_damaged(seed, &mut script, |record, script| {
        let changes = match effects(record) {
            Ok(changes) => changes,
            Err(error) => {
                assert!(error.to_string().contains(&record.lsn.to_string()), "{error}");
                return;
            }
        };
        sizes.note_blocks(record);
        counters.note_xid(record.header.xid);
        for change in &changes {
            if let Change::TransactionPrepared { state, .. } = change {
                assert!(prepared_header(state, record.version).is_some());
            }
            for touch in touches(change, &counters) {
                let Touch::Redo(key) = touch else { continue };
                let mut value =
                    if script.u8() & 1 == 0 { Vec::new() } else { vec![script.u8(); 8192] };
                script.damage(&mut value);
                let before = value.clone();
                match redo(key, &mut value, change) {
                    Ok(()) => {}
                    Err(error) => assert!(value == before && !error.to_string().is_empty()),
                }
            }
            counters.apply(change);
            sizes.apply(change);
        }
        assert_eq!(Counters::from_bytes(&counters.to_bytes()), Some(counters));
    });
    let _ = Counters::from_bytes(script.0);
    if let Some(value) = origins_of_file(script.0) {
        let _ = origins_file(&value);
    }
}

fn counters(track_commit_timestamp: bool) -> Counters {
    Counters {
        checkpoint: Checkpoint::parse(&[3; Checkpoint::BYTES], false).unwrap(),
        parameters: Parameters {
            max_connections: 1,
            max_worker_processes: 1,
            max_wal_senders: 1,
            max_prepared_transactions: 1,
            max_locks_per_transaction: 1,
            wal_level: 1,
            wal_log_hints: false,
            track_commit_timestamp,
        },
    }
}
