//! Collection: removes layers that no version that is kept can need.
//!
//! A read at a version looks from its newest layers down to an image. So a layer is needless when, for every kept version at
//! or above its oldest one, images that are no older than its newest version and no newer than the kept one cover all
//! of its range: the lowest of those kept versions decides. An image that another layer's removal relies on goes itself only
//! when newer ones, under the same condition, cover its range; so the newest of them stay.

use std::io;

use runtime::executor;

use super::{Change, TimelineStore};
use crate::key::Key;
use crate::layer::{Kind, LayerInfo};
use crate::layer_map::LayerMap;
use crate::limits::COLLECTED_AT_ONCE;
use crate::version::Version;

/// Which versions stay readable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// This one and all after it.
    pub cutoff: Version,
    /// These, too: branch points and leases, in any order.
    pub pins: Vec<Version>,
}

/// What a collection has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub layers: u64,
    /// Of their files.
    pub bytes: u64,
}

impl TimelineStore {
    /// Removes what no kept version needs; the space is free when this returns.
    ///
    /// # Errors
    /// As `commit`; nothing is removed then.
    pub async fn gc(&self, keep: &Keep) -> io::Result<Collected> {
        let _turn = self.inner.maintaining.take().await;
        let mut pins = keep.pins.clone();
        pins.sort_unstable();
        let (mut removed, mut collected) = (Vec::new(), Collected::default());
        let mut layers = self.layers();
        layers.retain(|layer| layer.newest <= keep.cutoff);
        for some in layers.chunks(COLLECTED_AT_ONCE) {
            for layer in self.needless(some, keep.cutoff, &pins) {
                removed.push(layer.number);
                collected.layers += 1;
                collected.bytes += layer.bytes;
            }
            executor::yield_now().await;
        }
        if !removed.is_empty() || self.kept_from() < keep.cutoff {
            let kept_from = Some(keep.cutoff);
            self.change(Change { removed, kept_from, ..Change::default() }).await?;
        }
        Ok(collected)
    }

    fn needless(&self, layers: &[LayerInfo], cutoff: Version, pins: &[Version]) -> Vec<LayerInfo> {
        let map = self.inner.map.borrow();
        let needless = |layer: &&LayerInfo| is_needless(layer, cutoff, pins, &map);
        layers.iter().filter(needless).copied().collect()
    }
}

fn is_needless(layer: &LayerInfo, cutoff: Version, pins: &[Version], map: &LayerMap) -> bool {
    let pin = pins.get(pins.partition_point(|pin| *pin < layer.oldest));
    let lowest = pin.map_or(cutoff, |pin| cutoff.min(*pin));
    layer.newest <= lowest && is_covered(layer, lowest, map)
}

/// Whether images no newer than `at`, that tell what the layer tells, cover its range.
fn is_covered(layer: &LayerInfo, at: Version, map: &LayerMap) -> bool {
    let mut next: Option<Key> = Some(layer.first);
    while let Some(key) = next.filter(|key| *key <= layer.last) {
        let replaces = |image: &LayerInfo| match layer.kind {
            Kind::Image => image.newest > layer.newest,
            Kind::Level0 | Kind::Delta => image.newest >= layer.newest,
        };
        match map.image(key, at).filter(replaces) {
            Some(image) => next = image.last.next(),
            None => return false,
        }
    }
    true
}
