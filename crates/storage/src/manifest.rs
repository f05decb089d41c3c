//! The manifest of a timeline: which layers count, up to where they go, and the owner's catalog.
//!
//! Numbered files, each put in place atomically and never changed: a snapshot tells everything, an edit what became
//! different since the file that it names. What counts is the file of the highest number and what it goes back to.
//!
//! An edit that could not be written for certain is passed over by the next one, which goes back to the same file.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use runtime::fs;

use crate::layer::index::Input;
use crate::layer::{Kind, LayerInfo, Place};
use crate::limits::{MANIFEST_EDIT_BYTES_MIN, MANIFEST_EDITS_MAX};
use crate::version::Version;

/// At the beginning of each file; then the format, then the CRC-32C of what follows.
const MAGIC: [u8; 8] = *b"HWDMANIF";
const FORMAT: u32 = 1;
const HEAD_BYTES: usize = 8 + 4 + 4;
/// In place of the file that a snapshot goes back to.
const NOTHING: u64 = u64::MAX;
/// In place of a catalog's number.
const NO_CATALOG: u64 = u64::MAX;

/// What a manifest says beside the layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Of whoever wrote it; one that is overtaken by a higher one has no say any more.
    pub generation: u64,
    /// Everything up to here is in layers.
    pub flushed_through: Version,
    /// Versions before this one may be gone.
    pub kept_from: Version,
    /// The next file gets this number.
    pub next_number: u64,
    /// The file with the owner's catalog, and its checksum.
    pub catalog: Option<(u64, u32)>,
}

/// Everything that counts of one timeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    pub facts: Facts,
    pub layers: BTreeMap<u64, LayerInfo>,
}

/// A change: all the facts, layers that come (or are another place now), layers that go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    pub facts: Facts,
    pub added: Vec<LayerInfo>,
    pub removed: Vec<u64>,
}

impl Manifest {
    pub fn apply(&mut self, edit: &Edit) {
        self.facts = edit.facts;
        for number in &edit.removed {
            self.layers.remove(number);
        }
        self.layers.extend(edit.added.iter().map(|layer| (layer.number, *layer)));
    }

    /// The whole manifest as bytes, for the object store: those of a snapshot's file under this number.
    pub fn to_bytes(&self, number: u64) -> Vec<u8> {
        to_bytes(number, NOTHING, &self.snapshot())
    }

    /// Reads such bytes.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Manifest, String> {
        match from_bytes(bytes) {
            Ok((_number, NOTHING, snapshot)) => {
                let mut manifest = Manifest::default();
                manifest.apply(&snapshot);
                Ok(manifest)
            }
            Ok(_) => Err("it is a manifest's edit instead of a snapshot".to_owned()),
            Err(Unreadable::Damaged) => Err("it is damaged".to_owned()),
            Err(Unreadable::Format(format)) => Err(format!("it is of unknown format {format}")),
        }
    }

    fn snapshot(&self) -> Edit {
        let added = self.layers.values().copied().collect();
        Edit { facts: self.facts, added, removed: Vec::new() }
    }
}

/// The files of a manifest.
#[derive(Debug)]
pub struct Log {
    directory: PathBuf,
    /// The file that counts.
    head: u64,
    /// The next file's number; never used twice.
    next: u64,
    edits: usize,
    edit_bytes: usize,
    snapshot_bytes: usize,
    /// What could not be written last may be there nevertheless.
    in_doubt: bool,
}

