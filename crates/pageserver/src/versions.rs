//! The stored versions of one key, wherever they are: in WAL that only the index knows, in layers, in an ancestor's
//! WAL or layers.
//!
//! Invariant: versions count on from each other along a branch's ancestry, so that sorting by version is all it takes
//! to put the sources together; what is seen twice (written to a layer just now) counts once.

use std::io;
use std::rc::Rc;

use pg::lsn::Lsn;
use pg::wal::reader::StreamDecoder;
use pg::wal::record::RawRecord;
use pg::wal::segment::WalVersion;
use storage::entry::{FoundEntry, OwnedEntry};
use storage::key::Key;

use crate::index::{Effect, Position};
use crate::payload::{self, Payload};
use crate::timeline::Timeline;
use crate::wal_store::{Hold, Piece, WalReader};

/// One version of a page; what it holds is got by [`Timeline::content`].
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
        Version { lsn: Lsn(found.version.0), whole: found.whole, source: Source::Found(found) }
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

    /// What a version holds.
    pub async fn content<'v>(&self, version: &'v Version) -> io::Result<Content<'v>> {
        match &version.source {
            Source::Found(found) => Ok(Content::Stored(found.entry().payload)),
            Source::Stored(bytes) => Ok(Content::Stored(bytes)),
            Source::Wal(wal, version, position, _hold) => {
                if let Some(record) = read_in_page(wal, *version, *position).await? {
                    return Ok(record);
                }
                Ok(Content::Copied(read_record(wal, *version, *position).await?))
            }
        }
    }
}

/// The bytes of a version.
pub enum Content<'v> {
    /// As [`crate::payload`] has them.
    Stored(&'v [u8]),
    /// The same, of a record that was in several pages of WAL.
    Copied(Vec<u8>),
    /// Those of a record alone, where the WAL has it.
    Wal(Position, WalVersion, Piece),
}

impl Content<'_> {
    /// What they say; the version is `lsn`. The error says what is wrong.
    pub fn payload(&self, lsn: Lsn) -> Result<Payload<'_>, String> {
        match self {
            Content::Stored(bytes) => Payload::read(bytes, lsn),
            Content::Copied(bytes) => Payload::read(bytes, lsn),
            Content::Wal(position, version, bytes) => {
                let record = RawRecord::new(bytes, position.start, position.end(), *version);
                let record = record.map_err(|error| error.to_string())?;
                Ok(Payload::Record { position: *position, record })
            }
        }
    }
}

