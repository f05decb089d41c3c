//! Which layers cover a key at a version.
//!
//! A segment tree over the bounds of the layers' key ranges: each layer hangs on the few nodes whose leaves make up its
//! range, so that a key's layers are those on the path from its leaf to the root. A node's layers are sorted by their oldest
//! version and know the newest one among those before them. The tree is fixed; layers that came since stand in a short
//! list, those that went in a set, until there are enough of them to build it anew.

use std::collections::BTreeSet;

use runtime::bridge;

use crate::key::Key;
use crate::layer::{Kind, LayerInfo};
use crate::limits::{LAYERS_INDEXED_AT_ONCE, LAYERS_UNINDEXED_MAX};
use crate::version::Version;

/// The layers of a timeline, for searching.
#[derive(Debug, Default)]
pub struct LayerMap {
    tree: Tree,
    newer: Vec<LayerInfo>,
    /// Layers of the tree that are gone.
    gone: BTreeSet<u64>,
}

impl LayerMap {
    pub fn new(layers: Vec<LayerInfo>) -> LayerMap {
        LayerMap { tree: Tree::build(layers), ..LayerMap::default() }
    }

    pub fn insert(&mut self, layer: LayerInfo) {
        self.newer.push(layer);
    }

    pub fn remove(&mut self, number: u64) {
        let before = self.newer.len();
        self.newer.retain(|layer| layer.number != number);
        if self.newer.len() == before {
            self.gone.insert(number);
        }
    }

    /// The layers that a read of `key` at `at` has to look into for versions above `after`, the newest first; an image, if
    /// there is one, is the last.
    pub fn search(&self, key: Key, at: Version, after: Option<Version>) -> Vec<LayerInfo> {
        let mut search =
            Search { stop: after.map_or(Floor::None, Floor::After), found: Vec::new() };
        for layer in &self.newer {
            if layer.covers(key) && layer.oldest <= at {
                search.offer(layer);
            }
        }
        self.tree.search(key, at, &self.gone, &mut search);
        search.end()
    }

    /// The newest image at or below a version that covers a key.
    pub fn image(&self, key: Key, at: Version) -> Option<LayerInfo> {
        self.search(key, at, None).pop().filter(|layer| layer.kind == Kind::Image)
    }

    /// Whether the tree should be built anew, from [`LayerMap::layers`].
    pub fn is_unsettled(&self) -> bool {
        self.newer.len() + self.gone.len() > LAYERS_UNINDEXED_MAX
    }

    pub fn layers(&self) -> Vec<LayerInfo> {
        let old = self.tree.layers.iter().filter(|layer| !self.gone.contains(&layer.number));
        old.chain(&self.newer).copied().collect()
    }

    /// A map of these layers, built beside the core if they are many.
    pub async fn build(layers: Vec<LayerInfo>) -> LayerMap {
        if layers.len() <= LAYERS_INDEXED_AT_ONCE {
            return LayerMap::new(layers);
        }
        let copy = layers.clone();
        match bridge::blocking(move || LayerMap::new(copy)).await {
            Ok(map) => map,
            // No thread is free: then here.
            Err(_dropped) => LayerMap::new(layers),
        }
    }
}

/// Where a search ends.
#[derive(Clone, Copy)]
enum Floor {
    None,
    /// Layers with nothing above this are of no interest.
    After(Version),
    /// An image of this version was found.
    Image(Version),
}

struct Search {
    stop: Floor,
    found: Vec<LayerInfo>,
}

impl Search {
    /// Whether a layer whose newest version this is might matter.
    fn wants(&self, newest: Version) -> bool {
        match self.stop {
            Floor::None => true,
            Floor::After(version) | Floor::Image(version) => newest > version,
        }
    }

    fn offer(&mut self, layer: &LayerInfo) {
        if self.wants(layer.newest) {
            if layer.kind == Kind::Image {
                self.stop = Floor::Image(layer.newest);
            }
            self.found.push(*layer);
        }
    }

    fn end(mut self) -> Vec<LayerInfo> {
        if let Floor::Image(version) = self.stop {
            self.found.retain(|layer| {
                layer.newest > version || (layer.newest == version && layer.kind == Kind::Image)
            });
        }
        // At one version an image comes last: versions of its own age may stand in others, too.
        self.found.sort_unstable_by_key(|layer| {
            (std::cmp::Reverse(layer.newest), layer.kind == Kind::Image, layer.number)
        });
        self.found
    }
}