impl Log {
    /// Begins a manifest in a directory that has none.
    ///
    /// # Errors
    /// `AlreadyExists` when it has one; what the system says.
    pub async fn create(directory: &Path, manifest: &Manifest) -> io::Result<Log> {
        if !numbers(directory).await?.is_empty() {
            let message = format!("directory \"{}\" has a manifest", directory.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        let mut log = Log {
            directory: directory.to_owned(),
            head: NOTHING,
            next: 1,
            edits: 0,
            edit_bytes: 0,
            snapshot_bytes: 0,
            in_doubt: false,
        };
        log.compact(manifest).await?;
        Ok(log)
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// `NotFound` when there is none, `InvalidData` when one of its files is damaged or missing.
    pub async fn open(directory: &Path) -> io::Result<(Log, Manifest)> {
        let numbers = numbers(directory).await?;
        let Some(&head) = numbers.last() else {
            let message = format!("directory \"{}\" has no manifest", directory.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        };
        let (mut edits, mut edit_bytes) = (Vec::new(), 0);
        let mut number = head;
        let (snapshot, snapshot_bytes) = loop {
            let (after, edit, bytes) = read(directory, number).await?;
            if after == NOTHING {
                break (edit, bytes);
            }
            if after >= number || edits.len() > 2 * MANIFEST_EDITS_MAX {
                return Err(damaged(&path(directory, number), "goes back to a later one"));
            }
            edits.push(edit);
            edit_bytes += bytes;
            number = after;
        };
        let mut manifest = Manifest::default();
        manifest.apply(&snapshot);
        edits.iter().rev().for_each(|edit| manifest.apply(edit));
        let log = Log {
            directory: directory.to_owned(),
            head,
            next: head + 1,
            edits: edits.len(),
            edit_bytes,
            snapshot_bytes,
            in_doubt: false,
        };
        Ok((log, manifest))
    }

    /// Makes a change durable.
    ///
    /// # Errors
    /// What the system says. If the log is [in doubt](Log::is_in_doubt) then, the change may come to light at the next
    /// opening, unless another is made.
    pub async fn append(&mut self, edit: &Edit) -> io::Result<()> {
        let number = self.next;
        let bytes = match self.write(self.head, edit).await {
            Ok(bytes) => bytes,
            Err(error) => {
                self.in_doubt = take_back(&self.directory, number).await.is_err();
                return Err(error);
            }
        };
        self.in_doubt = false;
        self.edits += 1;
        self.edit_bytes += bytes;
        Ok(())
    }

    /// Whether the change that failed last may be durable nevertheless.
    pub fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// Whether reading all the edits takes longer than it should.
    pub fn is_long(&self) -> bool {
        self.edits >= MANIFEST_EDITS_MAX
            || self.edit_bytes > self.snapshot_bytes.max(MANIFEST_EDIT_BYTES_MIN)
    }

    /// Writes a snapshot, which makes the files before it superfluous.
    ///
    /// # Errors
    /// What the system says; the manifest is then as it was.
    pub async fn compact(&mut self, manifest: &Manifest) -> io::Result<()> {
        self.snapshot_bytes = self.write(NOTHING, &manifest.snapshot()).await?;
        (self.edits, self.edit_bytes) = (0, 0);
        for number in numbers(&self.directory).await? {
            if number < self.head {
                fs::remove_file(path(&self.directory, number)).await?;
            }
        }
        Ok(())
    }

    async fn write(&mut self, after: u64, edit: &Edit) -> io::Result<usize> {
        let number = self.next;
        self.next += 1;
        let bytes = to_bytes(number, after, edit);
        let length = bytes.len();
        fs::write_atomic(path(&self.directory, number), bytes).await?;
        self.head = number;
        Ok(length)
    }
}

/// Makes sure that a file which could not be written for certain is not there.
async fn take_back(directory: &Path, number: u64) -> io::Result<()> {
    match fs::remove_file(path(directory, number)).await {
        // It has never come to its name.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => fs::sync_dir(directory).await,
    }
}

fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:016x}.manifest"))
}

/// The numbers of the manifest's files, sorted.
async fn numbers(directory: &Path) -> io::Result<Vec<u64>> {
    let number = |name: &str| u64::from_str_radix(name.strip_suffix(".manifest")?, 16).ok();
    let entries = fs::read_dir(directory).await?;
    let mut numbers: Vec<u64> =
        entries.iter().filter_map(|entry| number(entry.name.to_str()?)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn damaged(path: &Path, what: &str) -> io::Error {
    let message = format!("manifest \"{}\" {what}", path.display());
    io::Error::new(io::ErrorKind::InvalidData, message)
}

async fn read(directory: &Path, number: u64) -> io::Result<(u64, Edit, usize)> {
    let path = path(directory, number);
    let bytes = fs::read(&path).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => damaged(&path, "is missing"),
        _ => error,
    })?;
    match from_bytes(&bytes) {
        Ok((named, after, edit)) if named == number => Ok((after, edit, bytes.len())),
        Ok(_) => Err(damaged(&path, "bears another's name")),
        Err(Unreadable::Damaged) => Err(damaged(&path, "is damaged")),
        Err(Unreadable::Format(format)) => {
            Err(damaged(&path, &format!("is of unknown format {format}")))
        }
    }
}

fn to_bytes(number: u64, after: u64, edit: &Edit) -> Vec<u8> {
    let facts = &edit.facts;
    let (catalog, checksum) = facts.catalog.unwrap_or((NO_CATALOG, 0));
    let mut body = Vec::new();
    put(&mut body, &[number, after, facts.generation, facts.flushed_through.0, facts.kept_from.0]);
    put(&mut body, &[facts.next_number, catalog, u64::from(checksum)]);
    put(&mut body, &[edit.added.len() as u64, edit.removed.len() as u64]);
    for layer in &edit.added {
        body.push(layer.kind.to_byte());
        body.push(u8::from(layer.place.local) | u8::from(layer.place.remote) << 1);
        body.extend_from_slice(&layer.first.to_bytes());
        body.extend_from_slice(&layer.last.to_bytes());
        put(&mut body, &[layer.number, layer.oldest.0, layer.newest.0]);
        put(&mut body, &[layer.bytes, layer.raw_bytes, layer.entries]);
    }
    put(&mut body, &edit.removed);
    let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&FORMAT.to_be_bytes());
    // Over the format, too: a damaged one is no other format.
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes), &body);
    bytes.extend_from_slice(&checksum.to_be_bytes());
    bytes.append(&mut body);
    bytes
}

