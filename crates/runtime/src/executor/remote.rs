//! Wakes from other threads. Each core has one bit per task slot, which anybody may set; the core
//! collects them at the beginning of a turn. A bell (eventfd, or a pipe) rings a core that sleeps in the kernel.
//!
//! Invariants:
//! 1. Bounded by construction: a wake is a bit, and waking twice sets it twice.
//! 2. Order of writing: bit, page summary, core summary, `any`, then `parked` is read. The core writes `parked`,
//!    then reads `any`. So either the core sees the wake before it sleeps or the waker sees it sleeping.
//! 3. At most one ring per sleep: whoever takes `parked` down rings.
//! 4. Cores' entries are static and reused. A waker that outlives its core wakes some task of a later one
//!    for nothing, at worst.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::limits::{CORES_MAX, TASKS_MAX};

/// No core.
pub(super) const NONE: u32 = u32::MAX;

const PAGE_TASKS: usize = 64 * 64;
const PAGES: usize = TASKS_MAX as usize / PAGE_TASKS;
const _: () = assert!(PAGES.is_multiple_of(64) && TASKS_MAX <= 1 << 24 && CORES_MAX <= 256);

static CORES: [Remote; CORES_MAX] = [const { Remote::new() }; CORES_MAX];

struct Remote {
    claimed: AtomicBool,
    /// The core sleeps in the kernel, or is about to.
    parked: AtomicBool,
    /// Some bit is set.
    any: AtomicBool,
    /// Which pages have bits.
    summary: [AtomicU64; PAGES / 64],
    pages: [OnceLock<Box<Page>>; PAGES],
    /// Made with the first core of this entry and kept for later ones.
    bell: OnceLock<Bell>,
}

struct Page {
    /// Which words have bits.
    summary: AtomicU64,
    words: [AtomicU64; 64],
}

/// A descriptor that becomes readable when written to. One descriptor where the system has eventfd.
pub(crate) struct Bell {
    reader: OwnedFd,
    writer: Option<OwnedFd>,
}

impl Bell {
    #[cfg(target_os = "linux")]
    pub(crate) fn new() -> io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        let reader = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { reader, writer: None })
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn new() -> io::Result<Self> {
        let (reader, writer) = rustix::pipe::pipe()?;
        for end in [&reader, &writer] {
            rustix::io::ioctl_fionbio(end, true)?;
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
        }
        Ok(Self { reader, writer: Some(writer) })
    }

    fn ring(&self) {
        // A full counter or pipe is readable already, which is all that is wanted.
        let _full =
            rustix::io::write(self.writer.as_ref().unwrap_or(&self.reader), &1u64.to_ne_bytes());
    }

    /// Takes the rings off, so that a level-triggered look is quiet again.
    pub(crate) fn hush(&self) {
        let mut rings = [0; 64];
        let _empty = rustix::io::read(&self.reader, &mut rings);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

/// Takes an entry for a new core.
pub(super) fn claim() -> io::Result<(u32, &'static Bell)> {
    let free = |core: &Remote| !core.claimed.swap(true, Ordering::AcqRel);
    let index = CORES.iter().position(free).ok_or_else(|| io::Error::other("too many cores"))?;
    let bell = match CORES[index].bell.get() {
        Some(bell) => bell,
        None => {
            let made = Bell::new()
                .inspect_err(|_| CORES[index].claimed.store(false, Ordering::Release))?;
            CORES[index].bell.get_or_init(|| made)
        }
    };
    bell.hush();
    Ok((u32::try_from(index).unwrap_or(NONE), bell))
}

/// The core is gone.
pub(super) fn release(core: u32) {
    if let Some(core) = CORES.get(core as usize) {
        core.claimed.store(false, Ordering::Release);
    }
}

/// Wakes task slot `index` of `core`.
pub(super) fn wake(core: u32, index: u32) {
    if let Some(core) = CORES.get(core as usize) {
        core.wake(index as usize);
    }
}

/// Says that the core goes to sleep; false, and it must not, when it has been woken already.
pub(super) fn park(core: u32) -> bool {
    CORES.get(core as usize).is_some_and(Remote::park)
}

pub(super) fn unpark(core: u32) {
    if let Some(core) = CORES.get(core as usize) {
        core.parked.store(false, Ordering::SeqCst);
    }
}

/// Takes all wakes of `core`, calling `found` with each slot.
pub(super) fn collect(core: u32, found: impl FnMut(u32)) {
    if let Some(core) = CORES.get(core as usize) {
        core.collect(found);
    }
}

impl Remote {
    const fn new() -> Self {
        Self {
            claimed: AtomicBool::new(false),
            parked: AtomicBool::new(false),
            any: AtomicBool::new(false),
            summary: [const { AtomicU64::new(0) }; PAGES / 64],
            pages: [const { OnceLock::new() }; PAGES],
            bell: OnceLock::new(),
        }
    }

    fn wake(&self, index: usize) {
        let (number, within) = (index / PAGE_TASKS, index % PAGE_TASKS);
        let Some(page) = self.pages.get(number) else { return };
        let page = page.get_or_init(|| Box::new(Page::new()));
        if page.words[within / 64].fetch_or(1 << (within % 64), Ordering::AcqRel) >> (within % 64)
            & 1
            == 1
        {
            return; // whoever set it does the rest
        }
        page.summary.fetch_or(1 << (within / 64), Ordering::AcqRel);
        self.summary[number / 64].fetch_or(1 << (number % 64), Ordering::AcqRel);
        self.any.store(true, Ordering::SeqCst);
        if self.parked.swap(false, Ordering::SeqCst)
            && let Some(bell) = self.bell.get()
        {
            bell.ring();
        }
    }

    fn park(&self) -> bool {
        self.parked.store(true, Ordering::SeqCst);
        let woken = self.any.load(Ordering::SeqCst);
        if woken {
            self.parked.store(false, Ordering::SeqCst);
        }
        !woken
    }

    fn collect(&self, mut found: impl FnMut(u32)) {
        if !self.any.load(Ordering::Relaxed) || !self.any.swap(false, Ordering::SeqCst) {
            return;
        }
        for (group, pages) in self.summary.iter().enumerate() {
            for number in bits(pages.swap(0, Ordering::AcqRel)) {
                let number = group * 64 + number;
                let Some(page) = self.pages[number].get() else { continue };
                for word in bits(page.summary.swap(0, Ordering::AcqRel)) {
                    for bit in bits(page.words[word].swap(0, Ordering::AcqRel)) {
                        found(u32::try_from(number * PAGE_TASKS + word * 64 + bit).unwrap_or(NONE));
                    }
                }
            }
        }
    }
}

impl Page {
    fn new() -> Self {
        Self { summary: AtomicU64::new(0), words: [const { AtomicU64::new(0) }; 64] }
    }
}

/// The positions of the bits set.
fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = (word != 0).then(|| word.trailing_zeros() as usize)?;
        word &= word - 1;
        Some(lowest)
    })
}
