//! Which processors a thread may run on.
//!
//! Threads and child processes inherit the mask of the thread that makes them, so whatever is made by a pinned core
//! and is no core itself must be let go again.

use std::io;

#[cfg(target_os = "linux")]
pub(crate) use linux::{allowed, inherited, pin, release};

#[cfg(target_os = "linux")]
mod linux {
    use std::sync::OnceLock;

    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    use super::io;

    /// The mask the process was started with, noted before the first thread is pinned.
    static INHERITED: OnceLock<CpuSet> = OnceLock::new();

    /// The processors this process may use, ascending.
    pub(crate) fn allowed() -> io::Result<Vec<usize>> {
        let mask = inherited_or_now()?;
        Ok((0..CpuSet::MAX_CPU).filter(|cpu| mask.is_set(*cpu)).collect())
    }

    fn inherited_or_now() -> io::Result<CpuSet> {
        match INHERITED.get() {
            Some(mask) => Ok(*mask),
            None => Ok(sched_getaffinity(None)?),
        }
    }

    /// Binds the calling thread to one processor.
    pub(crate) fn pin(cpu: usize) -> io::Result<()> {
        let before = sched_getaffinity(None)?;
        INHERITED.get_or_init(|| before);
        if cpu >= CpuSet::MAX_CPU {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no such processor"));
        }
        let mut mask = CpuSet::new();
        mask.set(cpu);
        Ok(sched_setaffinity(None, &mask)?)
    }

    /// The mask to give to a child process; `None` when nothing was ever pinned.
    pub(crate) fn inherited() -> Option<CpuSet> {
        INHERITED.get().copied()
    }

    /// Lets the calling thread run anywhere again. Not being able to costs only speed.
    pub(crate) fn release() {
        if let Some(mask) = INHERITED.get() {
            sched_setaffinity(None, mask).ok();
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) use elsewhere::{allowed, pin, release};

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use super::io;

    pub(crate) fn allowed() -> io::Result<Vec<usize>> {
        Ok((0..std::thread::available_parallelism()?.get()).collect())
    }

    pub(crate) fn pin(_cpu: usize) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this system cannot pin threads"))
    }

    pub(crate) fn release() {}
}
