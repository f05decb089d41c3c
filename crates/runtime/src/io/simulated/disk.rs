//! The simulated disk: files in memory that remember what is durable, so that cutting the power shows what
//! a real one might.
//!
//! Invariants:
//! 1. A write is durable after a sync of its file, a name (made, renamed, removed) after a sync of its folder;
//!    nothing else is.
//! 2. Cutting the power keeps what is durable. Of everything since, each write and each name survives or not by
//!    chance, and a write may be torn at a sector.
//! 3. A handle opened before a power cut is dead after it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::fs::{DirEntry, Handle, Lasting, Operation, Outcome};
use crate::random::Rng;

/// What a disk writes in one piece.
const SECTOR_BYTES: usize = 512;

/// How the simulated disk misbehaves. Chances are per million.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskFaults {
    /// That a write fails, nothing of it written.
    pub write_error: u32,
    /// That a sync fails. What it was to make durable never will be.
    pub sync_error: u32,
    /// Bytes of all files together, beyond which writes fail; `None` is no limit.
    pub capacity: Option<u64>,
}

#[derive(Default)]
pub(super) struct Disk {
    faults: DiskFaults,
    files: BTreeMap<u64, Contents>,
    names: BTreeMap<PathBuf, Entry>,
    durable_names: BTreeMap<PathBuf, Entry>,
    next_file: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Folder,
    File(u64),
}

/// A file as programs see it, and as the platters have it.
#[derive(Default)]
struct Contents {
    current: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

impl Disk {
    pub(super) fn new(faults: &DiskFaults) -> Self {
        Self { faults: faults.clone(), ..Self::default() }
    }

    pub(super) fn set_capacity(&mut self, capacity: Option<u64>) {
        self.faults.capacity = capacity;
    }

    /// Does an operation here and now.
    pub(super) fn execute(&mut self, operation: Operation, rng: &mut Rng) -> io::Result<Outcome> {
        match operation {
            Operation::Open { path, options } => {
                let file = self.open(&path, options)?;
                Ok(Outcome::Opened(Handle::Simulated(file)))
            }
            Operation::ReadAt { file, mut buffer, offset } => {
                let result =
                    self.contents(&file).map(|contents| contents.read(&mut buffer, offset));
                Ok(Outcome::Moved(result, buffer))
            }
            Operation::WriteAllAt { file, buffer, offset, lasting } => {
                let mut result = self.write(&file, &buffer, offset, rng).map(|()| buffer.len());
                if result.is_ok() && lasting == Lasting::Yes {
                    // Of the whole file, which is more than was promised.
                    result = self.sync(&file, rng).map(|()| buffer.len());
                }
                Ok(Outcome::Moved(result, buffer))
            }
            Operation::Sync { file, .. } => self.sync(&file, rng).map(|()| Outcome::Done),
            Operation::Length { file } => {
                Ok(Outcome::Length(self.contents(&file)?.current.len() as u64))
            }
            Operation::SetLength { file, length } => {
                self.contents(&file)?.change(Change::Length(size(length)?));
                Ok(Outcome::Done)
            }
            Operation::ReadFile { path } => {
                let file = Handle::Simulated(self.file_at(&path)?);
                let bytes = self.contents(&file)?.current.clone();
                Ok(Outcome::Moved(Ok(bytes.len()), bytes))
            }
            Operation::WriteAtomic { path, bytes } => self.write_atomic(&path, &bytes, rng),
            Operation::Rename { from, to } => self.rename(&from, &to).map(|()| Outcome::Done),
            Operation::RemoveFile { path } => {
                self.file_at(&path)?;
                self.names.remove(&path);
                Ok(Outcome::Done)
            }
            Operation::CreateDirAll { path } => self.create_dir_all(&path).map(|()| Outcome::Done),
            Operation::RemoveDirAll { path } => self.remove_dir_all(&path).map(|()| Outcome::Done),
            Operation::ReadDir { path } => self.read_dir(&path).map(Outcome::Entries),
            Operation::SyncDir { path } => self.sync_dir(&path).map(|()| Outcome::Done),
        }
    }

