//! Child processes: started with the user, session and output asked for, waited for without blocking the core.
//!
//! Invariants:
//! 1. A signal goes to the child or to nobody: the process id is used only while the child has not been reaped, and
//!    only this core reaps it.
//! 2. A child does not inherit the pinning of the core that starts it.
//! 3. Output is read as it comes, whoever is interested, so that no child stops for a full pipe.

mod lines;
mod stranger;

use std::cell::{Cell, RefCell};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;
use std::thread;

use rustix::process::Pid;

use crate::clock;
use crate::executor::{self, JoinHandle};
use crate::io::Readiness;
use crate::limits::{CHILD_OUTPUT_BYTES_MAX, CHILD_OUTPUT_WAIT};
use crate::mailbox;
use crate::signal::Signal;
use crate::sys;

use lines::{LastBytes, Lines};

pub use stranger::Stranger;

/// Where one of a child's output streams goes.
#[derive(Default)]
pub enum Output {
    /// Nowhere.
    Null,
    /// Where ours goes.
    #[default]
    Inherit,
    /// To a function of this core, line by line, without the line's end. Bytes that are not UTF-8 are replaced.
    Lines(Box<dyn FnMut(&str)>),
}

impl Output {
    /// Output that goes to this function, line by line.
    pub fn lines(each: impl FnMut(&str) + 'static) -> Self {
        Self::Lines(Box::new(each))
    }

    fn stdio(&self) -> Stdio {
        match self {
            Self::Null => Stdio::null(),
            Self::Inherit => Stdio::inherit(),
            Self::Lines(_) => Stdio::piped(),
        }
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "Null",
            Self::Inherit => "Inherit",
            Self::Lines(_) => "Lines(..)",
        })
    }
}

/// A program to run. Its standard input is empty.
#[derive(Debug)]
pub struct Command {
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    environment_cleared: bool,
    directory: Option<PathBuf>,
    user: Option<(u32, u32)>,
    new_session: bool,
    death_signal: Option<Signal>,
    drop_signal: Option<Signal>,
    stdout: Output,
    stderr: Output,
}

impl Command {
    /// A program by path, or by name to be looked up in `PATH`.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            environment_cleared: false,
            directory: None,
            user: None,
            new_session: false,
            death_signal: None,
            drop_signal: None,
            stdout: Output::Inherit,
            stderr: Output::Inherit,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts from an empty environment instead of ours.
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.environment_cleared = true;
        self
    }

    /// Runs in this directory.
    #[must_use]
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Runs as this user and group, and in no other group. Only root may.
    #[must_use]
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.user = Some((uid, gid));
        self
    }

    /// Makes the child the leader of a new session, so that the terminal's signals do not reach it.
    #[must_use]
    pub fn new_session(mut self) -> Self {
        self.new_session = true;
        self
    }

    /// Has the kernel send this signal when the thread that starts the child ends (Linux only; elsewhere ignored).
    #[must_use]
    pub fn death_signal(mut self, signal: Signal) -> Self {
        self.death_signal = Some(signal);
        self
    }

    /// Sends this signal if the [`Child`] is dropped before its end.
    #[must_use]
    pub fn signal_on_drop(mut self, signal: Signal) -> Self {
        self.drop_signal = Some(signal);
        self
    }

    /// Where standard output goes.
    #[must_use]
    pub fn stdout(mut self, output: Output) -> Self {
        self.stdout = output;
        self
    }

    /// Where standard error goes.
    #[must_use]
    pub fn stderr(mut self, output: Output) -> Self {
        self.stderr = output;
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// When the program cannot be executed, or not as asked.
    pub fn spawn(mut self) -> io::Result<Child> {
        let drop_signal = self.drop_signal.take();
        let (child, pipes) = self.start()?;
        Child::new(child, pipes, drop_signal)
    }

    fn start(self) -> io::Result<(std::process::Child, Pipes)> {
        let mut command = std::process::Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null());
        if self.environment_cleared {
            command.env_clear();
        }
        command.envs(self.environment);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        if let Some((uid, gid)) = self.user {
            // The standard library also gives up the supplementary groups here when we are root.
            command.uid(uid).gid(gid);
        }
        sys::process::before_exec(&mut command, self.new_session, self.death_signal);
        command.stdout(self.stdout.stdio()).stderr(self.stderr.stdio());
        let mut child = command.spawn()?;
        let pipes = [
            (child.stdout.take().map(OwnedFd::from), self.stdout),
            (child.stderr.take().map(OwnedFd::from), self.stderr),
        ];
        Ok((child, pipes))
    }

    /// Starts one whose end nobody waits for, before there is a core. Its output must not be lines.
    ///
    /// # Errors
    /// When the program cannot be executed, or not as asked.
    pub fn spawn_unwatched(self) -> io::Result<()> {
        self.start().map(drop)
    }

    /// Runs it to its end with its output captured (the last [`CHILD_OUTPUT_BYTES_MAX`] of each stream); where output
    /// was to go before is overruled. Dropping the future kills the child.
    ///
    /// # Errors
    /// When the program cannot be executed, or not as asked.
    pub async fn run(mut self) -> io::Result<Finished> {
        let capture = || {
            let kept = Rc::new(RefCell::new(LastBytes::new(CHILD_OUTPUT_BYTES_MAX)));
            let target = Rc::clone(&kept);
            (kept, Output::lines(move |line| target.borrow_mut().push_line(line)))
        };
        let (stdout, output) = capture();
        self.stdout = output;
        let (stderr, output) = capture();
        self.stderr = output;
        self.drop_signal = Some(Signal::Kill);
        let mut child = self.spawn()?;
        let status = child.wait().await?;
        child.output_end().await;
        let finished = Finished {
            status,
            stdout: stdout.take().into_text(),
            stderr: stderr.take().into_text(),
        };
        Ok(finished)
    }
}

