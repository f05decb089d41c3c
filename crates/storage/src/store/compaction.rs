//! Layers into better layers: level 0 merged into delta layers by ranges of keys, images where deltas lie deep.
//!
//! One step at a time: the owner says when. A step's reads and writes let other tasks have a turn at every block.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;

use runtime::executor;

use super::merge::Merge;
use super::{Change, Commit, TimelineStore};
use crate::entry::{Entry, OwnedEntry};
use crate::key::Key;
use crate::layer::reader::Layer;
use crate::layer::writer::LayerWriter;
use crate::layer::{Kind, LayerInfo};
use crate::limits::{
    DELTA_DEPTH_MAX, LAYER_RAW_BYTES, LAYERS_LOOKED_AT_ONCE, LEVEL0_LAYERS, MERGED_LAYERS_MAX,
};
use crate::version::Version;

/// When to do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionOptions {
    /// So many layers of level 0 are merged.
    pub level0_layers: usize,
    /// So many delta layers on top of each other make an image.
    pub delta_depth: usize,
    /// Bytes of entries after which another layer is begun.
    pub layer_raw_bytes: u64,
}

impl Default for CompactionOptions {
    fn default() -> CompactionOptions {
        CompactionOptions {
            level0_layers: LEVEL0_LAYERS,
            delta_depth: DELTA_DEPTH_MAX,
            layer_raw_bytes: LAYER_RAW_BYTES,
        }
    }
}

/// What a step has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is nothing to do for now.
    Nothing,
    /// Layers of level 0 were merged.
    Merged { layers: usize, bytes: u64 },
    /// An image was made.
    Imaged { entries: u64, bytes: u64 },
}

impl TimelineStore {
    /// Does what is most urgent. `materialize` makes a whole version of a key out of what `read` would answer at the given
    /// version (the last of it; the owner adds what its ancestors have), or none if it cannot be done for that key.
    ///
    /// # Errors
    /// As `read` and `commit`; what `materialize` says, as `Other`. The store is then as it was.
    pub async fn compact(
        &self,
        options: &CompactionOptions,
        materialize: impl AsyncFn(Key, Version, Vec<OwnedEntry>) -> Result<Option<Vec<u8>>, String>,
    ) -> io::Result<Step> {
        let _turn = self.inner.maintaining.take().await;
        if self.stats().level0_layers >= options.level0_layers as u64 {
            return self.merge_level0(options).await;
        }
        let version = self.flushed_through();
        match deep_range(&self.layers(), version, options.delta_depth).await {
            Some(range) => self.make_image(range, version, options, materialize).await,
            None => Ok(Step::Nothing),
        }
    }

    /// The oldest layers of level 0 into delta layers side by side.
    async fn merge_level0(&self, options: &CompactionOptions) -> io::Result<Step> {
        let mut sources = self.layers();
        sources.retain(|layer| layer.kind == Kind::Level0);
        sources.sort_by_key(|layer| (layer.newest, layer.number));
        sources.truncate(MERGED_LAYERS_MAX);
        let mut merge = self.merge(&sources, (Key::FIRST, Key::LAST)).await?;
        let mut layers = Vec::new();
        let mut writer: Option<LayerWriter> = None;
        while let Some(entry) = merge.peek() {
            if let Some(full) = writer.take_if(|writer| is_full(writer, entry.key, options)) {
                layers.extend(full.finish_as(Kind::Delta).await?);
            }
            let writer = match &mut writer {
                Some(writer) => writer,
                none => none.insert(self.begin_layer().await?),
            };
            writer.add(entry).await?;
            merge.advance().await?;
        }
        if let Some(last) = writer {
            layers.extend(last.finish_as(Kind::Delta).await?);
        }
        let bytes = layers.iter().map(|layer| layer.bytes).sum();
        let step = Step::Merged { layers: sources.len(), bytes };
        let removed = sources.iter().map(|layer| layer.number).collect();
        let commit = Commit { layers, ..Commit::default() };
        self.change(Change { commit, removed, kept_from: None }).await?;
        Ok(step)
    }

    async fn merge(&self, layers: &[LayerInfo], range: (Key, Key)) -> io::Result<Merge> {
        let mut open = Vec::with_capacity(layers.len());
        for info in layers {
            // Not among those held open for reads, which are more urgent.
            open.push(Rc::new(Layer::open(&self.inner.directory, info).await?));
        }
        Merge::new(open, range).await
    }

    /// An image of a range, or of so much at its beginning as one layer holds.
    async fn make_image(
        &self,
        range: DeepRange,
        version: Version,
        options: &CompactionOptions,
        materialize: impl AsyncFn(Key, Version, Vec<OwnedEntry>) -> Result<Option<Vec<u8>>, String>,
    ) -> io::Result<Step> {
        let DeepRange { first, mut last, layers } = range;
        let mut merge = self.merge(&layers, (first, last)).await?;
        let mut writer = self.begin_layer().await?;
        while let Some(key) = merge.peek().map(|entry| entry.key) {
            if is_full(&writer, key, options)
                && let Some(end) = writer.last_key()
            {
                last = end;
                break;
            }
            let chain = take_chain(&mut merge, key, version).await?;
            add_image(&mut writer, version, chain, &materialize).await?;
        }
        let image = writer.finish_image((first, last), version).await?;
        let commit = Commit { layers: vec![image], ..Commit::default() };
        self.change(Change { commit, ..Change::default() }).await?;
        Ok(Step::Imaged { entries: image.entries, bytes: image.bytes })
    }
}

