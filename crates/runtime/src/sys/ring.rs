//! An io_uring whose memory is its own: whatever the kernel may read or write is held here until the
//! kernel says that it is done, so using the ring is safe.
//!
//! Invariants:
//! 1. Buffers of sends and file operations are in `held` from the push to the completion.
//! 2. Receive buffers are in `provided` until the kernel has used them.
//! 3. `outstanding` counts the requests that will still complete. Memory is freed only at zero; if the kernel does not
//!    get there, it is leaked.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::types::{CancelBuilder, Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, Probe, cqueue, opcode};
use rustix::event::PollFlags;
use rustix::io::{Errno, ReadWriteFlags};
use rustix::net::{SendFlags, SocketFlags};

use super::provided::Provided;
use crate::io::Id;
use crate::limits::{RING_COMPLETIONS, RING_SUBMISSIONS};

/// The group of our only buffer ring.
const GROUP: u16 = 0;

/// What a completion is for; the top four bits of its user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    Receive,
    Accept,
    Poll,
    Cancel,
    CancelReceive,
    Bell,
    /// With a number of `held`.
    Send,
    /// With a number of `held`.
    File,
}

const TAGS: [Tag; 8] = [
    Tag::Receive,
    Tag::Accept,
    Tag::Poll,
    Tag::Cancel,
    Tag::CancelReceive,
    Tag::Bell,
    Tag::Send,
    Tag::File,
];
const INDEX_BITS: u32 = 28;

/// What the kernel has done.
#[derive(Debug)]
pub(crate) enum Completion {
    /// Bytes in a buffer, or end of file (0 bytes, no buffer). `more`: the receive goes on by itself.
    Received {
        id: Id,
        result: Result<usize, Errno>,
        buffer: Option<Box<[u8]>>,
        more: bool,
    },
    Accepted {
        id: Id,
        result: Result<OwnedFd, Errno>,
        more: bool,
    },
    Polled {
        id: Id,
        more: bool,
    },
    /// `missed`: the one request asked for was not found.
    Cancelled {
        id: Id,
        missed: bool,
    },
    Rung {
        more: bool,
    },
    /// `sent`: bytes that were out before this request; the buffer comes back.
    Sent {
        id: Id,
        result: Result<usize, Errno>,
        bytes: Vec<u8>,
        sent: usize,
    },
    File {
        id: Id,
        result: Result<usize, Errno>,
        work: FileWork,
    },
}

/// A file operation and its memory.
#[derive(Debug)]
pub(crate) struct FileWork {
    pub(crate) file: Arc<File>,
    pub(crate) kind: FileKind,
    pub(crate) buffer: Vec<u8>,
    pub(crate) offset: u64,
    /// Bytes of `buffer` done by earlier requests.
    pub(crate) done: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Read,
    Write,
    /// What was written is durable when it is done (`RWF_DSYNC`).
    WriteThrough,
    /// The same in two steps, of which this is the first.
    WriteThenSync,
    /// The second: the buffer has been written.
    SyncWritten,
    Sync {
        data_only: bool,
    },
}

#[derive(Debug)]
enum Held {
    Free { next: usize },
    Send { id: Id, bytes: Vec<u8>, sent: usize },
    File { id: Id, work: FileWork },
}

/// How long to wait for a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Not,
    AtMost(Duration),
    ForEver,
}

pub(crate) struct Ring {
    /// Taken out only when dropped.
    io: Option<IoUring>,
    provided: Provided,
    held: Vec<Held>,
    free: usize,
    outstanding: usize,
    /// Requests for which the submission queue had no room.
    waiting: VecDeque<Entry>,
    flags: EnterFlags,
}

impl Ring {
    /// # Errors
    /// When the kernel can't, or may not, do what we use; the text says what.
    pub(crate) fn open(buffers: u16) -> io::Result<Self> {
        let io = IoUring::builder()
            .dontfork()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(RING_COMPLETIONS)
            .build(RING_SUBMISSIONS)?;
        check_opcodes(&io)?;
        let provided = Provided::new(buffers)?;
        // SAFETY: the mapping has this many entries and is freed only after the ring is closed (see `drop`).
        unsafe {
            io.submitter().register_buf_ring_with_flags(
                provided.address(),
                provided.count(),
                GROUP,
                0,
            )
        }?;
        let mut flags = EnterFlags::GETEVENTS;
        flags.set(EnterFlags::NO_IOWAIT, io.params().is_feature_no_iowait());
        let (held, waiting) = (Vec::new(), VecDeque::new());
        Ok(Self { io: Some(io), provided, held, free: NONE, outstanding: 0, waiting, flags })
    }

