//! Layer files: entries sorted by key and version, in compressed blocks, with an index of the blocks at the end.
//!
//! Written once, never changed. Bytes in DESIGN.md. Every block, the index and the footer bear a CRC-32C; whatever does not
//! match is an error that names file and place, never an answer.

use std::io;
use std::path::{Path, PathBuf};

use runtime::executor;
use runtime::fs::{self, File, OpenOptions};

use crate::entry::Entry;
use crate::key::Key;
use crate::limits::{BLOCK_RAW_BYTES, COMPRESSION_LEVEL, ENTRY_PAYLOAD_BYTES_MAX, LAYER_INDEX_BYTES_MAX};
use crate::version::Version;

/// At the end of every layer file.
const MAGIC: [u8; 8] = *b"HWDLAYER";
const FORMAT: u32 = 1;
/// Index offset, index length, entries, raw bytes: 8 each; index checksum, format: 4 each; magic; checksum.
const FOOTER_BYTES: usize = 4 * 8 + 2 * 4 + 8 + 4;
/// First and last key, offset (8), length, raw length, checksum (4 each).
const INDEX_ENTRY_BYTES: usize = 2 * Key::BYTES + 8 + 3 * 4;

/// What a layer covers and what it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerInfo {
    /// Of its file's name; never used again.
    pub number: u64,
    pub first: Key,
    pub last: Key,
    pub oldest: Version,
    pub newest: Version,
    /// Of the file.
    pub bytes: u64,
    /// Of the entries before compression.
    pub raw_bytes: u64,
    pub entries: u64,
}

/// The file of the layer of this number.
pub fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:016x}.layer"))
}

/// The number in a layer file's name.
pub fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".layer").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// One block of a layer.
#[derive(Clone, Copy, Debug)]
pub struct BlockPlace {
    pub first: Key,
    pub last: Key,
    offset: u64,
    length: u32,
    raw_length: u32,
    checksum: u32,
}

/// Writes one layer.
pub struct LayerWriter {
    file: File,
    path: PathBuf,
    number: u64,
    block: Vec<u8>,
    block_first: Option<Key>,
    newest_entry: Option<(Key, Version)>,
    index: Vec<BlockPlace>,
    offset: u64,
    raw_bytes: u64,
    entries: u64,
    oldest: Version,
    newest: Version,
}

