//! Removing litter: objects that nothing names, left by a crash between an upload and the document that was to name it,
//! by a writer that was replaced, or by a removal that failed.
//!
//! Rules:
//!
//! 1. Only the caller says what litter is, by names that it knows. Everything else stays.
//! 2. An object goes when two looks, at least [`LITTER_AGE_MIN`] apart, both found it to be litter: one that was on its
//!    way to being named at the first look is named at the second.
//! 3. Nobody but the document's writer removes anything: that is made sure before each object.
//!
//! What is left open is the one removal that is under way while another writer claims: no store has a removal on condition of
//! another object. It matters only where the claim is made with a list that names what is litter to us: with a copy of
//! our own directory that is more than [`LITTER_AGE_MIN`] old. That copy cannot count on the store anyway, since
//! what it names was let go as ever meanwhile; who takes over recovers from the store.

use std::collections::BTreeMap;
use std::ops::Add;

use runtime::clock::{self, Instant};

use super::{Bucket, BucketError, Listed, Writer};
use crate::limits::{LITTER_AGE_MIN, LITTER_AT_ONCE, LITTER_SEEN_MAX};

/// What the looks so far have found; it begins anew with each claim.
#[derive(Debug)]
pub struct Sweep {
    bucket: Bucket,
    /// Litter as of the last look, and its bytes.
    seen: BTreeMap<String, u64>,
    looked_at: Option<Instant>,
    /// To be removed, the last first.
    due: Vec<Listed>,
}

/// Objects and their bytes, in sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub objects: u64,
    pub bytes: u64,
}

impl Swept {
    #[must_use]
    pub fn of(object: &Listed) -> Swept {
        Swept { objects: 1, bytes: object.bytes }
    }
}

impl Add for Swept {
    type Output = Swept;

    fn add(self, more: Swept) -> Swept {
        Swept { objects: self.objects + more.objects, bytes: self.bytes + more.bytes }
    }
}

impl Sweep {
    #[must_use]
    pub fn new(bucket: &Bucket) -> Sweep {
        let bucket = bucket.clone();
        Sweep { bucket, seen: BTreeMap::new(), looked_at: None, due: Vec::new() }
    }

    /// Whether it is time for another look.
    #[must_use]
    pub fn wants_look(&self) -> bool {
        self.looked_at.is_none_or(|at| clock::now() - at >= LITTER_AGE_MIN)
    }

    /// Takes in a listing; what is litter now and was so at the last look is to be removed. What `is_litter` goes by must
    /// be newer than the listing. Too early a look only waits for the next. Answers what there is.
    pub fn look(&mut self, listed: Vec<Listed>, is_litter: impl Fn(&str) -> bool) -> Swept {
        let litter: BTreeMap<String, u64> = listed
            .into_iter()
            .filter(|object| is_litter(&object.name))
            .take(LITTER_SEEN_MAX)
            .map(|object| (object.name, object.bytes))
            .collect();
        let found = Swept { objects: litter.len() as u64, bytes: litter.values().sum() };
        if self.wants_look() {
            let twice = litter.iter().filter(|(name, _)| self.seen.contains_key(*name));
            self.due = twice.map(|(name, &bytes)| Listed { name: name.clone(), bytes }).collect();
            self.seen = litter;
            self.looked_at = Some(clock::now());
        }
        found
    }

    /// Leaves everything for later, since the store does not do what is wanted of it: the next look is as far off as after
    /// a look.
    pub fn put_off(&mut self) {
        self.due.clear();
        self.looked_at = Some(clock::now());
    }

    /// Whether something is left to be removed.
    #[must_use]
    pub fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Removes a batch of what is due, if anything is.
    ///
    /// # Errors
    /// [`super::Fault::Stale`] when another writer has claimed the document: then nothing was removed since. Others when
    /// the store refuses or cannot be reached for long.
    pub async fn remove(&mut self, writer: &Writer) -> Result<Swept, BucketError> {
        let mut removed = Swept::default();
        for _ in 0..LITTER_AT_ONCE {
            let Some(object) = self.due.last() else { break };
            writer.check().await?;
            self.bucket.delete(&object.name).await?;
            removed = removed + Swept::of(object);
            self.due.pop();
        }
        Ok(removed)
    }
}
