//! Documents of which every version is a new object: `folder/00000000000000000042`.
//!
//! A version is made by create-if-absent under the number after the newest one, and carries its writer's generation.
//! A writer begins by claiming: it publishes the newest version again with a generation of its own, one higher. From
//! then on whoever wrote before finds its next number taken, and stops. No clock and no lease is involved: the order
//! of the numbers decides.
//!
//! Old versions are removed, so that a writer that slept for long could find its next number free again. Therefore a
//! version counts only once its writer has seen that none with a higher number is there.

use super::{Bucket, BucketError, Creation, Fault};
use crate::limits::{VERSION_BYTES_MAX, VERSIONS_KEPT};

/// A document that is kept as numbered objects in a folder.
#[derive(Clone, Debug)]
pub struct Numbered {
    bucket: Bucket,
    folder: String,
}

/// One version of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    pub number: u64,
    pub generation: u64,
    /// Who wrote it: unique to each claim.
    pub writer: Nonce,
    pub body: Vec<u8>,
}

/// By which a writer's versions are known.
pub type Nonce = [u8; 16];

/// What came of a claim.
#[derive(Debug)]
pub enum Claim {
    /// The right to publish, and the claim itself, which is the newest version.
    Made(Writer, Published),
    /// The newest version is not one to follow. Nothing was changed.
    Declined(Published),
}

/// The right to publish, until somebody else claims it.
#[derive(Debug)]
pub struct Writer {
    document: Numbered,
    number: u64,
    generation: u64,
    nonce: Nonce,
}

impl Numbered {
    #[must_use]
    pub fn new(bucket: &Bucket, folder: impl Into<String>) -> Numbered {
        Numbered { bucket: bucket.clone(), folder: folder.into() }
    }

    /// The newest version, if there is any.
    ///
    /// # Errors
    /// [`Fault::Damaged`] when it is not as it was written; others when the store cannot be asked.
    pub async fn newest(&self) -> Result<Option<Published>, BucketError> {
        // A version listed may be removed before it is read, when newer ones came meanwhile: look again.
        for _ in 0..LOOKS_MAX {
            let Some(number) = self.numbers(None).await?.pop() else { return Ok(None) };
            if let Some(found) = self.version(number).await? {
                return Ok(Some(found));
            }
        }
        let fault = Fault::Unavailable("its versions change faster than they are read".to_owned());
        Err(BucketError::new("read", &self.folder, fault))
    }

    /// One version, if it is (still) there.
    ///
    /// # Errors
    /// As [`Numbered::newest`].
    pub async fn version(&self, number: u64) -> Result<Option<Published>, BucketError> {
        let name = self.name(number);
        let Some(bytes) = self.bucket.get(&name, VERSION_BYTES_MAX).await? else {
            return Ok(None);
        };
        let envelope = Envelope::from_bytes(&bytes)
            .map_err(|what| BucketError::new("read", &name, Fault::Damaged(what)))?;
        if envelope.number != number {
            let fault = Fault::Damaged("it bears another number");
            return Err(BucketError::new("read", &name, fault));
        }
        let Envelope { generation, nonce: writer, body, .. } = envelope;
        Ok(Some(Published { number, generation, writer, body: body.to_owned() }))
    }

    /// Takes the right to publish from whoever has it. `first` is the body of version 1 where there is none yet.
    /// Answers the newest version, which is the claim itself.
    ///
    /// # Errors
    /// When several claim at once and others win too often, or the store cannot be asked.
    pub async fn claim(&self, first: &[u8]) -> Result<(Writer, Published), BucketError> {
        let mut nonce = [0; 16];
        runtime::random::fill(&mut nonce);
        match self.claim_as(nonce, first, |_newest| true).await? {
            Claim::Made(writer, published) => Ok((writer, published)),
            Claim::Declined(newest) => Err(BucketError::new(
                "claim",
                &self.folder,
                Fault::Stale { generation: newest.generation },
            )),
        }
    }

