//! The received WAL on disk: segment files named as Postgres names them, written once and synced.
//!
//! Rules (numbered in the crate's README):
//! 1. A segment is synced as a whole before a byte is written to the next one; so after a crash only the last
//!    segment can hold anything that was not synced.
//! 2. [`writer::WalWriter::append`] returns only when the bytes, the file and its name are durable.
//!
//! Behind the end of the WAL its last segment may have zeroes: a file's length says only that the WAL ends no later.

pub mod writer;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::ops::{Deref, Range};
use std::path::PathBuf;
use std::rc::Rc;

use pg::lsn::Lsn;
use pg::wal::segment::SegmentName;
use runtime::fs::{self, File, OpenOptions};

use crate::error::Error;
use crate::limits::{PAGE_BYTES, WAL_READ_BLOCKS_MAX, WAL_READ_BYTES, WAL_WRITE_BYTES_MAX};
use crate::lineage::Lineage;

const _: () = assert!(WAL_READ_BYTES.is_multiple_of(PAGE_BYTES), "a page of WAL is in one block");

/// Name of the folder in the page server's directory.
pub const FOLDER: &str = "wal";

/// Which segments a store holds.
#[derive(Clone, Debug)]
pub struct WalLayout {
    pub directory: PathBuf,
    /// The timelines in the files' names.
    pub lineage: Lineage,
    pub segment_bytes: u32,
}

impl WalLayout {
    pub(crate) fn path(&self, number: u64) -> PathBuf {
        self.directory.join(self.name(number).to_string())
    }

    fn name(&self, number: u64) -> SegmentName {
        let timeline = self.lineage.of_segment(number, self.segment_bytes);
        SegmentName { timeline, number, segment_bytes: self.segment_bytes }
    }

    /// Makes a segment durable that an earlier run may have written without coming to sync it.
    pub async fn sync(&self, number: u64) -> Result<(), Error> {
        let path = self.path(number);
        let synced = match File::open(&path, OpenOptions::default()).await {
            Ok(file) => file.sync_all().await,
            Err(error) => Err(error),
        };
        synced.map_err(|source| Error::file("sync", &path, source))
    }

    /// Removes the segments that end at or before `end`; answers how many bytes that frees.
    pub async fn remove_before(&self, end: Lsn) -> Result<u64, Error> {
        let first_kept = end.segment(self.segment_bytes);
        let mut freed = 0;
        let former = self.former_segments().await?;
        let former = former.into_iter().map(|(name, bytes)| (name.number, name.to_string(), bytes));
        let current = self.segments().await?.into_iter();
        let current = current.map(|(number, bytes)| (number, self.name(number).to_string(), bytes));
        // In order, so that a power cut between leaves no gap that was not there.
        for (number, name, bytes) in former.chain(current) {
            if number >= first_kept {
                continue;
            }
            let path = self.directory.join(name);
            let removed = fs::remove_file(&path).await;
            removed.map_err(|source| Error::file("remove", &path, source))?;
            freed += bytes;
        }
        Ok(freed)
    }

    /// Segments that go on under another timeline's name, which has all of their bytes that count.
    async fn former_segments(&self) -> Result<Vec<(SegmentName, u64)>, Error> {
        let mut all = self.all_segments().await?;
        all.retain(|(name, _)| {
            name.timeline < self.lineage.of_segment(name.number, self.segment_bytes)
        });
        Ok(all)
    }

    /// Removes the segments before the last gap: a power cut may have brought back some of those that were removed, and
    /// nothing before a gap can be of use.
    pub async fn remove_before_gap(&self) -> Result<(), Error> {
        let segments = self.segments().await?;
        let gap = segments.windows(2).rfind(|two| two[0].0 + 1 != two[1].0);
        if let Some([_, (first, _)]) = gap {
            self.remove_before(Lsn(first * u64::from(self.segment_bytes))).await?;
        }
        Ok(())
    }

