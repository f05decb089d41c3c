//! Serves the mount: the kernel's requests, one after another, on one core.
//!
//! What is known here is answered at once. What needs pages of the branch goes on in a task of its own, so that one
//! backend's miss keeps no other waiting. Nothing that is written here has to last: a sync is answered at once, for
//! what Postgres must not lose is in its WAL, which is not on this mount.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;

use runtime::executor;
use runtime::fs::blocking;
use runtime::fuse::Mount;

use crate::error::Error;
use crate::file::{File, Piece};
use crate::fuse::{DirectoryPage, Errno, MAJOR, Operation, ROOT, Reply, Request, SetAttributes};
use crate::limits::{OPEN_FILES_MAX, PAGE_BYTES, REQUEST_BYTES_MAX, ROOM_FOR_WAL, ROOM_TAKEN_MAX};
use crate::open_files::OpenFiles;
use crate::pages::Pages;
use crate::skeleton::ALTERED;
use crate::tree::{Entry, Kind, Tree, new_directory};

/// `FALLOC_FL_KEEP_SIZE`.
const KEEP_SIZE: u32 = 1;
/// `RENAME_NOREPLACE` and its like, none of which Postgres uses.
const NO_RENAME_FLAGS: u32 = 0;
/// `O_TRUNC`, the same on every architecture that we build for.
const TRUNCATE: u32 = 0o1000;

/// A mounted branch, being served.
pub struct FileSystem {
    mount: Mount,
    tree: RefCell<Tree>,
    open_files: RefCell<OpenFiles>,
    /// Listings of directories that are open.
    listings: RefCell<Listings>,
    pages: Rc<Pages>,
    /// Bytes that may be written before the disk's room is looked at again.
    room: Cell<u64>,
    /// Where files made from now on have their bytes.
    overlay: PathBuf,
    /// Where what ALTER SYSTEM writes is kept, if it is.
    altered: Option<PathBuf>,
}

#[derive(Default)]
struct Listings {
    open: BTreeMap<u64, Rc<Vec<Entry>>>,
    next: u64,
}

impl FileSystem {
    /// A file system of what is in `tree`, over the pages of a branch. Local bytes of new files go to the directory
    /// `overlay`; what ALTER SYSTEM writes is kept in the file `altered`.
    #[must_use]
    pub fn new(
        mount: Mount,
        tree: Tree,
        pages: Rc<Pages>,
        overlay: PathBuf,
        altered: Option<PathBuf>,
    ) -> Rc<FileSystem> {
        Rc::new(FileSystem {
            mount,
            tree: RefCell::new(tree),
            open_files: RefCell::new(OpenFiles::new(OPEN_FILES_MAX)),
            listings: RefCell::default(),
            pages,
            room: Cell::new(0),
            overlay,
            altered,
        })
    }

    /// Where the bytes of a file are that is wholly local; `path` is relative to the mount.
    #[must_use]
    pub fn local_file(&self, path: &str) -> Option<PathBuf> {
        self.tree.borrow().find(path).map(|file| file.local.clone())
    }

    /// The files below the directory at `path`, which are wholly local: their paths, where their bytes are, how many.
    #[must_use]
    pub fn local_files_below(&self, path: &str) -> Vec<(String, PathBuf, u64)> {
        let tree = self.tree.borrow();
        let files = tree.files_below(path).into_iter();
        files.map(|(path, file)| (path, file.local.clone(), file.size)).collect()
    }

    /// Serves until the mount is gone.
    ///
    /// # Errors
    /// When the kernel's side fails.
    pub async fn serve(self: &Rc<FileSystem>) -> Result<(), Error> {
        let failed = |source: io::Error| Error::Mount {
            mountpoint: self.mount.mountpoint().to_owned(),
            source,
        };
        let mut buffer = vec![0; REQUEST_BYTES_MAX];
        let mut taken = 0_u32;
        while let Some(length) = self.mount.receive(&mut buffer).await.map_err(failed)? {
            let message = buffer.get(..length).unwrap_or_default();
            match Request::parse(message) {
                Ok(request) => self.answer(request)?,
                Err(malformed) => tracing::error!(?malformed, "a request that makes no sense"),
            }
            // A busy Postgres could keep this loop from ever waiting.
            taken += 1;
            if taken.is_multiple_of(64) {
                executor::yield_now().await;
            }
        }
        Ok(())
    }