/// The ends of a child's output that are ours, and what becomes of it.
type Pipes = [(Option<OwnedFd>, Output); 2];

/// How a child that ran to its end did.
#[derive(Debug, Clone)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output, at least the end of it.
    pub stdout: String,
    /// What it wrote to standard error, at least the end of it.
    pub stderr: String,
}

/// A running or ended child.
pub struct Child {
    inner: RefCell<std::process::Child>,
    pid: Pid,
    exited: Cell<Option<ExitStatus>>,
    exit: Exit,
    readers: Vec<JoinHandle<()>>,
    drop_signal: Option<Signal>,
}

/// How the end of a child is learnt.
enum Exit {
    /// A pidfd, readable when the child has ended (Linux).
    Descriptor(Readiness),
    /// A thread that waits and leaves the child to be reaped by the core.
    Thread(RefCell<mailbox::Receiver<()>>),
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exited = self.exited.get();
        f.debug_struct("Child").field("pid", &self.pid()).field("exited", &exited).finish()
    }
}

impl Child {
    fn new(
        child: std::process::Child,
        pipes: Pipes,
        drop_signal: Option<Signal>,
    ) -> io::Result<Self> {
        let pid = Pid::from_child(&child);
        let exit = Exit::of(pid)?;
        let mut this = Self {
            inner: RefCell::new(child),
            pid,
            exited: Cell::new(None),
            exit,
            readers: Vec::new(),
            drop_signal,
        };
        for (pipe, output) in pipes {
            if let (Some(pipe), Output::Lines(each)) = (pipe, output) {
                rustix::io::ioctl_fionbio(&pipe, true)?;
                let readiness = Readiness::new(pipe)?;
                this.readers.push(executor::spawn(read_lines(readiness, each)));
            }
        }
        Ok(this)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the kernel does not know the child any more.
    pub fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        if self.exited.get().is_none() {
            self.exited.set(self.inner.borrow_mut().try_wait()?);
        }
        Ok(self.exited.get())
    }

    /// Waits for its end. Cancel-safe, and may be asked again. Output may come after it: see [`Child::output_end`].
    ///
    /// # Errors
    /// When the kernel does not know the child any more.
    pub async fn wait(&self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            match &self.exit {
                Exit::Descriptor(pidfd) => pidfd.readable().await?,
                Exit::Thread(ended) => {
                    std::future::poll_fn(|cx| ended.borrow_mut().poll_recv(cx)).await;
                }
            }
        }
    }

    /// Waits until all output has been handed over, within [`CHILD_OUTPUT_WAIT`]: a child of the child may keep the
    /// pipes open. To be called after [`Child::wait`].
    pub async fn output_end(&mut self) {
        let readers = std::mem::take(&mut self.readers);
        let all = async {
            for reader in readers {
                // Nobody aborts a reader.
                reader.await.ok();
            }
        };
        // In time or not, there is nothing more to do.
        clock::timeout(CHILD_OUTPUT_WAIT, all).await.ok();
    }

    /// Sends a signal. Nothing happens when the child has ended.
    ///
    /// # Errors
    /// When we may not.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        if self.try_wait()?.is_some() {
            return Ok(());
        }
        // Not reaped, so the id is still the child's, if only as a zombie.
        Ok(rustix::process::kill_process(self.pid, signal.for_kernel())?)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if matches!(self.try_wait(), Ok(Some(_)) | Err(_)) {
            return;
        }
        if let Some(signal) = self.drop_signal {
            // It was running a moment ago; if it is not now, all the better.
            self.signal(signal).ok();
        }
        // Somebody must reap it, or it stays a zombie for as long as we live.
        let pid = self.pid;
        let reaper = thread::Builder::new().name("howdah-reaper".into()).spawn(move || {
            crate::nodepool::release_affinity();
            while let Err(rustix::io::Errno::INTR) =
                rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
            {
            }
        });
        if let Err(error) = reaper {
            tracing::warn!(target: "runtime", pid = self.pid(), %error, "child will stay a zombie");
        }
    }
}

impl Exit {
    fn of(pid: Pid) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        if let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK) {
            return Ok(Self::Descriptor(Readiness::new(pidfd)?));
        }
        Self::by_thread(pid)
    }

    fn by_thread(pid: Pid) -> io::Result<Self> {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        let (ended, receiver) = mailbox::channel(1);
        thread::Builder::new().name("howdah-waiter".into()).spawn(move || {
            crate::nodepool::release_affinity();
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(pid), options) {}
            // The core may not care any more.
            ended.try_send(()).ok();
        })?;
        Ok(Self::Thread(RefCell::new(receiver)))
    }
}

async fn read_lines(pipe: Readiness, mut each: Box<dyn FnMut(&str)>) {
    let mut lines = Lines::default();
    let mut bytes = vec![0; 4096];
    loop {
        match rustix::io::read(pipe.as_fd(), &mut bytes) {
            Ok(0) => break,
            Ok(count) => {
                lines.push(bytes.get(..count).unwrap_or_default(), &mut each);
                // A child that writes without end must not keep the core from others.
                executor::yield_now().await;
            }
            Err(rustix::io::Errno::AGAIN) => {
                if let Err(error) = pipe.readable().await {
                    tracing::warn!(target: "runtime", %error, "child's output is no longer read");
                    break;
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::warn!(target: "runtime", %error, "child's output is no longer read");
                break;
            }
        }
    }
    lines.end(&mut each);
}

#[cfg(test)]
mod tests;
