//! A timeline's WAL in the object store: pieces of segments, each an object with its place and checksum in its name.
//!
//! A piece is written when its segment is complete, or when its first byte has waited for a while. Pieces belong to a
//! stream; the inventory says from where on each stream counts. Whoever claims the inventory begins a new stream, and so
//! does a branch whose end was cut off: what an overtaken page server still sends, or what a branch no longer has, counts
//! for nothing.

use std::rc::Rc;
use std::time::Duration;

use pg::lsn::Lsn;
use runtime::clock::{self, Instant};
use storage::bucket::Bucket;

use super::failed;
use super::inventory::StreamStart;
use crate::error::Error;
use crate::timeline::Timeline;

/// Bits of a stream's number that count; those above are the generation that began it.
const STREAM_BITS: u32 = 16;

/// The number of a generation's first stream.
pub(super) fn first_stream(generation: u64) -> u64 {
    generation << STREAM_BITS
}

/// The generation that began a stream.
pub(super) fn generation_of(stream: u64) -> u64 {
    stream >> STREAM_BITS
}

/// The copying of one timeline's WAL.
pub(super) struct Stream {
    pub(super) timeline: Rc<Timeline>,
    /// All streams so far; ours is the last. Those before `registered` are in the inventory.
    pub(super) starts: Vec<StreamStart>,
    pub(super) registered: usize,
    /// Everything up to here is in the store.
    uploaded: Lsn,
    waiting_since: Option<Instant>,
}

/// A piece, as its name tells it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Piece {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) stream: u64,
    crc32c: u32,
}

impl Piece {
    pub(super) fn name(&self, folder: &str) -> String {
        let Piece { start, end, stream, crc32c } = self;
        format!("{folder}/wal/{start:016x}-{end:016x}-{stream:016x}-{crc32c:08x}")
    }

    pub(super) fn parse(name: &str) -> Option<Piece> {
        let mut parts = name.rsplit('/').next()?.split('-');
        let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
        let (start, end, stream) = (number()?, number()?, number()?);
        let crc32c = u32::try_from(number()?).ok()?;
        (start < end).then_some(Piece { start, end, stream, crc32c })
    }

    /// Whether any of it counts where these streams do.
    pub(super) fn counts_in(&self, streams: &[StreamStart]) -> bool {
        let Some(own) = streams.iter().find(|start| start.id == self.stream) else { return false };
        let from = self.start.max(own.from);
        from < self.end && counts_until(streams, self.stream, from).is_some()
    }

    /// Fetches it.
    pub(super) async fn read(&self, bucket: &Bucket, folder: &str) -> Result<Vec<u8>, Error> {
        let (name, length) =
            (self.name(folder), usize::try_from(self.end - self.start).unwrap_or(usize::MAX));
        let damaged = |what| Error::Damaged(format!("object \"{name}\" {what}"));
        let read = bucket.get(&name, length).await.map_err(|error| failed(&error))?;
        let bytes = read.ok_or_else(|| damaged("is missing"))?;
        if bytes.len() != length || crc32c::crc32c(&bytes) != self.crc32c {
            return Err(damaged("does not match its checksum"));
        }
        Ok(bytes)
    }
}

/// The pieces of a folder, in order.
pub(super) async fn pieces(bucket: &Bucket, folder: &str) -> Result<Vec<Piece>, Error> {
    let listed = bucket.list(&format!("{folder}/wal")).await.map_err(|error| failed(&error))?;
    let mut pieces: Vec<Piece> =
        listed.iter().filter_map(|object| Piece::parse(&object.name)).collect();
    pieces.sort();
    Ok(pieces)
}

/// Where the stream that counts at `at` ends to count; `None` if the piece's stream does not count there.
fn counts_until(streams: &[StreamStart], stream: u64, at: u64) -> Option<u64> {
    let index = streams.iter().position(|start| start.id == stream)?;
    let until = streams[index + 1..].iter().map(|later| later.from).min().unwrap_or(u64::MAX);
    (streams[index].from <= at && at < until).then_some(until)
}