impl LayerWriter {
    /// Begins the file of this number.
    pub async fn create(directory: &Path, number: u64) -> io::Result<LayerWriter> {
        let path = path(directory, number);
        let file = File::create(&path).await?;
        Ok(LayerWriter {
            file,
            path,
            number,
            block: Vec::with_capacity(BLOCK_RAW_BYTES),
            block_first: None,
            newest_entry: None,
            index: Vec::new(),
            offset: 0,
            raw_bytes: 0,
            entries: 0,
            oldest: Version(u64::MAX),
            newest: Version(0),
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
        self.newest_entry = Some(here);
        self.block_first.get_or_insert(entry.key);
        entry.write(&mut self.block);
        self.entries += 1;
        self.oldest = self.oldest.min(entry.version);
        self.newest = self.newest.max(entry.version);
        if self.block.len() >= BLOCK_RAW_BYTES {
            self.write_block().await?;
            executor::yield_now().await;
        }
        Ok(())
    }

    async fn write_block(&mut self) -> io::Result<()> {
        let (Some(first), Some((last, _))) = (self.block_first.take(), self.newest_entry) else {
            return Ok(());
        };
        let compressed = zstd::bulk::compress(&self.block, COMPRESSION_LEVEL)?;
        self.index.push(BlockPlace {
            first,
            last,
            offset: self.offset,
            length: narrow(compressed.len())?,
            raw_length: narrow(self.block.len())?,
            checksum: crc32c::crc32c(&compressed),
        });
        self.raw_bytes += self.block.len() as u64;
        self.block.clear();
        self.write(compressed).await
    }

    async fn write(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        let length = bytes.len() as u64;
        let (written, _buffer) = self.file.write_all_at(bytes, self.offset).await;
        written?;
        self.offset += length;
        Ok(())
    }

    /// Makes the file durable, but not its name; `None`, and no file, if nothing was added.
    pub async fn finish(mut self) -> io::Result<Option<LayerInfo>> {
        self.write_block().await?;
        let (Some(first), Some((last, _))) = (self.index.first().map(|b| b.first), self.newest_entry)
        else {
            fs::remove_file(&self.path).await?;
            return Ok(None);
        };
        let index_offset = self.offset;
        let mut index = Vec::with_capacity(self.index.len() * INDEX_ENTRY_BYTES);
        self.index.iter().for_each(|place| place.write(&mut index));
        let mut footer = Vec::with_capacity(FOOTER_BYTES);
        for number in [index_offset, index.len() as u64, self.entries, self.raw_bytes] {
            footer.extend_from_slice(&number.to_be_bytes());
        }
        footer.extend_from_slice(&crc32c::crc32c(&index).to_be_bytes());
        footer.extend_from_slice(&FORMAT.to_be_bytes());
        footer.extend_from_slice(&MAGIC);
        let checksum = crc32c::crc32c(&footer);
        footer.extend_from_slice(&checksum.to_be_bytes());
        index.append(&mut footer);
        self.write(index).await?;
        self.file.sync_all().await?;
        Ok(Some(LayerInfo {
            number: self.number,
            first,
            last,
            oldest: self.oldest,
            newest: self.newest,
            bytes: self.offset,
            raw_bytes: self.raw_bytes,
            entries: self.entries,
        }))
    }
}

fn narrow(length: usize) -> io::Result<u32> {
    u32::try_from(length).map_err(|_wide| io::ErrorKind::InvalidInput.into())
}

impl BlockPlace {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.first.to_bytes());
        out.extend_from_slice(&self.last.to_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
        for number in [self.length, self.raw_length, self.checksum] {
            out.extend_from_slice(&number.to_be_bytes());
        }
    }

    fn read(bytes: &[u8]) -> Option<BlockPlace> {
        let (first, rest) = bytes.split_first_chunk()?;
        let (last, rest) = rest.split_first_chunk()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (raw_length, rest) = rest.split_first_chunk()?;
        Some(BlockPlace {
            first: Key::from_bytes(first),
            last: Key::from_bytes(last),
            offset: u64::from_be_bytes(*offset),
            length: u32::from_be_bytes(*length),
            raw_length: u32::from_be_bytes(*raw_length),
            checksum: u32::from_be_bytes(*rest.first_chunk()?),
        })
    }
}

/// A layer open for reading.
pub struct Layer {
    file: File,
    path: PathBuf,
    blocks: Vec<BlockPlace>,
}

impl Layer {
    /// Opens a layer: reads footer and index.
    pub async fn open(directory: &Path, info: &LayerInfo) -> io::Result<Layer> {
        let path = path(directory, info.number);
        let file = File::open(&path, OpenOptions::default()).await?;
        let length = file.len().await?;
        let damaged = |what: &str| damaged(&path, what);
        let footer_at =
            length.checked_sub(FOOTER_BYTES as u64).ok_or_else(|| damaged("is cut off"))?;
        let footer = read_exactly(&file, &path, footer_at, FOOTER_BYTES).await?;
        let (fields, checksum) = footer.split_at(FOOTER_BYTES - 4);
        if checksum != crc32c::crc32c(fields).to_be_bytes() || fields[40..] != MAGIC {
            return Err(damaged("has an invalid footer"));
        }
        if fields[36..40] != FORMAT.to_be_bytes() {
            return Err(damaged("is of an unknown format"));
        }
        let number = |at: usize| fields[at..].first_chunk().map_or(0, |b| u64::from_be_bytes(*b));
        let (index_at, index_length) = (number(0), number(8));
        if index_at.checked_add(index_length) != Some(footer_at)
            || index_length > LAYER_INDEX_BYTES_MAX
        {
            return Err(damaged("has an index of an impossible length"));
        }
        let index_length = usize::try_from(index_length).map_err(|_wide| damaged("is too long"))?;
        let index = read_exactly(&file, &path, index_at, index_length).await?;
        if fields[32..36] != crc32c::crc32c(&index).to_be_bytes() {
            return Err(damaged("has an index that does not match its checksum"));
        }
        let blocks = index.chunks(INDEX_ENTRY_BYTES).map(BlockPlace::read).collect::<Option<_>>();
        let blocks = blocks.ok_or_else(|| damaged("has an invalid index"))?;
        Ok(Layer { file, path, blocks })
    }

    /// The blocks that may hold entries of `key`.
    pub fn blocks_of(&self, key: Key) -> std::ops::Range<usize> {
        let first = self.blocks.partition_point(|place| place.last < key);
        let end = self.blocks.partition_point(|place| place.first <= key);
        first..end.max(first)
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// A block, decompressed: entries one after another.
    pub async fn block(&self, number: usize) -> io::Result<Vec<u8>> {
        let missing = || damaged(&self.path, "has no such block");
        let place = self.blocks.get(number).ok_or_else(missing)?;
        let compressed =
            read_exactly(&self.file, &self.path, place.offset, place.length as usize).await?;
        let wrong = || damaged(&self.path, &format!("has a damaged block at {}", place.offset));
        if crc32c::crc32c(&compressed) != place.checksum {
            return Err(wrong());
        }
        let raw_length = place.raw_length as usize;
        let raw = zstd::bulk::decompress(&compressed, raw_length).map_err(|_error| wrong())?;
        if raw.len() == raw_length { Ok(raw) } else { Err(wrong()) }
    }
}

fn damaged(path: &Path, what: &str) -> io::Error {
    let message = format!("layer \"{}\" {what}", path.display());
    io::Error::new(io::ErrorKind::InvalidData, message)
}

async fn read_exactly(file: &File, path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let (read, mut buffer) = file.read_at(vec![0; length], offset).await;
    let read = read?;
    if read < length {
        return Err(damaged(path, "is cut off"));
    }
    buffer.truncate(read);
    Ok(buffer)
}