/// Before a key (0) or after it (1).
type Bound = (Key, u8);

#[derive(Debug, Default)]
struct Tree {
    layers: Vec<LayerInfo>,
    bounds: Vec<Bound>,
    /// Number of leaves: one more than bounds.
    leaves: usize,
    /// Where each node's places begin; one more than there are nodes.
    starts: Vec<u32>,
    places: Vec<Hung>,
}

/// A layer at a node.
#[derive(Clone, Copy, Debug)]
struct Hung {
    layer: u32,
    oldest: Version,
    /// Of this one and those before it at the node.
    newest: Version,
}

impl Tree {
    fn build(mut layers: Vec<LayerInfo>) -> Tree {
        layers.sort_unstable_by_key(|layer| (layer.oldest, layer.number));
        let mut bounds: Vec<Bound> =
            layers.iter().flat_map(|layer| [(layer.first, 0), (layer.last, 1)]).collect();
        bounds.sort_unstable();
        bounds.dedup();
        let leaves = bounds.len() + 1;
        let mut starts = vec![0u32; 2 * leaves + 1];
        let ranges: Vec<(usize, usize)> = layers
            .iter()
            .map(|layer| {
                let rank = |bound: Bound| bounds.partition_point(|other| *other <= bound);
                (rank((layer.first, 0)), rank((layer.last, 1)))
            })
            .collect();
        for &range in &ranges {
            for_nodes(leaves, range, |node| starts[node + 1] += 1);
        }
        for node in 1..starts.len() {
            starts[node] += starts[node - 1];
        }
        let total = starts.last().map_or(0, |total| *total as usize);
        let mut places = vec![Hung { layer: 0, oldest: Version(0), newest: Version(0) }; total];
        let mut next = starts.clone();
        // In the order of their oldest versions, so that each node's are.
        for (number, (layer, &range)) in (0u32..).zip(layers.iter().zip(&ranges)) {
            for_nodes(leaves, range, |node| {
                let at = next[node] as usize;
                let newest = match at.checked_sub(1).filter(|_| next[node] > starts[node]) {
                    Some(before) => layer.newest.max(places[before].newest),
                    None => layer.newest,
                };
                places[at] = Hung { layer: number, oldest: layer.oldest, newest };
                next[node] += 1;
            });
        }
        Tree { layers, bounds, leaves, starts, places }
    }

    fn search(&self, key: Key, at: Version, gone: &BTreeSet<u64>, search: &mut Search) {
        if self.layers.is_empty() {
            return;
        }
        let mut node = self.bounds.partition_point(|bound| *bound <= (key, 0)) + self.leaves;
        // What is left of each node on the path: at most one per level.
        let mut paths: Vec<&[Hung]> = Vec::new();
        while node >= 1 {
            let hung = &self.places[self.starts[node] as usize..self.starts[node + 1] as usize];
            let hung = &hung[..hung.partition_point(|hung| hung.oldest <= at)];
            if !hung.is_empty() {
                paths.push(hung);
            }
            node /= 2;
        }
        // Always the node that may have the newest, so that an image is found before what lies below it.
        while let Some(path) =
            paths.iter_mut().max_by_key(|path| path.last().map(|hung| hung.newest))
        {
            let Some((last, rest)) = path.split_last() else { break };
            if !search.wants(last.newest) {
                break;
            }
            *path = rest;
            let layer = &self.layers[last.layer as usize];
            if !gone.contains(&layer.number) {
                search.offer(layer);
            }
        }
    }
}

/// The nodes whose leaves together are the half-open range.
fn for_nodes(leaves: usize, (from, until): (usize, usize), mut visit: impl FnMut(usize)) {
    let (mut from, mut until) = (from + leaves, until + leaves);
    while from < until {
        if from % 2 == 1 {
            visit(from);
            from += 1;
        }
        if until % 2 == 1 {
            until -= 1;
            visit(until);
        }
        from /= 2;
        until /= 2;
    }
}

#[cfg(test)]
mod tests;
