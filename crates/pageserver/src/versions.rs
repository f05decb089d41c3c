//! The stored versions of one key, wherever they are: in WAL that only the index knows, in layers, in an ancestor's
//! WAL or layers.
//!
//! Invariant: versions count on from each other along a branch's ancestry, so that sorting by version is all it takes
//! to put the sources together; what is seen twice (written to a layer just now) counts once.

use std::borrow::Cow;
use std::io;
use std::rc::Rc;

use pg::lsn::Lsn;
use pg::wal::reader::StreamDecoder;
use pg::wal::segment::WalVersion;
use storage::entry::OwnedEntry;
use storage::key::Key;

use crate::index::{Effect, Position};
use crate::payload;
use crate::timeline::Timeline;
use crate::wal_store::{Hold, WalReader};

/// One version of a page; what it holds is got by [`Timeline::payload`].
#[derive(Clone)]
pub struct Version {
    /// End of the record that made it.
    pub lsn: Lsn,
    /// Nothing before it matters.
    pub whole: bool,
    source: Source,
}

impl Version {
    /// A version that a layer has.
    pub(crate) fn stored(entry: OwnedEntry) -> Version {
        let source = Source::Stored(entry.payload);
        Version { lsn: Lsn(entry.version.0), whole: entry.whole, source }
    }
}

#[derive(Clone)]
enum Source {
    /// Of a record that stays on disk meanwhile.
    Wal(Rc<WalReader>, WalVersion, Position, Rc<Hold>),
    Stored(Vec<u8>),
}

impl Timeline {
    /// The versions of a key in `(after, upto]`, oldest first, from the newest whole one on.
    ///
    /// One timeline after another, from this one to its ancestors: all that a branch has is newer than what its ancestor
    /// has.
    pub async fn versions(&self, key: Key, after: Lsn, upto: Lsn) -> io::Result<Vec<Version>> {
        let (mut timeline, mut upto) = (self, upto);
        let mut all: Vec<Version> = Vec::new();
        loop {
            let mut own = timeline.versions_here(key, after, upto).await?;
            let is_complete = own.first().is_some_and(|first| first.whole);
            own.append(&mut all);
            all = own;
            match &timeline.ancestor {
                Some((ancestor, at)) if !is_complete && *at > after => {
                    upto = upto.min(*at);
                    timeline = ancestor;
                }
                _ => return Ok(all),
            }
        }
    }

    /// What this timeline has of its own.
    async fn versions_here(&self, key: Key, after: Lsn, upto: Lsn) -> io::Result<Vec<Version>> {
        // The index first: what is written to a layer meanwhile is seen twice rather than not at all.
        let indexed = self.indexed_here(key, after, upto);
        if indexed.first().is_some_and(|first| first.whole) {
            return Ok(indexed);
        }
        let mut all = self.stored_here(key, after, upto).await?;
        let known = all.last().map_or(after, |last| last.lsn);
        all.extend(indexed.into_iter().filter(|version| version.lsn > known));
        let whole = all.iter().rposition(|version| version.whole).unwrap_or(0);
        all.drain(..whole);
        Ok(all)
    }

    /// What only the index of the newest WAL knows.
    fn indexed_here(&self, key: Key, after: Lsn, upto: Lsn) -> Vec<Version> {
        let own = self.level0.borrow().chain(key, after, upto);
        let Some(first) = own.first() else { return Vec::new() };
        let hold = Rc::new(self.wal.hold(first.start));
        let wal_version = self.manifest.wal_version();
        let version = |position: Position| Version {
            lsn: position.end(),
            whole: position.effect == Effect::Initial,
            source: Source::Wal(Rc::clone(&self.wal), wal_version, position, Rc::clone(&hold)),
        };
        own.into_iter().map(version).collect()
    }

    /// What its layers have.
    async fn stored_here(&self, key: Key, after: Lsn, upto: Lsn) -> io::Result<Vec<Version>> {
        let at = storage::version::Version(upto.0);
        let newer_than = Some(storage::version::Version(after.0));
        let mut read = self.store.read(&[key], at, &[newer_than]).await?;
        let entries = read.pop().unwrap_or_default();
        Ok(entries.into_iter().map(Version::stored).collect())
    }

    /// The bytes of a version, as [`crate::payload`] has them.
    pub async fn payload<'v>(&self, version: &'v Version) -> io::Result<Cow<'v, [u8]>> {
        match &version.source {
            Source::Stored(bytes) => Ok(Cow::Borrowed(bytes)),
            Source::Wal(wal, version, position, _hold) => {
                Ok(Cow::Owned(read_record(wal, *version, *position).await?))
            }
        }
    }
}

/// The record at a position, as a payload.
async fn read_record(
    wal: &WalReader,
    version: WalVersion,
    position: Position,
) -> io::Result<Vec<u8>> {
    let bytes = wal.read(position.start, position.end()).await?;
    let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
    let mut decoder =
        StreamDecoder::at_record(position.start, wal.segment_bytes()).assume_version(version);
    let mut input = &bytes[..];
    match decoder.next(&mut input) {
        Ok(Some(raw)) if raw.lsn == position.start && raw.end_lsn == position.end() => {
            Ok(payload::record(position, &raw))
        }
        Ok(_) => Err(invalid(format!("the record at {} is not there any more", position.start))),
        Err(error) => Err(invalid(error.to_string())),
    }
}