    /// Bytes within one segment, past every cache.
    pub(crate) async fn read(&self, start: Lsn, end: Lsn) -> io::Result<Vec<u8>> {
        let number = start.segment(self.segment_bytes);
        let file = File::open(self.path(number), OpenOptions::default()).await?;
        let length = usize::try_from(end.bytes_since(start)).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(length);
        let offset = start.segment_offset(self.segment_bytes);
        while bytes.len() < length {
            let piece = vec![0; (length - bytes.len()).min(WAL_WRITE_BYTES_MAX)];
            let (read, piece) = file.read_at(piece, offset + bytes.len() as u64).await;
            match read? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => bytes.extend_from_slice(piece.get(..read).unwrap_or_default()),
            }
        }
        Ok(bytes)
    }

    /// Whether the segment of `lsn` is on disk as far as `lsn`.
    pub async fn has_segment_up_to(&self, lsn: Lsn) -> bool {
        let offset = lsn.segment_offset(self.segment_bytes);
        let path = self.path(lsn.segment(self.segment_bytes));
        match File::open(&path, OpenOptions::default()).await {
            Ok(file) => file.len().await.is_ok_and(|bytes| bytes >= offset),
            Err(_not_there) => false,
        }
    }

    /// Whether the segment of `lsn` has its beginning, too: one that was begun in the middle has zeroes there.
    pub async fn has_head(&self, lsn: Lsn) -> bool {
        let path = self.path(lsn.segment(self.segment_bytes));
        let Ok(file) = File::open(&path, OpenOptions::default()).await else { return false };
        let (read, header) = file.read_at(vec![0; 2], 0).await;
        read.is_ok_and(|bytes| bytes == 2) && header != [0; 2] && self.has_segment_up_to(lsn).await
    }

    /// The segments there are, in order, with the bytes each file has; none where there is no directory yet.
    pub async fn segments(&self) -> Result<Vec<(u64, u64)>, Error> {
        let mut all = self.all_segments().await?;
        all.retain(|(name, _)| {
            name.timeline == self.lineage.of_segment(name.number, self.segment_bytes)
        });
        let mut found: Vec<(u64, u64)> =
            all.into_iter().map(|(name, bytes)| (name.number, bytes)).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Those of all timelines.
    async fn all_segments(&self) -> Result<Vec<(SegmentName, u64)>, Error> {
        let mut found = Vec::new();
        let entries = match fs::read_dir(&self.directory).await {
            Ok(entries) => entries,
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(found),
            Err(source) => return Err(Error::file("read directory", &self.directory, source)),
        };
        for entry in entries {
            let name = entry.name.to_string_lossy();
            let Some(segment) = SegmentName::parse(&name, self.segment_bytes) else { continue };
            if !entry.is_dir {
                found.push((segment, entry.len));
            }
        }
        Ok(found)
    }
}

impl WalLayout {
    /// Lets the WAL end at `end`: what is behind it goes, and what is missing of its segment before it (the unused
    /// rest of a segment after a switch) becomes zeroes. Interrupted anywhere, it is WAL as before up to some
    /// position at or behind `end`.
    pub async fn end_at(&self, end: Lsn) -> Result<(), Error> {
        let last = end.segment(self.segment_bytes);
        let offset = end.segment_offset(self.segment_bytes);
        for (number, bytes) in self.segments().await?.into_iter().rev() {
            let path = self.path(number);
            if number > last || number == last && offset == 0 {
                let removed = fs::remove_file(&path).await;
                removed.map_err(|source| Error::file("remove", &path, source))?;
                continue;
            }
            let length = if number == last { offset } else { u64::from(self.segment_bytes) };
            if bytes != length {
                let changed = set_length(&path, length).await;
                changed.map_err(|source| Error::file("change the length of", &path, source))?;
            }
            if number < last {
                break; // rule 1: those before it are whole
            }
        }
        let synced = fs::sync_dir(&self.directory).await;
        synced.map_err(|source| Error::file("sync", &self.directory, source))
    }
}

async fn set_length(path: &std::path::Path, length: u64) -> io::Result<()> {
    let options = OpenOptions { write: true, ..OpenOptions::default() };
    let file = File::open(path, options).await?;
    file.set_len(length).await?;
    file.sync_all().await
}

const READ_BYTES: u64 = WAL_READ_BYTES as u64;

/// A distance from the start of a block, cut at the block's end.
fn in_block(distance: u64) -> usize {
    usize::try_from(distance).unwrap_or(WAL_READ_BYTES).min(WAL_READ_BYTES)
}