    /// Receive buffers that the kernel has.
    pub(crate) fn buffers_available(&self) -> usize {
        self.provided.available()
    }

    /// Gives the kernel a receive buffer; back if it has enough. To be followed by [`publish`](Self::publish).
    pub(crate) fn lend(&mut self, buffer: Box<[u8]>) -> Result<(), Box<[u8]>> {
        self.provided.lend(buffer)
    }

    pub(crate) fn publish(&self) {
        self.provided.publish();
    }

    /// Receives into lent buffers until cancelled, out of buffers, or at the end.
    pub(crate) fn receive(&mut self, id: Id, socket: BorrowedFd<'_>) {
        let entry = opcode::RecvMulti::new(fd(socket), GROUP).build();
        self.push(entry.user_data(for_slot(Tag::Receive, id)));
    }

    /// Accepts until cancelled or failing.
    pub(crate) fn accept(&mut self, id: Id, listener: BorrowedFd<'_>) {
        let flags = SocketFlags::CLOEXEC.bits().cast_signed();
        let entry = opcode::AcceptMulti::new(fd(listener)).flags(flags).build();
        self.push(entry.user_data(for_slot(Tag::Accept, id)));
    }

    /// Reports once that there is something to read, or (`writable`) room to write.
    pub(crate) fn poll(&mut self, id: Id, descriptor: BorrowedFd<'_>, writable: bool) {
        let events = if writable { PollFlags::OUT } else { PollFlags::IN };
        let entry = opcode::PollAdd::new(fd(descriptor), events.bits().into()).build();
        self.push(entry.user_data(for_slot(Tag::Poll, id)));
    }

    /// Reports each ring of the bell.
    pub(crate) fn watch_bell(&mut self, bell: BorrowedFd<'_>) {
        let entry = opcode::PollAdd::new(fd(bell), PollFlags::IN.bits().into()).multi(true).build();
        self.push(entry.user_data(user_data(Tag::Bell, 0)));
    }

    /// Cancels the receive of an entry. The kernel looks it up by its number, where for
    /// [`cancel_all`](Self::cancel_all) it walks every request of the ring.
    pub(crate) fn cancel_receive(&mut self, id: Id) {
        let entry = opcode::AsyncCancel::new(for_slot(Tag::Receive, id)).build();
        self.push(entry.user_data(for_slot(Tag::CancelReceive, id)));
    }

    /// Cancels every request on the descriptor, which must stay open until this is reported.
    pub(crate) fn cancel_all(&mut self, id: Id, descriptor: BorrowedFd<'_>) {
        let entry = opcode::AsyncCancel2::new(CancelBuilder::fd(fd(descriptor)).all()).build();
        self.push(entry.user_data(for_slot(Tag::Cancel, id)));
    }

    /// Cancels the poll of an entry.
    pub(crate) fn cancel_poll(&mut self, id: Id) {
        let entry = opcode::AsyncCancel::new(for_slot(Tag::Poll, id)).build();
        self.push(entry.user_data(for_slot(Tag::Cancel, id)));
    }

    /// Sends `bytes` from position `sent` on.
    pub(crate) fn send(&mut self, id: Id, socket: BorrowedFd<'_>, bytes: Vec<u8>, sent: usize) {
        let rest = &bytes[sent..];
        let length = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        let flags = (SendFlags::NOSIGNAL.bits() | MSG_WAITALL).cast_signed();
        let entry = opcode::Send::new(fd(socket), rest.as_ptr(), length).flags(flags).build();
        let number = self.hold(Held::Send { id, bytes, sent });
        self.push(entry.user_data(user_data(Tag::Send, number as u64)));
    }