fn put(out: &mut Vec<u8>, numbers: &[u64]) {
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_be_bytes()));
}

/// Why some bytes are no file of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unreadable {
    Damaged,
    Format(u32),
}

/// The file's number, the one that it goes back to, and what it says.
fn from_bytes(bytes: &[u8]) -> Result<(u64, u64, Edit), Unreadable> {
    let (head, body) = bytes.split_at_checked(HEAD_BYTES).ok_or(Unreadable::Damaged)?;
    let (named, checksum) = head.split_at(HEAD_BYTES - 4);
    let computed = crc32c::crc32c_append(crc32c::crc32c(named), body);
    if !named.starts_with(&MAGIC) || checksum != computed.to_be_bytes() {
        return Err(Unreadable::Damaged);
    }
    let format = Input(&named[MAGIC.len()..]).u32().ok_or(Unreadable::Damaged)?;
    if format != FORMAT {
        return Err(Unreadable::Format(format));
    }
    read_body(&mut Input(body)).ok_or(Unreadable::Damaged)
}

fn read_body(input: &mut Input<'_>) -> Option<(u64, u64, Edit)> {
    let (number, after) = (input.u64()?, input.u64()?);
    let (generation, flushed_through) = (input.u64()?, Version(input.u64()?));
    let (kept_from, next_number) = (Version(input.u64()?), input.u64()?);
    let (catalog, checksum) = (input.u64()?, u32::try_from(input.u64()?).ok()?);
    let catalog = (catalog != NO_CATALOG).then_some((catalog, checksum));
    let facts = Facts { generation, flushed_through, kept_from, next_number, catalog };
    let (added, removed) = (input.u64()?, input.u64()?);
    let added = (0..added).map(|_| read_layer(input)).collect::<Option<_>>()?;
    let removed = (0..removed).map(|_| input.u64()).collect::<Option<_>>()?;
    input.0.is_empty().then_some((number, after, Edit { facts, added, removed }))
}

fn read_layer(input: &mut Input<'_>) -> Option<LayerInfo> {
    let kind = Kind::from_byte(input.u8()?)?;
    let place = match input.u8()? {
        place @ 1..=3 => Place { local: place & 1 != 0, remote: place & 2 != 0 },
        _ => return None,
    };
    let (first, last) = (input.key()?, input.key()?);
    let (number, oldest) = (input.u64()?, Version(input.u64()?));
    let (newest, bytes) = (Version(input.u64()?), input.u64()?);
    let (raw_bytes, entries) = (input.u64()?, input.u64()?);
    Some(LayerInfo { number, kind, place, first, last, oldest, newest, bytes, raw_bytes, entries })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;

    #[test]
    fn any_byte_changed_or_cut_is_refused() {
        let layer = LayerInfo {
            number: 3,
            kind: Kind::Image,
            place: Place { local: true, remote: true },
            first: Key::FIRST,
            last: Key::LAST,
            oldest: Version(7),
            newest: Version(9),
            bytes: 100,
            raw_bytes: 300,
            entries: 5,
        };
        let facts = Facts {
            generation: 2,
            flushed_through: Version(9),
            kept_from: Version(1),
            next_number: 5,
            catalog: Some((4, 77)),
        };
        let edit = Edit { facts, added: vec![layer, layer], removed: vec![1, 2] };
        let bytes = to_bytes(12, 11, &edit);
        assert_eq!(from_bytes(&bytes), Ok((12, 11, edit)));
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            assert_eq!(from_bytes(&changed), Err(Unreadable::Damaged), "byte {place}");
            assert_eq!(from_bytes(&bytes[..place]), Err(Unreadable::Damaged), "cut {place}");
        }
    }
}