    fn answer(self: &Rc<FileSystem>, request: Request<'_>) -> Result<(), Error> {
        let Request { unique, node, operation } = request;
        let reply = Reply::new(&self.mount, unique);
        let sent = match operation {
            Operation::Init { major, minor, read_ahead_max, flags } => {
                if major != MAJOR {
                    return Err(Error::Protocol { major, minor });
                }
                reply.init(read_ahead_max, flags)
            }
            Operation::Forget(lookups) => {
                self.forget(node, lookups);
                Ok(())
            }
            Operation::ForgetMany(nodes) => {
                nodes.into_iter().for_each(|(node, lookups)| self.forget(node, lookups));
                Ok(())
            }
            Operation::Interrupt(_) => Ok(()),
            Operation::Read { offset, bytes } => self.read(reply, node, offset, bytes),
            Operation::Write { offset, data } => self.write(reply, node, offset, data),
            Operation::SetAttributes(set) => self.set_attributes(reply, node, set),
            Operation::Allocate { offset, bytes, mode } => {
                respond(reply, self.allocate(node, offset, bytes, mode), |reply, ()| reply.done())
            }
            Operation::Release
            | Operation::Flush
            | Operation::Sync
            | Operation::Destroy
            | Operation::FileSystem
            | Operation::Other(_) => answer_without_looking(reply, &operation),
            operation => self.answer_about_names(reply, node, operation),
        };
        if let Err(error) = sent {
            // The kernel takes no answer once the mount is gone; the next receive says so.
            tracing::debug!(%error, "an answer was not taken");
        }
        Ok(())
    }

    fn answer_about_names(
        &self,
        reply: Reply<'_>,
        node: u64,
        operation: Operation<'_>,
    ) -> io::Result<()> {
        let mut tree = self.tree.borrow_mut();
        match operation {
            Operation::Lookup(name) => match tree.look_up(node, name) {
                Err(Errno::NoEntry) => reply.no_entry(),
                found => respond(reply, found, |reply, found| reply.entry(&found)),
            },
            Operation::GetAttributes => {
                respond(reply, tree.attributes(node), |reply, found| reply.attributes(&found))
            }
            Operation::ReadLink => {
                respond(reply, tree.link_target(node), |reply, target| reply.data(target))
            }
            Operation::Symlink { name, target } => {
                let made = tree.make(node, name, 0o777, Kind::Link(target.to_owned()));
                respond(reply, made, |reply, made| reply.entry(&made))
            }
            Operation::MakeDirectory { name, mode } => {
                let made = tree.make(node, name, mode, new_directory());
                respond(reply, made, |reply, made| reply.entry(&made))
            }
            Operation::Create { name, mode, flags: _ } => {
                let local = self.overlay.join(format!("{:x}", tree.next_node()));
                let made = tree.make(node, name, mode, Kind::File(File::local(local, 0)));
                respond(reply, made, |reply, made| reply.created(&made))
            }
            Operation::Unlink(name) => {
                let gone = tree.unlink(node, name);
                respond(reply, gone, |reply, gone| self.removed(reply, gone))
            }
            Operation::RemoveDirectory(name) => {
                respond(reply, tree.remove_directory(node, name), |reply, ()| reply.done())
            }
            Operation::Rename { flags, .. } if flags != NO_RENAME_FLAGS => {
                reply.error(Errno::Invalid)
            }
            Operation::Rename { name, new_parent, new_name, .. } => {
                let is_altered = new_parent == ROOT && new_name == ALTERED.as_bytes();
                let gone = tree.rename((node, name), (new_parent, new_name));
                drop(tree);
                let kept = if is_altered && gone.is_ok() { self.keep_altered() } else { Ok(()) };
                let gone = kept.and(gone);
                respond(reply, gone, |reply, gone| self.removed(reply, gone))
            }
            Operation::Open { flags } if flags & TRUNCATE != 0 => {
                drop(tree);
                let cut = self.resize(node, 0);
                respond(reply, cut, |reply, ()| reply.opened())
            }
            Operation::Open { .. } => {
                respond(reply, tree.file(node).map(drop), |reply, ()| reply.opened())
            }
            Operation::OpenDirectory => {
                let listing = tree.list(node);
                respond(reply, listing, |reply, listing| {
                    reply.opened_directory(self.listings.borrow_mut().open(listing))
                })
            }
            Operation::ReadDirectory { handle, offset, bytes } => {
                let listing = self.listings.borrow().open.get(&handle).cloned();
                match listing {
                    Some(listing) => reply.data(page_of(&listing, offset, bytes).bytes()),
                    None => reply.error(Errno::Stale),
                }
            }
            Operation::ReleaseDirectory { handle } => {
                self.listings.borrow_mut().open.remove(&handle);
                reply.done()
            }
            _ => reply.error(Errno::NotImplemented),
        }
    }