/// Pieces that give the WAL from the first on without a gap, each with how far it is to be used, such that `through` is
/// among or at the end of it; the earliest beginning there is.
pub(super) fn cover(pieces: &[Piece], streams: &[StreamStart], through: u64) -> Vec<(Piece, u64)> {
    let mut run: Vec<(Piece, u64)> = Vec::new();
    for piece in pieces {
        let end = run.last().map_or(0, |(_, end)| *end);
        // It may begin before what is there ends, if another stream took over in its middle.
        let at = if end > piece.start { end } else { piece.start };
        let Some(until) = counts_until(streams, piece.stream, at) else { continue };
        let until = until.min(piece.end);
        if until <= at {
            continue;
        }
        if at != end && end != 0 {
            if end >= through {
                break;
            }
            run.clear();
        }
        run.push((piece.clone(), until));
    }
    let covers = run.first().is_some_and(|(piece, _)| piece.start <= through)
        && run.last().is_some_and(|(_, end)| *end >= through);
    if covers { run } else { Vec::new() }
}

impl Stream {
    /// Goes on where the store's WAL of `folder` ends, in a new stream of this id.
    pub(super) async fn begin(
        timeline: Rc<Timeline>,
        bucket: &Bucket,
        folder: &str,
        known: &[StreamStart],
        id: u64,
    ) -> Result<Stream, Error> {
        let first = first_here(&timeline).await?;
        let pieces = pieces(bucket, folder).await?;
        // A branch's first segment has its ancestor's bytes up to the branch point, which need not be there.
        let needed = timeline.ancestor.as_ref().map_or(first, |(_, at)| first.max(*at));
        let covered = cover(&pieces, known, needed.0).last().map_or(0, |(_, end)| *end);
        let uploaded = Lsn(covered).max(first).min(timeline.durable().max(first));
        let mut starts = known.to_vec();
        starts.push(StreamStart { id, from: uploaded.0 });
        let registered = starts.len() - 1;
        // Those from before it are not its business.
        let _cut = timeline.wal.take_cut();
        Ok(Stream { timeline, starts, registered, uploaded, waiting_since: None })
    }

    pub(super) fn waiting_bytes(&self) -> u64 {
        self.timeline.durable().bytes_since(self.uploaded)
    }

    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.waiting_since
    }

    /// The inventory has so many of the streams.
    pub(super) fn note_registered(&mut self, registered: usize) {
        self.registered = registered;
        self.note_uploaded();
    }

    fn note_uploaded(&self) {
        let unregistered = self.starts.get(self.registered..).unwrap_or_default();
        let counted = unregistered.iter().map(|start| start.from).min().unwrap_or(u64::MAX);
        self.timeline.stored.set_wal(self.uploaded.min(Lsn(counted)));
    }

    /// What there is to copy now, if anything: up to the end of a segment, or all after `interval`.
    pub(super) fn next(&mut self, interval: Duration) -> Option<(Lsn, Lsn)> {
        if let Some(cut) = self.timeline.wal.take_cut().filter(|cut| *cut < self.uploaded) {
            let id = self.starts.last().map_or(1, |last| last.id + 1);
            self.starts.push(StreamStart { id, from: cut.0 });
            self.uploaded = cut;
            self.note_uploaded();
        }
        let durable = self.timeline.durable();
        if durable <= self.uploaded {
            self.waiting_since = None;
            return None;
        }
        let since = *self.waiting_since.get_or_insert_with(clock::now);
        let bytes = u64::from(self.timeline.wal_layout.segment_bytes);
        let segment_end = Lsn((self.uploaded.0 / bytes + 1) * bytes);
        if durable >= segment_end {
            return Some((self.uploaded, segment_end));
        }
        (clock::now() - since >= interval).then_some((self.uploaded, durable))
    }

    /// The piece from `start` up to `end`, its name and its bytes; `None` if its WAL was cut off meanwhile.
    pub(super) async fn piece(
        timeline: &Timeline,
        id: u64,
        (start, end): (Lsn, Lsn),
    ) -> Result<Option<(Piece, Vec<u8>)>, Error> {
        let layout = &timeline.wal_layout;
        let read = layout.read(start, end).await;
        let bytes = read.map_err(|source| Error::file("read WAL in", &layout.directory, source))?;
        if timeline.wal.is_cut_before(end) {
            return Ok(None);
        }
        let piece =
            Piece { start: start.0, end: end.0, stream: id, crc32c: crc32c::crc32c(&bytes) };
        Ok(Some((piece, bytes)))
    }

    pub(super) fn id(&self) -> u64 {
        self.starts.last().map_or(0, |last| last.id)
    }

    /// A piece is in the store.
    pub(super) fn note_piece(&mut self, piece: &Piece) {
        if piece.stream == self.id() && piece.start == self.uploaded.0 {
            self.uploaded = Lsn(piece.end);
            self.waiting_since = None;
            self.note_uploaded();
        }
    }
}

