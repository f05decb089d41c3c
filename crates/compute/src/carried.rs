//! What a server hands on to the next one besides the branch: its replication slots, with the snapshots and the WAL that
//! they need, and its statistics. None of it is in the WAL.
//!
//! Rules:
//! 1. Kept is what a clean shutdown left, with the end of the WAL then: by then every subscriber has had everything.
//! 2. Taken is what was kept where the branch ends now: nobody has written since.
//! 3. From when it is taken until the next clean shutdown there is none. A slot of a server that died is never taken:
//!    its subscriber may have had what the branch has not, and would miss as much of what is written next.

use std::io;
use std::path::{Path, PathBuf};

use pg::datadir::control::{ControlFile, State};
use pg::datadir::slot::ReplicationSlot;
use pg::lsn::Lsn;
use pg::wal::reader::StreamDecoder;
use pg::wal::segment::SegmentName;
use runtime::fs::OpenOptions;
use runtime::fs::blocking::{self, File};

use crate::error::Error;
use crate::limits::{CHECKPOINT_BYTES_MAX, COPY_BYTES};
use crate::mount::FileSystem;
use crate::places::Places;
use crate::skeleton::{Skeleton, open};

/// Directories of a data directory whose files are carried.
const FOLDERS: [&str; 4] = ["pg_logical/mappings", "pg_logical/snapshots", SLOTS, "pg_stat"];
const SLOTS: &str = "pg_replslot";
/// What a slot is; what else its directory has is made anew.
const STATE: &str = "/state";

/// Where it is kept between servers.
#[derive(Clone, Debug)]
pub struct Carried {
    folder: PathBuf,
}

/// What a server has started with, until it is known that it runs.
#[derive(Debug)]
pub struct Taken {
    carried: Carried,
    end: Lsn,
    /// Segments, where they are now.
    wal: Vec<PathBuf>,
}

impl Carried {
    #[must_use]
    pub fn in_folder(folder: PathBuf) -> Carried {
        Carried { folder }
    }

    /// Holds the end of the WAL that the rest belongs to; without it the rest is nothing.
    fn record(&self) -> PathBuf {
        self.folder.join("end")
    }

    fn files(&self) -> PathBuf {
        self.folder.join("files")
    }

    fn wal(&self) -> PathBuf {
        self.folder.join("wal")
    }

