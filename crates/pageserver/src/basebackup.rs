//! Taking the base backup: BASE_BACKUP of PostgreSQL 15 and later, its archives taken apart as they arrive.
//!
//! Steps: everything goes into the store (see [`crate::import`]); when the server has told the end position, the manifest
//! is written, which makes the backup valid. Whatever fails before leaves no manifest, and the next start begins anew.

use std::path::{Path, PathBuf};

use pg::lsn::Lsn;
use pg::wire::backend::kind;
use pg::wire::replication::backup::BackupPart;
use pg::wire::replication::command::{Command, Options};
use runtime::fs;
use storage::store::TimelineStore;

use crate::archive::{Archive, EntryKind, Part};
use crate::connection::{Connection, Row, add_row, malformed, unexpected};
use crate::error::Error;
use crate::import::Import;
use crate::manifest::{self, Manifest, Tablespace};
use crate::remote::owner;
use crate::timeline;
use crate::{branches, wal_store};

/// How far a backup has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub bytes_done: u64,
    /// The server's estimate; the backup may end above or below.
    pub bytes_total: u64,
    pub files: u64,
}

/// What is known of the cluster before the backup.
#[derive(Clone, Copy, Debug)]
pub struct Cluster {
    pub system_identifier: u64,
    pub timeline: u32,
    pub wal_segment_bytes: u32,
    pub server_version: u32,
    pub data_checksums: bool,
}

/// Takes a base backup into `directory` (which exists); `report` is called as it goes on. Whatever else was there belongs to
/// no base backup and goes: what an interrupted recovery left must not count beside the new one.
pub async fn take(
    connection: &mut Connection,
    directory: &Path,
    cluster: Cluster,
    report: impl Fn(Progress),
) -> Result<Manifest, Error> {
    discard_recovery(directory).await?;
    let store = empty_store(directory).await?;
    let options = Options::new()
        .with("LABEL", "howdah")
        .with("CHECKPOINT", "fast")
        .flag("PROGRESS")
        .with("WAIT", "false");
    connection.begin(&Command::BaseBackup(options)).await?;
    let head = results(connection, kind::COPY_OUT).await?;
    let (start, timeline) = position(&head)?;
    if timeline != cluster.timeline {
        return Err(Error::protocol("the timeline changed during the base backup"));
    }
    let tablespaces = tablespaces(&head)?;
    let total = total_bytes(&head);
    let mut unpack = Unpack::new(Import::new(&store, start), total, &report);
    receive(connection, &mut unpack).await?;
    let (end, _timeline) = position(&results(connection, kind::READY_FOR_QUERY).await?)?;
    unpack.import.finish(&tablespaces, cluster.data_checksums).await?;
    let manifest = Manifest {
        system_identifier: cluster.system_identifier,
        timeline,
        start,
        end,
        wal_segment_bytes: cluster.wal_segment_bytes,
        server_version: cluster.server_version,
        data_checksums: cluster.data_checksums,
        tablespaces,
    };
    let path = directory.join(manifest::FILE_NAME);
    fs::write_atomic(&path, manifest.to_bytes())
        .await
        .map_err(|source| Error::file("write", &path, source))?;
    Ok(manifest)
}

/// Removes what an unfinished `howdah recover` left: branches and WAL of an earlier life, and the right to write to its
/// object store, which without what is in there would be written over.
async fn discard_recovery(directory: &Path) -> Result<(), Error> {
    let wal = directory.join(wal_store::FOLDER);
    // What is in it, not the folder: it may be a disk of its own.
    let inside = fs::read_dir(&wal).await.unwrap_or_default().into_iter();
    let files = inside.filter(|entry| !entry.is_dir).map(|entry| wal.join(entry.name));
    let own = [branches::FILE_NAME, owner::FILE_NAME].map(|name| directory.join(name));
    for path in files.chain(own) {
        match fs::remove_file(&path).await {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::file("remove", &path, source));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Removes what an unfinished backup left, if it did.
async fn discard(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder).await {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::file("remove directory", folder, source))
        }
        _ => Ok(()),
    }
}

/// The store that the relations go into.
async fn empty_store(directory: &Path) -> Result<TimelineStore, Error> {
    let timelines = directory.join(timeline::FOLDER);
    discard(&timelines).await?;
    let main = timelines.join(timeline::MAIN);
    make_directory(&main).await?;
    let created = TimelineStore::create(&main).await;
    let store = created.map_err(|source| Error::file("write layers in", &main, source))?;
    for folder in [directory, &timelines] {
        let synced = fs::sync_dir(folder).await;
        synced.map_err(|source| Error::file("sync directory", folder, source))?;
    }
    Ok(store)
}

/// Collects rows up to the message of this kind.
pub(crate) async fn results(connection: &mut Connection, until: u8) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    loop {
        let message = connection.receive().await?;
        match message.kind {
            kind::DATA_ROW => add_row(&mut rows, connection.body(&message))?,
            kind::ROW_DESCRIPTION | kind::COMMAND_COMPLETE => {}
            found if found == until => return Ok(rows),
            other => return Err(unexpected(other, "BASE_BACKUP")),
        }
    }
}

