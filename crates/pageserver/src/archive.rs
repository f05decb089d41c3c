//! The files of a base backup, taken from its tar stream as the bytes arrive.
//!
//! Invariant: nothing is buffered but one 512-byte header, whatever the sizes in the stream.
//! The header itself is read by the `tar` crate; that crate's own reader needs a blocking `Read`.

use std::path::{Component, Path, PathBuf};

const BLOCK: usize = 512;
/// More than any file has; keeps the arithmetic in range.
const FILE_BYTES_MAX: u64 = 1 << 60;

/// One file of the archive, before its bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative, without `..`.
    pub path: PathBuf,
    pub kind: EntryKind,
    /// Bytes of data that follow.
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    File,
    Directory,
    /// A tablespace's link; where it points does not matter to us.
    Link,
}

/// What the next bytes of the stream mean.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    Entry(Entry),
    /// Bytes of the entry announced last.
    Data(&'a [u8]),
    /// The entry announced last is complete.
    EntryEnd,
}

/// The stream is not a tar archive as `BASE_BACKUP` sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidArchive(String);

impl std::fmt::Display for InvalidArchive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "invalid base backup archive: {}", self.0)
    }
}

impl std::error::Error for InvalidArchive {}

/// Reader of one archive.
pub struct Archive {
    header: [u8; BLOCK],
    state: State,
}

enum State {
    /// So many bytes of the header are here.
    Header(usize),
    Data {
        left: u64,
        padding: usize,
    },
    Padding(usize),
    /// After a zero block.
    End,
}

impl Default for Archive {
    fn default() -> Archive {
        Archive { header: [0; BLOCK], state: State::Header(0) }
    }
}

impl Archive {
    /// Takes bytes from the front of `input` and says what they were, or `None` if `input` is
    /// used up.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Part<'a>>, InvalidArchive> {
        loop {
            match self.state {
                State::Data { left: 0, padding } => {
                    self.state = State::Padding(padding);
                    return Ok(Some(Part::EntryEnd));
                }
                State::Padding(0) => self.state = State::Header(0),
                _ if input.is_empty() => return Ok(None),
                State::Header(filled) => {
                    let bytes = take(input, BLOCK - filled);
                    self.header[filled..filled + bytes.len()].copy_from_slice(bytes);
                    self.state = State::Header(filled + bytes.len());
                    if filled + bytes.len() == BLOCK {
                        return self.begin_entry();
                    }
                }
                State::Data { left, padding } => {
                    let bytes = take(input, usize::try_from(left).unwrap_or(usize::MAX));
                    self.state = State::Data { left: left - bytes.len() as u64, padding };
                    return Ok(Some(Part::Data(bytes)));
                }
                State::Padding(left) => {
                    self.state = State::Padding(left - take(input, left).len());
                }
                State::End => *input = &[],
            }
        }
    }

    /// Whether the stream may end here.
    pub fn is_between_entries(&self) -> bool {
        matches!(self.state, State::Header(0) | State::Padding(0) | State::End)
    }

    fn begin_entry<'a>(&mut self) -> Result<Option<Part<'a>>, InvalidArchive> {
        if self.header.iter().all(|&byte| byte == 0) {
            self.state = State::End;
            return Ok(None);
        }
        let entry = parse_header(&self.header)?;
        let whole = entry.bytes.next_multiple_of(BLOCK as u64);
        let padding = usize::try_from(whole - entry.bytes).unwrap_or(BLOCK);
        self.state = State::Data { left: entry.bytes, padding };
        Ok(Some(Part::Entry(entry)))
    }
}

fn take<'a>(input: &mut &'a [u8], at_most: usize) -> &'a [u8] {
    let (front, rest) = input.split_at(at_most.min(input.len()));
    *input = rest;
    front
}

