//! Taking the base backup: BASE_BACKUP of PostgreSQL 15 and later, its archives taken apart as they arrive.
//!
//! Steps: relations go into the store (see [`crate::import`]), other files into `base/`; when the server has told the end
//! position, all files and directories are synced; then the manifest is written, which makes the backup valid. Whatever
//! fails before leaves no manifest, and the next start begins anew.

use std::path::{Path, PathBuf};

use pg::lsn::Lsn;
use pg::wire::backend::kind;
use pg::wire::replication::backup::BackupPart;
use pg::wire::replication::command::{Command, Options};
use runtime::executor;
use runtime::fs::{self, File, OpenOptions};
use storage::store::TimelineStore;

use crate::archive::{Archive, EntryKind, Part};
use crate::base_files;
use crate::connection::{Connection, Row, add_row, malformed, unexpected};
use crate::error::Error;
use crate::import::Import;
use crate::limits::SYNC_FILES_AT_ONCE;
use crate::manifest::{self, Manifest, Tablespace};
use crate::timeline;

/// Name of the folder with the files that are neither relations nor made anew.
pub const FOLDER: &str = "base";
/// File bytes gathered before they are written.
const WRITE_BYTES: usize = 256 << 10;

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

/// Takes a base backup into `directory` (which exists); `report` is called as it goes on.
pub async fn take(
    connection: &mut Connection,
    directory: &Path,
    cluster: Cluster,
    report: impl Fn(Progress),
) -> Result<Manifest, Error> {
    let base = directory.join(FOLDER);
    discard(&base).await?;
    make_directory(&base).await?;
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
    let mut unpack = Unpack::new(base.clone(), Import::new(&store, start), total, &report);
    receive(connection, &mut unpack).await?;
    let (end, _timeline) = position(&results(connection, kind::READY_FOR_QUERY).await?)?;
    let (files, directories, import) = (unpack.written, unpack.directories, unpack.import);
    let wal_log_hints = base_files::control(directory).await?.parameters.wal_log_hints;
    import.finish(wal_log_hints || cluster.data_checksums).await?;
    sync(files, directories).await?;
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
                    BackupPart::Archive { file_name, .. } => {
                        unpack.begin_archive(file_name).await?
                    }
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

/// Writes the files of the archives below one directory.
struct Unpack<'r> {
    base: PathBuf,
    import: Import<'r>,
    /// Where the current archive's files go.
    root: PathBuf,
    archive: Archive,
    file: Option<OpenFile>,
    written: Vec<PathBuf>,
    directories: Vec<PathBuf>,
    progress: Progress,
    report: &'r dyn Fn(Progress),
}

struct OpenFile {
    file: File,
    path: PathBuf,
    offset: u64,
    buffer: Vec<u8>,
}

impl<'r> Unpack<'r> {
    fn new(
        base: PathBuf,
        import: Import<'r>,
        bytes_total: u64,
        report: &'r dyn Fn(Progress),
    ) -> Unpack<'r> {
        let progress = Progress { bytes_total, ..Progress::default() };
        report(progress);
        Unpack {
            root: base.clone(),
            directories: vec![base.clone()],
            base,
            import,
            archive: Archive::default(),
            file: None,
            written: Vec::new(),
            progress,
            report,
        }
    }

    /// `base.tar` holds the data directory, `16384.tar` the tablespace of that oid.
    async fn begin_archive(&mut self, file_name: &[u8]) -> Result<(), Error> {
        self.end_archive()?;
        self.archive = Archive::default();
        let name = std::str::from_utf8(file_name).unwrap_or("").trim_end_matches(".tar");
        self.root = match name.parse::<u32>() {
            Ok(oid) => self.base.join("pg_tblspc").join(oid.to_string()),
            Err(_) if name == "base" => self.base.clone(),
            Err(_) => return Err(Error::protocol(format!("archive of unknown name \"{name}\""))),
        };
        self.make_directory(self.root.clone()).await
    }

    fn end_archive(&self) -> Result<(), Error> {
        let is_whole = self.file.is_none() && !self.import.is_in_file();
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
                    EntryKind::File => self.begin_file(&entry.path).await?,
                    EntryKind::Directory => {
                        self.make_directory(self.root.join(&entry.path)).await?;
                    }
                    EntryKind::Link => {}
                },
                Some(Part::Data(bytes)) => self.file_data(bytes).await?,
                Some(Part::EntryEnd) => self.end_file().await?,
            }
        }
    }

    async fn make_directory(&mut self, path: PathBuf) -> Result<(), Error> {
        make_directory(&path).await?;
        self.directories.push(path);
        Ok(())
    }

    async fn begin_file(&mut self, path: &Path) -> Result<(), Error> {
        let path = self.root.join(path);
        // What is not below it could not have got there: see `begin_archive`.
        let relative = path.strip_prefix(&self.base).unwrap_or(&path);
        if !self.import.begin_file(relative) {
            return Ok(());
        }
        let created = File::create(&path).await;
        let file = created.map_err(|source| Error::file("create", &path, source))?;
        self.file = Some(OpenFile { file, path, offset: 0, buffer: Vec::new() });
        Ok(())
    }

    async fn file_data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.import.data(bytes).await?;
        if let Some(open) = &mut self.file {
            open.buffer.extend_from_slice(bytes);
            if open.buffer.len() >= WRITE_BYTES {
                open.write().await?;
            }
        }
        self.progress.bytes_done += bytes.len() as u64;
        (self.report)(self.progress);
        Ok(())
    }

    async fn end_file(&mut self) -> Result<(), Error> {
        self.import.end_file();
        self.progress.files += 1;
        let Some(mut open) = self.file.take() else { return Ok(()) };
        open.write().await?;
        self.written.push(open.path);
        Ok(())
    }
}

impl OpenFile {
    async fn write(&mut self) -> Result<(), Error> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let buffer = std::mem::take(&mut self.buffer);
        let (written, mut buffer) = self.file.write_all_at(buffer, self.offset).await;
        written.map_err(|source| Error::file("write", &self.path, source))?;
        self.offset += buffer.len() as u64;
        buffer.clear();
        self.buffer = buffer;
        Ok(())
    }
}

async fn make_directory(path: &Path) -> Result<(), Error> {
    let made = fs::create_dir_all(path).await;
    made.map_err(|source| Error::file("create directory", path, source))
}

/// Makes every file and every name durable. Several files at once: a journalling file system
/// commits them together.
async fn sync(files: Vec<PathBuf>, directories: Vec<PathBuf>) -> Result<(), Error> {
    let mut files = files.into_iter();
    loop {
        let batch: Vec<_> = files
            .by_ref()
            .take(SYNC_FILES_AT_ONCE)
            .map(|path| executor::spawn(sync_file(path)))
            .collect();
        if batch.is_empty() {
            break;
        }
        for task in batch {
            task.await.map_err(|_aborted| Error::protocol("the base backup was given up"))??;
        }
    }
    for directory in directories {
        let synced = fs::sync_dir(&directory).await;
        synced.map_err(|source| Error::file("sync directory", &directory, source))?;
    }
    Ok(())
}

async fn sync_file(path: PathBuf) -> Result<(), Error> {
    let synced = match File::open(&path, OpenOptions::default()).await {
        Ok(file) => file.sync_all().await,
        Err(error) => Err(error),
    };
    synced.map_err(|source| Error::file("sync", &path, source))
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