/// Whether a layer is to end before an entry of this key. Keys stay together.
fn is_full(writer: &LayerWriter, key: Key, options: &CompactionOptions) -> bool {
    writer.raw_bytes() >= options.layer_raw_bytes && writer.last_key() != Some(key)
}

/// The entries of a key up to a version, from the newest whole one on.
async fn take_chain(merge: &mut Merge, key: Key, upto: Version) -> io::Result<Vec<OwnedEntry>> {
    let mut chain: Vec<OwnedEntry> = Vec::new();
    while let Some(entry) = merge.peek().filter(|entry| entry.key == key) {
        if entry.version <= upto {
            if entry.whole {
                chain.clear();
            }
            chain.push(entry.to_owned());
        }
        merge.advance().await?;
    }
    Ok(chain)
}

/// A key's part of an image: one whole version, or what there is if none can be made.
async fn add_image(
    writer: &mut LayerWriter,
    version: Version,
    chain: Vec<OwnedEntry>,
    materialize: &impl AsyncFn(Key, Version, Vec<OwnedEntry>) -> Result<Option<Vec<u8>>, String>,
) -> io::Result<()> {
    if let [only] = &chain[..]
        && only.whole
    {
        return writer.add(only.borrow()).await;
    }
    let Some((key, newest)) = chain.last().map(|last| (last.key, last.version)) else {
        return Ok(());
    };
    let kept = chain.clone();
    match materialize(key, version, chain).await.map_err(io::Error::other)? {
        Some(payload) => {
            writer.add(Entry { key, version: newest, whole: true, payload: &payload }).await
        }
        None => {
            for entry in &kept {
                writer.add(entry.borrow()).await?;
            }
            Ok(())
        }
    }
}

/// A range of keys in which delta layers lie deep, and the layers that tell all of it.
struct DeepRange {
    first: Key,
    last: Key,
    layers: Vec<LayerInfo>,
}

/// The first range with at least so many delta layers above each other since the last image.
async fn deep_range(layers: &[LayerInfo], upto: Version, depth: usize) -> Option<DeepRange> {
    // Where layers begin (before a key: 0) and end (after it: 1).
    let mut bounds: Vec<((Key, u8), usize)> = Vec::with_capacity(2 * layers.len());
    for (number, layer) in layers.iter().enumerate().filter(|(_, layer)| layer.oldest <= upto) {
        bounds.extend([((layer.first, 0), number), ((layer.last, 1), number)]);
    }
    bounds.sort_unstable();
    let mut here: BTreeMap<(Version, bool, u64), &LayerInfo> = BTreeMap::new();
    let mut begun: Option<(Key, BTreeSet<usize>)> = None;
    let mut looked_at = 0;
    for same in bounds.chunk_by(|one, other| one.0 == other.0) {
        for &((_, is_end), number) in same {
            let layer = &layers[number];
            let order = (layer.newest, layer.kind == Kind::Image, layer.number);
            if is_end == 1 {
                here.remove(&order)
            } else {
                here.insert(order, layer)
            };
        }
        let Some(&((key, is_end), _)) = same.first() else { continue };
        let since_image: Vec<&LayerInfo> = since_image(&here);
        let deltas = since_image.iter().filter(|layer| layer.kind == Kind::Delta).count();
        let number = |layer: &&LayerInfo| layers.binary_search_by_key(&layer.number, |l| l.number);
        let mut sources: BTreeSet<usize> =
            since_image.iter().filter_map(|layer| number(layer).ok()).collect();
        if let Some((_, before)) = &begun {
            sources.extend(before);
        }
        let is_over = deltas < depth || sources.len() > MERGED_LAYERS_MAX;
        if let Some((first, sources)) = begun.take_if(|_| is_over) {
            let last = if is_end == 1 { key } else { key.previous()? };
            // Between the end of a layer and the next one's beginning there may be no key.
            if first <= last {
                let layers = sources.iter().map(|&number| layers[number]).collect();
                return Some(DeepRange { first, last, layers });
            }
        }
        if deltas >= depth {
            let first = if is_end == 1 { key.next()? } else { key };
            begun.get_or_insert((first, BTreeSet::new())).1 = sources;
        }
        looked_at += 1;
        if looked_at % LAYERS_LOOKED_AT_ONCE == 0 {
            executor::yield_now().await;
        }
    }
    None
}

/// The layers down to the newest image, and it.
fn since_image<'l>(here: &BTreeMap<(Version, bool, u64), &'l LayerInfo>) -> Vec<&'l LayerInfo> {
    let mut layers = Vec::new();
    for (&(_, is_image, _), &layer) in here.iter().rev() {
        layers.push(layer);
        if is_image {
            break;
        }
    }
    layers
}