/// The position in the first row: LSN and timeline.
pub(crate) fn position(rows: &[Row]) -> Result<(Lsn, u32), Error> {
    let parsed = match rows.first().map(Vec::as_slice) {
        Some([Some(lsn), Some(timeline), ..]) => lsn.parse().ok().zip(timeline.parse().ok()),
        _ => None,
    };
    parsed.ok_or_else(|| Error::protocol("BASE_BACKUP told no position"))
}

/// The tablespaces in the rows after the first; the data directory has neither oid nor location.
fn tablespaces(rows: &[Row]) -> Result<Vec<Tablespace>, Error> {
    let mut found = Vec::new();
    for row in rows.iter().skip(1) {
        if let [Some(oid), Some(location), ..] = row.as_slice() {
            let oid = oid.parse().map_err(|_no| Error::protocol("a tablespace without an oid"))?;
            found.push(Tablespace { oid, location: location.clone() });
        }
    }
    Ok(found)
}

/// The sizes are in kilobytes.
fn total_bytes(rows: &[Row]) -> u64 {
    let size = |row: &Row| row.get(2)?.as_ref()?.parse::<u64>().ok();
    rows.iter().skip(1).filter_map(size).sum::<u64>().saturating_mul(1024)
}

/// Unpacks CopyData until CopyDone.
async fn receive(connection: &mut Connection, unpack: &mut Unpack<'_>) -> Result<(), Error> {
    loop {
        let message = connection.receive().await?;
        match message.kind {
            kind::COPY_DATA => {
                let part = BackupPart::read(connection.body(&message)).map_err(malformed)?;
                match part {
                    BackupPart::Archive { file_name, .. } => unpack.begin_archive(file_name)?,
                    BackupPart::Data(data) => unpack.data(data).await?,
                    BackupPart::Progress(_) => {}
                    BackupPart::Manifest => return Err(unexpected(b'm', "BASE_BACKUP")),
                }
            }
            kind::COPY_DONE => return unpack.end_archive(),
            other => return Err(unexpected(other, "BASE_BACKUP")),
        }
    }
}

/// Takes the archives apart.
struct Unpack<'r> {
    import: Import<'r>,
    /// Where the current archive's files belong, relative to the data directory.
    root: PathBuf,
    archive: Archive,
    progress: Progress,
    report: &'r dyn Fn(Progress),
}

impl<'r> Unpack<'r> {
    fn new(import: Import<'r>, bytes_total: u64, report: &'r dyn Fn(Progress)) -> Unpack<'r> {
        let progress = Progress { bytes_total, ..Progress::default() };
        report(progress);
        Unpack { root: PathBuf::new(), import, archive: Archive::default(), progress, report }
    }

    /// `base.tar` holds the data directory, `16384.tar` the tablespace of that oid.
    fn begin_archive(&mut self, file_name: &[u8]) -> Result<(), Error> {
        self.end_archive()?;
        self.archive = Archive::default();
        let name = std::str::from_utf8(file_name).unwrap_or("").trim_end_matches(".tar");
        self.root = match name.parse::<u32>() {
            Ok(oid) => Path::new("pg_tblspc").join(oid.to_string()),
            Err(_) if name == "base" => PathBuf::new(),
            Err(_) => return Err(Error::protocol(format!("archive of unknown name \"{name}\""))),
        };
        self.import.folder(&self.root);
        Ok(())
    }

    fn end_archive(&self) -> Result<(), Error> {
        let is_whole = !self.import.is_in_file();
        if self.archive.is_between_entries() && is_whole {
            return Ok(());
        }
        Err(Error::protocol("an archive of the base backup ended inside a file"))
    }

    async fn data(&mut self, mut data: &[u8]) -> Result<(), Error> {
        loop {
            let part = self.archive.next(&mut data);
            match part.map_err(|error| Error::protocol(error.to_string()))? {
                None => return Ok(()),
                Some(Part::Entry(entry)) => match entry.kind {
                    EntryKind::File => self.import.begin_file(&self.root.join(&entry.path)),
                    EntryKind::Directory => self.import.folder(&self.root.join(&entry.path)),
                    EntryKind::Link => {}
                },
                Some(Part::Data(bytes)) => self.file_data(bytes).await?,
                Some(Part::EntryEnd) => self.end_file().await?,
            }
        }
    }

    async fn file_data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.import.data(bytes).await?;
        self.progress.bytes_done += bytes.len() as u64;
        (self.report)(self.progress);
        Ok(())
    }

    async fn end_file(&mut self) -> Result<(), Error> {
        self.progress.files += 1;
        self.import.end_file().await
    }
}

async fn make_directory(path: &Path) -> Result<(), Error> {
    let made = fs::create_dir_all(path).await;
    made.map_err(|source| Error::file("create directory", path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: [Option<&str>; 3]) -> Row {
        values.iter().map(|value| value.map(str::to_owned)).collect()
    }

    #[test]
    fn reads_position_tablespaces_and_size() {
        let rows = vec![
            vec![Some("0/2000028".to_owned()), Some("1".to_owned())],
            row([Some("16400"), Some("/srv/fast"), Some("10")]),
            row([None, None, Some("30")]),
        ];
        assert_eq!(position(&rows).expect("a position"), (Lsn(0x200_0028), 1));
        let expected = vec![Tablespace { oid: 16_400, location: "/srv/fast".to_owned() }];
        assert_eq!(tablespaces(&rows).expect("tablespaces"), expected);
        assert_eq!(total_bytes(&rows), 40 * 1024);
        assert!(position(&[]).is_err());
    }
}
