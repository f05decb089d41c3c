//! The inventory: all that a page server consists of, as one document in the object store.
//!
//! Bytes: the length of the head (8, big endian), the head as JSON, then the timelines' manifests one after another, as long
//! as the head says. Checksums are the envelope's (`storage::bucket::Numbered`) and the manifests' own.

use serde::{Deserialize, Serialize};
use storage::manifest::Manifest;

/// Name of the folder with its versions.
pub const FOLDER: &str = "inventory";
const FORMAT: u32 = 1;

/// Everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inventory {
    pub head: Head,
    /// Of the timelines, in their order.
    pub manifests: Vec<Manifest>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub format: u32,
    /// Random; the same as long as page servers follow upon each other.
    pub history: String,
    /// The files `base.manifest` and `branches`, as they are on disk. No base backup has been copied if they are empty.
    pub base_manifest: String,
    pub branches: String,
    /// Files of the histories of Postgres' own timelines, beside the WAL.
    pub histories: Vec<HistoryFile>,
    pub timelines: Vec<TimelineObjects>,
    /// Objects that are in no inventory any more and still are to be removed.
    pub dropped: Vec<Dropped>,
}

/// A timeline history file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryFile {
    pub name: String,
    pub text: String,
}

/// What there is of a timeline besides its manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineObjects {
    pub name: String,
    pub folder: String,
    /// Epoch of the compute that was attached last.
    pub epoch: u64,
    /// The file of its leases, if it has any.
    pub leases: String,
    /// Which WAL counts: each of these streams from its LSN on, up to where a later one begins.
    pub streams: Vec<StreamStart>,
    pub manifest_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStart {
    pub id: u64,
    pub from: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    pub object: String,
    /// The first version without it.
    pub version: u64,
    /// Seconds since 1970.
    pub at: i64,
}

impl Inventory {
    /// One with nothing in it but the history's name.
    #[must_use]
    pub fn empty(history: &str) -> Inventory {
        let head = Head { format: FORMAT, history: history.to_owned(), ..Head::default() };
        Inventory { head, manifests: Vec::new() }
    }

    /// Whether a page server can be made of it.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.head.base_manifest.is_empty()
    }

    #[must_use]
    pub fn to_bytes(&self, number: u64) -> Vec<u8> {
        let manifests: Vec<Vec<u8>> =
            self.manifests.iter().map(|manifest| manifest.to_bytes(number)).collect();
        let mut head = self.head.clone();
        for (timeline, bytes) in head.timelines.iter_mut().zip(&manifests) {
            timeline.manifest_bytes = bytes.len() as u64;
        }
        let head = serde_json::to_vec(&head).expect("plain fields become JSON");
        let mut bytes = (head.len() as u64).to_be_bytes().to_vec();
        bytes.extend_from_slice(&head);
        manifests.iter().for_each(|manifest| bytes.extend_from_slice(manifest));
        bytes
    }

    /// # Errors
    /// What is wrong with the bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Inventory, String> {
        let damaged = || "the inventory is damaged".to_owned();
        let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(damaged)?;
        let length = usize::try_from(u64::from_be_bytes(*length)).map_err(|_wide| damaged())?;
        let (head, mut rest) = rest.split_at_checked(length).ok_or_else(damaged)?;
        let head: Head = serde_json::from_slice(head)
            .map_err(|error| format!("the inventory is damaged or of a later format: {error}"))?;
        if head.format != FORMAT {
            return Err(format!("the inventory is of unknown format {}", head.format));
        }
        let mut manifests = Vec::with_capacity(head.timelines.len());
        for timeline in &head.timelines {
            let length = usize::try_from(timeline.manifest_bytes).map_err(|_wide| damaged())?;
            let (manifest, after) = rest.split_at_checked(length).ok_or_else(damaged)?;
            manifests.push(
                Manifest::from_bytes(manifest)
                    .map_err(|error| format!("manifest of \"{}\": {error}", timeline.name))?,
            );
            rest = after;
        }
        if rest.is_empty() { Ok(Inventory { head, manifests }) } else { Err(damaged()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_wrote_and_refuses_what_is_cut() {
        let mut inventory = Inventory::empty("aa");
        let timeline = TimelineObjects {
            name: "main".to_owned(),
            folder: "timelines/main.1".to_owned(),
            streams: vec![StreamStart { id: 1 << 16, from: 42 }],
            ..TimelineObjects::default()
        };
        inventory.head.timelines.push(timeline);
        inventory.manifests.push(Manifest::default());
        let bytes = inventory.to_bytes(7);
        let mut read = Inventory::from_bytes(&bytes).expect("our own is valid");
        assert!(read.head.timelines[0].manifest_bytes > 0);
        read.head.timelines[0].manifest_bytes = 0;
        assert_eq!(read, inventory);
        for length in 0..bytes.len() {
            assert!(Inventory::from_bytes(&bytes[..length]).is_err(), "{length} bytes");
        }
    }
}
