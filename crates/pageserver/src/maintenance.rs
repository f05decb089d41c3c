//! What goes on beside the receiving of WAL: writing it to layers when enough has come together, or after a while, and
//! merging those layers.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use runtime::clock;
use storage::store::compaction::CompactionOptions;

use crate::error::Error;
use crate::settings::Settings;
use crate::timeline::Timeline;

/// How often to look whether there is something to do.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Runs `receiving` to its end, and the maintenance of its timeline meanwhile. An error of either ends both.
pub async fn beside(
    receiving: impl Future<Output = Result<(), Error>>,
    timeline: &Timeline,
    settings: &Settings,
) -> Result<(), Error> {
    let mut receiving = pin!(receiving);
    let mut maintaining = pin!(maintain(timeline, settings));
    poll_fn(|context| {
        if let Poll::Ready(ended) = receiving.as_mut().poll(context) {
            return Poll::Ready(ended);
        }
        maintaining.as_mut().poll(context).map(Err)
    })
    .await
}

/// Writes layers for ever; answers why it cannot go on.
async fn maintain(timeline: &Timeline, settings: &Settings) -> Error {
    let mut written_at = clock::now();
    loop {
        clock::sleep(LOOK_INTERVAL).await;
        let waited = clock::now() - written_at;
        let is_late = waited >= settings.checkpoint_timeout();
        if timeline.is_flush_due() || is_late {
            if let Err(error) = timeline.flush().await {
                return error;
            }
            written_at = clock::now();
            if let Err(source) = merge(timeline).await {
                return Error::file("merge layers in", &timeline.layers, source);
            }
        }
    }
}

/// Merges layers that cover all keys into layers side by side when there are many: a read has to look into each.
async fn merge(timeline: &Timeline) -> io::Result<()> {
    let options = CompactionOptions::default();
    if timeline.store.stats().level0_layers < options.level0_layers as u64 {
        return Ok(());
    }
    // Images are not made yet: with so many layers of level 0 a step merges those.
    let no_image = async |_key, _version, _entries| Ok(None);
    let step = timeline.store.compact(&options, no_image).await?;
    tracing::debug!(?step, timeline = timeline.name, "layers merged");
    Ok(())
}