/// Reads WAL back, through a small cache of blocks. A branch's WAL before the branch point is read from its ancestor.
///
/// Invariant: no block in the cache reaches beyond `readable`. Bytes behind it may be torn, or are being
/// written, and must not be remembered.
pub struct WalReader {
    layout: WalLayout,
    /// Who has what is before `from`.
    ancestor: Option<Rc<WalReader>>,
    from: Cell<Lsn>,
    readable: Cell<Lsn>,
    /// Where the oldest segment on disk begins.
    kept_from: Cell<Lsn>,
    /// From where on somebody is reading, and how many.
    held: Rc<RefCell<BTreeMap<Lsn, usize>>>,
    cut: Cell<Option<Lsn>>,
    blocks: RefCell<Blocks>,
    open: RefCell<Option<(u64, File)>>,
    /// Bytes that were asked for.
    bytes_read: Cell<u64>,
}

/// Somebody who reads WAL from a position on: it is not removed meanwhile.
#[derive(Debug)]
pub struct Hold {
    held: Rc<RefCell<BTreeMap<Lsn, usize>>>,
    lsn: Lsn,
    /// That of a branch's ancestor, and up to where it is needed.
    before: Option<(Box<Hold>, Lsn)>,
}

impl Hold {
    /// WAL before `lsn` is not wanted any more.
    pub fn advance(&mut self, lsn: Lsn) {
        if lsn > self.lsn {
            self.release();
            self.lsn = lsn;
            self.before.take_if(|(_, until)| lsn >= *until);
            if let Some((before, _)) = &mut self.before {
                before.advance(lsn);
            }
            *self.held.borrow_mut().entry(lsn).or_default() += 1;
        }
    }

    fn release(&self) {
        let mut held = self.held.borrow_mut();
        if let Some(count) = held.get_mut(&self.lsn) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.lsn);
            }
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.release();
    }
}

/// Some bytes of a block.
pub struct Piece {
    block: Rc<Vec<u8>>,
    /// Within the block.
    range: Range<usize>,
}

impl Piece {
    /// Leaves out what comes after so many bytes.
    pub fn truncate(&mut self, length: usize) {
        self.range.end = self.range.end.min(self.range.start.saturating_add(length));
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.block.get(self.range.clone()).unwrap_or_default()
    }
}

/// Blocks read, by number; the one unused for longest goes first.
#[derive(Default)]
struct Blocks {
    blocks: BTreeMap<u64, Block>,
    /// Numbers by when each was last used.
    order: BTreeMap<u64, u64>,
    now: u64,
}

struct Block {
    /// Shorter than [`WAL_READ_BYTES`] while the segment grows.
    bytes: Rc<Vec<u8>>,
    used: u64,
}

impl Blocks {
    fn get(&mut self, number: u64, bytes_min: usize) -> Option<Rc<Vec<u8>>> {
        let block = self.blocks.get_mut(&number).filter(|block| block.bytes.len() >= bytes_min)?;
        // Records that follow one another are in the same block.
        if block.used != self.now {
            self.now += 1;
            self.order.remove(&block.used);
            self.order.insert(self.now, number);
            block.used = self.now;
        }
        Some(Rc::clone(&block.bytes))
    }

    fn put(&mut self, number: u64, bytes: Rc<Vec<u8>>) {
        self.now += 1;
        let used = self.now;
        if let Some(replaced) = self.blocks.insert(number, Block { bytes, used }) {
            self.order.remove(&replaced.used);
        }
        self.order.insert(used, number);
        while self.blocks.len() > WAL_READ_BLOCKS_MAX {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            self.blocks.remove(&oldest);
        }
    }
}

impl WalReader {
    /// A reader of nothing yet: see [`WalReader::set_readable`].
    pub fn new(layout: WalLayout) -> WalReader {
        let (blocks, open) = (RefCell::default(), RefCell::new(None));
        let (from, readable, cut) = (Cell::default(), Cell::default(), Cell::default());
        let (kept_from, held, bytes_read) = (Cell::new(Lsn::MAX), Rc::default(), Cell::default());
        WalReader {
            layout,
            ancestor: None,
            from,
            readable,
            cut,
            kept_from,
            held,
            blocks,
            open,
            bytes_read,
        }
    }

    /// A reader of a branch that has left its ancestor at `from`; readable up to there.
    pub fn of_branch(layout: WalLayout, ancestor: Rc<WalReader>, from: Lsn) -> WalReader {
        let reader = WalReader { ancestor: Some(ancestor), ..WalReader::new(layout) };
        reader.from.set(from);
        reader.readable.set(from);
        reader
    }

    /// The branch has WAL of its own from `from` on: what came before the branch point in its first segment was copied.
    pub fn set_own_from(&self, from: Lsn) {
        self.from.set(from);
    }

