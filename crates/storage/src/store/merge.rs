//! The entries of several layers as one sorted stream.

use std::io;
use std::rc::Rc;

use crate::entry::Entry;
use crate::key::Key;
use crate::layer::block::Block;
use crate::layer::reader::Layer;
use crate::version::Version;

/// Where a merge has come to. Of two entries of the same key and version the whole one counts.
pub(super) struct Merge {
    /// Each at an entry; those at their end are dropped.
    scans: Vec<Scan>,
}

impl Merge {
    /// The entries of these layers with keys in a range, both ends in it.
    pub(super) async fn new(layers: Vec<Rc<Layer>>, range: (Key, Key)) -> io::Result<Merge> {
        let mut scans = Vec::new();
        for layer in layers {
            scans.extend(Scan::begin(layer, range).await?);
        }
        Ok(Merge { scans })
    }

    /// The entry that comes next.
    pub(super) fn peek(&self) -> Option<Entry<'_>> {
        self.least().and_then(|number| self.scans[number].entry())
    }

    fn least(&self) -> Option<usize> {
        (0..self.scans.len()).min_by_key(|&number| self.scans[number].order())
    }

    /// Goes on to the next key or version.
    pub(super) async fn advance(&mut self) -> io::Result<()> {
        let Some(least) = self.least() else { return Ok(()) };
        let (key, version, _) = self.scans[least].order();
        let mut number = 0;
        while number < self.scans.len() {
            let scan = &mut self.scans[number];
            let order = scan.order();
            if (order.0, order.1) != (key, version) || scan.advance().await? {
                number += 1;
            } else {
                self.scans.swap_remove(number);
            }
        }
        Ok(())
    }
}

/// A place in one layer.
struct Scan {
    layer: Rc<Layer>,
    last: Key,
    number: usize,
    block: Block,
    position: usize,
    /// Key, version, and that it is not whole.
    order: (Key, Version, bool),
}

impl Scan {
    async fn begin(layer: Rc<Layer>, (first, last): (Key, Key)) -> io::Result<Option<Scan>> {
        let number = layer.rank_of(first);
        if number >= layer.blocks() {
            return Ok(None);
        }
        let block = layer.block(number).await?;
        let position = block.rank_of(first);
        let order = (first, Version(0), false);
        let mut scan = Scan { layer, last, number, block, position, order };
        Ok(scan.note().then_some(scan))
    }

    fn entry(&self) -> Option<Entry<'_>> {
        self.block.get(self.position)
    }

    fn order(&self) -> (Key, Version, bool) {
        self.order
    }

    /// Remembers the order of the current entry; answers whether there is one in range.
    fn note(&mut self) -> bool {
        let order = self.entry().map(|entry| (entry.key, entry.version, !entry.whole));
        let order = order.filter(|(key, ..)| *key <= self.last);
        self.order = order.unwrap_or(self.order);
        order.is_some()
    }

    /// Goes on; answers whether there is an entry.
    async fn advance(&mut self) -> io::Result<bool> {
        self.position += 1;
        if self.position >= self.block.len() {
            self.number += 1;
            if self.number >= self.layer.blocks() {
                return Ok(false);
            }
            self.block = self.layer.block(self.number).await?;
            self.position = 0;
        }
        Ok(self.note())
    }
}