    /// The power is cut and comes back.
    pub(super) fn cut_power(&mut self, rng: &mut Rng) {
        self.names = survivors(&self.names, &self.durable_names, rng);
        self.durable_names = self.names.clone();
        let kept: BTreeMap<u64, u64> = (self.next_file..)
            .zip(self.names.values().filter_map(|entry| entry.file()))
            .map(|(new, old)| (old, new))
            .collect();
        self.next_file += kept.len() as u64;
        let mut files = std::mem::take(&mut self.files);
        for (old, new) in &kept {
            let mut contents = files.remove(old).unwrap_or_default();
            contents.cut_power(rng);
            self.files.insert(*new, contents);
        }
        // A new number for every file: handles from before name nothing.
        for entry in self.names.values_mut().chain(self.durable_names.values_mut()) {
            if let Some(new) = entry.file().and_then(|old| kept.get(&old)) {
                *entry = Entry::File(*new);
            }
        }
    }

    fn open(&mut self, path: &Path, options: crate::fs::OpenOptions) -> io::Result<u64> {
        match self.names.get(path) {
            Some(Entry::Folder) => Err(Errno::ISDIR.into()),
            Some(Entry::File(_)) if options.create_new => Err(Errno::EXIST.into()),
            Some(&Entry::File(file)) => {
                if options.truncate {
                    self.contents(&Handle::Simulated(file))?.change(Change::Length(0));
                }
                Ok(file)
            }
            None if options.create || options.create_new => self.create(path),
            None => Err(Errno::NOENT.into()),
        }
    }

    fn create(&mut self, path: &Path) -> io::Result<u64> {
        self.folder_of(path)?;
        let file = self.next_file;
        self.next_file += 1;
        self.files.insert(file, Contents::default());
        self.names.insert(path.to_owned(), Entry::File(file));
        Ok(file)
    }

    fn write(&mut self, file: &Handle, bytes: &[u8], offset: u64, rng: &mut Rng) -> io::Result<()> {
        if chance(self.faults.write_error, rng) {
            return Err(Errno::IO.into());
        }
        let offset = size(offset)?;
        let named = self.names.values().filter_map(|entry| self.files.get(&entry.file()?));
        let held: u64 = named.map(|contents| contents.current.len() as u64).sum();
        let contents = self.contents(file)?;
        let grows = (offset + bytes.len()).saturating_sub(contents.current.len()) as u64;
        if self.faults.capacity.is_some_and(|capacity| grows > 0 && held + grows > capacity) {
            return Err(Errno::NOSPC.into());
        }
        let change = Change::Write { offset, bytes: bytes.to_vec() };
        self.contents(file)?.change(change);
        Ok(())
    }

    fn sync(&mut self, file: &Handle, rng: &mut Rng) -> io::Result<()> {
        let fails = chance(self.faults.sync_error, rng);
        let contents = self.contents(file)?;
        if fails {
            // As Linux has it: the pages are marked clean, so a later sync says nothing about them.
            contents.pending.clear();
            return Err(Errno::IO.into());
        }
        contents.durable = contents.current.clone();
        contents.pending.clear();
        Ok(())
    }

    fn write_atomic(&mut self, path: &Path, bytes: &[u8], rng: &mut Rng) -> io::Result<Outcome> {
        let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        name.push(".tmp");
        let temporary = path.with_file_name(name);
        let file = Handle::Simulated(self.create(&temporary)?);
        self.write(&file, bytes, 0, rng)?;
        self.sync(&file, rng)?;
        self.rename(&temporary, path)?;
        self.sync_dir(path.parent().unwrap_or(Path::new("")))?;
        Ok(Outcome::Done)
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.folder_of(to)?;
        let entry = self.names.remove(from).ok_or(Errno::NOENT)?;
        if entry == Entry::Folder {
            let inside: Vec<_> =
                self.names.keys().filter(|path| path.starts_with(from)).cloned().collect();
            for path in inside {
                let rest = path.strip_prefix(from).map(|rest| to.join(rest));
                if let (Ok(new), Some(entry)) = (rest, self.names.remove(&path)) {
                    self.names.insert(new, entry);
                }
            }
        }
        self.names.insert(to.to_owned(), entry);
        Ok(())
    }

    fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        for folder in path.ancestors().filter(|folder| !is_root(folder)) {
            match self.names.get(folder) {
                Some(Entry::File(_)) => return Err(Errno::NOTDIR.into()),
                _ => self.names.insert(folder.to_owned(), Entry::Folder),
            };
        }
        Ok(())
    }

    fn remove_dir_all(&mut self, path: &Path) -> io::Result<()> {
        if self.names.get(path) != Some(&Entry::Folder) {
            return Err(Errno::NOENT.into());
        }
        self.names.retain(|name, _| !name.starts_with(path));
        Ok(())
    }