    /// Does a file operation, or goes on with it.
    pub(crate) fn file(&mut self, id: Id, mut work: FileWork) {
        let descriptor = Fd(work.file.as_raw_fd());
        let offset = work.offset + work.done as u64;
        let rest = &mut work.buffer[work.done..];
        let length = u32::try_from(rest.len()).unwrap_or(FILE_BYTES_MAX).min(FILE_BYTES_MAX);
        let entry = match work.kind {
            FileKind::Read => {
                opcode::Read::new(descriptor, rest.as_mut_ptr(), length).offset(offset).build()
            }
            FileKind::Write | FileKind::WriteThenSync => {
                opcode::Write::new(descriptor, rest.as_ptr(), length).offset(offset).build()
            }
            FileKind::WriteThrough => opcode::Write::new(descriptor, rest.as_ptr(), length)
                .offset(offset)
                .rw_flags(ReadWriteFlags::DSYNC.bits().cast_signed())
                .build(),
            FileKind::SyncWritten | FileKind::Sync { data_only: true } => {
                opcode::Fsync::new(descriptor).flags(FsyncFlags::DATASYNC).build()
            }
            FileKind::Sync { data_only: false } => opcode::Fsync::new(descriptor).build(),
        };
        let number = self.hold(Held::File { id, work });
        self.push(entry.user_data(user_data(Tag::File, number as u64)));
    }

    /// Submits what was pushed and waits for completions.
    pub(crate) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        self.push_waiting();
        let Some(io) = &mut self.io else { return Ok(()) };
        let queue = io.submission();
        let (submit, quiet) = (queue.len(), !queue.taskrun() && !queue.cq_overflow());
        drop(queue);
        if wait == Wait::Not && submit == 0 && quiet {
            return Ok(());
        }
        let submit = u32::try_from(submit).unwrap_or(u32::MAX);
        let (io, flags) = (io.submitter(), self.flags);
        let result = match wait {
            // SAFETY: the queued entries point to memory held here until they complete; no argument.
            Wait::Not => unsafe { io.enter::<u64>(submit, 0, flags.bits(), None) },
            // SAFETY: as above.
            Wait::ForEver => unsafe { io.enter::<u64>(submit, 1, flags.bits(), None) },
            Wait::AtMost(duration) => {
                let time = Timespec::from(duration);
                let arguments = SubmitArgs::new().timespec(&time);
                let flags = flags | EnterFlags::EXT_ARG;
                // SAFETY: as above; the argument is what EXT_ARG asks for, and `time` outlives the call.
                unsafe { io.enter(submit, 1, flags.bits(), Some(&arguments)) }
            }
        };
        match result.map_err(|error| (Errno::from_io_error(&error), error)) {
            Ok(_) | Err((Some(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN), _)) => {
                Ok(())
            }
            Err((_, error)) => Err(error),
        }
    }

    /// Submits what was pushed, now.
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        self.enter(Wait::Not)
    }

    /// Appends what has completed.
    pub(crate) fn completions(&mut self, found: &mut Vec<Completion>) {
        let Some(mut io) = self.io.take() else { return };
        for entry in io.completion() {
            found.extend(self.understand(&entry));
        }
        self.io = Some(io);
    }

    fn understand(&mut self, entry: &cqueue::Entry) -> Option<Completion> {
        let more = cqueue::more(entry.flags());
        if !more {
            self.outstanding -= 1;
        }
        let data = entry.user_data();
        let tag = *TAGS.get(usize::try_from(data >> 60).ok()?)?;
        let result = match usize::try_from(entry.result()) {
            Ok(count) => Ok(count),
            Err(_negative) => Err(Errno::from_raw_os_error(-entry.result())),
        };
        let id = slot_of(data);
        Some(match tag {
            Tag::Receive => {
                let buffer = cqueue::buffer_select(entry.flags())
                    .and_then(|number| self.provided.take(number));
                Completion::Received { id, result, buffer, more }
            }
            Tag::Accept => {
                // SAFETY: a successful accept's result is a new descriptor that nobody else owns.
                let accepted = result.map(|_| unsafe { OwnedFd::from_raw_fd(entry.result()) });
                Completion::Accepted { id, result: accepted, more }
            }
            Tag::Poll => Completion::Polled { id, more },
            Tag::Cancel => Completion::Cancelled { id, missed: false },
            Tag::CancelReceive => Completion::Cancelled { id, missed: result.is_err() },
            Tag::Bell => Completion::Rung { more },
            Tag::Send | Tag::File => match self.release(data)? {
                Held::Send { id, bytes, sent } => Completion::Sent { id, result, bytes, sent },
                Held::File { id, work } => Completion::File { id, result, work },
                Held::Free { .. } => return None,
            },
        })
    }

    fn hold(&mut self, what: Held) -> usize {
        if self.free == NONE {
            self.held.push(what);
            return self.held.len() - 1;
        }
        let number = self.free;
        if let Held::Free { next } = std::mem::replace(&mut self.held[number], what) {
            self.free = next;
        }
        number
    }

    fn release(&mut self, data: u64) -> Option<Held> {
        let number = usize::try_from(data & ((1 << 60) - 1)).ok()?;
        let place = self.held.get_mut(number)?;
        let held = std::mem::replace(place, Held::Free { next: self.free });
        self.free = number;
        Some(held)
    }

    fn push(&mut self, entry: Entry) {
        self.outstanding += 1;
        if !self.waiting.is_empty() || !self.try_push(&entry) {
            self.waiting.push_back(entry);
            self.push_waiting();
        }
    }

    fn try_push(&mut self, entry: &Entry) -> bool {
        let Some(io) = &mut self.io else { return false };
        // SAFETY: every builder above puts the memory its entry points to into `held` or `provided`.
        unsafe { io.submission().push(entry) }.is_ok()
    }

    /// Makes room by submitting, as long as that helps.
    fn push_waiting(&mut self) {
        while let Some(entry) = self.waiting.pop_front() {
            if self.try_push(&entry) {
                continue;
            }
            let submitted =
                self.io.as_ref().is_some_and(|io| io.submit().is_ok_and(|count| count > 0));
            self.waiting.push_front(entry);
            if !submitted {
                break; // the next turn reaps completions first
            }
        }
    }

    /// Waits until the kernel holds none of our memory; false when it does not get there.
    fn quiesce(&mut self) -> bool {
        let cancel = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
        let mut completions = Vec::new();
        let mut rounds_without_progress = 0;
        while self.outstanding > 0 && rounds_without_progress < QUIESCE_ROUNDS {
            // Owners have cancelled what was theirs. Cancelling "any" walks all requests for each one it
            // finds, so it is for the few that are left.
            if rounds_without_progress > 0 {
                self.push(cancel.clone().user_data(user_data(Tag::Cancel, 0)));
            }
            let before = self.outstanding;
            if self.enter(Wait::AtMost(Duration::from_millis(20))).is_err() {
                return false;
            }
            self.completions(&mut completions);
            completions.clear();
            let progress = self.outstanding < before;
            rounds_without_progress = if progress { 0 } else { rounds_without_progress + 1 };
        }
        self.outstanding == 0
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let quiet = self.quiesce();
        drop(self.io.take());
        if quiet {
            self.provided.free();
        } else {
            // The kernel may still write there: better a leak at the end of a core than a stray write.
            Box::leak(Box::new(std::mem::take(&mut self.held)));
        }
    }
}