    /// ALTER SYSTEM has put its new file in place: it is kept before that is acknowledged.
    fn keep_altered(&self) -> Result<(), Errno> {
        let Some(kept) = &self.altered else { return Ok(()) };
        let local = self.local_file(ALTERED).ok_or(Errno::NoEntry)?;
        let copied = blocking::read(&local).and_then(|bytes| blocking::write_atomic(kept, &bytes));
        copied.map_err(|error| {
            tracing::error!(file = %kept.display(), %error, "what ALTER SYSTEM wrote is not kept");
            Errno::Io
        })
    }

    fn forget(&self, node: u64, lookups: u64) {
        let gone = self.tree.borrow_mut().forget(node, lookups);
        if let Some(gone) = gone {
            self.open_files.borrow_mut().close(node);
            remove_local(&gone);
        }
    }

    fn removed(&self, reply: Reply<'_>, gone: Option<PathBuf>) -> io::Result<()> {
        if let Some(gone) = gone {
            remove_local(&gone);
        }
        reply.done()
    }

    fn read(
        self: &Rc<FileSystem>,
        reply: Reply<'_>,
        node: u64,
        offset: u64,
        bytes: u32,
    ) -> io::Result<()> {
        let planned = self.tree.borrow().file(node).map(|file| {
            let range = file.range(offset, bytes.into());
            let missing = file.missing(&range);
            (range, missing)
        });
        let (range, missing) = match planned {
            Ok(planned) => planned,
            Err(error) => return reply.error(error),
        };
        let local = match self.read_local(node, &range) {
            Ok(local) => local,
            Err(error) => return reply.error(error),
        };
        if missing.is_empty() {
            return reply.data(&local);
        }
        self.later(reply, move |this, unique| async move {
            let filled = this.fill(local, range.start, &missing).await;
            let reply = Reply::new(&this.mount, unique);
            respond(reply, filled, |reply, data| reply.data(&data))
        })
    }

    /// The local bytes of a range; zeroes where there are none.
    fn read_local(&self, node: u64, range: &Range<u64>) -> Result<Vec<u8>, Errno> {
        let length =
            usize::try_from(range.end - range.start).map_err(|_too_long| Errno::Invalid)?;
        let mut data = vec![0; length];
        let tree = self.tree.borrow();
        let file = tree.file(node)?;
        if !file.has_local {
            return Ok(data);
        }
        let opened = self.open_files.borrow_mut().existing(node, &file.local);
        let Some(open) = opened.map_err(|error| local_error(&error))? else { return Ok(data) };
        let mut at = 0;
        while let Some(rest) = data.get_mut(at..).filter(|rest| !rest.is_empty()) {
            match open.read_at(rest, range.start + at as u64) {
                Ok(0) => break,
                Ok(read) => at += read,
                Err(error) => return Err(local_error(&error)),
            }
        }
        Ok(data)
    }

    /// Puts pages of the branch into `data`, which begins at `start` of the file.
    async fn fill(
        &self,
        mut data: Vec<u8>,
        start: u64,
        missing: &[Piece],
    ) -> Result<Vec<u8>, Errno> {
        for piece in missing {
            let Piece { tag, block, count, fork_blocks, offset } = *piece;
            let read = self.pages.read(tag, block, count, fork_blocks).await;
            let pages = read.map_err(|_refused| Errno::Io)?;
            for (offset, page) in (offset..).step_by(PAGE_BYTES).zip(pages) {
                put_page(&mut data, start, offset, &page);
            }
        }
        Ok(data)
    }