fn parse_header(block: &[u8; BLOCK]) -> Result<Entry, InvalidArchive> {
    let header = tar::Header::from_byte_slice(block);
    let damaged = |what: &str| InvalidArchive(what.to_owned());
    let told = header.cksum().map_err(|error| InvalidArchive(error.to_string()))?;
    // POSIX: the sum of all bytes, the checksum's own eight counted as blanks.
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    let own: u32 = block[148..156].iter().map(|&byte| u32::from(byte)).sum();
    if told != sum - own + 8 * u32::from(b' ') {
        return Err(damaged("header checksum does not match"));
    }
    let path = header.path().map_err(|error| InvalidArchive(error.to_string()))?;
    let path = relative(&path).ok_or_else(|| {
        InvalidArchive(format!("path \"{}\" leads out of the archive", path.display()))
    })?;
    let bytes = header.entry_size().map_err(|error| InvalidArchive(error.to_string()))?;
    if bytes > FILE_BYTES_MAX {
        return Err(InvalidArchive(format!("a file of {bytes} bytes")));
    }
    let kind = match header.entry_type() {
        tar::EntryType::Regular => EntryKind::File,
        tar::EntryType::Directory => EntryKind::Directory,
        tar::EntryType::Symlink => EntryKind::Link,
        other => return Err(InvalidArchive(format!("entry of unknown type {other:?}"))),
    };
    match kind {
        EntryKind::File => Ok(Entry { path, kind, bytes }),
        EntryKind::Directory | EntryKind::Link => Ok(Entry { path, kind, bytes: 0 }),
    }
}

/// The path without `.` parts; `None` if it is absolute or climbs with `..`.
fn relative(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::ParentDir => return None,
        }
    }
    Some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(path: &str, bytes: u64, kind: tar::EntryType) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(bytes);
        header.set_entry_type(kind);
        header.set_cksum();
        header
    }

    fn sample() -> Vec<u8> {
        let mut stream = Vec::new();
        stream.extend_from_slice(header("base", 0, tar::EntryType::Directory).as_bytes());
        stream.extend_from_slice(header("base/1/1259", 700, tar::EntryType::Regular).as_bytes());
        stream.extend_from_slice(&[7; 700]);
        stream.extend_from_slice(&[0; 324]);
        stream.extend_from_slice(header("./empty", 0, tar::EntryType::Regular).as_bytes());
        stream.extend_from_slice(header("pg_tblspc/9", 0, tar::EntryType::Symlink).as_bytes());
        stream.extend_from_slice(&[0; 1024]);
        stream
    }

    /// Feeds `stream` in pieces of `step` bytes: (path, kind, data) of every entry.
    fn read(
        stream: &[u8],
        step: usize,
    ) -> Result<Vec<(String, EntryKind, Vec<u8>)>, InvalidArchive> {
        let mut archive = Archive::default();
        let mut entries = Vec::new();
        let mut open = None;
        for piece in stream.chunks(step) {
            let mut input = piece;
            while let Some(part) = archive.next(&mut input)? {
                match part {
                    Part::Entry(entry) => {
                        assert!(open.is_none());
                        open = Some((entry.path.display().to_string(), entry.kind, Vec::new()));
                    }
                    Part::Data(bytes) => {
                        open.as_mut().expect("data follows an entry").2.extend_from_slice(bytes);
                    }
                    Part::EntryEnd => entries.push(open.take().expect("an end follows an entry")),
                }
            }
        }
        assert!(archive.is_between_entries());
        Ok(entries)
    }

    #[test]
    fn reads_the_same_entries_however_the_stream_is_cut() {
        let expected = vec![
            ("base".to_owned(), EntryKind::Directory, vec![]),
            ("base/1/1259".to_owned(), EntryKind::File, vec![7; 700]),
            ("empty".to_owned(), EntryKind::File, vec![]),
            ("pg_tblspc/9".to_owned(), EntryKind::Link, vec![]),
        ];
        for step in [1, 3, 511, 512, 513, 700, 10_000] {
            assert_eq!(read(&sample(), step).as_ref(), Ok(&expected), "step {step}");
        }
    }

    #[test]
    fn refuses_paths_that_lead_outside() {
        for path in ["/etc/passwd", "../x", "base/../../x"] {
            let stream = header(path, 0, tar::EntryType::Regular);
            assert!(read(stream.as_bytes(), 512).is_err(), "{path}");
        }
    }

    #[test]
    fn refuses_a_damaged_header() {
        let mut stream = sample();
        stream[513] ^= 1;
        assert!(read(&stream, 512).is_err());
    }

    #[test]
    fn sees_that_a_stream_ended_inside_a_file() {
        let mut archive = Archive::default();
        let stream = sample();
        let mut input = &stream[..1100];
        while archive.next(&mut input).expect("the first half is valid").is_some() {}
        assert!(!archive.is_between_entries());
    }
}