    /// Where the oldest WAL begins that can be read without a gap up to the end.
    pub async fn oldest(&self) -> Result<Lsn, Error> {
        let bytes = u64::from(self.layout.segment_bytes);
        let first = self.layout.segments().await?.first().map(|(number, _)| Lsn(number * bytes));
        let Some(ancestor) = &self.ancestor else {
            return Ok(first.unwrap_or_else(|| self.readable()));
        };
        let own = first.filter(|first| *first > self.from.get());
        match own {
            // What it had at first is gone.
            Some(own) => Ok(own),
            None => Ok(Box::pin(ancestor.oldest()).await?.min(self.from.get())),
        }
    }

    /// Notes which segments there are on disk.
    pub async fn look(&self) -> Result<(), Error> {
        if let Some((first, _)) = self.layout.segments().await?.first() {
            self.kept_from.set(Lsn(first * u64::from(self.layout.segment_bytes)));
        }
        Ok(())
    }

    /// Bytes of WAL on disk.
    pub fn bytes(&self) -> u64 {
        self.readable.get().bytes_since(self.kept_from.get())
    }

    /// Removes the segments that end at or before `end`, unless somebody holds them; answers how many bytes that frees.
    pub async fn remove_before(&self, end: Lsn) -> Result<u64, Error> {
        let end = end.min(self.held_from());
        let bytes = u64::from(self.layout.segment_bytes);
        let first_kept = Lsn(end.segment(self.layout.segment_bytes) * bytes);
        if first_kept <= self.kept_from.get() {
            return Ok(0);
        }
        self.kept_from.set(first_kept);
        self.layout.remove_before(end).await
    }

    /// Keeps the WAL from `lsn` on while it lives.
    pub fn hold(&self, lsn: Lsn) -> Hold {
        *self.held.borrow_mut().entry(lsn).or_default() += 1;
        let ancestor = self.ancestor.as_ref().filter(|_| lsn < self.from.get());
        let before = ancestor.map(|ancestor| (Box::new(ancestor.hold(lsn)), self.from.get()));
        Hold { held: Rc::clone(&self.held), lsn, before }
    }

    /// From where on somebody wants the WAL to stay.
    pub fn held_from(&self) -> Lsn {
        self.held.borrow().keys().next().copied().unwrap_or(Lsn::MAX)
    }

    pub fn segment_bytes(&self) -> u32 {
        self.layout.segment_bytes
    }

    /// Up to where WAL is durable.
    pub fn readable(&self) -> Lsn {
        self.readable.get()
    }

    /// WAL is durable up to `end`.
    pub fn set_readable(&self, end: Lsn) {
        if end < self.readable.get() {
            let lowest = self.cut.get().map_or(end, |cut| cut.min(end));
            self.cut.set(Some(lowest));
            self.blocks.take();
            self.open.take();
        }
        self.readable.set(end);
    }

    /// A segment's file has another name now.
    pub fn forget_open(&self) {
        self.open.take();
    }

    /// The lowest end at which the WAL was cut off since this was asked last: other bytes may stand behind it now.
    pub(crate) fn take_cut(&self) -> Option<Lsn> {
        self.cut.take()
    }

    /// Whether it was cut off below `end` since then.
    pub(crate) fn is_cut_before(&self, end: Lsn) -> bool {
        self.cut.get().is_some_and(|cut| cut < end)
    }

    /// Where the WAL begins that is not an ancestor's.
    pub(crate) fn own_from(&self) -> Lsn {
        self.from.get()
    }

    /// The bytes from `start` up to `end`, page headers included. WAL that is not there is
    /// `UnexpectedEof`.
    pub async fn read(&self, start: Lsn, end: Lsn) -> io::Result<Vec<u8>> {
        if start >= end {
            // Of a segment that need not be there.
            return Ok(Vec::new());
        }
        let own = start.max(self.from.get());
        match &self.ancestor {
            Some(ancestor) if start < own => {
                let mut bytes = Box::pin(ancestor.read(start, own.min(end))).await?;
                if own < end {
                    bytes.append(&mut self.read_own(own, end).await?);
                }
                Ok(bytes)
            }
            _ => self.read_own(start, end).await,
        }
    }