    fn read_dir(&mut self, path: &Path) -> io::Result<Vec<DirEntry>> {
        if !is_root(path) && self.names.get(path) != Some(&Entry::Folder) {
            return Err(Errno::NOENT.into());
        }
        let inside = self.names.iter().filter(|(name, _)| name.parent() == Some(path));
        let entry = |(name, entry): (&PathBuf, &Entry)| {
            let contents = entry.file().and_then(|file| self.files.get(&file));
            Some(DirEntry {
                name: name.file_name()?.to_owned(),
                is_dir: *entry == Entry::Folder,
                len: contents.map_or(0, |contents| contents.current.len() as u64),
            })
        };
        Ok(inside.filter_map(entry).collect())
    }

    fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        if !is_root(path) && self.names.get(path) != Some(&Entry::Folder) {
            return Err(Errno::NOENT.into());
        }
        let inside = |name: &Path| name.parent() == Some(path);
        self.durable_names.retain(|name, _| !inside(name));
        let here = self.names.iter().filter(|(name, _)| inside(name));
        self.durable_names.extend(here.map(|(name, entry)| (name.clone(), *entry)));
        Ok(())
    }

    fn folder_of(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let there = is_root(folder) || self.names.get(folder) == Some(&Entry::Folder);
        if there { Ok(()) } else { Err(Errno::NOENT.into()) }
    }

    fn file_at(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).and_then(|entry| entry.file()).ok_or(Errno::NOENT.into())
    }

    fn contents(&mut self, file: &Handle) -> io::Result<&mut Contents> {
        let Handle::Simulated(file) = file else { return Err(Errno::BADF.into()) };
        self.files.get_mut(file).ok_or(Errno::IO.into())
    }
}

impl Entry {
    fn file(self) -> Option<u64> {
        match self {
            Self::File(file) => Some(file),
            Self::Folder => None,
        }
    }
}

impl Contents {
    fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let there = self.current.get(from..).unwrap_or_default();
        let count = there.len().min(buffer.len());
        buffer[..count].copy_from_slice(&there[..count]);
        count
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.current, &change);
        self.pending.push(change);
    }

    fn cut_power(&mut self, rng: &mut Rng) {
        for change in std::mem::take(&mut self.pending) {
            match (rng.below(3), change) {
                (0, _) => {}
                (1, Change::Write { offset, mut bytes }) => {
                    let sectors = bytes.len().div_ceil(SECTOR_BYTES) as u64;
                    let kept = usize::try_from(rng.below(sectors + 1)).unwrap_or(0) * SECTOR_BYTES;
                    bytes.truncate(kept);
                    apply(&mut self.durable, &Change::Write { offset, bytes });
                }
                (_, change) => apply(&mut self.durable, &change),
            }
        }
        self.current = self.durable.clone();
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(length) => bytes.resize(*length, 0),
        Change::Write { offset, bytes: new } => {
            let end = offset + new.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*offset..end].copy_from_slice(new);
        }
    }
}

/// The names after a power cut: the durable ones, with each later change made or not by chance. What stood
/// in a folder that did not survive is gone.
fn survivors(
    current: &BTreeMap<PathBuf, Entry>,
    durable: &BTreeMap<PathBuf, Entry>,
    rng: &mut Rng,
) -> BTreeMap<PathBuf, Entry> {
    let all: BTreeSet<&PathBuf> = current.keys().chain(durable.keys()).collect();
    let mut kept = BTreeMap::new();
    for path in all {
        let (now, before) = (current.get(path), durable.get(path));
        let entry = if now == before || rng.below(2) == 0 { before } else { now };
        let folder = path.parent().unwrap_or(Path::new(""));
        if let Some(entry) = entry
            && (is_root(folder) || kept.get(folder) == Some(&Entry::Folder))
        {
            kept.insert(path.clone(), *entry);
        }
    }
    kept
}

fn is_root(path: &Path) -> bool {
    path.as_os_str().is_empty() || path == Path::new("/") || path == Path::new(".")
}

fn chance(per_million: u32, rng: &mut Rng) -> bool {
    per_million > 0 && rng.below(1_000_000) < u64::from(per_million)
}

fn size(bytes: u64) -> io::Result<usize> {
    usize::try_from(bytes).map_err(|_too_large| Errno::FBIG.into())
}
