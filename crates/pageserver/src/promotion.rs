//! Following a server to its next timeline: a standby was promoted, and its WAL goes on under another number.
//!
//! Steps, as `pg_receivewal` goes: the WAL of the timeline that we are on, up to where the next one leaves it; then that
//! one's, from the start of the same segment, whose file bears the new number. What is behind the place of leaving is
//! cut off if it is no whole record, and if it is, the server is refused: pages have been answered that it does not have.

use pg::lsn::Lsn;
use pg::wal::segment::SegmentName;
use pg::wire::replication::command::Command;
use runtime::fs;

use crate::connection::Connection;
use crate::error::Error;
use crate::limits::WAL_WRITE_BYTES_MAX;
use crate::lineage::{History, Lineage, file_name};
use crate::timeline::Timeline;
use crate::wal_store::WalLayout;
use crate::wal_store::writer::WalWriter;

/// Fetches the history of a server's timeline; the first has none.
async fn history(connection: &mut Connection, id: u32) -> Result<Vec<u8>, Error> {
    if id == 1 {
        return Ok(Vec::new());
    }
    let rows = connection.run(&Command::TimelineHistory(id)).await?;
    let content = rows.into_iter().next().and_then(|row| row.into_iter().nth(1)).flatten();
    let wrong = || Error::protocol("TIMELINE_HISTORY did not answer with a file");
    Ok(content.ok_or_else(wrong)?.into_bytes())
}

/// Goes on to the timeline of a server that is on `newest`, as far as the WAL here reaches: true if something changed,
/// and what goes on from connection to connection has to begin anew.
///
/// # Errors
/// [`Error::Refused`] when that timeline does not come from what is here.
pub async fn follow(
    connection: &mut Connection,
    timeline: &Timeline,
    newest: u32,
) -> Result<bool, Error> {
    let refused = |message| {
        let hint = "follow the server that has this WAL, or use an empty directory";
        Err(Error::Refused { message, hint })
    };
    let mut has_changed = false;
    loop {
        let id = timeline.postgres_timeline();
        if id == newest {
            keep_history(connection, timeline, id).await?;
            return Ok(has_changed);
        }
        let bytes = history(connection, newest).await?;
        let history = History::parse(&bytes)
            .ok_or_else(|| Error::protocol(format!("the history of timeline {newest}")))?;
        let Some((next, left, content)) = history.after(id, newest).filter(|_| id < newest) else {
            return refused(format!(
                "the server is on timeline {newest}, which does not come from timeline {id} that is here"
            ));
        };
        if left < timeline.ingested() {
            let here = timeline.ingested();
            return refused(format!(
                "the server's timeline {next} left timeline {id} at {left}, before {here}, up to where it is here"
            ));
        }
        if timeline.durable() < left {
            return Ok(has_changed); // the rest of this timeline comes first
        }
        switch(timeline, next, left, content).await?;
        has_changed = true;
    }
}

/// The history file of the timeline that a base backup began on; a server that has lost it is followed without.
async fn keep_history(
    connection: &mut Connection,
    timeline: &Timeline,
    id: u32,
) -> Result<(), Error> {
    if id == 1 || read_history(timeline, id).await.is_some() {
        return Ok(());
    }
    match history(connection, id).await {
        Ok(content) => write_history(&timeline.wal_layout, id, &content).await,
        Err(Error::Server { .. }) => connection.until_ready().await,
        Err(error) => Err(error),
    }
}

/// The history file of a timeline of Postgres' that the WAL of `timeline` is on somewhere.
pub async fn read_history(timeline: &Timeline, id: u32) -> Option<Vec<u8>> {
    let root = timeline.ancestor.as_ref().map(|(ancestor, _)| ancestor);
    match root {
        Some(ancestor) if timeline.wal_layout.lineage.has(id) => {
            Box::pin(read_history(ancestor, id)).await
        }
        Some(_) => None,
        None => fs::read(timeline.wal_layout.directory.join(file_name(id))).await.ok(),
    }
}

/// The WAL here goes on as timeline `next` from `left` on.
async fn switch(timeline: &Timeline, next: u32, left: Lsn, content: &[u8]) -> Result<(), Error> {
    let layout = &timeline.wal_layout;
    layout.end_at(left).await?;
    timeline.wal.set_readable(left);
    // The new timeline's file has the old one's bytes, as Postgres' own has. Whatever is there of an earlier try is
    // the same.
    let renamed = WalLayout { lineage: Lineage::new(next), ..layout.clone() };
    let mut writer = WalWriter::new(renamed);
    let mut at = SegmentName::of(next, left, layout.segment_bytes).start();
    while at < left {
        let until = left.min(at + WAL_WRITE_BYTES_MAX as u64);
        let read = timeline.wal.read(at, until).await;
        let wal = read.map_err(|source| Error::file("read WAL in", &layout.directory, source))?;
        writer.append(at, wal).await.0?;
        at = until;
    }
    // From here on it is so.
    write_history(layout, next, content).await?;
    layout.lineage.switch(next, left);
    timeline.wal.forget_open();
    tracing::info!(timeline = timeline.name, next, at = %left, "Postgres goes on on another timeline");
    Ok(())
}

/// Keeps a history file beside the WAL.
async fn write_history(layout: &WalLayout, id: u32, content: &[u8]) -> Result<(), Error> {
    let path = layout.directory.join(file_name(id));
    let written = fs::write_atomic(&path, content.to_vec()).await;
    written.map_err(|source| Error::file("write", &path, source))
}
