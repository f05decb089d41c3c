//! Answers to the kernel's requests.

use std::io::{self, IoSlice};
use std::time::Duration;

use runtime::fuse::Mount;

use super::{Errno, MAJOR, MINOR};
use crate::limits::{REQUESTS_IN_BACKGROUND_MAX, WRITE_BYTES_MAX};

/// How long the kernel may keep what we told it of a file. Nobody but the kernel changes these files.
const KEPT: Duration = Duration::from_secs(86_400);

/// `FOPEN_KEEP_CACHE`: the kernel caches what was read and written, also from one opening to the next, as it does for a
/// disk. Postgres counts on that: what its own buffers do not hold is a copy away there, and a question to us without it.
/// Nobody but the kernel changes these files, so its copy is always right. Writes still come to us as they are made.
const OPEN_KEEP_CACHE: u32 = 1 << 1;
/// `FOPEN_NOFLUSH`: closing a file is no request.
const OPEN_NO_FLUSH: u32 = 1 << 5;

/// Capabilities that we want of the kernel where it has them: `FUSE_ASYNC_READ`, `FUSE_ATOMIC_O_TRUNC`,
/// `FUSE_BIG_WRITES`, `FUSE_ASYNC_DIO`, `FUSE_PARALLEL_DIROPS`, `FUSE_MAX_PAGES`.
const WANTED: u32 = 1 | 1 << 3 | 1 << 5 | 1 << 15 | 1 << 18 | 1 << 22;

/// What a node looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub node: u64,
    pub size: u64,
    /// Kind and permissions.
    pub mode: u32,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    /// Microseconds since 1970.
    pub modified: i64,
}

/// One answer, to be sent once.
#[derive(Debug)]
pub struct Reply<'m> {
    mount: &'m Mount,
    unique: u64,
}

