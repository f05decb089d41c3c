//! What goes on beside the receiving of WAL: writing it to layers when enough has come together, or after a while; and for
//! all timelines, whether WAL comes or not: merging layers, making images, letting old versions and old WAL go.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use pg::lsn::Lsn;
use pg::wire::replication::POSTGRES_EPOCH_UNIX_MICROS;
use runtime::clock;
use storage::store::compaction::{CompactionOptions, Step};
use storage::store::gc::Keep;
use storage::version::Version;

use crate::branches::Branches;
use crate::error::Error;
use crate::follower::Follower;
use crate::images::materialize;
use crate::limits::STEPS_AT_ONCE;
use crate::settings::Settings;
use crate::timeline::Timeline;
use crate::watch::unless_stopped;

/// How often to look whether there is something to do.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Runs `receiving` to its end, and writes its timeline's layers meanwhile. An error of either ends both.
pub async fn beside(
    receiving: impl Future<Output = Result<(), Error>>,
    timeline: &Timeline,
    settings: &Settings,
) -> Result<(), Error> {
    let mut receiving = pin!(receiving);
    let mut writing = pin!(write_layers(timeline, settings));
    poll_fn(|context| {
        if let Poll::Ready(ended) = receiving.as_mut().poll(context) {
            return Poll::Ready(ended);
        }
        writing.as_mut().poll(context).map(Err)
    })
    .await
}

/// Writes layers for ever; answers why it cannot go on.
async fn write_layers(timeline: &Timeline, settings: &Settings) -> Error {
    let mut written_at = clock::now();
    let mut can_read_values = true;
    loop {
        clock::sleep(LOOK_INTERVAL).await;
        // What cannot be read is told to whoever asks for it.
        can_read_values = can_read_values && timeline.keep_values_at_hand().await.is_ok();
        if let Err(error) = timeline.check_store() {
            return error;
        }
        let waited = clock::now() - written_at;
        if timeline.is_flush_due() || waited >= settings.checkpoint_timeout() {
            if let Err(error) = timeline.flush().await {
                return error;
            }
            written_at = clock::now();
        }
    }
}

/// Keeps the files of all timelines in shape, until the follower stops.
pub async fn run(follower: Rc<Follower>) {
    let keeping = async {
        let mut collected_at = None;
        loop {
            clock::sleep(LOOK_INTERVAL).await;
            let Some(branches) = follower.branches() else { continue };
            let interval = follower.settings.collection_interval();
            let is_due = collected_at.is_none_or(|at| clock::now() - at >= interval);
            if is_due {
                collected_at = Some(clock::now());
            }
            for timeline in branches.all() {
                let kept = keep_in_shape(&timeline, &follower.settings, is_due).await;
                // One that was deleted meanwhile is nobody's loss.
                if let Err(error) = kept
                    && !timeline.store.is_closed()
                {
                    tracing::error!(%error, timeline = timeline.name, "layers not kept in shape");
                    clock::sleep(interval).await;
                }
            }
        }
    };
    unless_stopped(follower.stop(), keeping).await;
}

/// Notes whether the files have reached their limit, until the follower stops.
pub async fn watch_disk(follower: Rc<Follower>) {
    let limit = follower.settings.disk_bytes_max;
    if limit == 0 {
        return;
    }
    let watching = async {
        let mut was_full = false;
        loop {
            clock::sleep(LOOK_INTERVAL).await;
            let Some(branches) = follower.branches() else { continue };
            let bytes = disk_bytes(&branches);
            let is_full = bytes >= limit;
            if is_full && !was_full {
                tracing::error!(bytes, limit, "pageserver.disk_bytes_max is reached");
            } else if was_full && !is_full {
                tracing::info!(bytes, limit, "there is room again: WAL is taken in");
            }
            was_full = is_full;
            branches.all().iter().for_each(|timeline| timeline.disk_is_full.set(is_full));
        }
    };
    unless_stopped(follower.stop(), watching).await;
}

/// Bytes of all timelines' WAL and layers.
pub fn disk_bytes(branches: &Branches) -> u64 {
    let all = branches.all();
    all.iter().map(|timeline| timeline.wal.bytes() + timeline.store.stats().local_bytes).sum()
}

async fn keep_in_shape(
    timeline: &Timeline,
    settings: &Settings,
    is_collection_due: bool,
) -> Result<(), Error> {
    let failed = |what| move |source| Error::file(what, &timeline.layers, source);
    timeline.flush_if_idle(settings).await?;
    timeline.improve_layers(settings).await.map_err(failed("merge layers in"))?;
    if is_collection_due || timeline.disk_is_full.get() {
        timeline.collect(settings).await.map_err(failed("remove old layers in"))?;
        timeline.trim_wal(settings).await?;
    }
    Ok(())
}