    fn write(
        self: &Rc<FileSystem>,
        reply: Reply<'_>,
        node: u64,
        offset: u64,
        data: &[u8],
    ) -> io::Result<()> {
        let range = offset..offset.saturating_add(data.len() as u64);
        let partly = self.tree.borrow().file(node).map(|file| file.partly_covered(&range));
        match partly {
            Err(error) => reply.error(error),
            Ok(partly) if partly.is_empty() => {
                let written = self.write_local(node, offset, data);
                respond(reply, written, |reply, bytes| reply.written(bytes))
            }
            Ok(partly) => {
                let data = data.to_vec();
                self.later(reply, move |this, unique| async move {
                    let written = match this.fill_blocks(node, &partly).await {
                        Ok(()) => this.write_local(node, offset, &data),
                        Err(error) => Err(error),
                    };
                    respond(Reply::new(&this.mount, unique), written, |reply, bytes| {
                        reply.written(bytes)
                    })
                })
            }
        }
    }

    fn write_local(&self, node: u64, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        self.take_room(data.len() as u64)?;
        let mut tree = self.tree.borrow_mut();
        let file = tree.file_mut(node)?;
        let made = self.open_files.borrow_mut().made(node, &file.local);
        let written = made.and_then(|open| open.write_all_at(data, offset));
        written.map_err(|error| local_error(&error))?;
        file.written(&(offset..offset + data.len() as u64));
        u32::try_from(data.len()).map_err(|_too_long| Errno::Invalid)
    }

    /// Refuses what the disk has no room for, while it still has some for WAL: a server that cannot write that stops.
    fn take_room(&self, bytes: u64) -> Result<(), Errno> {
        if self.room.get() < bytes {
            let free = blocking::free_bytes(&self.overlay).map_err(|error| local_error(&error))?;
            let room = free.saturating_sub(ROOM_FOR_WAL);
            if room < bytes {
                tracing::error!(free, overlay = %self.overlay.display(), "no room for what is written");
                return Err(Errno::NoSpace);
            }
            self.room.set((room / 2).clamp(bytes, ROOM_TAKEN_MAX.max(bytes)));
        }
        self.room.set(self.room.get() - bytes);
        Ok(())
    }

    /// Makes blocks of the branch local.
    async fn fill_blocks(&self, node: u64, blocks: &[Piece]) -> Result<(), Errno> {
        for piece in blocks {
            let page = self.fill(vec![0; PAGE_BYTES], piece.offset, &[*piece]).await?;
            // Another write may have been faster; what it wrote is newer than the branch.
            let range = piece.offset..piece.offset + PAGE_BYTES as u64;
            let still = self.tree.borrow().file(node)?.missing(&range).contains(piece);
            if still {
                let size = self.tree.borrow().file(node)?.size;
                self.write_local(node, piece.offset, &page)?;
                self.tree.borrow_mut().file_mut(node)?.size = size;
            }
        }
        Ok(())
    }

    fn set_attributes(
        self: &Rc<FileSystem>,
        reply: Reply<'_>,
        node: u64,
        set: SetAttributes,
    ) -> io::Result<()> {
        if let Some(permissions) = set.mode
            && let Err(error) = self.tree.borrow_mut().set_permissions(node, permissions)
        {
            return reply.error(error);
        }
        let Some(size) = set.size else {
            let now = self.tree.borrow().attributes(node);
            return respond(reply, now, |reply, now| reply.attributes(&now));
        };
        let cut = self.tree.borrow().file(node).map(|file| {
            if size < file.size { file.partly_covered(&(size..size)) } else { Vec::new() }
        });
        let cut = match cut {
            Ok(cut) => cut,
            Err(error) => return reply.error(error),
        };
        self.later(reply, move |this, unique| async move {
            let filled = this.fill_blocks(node, &cut).await;
            let resized = filled.and_then(|()| this.resize(node, size));
            let now = resized.and_then(|()| this.tree.borrow().attributes(node));
            respond(Reply::new(&this.mount, unique), now, |reply, now| reply.attributes(&now))
        })
    }

