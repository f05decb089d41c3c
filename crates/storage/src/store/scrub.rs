//! Checking: every byte of every layer, and of the catalog, against its checksum.

use std::io;

use runtime::executor;

use super::TimelineStore;
use crate::layer::LayerInfo;
use crate::layer::reader::Layer;

/// How far a scrub has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubProgress {
    pub bytes_done: u64,
    pub bytes_total: u64,
}

impl TimelineStore {
    /// Reads every block of every layer, here and in the object store; the answer names what is damaged.
    ///
    /// # Errors
    /// None so far: what cannot be read is damaged.
    pub async fn scrub(&self, progress: impl Fn(ScrubProgress)) -> io::Result<Vec<String>> {
        let layers = self.layers();
        let bytes_total = layers.iter().map(|layer| layer.bytes).sum();
        let mut now = ScrubProgress { bytes_done: 0, bytes_total };
        let mut damaged = Vec::new();
        for info in layers {
            progress(now);
            let found = self.scrub_layer(&info).await;
            // One that went in the meantime is nobody's loss.
            if self.inner.manifest.borrow().layers.contains_key(&info.number) {
                damaged.extend(found);
            }
            now.bytes_done += info.bytes;
        }
        progress(now);
        damaged.extend(self.scrub_catalog().await);
        // Nor is a store that was closed, and whose directory may be gone.
        Ok(if self.is_closed() { Vec::new() } else { damaged })
    }

    async fn scrub_catalog(&self) -> Option<String> {
        let named = || self.inner.manifest.borrow().facts.catalog;
        let (number, checksum) = named()?;
        let read = super::read_catalog(&self.inner.directory, number, checksum).await;
        // One that was replaced in the meantime is nobody's loss.
        read.err().filter(|_| named() == Some((number, checksum))).map(|error| error.to_string())
    }

    async fn scrub_layer(&self, info: &LayerInfo) -> Vec<String> {
        let place = self.inner.manifest.borrow().layers.get(&info.number).map(|layer| layer.place);
        let Some(place) = place else { return Vec::new() };
        let mut damaged = Vec::new();
        if let Some(remote) = self.remote().filter(|_| place.remote) {
            damaged.extend(self.inner.scrub_object(&remote, info).await.err());
        }
        if !place.local {
            return damaged;
        }
        let layer = match Layer::open(&self.inner.directory, info).await {
            Ok(layer) => layer,
            // Removed here, since the object store has it.
            Err(_) if !self.inner.is_here(info.number) => return damaged,
            Err(error) => {
                damaged.push(error.to_string());
                return damaged;
            }
        };
        for number in 0..layer.blocks() {
            if let Err(error) = layer.block(number).await {
                damaged.push(error.to_string());
            }
            executor::yield_now().await;
        }
        damaged
    }
}
