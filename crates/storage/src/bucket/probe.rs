//! Whether a store's conditional create is what it says: several writers race for one name, one may win.
//!
//! A test in sequence is not enough. A store that looks whether the object exists, and then writes it, passes that and
//! still lets two page servers both believe that a timeline is theirs.

use super::{Bucket, BucketError, Creation, Fault};
use crate::limits::{PROBE_ROUNDS, PROBE_WRITERS};

/// Races writers for one new name in each of some rounds.
pub(super) async fn race(bucket: &Bucket) -> Result<(), BucketError> {
    let mut nonce = [0; 8];
    runtime::random::fill(&mut nonce);
    for round in 0..PROBE_ROUNDS {
        let name = format!("probe/{:016x}-{round}", u64::from_le_bytes(nonce));
        let raced = race_once(bucket, &name).await;
        // Left behind, it would be litter; a failure to remove it changes nothing of what we learned.
        let removed = bucket.delete(&name).await;
        raced?;
        removed?;
    }
    Ok(())
}

async fn race_once(bucket: &Bucket, name: &str) -> Result<(), BucketError> {
    let mut writers = Vec::new();
    for writer in 0..PROBE_WRITERS {
        let (bucket, name) = (bucket.clone(), name.to_owned());
        let bytes = format!("writer {writer} of {name}").into_bytes();
        writers.push(runtime::executor::spawn(async move {
            let created = bucket.create(&name, bytes.clone()).await;
            created.map(|creation| (creation == Creation::Created).then_some(bytes))
        }));
    }
    let mut winners = Vec::new();
    for writer in writers {
        let ended = writer.await;
        let ended = ended.unwrap_or(Ok(None));
        winners.extend(ended?);
    }
    let kept = bucket.get(name, PROBE_BYTES_MAX).await?;
    match winners.as_slice() {
        [winner] if kept.as_ref() == Some(winner) => {}
        others => {
            let fault = Fault::Unsafe { winners: others.len(), writers: PROBE_WRITERS };
            return Err(BucketError::new("create", name, fault));
        }
    }
    // The winner's object stays whoever comes later.
    match bucket.create(name, b"a late writer".to_vec()).await? {
        Creation::Exists => Ok(()),
        Creation::Created => {
            let fault = Fault::Unsafe { winners: 2, writers: PROBE_WRITERS + 1 };
            Err(BucketError::new("create", name, fault))
        }
    }
}

/// More than any writer of a probe writes.
const PROBE_BYTES_MAX: usize = 256;
