//! The file that makes a base backup valid: which cluster, which timeline, from and to which LSN.
//!
//! One line `howdah base backup 3 <crc32c of the rest, 8 hexadecimal digits>`, then JSON. It is
//! written last and atomically; a directory without it holds half a backup, which is discarded.
//! In directories of format 1 relations were kept as files, in those of format 2 transaction logs and the like were sought
//! in the WAL since the base backup; both are refused.

use std::path::Path;

use pg::lsn::Lsn;
use pg::wal::segment::WalVersion;
use runtime::fs;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::sealed;

/// Name of the file in the page server's directory.
pub const FILE_NAME: &str = "base.manifest";
const TITLE: &str = "howdah base backup 3";
const FORMER_TITLES: [&str; 2] = ["howdah base backup 1", "howdah base backup 2"];

/// A finished base backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub system_identifier: u64,
    pub timeline: u32,
    /// Redo begins here.
    pub start: Lsn,
    /// Pages are valid from here on.
    pub end: Lsn,
    pub wal_segment_bytes: u32,
    /// `server_version_num`.
    pub server_version: u32,
    pub data_checksums: bool,
    pub tablespaces: Vec<Tablespace>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    pub oid: u32,
    /// Where it is on the server.
    pub location: String,
}

/// The manifest as JSON has it: LSNs as text, the identifier as text because it may exceed 2^53.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    system_identifier: String,
    timeline: u32,
    start: String,
    end: String,
    wal_segment_bytes: u32,
    server_version: u32,
    data_checksums: bool,
    tablespaces: Vec<Tablespace>,
}

impl Manifest {
    /// How the server's WAL is to be read.
    pub fn wal_version(&self) -> WalVersion {
        let major = self.server_version / 10_000;
        WalVersion::from_major(major).expect("checked on reading the manifest and before a backup")
    }

    /// The bytes of the file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let document = Document {
            system_identifier: self.system_identifier.to_string(),
            timeline: self.timeline,
            start: self.start.to_string(),
            end: self.end.to_string(),
            wal_segment_bytes: self.wal_segment_bytes,
            server_version: self.server_version,
            data_checksums: self.data_checksums,
            tablespaces: self.tablespaces.clone(),
        };
        sealed::seal(TITLE, &document)
    }

    /// Reads the bytes of the file at `path` (which is only named in errors).
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Manifest, Error> {
        let damaged = |what: &str| {
            Error::Damaged(format!("base backup manifest \"{}\" {what}", path.display()))
        };
        let end =
            bytes.iter().position(|&byte| byte == b'\n').ok_or_else(|| damaged("is cut off"))?;
        let (line, json) = (&bytes[..end], &bytes[end + 1..]);
        if FORMER_TITLES.iter().any(|title| line.starts_with(title.as_bytes())) {
            let message =
                format!("\"{}\" was written by an earlier version of Howdah", path.display());
            let hint = "start with an empty directory to take a new base backup";
            return Err(Error::Refused { message, hint });
        }
        let checksum = std::str::from_utf8(line)
            .ok()
            .and_then(|line| line.strip_prefix(TITLE)?.strip_prefix(' '))
            .ok_or_else(|| damaged("is of an unknown kind or version"))?;
        if checksum != format!("{:08x}", crc32c::crc32c(json)) {
            return Err(damaged("does not match its checksum"));
        }
        let document: Document = serde_json::from_slice(json)
            .map_err(|error| damaged(&format!("is invalid: {error}")))?;
        if WalVersion::from_major(document.server_version / 10_000).is_none() {
            return Err(damaged("is of a PostgreSQL version that is not supported"));
        }
        let lsn = |text: &str| text.parse().map_err(|_invalid| damaged("has an invalid LSN"));
        Ok(Manifest {
            system_identifier: document
                .system_identifier
                .parse()
                .map_err(|_invalid| damaged("has an invalid system identifier"))?,
            timeline: document.timeline,
            start: lsn(&document.start)?,
            end: lsn(&document.end)?,
            wal_segment_bytes: document.wal_segment_bytes,
            server_version: document.server_version,
            data_checksums: document.data_checksums,
            tablespaces: document.tablespaces,
        })
    }
}

/// Reads the manifest in the page server's `directory`; `None` if there is no finished base backup.
pub async fn read(directory: &Path) -> Result<Option<Manifest>, Error> {
    let path = directory.join(FILE_NAME);
    match fs::read(&path).await {
        Ok(bytes) => Manifest::from_bytes(&bytes, &path).map(Some),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::file("read", &path, source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        Manifest {
            system_identifier: u64::MAX - 1,
            timeline: 1,
            start: Lsn(0x200_0028),
            end: Lsn(0x200_0100),
            wal_segment_bytes: 16 << 20,
            server_version: 150_008,
            data_checksums: true,
            tablespaces: vec![Tablespace { oid: 16_400, location: "/srv/\"fast\"".to_owned() }],
        }
    }

    #[test]
    fn reads_what_it_wrote() {
        let read = Manifest::from_bytes(&sample().to_bytes(), Path::new("m"));
        assert_eq!(read.expect("our own file is valid"), sample());
    }

    #[test]
    fn refuses_a_directory_of_the_former_format_by_name() {
        let text = "howdah base backup 1 00000000\n{}\n";
        let refused = Manifest::from_bytes(text.as_bytes(), Path::new("m"));
        assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    }

    #[test]
    fn refuses_a_file_with_any_byte_changed_or_cut() {
        let bytes = sample().to_bytes();
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            assert!(Manifest::from_bytes(&changed, Path::new("m")).is_err(), "byte {place}");
            assert!(Manifest::from_bytes(&bytes[..place], Path::new("m")).is_err(), "cut {place}");
        }
    }
}
