//! A process that is not our child: what an earlier run of ours left behind.

use std::io;

use crate::signal::Signal;

/// A running process by a handle that never comes to mean another one, though its number may. Linux only: elsewhere
/// there is no such handle, and making one fails.
#[derive(Debug)]
pub struct Stranger {
    #[cfg(target_os = "linux")]
    pidfd: crate::io::Readiness,
    #[cfg(not(target_os = "linux"))]
    none: std::convert::Infallible,
}

#[cfg(target_os = "linux")]
mod linux {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::io::Errno;
    use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
    use std::os::fd::AsFd;

    use super::{Signal, Stranger, io};
    use crate::io::Readiness;

    impl Stranger {
        /// The process of this number; `None` if there is none. Whether it is the one that is meant can be looked at
        /// after this, in `/proc`.
        ///
        /// # Errors
        /// When the kernel has no such handles.
        pub fn with_pid(pid: u32) -> io::Result<Option<Self>> {
            let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
                return Ok(None);
            };
            match pidfd_open(pid, PidfdFlags::NONBLOCK) {
                Ok(pidfd) => Ok(Some(Self { pidfd: Readiness::new(pidfd)? })),
                Err(Errno::SRCH) => Ok(None),
                Err(error) => Err(error.into()),
            }
        }

        /// Sends a signal. Nothing happens when it has ended.
        ///
        /// # Errors
        /// When we may not.
        pub fn signal(&self, signal: Signal) -> io::Result<()> {
            match pidfd_send_signal(self.pidfd.as_fd(), signal.for_kernel()) {
                Ok(()) | Err(Errno::SRCH) => Ok(()),
                Err(error) => Err(error.into()),
            }
        }

        /// Waits for its end. Cancel-safe.
        ///
        /// # Errors
        /// Of the driver.
        pub async fn end(&self) -> io::Result<()> {
            loop {
                let mut ended = [PollFd::new(&self.pidfd, PollFlags::IN)];
                if poll(&mut ended, Some(&Timespec::default()))? > 0 {
                    return Ok(());
                }
                self.pidfd.readable().await?;
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Stranger {
    /// Always fails.
    ///
    /// # Errors
    /// There are no such handles.
    pub fn with_pid(_pid: u32) -> io::Result<Option<Self>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Nobody can come here.
    ///
    /// # Errors
    /// None.
    pub fn signal(&self, _signal: Signal) -> io::Result<()> {
        match self.none {}
    }

    /// Nobody can come here.
    ///
    /// # Errors
    /// None.
    pub async fn end(&self) -> io::Result<()> {
        match self.none {}
    }
}