    /// The same within one segment, for bytes that nobody asks for again soon: they go past the cache. `buffer` is memory to
    /// read into.
    pub async fn read_once(
        &self,
        start: Lsn,
        end: Lsn,
        mut buffer: Vec<u8>,
    ) -> io::Result<Vec<u8>> {
        let is_inherited = self.ancestor.is_some() && start < self.from.get();
        let number = start.segment(self.layout.segment_bytes);
        if is_inherited
            || end > self.readable()
            || number != Lsn(end.0 - 1).segment(self.layout.segment_bytes)
        {
            return self.read(start, end).await;
        }
        let (bytes, offset) =
            (end.bytes_since(start), start.segment_offset(self.layout.segment_bytes));
        self.bytes_read.set(self.bytes_read.get() + bytes);
        let file = self.segment(number).await?;
        buffer.resize(usize::try_from(bytes).map_err(io::Error::other)?, 0);
        let (read, buffer) = file.read_at(buffer, offset).await;
        // Hardly ever is less read than was asked for.
        if read? == buffer.len() { Ok(buffer) } else { self.read(start, end).await }
    }

    /// The same within one page of WAL, left where it was read. `None` where it is in more than one page.
    pub async fn read_in_page(&self, start: Lsn, end: Lsn) -> io::Result<Option<Piece>> {
        let last = Lsn(end.0.saturating_sub(1));
        if start > last || start.0 / PAGE_BYTES as u64 != last.0 / PAGE_BYTES as u64 {
            return Ok(None);
        }
        let mut reader = self;
        while let Some(ancestor) = &reader.ancestor
            && start < reader.from.get()
        {
            if end > reader.from.get() {
                return Ok(None);
            }
            reader = ancestor;
        }
        reader.bytes_read.set(reader.bytes_read.get() + end.bytes_since(start));
        let number = start.0 / READ_BYTES;
        let (from, to) = (in_block(start.0 % READ_BYTES), in_block(end.0 - number * READ_BYTES));
        let block = reader.block(number, to).await?;
        Ok(Some(Piece { block, range: from..to }))
    }

    async fn read_own(&self, start: Lsn, end: Lsn) -> io::Result<Vec<u8>> {
        let (first, last) = (start.0 / READ_BYTES, end.0.saturating_sub(1) / READ_BYTES);
        self.bytes_read.set(self.bytes_read.get() + end.bytes_since(start));
        let mut bytes = Vec::new();
        for number in first..=last {
            let block_start = number * READ_BYTES;
            let from = in_block(start.0.saturating_sub(block_start));
            let to = in_block(end.0 - block_start);
            let block = self.block(number, to).await?;
            bytes.extend_from_slice(block.get(from..to).unwrap_or_default());
        }
        Ok(bytes)
    }

