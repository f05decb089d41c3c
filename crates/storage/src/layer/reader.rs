//! Reading a layer: its index once, its blocks as they are asked for.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};

use runtime::executor;
use runtime::fs::{File, OpenOptions};
use zstd::bulk::Decompressor;

use crate::key::Key;
use crate::layer::block::Block;
use crate::layer::index::{BlockPlace, FOOTER_BYTES, Footer, FooterError, PLACE_BYTES};
use crate::layer::{LayerInfo, damaged, path};
use crate::limits::{BLOCK_BYTES_MAX, LAYER_INDEX_BYTES_MAX};
use crate::version::Version;

/// A layer open for reading.
pub struct Layer {
    file: File,
    path: PathBuf,
    pub info: LayerInfo,
    blocks: Vec<BlockPlace>,
}

impl Layer {
    /// Opens a layer: reads footer and index, and holds them against what the manifest says.
    ///
    /// # Errors
    /// `InvalidData` when the file is damaged or another than `info` tells of.
    pub async fn open(directory: &Path, info: &LayerInfo) -> io::Result<Layer> {
        Layer::open_at(path(directory, info.number), info).await
    }

    /// The same under another name.
    pub(crate) async fn open_at(path: PathBuf, info: &LayerInfo) -> io::Result<Layer> {
        let file = File::open(&path, OpenOptions::default()).await?;
        let length = file.len().await?;
        let damaged = |what: &str| damaged(&path, what);
        if length != info.bytes {
            return Err(damaged(&format!("has {length} bytes instead of {}", info.bytes)));
        }
        let footer_at =
            length.checked_sub(FOOTER_BYTES as u64).ok_or_else(|| damaged("is cut off"))?;
        let footer = read_exactly(&file, &path, footer_at, FOOTER_BYTES).await?;
        let footer = Footer::read(&footer).map_err(|error| match error {
            FooterError::Invalid => damaged("has an invalid footer"),
            FooterError::UnknownFormat(format) => {
                damaged(&format!("is of unknown format {format}"))
            }
        })?;
        if (LayerInfo { bytes: info.bytes, place: info.place, ..footer.info }) != *info {
            return Err(damaged("is another layer than the manifest names"));
        }
        if footer.index_offset.checked_add(footer.index_length) != Some(footer_at)
            || footer.index_length > LAYER_INDEX_BYTES_MAX
        {
            return Err(damaged("has an index of an impossible length"));
        }
        let index_length =
            usize::try_from(footer.index_length).map_err(|_wide| damaged("is too long"))?;
        let index = read_exactly(&file, &path, footer.index_offset, index_length).await?;
        if footer.index_checksum != crc32c::crc32c(&index) {
            return Err(damaged("has an index that does not match its checksum"));
        }
        let blocks = index.chunks(PLACE_BYTES).map(BlockPlace::read).collect::<Option<_>>();
        let blocks = blocks.ok_or_else(|| damaged("has an invalid index"))?;
        Ok(Layer { file, path, info: *info, blocks })
    }

    /// Memory that the index takes.
    pub fn weight(&self) -> usize {
        size_of::<Layer>() + self.blocks.len() * size_of::<BlockPlace>()
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// How many blocks begin at or before a version of a key.
    pub fn rank(&self, key: Key, version: Version) -> usize {
        self.blocks.partition_point(|place| place.first <= (key, version))
    }

    /// How many blocks end before a key.
    pub fn rank_of(&self, key: Key) -> usize {
        self.blocks.partition_point(|place| place.last.0 < key)
    }

    /// The last key in a block.
    pub fn last_key(&self, number: usize) -> Option<Key> {
        self.blocks.get(number).map(|place| place.last.0)
    }

    /// Holds every block against its checksum.
    ///
    /// # Errors
    /// `InvalidData` when one does not match.
    pub(crate) async fn verify(&self) -> io::Result<()> {
        for place in &self.blocks {
            let length = place.length as usize;
            let wrong = || damaged(&self.path, &format!("has a damaged block at {}", place.offset));
            if length > BLOCK_BYTES_MAX {
                return Err(wrong());
            }
            let bytes = read_exactly(&self.file, &self.path, place.offset, length).await?;
            if crc32c::crc32c(&bytes) != place.checksum {
                return Err(wrong());
            }
            executor::yield_now().await;
        }
        Ok(())
    }

    /// Reads a block.
    ///
    /// # Errors
    /// `InvalidData` when it is damaged.
    pub async fn block(&self, number: usize) -> io::Result<Block> {
        let missing = || damaged(&self.path, "has no such block");
        let place = self.blocks.get(number).ok_or_else(missing)?;
        let wrong = || damaged(&self.path, &format!("has a damaged block at {}", place.offset));
        let raw_length = place.raw_length as usize;
        if raw_length > BLOCK_BYTES_MAX || place.length as usize > BLOCK_BYTES_MAX {
            return Err(wrong());
        }
        let compressed =
            read_exactly(&self.file, &self.path, place.offset, place.length as usize).await?;
        if crc32c::crc32c(&compressed) != place.checksum {
            return Err(wrong());
        }
        let raw = decompress(&compressed, raw_length).map_err(|_error| wrong())?;
        if raw.len() != raw_length {
            return Err(wrong());
        }
        let block = Block::parse(raw).ok_or_else(wrong)?;
        let ends = (block.get(0), block.get(block.len().wrapping_sub(1)));
        match ends {
            (Some(first), Some(last))
                if (first.key, first.version) == place.first
                    && (last.key, last.version) == place.last =>
            {
                Ok(block)
            }
            _ => Err(wrong()),
        }
    }
}

fn decompress(compressed: &[u8], raw_length: usize) -> io::Result<Vec<u8>> {
    thread_local! {
        /// Making one costs more than using it.
        static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    }
    DECOMPRESSOR.with_borrow_mut(|slot| {
        let decompressor = match slot {
            Some(decompressor) => decompressor,
            None => slot.insert(Decompressor::new()?),
        };
        decompressor.decompress(compressed, raw_length)
    })
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