impl<'m> Reply<'m> {
    #[must_use]
    pub fn new(mount: &'m Mount, unique: u64) -> Reply<'m> {
        Reply { mount, unique }
    }

    /// The number under which the answer is sent later, by a new value of this type.
    #[must_use]
    pub fn postpone(self) -> u64 {
        self.unique
    }

    /// # Errors
    /// All of them: when the file system is gone.
    pub fn error(self, error: Errno) -> io::Result<()> {
        self.send(-error.number(), &[])
    }

    pub fn done(self) -> io::Result<()> {
        self.send(0, &[])
    }

    pub fn data(self, data: &[u8]) -> io::Result<()> {
        self.send(0, data)
    }

    /// `struct fuse_write_out`.
    pub fn written(self, bytes: u32) -> io::Result<()> {
        self.send(0, &fields(|out| out.u32(bytes).u32(0)))
    }

    /// `struct fuse_attr_out`.
    pub fn attributes(self, attributes: &Attributes) -> io::Result<()> {
        self.send(0, &fields(|out| out.u64(KEPT.as_secs()).u64(0).attributes(attributes)))
    }

    /// `struct fuse_entry_out`.
    pub fn entry(self, attributes: &Attributes) -> io::Result<()> {
        self.send(0, &fields(|out| out.entry(attributes)))
    }

    /// That there is no such name, which the kernel may keep as well.
    pub fn no_entry(self) -> io::Result<()> {
        self.send(0, &fields(|out| out.u64(0).u64(0).u64(KEPT.as_secs()).zeroes(104)))
    }

    /// `struct fuse_open_out` of a file.
    pub fn opened(self) -> io::Result<()> {
        self.send(0, &fields(|out| out.opened_file()))
    }

    /// The same of a directory, whose listing `handle` names.
    pub fn opened_directory(self, handle: u64) -> io::Result<()> {
        self.send(0, &fields(|out| out.u64(handle).u64(0)))
    }

    /// A file that was made and opened.
    pub fn created(self, attributes: &Attributes) -> io::Result<()> {
        self.send(0, &fields(|out| out.entry(attributes).opened_file()))
    }

    /// `struct fuse_init_out`: what of the kernel's offer is accepted.
    pub fn init(self, read_ahead_max: u32, offered: u32) -> io::Result<()> {
        let background = u32::from(REQUESTS_IN_BACKGROUND_MAX);
        let pages_max = WRITE_BYTES_MAX / 4096;
        let out = fields(|out| {
            out.u32(MAJOR).u32(MINOR).u32(read_ahead_max).u32(offered & WANTED);
            // max_background and congestion_threshold share a word, as do max_pages and the alignment of maps.
            let (background, pages) = (pack(background, background * 3 / 4), pack(pages_max, 0));
            out.u32(background).u32(WRITE_BYTES_MAX).u32(1).u32(pages).zeroes(32)
        });
        self.send(0, &out)
    }

    /// `struct fuse_kstatfs`: a large disk with room. What is written lands on a local disk, which refuses for itself.
    pub fn file_system(self) -> io::Result<()> {
        const BLOCKS: u64 = 1 << 40;
        let out = fields(|out| {
            out.u64(BLOCKS).u64(BLOCKS).u64(BLOCKS).u64(BLOCKS).u64(BLOCKS);
            out.u32(4096).u32(255).u32(4096).zeroes(28)
        });
        self.send(0, &out)
    }

    fn send(self, error: i32, body: &[u8]) -> io::Result<()> {
        let length = 16 + body.len();
        let length = u32::try_from(length).map_err(io::Error::other)?;
        let mut head = [0; 16];
        head[..4].copy_from_slice(&length.to_ne_bytes());
        head[4..8].copy_from_slice(&error.to_ne_bytes());
        head[8..].copy_from_slice(&self.unique.to_ne_bytes());
        self.mount.reply(&[IoSlice::new(&head), IoSlice::new(body)])
    }
}

/// Two halves of a word in the order of the machine's memory.
fn pack(first: u32, second: u32) -> u32 {
    if cfg!(target_endian = "little") { first | second << 16 } else { first << 16 | second }
}

/// The part of a directory's listing that fits into one answer.
#[derive(Debug)]
pub struct DirectoryPage {
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl DirectoryPage {
    #[must_use]
    pub fn new(bytes_max: u32) -> DirectoryPage {
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        DirectoryPage { bytes: Vec::with_capacity(bytes_max.min(1 << 16)), bytes_max }
    }

    /// Adds an entry (`struct fuse_dirent`); `next` is where a later request goes on after it, `mode` of its node.
    /// `false` if it does not fit any more.
    pub fn add(&mut self, node: u64, next: u64, mode: u32, name: &[u8]) -> bool {
        let length = (24 + name.len()).next_multiple_of(8);
        let Ok(name_length) = u32::try_from(name.len()) else { return false };
        if self.bytes.len() + length > self.bytes_max {
            return false;
        }
        let end = self.bytes.len() + length;
        Out(&mut self.bytes).u64(node).u64(next).u32(name_length).u32(mode >> 12);
        self.bytes.extend_from_slice(name);
        self.bytes.resize(end, 0);
        true
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn fields(write: impl for<'b, 'v> FnOnce(&'b mut Out<'v>) -> &'b mut Out<'v>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(144);
    write(&mut Out(&mut bytes));
    bytes
}

struct Out<'v>(&'v mut Vec<u8>);

impl Out<'_> {
    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    fn zeroes(&mut self, bytes: usize) -> &mut Self {
        self.0.resize(self.0.len() + bytes, 0);
        self
    }

    fn opened_file(&mut self) -> &mut Self {
        self.u64(0).u32(OPEN_KEEP_CACHE | OPEN_NO_FLUSH).u32(0)
    }

    fn entry(&mut self, attributes: &Attributes) -> &mut Self {
        // Node, its generation, how long the name and the attributes hold: seconds, then nanoseconds.
        self.u64(attributes.node).u64(0).u64(KEPT.as_secs()).u64(KEPT.as_secs()).u64(0);
        self.attributes(attributes)
    }

    /// `struct fuse_attr`.
    fn attributes(&mut self, attributes: &Attributes) -> &mut Self {
        let Attributes { node, size, mode, links, uid, gid, modified } = *attributes;
        let seconds = modified.div_euclid(1_000_000).cast_unsigned();
        let nanoseconds = u32::try_from(modified.rem_euclid(1_000_000) * 1000).unwrap_or(0);
        self.u64(node).u64(size).u64(size.div_ceil(512));
        self.u64(seconds).u64(seconds).u64(seconds);
        self.u32(nanoseconds).u32(nanoseconds).u32(nanoseconds);
        self.u32(mode).u32(links).u32(uid).u32(gid).u32(0).u32(4096).u32(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_the_lengths_that_the_kernel_checks() {
        let attributes = Attributes {
            node: 2,
            size: 8192,
            mode: 0o100_600,
            links: 1,
            uid: 26,
            gid: 26,
            modified: 1_700_000_000_000_001,
        };
        assert_eq!(fields(|out| out.attributes(&attributes)).len(), 88);
        assert_eq!(fields(|out| out.entry(&attributes)).len(), 128);
        assert_eq!(fields(|out| out.opened_file()).len(), 16);
    }

    #[test]
    fn a_listing_stops_where_it_is_full() {
        let mut page = DirectoryPage::new(64);
        assert!(page.add(2, 1, 0o100_600, b"PG_VERSION"));
        assert!(!page.add(3, 2, 0o040_700, b"base"), "40 and 32 bytes are more than 64");
        assert_eq!(page.bytes().len(), 40);
        assert_eq!(page.bytes()[20..24], 8_u32.to_ne_bytes(), "a regular file");
    }
}
