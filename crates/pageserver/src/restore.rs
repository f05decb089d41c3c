//! Restoring: the page service's base backup of any moment, written into an empty directory that a stock server then
//! starts on. Tablespaces get directories of their own beside it.

use std::path::{Path, PathBuf};

use pg::lsn::Lsn;
use pg::wire::backend::kind;
use pg::wire::replication::backup::BackupPart;
use pg::wire::replication::command::{Command, Options};
use runtime::fs::{self, File, OpenOptions, blocking};

use crate::archive::{Archive, EntryKind, Part};
use crate::basebackup::{Progress, position, results};
use crate::client::ClientError;
use crate::connection::{Connection, Login, malformed, unexpected};
use crate::error::Error;
use crate::replica;

/// File bytes gathered before they are written.
const WRITE_BYTES: usize = 256 << 10;

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Where the server will start, or a replica be consistent: behind the last record of the moment.
    pub lsn: Lsn,
    pub timeline: u32,
    pub files: u64,
    pub bytes: u64,
    /// Tablespaces: oid and directory.
    pub tablespaces: Vec<(u32, PathBuf)>,
}

/// Restores what `login` is about into `target`, which must be empty or not be there; `report` is called as it goes on.
///
/// # Errors
/// Of the connection or the files, as [`Error`]; what is written by then stays there and cannot be started.
pub async fn restore(
    login: &Login,
    target: &Path,
    report: impl Fn(Progress),
) -> Result<Restored, ClientError> {
    let mut connection = Connection::connect(login).await?;
    make_empty(target).await?;
    // Tablespaces' links lead to the directories beside it: from wherever they are read, and not by way of a folder that only
    // we may enter.
    let found = blocking::canonicalize(target);
    let target = &found.map_err(|source| Error::file("find", target, source))?;
    let options = Options::new()
        .with("LABEL", "howdah restore")
        .flag("PROGRESS")
        .flag("WAL")
        .with("MANIFEST", "yes");
    connection.begin(&Command::BaseBackup(options)).await?;
    let head = results(&mut connection, kind::COPY_OUT).await?;
    let (lsn, timeline) = position(&head)?;
    let sizes = head.iter().skip(1).filter_map(|row| row.get(2)?.as_ref()?.parse::<u64>().ok());
    let progress =
        Progress { bytes_total: sizes.sum::<u64>().saturating_mul(1024), ..Progress::default() };
    let mut writer = Writer {
        target: target.to_owned(),
        root: target.to_owned(),
        archive: Archive::default(),
        file: None,
        in_manifest: false,
        directories: vec![target.to_owned()],
        restored: Restored { lsn, timeline, files: 0, bytes: 0, tablespaces: Vec::new() },
        progress,
        report: &report,
    };
    loop {
        let message = connection.receive().await?;
        match message.kind {
            kind::COPY_DATA => {
                let part = BackupPart::read(connection.body(&message)).map_err(malformed)?;
                writer.part(part).await?;
            }
            kind::COPY_DONE => break,
            other => return Err(unexpected(other, "BASE_BACKUP").into()),
        }
    }
    let end = results(&mut connection, kind::READY_FOR_QUERY).await?;
    if login.database.ends_with(replica::OPTION) {
        // Its replay begins earlier.
        (writer.restored.lsn, writer.restored.timeline) = position(&end)?;
    }
    writer.finish().await
}

/// The directory, which must not hold anything.
async fn make_empty(target: &Path) -> Result<(), Error> {
    let made = fs::create_dir_all(target).await;
    made.map_err(|source| Error::file("create directory", target, source))?;
    let entries = fs::read_dir(target).await;
    let entries = entries.map_err(|source| Error::file("read directory", target, source))?;
    if entries.is_empty() {
        return Ok(());
    }
    Err(Error::Refused {
        message: format!("directory \"{}\" exists but is not empty", target.display()),
        hint: "name a directory that is empty or does not exist",
    })
}

/// Writes the archives' files.
struct Writer<'r> {
    target: PathBuf,
    /// Where the current archive's files go.
    root: PathBuf,
    archive: Archive,
    file: Option<Open>,
    in_manifest: bool,
    directories: Vec<PathBuf>,
    restored: Restored,
    progress: Progress,
    report: &'r dyn Fn(Progress),
}

struct Open {
    file: File,
    path: PathBuf,
    offset: u64,
    buffer: Vec<u8>,
}