    /// Keeps what a server has left that was shut down. One that was not leaves nothing.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn keep(&self, files: &FileSystem, places: &Places) -> Result<(), Error> {
        self.forget()?;
        let Some(control) = shut_down(files)? else {
            tracing::warn!("slots and statistics are lost: the server had to be killed");
            return Ok(());
        };
        let Some(end) = end_of_wal(places, &control)? else { return Ok(()) };
        let mut restart = None;
        for folder in FOLDERS {
            for (path, local, bytes) in files.local_files_below(folder) {
                if folder == SLOTS && !path.ends_with(STATE) {
                    continue;
                }
                let mut content = read(&local)?;
                content.resize(usize::try_from(bytes).unwrap_or(usize::MAX), 0);
                if folder == SLOTS {
                    let Some(slot) = ReplicationSlot::parse(&content) else {
                        tracing::warn!(path, "a replication slot cannot be read, and is not kept");
                        continue;
                    };
                    let needed = (slot.restart != Lsn::INVALID).then_some(slot.restart);
                    restart = needed.into_iter().chain(restart).min();
                }
                write(&self.files().join(&path), &content)?;
            }
        }
        if let Some(restart) = restart {
            self.keep_wal(places, &control, restart..end)?;
        }
        write(&self.record(), end.to_string().as_bytes())?;
        tracing::info!(%end, "slots and statistics are kept");
        Ok(())
    }

    /// The segments that a slot needs, but for the last: the next server is given that.
    fn keep_wal(
        &self,
        places: &Places,
        control: &ControlFile,
        needed: std::ops::Range<Lsn>,
    ) -> Result<(), Error> {
        let bytes = control.segment_bytes;
        let named = |lsn| SegmentName::of(control.checkpoint.timeline, lsn, bytes).number;
        let numbers = named(needed.start)..named(needed.end);
        make(&self.wal())?;
        for entry in list(&places.wal)? {
            let segment = entry.to_str().and_then(|name| SegmentName::parse(name, bytes));
            if segment.is_some_and(|segment| numbers.contains(&segment.number)) {
                let target = self.wal().join(&entry);
                move_file(&places.wal.join(&entry), &target)?;
                let synced = open(&target, false).and_then(|file| file.sync_all());
                synced.map_err(|source| Error::file("sync", &target, source))?;
            }
        }
        blocking::sync_dir(self.wal()).map_err(|source| Error::file("sync", &self.wal(), source))
    }

    /// Puts what was kept into a data directory that is about to be started where the branch ends.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn take(&self, skeleton: &mut Skeleton, places: &Places) -> Result<Option<Taken>, Error> {
        let record = self.record();
        let end = match blocking::read_to_string(&record) {
            Ok(text) => text.trim().parse::<Lsn>().ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(Error::file("read", &record, source)),
        };
        let starts = skeleton.image.facts.lsn;
        let Some(end) = end.filter(|end| *end == starts) else {
            if let Some(end) = end {
                tracing::warn!(%end, %starts, slots = self.slots(), "slots are dropped: the branch was written since they were kept");
            }
            self.forget()?;
            return Ok(None);
        };
        blocking::remove_file(&record).map_err(|source| Error::file("remove", &record, source))?;
        blocking::sync_dir(&self.folder)
            .map_err(|source| Error::file("sync", &self.folder, source))?;
        let mut taken = Taken { carried: self.clone(), end, wal: Vec::new() };
        if let Err(error) = taken.put(skeleton, places) {
            taken.put_back()?;
            return Err(error);
        }
        Ok(Some(taken))
    }

    /// Names of the slots that are kept, for people.
    fn slots(&self) -> String {
        let names = list(&self.files().join(SLOTS)).unwrap_or_default();
        let names: Vec<_> = names.iter().map(|name| name.to_string_lossy()).collect();
        names.join(", ")
    }

    fn forget(&self) -> Result<(), Error> {
        // First of all: what is left without it counts for nothing.
        for removed in
            [blocking::remove_file(self.record()), blocking::remove_dir_all(&self.folder)]
        {
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::file("remove", &self.folder, error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Taken {
    fn put(&mut self, skeleton: &mut Skeleton, places: &Places) -> Result<(), Error> {
        let root = self.carried.files();
        for path in files_below(&root)? {
            // Scratch from here on: nothing of it is synced.
            skeleton.put(&path, &read(&root.join(&path))?, places)?;
        }
        let root = self.carried.wal();
        for name in list(&root)? {
            let target = places.wal.join(&name);
            // What the page server has sent is newer.
            if !blocking::exists(&target) {
                move_file(&root.join(&name), &target)?;
                self.wal.push(target);
            }
        }
        Ok(())
    }

    /// The server runs on it.
    pub fn started(self) {
        // Without its record it is nothing any more.
        if let Err(error) = self.carried.forget() {
            tracing::warn!(%error, "slots that are in use are kept besides");
        }
    }

    /// The server did not start. If it had not begun to write, all is as it was.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn not_started(self, files: &FileSystem) -> Result<(), Error> {
        match shut_down(files)? {
            Some(_) => self.put_back(),
            None => self.carried.forget(),
        }
    }

    fn put_back(self) -> Result<(), Error> {
        for segment in &self.wal {
            let name = segment.file_name().unwrap_or_default();
            move_file(segment, &self.carried.wal().join(name))?;
        }
        write(&self.carried.record(), self.end.to_string().as_bytes())
    }
}

/// The control file, if it is that of a server that was shut down.
fn shut_down(files: &FileSystem) -> Result<Option<ControlFile>, Error> {
    let Some(local) = files.local_file("global/pg_control") else { return Ok(None) };
    let control = ControlFile::parse(&read(&local)?);
    let control = control.map_err(|error| Error::Image(error.to_string()))?;
    Ok((control.state == State::ShutDown).then_some(control))
}

/// Where the shutdown checkpoint ends; `None` if it is not to be found.
fn end_of_wal(places: &Places, control: &ControlFile) -> Result<Option<Lsn>, Error> {
    let (start, bytes) = (control.checkpoint_lsn, control.segment_bytes);
    let mut decoder = StreamDecoder::at_record(start, bytes).assume_version(control.version);
    let mut from = start;
    // It may go on in the next segment.
    while from < start + CHECKPOINT_BYTES_MAX {
        let segment = SegmentName::of(control.checkpoint.timeline, from, bytes);
        let path = places.wal.join(segment.to_string());
        let left = u64::from(bytes) - from.segment_offset(bytes);
        let length = CHECKPOINT_BYTES_MAX.min(left);
        let mut piece = vec![0; usize::try_from(length).unwrap_or_default()];
        let file = File::open(&path, OpenOptions::default());
        let got = file.and_then(|file| file.read_exact_at(&mut piece, from.segment_offset(bytes)));
        got.map_err(|source| Error::file("read", &path, source))?;
        match decoder.next(&mut piece.as_slice()) {
            Ok(Some(record)) => return Ok(Some(record.end_lsn)),
            Ok(None) => from = from + length,
            Err(_) => return Ok(None),
        }
    }
    Ok(None)
}

/// Names in a directory; none if it is not there.
fn list(folder: &Path) -> Result<Vec<std::ffi::OsString>, Error> {
    match blocking::read_dir(folder) {
        Ok(entries) => Ok(entries.into_iter().map(|entry| entry.name).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(Error::file("list", folder, source)),
    }
}

/// The carried files in a copy of the data directory, by their paths in it.
fn files_below(root: &Path) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    for folder in FOLDERS {
        for name in list(&root.join(folder))? {
            let name = name.to_string_lossy();
            let state = if folder == SLOTS { STATE } else { "" };
            found.push(format!("{folder}/{name}{state}"));
        }
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    blocking::read(path).map_err(|source| Error::file("read", path, source))
}

/// Makes the directories above it, too.
fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    if let Some(above) = path.parent() {
        make(above)?;
    }
    blocking::write_atomic(path, content).map_err(|source| Error::file("write", path, source))
}

fn make(folder: &Path) -> Result<(), Error> {
    blocking::create_dir_all(folder)
        .map_err(|source| Error::file("create directory", folder, source))
}

/// Renames, or copies between file systems.
fn move_file(from: &Path, to: &Path) -> Result<(), Error> {
    match blocking::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            copy(from, to).map_err(|source| Error::file("copy to", to, source))?;
            blocking::remove_file(from).map_err(|source| Error::file("remove", from, source))
        }
        renamed => renamed.map_err(|source| Error::file("rename", from, source)),
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let (source, target) = (File::open(from, OpenOptions::default())?, open(to, true)?);
    let mut buffer = vec![0; COPY_BYTES];
    let mut at = 0;
    loop {
        let bytes = source.read_at(&mut buffer, at)?;
        if bytes == 0 {
            return Ok(());
        }
        target.write_all_at(buffer.get(..bytes).unwrap_or_default(), at)?;
        at += bytes as u64;
    }
}
