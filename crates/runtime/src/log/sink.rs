//! Standard error that cannot stop a core: a line is written only where the kernel says that it will not block.
//!
//! A pipe or socket nobody reads is waited for once, briefly; from then on lines are dropped and counted
//! until it takes bytes again, and then the count is written. An error (reader gone, disk full) costs the line.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing_subscriber::fmt::MakeWriter;

use crate::limits::{LOG_STALL_WAIT, LOG_WRITE_BYTES_MAX};

pub(super) struct Sink {
    output: Mutex<Output>,
}

struct Output {
    /// `None` when there is no standard error at all.
    target: Option<OwnedFd>,
    stalled: bool,
    lines_dropped: u64,
}

impl Sink {
    pub(super) fn stderr() -> Self {
        Self::new(io::stderr().as_fd().try_clone_to_owned().ok())
    }

    pub(super) fn new(target: Option<OwnedFd>) -> Self {
        Self { output: Mutex::new(Output { target, stalled: false, lines_dropped: 0 }) }
    }

    pub(super) fn write_line(&self, line: &[u8]) {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).write_line(line);
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter(self)
    }
}

/// The subscriber formats a whole line and writes it with one call.
pub(super) struct LineWriter<'a>(&'a Sink);

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write_line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output {
    fn write_line(&mut self, line: &[u8]) {
        let written = if self.lines_dropped == 0 {
            self.write_all(line)
        } else {
            let note =
                format!("({} log lines were dropped: nobody read them)\n", self.lines_dropped);
            self.write_all(&[note.as_bytes(), line].concat())
        };
        self.lines_dropped = if written { 0 } else { self.lines_dropped + 1 };
    }

    /// Writes in pieces that a pipe with any room takes whole; false when the rest had to be dropped.
    fn write_all(&mut self, bytes: &[u8]) -> bool {
        for piece in bytes.chunks(LOG_WRITE_BYTES_MAX) {
            let mut rest = piece;
            while !rest.is_empty() {
                if !self.wait_writable() {
                    return false;
                }
                let Some(target) = &self.target else { return true };
                match rustix::io::write(target, rest) {
                    Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                    Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                    // Reader gone or disk full: there is nowhere to report it to.
                    Err(_) => return true,
                }
            }
        }
        true
    }

    fn wait_writable(&mut self) -> bool {
        let Some(target) = &self.target else { return true };
        let wait = if self.stalled { 0 } else { LOG_STALL_WAIT.as_nanos() };
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::try_from(wait).unwrap_or(0) };
        let mut polled = [PollFd::new(target, PollFlags::OUT)];
        // An interrupted wait counts as not writable only if the signal storm outlasts the retries.
        let ready = (0..3).any(|_attempt| poll(&mut polled, Some(&timeout)).is_ok_and(|n| n > 0));
        self.stalled = !ready;
        ready
    }
}