/// The record at a position, if it is all in one page of WAL. `None` also if it is not right there: whoever looks closer
/// finds out why.
async fn read_in_page(
    wal: &WalReader,
    version: WalVersion,
    position: Position,
) -> io::Result<Option<Content<'static>>> {
    let (start, end) = (position.start, position.end());
    let Some(mut piece) = wal.read_in_page(start, end).await? else { return Ok(None) };
    let length = piece.first_chunk().map_or(0, |length| u32::from_le_bytes(*length));
    if (start + u64::from(length)).align_up() != end {
        return Ok(None);
    }
    piece.truncate(usize::try_from(length).unwrap_or(usize::MAX));
    let record = RawRecord::new(&piece, start, end, version).and_then(|record| record.verify());
    Ok(record.is_ok().then_some(Content::Wal(position, version, piece)))
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use runtime::executor;
    use runtime::fs;
    use runtime::io::{Backend, Options};
    use runtime::random::Rng;

    use super::*;
    use crate::limits::PAGE_BYTES;
    use crate::lineage::Lineage;
    use crate::wal_store::writer::WalWriter;
    use crate::wal_store::{FOLDER, WalLayout};

    const SEGMENT_BYTES: u32 = 1 << 20;
    /// Behind the first page, whose header is longer.
    const START: Lsn = Lsn((1 << 20) + 2 * PAGE_BYTES as u64);
    const VERSION: WalVersion = WalVersion::V15;

    /// Bytes of WAL from [`START`], each page with its header: records of random lengths, and where they are.
    fn wal(rng: &mut Rng, count: usize) -> (Vec<u8>, Vec<Position>) {
        let (mut wal, mut positions) = (Vec::new(), Vec::new());
        let put = |wal: &mut Vec<u8>, bytes: &[u8]| {
            for (written, byte) in bytes.iter().enumerate() {
                if wal.len().is_multiple_of(PAGE_BYTES) {
                    let left = u32::try_from(bytes.len() - written).expect("short");
                    let is_continued = written > 0;
                    let address = START + wal.len() as u64;
                    wal.extend(0xD110_u16.to_le_bytes());
                    wal.extend(u16::from(is_continued).to_le_bytes());
                    wal.extend(1_u32.to_le_bytes());
                    wal.extend(address.0.to_le_bytes());
                    wal.extend(if is_continued { left } else { 0 }.to_le_bytes());
                    wal.extend([0; 4]);
                }
                wal.push(*byte);
            }
        };
        for xid in 0..count {
            let data = usize::try_from(rng.below(250)).expect("short");
            let length = u32::try_from(24 + 2 + data).expect("short");
            let mut bytes = vec![0; 24];
            bytes[..4].copy_from_slice(&length.to_le_bytes());
            bytes[4..8].copy_from_slice(&u32::try_from(xid).expect("few").to_le_bytes());
            bytes[17] = 1;
            bytes.extend([0xFF, u8::try_from(data).expect("short")]);
            bytes.resize(26 + data, u8::try_from(xid % 251).expect("short"));
            let crc = crc32c::crc32c(&bytes[24..]);
            let crc = crc32c::crc32c_append(crc, &bytes[..20]);
            bytes[20..24].copy_from_slice(&crc.to_le_bytes());
            // A record begins behind the header of its page.
            let is_page_start = wal.len().is_multiple_of(PAGE_BYTES);
            let start = START + wal.len() as u64 + if is_page_start { 24 } else { 0 };
            put(&mut wal, &bytes);
            let padding = wal.len().next_multiple_of(8) - wal.len();
            wal.resize(wal.len() + padding, 0);
            let end = START + wal.len() as u64;
            positions.push(Position::new(start, end, Effect::Change, 0).expect("short"));
        }
        (wal, positions)
    }

    async fn reader(wal: Vec<u8>) -> WalReader {
        let directory = PathBuf::from(FOLDER);
        fs::create_dir_all(&directory).await.expect("made");
        let segment_bytes = SEGMENT_BYTES;
        let layout = WalLayout { directory, lineage: Lineage::new(1), segment_bytes };
        let end = START + wal.len() as u64;
        let before = vec![0; 2 * PAGE_BYTES];
        let mut writer = WalWriter::new(layout.clone());
        writer.append(Lsn(1 << 20), before).await.0.expect("written");
        writer.append(START, wal).await.0.expect("written");
        let reader = WalReader::new(layout);
        reader.set_readable(end);
        reader
    }

    fn run(test: impl AsyncFnOnce()) {
        executor::block_on(&Options::on(Backend::Simulated), test()).expect("the world goes on");
    }

    /// What a payload says of its record.
    fn told(content: &Content<'_>, position: Position) -> (Position, Vec<u8>) {
        match content.payload(position.end()).expect("it is whole") {
            Payload::Record { position, record } => (position, record.bytes.to_vec()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_record_left_in_its_page_is_the_one_that_is_put_together() {
        run(async || {
            let (wal, positions) = wal(&mut Rng::seeded(3), 2000);
            let (reader, mut in_pages) = (reader(wal).await, 0);
            for &position in &positions {
                let copied = read_record(&reader, VERSION, position).await.expect("it is there");
                let copied = told(&Content::Copied(copied), position);
                let in_page = read_in_page(&reader, VERSION, position).await.expect("read");
                let page = |lsn: Lsn| lsn.0 / PAGE_BYTES as u64;
                let is_in_page = page(position.start) == page(Lsn(position.end().0 - 1));
                assert_eq!(in_page.is_some(), is_in_page, "{position:?}");
                if let Some(in_page) = in_page {
                    assert!(told(&in_page, position) == copied, "{position:?}");
                    in_pages += 1;
                }
            }
            assert!(in_pages > 1800 && in_pages < positions.len(), "{in_pages}");
        });
    }

    #[test]
    fn a_record_that_is_damaged_is_refused_wherever_it_is() {
        run(async || {
            let (mut wal, positions) = wal(&mut Rng::seeded(4), 300);
            let mut rng = Rng::seeded(5);
            for position in &positions {
                // The padding behind a record is not looked at.
                let first = position.start.bytes_since(START);
                let at = usize::try_from(first + rng.below(26)).expect("short");
                wal[at] ^= 1 << rng.below(8);
            }
            let reader = reader(wal).await;
            for &position in &positions {
                let in_page = read_in_page(&reader, VERSION, position).await.expect("read");
                assert!(in_page.is_none(), "{position:?}");
                assert!(read_record(&reader, VERSION, position).await.is_err(), "{position:?}");
            }
        });
    }

    #[test]
    fn wal_that_is_not_there_yet_is_an_error() {
        run(async || {
            let (wal, positions) = wal(&mut Rng::seeded(6), 100);
            let reader = reader(wal).await;
            let last = positions[99];
            reader.set_readable(last.start);
            assert!(read_in_page(&reader, VERSION, last).await.is_err());
            assert!(read_in_page(&reader, VERSION, positions[98]).await.expect("read").is_some());
        });
    }
}