    /// Lengthens the file over a range, if it ends before it. Room on the disk is not set aside: what lacks it fails
    /// when it is written.
    fn allocate(&self, node: u64, offset: u64, bytes: u64, mode: u32) -> Result<(), Errno> {
        if mode & !KEEP_SIZE != 0 {
            return Err(Errno::NotSupported);
        }
        let end = offset.checked_add(bytes).ok_or(Errno::Invalid)?;
        let size = self.tree.borrow().file(node)?.size;
        if mode == 0 && end > size { self.resize(node, end) } else { Ok(()) }
    }

    fn resize(&self, node: u64, size: u64) -> Result<(), Errno> {
        let mut tree = self.tree.borrow_mut();
        let file = tree.file_mut(node)?;
        let opened = self.open_files.borrow_mut().existing(node, &file.local);
        let resized = opened.and_then(|open| match open {
            // Bytes beyond the new end must be gone when the file grows again.
            Some(open) if open.len()? > size => open.set_len(size),
            _ => Ok(()),
        });
        resized.map_err(|error| local_error(&error))?;
        file.resize(size);
        Ok(())
    }

    /// Answers in a task of its own.
    #[expect(clippy::unnecessary_wraps, reason = "stands where answers are sent")]
    fn later<F, A>(self: &Rc<FileSystem>, reply: Reply<'_>, answer: A) -> io::Result<()>
    where
        A: FnOnce(Rc<FileSystem>, u64) -> F + 'static,
        F: Future<Output = io::Result<()>> + 'static,
    {
        let (this, unique) = (Rc::clone(self), reply.postpone());
        executor::spawn_detached(async move {
            if let Err(error) = answer(this, unique).await {
                tracing::debug!(%error, "an answer was not taken");
            }
        });
        Ok(())
    }
}

impl Listings {
    fn open(&mut self, listing: Vec<Entry>) -> u64 {
        self.next += 1;
        self.open.insert(self.next, Rc::new(listing));
        self.next
    }
}

fn respond<T>(
    reply: Reply<'_>,
    outcome: Result<T, Errno>,
    answer: impl FnOnce(Reply<'_>, T) -> io::Result<()>,
) -> io::Result<()> {
    match outcome {
        Ok(value) => answer(reply, value),
        Err(error) => reply.error(error),
    }
}

fn answer_without_looking(reply: Reply<'_>, operation: &Operation<'_>) -> io::Result<()> {
    match operation {
        Operation::FileSystem => reply.file_system(),
        Operation::Other(_) => reply.error(Errno::NotImplemented),
        _ => reply.done(),
    }
}

/// Puts a page at `offset` of a file into `data`, which begins at `start` of it: a read need not begin or end with a page.
fn put_page(data: &mut [u8], start: u64, offset: u64, page: &[u8]) {
    let skipped = usize::try_from(start.saturating_sub(offset)).unwrap_or(usize::MAX);
    let at = usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX);
    let source = page.get(skipped..).unwrap_or_default();
    let target = data.get_mut(at..).unwrap_or_default();
    let length = source.len().min(target.len());
    if let (Some(target), Some(source)) = (target.get_mut(..length), source.get(..length)) {
        target.copy_from_slice(source);
    }
}

fn page_of(listing: &[Entry], offset: u64, bytes: u32) -> DirectoryPage {
    let mut page = DirectoryPage::new(bytes);
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    let rest = listing.get(from..).unwrap_or_default();
    for (next, entry) in (offset + 1..).zip(rest) {
        if !page.add(entry.node, next, entry.mode, &entry.name) {
            break;
        }
    }
    page
}

fn local_error(error: &io::Error) -> Errno {
    tracing::error!(%error, "a local file of the overlay failed");
    Errno::of(error)
}

/// Bytes that nobody can reach any more. A file that was never written has none.
fn remove_local(path: &std::path::Path) {
    match blocking::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "a local file stays behind");
        }
        _ => {}
    }
}
