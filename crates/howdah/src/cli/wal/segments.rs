//! Segment files, by name and in order.

use std::path::{Path, PathBuf};

use pg::wal::reader::identify_segment;
use pg::wal::segment::{PageHeader, SegmentName};
use runtime::fs::blocking as fs;

use crate::error::{Error, Result, While};

/// Sizes that a segment can have: powers of two from 1 MiB to 1 GiB (`wal_segment_size`).
const SEGMENT_BYTES: std::ops::RangeInclusive<u32> = 1 << 20..=1 << 30;

/// A segment's bytes, and what its name and first page say.
pub(super) struct Segment {
    pub(super) name: SegmentName,
    /// Of every segment of this WAL.
    pub(super) bytes_max: u32,
    pub(super) header: PageHeader,
    pub(super) bytes: Vec<u8>,
}

pub(super) fn read(path: &Path) -> Result<Segment> {
    let shown = path.display();
    let bytes = fs::read(path).or_fail(format_args!("could not read \"{shown}\""))?;
    let size = u32::try_from(bytes.len())
        .ok()
        .filter(|size| size.is_power_of_two() && SEGMENT_BYTES.contains(size));
    let bytes_max = size.ok_or_else(|| {
        Error::new(format!("\"{shown}\" is not a WAL segment"))
            .detail(format!("it has {} bytes", bytes.len()))
    })?;
    let name = named(path, bytes_max).ok_or_else(|| {
        Error::new(format!("\"{shown}\" is not named like a WAL segment"))
            .hint("names are 24 hexadecimal digits")
    })?;
    let header = identify_segment(&bytes, name.start()).or_fail(format_args!("\"{shown}\""))?;
    Ok(Segment { name, bytes_max, header, bytes })
}

fn named(path: &Path, bytes_max: u32) -> Option<SegmentName> {
    let file = path.file_name()?.to_str()?;
    SegmentName::parse(file.split('.').next()?, bytes_max)
}

/// The segments in a directory, in order: of each position that of the newest timeline.
pub(super) fn in_directory(directory: &Path) -> Result<Vec<PathBuf>> {
    let shown = directory.display();
    let entries = fs::read_dir(directory).or_fail(format_args!("could not list \"{shown}\""))?;
    let mut names: Vec<String> = entries
        .into_iter()
        .filter(|entry| !entry.is_dir)
        .filter_map(|entry| entry.name.into_string().ok())
        .filter(|name| name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .collect();
    // Eight digits of timeline, then the position.
    let position = |name: &String| name.get(8..).unwrap_or_default().to_owned();
    names.sort_unstable_by(|one, other| {
        position(one).cmp(&position(other)).then_with(|| other.cmp(one))
    });
    names.dedup_by_key(|name| position(name));
    if names.is_empty() {
        return Err(Error::new(format!("there are no WAL segments in \"{shown}\""))
            .hint("name a pg_wal directory or an archive"));
    }
    Ok(names.into_iter().map(|name| directory.join(name)).collect())
}
