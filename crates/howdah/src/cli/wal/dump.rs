//! `howdah wal dump`: the records of WAL segments, one a line, as `pg_waldump` prints them.

use std::path::PathBuf;

use pg::wal::block::Block;
use pg::wal::reader::StreamDecoder;
use pg::wal::record::Record;
use serde_json::json;

use super::segments::{self, Segment};

use crate::error::{Error, Result, While};
use crate::output;

/// Prints the records of these segments.
pub(in crate::cli) fn run(segments: &[PathBuf], json: bool) -> Result<()> {
    let mut decoder: Option<(StreamDecoder, u32)> = None;
    for path in segments {
        let shown = path.display();
        let Segment { name, bytes_max: size, bytes, .. } = segments::read(path)?;
        // Segments that follow each other are one stream; after a gap reading starts afresh.
        let continues =
            decoder.as_ref().is_some_and(|(decoder, _)| decoder.position() == name.start());
        if !continues {
            decoder = Some((StreamDecoder::resync(name.start(), size), size));
        }
        let Some((decoder, _)) = &mut decoder else { continue };
        let mut input = bytes.as_slice();
        loop {
            match decoder.next(&mut input) {
                Ok(Some(raw)) => {
                    let record = raw.decode().or_fail(format_args!("\"{shown}\""))?;
                    show(&record, json);
                }
                Ok(None) => break,
                Err(error) => return end(decoder, error, path == segments.last().unwrap_or(path)),
            }
        }
    }
    Ok(())
}

/// The newest segment of a server ends in bytes that are not WAL yet: that is its end, not an error.
fn end(decoder: &StreamDecoder, error: impl std::fmt::Display, last: bool) -> Result<()> {
    if last && decoder.version().is_some() {
        output::note(format!("end of WAL at {}: {error}", decoder.end()));
        return Ok(());
    }
    Err(Error::new(error.to_string()))
}

fn show(record: &Record<'_>, json: bool) {
    if !json {
        output::line(record.summary().to_string());
        return;
    }
    let block = |block: &Block<'_>| {
        let image =
            block.image.as_ref().map(|image| if image.apply { "restore" } else { "verify" });
        json!({ "rel": block.tag.to_string(), "block": block.number, "image": image })
    };
    let blocks: Vec<_> = record.blocks.iter().map(block).collect();
    output::line(
        json!({
            "lsn": record.lsn.to_string(),
            "end_lsn": record.end_lsn.to_string(),
            "prev_lsn": record.header.previous.to_string(),
            "kind": record.kind().to_string(),
            "xid": record.header.xid,
            "bytes": record.header.total_length,
            "blocks": blocks,
        })
        .to_string(),
    );
}
