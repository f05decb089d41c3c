//! `howdah wal dump`: the records of WAL segments, one a line.

use std::path::{Path, PathBuf};

use pg::wal::reader::{StreamDecoder, identify_segment};
use pg::wal::record::Record;
use pg::wal::segment::SegmentName;
use runtime::fs::blocking as fs;
use serde_json::json;

use crate::error::{Error, Result, While};
use crate::output;

/// Sizes that a segment can have: powers of two from 1 MiB to 1 GiB (`wal_segment_size`).
const SEGMENT_BYTES: std::ops::RangeInclusive<u32> = 1 << 20..=1 << 30;

pub(super) fn dump(segments: &[PathBuf], json: bool) -> Result<()> {
    let mut decoder: Option<(StreamDecoder, u32)> = None;
    for path in segments {
        let shown = path.display();
        let bytes = fs::read(path).or_fail(format_args!("could not read \"{shown}\""))?;
        let (name, size) = segment(path, &bytes)?;
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

fn segment(path: &Path, bytes: &[u8]) -> Result<(SegmentName, u32)> {
    let shown = path.display();
    let size = u32::try_from(bytes.len())
        .ok()
        .filter(|size| size.is_power_of_two() && SEGMENT_BYTES.contains(size));
    let size = size.ok_or_else(|| {
        Error::new(format!("\"{shown}\" is not a WAL segment"))
            .detail(format!("it has {} bytes", bytes.len()))
    })?;
    let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = file.split('.').next().and_then(|name| SegmentName::parse(name, size));
    let name = name.ok_or_else(|| {
        Error::new(format!("\"{shown}\" is not named like a WAL segment"))
            .hint("names are 24 hexadecimal digits")
    })?;
    identify_segment(bytes, name.start()).or_fail(format_args!("\"{shown}\""))?;
    Ok((name, size))
}

fn show(record: &Record<'_>, json: bool) {
    let blocks: Vec<String> = record
        .blocks
        .iter()
        .map(|block| {
            let image = if block.image.is_some() { " FPW" } else { "" };
            format!("{} blk {}{image}", block.tag, block.number)
        })
        .collect();
    if json {
        output::line(
            json!({
                "lsn": record.lsn.to_string(),
                "end_lsn": record.end_lsn.to_string(),
                "kind": record.kind().to_string(),
                "xid": record.header.xid,
                "bytes": record.header.total_length,
                "blocks": blocks,
            })
            .to_string(),
        );
        return;
    }
    output::line(format!(
        "{:<14} {:<30} xid {:>10} len {:>6}  {}",
        record.lsn.to_string(),
        record.kind().to_string(),
        record.header.xid,
        record.header.total_length,
        blocks.join(", ")
    ));
}
