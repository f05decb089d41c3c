//! The client's side of BOOT_IMAGE: everything of a moment but the blocks of relations, handed over piece by piece
//! as it arrives.

use std::path::{Path, PathBuf};

use pg::datadir::relation::RelTag;
use pg::lsn::Lsn;
use pg::wire::backend::kind;
use pg::wire::replication::backup::BackupPart;

use crate::archive::{Archive, EntryKind, Part};
use crate::basebackup::results;
use crate::client::{ClientError, relation};
use crate::connection::{Connection, Login, Row, malformed, unexpected};
use crate::error::Error;

/// What is known of the moment before its files come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Blocks are to be read as of here.
    pub lsn: Lsn,
    /// Where the shutdown checkpoint stands that the server starts from.
    pub checkpoint: Lsn,
    pub timeline: u32,
    /// Files in `pg_wal` must be made as long as this: the last one comes without its unused end.
    pub wal_segment_bytes: u32,
    /// The directory that a tablespace has: `PG_15_202209061`.
    pub version_directory: String,
}

/// A part of what is not in relations. Paths are relative to the data directory; a tablespace is a directory in
/// `pg_tblspc`, not a link.
#[derive(Debug)]
pub enum Piece<'a> {
    Directory(&'a Path),
    /// A file begins; what follows up to the next one are its bytes.
    File(&'a Path),
    Data(&'a [u8]),
    FileEnd,
}

/// A boot image, but for its files.
#[derive(Clone, Debug)]
pub struct BootImage {
    pub facts: Facts,
    /// Every relation fork with its blocks; free space maps are not among them.
    pub relations: Vec<(RelTag, u32)>,
}

/// Asks for the boot image of what `login` is about; `take` is given its files as they come.
///
/// # Errors
/// Of the connection; those of `take`; what the page server refuses comes as [`ClientError::Refused`] or as an error of
/// the server's.
pub async fn fetch(
    login: &Login,
    mut take: impl FnMut(Piece<'_>) -> Result<(), Error>,
) -> Result<BootImage, ClientError> {
    let mut connection = Connection::connect(login).await?;
    connection.begin_text("BOOT_IMAGE").await?;
    let head = results(&mut connection, kind::COPY_OUT).await?;
    let facts = head.first().and_then(facts).ok_or_else(|| wrong("facts"))?;
    let (mut archive, mut root) = (Archive::default(), PathBuf::new());
    loop {
        let message = connection.receive().await?;
        match message.kind {
            kind::COPY_DATA => {
                match BackupPart::read(connection.body(&message)).map_err(malformed)? {
                    BackupPart::Archive { file_name, .. } => {
                        if !archive.is_between_entries() {
                            return Err(wrong("archives").into());
                        }
                        (archive, root) = (Archive::default(), folder(file_name)?);
                    }
                    BackupPart::Data(data) => unpack(&mut archive, &root, data, &mut take)?,
                    BackupPart::Manifest | BackupPart::Progress(_) => {}
                }
            }
            kind::COPY_DONE => break,
            other => return Err(unexpected(other, "BOOT_IMAGE").into()),
        }
    }
    if !archive.is_between_entries() {
        return Err(wrong("archives").into());
    }
    let rows = results(&mut connection, kind::READY_FOR_QUERY).await?;
    let relations = rows.iter().map(|row| relation(row).ok_or_else(|| wrong("relations")));
    Ok(BootImage { facts, relations: relations.collect::<Result<_, Error>>()? })
}

fn wrong(what: &str) -> Error {
    Error::protocol(format!("BOOT_IMAGE answered with {what} of another form"))
}

fn facts(row: &Row) -> Option<Facts> {
    match row.as_slice() {
        [Some(lsn), Some(checkpoint), Some(timeline), Some(bytes), Some(version)] => Some(Facts {
            lsn: lsn.parse().ok()?,
            checkpoint: checkpoint.parse().ok()?,
            timeline: timeline.parse().ok()?,
            wal_segment_bytes: bytes.parse().ok()?,
            version_directory: version.clone(),
        }),
        _ => None,
    }
}

/// Where an archive's files go: `base.tar` is the data directory, others are tablespaces.
fn folder(file_name: &[u8]) -> Result<PathBuf, Error> {
    let name = std::str::from_utf8(file_name).unwrap_or("").trim_end_matches(".tar");
    match name.parse::<u32>() {
        Ok(oid) => Ok(PathBuf::from(format!("pg_tblspc/{oid}"))),
        Err(_) if name == "base" => Ok(PathBuf::new()),
        Err(_) => Err(Error::protocol(format!("archive of unknown name \"{name}\""))),
    }
}

fn unpack(
    archive: &mut Archive,
    root: &Path,
    mut data: &[u8],
    take: &mut impl FnMut(Piece<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let damaged = |error: crate::archive::InvalidArchive| Error::protocol(error.to_string());
    let mut in_file = true;
    while let Some(part) = archive.next(&mut data).map_err(damaged)? {
        match part {
            Part::Entry(entry) => {
                let path = root.join(&entry.path);
                in_file = entry.kind == EntryKind::File;
                match entry.kind {
                    EntryKind::File => take(Piece::File(&path))?,
                    // A tablespace's own archive has what is behind its link.
                    EntryKind::Directory | EntryKind::Link => take(Piece::Directory(&path))?,
                }
            }
            Part::Data(bytes) => take(Piece::Data(bytes))?,
            Part::EntryEnd if in_file => take(Piece::FileEnd)?,
            Part::EntryEnd => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_of_tablespaces_are_put_behind_their_names() {
        let place = |name: &[u8]| folder(name).ok();
        assert_eq!(place(b"base.tar"), Some(PathBuf::new()));
        assert_eq!(place(b"16400.tar"), Some(PathBuf::from("pg_tblspc/16400")));
        assert_eq!(place(b"../x.tar"), None);
    }

    #[test]
    fn facts_are_complete_or_none() {
        let row = |values: &[&str]| values.iter().map(|text| Some((*text).to_owned())).collect();
        let whole: Row = row(&["0/16B3748", "0/16B3750", "1", "16777216", "PG_15_202209061"]);
        assert_eq!(facts(&whole).map(|facts| facts.checkpoint), Some(Lsn(0x16B_3750)));
        assert_eq!(facts(&row(&["0/16B3748", "0/16B3750", "1"])), None);
        assert_eq!(facts(&row(&["x", "0/16B3750", "1", "1", "PG"])), None);
    }
}
