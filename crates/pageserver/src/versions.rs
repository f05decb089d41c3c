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
use storage::entry::{FoundEntry, OwnedEntry};
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

    fn found(found: FoundEntry) -> Version {
        let (lsn, whole) = (Lsn(found.entry().version.0), found.entry().whole);
        Version { lsn, whole, source: Source::Found(found) }
    }
}

#[derive(Clone)]
enum Source {
    /// Of a record that stays on disk meanwhile.
    Wal(Rc<WalReader>, WalVersion, Position, Rc<Hold>),
    Found(FoundEntry),
    Stored(Vec<u8>),
}

/// A key, and after which LSN its versions are wanted.
pub(crate) type Wanted = (Key, Lsn);

impl Timeline {
    /// The versions of a key in `(after, upto]`, oldest first, from the newest whole one on.
    pub async fn versions(&self, key: Key, after: Lsn, upto: Lsn) -> io::Result<Vec<Version>> {
        let all = self.versions_of(&[(key, after)], upto).await?;
        Ok(all.into_iter().next().unwrap_or_default())
    }

    /// The same of several keys, sorted: the layers of each timeline are asked once for all of them.
    ///
    /// One timeline after another, from this one to its ancestors: all that a branch has is newer than what its ancestor
    /// has.
    pub(crate) async fn versions_of(
        &self,
        wanted: &[Wanted],
        upto: Lsn,
    ) -> io::Result<Vec<Vec<Version>>> {
        let (mut timeline, mut upto) = (self, upto);
        let mut all: Vec<Vec<Version>> = vec![Vec::new(); wanted.len()];
        let mut open: Vec<usize> = (0..wanted.len()).collect();
        loop {
            let here: Vec<Wanted> = open.iter().map(|&number| wanted[number]).collect();
            let own = timeline.versions_here(&here, upto).await?;
            for (&number, mut own) in open.iter().zip(own) {
                own.append(&mut all[number]);
                all[number] = own;
            }
            let Some((ancestor, at)) = &timeline.ancestor else { return Ok(all) };
            open.retain(|&number| {
                let is_complete = all[number].first().is_some_and(|first| first.whole);
                !is_complete && *at > wanted[number].1
            });
            if open.is_empty() {
                return Ok(all);
            }
            upto = upto.min(*at);
            timeline = ancestor;
        }
    }

    /// What this timeline has of its own.
    async fn versions_here(&self, wanted: &[Wanted], upto: Lsn) -> io::Result<Vec<Vec<Version>>> {
        // The index first: what is written to a layer meanwhile is seen twice rather than not at all.
        let indexed = wanted.iter().map(|&(key, after)| self.indexed_here(key, after, upto));
        let mut all: Vec<Vec<Version>> = indexed.collect();
        let is_open = |number: &usize| !all[*number].first().is_some_and(|first| first.whole);
        let open: Vec<usize> = (0..wanted.len()).filter(is_open).collect();
        let keys: Vec<Key> = open.iter().map(|&number| wanted[number].0).collect();
        let newer_than = |&number: &usize| Some(storage::version::Version(wanted[number].1.0));
        let newer_than: Vec<_> = open.iter().map(newer_than).collect();
        let found = self.store.find(&keys, storage::version::Version(upto.0), &newer_than).await?;
        for (&number, found) in open.iter().zip(found) {
            let mut both: Vec<Version> = found.into_iter().map(Version::found).collect();
            let known = both.last().map_or(wanted[number].1, |last| last.lsn);
            both.extend(all[number].drain(..).filter(|version| version.lsn > known));
            let whole = both.iter().rposition(|version| version.whole).unwrap_or(0);
            both.drain(..whole);
            all[number] = both;
        }
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

    /// The bytes of a version, as [`crate::payload`] has them.
    pub async fn payload<'v>(&self, version: &'v Version) -> io::Result<Cow<'v, [u8]>> {
        match &version.source {
            Source::Found(found) => Ok(Cow::Borrowed(found.entry().payload)),
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