    /// Bytes that this reader was asked for so far, without its ancestors'.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.get()
    }

    /// A block with at least so many bytes.
    async fn block(&self, number: u64, bytes_min: usize) -> io::Result<Rc<Vec<u8>>> {
        if let Some(bytes) = self.blocks.borrow_mut().get(number, bytes_min) {
            return Ok(bytes);
        }
        let start = Lsn(number * READ_BYTES);
        let file = self.segment(start.segment(self.layout.segment_bytes)).await?;
        let offset = start.segment_offset(self.layout.segment_bytes);
        let mut buffer = vec![0; WAL_READ_BYTES];
        let (read, returned) = file.read_at(buffer, offset).await;
        buffer = returned;
        let readable = self.readable.get().bytes_since(start);
        buffer.truncate(read?.min(usize::try_from(readable).unwrap_or(usize::MAX)));
        if buffer.len() < bytes_min {
            let message = format!("WAL ends before {}", start + bytes_min as u64);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        let bytes = Rc::new(buffer);
        self.blocks.borrow_mut().put(number, Rc::clone(&bytes));
        Ok(bytes)
    }

    async fn segment(&self, number: u64) -> io::Result<File> {
        let open = self.open.borrow().as_ref().map(|(open, file)| (*open, file.clone()));
        if let Some((_, file)) = open.filter(|(open, _)| *open == number) {
            return Ok(file);
        }
        let path = self.layout.path(number);
        let file = File::open(&path, OpenOptions::default()).await?;
        *self.open.borrow_mut() = Some((number, file.clone()));
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use super::writer::WalWriter;
    use crate::limits::WAL_ZEROES_AHEAD_BYTES;
    use runtime::io::simulated::{Simulation, cut_power};
    use runtime::io::{Backend, Options};
    use runtime::{clock, executor};

    const SEGMENT_BYTES: u32 = 1 << 20;

    fn segment(number: u64) -> Lsn {
        Lsn(number * u64::from(SEGMENT_BYTES))
    }

    /// Runs a scenario with a disk of its own; segments 1 to 6 are on it.
    fn with_segments<F: Future<Output = ()>>(seed: u64, scenario: impl FnOnce(WalLayout) -> F) {
        let simulation = Simulation { seed, ..Simulation::default() };
        let options = Options { simulation, ..Options::on(Backend::Simulated) };
        let run = async {
            let directory = PathBuf::from("wal");
            fs::create_dir_all(&directory).await.expect("made");
            fs::sync_dir("").await.expect("durable");
            let layout =
                WalLayout { directory, lineage: Lineage::new(1), segment_bytes: SEGMENT_BYTES };
            let mut writer = WalWriter::new(layout.clone());
            for number in 1..=6 {
                let wal = vec![7; SEGMENT_BYTES as usize];
                writer.append(segment(number), wal).await.0.expect("written");
            }
            scenario(layout).await;
        };
        executor::block_on(&options, run).expect("the world goes on");
    }

    async fn numbers(layout: &WalLayout) -> Vec<u64> {
        layout.segments().await.expect("listed").iter().map(|(number, _)| *number).collect()
    }

    #[test]
    fn a_removal_that_loses_power_leaves_no_gap() {
        let gaps = Cell::new(0);
        for seed in 0..200 {
            let gaps = &gaps;
            with_segments(seed, async move |layout| {
                let removing = layout.clone();
                let task = executor::spawn(async move { removing.remove_before(segment(5)).await });
                clock::sleep(Duration::from_micros(seed * 40)).await;
                task.abort();
                cut_power();
                clock::sleep(Duration::from_secs(1)).await;
                let before = numbers(&layout).await;
                gaps.set(gaps.get() + before.windows(2).filter(|two| two[0] + 1 != two[1]).count());
                layout.remove_before_gap().await.expect("removed");
                let left = numbers(&layout).await;
                assert!(left.ends_with(&[5, 6]), "{left:?}");
                assert!(left.windows(2).all(|two| two[0] + 1 == two[1]), "{before:?}: {left:?}");
            });
        }
        assert!(gaps.get() > 0, "the disk brings some back");
    }

    #[test]
    fn the_half_segment_of_a_former_timeline_goes_with_the_others() {
        with_segments(1, async |layout| {
            layout.lineage.switch(2, segment(3) + 5000);
            let mut writer = WalWriter::new(layout.clone());
            for number in 3..=6 {
                let wal = vec![7; SEGMENT_BYTES as usize];
                writer.append(segment(number), wal).await.0.expect("written");
            }
            let names = async || -> Vec<String> {
                let entries = fs::read_dir(&layout.directory).await.expect("read");
                let names = entries.iter().map(|entry| entry.name.to_string_lossy().into_owned());
                let mut names: Vec<String> = names.collect();
                names.sort_unstable();
                names
            };
            // 1 to 6 on the first timeline, 3 to 6 on the second.
            assert_eq!(names().await.len(), 10);
            let freed = layout.remove_before(segment(4)).await.expect("removed");
            assert_eq!(freed, 4 * u64::from(SEGMENT_BYTES), "1, 2, and 3 of both");
            assert_eq!(numbers(&layout).await, [4, 5, 6]);
            assert_eq!(names().await.len(), 6, "{:?}", names().await);
        });
    }

    #[test]
    fn zeroes_ahead_of_the_wal_are_never_read_and_never_overwrite_any() {
        with_segments(1, async move |layout| {
            let length = async || layout.segments().await.expect("listed").last().copied();
            let reader = WalReader::new(layout.clone());
            let (mut at, mut written) = (segment(7), Vec::new());
            let mut ahead = 0;
            for (count, bytes) in
                [10, 5000, 300_000, 10, 200_000, 10, 400_000, 30].iter().enumerate()
            {
                let wal = vec![u8::try_from(count).expect("few") + 1; *bytes];
                written.extend_from_slice(&wal);
                // Each with a writer of its own every other time, as after a start.
                let mut writer = WalWriter::of_stream(layout.clone());
                let (first, second) = wal.split_at(bytes / 2);
                for part in [first, second] {
                    writer.append(at, part.to_vec()).await.0.expect("written");
                    at = at + part.len() as u64;
                    reader.set_readable(at);
                    let read = reader.read(segment(7), at).await.expect("it is there");
                    assert!(read == written.get(..read.len()).expect("no more"));
                    assert!(reader.read(at, at + 1).await.is_err(), "nothing is behind it");
                    let (number, length) = length().await.expect("there are some");
                    assert!(segment(number) + length >= at && length <= u64::from(SEGMENT_BYTES));
                    ahead = (segment(number) + length).bytes_since(at).max(ahead);
                }
            }
            assert_eq!(ahead, WAL_ZEROES_AHEAD_BYTES as u64);
            layout.end_at(at).await.expect("cut");
            assert_eq!(length().await, Some((7, at.bytes_since(segment(7)))));
        });
    }

    #[test]
    fn wal_cut_off_at_a_records_end_is_whole_up_to_there_whatever_happens() {
        let end = segment(4) + 5000;
        for seed in 0..100 {
            with_segments(seed, async move |layout| {
                let cutting = layout.clone();
                let task = executor::spawn(async move { cutting.end_at(end).await });
                clock::sleep(Duration::from_micros(seed * 40)).await;
                task.abort();
                cut_power();
                clock::sleep(Duration::from_secs(1)).await;
                let left = numbers(&layout).await;
                assert!(left.starts_with(&[1, 2, 3, 4]), "{left:?}");
                layout.end_at(end).await.expect("cut");
                assert_eq!(numbers(&layout).await, [1, 2, 3, 4]);
                let wal = WalReader::new(layout.clone());
                wal.set_readable(end);
                let bytes = wal.read(segment(3), end).await.expect("it is there");
                assert!(bytes.iter().all(|&byte| byte == 7));
                assert!(wal.read(end, end + 1).await.is_err(), "nothing is behind it");
            });
        }
    }

    #[test]
    fn what_somebody_reads_is_not_removed() {
        with_segments(1, async |layout| {
            let wal = WalReader::new(layout.clone());
            wal.set_readable(segment(7));
            wal.look().await.expect("listed");
            assert_eq!(wal.bytes(), 6 * u64::from(SEGMENT_BYTES));
            let (mut one, other) = (wal.hold(segment(3) + 5), wal.hold(segment(4)));
            assert_eq!(wal.remove_before(segment(6)).await.ok(), Some(2 << 20));
            assert_eq!(numbers(&layout).await, [3, 4, 5, 6]);
            one.advance(segment(6));
            assert_eq!(wal.remove_before(segment(6)).await.ok(), Some(1 << 20));
            drop(other);
            assert_eq!(wal.remove_before(segment(6)).await.ok(), Some(2 << 20));
            assert_eq!((numbers(&layout).await, wal.bytes()), (vec![6], 1 << 20));
            assert_eq!(wal.remove_before(segment(6)).await.ok(), Some(0));
        });
    }

    #[test]
    fn a_branch_holds_its_ancestors_wal_as_long_as_it_reads_there() {
        with_segments(1, async |layout| {
            let ancestor = Rc::new(WalReader::new(layout.clone()));
            let own = WalLayout { directory: PathBuf::from("own"), ..layout };
            let branch = WalReader::of_branch(own, Rc::clone(&ancestor), segment(3));
            let mut hold = branch.hold(segment(2));
            assert_eq!(ancestor.held_from(), segment(2));
            hold.advance(segment(3));
            assert_eq!((ancestor.held_from(), branch.held_from()), (Lsn::MAX, segment(3)));
        });
    }

    #[test]
    fn a_block_that_was_shorter_is_read_again() {
        let mut blocks = Blocks::default();
        blocks.put(7, Rc::new(vec![1; 100]));
        assert!(blocks.get(7, 101).is_none());
        blocks.put(7, Rc::new(vec![1; 200]));
        assert_eq!(blocks.get(7, 101).map(|bytes| bytes.len()), Some(200));
        assert_eq!((blocks.blocks.len(), blocks.order.len()), (1, 1));
    }

    #[test]
    fn keeps_the_blocks_used_last() {
        let mut blocks = Blocks::default();
        for number in 0..WAL_READ_BLOCKS_MAX as u64 {
            blocks.put(number, Rc::default());
        }
        assert!(blocks.get(0, 0).is_some());
        blocks.put(1 << 40, Rc::default());
        assert!(blocks.get(0, 0).is_some());
        assert!(blocks.get(1, 0).is_none());
        assert_eq!(blocks.blocks.len(), WAL_READ_BLOCKS_MAX);
    }
}
