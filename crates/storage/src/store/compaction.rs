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
use crate::layer::writer::LayerWriter;
use crate::layer::{Kind, LayerInfo};
use crate::limits::{
    COLLECTED_BYTES_MIN, COLLECTED_PERCENT, DELTA_DEPTH, DELTA_DEPTH_MAX, IMAGE_PERCENT,
    LAYER_RAW_BYTES, LAYERS_LOOKED_AT_ONCE, LEVEL0_LAYERS, MERGED_LAYERS_MAX,
};
use crate::version::Version;

/// When to do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionOptions {
    /// So many layers of level 0 are merged.
    pub level0_layers: usize,
    /// So many delta layers on top of each other make an image, if they have this share of the bytes that lie below them
    /// (an image writes those anew), in percent.
    pub delta_depth: usize,
    pub image_percent: u64,
    /// So many make one in any case.
    pub delta_depth_max: usize,
    /// What is older than the cut-off makes an image there if it has this share of the bytes below it, in percent, and so
    /// many bytes.
    pub collected_percent: u64,
    pub collected_bytes_min: u64,
    /// Bytes of entries after which another layer is begun.
    pub layer_raw_bytes: u64,
}

impl Default for CompactionOptions {
    fn default() -> CompactionOptions {
        CompactionOptions {
            level0_layers: LEVEL0_LAYERS,
            delta_depth: DELTA_DEPTH,
            image_percent: IMAGE_PERCENT,
            delta_depth_max: DELTA_DEPTH_MAX,
            collected_percent: COLLECTED_PERCENT,
            collected_bytes_min: COLLECTED_BYTES_MIN,
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

/// What the owner makes of a key's versions for an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// One whole version.
    Whole(Vec<u8>),
    /// Nothing can be made of them: they stay as they are.
    AsTheyAre,
    /// Nobody who reads at the image's version or later needs any of them; who knows an earlier version of the key knows
    /// without being told that it is no longer so.
    Nothing,
}

impl TimelineStore {
    /// Does what is most urgent. `materialize` makes a whole version of a key out of what `read` would answer at the given
    /// version (the last of it; the owner adds what its ancestors have).
    ///
    /// # Errors
    /// As `read` and `commit`; what `materialize` says, as `Other`. The store is then as it was.
    pub async fn compact(
        &self,
        options: &CompactionOptions,
        materialize: impl AsyncFn(Key, Version, Vec<OwnedEntry>) -> Result<Made, String>,
    ) -> io::Result<Step> {
        let _turn = self.inner.maintaining.take().await;
        if self.stats().level0_layers >= options.level0_layers as u64 {
            return self.merge_level0(options).await;
        }
        let version = self.flushed_through();
        let is_deep = |cell: &Cell| {
            let is_worth_it = cell.delta_bytes * 100 >= cell.base_bytes * options.image_percent;
            cell.deltas >= options.delta_depth && is_worth_it
                || cell.deltas >= options.delta_depth_max
        };
        match find_range(&self.layers(), version, 0, is_deep).await {
            Some(range) => self.make_image(range, version, options, materialize).await,
            None => Ok(Step::Nothing),
        }
    }

    /// Makes an image as of `cutoff` where enough lies before it that [`TimelineStore::gc`] can remove then. Otherwise as
    /// [`TimelineStore::compact`].
    ///
    /// # Errors
    /// As `compact`.
    pub async fn make_room(
        &self,
        cutoff: Version,
        options: &CompactionOptions,
        materialize: impl AsyncFn(Key, Version, Vec<OwnedEntry>) -> Result<Made, String>,
    ) -> io::Result<Step> {
        let _turn = self.inner.maintaining.take().await;
        let version = cutoff.min(self.flushed_through());
        let is_old = |cell: &Cell| {
            cell.old_bytes > 0
                && cell.old_bytes * 100 >= cell.base_bytes * options.collected_percent
        };
        let layers = self.layers();
        match find_range(&layers, version, options.collected_bytes_min, is_old).await {
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
        let mut layers = Vec::new();
        if let Err(error) = self.write_merged(&sources, options, &mut layers).await {
            // Those that are whole are of no use without the others, and the disk may be full.
            self.inner.litter.borrow_mut().append(&mut self.inner.paths(&layers));
            self.inner.remove_litter().await;
            return Err(error);
        }
        let bytes = layers.iter().map(|layer| layer.bytes).sum();
        let step = Step::Merged { layers: sources.len(), bytes };
        let removed = sources.iter().map(|layer| layer.number).collect();
        let commit = Commit { layers, ..Commit::default() };
        self.change(Change { commit, removed, kept_from: None }).await?;
        Ok(step)
    }

    /// The entries of these layers in new ones; `layers` has those that are whole, after an error, too.
    async fn write_merged(
        &self,
        sources: &[LayerInfo],
        options: &CompactionOptions,
        layers: &mut Vec<LayerInfo>,
    ) -> io::Result<()> {
        let mut merge = self.merge(sources, (Key::FIRST, Key::LAST)).await?;
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
        Ok(())
    }

    async fn merge(&self, layers: &[LayerInfo], range: (Key, Key)) -> io::Result<Merge> {
        let mut open = Vec::with_capacity(layers.len());
        for info in layers {
            // Not among those held open for reads, which are more urgent.
            open.push(Rc::new(self.inner.open_layer(info).await?));
        }
        Merge::new(open, range).await
    }

    /// An image of a range, or of so much at its beginning as one layer holds.
    async fn make_image(
        &self,
        range: Range,
        version: Version,
        options: &CompactionOptions,
        materialize: impl AsyncFn(Key, Version, Vec<OwnedEntry>) -> Result<Made, String>,
    ) -> io::Result<Step> {
        let Range { first, mut last, layers } = range;
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
    materialize: &impl AsyncFn(Key, Version, Vec<OwnedEntry>) -> Result<Made, String>,
) -> io::Result<()> {
    let Some((key, newest)) = chain.last().map(|last| (last.key, last.version)) else {
        return Ok(());
    };
    let kept = chain.clone();
    match materialize(key, version, chain).await.map_err(io::Error::other)? {
        Made::Whole(payload) => {
            writer.add(Entry { key, version: newest, whole: true, payload: &payload }).await
        }
        Made::Nothing => Ok(()),
        Made::AsTheyAre => {
            for entry in &kept {
                writer.add(entry.borrow()).await?;
            }
            Ok(())
        }
    }
}

/// A range of keys, and the layers that tell all of it.
struct Range {
    first: Key,
    last: Key,
    layers: Vec<LayerInfo>,
}

/// What lies between two neighbouring bounds of layers, down to the newest image. A layer's bytes are taken to be spread
/// evenly over the cells that it covers: nobody counts them.
#[derive(Clone, Copy, Default)]
struct Cell {
    /// Delta layers, and the bytes of those and of level 0.
    deltas: usize,
    delta_bytes: u64,
    /// Those of them with nothing later than the image would be.
    old_bytes: u64,
    /// Bytes of images and of imported layers.
    base_bytes: u64,
}

/// A bound of a layer: its key, and whether it lies before the key (0: the layer begins) or after it (1: it has ended).
type Bound = (Key, u8);

/// The first range that is wanted throughout, of those with so many old bytes, among what there is up to a version.
async fn find_range(
    layers: &[LayerInfo],
    upto: Version,
    old_bytes_min: u64,
    is_wanted: impl Fn(&Cell) -> bool,
) -> Option<Range> {
    let mut bounds: Vec<(Bound, usize)> = Vec::with_capacity(2 * layers.len());
    for (number, layer) in layers.iter().enumerate().filter(|(_, layer)| layer.oldest <= upto) {
        bounds.extend([((layer.first, 0), number), ((layer.last, 1), number)]);
    }
    bounds.sort_unstable();
    let cells = cells_covered(layers.len(), &bounds);
    let mut here: BTreeMap<(Version, bool, u64), usize> = BTreeMap::new();
    let mut begun: Option<Begun> = None;
    let same_bound = |one: &(Bound, usize), other: &(Bound, usize)| one.0 == other.0;
    for (looked_at, same) in bounds.chunk_by(same_bound).enumerate() {
        for &((_, is_end), number) in same {
            let layer = &layers[number];
            let order = (layer.newest, layer.kind == Kind::Image, layer.number);
            if is_end == 1 {
                here.remove(&order)
            } else {
                here.insert(order, number)
            };
        }
        let Some(&((key, is_end), _)) = same.first() else { continue };
        let mut sources: BTreeSet<usize> = since_image(&here).collect();
        let cell = cell_of(&sources, layers, &cells, upto);
        if let Some(begun) = &begun {
            sources.extend(&begun.sources);
        }
        let is_over = !is_wanted(&cell) || sources.len() > MERGED_LAYERS_MAX;
        if let Some(Begun { first, sources, old_bytes }) = begun.take_if(|_| is_over) {
            let last = if is_end == 1 { key } else { key.previous()? };
            // Between the end of a layer and the next one's beginning there may be no key.
            if first <= last && old_bytes >= old_bytes_min {
                let layers = sources.iter().map(|&number| layers[number]).collect();
                return Some(Range { first, last, layers });
            }
        }
        if is_wanted(&cell) {
            let first = if is_end == 1 { key.next()? } else { key };
            let none = Begun { first, sources: BTreeSet::new(), old_bytes: 0 };
            let begun = begun.get_or_insert(none);
            begun.sources = sources;
            begun.old_bytes += cell.old_bytes;
        }
        if looked_at % LAYERS_LOOKED_AT_ONCE == LAYERS_LOOKED_AT_ONCE - 1 {
            executor::yield_now().await;
        }
    }
    None
}

/// A range on its way.
struct Begun {
    first: Key,
    sources: BTreeSet<usize>,
    old_bytes: u64,
}

/// Over how many cells each layer goes.
fn cells_covered(layers: usize, bounds: &[(Bound, usize)]) -> Vec<u64> {
    let mut covered = vec![0_u64; layers];
    let mut cell = 0;
    for same in bounds.chunk_by(|one, other| one.0 == other.0) {
        cell += 1;
        for &((_, is_end), number) in same {
            covered[number] = if is_end == 1 { cell - covered[number] } else { cell };
        }
    }
    covered
}

fn cell_of(sources: &BTreeSet<usize>, layers: &[LayerInfo], cells: &[u64], upto: Version) -> Cell {
    let mut cell = Cell::default();
    for &number in sources {
        let layer = &layers[number];
        let bytes = layer.bytes / cells[number].max(1);
        // Everything of one version: an import, as good as an image.
        let is_import = layer.kind == Kind::Delta && layer.oldest == layer.newest;
        if layer.kind == Kind::Image || is_import {
            cell.base_bytes += bytes;
            continue;
        }
        cell.deltas += usize::from(layer.kind == Kind::Delta);
        cell.delta_bytes += bytes;
        if layer.newest <= upto {
            cell.old_bytes += bytes;
        }
    }
    cell
}

/// The layers down to the newest image, and it.
fn since_image(here: &BTreeMap<(Version, bool, u64), usize>) -> impl Iterator<Item = usize> {
    let mut is_over = false;
    here.iter().rev().map_while(move |(&(_, is_image, _), &number)| {
        let is_wanted = !is_over;
        is_over |= is_image;
        is_wanted.then_some(number)
    })
}
