//! When a server takes connections, and when one of an earlier run is gone: both from `postmaster.pid`.
//!
//! Its lines (`utils/pidfile.h`): pid, data directory, start time, port, socket folder, listen address, shared
//! memory key, status. The status is padded with blanks: `ready   `, `starting`, `stopping`, `standby `.

use std::path::Path;

use runtime::clock;
use runtime::fs::blocking as fs;
use runtime::process::Child;

use super::cluster::Cluster;
use crate::error::{Error, Result};
use crate::limits::{POSTGRES_OLD_WAIT, POSTGRES_READY_POLL, POSTGRES_READY_WAIT};

/// Line of the status, from 0.
const STATUS_LINE: usize = 7;

/// Returns when the server on this data directory takes connections; an error when it ends or takes too long.
pub(crate) async fn ready(data: &Path, child: &Child) -> Result<()> {
    let deadline = clock::now() + POSTGRES_READY_WAIT;
    loop {
        if let Ok(Some(exit)) = child.try_wait() {
            return Err(Error::new(format!("the server ended while it started: {exit}")));
        }
        if status(&pid_file(data), child.pid()) == Some("ready") {
            return Ok(());
        }
        if clock::now() > deadline {
            return Err(Error::new(format!(
                "the server is not ready after {POSTGRES_READY_WAIT:?}"
            )));
        }
        clock::sleep(POSTGRES_READY_POLL).await;
    }
}

/// Waits for a server that an earlier run left on its way down.
pub(super) async fn old_server_gone(cluster: &Cluster) -> Result<()> {
    let deadline = clock::now() + POSTGRES_OLD_WAIT;
    let mut told = false;
    while let Some(pid) = running(cluster) {
        if clock::now() > deadline {
            return Err(Error::new(format!(
                "another server runs on \"{}\"",
                cluster.data.display()
            ))
            .detail(format!("its process id is {pid}"))
            .hint("stop it first (pg_ctl stop)"));
        }
        if !told {
            tracing::info!(target: "postgres", pid, "waiting for the server of an earlier run to stop");
        }
        told = true;
        clock::sleep(POSTGRES_READY_POLL).await;
    }
    Ok(())
}

/// The process named in `postmaster.pid`, if it is alive and is a server on this directory.
fn running(cluster: &Cluster) -> Option<u32> {
    let file = pid_file(&cluster.data);
    let pid: u32 = file.lines().next()?.trim().parse().ok()?;
    // A number that now belongs to some other program is no server; the server checks this again by itself.
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    command.contains("postgres").then_some(pid)
}

fn pid_file(data: &Path) -> String {
    // It is not there before the server has made it, and after it has ended.
    fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default()
}

fn status(file: &str, pid: u32) -> Option<&str> {
    let ours = file.lines().next()?.trim().parse() == Ok(pid);
    file.lines().nth(STATUS_LINE).filter(|_| ours).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_status_of_the_process_that_we_started_counts() {
        let file = "41\n/data\n1795230000\n5433\n/run\n127.0.0.1\n  1 2\nready   \n";
        assert_eq!(status(file, 41), Some("ready"));
        assert_eq!(status(file, 42), None);
        assert_eq!(status("41\n/data\n", 41), None);
        assert_eq!(status("", 41), None);
    }
}
