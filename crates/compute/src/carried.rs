//! What a server hands on to the next one besides the branch: its replication slots, with the snapshots and the WAL that
//! they need, and its statistics. None of it is in the WAL.
//!
//! Rules:
//! 1. Kept is what a clean shutdown left, with the end of the WAL then: by then every subscriber has had everything.
//! 2. Taken is what was kept where the branch ends now: nobody has written since. A server that was shut down before it
//!    took connections has written two checkpoints at most, and the branch may have them or not.
//! 3. From when it is taken until the next clean shutdown there is none. A slot of a server that died is never taken:
//!    its subscriber may have had what the branch has not, and would miss as much of what is written next.

use std::io;
use std::path::{Path, PathBuf};

use pg::datadir::boot::place_of_record;
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

/// Where a server began.
#[derive(Clone, Copy, Debug)]
pub struct Beginning {
    /// Of its branch: the end.
    branch: Lsn,
    /// Of the checkpoint that it starts from, which it makes the branch's next record.
    checkpoint: Lsn,
}

impl Beginning {
    #[must_use]
    pub fn of(skeleton: &Skeleton) -> Beginning {
        let (branch, checkpoint) = (skeleton.image.facts.lsn, skeleton.control.checkpoint_lsn);
        Beginning { branch, checkpoint }
    }

    /// Where the branch may end now that the server has been shut down. One that wrote nothing but checkpoints may have
    /// been gone before the branch had them.
    fn ends(self, places: &Places, control: &ControlFile) -> Result<Vec<Lsn>, Error> {
        if control.checkpoint_lsn == self.checkpoint {
            return Ok(vec![self.branch]);
        }
        let end = |start| end_of_record(places, control, start);
        let mut ends: Vec<Lsn> = end(control.checkpoint_lsn)?.into_iter().collect();
        if let Some(begun) = end(self.checkpoint)?
            && control.checkpoint_lsn == place_of_record(begun, control.segment_bytes)
        {
            ends.extend([begun, self.branch]);
        }
        Ok(ends)
    }
}

impl Carried {
    #[must_use]
    pub fn in_folder(folder: PathBuf) -> Carried {
        Carried { folder }
    }

    /// Holds the end of the WAL that the rest belongs to, or the ends that it may have; without it the rest is nothing.
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
    pub fn keep(
        &self,
        files: &FileSystem,
        places: &Places,
        beginning: Beginning,
    ) -> Result<(), Error> {
        self.forget()?;
        let Some(control) = shut_down(files)? else {
            tracing::warn!("slots and statistics are lost: the server had to be killed");
            return Ok(());
        };
        let mut ends = beginning.ends(places, &control)?;
        let Some(&end) = ends.first() else { return Ok(()) };
        let mut restart = None;
        let mut reached = Lsn::INVALID;
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
                    reached = reached.max(slot.restart).max(slot.confirmed);
                }
                write(&self.files().join(&path), &content)?;
            }
        }
        if let Some(restart) = restart {
            self.keep_wal(places, &control, restart..end)?;
        }
        // On a branch that ends before what a subscriber has had, he would miss as much of what is written next.
        ends.retain(|&possible| possible == end || reached <= possible);
        self.count_at(&ends)?;
        tracing::info!(%end, "slots and statistics are kept");
        Ok(())
    }

    /// From here on what is there counts, for a branch with one of these ends.
    fn count_at(&self, ends: &[Lsn]) -> Result<(), Error> {
        let lines: String = ends.iter().map(|end| format!("{end}\n")).collect();
        write(&self.record(), lines.as_bytes())
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
    pub fn take(&self, skeleton: &mut Skeleton, places: &Places) -> Result<(), Error> {
        let record = self.record();
        let ends: Vec<Lsn> = match blocking::read_to_string(&record) {
            Ok(text) => text.lines().filter_map(|line| line.parse().ok()).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(Error::file("read", &record, source)),
        };
        let starts = skeleton.image.facts.lsn;
        if !ends.contains(&starts) {
            if let Some(end) = ends.first() {
                tracing::warn!(%end, %starts, slots = self.slots(), "slots are dropped: the branch was written since they were kept");
            }
            return self.forget();
        }
        blocking::remove_file(&record).map_err(|source| Error::file("remove", &record, source))?;
        blocking::sync_dir(&self.folder)
            .map_err(|source| Error::file("sync", &self.folder, source))?;
        let mut moved = Vec::new();
        let put = self.put(skeleton, places, &mut moved);
        if put.is_err() {
            for segment in &moved {
                let name = segment.file_name().unwrap_or_default();
                move_file(segment, &self.wal().join(name))?;
            }
            self.count_at(&ends)?;
        }
        put
    }

    /// Says which segments it has `moved`.
    fn put(
        &self,
        skeleton: &mut Skeleton,
        places: &Places,
        moved: &mut Vec<PathBuf>,
    ) -> Result<(), Error> {
        let root = self.files();
        for path in files_below(&root)? {
            // Scratch from here on: nothing of it is synced.
            skeleton.put(&path, &read(&root.join(&path))?, places)?;
        }
        let root = self.wal();
        for name in list(&root)? {
            let target = places.wal.join(&name);
            // What the page server has sent is newer.
            if !blocking::exists(&target) {
                move_file(&root.join(&name), &target)?;
                moved.push(target);
            }
        }
        Ok(())
    }

    /// Names of the slots that are kept, for people.
    fn slots(&self) -> String {
        let names = list(&self.files().join(SLOTS)).unwrap_or_default();
        let names: Vec<_> = names.iter().map(|name| name.to_string_lossy()).collect();
        names.join(", ")
    }

    /// A server runs on what was taken: nothing of it is needed here any more.
    pub fn taken(&self) {
        // Without its record it counts for nothing.
        if let Err(error) = self.forget() {
            tracing::warn!(%error, "slots that are in use are kept besides");
        }
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

/// The control file, if it is that of a server that was shut down, be it before it had really started.
fn shut_down(files: &FileSystem) -> Result<Option<ControlFile>, Error> {
    let Some(local) = files.local_file("global/pg_control") else { return Ok(None) };
    let control = ControlFile::parse(&read(&local)?);
    let control = control.map_err(|error| Error::Image(error.to_string()))?;
    let is_at_rest = matches!(control.state, State::ShutDown | State::ShutDownInRecovery);
    Ok(is_at_rest.then_some(control))
}

/// Where the record ends that starts here, a checkpoint; `None` if there is none.
fn end_of_record(places: &Places, control: &ControlFile, start: Lsn) -> Result<Option<Lsn>, Error> {
    let bytes = control.segment_bytes;
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