const NONE: usize = usize::MAX;
/// About five seconds in all; only a hung device keeps a file operation longer.
const QUIESCE_ROUNDS: usize = 250;
/// The kernel's own limit of one read or write, `MAX_RW_COUNT`, is just below 2 GiB.
const FILE_BYTES_MAX: u32 = 1 << 30;
/// `MSG_WAITALL`: the kernel goes on with a partial send by itself.
const MSG_WAITALL: u32 = 0x100;

fn fd(descriptor: BorrowedFd<'_>) -> Fd {
    Fd(descriptor.as_raw_fd())
}

fn user_data(tag: Tag, payload: u64) -> u64 {
    (tag as u64) << 60 | payload
}

fn for_slot(tag: Tag, id: Id) -> u64 {
    user_data(tag, u64::from(id.generation) << INDEX_BITS | u64::from(id.index))
}

#[expect(clippy::cast_possible_truncation, reason = "the fields are cut out of the word")]
fn slot_of(data: u64) -> Id {
    Id { index: data as u32 & ((1 << INDEX_BITS) - 1), generation: (data >> INDEX_BITS) as u32 }
}

fn check_opcodes(io: &IoUring) -> io::Result<()> {
    let mut probe = Probe::new();
    io.submitter().register_probe(&mut probe)?;
    let wanted = [
        ("recv", opcode::RecvMulti::CODE),
        ("send", opcode::Send::CODE),
        ("accept", opcode::AcceptMulti::CODE),
        ("poll", opcode::PollAdd::CODE),
        ("cancel", opcode::AsyncCancel2::CODE),
        ("read", opcode::Read::CODE),
        ("write", opcode::Write::CODE),
        ("fsync", opcode::Fsync::CODE),
    ];
    match wanted.iter().find(|(_, code)| !probe.is_supported(*code)) {
        Some((name, _)) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("the kernel's io_uring lacks {name}"),
        )),
        None => Ok(()),
    }
}
