//! Process signals as a queue of values.
//!
//! The handler (signal-hook's) writes a byte into a socket of its signal; a task of this core reads it. Signals of one
//! kind that arrive together may count as one, as the kernel counts them.

use std::fmt;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use signal_hook::SigId;
use signal_hook::consts;
use signal_hook::low_level::{pipe, unregister};

use crate::executor::{JoinHandle, spawn};
use crate::io::Readiness;
use crate::limits::SIGNALS_QUEUED_MAX;
use crate::mailbox::{self, Receiver, Sender};

/// The signals this process and its children use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// SIGHUP: read the configuration again.
    Hangup,
    /// SIGINT: stop now. To PostgreSQL: fast shutdown.
    Interrupt,
    /// SIGTERM: finish what is under way, then stop. To PostgreSQL: smart shutdown.
    Terminate,
    /// SIGQUIT. To PostgreSQL: immediate shutdown.
    Quit,
    /// SIGKILL, to be sent only.
    Kill,
    /// SIGUSR1.
    User1,
    /// SIGUSR2.
    User2,
}

impl Signal {
    fn number(self) -> i32 {
        match self {
            Self::Hangup => consts::SIGHUP,
            Self::Interrupt => consts::SIGINT,
            Self::Terminate => consts::SIGTERM,
            Self::Quit => consts::SIGQUIT,
            Self::Kill => consts::SIGKILL,
            Self::User1 => consts::SIGUSR1,
            Self::User2 => consts::SIGUSR2,
        }
    }

    pub(crate) fn for_kernel(self) -> rustix::process::Signal {
        use rustix::process::Signal as Kernel;
        match self {
            Self::Hangup => Kernel::HUP,
            Self::Interrupt => Kernel::INT,
            Self::Terminate => Kernel::TERM,
            Self::Quit => Kernel::QUIT,
            Self::Kill => Kernel::KILL,
            Self::User1 => Kernel::USR1,
            Self::User2 => Kernel::USR2,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hangup => "SIGHUP",
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::Quit => "SIGQUIT",
            Self::Kill => "SIGKILL",
            Self::User1 => "SIGUSR1",
            Self::User2 => "SIGUSR2",
        })
    }
}

/// The signals of some kinds that this process receives, from when this is made until it is dropped. After that they are
/// ignored: the default action does not come back.
#[derive(Debug)]
pub struct Signals {
    received: Receiver<Signal>,
    registered: Vec<SigId>,
    readers: Vec<JoinHandle<()>>,
}

impl Signals {
    /// Takes over the handling of `signals` for the process.
    ///
    /// # Errors
    /// When a handler cannot be installed (SIGKILL) or descriptors have run out.
    pub fn new(signals: &[Signal]) -> io::Result<Self> {
        let (sender, received) = mailbox::channel(SIGNALS_QUEUED_MAX);
        let mut this = Self { received, registered: Vec::new(), readers: Vec::new() };
        for signal in signals {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            let readiness = Readiness::new(OwnedFd::from(read.try_clone()?))?;
            if *signal == Signal::Kill {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "SIGKILL has no handler"));
            }
            this.registered.push(pipe::register(signal.number(), write)?);
            this.readers.push(spawn(forward(*signal, read, readiness, sender.clone())));
        }
        Ok(this)
    }

    /// The next signal. Cancel-safe.
    pub async fn next(&mut self) -> Signal {
        match self.received.recv().await {
            Some(signal) => signal,
            // The readers ended with an error, which they logged.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            unregister(id);
        }
        for reader in &self.readers {
            reader.abort();
        }
    }
}

async fn forward(
    signal: Signal,
    mut socket: UnixStream,
    readiness: Readiness,
    received: Sender<Signal>,
) {
    let mut bytes = [0; 16];
    loop {
        match socket.read(&mut bytes) {
            Ok(0) => return,
            // A full queue holds enough of them to act on.
            Ok(count) => (0..count).for_each(|_| drop(received.try_send(signal))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if let Err(error) = readiness.readable().await {
                    tracing::error!(target: "runtime", %signal, %error, "signals are no longer seen");
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::error!(target: "runtime", %signal, %error, "signals are no longer seen");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::block_on;
    use crate::io::Options;

    #[test]
    fn signals_arrive_as_values() {
        block_on(&Options::default(), async {
            let mut signals = Signals::new(&[Signal::User1, Signal::User2]).unwrap();
            for signal in [Signal::User2, Signal::User1, Signal::User1] {
                signal_hook::low_level::raise(signal.number()).unwrap();
                assert_eq!(signals.next().await, signal);
            }
        })
        .unwrap();
    }

    #[test]
    fn some_signals_cannot_be_taken_over() {
        block_on(&Options::default(), async {
            assert!(Signals::new(&[Signal::Kill]).is_err());
        })
        .unwrap();
    }
}
