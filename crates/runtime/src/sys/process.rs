//! What a child process does between fork and exec.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::signal::Signal;

/// Has the child leave our session and our pinning, and die with the thread that started it, as asked.
pub(crate) fn before_exec(command: &mut Command, new_session: bool, death_signal: Option<Signal>) {
    #[cfg(target_os = "linux")]
    let affinity = crate::nodepool::inherited_affinity();
    #[cfg(target_os = "linux")]
    let parent = rustix::process::getpid();
    let death_signal = death_signal.map(Signal::for_kernel);
    let prepare = move || -> io::Result<()> {
        if new_session {
            rustix::process::setsid()?;
        }
        #[cfg(target_os = "linux")]
        {
            if let Some(affinity) = &affinity {
                // Being slower is better than not being.
                rustix::thread::sched_setaffinity(None, affinity).ok();
            }
            if death_signal.is_some() {
                rustix::process::set_parent_process_death_signal(death_signal)?;
                // The parent may have died before the kernel was told.
                if rustix::process::getppid() != Some(parent) {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _not_here = death_signal;
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe things may happen. `prepare` makes plain system calls
    // (setsid, sched_setaffinity, prctl, getppid) on values it owns; it allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(prepare);
    }
}
