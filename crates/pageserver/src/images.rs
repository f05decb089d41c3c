//! Versions of pages into whole pages, for image layers.

use pg::lsn::Lsn;
use runtime::executor;
use storage::entry::OwnedEntry;
use storage::key::Key;
use storage::store::compaction::Made;

use crate::error::PageError;
use crate::get_page::Build;
use crate::keys;
use crate::payload::{self, Payload};
use crate::timeline::Timeline;
use crate::versions::Version;

/// What an image as of `at` has for a key, of which the timeline has these versions of its own up to then.
pub(crate) async fn materialize(
    timeline: &Timeline,
    key: Key,
    at: Lsn,
    entries: Vec<OwnedEntry>,
) -> Result<Made, String> {
    let made = match keys::relation_block(key) {
        Some((tag, block)) => Build { timeline, tag, block }.for_image(at, entries).await,
        None => timeline.value_for_image(key, at, &entries).await,
    };
    match made {
        Ok(made) => Ok(made),
        Err(error @ PageError::Io { .. }) => Err(error.to_string()),
        // Who reads the page is told; for others it stays as it is.
        Err(_) => Ok(Made::AsTheyAre),
    }
}

impl Build<'_> {
    async fn for_image(self, at: Lsn, entries: Vec<OwnedEntry>) -> Result<Made, PageError> {
        let blocks = self.timeline.catalog.borrow().blocks_at(self.tag, at);
        if blocks.is_none_or(|blocks| self.block >= blocks) {
            return Ok(Made::Nothing);
        }
        let (origin, born) = self.origin_at(at);
        let mut versions: Vec<Version> = entries.into_iter().map(Version::stored).collect();
        versions.retain(|version| version.lsn > born);
        match &versions[..] {
            [] => return Ok(Made::Nothing),
            [only] if self.is_image(only).await => return Ok(Made::AsTheyAre),
            _ => {}
        }
        executor::yield_now().await;
        let page = self.of_versions(&versions, (origin, born)).await?;
        Ok(Made::Whole(payload::image(&page)))
    }

    async fn is_image(self, version: &Version) -> bool {
        let Ok(bytes) = self.timeline.payload(version).await else { return false };
        matches!(Payload::read(&bytes, version.lsn), Ok(Payload::Image { .. }))
    }
}
