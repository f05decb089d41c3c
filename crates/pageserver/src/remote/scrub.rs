//! Checking what the object store has besides layers, catalogs and WAL, against their checksums.

use storage::bucket::Numbered;

use super::inventory::{self, Inventory};
use super::{ObjectStore, failed, wal};
use crate::error::Error;
use crate::limits::CATALOG_BYTES_MAX;

impl ObjectStore {
    /// Reads every catalog that the newest inventory names and all pieces of WAL; the answer names what is damaged.
    /// `report` is told how many bytes each had.
    ///
    /// # Errors
    /// When the store cannot be read at all.
    pub(crate) async fn scrub(&self, report: impl Fn(u64)) -> Result<Vec<String>, Error> {
        let newest = Numbered::new(&self.bucket, inventory::FOLDER).newest().await;
        let Some(newest) = newest.map_err(|error| failed(&error))? else { return Ok(Vec::new()) };
        let inventory = Inventory::from_bytes(&newest.body).map_err(Error::Damaged)?;
        let mut damaged = Vec::new();
        for (timeline, manifest) in inventory.head.timelines.iter().zip(&inventory.manifests) {
            if let Some((number, checksum)) = manifest.facts.catalog {
                let name = format!("{}/{number:016x}.catalog", timeline.folder);
                damaged.extend(self.scrub_catalog(&name, checksum, &report).await);
            }
            for piece in wal::pieces(&self.bucket, &timeline.folder).await? {
                let read = piece.read(&self.bucket, &timeline.folder).await;
                let Err(error) = read else {
                    report(piece.end - piece.start);
                    continue;
                };
                // One that was removed in the meantime is nobody's loss.
                if wal::pieces(&self.bucket, &timeline.folder).await?.contains(&piece) {
                    damaged.push(error.to_string());
                }
            }
        }
        Ok(damaged)
    }

    async fn scrub_catalog(
        &self,
        name: &str,
        checksum: u32,
        report: &impl Fn(u64),
    ) -> Option<String> {
        let what = match self.bucket.get(name, CATALOG_BYTES_MAX).await {
            Ok(Some(bytes)) => {
                report(bytes.len() as u64);
                if crc32c::crc32c(&bytes) == checksum {
                    return None;
                }
                "does not match its checksum"
            }
            // It stays for an hour after the inventory that does not name it any more.
            Ok(None) => "is missing",
            Err(error) => return Some(error.to_string()),
        };
        Some(format!("object \"{name}\" {what}"))
    }
}