    /// The same under a nonce of the caller's, only if the newest version is one that may be followed.
    ///
    /// # Errors
    /// As [`Numbered::claim`].
    pub async fn claim_as(
        &self,
        nonce: Nonce,
        first: &[u8],
        accept: impl Fn(&Published) -> bool,
    ) -> Result<Claim, BucketError> {
        for _ in 0..LOOKS_MAX {
            let newest = self.newest().await?;
            if let Some(newest) = newest.as_ref().filter(|newest| !accept(newest)) {
                return Ok(Claim::Declined(newest.clone()));
            }
            let (number, generation, body) = match newest {
                Some(newest) => (newest.number, newest.generation, newest.body),
                None => (0, 0, first.to_owned()),
            };
            let document = self.clone();
            let mut writer = Writer { document, number, generation: generation + 1, nonce };
            match writer.publish(&body).await {
                Ok(()) => {
                    let Writer { number, generation, .. } = writer;
                    let published = Published { number, generation, writer: nonce, body };
                    return Ok(Claim::Made(writer, published));
                }
                Err(error) if matches!(error.fault, Fault::Stale { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let fault = Fault::Unavailable("others claim it at the same time".to_owned());
        Err(BucketError::new("claim", &self.folder, fault))
    }

    /// Numbers of the versions that are there, in order.
    async fn numbers(&self, after: Option<u64>) -> Result<Vec<u64>, BucketError> {
        let after = after.map(|number| self.name(number));
        let listed = self.bucket.list_after(&self.folder, after.as_deref()).await?;
        let number = |name: &str| name.rsplit('/').next()?.parse().ok();
        let mut numbers: Vec<u64> =
            listed.iter().filter_map(|object| number(&object.name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Twenty digits hold every number, so that names sort as numbers do.
    fn name(&self, number: u64) -> String {
        format!("{}/{number:020}", self.folder)
    }
}

impl Writer {
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Number of the newest version that this writer knows: its own last.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Makes sure that nobody else has claimed the document since.
    ///
    /// # Errors
    /// [`Fault::Stale`] when somebody has; others when the store cannot be asked.
    pub async fn check(&self) -> Result<(), BucketError> {
        if self.document.numbers(Some(self.number)).await?.is_empty() {
            return Ok(());
        }
        match self.document.newest().await? {
            Some(newest) if newest.writer != self.nonce => {
                let generation = newest.generation;
                let name = self.document.name(newest.number);
                Err(BucketError::new("publish", &name, Fault::Stale { generation }))
            }
            // An attempt of ours of which no answer came; or all has been removed by hand.
            _ => Ok(()),
        }
    }

    /// Makes the next version.
    ///
    /// # Errors
    /// [`Fault::Stale`] when another writer has claimed the document: this one must not go on. With any other error
    /// the version may be there or not; publishing the same body again is right in both cases.
    pub async fn publish(&mut self, body: &[u8]) -> Result<(), BucketError> {
        let number = self.number + 1;
        let name = self.document.name(number);
        let envelope =
            Envelope { number, generation: self.generation, nonce: self.nonce, body }.to_bytes();
        if envelope.len() > VERSION_BYTES_MAX {
            return Err(BucketError::new("create", &name, Fault::TooLarge));
        }
        let created = self.document.bucket.create(&name, envelope).await?;
        let newer = self.document.numbers(Some(number)).await?.pop();
        if created == Creation::Created && newer.is_none() {
            self.number = number;
            self.tidy_up().await;
            return Ok(());
        }
        if created == Creation::Created {
            // Too late to count. It would not be read, but it is not to confuse anybody either.
            self.document.bucket.delete(&name).await?;
        }
        let newest = self.document.newest().await?;
        let own = newest.as_ref().is_some_and(|newest| newest.writer == self.nonce);
        if own && newer.is_none() {
            // An earlier attempt of ours, with another body, went through and its answer was lost.
            self.number = number;
            return Box::pin(self.publish(body)).await;
        }
        let generation = newest.map_or(self.generation, |newest| newest.generation);
        Err(BucketError::new("publish", &name, Fault::Stale { generation }))
    }

    /// Removes the version that is old enough now. Failing to is harmless: it is one object too many.
    async fn tidy_up(&self) {
        let Some(old) = self.number.checked_sub(VERSIONS_KEPT).filter(|old| *old > 0) else {
            return;
        };
        if let Err(error) = self.document.bucket.delete(&self.document.name(old)).await {
            tracing::debug!(%error, "an old version stays");
        }
    }
}

/// How often versions may vanish, or claims be lost, under a reader before it gives up.
const LOOKS_MAX: usize = 8;

const MAGIC: &[u8; 8] = b"HDWVERS1";
const HEADER_BYTES: usize = 8 + 8 + 8 + 16 + 4;

/// The bytes of a version: magic, number, generation, nonce, CRC-32C of all of that and the body, body; little-endian.
struct Envelope<'a> {
    number: u64,
    generation: u64,
    /// Unique to the writer: how it knows its own version again.
    nonce: Nonce,
    body: &'a [u8],
}

impl<'a> Envelope<'a> {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.body.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        bytes.extend_from_slice(&self.nonce);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), self.body);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(self.body);
        bytes
    }

    fn from_bytes(bytes: &'a [u8]) -> Result<Envelope<'a>, &'static str> {
        let short = "it is too short";
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(short)?;
        let (number, rest) = rest.split_first_chunk().ok_or(short)?;
        let (generation, rest) = rest.split_first_chunk().ok_or(short)?;
        let (nonce, rest) = rest.split_first_chunk().ok_or(short)?;
        let (crc, body) = rest.split_first_chunk().ok_or(short)?;
        if magic != MAGIC {
            return Err("it is no version of a document of Howdah's, or of a newer format");
        }
        let head = bytes.get(..HEADER_BYTES - 4).ok_or(short)?;
        if crc32c::crc32c_append(crc32c::crc32c(head), body) != u32::from_le_bytes(*crc) {
            return Err("its checksum is wrong");
        }
        let number = u64::from_le_bytes(*number);
        Ok(Envelope { number, generation: u64::from_le_bytes(*generation), nonce: *nonce, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_with_any_bit_flipped_is_refused() {
        let whole =
            Envelope { number: 7, generation: 3, nonce: [9; 16], body: b"layers" }.to_bytes();
        let read = Envelope::from_bytes(&whole).expect("it is whole");
        assert_eq!((read.number, read.generation, read.body), (7, 3, &b"layers"[..]));
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Envelope::from_bytes(&damaged).is_err(), "bit {bit}");
        }
        for length in 0..whole.len() {
            assert!(Envelope::from_bytes(&whole[..length]).is_err(), "{length} bytes");
        }
    }
}
