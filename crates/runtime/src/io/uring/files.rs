//! File operations on the ring: reading, writing, syncing. The rest is left to a thread.

use std::fs::File;
use std::io;
use std::task::{Context, Poll, Waker};

use rustix::io::Errno;

use crate::fs::{Handle, Lasting, Operation, Outcome};
use crate::io::{FileToken, Id};
use crate::sys::ring::{FileKind, FileWork, Ring};

/// The operations somebody waits for.
#[derive(Default)]
pub(super) struct Files {
    places: Vec<Place>,
    free: Vec<u32>,
}

struct Place {
    /// An operation that nobody waits for any more reports to a generation that is gone.
    generation: u32,
    state: State,
}

enum State {
    Free,
    Running(Option<Waker>),
    Done(io::Result<Outcome>),
}

impl Files {
    pub(super) fn begin(
        &mut self,
        ring: &mut Ring,
        operation: Operation,
    ) -> Result<FileToken, Operation> {
        let (file, kind, buffer, offset) = match operation {
            Operation::ReadAt { file: Handle::System(file), buffer, offset } => {
                (file, FileKind::Read, buffer, offset)
            }
            Operation::WriteAllAt { file: Handle::System(file), buffer, offset, lasting } => {
                let kind = match lasting {
                    Lasting::No => FileKind::Write,
                    Lasting::Yes if syncs_as_it_writes(&file) => FileKind::WriteThrough,
                    Lasting::Yes => FileKind::WriteThenSync,
                };
                (file, kind, buffer, offset)
            }
            Operation::Sync { file: Handle::System(file), data_only } => {
                (file, FileKind::Sync { data_only }, Vec::new(), 0)
            }
            other => return Err(other),
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, state: State::Free });
            u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
        });
        let place = &mut self.places[index as usize];
        place.state = State::Running(None);
        let id = Id { index, generation: place.generation };
        ring.file(id, FileWork { file, kind, buffer, offset, done: 0 });
        Ok(FileToken(id.pack()))
    }

    pub(super) fn completed(
        &mut self,
        ring: &mut Ring,
        id: Id,
        result: Result<usize, Errno>,
        mut work: FileWork,
    ) {
        let writing =
            matches!(work.kind, FileKind::Write | FileKind::WriteThrough | FileKind::WriteThenSync);
        let result = match result {
            Err(Errno::INTR | Errno::AGAIN) => return ring.file(id, work),
            Ok(0) if writing && work.done < work.buffer.len() => Err(Errno::NOSPC),
            Ok(count) => {
                work.done += count;
                if writing && work.done < work.buffer.len() {
                    return ring.file(id, work);
                }
                if work.kind == FileKind::WriteThenSync {
                    work.kind = FileKind::SyncWritten;
                    return ring.file(id, work);
                }
                Ok(work.done)
            }
            Err(error) => Err(error),
        };
        let Some(place) = self.place(id) else { return };
        let outcome = match (work.kind, result) {
            (FileKind::Sync { .. }, Ok(_)) => Ok(Outcome::Done),
            (FileKind::Sync { .. }, Err(error)) => Err(error.into()),
            (_, result) => Ok(Outcome::Moved(result.map_err(io::Error::from), work.buffer)),
        };
        let before = std::mem::replace(&mut place.state, State::Done(outcome));
        if let State::Running(Some(waker)) = before {
            waker.wake();
        }
    }

    pub(super) fn poll(
        &mut self,
        token: FileToken,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Outcome>> {
        let id = Id::unpack(token.0);
        let Some(place) = self.place(id) else {
            return Poll::Ready(Err(io::ErrorKind::NotFound.into()));
        };
        match std::mem::replace(&mut place.state, State::Free) {
            State::Done(outcome) => {
                self.vacate(id);
                Poll::Ready(outcome)
            }
            _ => {
                place.state = State::Running(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }

    pub(super) fn abandon(&mut self, token: FileToken) {
        let id = Id::unpack(token.0);
        if self.place(id).is_some() {
            self.vacate(id);
        }
    }

    fn place(&mut self, id: Id) -> Option<&mut Place> {
        let place = self.places.get_mut(id.index as usize)?;
        (place.generation == id.generation).then_some(place)
    }

    fn vacate(&mut self, id: Id) {
        let place = &mut self.places[id.index as usize];
        place.generation = place.generation.wrapping_add(1);
        place.state = State::Free;
        self.free.push(id.index);
    }
}

/// Whether a write is known to be durable when the file system reports it with `RWF_DSYNC`. The kernel leaves that to each
/// of them, and some pass it on to a server that need not care (FUSE, and with it virtiofs): only a sync will do there.
/// To ask costs a microsecond, where a second operation costs two wake-ups.
fn syncs_as_it_writes(file: &File) -> bool {
    let found = rustix::fs::fstatfs(file).map(|found| i128::from(found.f_type));
    found.is_ok_and(|kind| SYNC_AS_THEY_WRITE.contains(&kind))
}

/// ext2 to ext4, XFS and Btrfs, by `f_type` of statfs(2): they end such a write as fdatasync(2) does.
const SYNC_AS_THEY_WRITE: [i128; 3] = [0xEF53, 0x5846_5342, 0x9123_683E];