/// Where the WAL begins that is this timeline's own and is here.
async fn first_here(timeline: &Timeline) -> Result<Lsn, Error> {
    let bytes = u64::from(timeline.wal_layout.segment_bytes);
    let segments = timeline.wal_layout.segments().await?;
    let own = timeline.wal.own_from();
    Ok(match segments.first() {
        Some((number, _)) => Lsn(number * bytes).max(own),
        None => own.max(Lsn(timeline.flushed().0 / bytes * bytes)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(start: u64, end: u64, stream: u64) -> Piece {
        Piece { start, end, stream, crc32c: 0 }
    }

    fn start(id: u64, from: u64) -> StreamStart {
        StreamStart { id, from }
    }

    fn ranges(pieces: &[Piece], streams: &[StreamStart], through: u64) -> Vec<(u64, u64, u64)> {
        let mut pieces = pieces.to_vec();
        pieces.sort();
        let run = cover(&pieces, streams, through);
        run.iter().map(|(piece, end)| (piece.start, *end, piece.stream)).collect()
    }

    #[test]
    fn names_tell_everything() {
        let piece = Piece { start: 0x10, end: 0x20, stream: 3 << 16, crc32c: 7 };
        assert_eq!(Piece::parse(&piece.name("timelines/x")), Some(piece));
        assert_eq!(Piece::parse("timelines/x/wal/20-10-1-7"), None);
        assert_eq!(Piece::parse("timelines/x/wal/else"), None);
    }

    #[test]
    fn what_a_later_stream_replaces_does_not_count() {
        let streams = [start(1, 0), start(2, 30)];
        let pieces = [piece(0, 20, 1), piece(20, 40, 1), piece(40, 60, 1), piece(30, 50, 2)];
        assert_eq!(ranges(&pieces, &streams, 10), [(0, 20, 1), (20, 30, 1), (30, 50, 2)]);
    }

    #[test]
    fn a_cut_takes_back_what_several_streams_had() {
        let streams = [start(1, 0), start(2, 30), start(3, 10)];
        let pieces = [piece(0, 30, 1), piece(30, 50, 2), piece(10, 25, 3)];
        assert_eq!(ranges(&pieces, &streams, 0), [(0, 10, 1), (10, 25, 3)]);
    }

    #[test]
    fn a_stranger_counts_for_nothing_and_a_gap_ends_it() {
        let streams = [start(1, 0)];
        let pieces = [piece(0, 20, 1), piece(20, 30, 9), piece(40, 50, 1), piece(50, 60, 1)];
        assert_eq!(ranges(&pieces, &streams, 10), [(0, 20, 1)]);
        assert_eq!(ranges(&pieces, &streams, 45), [(40, 50, 1), (50, 60, 1)]);
        assert_eq!(ranges(&pieces, &streams, 35), []);
    }

    #[test]
    fn the_same_piece_twice_is_one() {
        let streams = [start(1, 0)];
        let pieces = [piece(0, 10, 1), piece(0, 20, 1), piece(20, 30, 1)];
        assert_eq!(ranges(&pieces, &streams, 25), [(0, 10, 1), (0, 20, 1), (20, 30, 1)]);
    }
}