impl Writer<'_> {
    async fn part(&mut self, part: BackupPart<'_>) -> Result<(), Error> {
        match part {
            BackupPart::Archive { file_name, .. } => self.begin_archive(file_name).await,
            BackupPart::Manifest => {
                self.check_whole()?;
                self.in_manifest = true;
                self.begin_file(self.target.join("backup_manifest")).await
            }
            BackupPart::Data(data) if self.in_manifest => self.file_data(data).await,
            BackupPart::Data(data) => self.archive_data(data).await,
            BackupPart::Progress(_) => Ok(()),
        }
    }

    async fn begin_archive(&mut self, file_name: &[u8]) -> Result<(), Error> {
        self.check_whole()?;
        self.archive = Archive::default();
        let name = std::str::from_utf8(file_name).unwrap_or("").trim_end_matches(".tar");
        self.root = match name.parse::<u32>() {
            Ok(oid) => {
                let place = tablespace(&self.target, oid);
                make_empty(&place).await?;
                self.restored.tablespaces.push((oid, place.clone()));
                place
            }
            Err(_) if name == "base" => self.target.clone(),
            Err(_) => return Err(Error::protocol(format!("archive of unknown name \"{name}\""))),
        };
        self.directories.push(self.root.clone());
        Ok(())
    }

    fn check_whole(&self) -> Result<(), Error> {
        if self.archive.is_between_entries() && self.file.is_none() {
            return Ok(());
        }
        Err(Error::protocol("an archive of the base backup ended inside a file"))
    }

    async fn archive_data(&mut self, mut data: &[u8]) -> Result<(), Error> {
        loop {
            let part = self.archive.next(&mut data);
            match part.map_err(|error| Error::protocol(error.to_string()))? {
                None => return Ok(()),
                Some(Part::Entry(entry)) => match entry.kind {
                    EntryKind::File => self.begin_file(self.root.join(&entry.path)).await?,
                    EntryKind::Directory => {
                        let path = self.root.join(&entry.path);
                        let made = fs::create_dir_all(&path).await;
                        made.map_err(|source| Error::file("create directory", &path, source))?;
                        self.directories.push(path);
                    }
                    EntryKind::Link => self.link(&entry.path)?,
                },
                Some(Part::Data(bytes)) => self.file_data(bytes).await?,
                Some(Part::EntryEnd) => self.end_file().await?,
            }
        }
    }

    /// A tablespace's link: to where we have put it.
    fn link(&self, path: &Path) -> Result<(), Error> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
        let oid = name.parse().map_err(|_no| Error::protocol("a link that is no tablespace's"))?;
        let (place, link) = (tablespace(&self.target, oid), self.root.join(path));
        let linked = blocking::symlink(&place, &link);
        linked.map_err(|source| Error::file("create link", &link, source))
    }

    async fn begin_file(&mut self, path: PathBuf) -> Result<(), Error> {
        let options = OpenOptions {
            write: true,
            create: true,
            create_new: true,
            mode: Some(0o600),
            ..OpenOptions::default()
        };
        let file = File::open(&path, options).await;
        let file = file.map_err(|source| Error::file("create", &path, source))?;
        self.file = Some(Open { file, path, offset: 0, buffer: Vec::new() });
        Ok(())
    }

    async fn file_data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if let Some(open) = &mut self.file {
            open.buffer.extend_from_slice(bytes);
            if open.buffer.len() >= WRITE_BYTES {
                open.write().await?;
            }
        }
        self.progress.bytes_done += bytes.len() as u64;
        self.restored.bytes += bytes.len() as u64;
        (self.report)(self.progress);
        Ok(())
    }

    /// Makes the file durable: a cluster that was said to be restored must survive.
    async fn end_file(&mut self) -> Result<(), Error> {
        let Some(mut open) = self.file.take() else { return Ok(()) };
        open.write().await?;
        let synced = open.file.sync_all().await;
        synced.map_err(|source| Error::file("sync", &open.path, source))?;
        self.restored.files += 1;
        self.progress.files += 1;
        Ok(())
    }

    async fn finish(mut self) -> Result<Restored, ClientError> {
        if self.in_manifest {
            self.end_file().await?;
        }
        self.check_whole()?;
        for directory in &self.directories {
            let synced = fs::sync_dir(directory).await;
            synced.map_err(|source| Error::file("sync directory", directory, source))?;
        }
        Ok(self.restored)
    }
}

impl Open {
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

/// Where a tablespace is put: beside the data directory, under its oid.
fn tablespace(target: &Path, oid: u32) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".tablespaces");
    target.with_file_name(name).join(oid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tablespaces_are_beside_the_data_directory() {
        let place = tablespace(Path::new("/srv/restored"), 16_400);
        assert_eq!(place, Path::new("/srv/restored.tablespaces/16400"));
    }
}
