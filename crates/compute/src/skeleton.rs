//! Everything of a branch that is no relation, written to local files as it arrives: the small part of a data
//! directory that Postgres starts from.
//!
//! Nothing is synced: all of this is scratch.

use std::io;
use std::path::{Path, PathBuf};

use pageserver::boot_image::{self, BootImage, Piece};
use pageserver::connection::Login;
use pg::datadir::control::ControlFile;
use runtime::fs::OpenOptions;
use runtime::fs::blocking::{self, File};

use crate::error::Error;
use crate::places::Places;

/// What Postgres cannot do without, and what a packager may keep elsewhere: then it is not in the image.
const CONFIGURATION: &str = "postgresql.conf";

/// What ALTER SYSTEM writes, in the data directory.
pub const ALTERED: &str = "postgresql.auto.conf";

/// A boot image whose files are on this machine.
#[derive(Debug)]
pub struct Skeleton {
    pub image: BootImage,
    pub control: ControlFile,
    /// What belongs under the mount, in the order in which it came. `pg_wal` is not among them.
    pub entries: Vec<Entry>,
    pub prepared_transactions: usize,
}

/// A directory, or a file with its local bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the data directory.
    pub path: String,
    /// `None`: a directory.
    pub file: Option<(PathBuf, u64)>,
}

/// Fetches what `login` is about.
///
/// # Errors
/// When the page server does not answer or refuses, or a file cannot be written.
pub async fn fetch(login: &Login, places: &Places) -> Result<Skeleton, Error> {
    let mut writer = Writer { places, open: None, entries: Vec::new(), segments: Vec::new() };
    let image = boot_image::fetch(login, |piece| writer.take(piece)).await?;
    let Writer { mut entries, segments, .. } = writer;
    for segment in segments {
        // The unused end of the last one is not sent.
        let bytes = u64::from(image.facts.wal_segment_bytes);
        let lengthened = open(&segment, false).and_then(|file| file.set_len(bytes));
        lengthened.map_err(|source| Error::file("lengthen", &segment, source))?;
    }
    if !entries.iter().any(|entry| entry.path == CONFIGURATION) {
        let local = places.skeleton.join(CONFIGURATION);
        open(&local, true).map_err(|source| Error::file("create", &local, source))?;
        entries.push(Entry { path: CONFIGURATION.to_owned(), file: Some((local, 0)) });
    }
    let path = places.skeleton.join("global/pg_control");
    let bytes = blocking::read(&path).map_err(|source| Error::file("read", &path, source))?;
    let control = ControlFile::parse(&bytes).map_err(|error| Error::Image(error.to_string()))?;
    let prepared = entries.iter().filter(|entry| entry.path.starts_with("pg_twophase/"));
    let prepared_transactions = prepared.count();
    Ok(Skeleton { image, control, entries, prepared_transactions })
}

impl Skeleton {
    /// What ALTER SYSTEM has written; empty if there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn altered(&self) -> Result<String, Error> {
        let entry = self.entries.iter().find(|entry| entry.path == ALTERED);
        let Some((local, _bytes)) = entry.and_then(|entry| entry.file.as_ref()) else {
            return Ok(String::new());
        };
        let bytes = blocking::read(local).map_err(|source| Error::file("read", local, source))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// What ALTER SYSTEM wrote in an earlier compute, instead of what the branch has.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn take_altered(&mut self, file: &Path, places: &Places) -> Result<(), Error> {
        if !blocking::exists(file) {
            return Ok(());
        }
        let bytes = blocking::read(file).map_err(|source| Error::file("read", file, source))?;
        self.put(ALTERED, &bytes, places)
    }

    /// Puts a file in, instead of what the branch has under this name.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&mut self, path: &str, content: &[u8], places: &Places) -> Result<(), Error> {
        let local = places.skeleton.join(path);
        if let Some(above) = local.parent() {
            let made = blocking::create_dir_all(above);
            made.map_err(|source| Error::file("create directory", above, source))?;
        }
        let written = open(&local, true).and_then(|local| {
            local.set_len(0)?;
            local.write_all_at(content, 0)
        });
        written.map_err(|source| Error::file("write", &local, source))?;
        self.entries.retain(|entry| entry.path != path);
        let file = Some((local, content.len() as u64));
        self.entries.push(Entry { path: path.to_owned(), file });
        Ok(())
    }
}

struct Writer<'p> {
    places: &'p Places,
    open: Option<Open>,
    entries: Vec<Entry>,
    /// WAL segments.
    segments: Vec<PathBuf>,
}

struct Open {
    /// Under the mount; empty for a WAL segment.
    path: String,
    local: PathBuf,
    file: File,
    written: u64,
}

impl Writer<'_> {
    fn take(&mut self, piece: Piece<'_>) -> Result<(), pageserver::error::Error> {
        let failed = |what: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| pageserver::error::Error::file(what, &path, source)
        };
        match piece {
            Piece::Directory(path) => {
                let (local, path) = self.place(path);
                let made = blocking::create_dir_all(&local);
                made.map_err(failed("create directory", &local))?;
                if !path.is_empty() {
                    self.entries.push(Entry { path, file: None });
                }
            }
            Piece::File(path) => {
                let (local, path) = self.place(path);
                let file = open(&local, true).map_err(failed("create", &local))?;
                self.open = Some(Open { path, local, file, written: 0 });
            }
            Piece::Data(bytes) => {
                if let Some(Open { local, file, written, .. }) = &mut self.open {
                    let done = file.write_all_at(bytes, *written);
                    done.map_err(failed("write", local))?;
                    *written += bytes.len() as u64;
                }
            }
            Piece::FileEnd => match self.open.take() {
                // A history of timelines may be with the segments.
                Some(Open { path, local, .. })
                    if path.is_empty() && local.extension().is_some() => {}
                Some(Open { path, local, .. }) if path.is_empty() => self.segments.push(local),
                Some(Open { path, local, written, .. }) => {
                    self.entries.push(Entry { path, file: Some((local, written)) });
                }
                None => {}
            },
        }
        Ok(())
    }

    /// Where a path's bytes go, and what it is called under the mount: nothing if it is in `pg_wal`.
    fn place(&self, path: &Path) -> (PathBuf, String) {
        match path.strip_prefix("pg_wal") {
            Ok(rest) => (self.places.wal.join(rest), String::new()),
            Err(_elsewhere) => {
                (self.places.skeleton.join(path), path.to_string_lossy().into_owned())
            }
        }
    }
}

/// For writing.
pub(crate) fn open(path: &Path, create: bool) -> io::Result<File> {
    File::open(path, OpenOptions { write: true, create, ..OpenOptions::default() })
}
