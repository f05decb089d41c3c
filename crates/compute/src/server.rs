//! The Postgres of a compute: a child process, from its start to its end.
//!
//! It is not started again when it dies: what it wrote here is scratch, so it takes a new compute to go on.

use std::path::Path;

use runtime::clock;
use runtime::fs::blocking;
use runtime::process::{Child, Command, Output};
use runtime::signal::Signal;

use crate::error::Error;
use crate::limits::{FAST_WAIT, IMMEDIATE_WAIT, OLD_SERVER_WAIT, POLL, READY_WAIT};
use crate::mount::FileSystem;
use crate::places::Places;

/// Line of the status in `postmaster.pid`, from 0 (`utils/pidfile.h`).
const STATUS_LINE: usize = 7;

/// Starts it.
///
/// # Errors
/// When the program cannot be executed.
pub fn spawn(
    program: &Path,
    places: &Places,
    settings: &[(String, String)],
) -> Result<Child, Error> {
    let mut command = Command::new(program)
        .arg("-D")
        .arg(&places.data)
        // Not ours to give on.
        .env("PGPASSWORD", "")
        // Never on the mount: this core would wait for itself.
        .current_dir(&places.directory)
        .new_session()
        .death_signal(Signal::Quit)
        .signal_on_drop(Signal::Quit)
        .stdout(Output::Null);
    for (name, value) in settings {
        command = command.arg("-c").arg(format!("{name}={value}"));
    }
    command.spawn().map_err(|source| Error::file("start", program, source))
}

/// Returns when it takes connections.
///
/// # Errors
/// When it ends, or takes too long.
pub async fn ready(file_system: &FileSystem, child: &Child) -> Result<(), Error> {
    let deadline = clock::now() + READY_WAIT;
    loop {
        if let Ok(Some(exit)) = child.try_wait() {
            return Err(Error::Server(format!("the server ended while it started: {exit}")));
        }
        if is_ready(file_system, child.pid()) {
            return Ok(());
        }
        if clock::now() > deadline {
            return Err(Error::Server(format!("the server is not ready after {READY_WAIT:?}")));
        }
        clock::sleep(POLL).await;
    }
}

/// By its `postmaster.pid`: read where its bytes are, for through the mount this core would wait for itself.
fn is_ready(file_system: &FileSystem, pid: u32) -> bool {
    let local = file_system.local_file("postmaster.pid");
    let Some(text) = local.and_then(|local| blocking::read_to_string(local).ok()) else {
        return false;
    };
    let mut lines = text.lines();
    let is_its = lines.next().and_then(|line| line.parse().ok()) == Some(pid);
    is_its && lines.nth(STATUS_LINE - 1).map(str::trim) == Some("ready")
}

/// Shuts it down: fast, so that whoever follows gets everything; then by what it takes.
pub async fn end(child: &Child) {
    let steps = [
        (Signal::Interrupt, FAST_WAIT),
        (Signal::Quit, IMMEDIATE_WAIT),
        (Signal::Kill, IMMEDIATE_WAIT),
    ];
    for (signal, patience) in steps {
        if let Err(error) = child.signal(signal) {
            tracing::error!(%signal, %error, "could not signal the server");
        }
        if clock::timeout(patience, child.wait()).await.is_ok() {
            return;
        }
        tracing::warn!(%signal, ?patience, "the server did not stop in time");
    }
}

/// Waits for the server of a compute that was killed in this directory: it is on its way down.
pub async fn old_one_gone(places: &Places, port: u16) {
    let lock = places.directory.join(format!(".s.PGSQL.{port}.lock"));
    let deadline = clock::now() + OLD_SERVER_WAIT;
    while let Some(pid) = running(&lock, &places.data) {
        if clock::now() > deadline {
            // The new one will find the socket taken, and say so.
            tracing::warn!(pid, "the server of an earlier compute does not stop");
            return;
        }
        clock::sleep(POLL).await;
    }
}

/// The process named in the socket's lock file, if it is alive and a server of this directory.
fn running(lock: &Path, data: &Path) -> Option<u32> {
    let text = blocking::read_to_string(lock).ok()?;
    let pid = text.lines().next()?.trim().parse().ok()?;
    let arguments = blocking::read(format!("/proc/{pid}/cmdline")).ok()?;
    let data = data.as_os_str().as_encoded_bytes();
    arguments.split(|&byte| byte == 0).any(|argument| argument == data).then_some(pid)
}
