//! Whether a server is one whose WAL we can read, and the one whose WAL we have.

use std::ops::RangeInclusive;

use pg::lsn::Lsn;

use crate::basebackup::Cluster;
use crate::connection::Connection;
use crate::error::Error;
use crate::limits::PAGE_BYTES;
use crate::timeline::Timeline;

/// The major versions whose WAL and base backup we read. (Of 14 we read the WAL, but its base backup is sent in
/// another way.)
const MAJOR_VERSIONS: RangeInclusive<u32> = 15..=18;

/// What a server is to be like.
#[derive(Clone, Copy)]
pub struct Expected<'t> {
    pub timeline: &'t Timeline,
    /// It has WAL up to here at least.
    pub end: Lsn,
    /// It may be on a later timeline of Postgres': see [`crate::promotion`].
    pub may_be_promoted: bool,
}

/// What the server says of itself, if it can be followed (`None`: there is no base backup yet).
///
/// # Errors
/// [`Error::Refused`] when it is the wrong one, [`Error::Behind`] when it has not all of the WAL that is here.
pub async fn check(
    connection: &mut Connection,
    expected: Option<Expected<'_>>,
) -> Result<Cluster, Error> {
    let system = connection.identify_system().await?;
    let version: u32 = number(connection, "server_version_num").await?;
    let page_bytes: u32 = number(connection, "block_size").await?;
    let wal_page_bytes: u32 = number(connection, "wal_block_size").await?;
    let segment = connection.show("wal_segment_size").await?;
    let data_checksums = connection.show("data_checksums").await? == "on";
    if !MAJOR_VERSIONS.contains(&(version / 10_000)) {
        return refused(
            format!("the server is PostgreSQL {}, which is not supported", version / 10_000),
            "PostgreSQL 15 to 18 can be followed",
        );
    }
    if page_bytes as usize != PAGE_BYTES || wal_page_bytes as usize != PAGE_BYTES {
        let message =
            format!("the server has blocks of {page_bytes}, WAL of {wal_page_bytes} bytes");
        return refused(message, "only 8 kB blocks are supported");
    }
    let wal_segment_bytes = bytes_of(&segment)
        .filter(|&bytes| pg::wal::segment::is_segment_bytes(bytes))
        .ok_or_else(|| Error::protocol(format!("wal_segment_size of \"{segment}\"")))?;
    if let Some(Expected { timeline, end, may_be_promoted }) = expected {
        let own = &timeline.manifest;
        if own.system_identifier != system.identifier {
            let (own, found) = (own.system_identifier, system.identifier);
            return refused(
                format!("the server is system {found}, but this directory follows {own}"),
                "point pageserver.server at the right cluster, or use an empty directory",
            );
        }
        let here = timeline.postgres_timeline();
        let is_promoted = may_be_promoted && system.timeline > here;
        if here != system.timeline && !is_promoted {
            return refused(
                format!(
                    "the server is on timeline {}, but what is here on {here}",
                    system.timeline
                ),
                "follow a server that has this timeline",
            );
        }
        if here == system.timeline && system.flushed < end {
            return Err(Error::Behind { server_end: system.flushed, received: end });
        }
    }
    Ok(Cluster {
        system_identifier: system.identifier,
        timeline: system.timeline,
        wal_segment_bytes,
        server_version: version,
        data_checksums,
    })
}

async fn number(connection: &mut Connection, setting: &str) -> Result<u32, Error> {
    let text = connection.show(setting).await?;
    text.parse().map_err(|_invalid| Error::protocol(format!("{setting} of \"{text}\"")))
}

fn refused<T>(message: String, hint: &'static str) -> Result<T, Error> {
    Err(Error::Refused { message, hint })
}

/// `16MB`, `1GB`, `64kB`, `512B`.
fn bytes_of(size: &str) -> Option<u32> {
    let digits = size.find(|c: char| !c.is_ascii_digit()).unwrap_or(size.len());
    let (number, unit) = size.split_at_checked(digits)?;
    let factor = match unit {
        "B" | "" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u32>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sizes_as_show_prints_them() {
        for (text, bytes) in [
            ("16MB", Some(16 << 20)),
            ("1GB", Some(1 << 30)),
            ("64kB", Some(64 << 10)),
            ("8192", Some(8192)),
            ("9GB", None),
            ("MB", None),
            ("16 MB", None),
        ] {
            assert_eq!(bytes_of(text), bytes, "{text}");
        }
    }
}
