//! Writing a layer: entries in order, block by block.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use runtime::executor;
use runtime::fs::File;
use zstd::bulk::Compressor;

use crate::entry::Entry;
use crate::key::Key;
use crate::layer::index::{BlockPlace, Footer, PLACE_BYTES};
use crate::layer::{Kind, LayerInfo, Place, block};
use crate::limits::{BLOCK_RAW_BYTES, ENTRY_PAYLOAD_BYTES_MAX, WRITE_BYTES};
use crate::version::Version;

/// Files that nobody is going to finish; whoever next begins one removes them.
pub(crate) type Litter = Rc<RefCell<Vec<PathBuf>>>;

/// Writes one layer. Given up before its end, it leaves a file that counts for nothing.
pub struct LayerWriter {
    output: Output,
    number: u64,
    compressor: Compressor<'static>,
    compressed: Vec<u8>,
    block: Vec<u8>,
    block_first: Option<(Key, Version)>,
    newest_entry: Option<(Key, Version)>,
    index: Vec<BlockPlace>,
    raw_bytes: u64,
    entries: u64,
    oldest: Version,
    newest: Version,
    is_all_whole: bool,
}

impl LayerWriter {
    /// Begins the file of this number; `level` is zstd's.
    pub async fn create(directory: &Path, number: u64, level: i32) -> io::Result<LayerWriter> {
        LayerWriter::create_with(directory, number, level, Litter::default()).await
    }

    pub(crate) async fn create_with(
        directory: &Path,
        number: u64,
        level: i32,
        litter: Litter,
    ) -> io::Result<LayerWriter> {
        let compressor = Compressor::new(level)?;
        let path = super::path(directory, number);
        let file = File::create(&path).await?;
        let output = Output { file, path, litter, buffer: Vec::new(), offset: 0, is_done: false };
        Ok(LayerWriter {
            output,
            number,
            compressor,
            compressed: Vec::new(),
            block: Vec::with_capacity(BLOCK_RAW_BYTES),
            block_first: None,
            newest_entry: None,
            index: Vec::new(),
            raw_bytes: 0,
            entries: 0,
            oldest: Version(u64::MAX),
            newest: Version(0),
            is_all_whole: true,
        })
    }

    /// Adds an entry; they come in the order of key, then version.
    pub async fn add(&mut self, entry: Entry<'_>) -> io::Result<()> {
        let here = (entry.key, entry.version);
        if self.newest_entry.is_some_and(|before| before >= here) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "entries are out of order"));
        }
        if entry.payload.len() > ENTRY_PAYLOAD_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an entry is too long"));
        }
        let before = self.block_first.and(self.newest_entry).map(|(key, _)| key);
        self.newest_entry = Some(here);
        self.block_first.get_or_insert(here);
        block::write(&mut self.block, before, &entry);
        self.entries += 1;
        self.oldest = self.oldest.min(entry.version);
        self.newest = self.newest.max(entry.version);
        self.is_all_whole &= entry.whole;
        if self.block.len() >= BLOCK_RAW_BYTES {
            self.write_block().await?;
            executor::yield_now().await;
        }
        Ok(())
    }

    /// Bytes of the entries so far.
    pub fn raw_bytes(&self) -> u64 {
        self.raw_bytes + self.block.len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// The key added last.
    pub fn last_key(&self) -> Option<Key> {
        self.newest_entry.map(|(key, _)| key)
    }

    async fn write_block(&mut self) -> io::Result<()> {
        let (Some(first), Some(last)) = (self.block_first.take(), self.newest_entry) else {
            return Ok(());
        };
        self.compressed.clear();
        self.compressed.reserve(zstd::zstd_safe::compress_bound(self.block.len()));
        self.compressor.compress_to_buffer(&self.block, &mut self.compressed)?;
        self.index.push(BlockPlace {
            first,
            last,
            offset: self.output.position(),
            length: narrow(self.compressed.len())?,
            raw_length: narrow(self.block.len())?,
            checksum: crc32c::crc32c(&self.compressed),
        });
        self.raw_bytes += self.block.len() as u64;
        self.block.clear();
        self.output.write(&self.compressed).await
    }

    /// Makes the file durable, but not its name; `None`, and no file, if nothing was added. Whole entries of one version (an
    /// import) need no merging; anything else is of level 0.
    pub async fn finish(self) -> io::Result<Option<LayerInfo>> {
        let is_import = self.is_all_whole && self.oldest == self.newest;
        self.finish_as(if is_import { Kind::Delta } else { Kind::Level0 }).await
    }

    pub(crate) async fn finish_as(mut self, kind: Kind) -> io::Result<Option<LayerInfo>> {
        self.write_block().await?;
        let (Some((first, _)), Some((last, _))) =
            (self.index.first().map(|place| place.first), self.newest_entry)
        else {
            return Ok(None);
        };
        let (oldest, newest) = (self.oldest, self.newest);
        self.write_end(kind, (first, last), (oldest, newest)).await.map(Some)
    }

    /// As an image of a range at a version; it may have no entry.
    pub(crate) async fn finish_image(
        mut self,
        range: (Key, Key),
        version: Version,
    ) -> io::Result<LayerInfo> {
        self.write_block().await?;
        self.write_end(Kind::Image, range, (version, version)).await
    }

    async fn write_end(
        mut self,
        kind: Kind,
        (first, last): (Key, Key),
        (oldest, newest): (Version, Version),
    ) -> io::Result<LayerInfo> {
        let mut index = Vec::with_capacity(self.index.len() * PLACE_BYTES);
        self.index.iter().for_each(|place| place.write(&mut index));
        let mut info = LayerInfo {
            number: self.number,
            kind,
            place: Place::LOCAL,
            first,
            last,
            oldest,
            newest,
            bytes: 0,
            raw_bytes: self.raw_bytes,
            entries: self.entries,
        };
        let footer = Footer {
            index_offset: self.output.position(),
            index_length: index.len() as u64,
            index_checksum: crc32c::crc32c(&index),
            info,
        };
        footer.write(&mut index);
        self.output.write(&index).await?;
        self.output.finish().await?;
        info.bytes = self.output.position();
        Ok(info)
    }
}

fn narrow(length: usize) -> io::Result<u32> {
    u32::try_from(length).map_err(|_wide| io::ErrorKind::InvalidInput.into())
}

/// The file, written in large pieces.
struct Output {
    file: File,
    path: PathBuf,
    litter: Litter,
    buffer: Vec<u8>,
    /// Where the buffer goes.
    offset: u64,
    is_done: bool,
}

impl Output {
    fn position(&self) -> u64 {
        self.offset + self.buffer.len() as u64
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() < WRITE_BYTES {
            return Ok(());
        }
        self.flush().await
    }

    async fn flush(&mut self) -> io::Result<()> {
        let length = self.buffer.len() as u64;
        let (written, buffer) =
            self.file.write_all_at(std::mem::take(&mut self.buffer), self.offset).await;
        written?;
        self.offset += length;
        self.buffer = buffer;
        self.buffer.clear();
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.file.sync_all().await?;
        self.is_done = true;
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.is_done {
            self.litter.borrow_mut().push(std::mem::take(&mut self.path));
        }
    }
}