fn options(settings: &Settings) -> CompactionOptions {
    let collected_bytes_min = settings.checkpoint_bytes / 16;
    CompactionOptions { collected_bytes_min, ..CompactionOptions::default() }
}

impl Timeline {
    /// Writes to layers what no receiver does: where nothing has come for a while, as on a branch whose compute has gone.
    async fn flush_if_idle(&self, settings: &Settings) -> Result<(), Error> {
        let (end, now) = (self.ingested(), clock::now());
        let (seen, since) = self.idle_since.get();
        if end != seen {
            self.idle_since.set((end, now));
        } else if end > self.flushed() && now - since >= settings.checkpoint_timeout() {
            self.idle_since.set((end, now));
            self.flush().await?;
        }
        Ok(())
    }

    /// Merges layers that cover all keys into layers side by side when there are many (a read has to look into each), and
    /// makes images where those lie deep.
    async fn improve_layers(&self, settings: &Settings) -> io::Result<()> {
        for _ in 0..STEPS_AT_ONCE {
            let newest = self.flushed();
            if self.settled.get() == newest {
                return Ok(());
            }
            let make =
                async |key, at: Version, entries| materialize(self, key, Lsn(at.0), entries).await;
            match self.store.compact(&options(settings), make).await? {
                Step::Nothing => self.settled.set(newest),
                step => tracing::debug!(?step, timeline = self.name, "layers improved"),
            }
        }
        Ok(())
    }

    /// Moves the horizon to where the settings want it, and removes what nobody can ask for any more.
    async fn collect(&self, settings: &Settings) -> io::Result<()> {
        self.leases.end();
        let horizon = self.horizon_at(settings, clock::wall_micros() - POSTGRES_EPOCH_UNIX_MICROS);
        if horizon > self.horizon.get() {
            self.make_images_at(horizon, settings).await?;
        }
        // From here on nobody begins to read what goes; who is reading it will find out.
        self.horizon.set(horizon);
        let mut pins = self.pins.all();
        let now = (horizon, pins.clone());
        if *self.collected.borrow() == now {
            return Ok(());
        }
        let sources = self.catalog.borrow().copy_sources(horizon, &pins);
        pins.extend(sources);
        pins.sort_unstable();
        self.make_images_at_pins(&pins, horizon, settings).await?;
        let versions = pins.iter().map(|pin| Version(pin.0)).collect();
        let gone = self.store.gc(&Keep { cutoff: Version(horizon.0), pins: versions }).await?;
        self.catalog.borrow_mut().forget_before(horizon, &pins);
        *self.collected.borrow_mut() = now;
        self.layer_bytes_removed.update(|bytes| bytes + gone.bytes);
        if gone.layers > 0 {
            let (layers, bytes) = (gone.layers, gone.bytes);
            tracing::info!(layers, bytes, %horizon, timeline = self.name, "old layers removed");
        }
        Ok(())
    }

    /// Images as of the horizon to be, where enough lies before it.
    async fn make_images_at(&self, horizon: Lsn, settings: &Settings) -> io::Result<()> {
        for _ in 0..STEPS_AT_ONCE {
            let make =
                async |key, at: Version, entries| materialize(self, key, Lsn(at.0), entries).await;
            let version = Version(horizon.0);
            match self.store.make_room(version, &options(settings), make).await? {
                Step::Nothing => break,
                step => tracing::debug!(?step, timeline = self.name, "images made to let go"),
            }
        }
        Ok(())
    }

    /// The same for each pin before the horizon, once: nothing is added before it any more.
    async fn make_images_at_pins(
        &self,
        pins: &[Lsn],
        horizon: Lsn,
        settings: &Settings,
    ) -> io::Result<()> {
        self.pins_imaged.borrow_mut().retain(|pin| pins.binary_search(pin).is_ok());
        for &pin in pins.iter().take_while(|pin| **pin < horizon) {
            let is_new = !self.pins_imaged.borrow().contains(&pin);
            if is_new {
                self.make_images_at(pin, settings).await?;
                self.pins_imaged.borrow_mut().insert(pin);
            }
        }
        Ok(())
    }

    /// Removes WAL that nobody needs any more.
    async fn trim_wal(&self, settings: &Settings) -> Result<(), Error> {
        self.wal.look().await?;
        if self.store.is_closed() {
            return Ok(());
        }
        let keep = match settings.wal_bytes_max {
            _ if self.disk_is_full.get() => 0,
            0 => settings.wal_keep_bytes,
            limit => settings.wal_keep_bytes.min(limit / 2),
        };
        let unwanted = Lsn(self.durable().0.saturating_sub(keep));
        let end = unwanted.min(self.wal_needed_from()).min(self.wal_uploaded());
        let bytes = self.wal.remove_before(end).await?;
        self.wal_bytes_removed.update(|before| before + bytes);
        if bytes > 0 {
            tracing::info!(bytes, before = %end, timeline = self.name, "old WAL removed");
        }
        Ok(())
    }
}
