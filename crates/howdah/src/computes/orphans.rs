//! Computes that an earlier run of Howdah left behind: found by the file with their process id, and ended.
//!
//! Beside the id the file has the time at which the process started, so a process that has got the same id since is
//! left alone.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use runtime::clock;
use runtime::fs::blocking as fs;
use runtime::process::Stranger;
use runtime::signal::Signal;

use crate::error::{Result, While};
use crate::limits::COMPUTE_KILL_WAIT;

/// In the directory of each compute.
const FILE: &str = "process";

/// Remembers which process serves in this directory.
pub(super) fn remember(directory: &Path, pid: u32) -> Result<()> {
    let started = started(pid).unwrap_or_default();
    let path = directory.join(FILE);
    let written = fs::write_atomic(&path, format!("{pid} {started}\n").as_bytes());
    written.or_fail(format_args!("could not write \"{}\"", path.display()))
}

/// Ends what still serves in directories below this one, and removes the directories.
pub(super) async fn clean(directory: &Path, patience: Duration) -> Result<()> {
    let entries = fs::read_dir(directory);
    let entries = entries.or_fail(format_args!("could not read \"{}\"", directory.display()))?;
    for entry in entries.iter().filter(|entry| entry.is_dir) {
        let place = directory.join(&entry.name);
        clear(&place, patience).await;
    }
    Ok(())
}

/// Ends what still serves in this directory, and removes it.
pub(super) async fn clear(place: &Path, patience: Duration) {
    end(place, patience).await;
    remove(place).await;
}

/// Removes the directory of a compute that has ended.
pub(super) async fn remove(place: &Path) {
    match runtime::fs::remove_dir_all(place).await {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(place = %place.display(), %error, "a compute's directory is left behind");
        }
        _ => {}
    }
}

async fn end(place: &Path, patience: Duration) {
    let text = fs::read_to_string(place.join(FILE)).unwrap_or_default();
    let mut words = text.split_ascii_whitespace();
    let (pid, since) = (words.next().and_then(|pid| pid.parse().ok()), words.next());
    let Some(pid) = pid else { return };
    let Ok(Some(process)) = Stranger::with_pid(pid) else { return };
    // Looked at after the handle was made: from here on it is this one.
    if since.is_none() || started(pid).as_deref() != since {
        return;
    }
    tracing::warn!(pid, place = %place.display(), "ending a compute that still runs");
    for (signal, patience) in [(Signal::Terminate, patience), (Signal::Kill, COMPUTE_KILL_WAIT)] {
        if let Err(error) = process.signal(signal) {
            tracing::warn!(pid, %signal, %error, "could not signal it");
        }
        if clock::timeout(patience, process.end()).await.is_ok() {
            return;
        }
    }
    tracing::error!(pid, "it does not end");
}

/// When a process started, in the kernel's ticks since boot: field 22 of `/proc/PID/stat` (proc(5)). The second field,
/// the program's name in brackets, may hold anything.
fn started(pid: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_name, rest) = text.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use runtime::executor::block_on;
    use runtime::io::Options;
    use runtime::process::{Command, Output};

    use super::*;

    fn folder(name: &str) -> std::path::PathBuf {
        let folder =
            std::env::temp_dir().join(format!("howdah-orphans-{name}-{}", std::process::id()));
        fs::create_dir_all(folder.join("1")).expect("there is room");
        folder
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_compute_left_behind_is_ended_and_a_stranger_with_its_number_is_not() {
        let folder = folder("end");
        let done = block_on(&Options::default(), async {
            let sleeper = || Command::new("sleep").arg("600").stdout(Output::Null).spawn();
            let (ours, other) = (sleeper().expect("it runs"), sleeper().expect("it runs"));
            remember(&folder.join("1"), ours.pid()).expect("it is written");
            fs::create_dir_all(folder.join("2")).expect("there is room");
            let stale = format!("{} 1\n", other.pid());
            fs::write_atomic(folder.join("2").join(FILE), stale.as_bytes()).expect("it is written");
            clean(&folder, Duration::from_secs(10)).await.expect("it cleans");
            ours.wait().await.expect("it ended");
            assert!(other.try_wait().expect("ours to ask").is_none(), "another process");
            other.signal(Signal::Kill).expect("it is ours");
            other.wait().await.expect("it ends");
        });
        done.expect("a core");
        assert!(fs::read_dir(&folder).expect("it is there").is_empty());
        fs::remove_dir_all(&folder).expect("it is ours");
    }
}
