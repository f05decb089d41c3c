//! Programs that the benchmark starts: in sessions of their own, stopped by process id, never left behind.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program that runs until it is stopped or dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    name: String,
}

impl Daemon {
    /// Starts `command` in a new session: Linux schedules sessions as groups, and a pooler that shared
    /// one with a compiler would be measured together with it.
    pub(crate) fn start(
        name: &str,
        command: &[String],
        user: Option<(u32, u32)>,
        log: &Path,
    ) -> Result<Self, String> {
        let output = File::create(log).map_err(|error| format!("{}: {error}", log.display()))?;
        let errors = output.try_clone().map_err(|error| error.to_string())?;
        let mut setsid = Command::new("setsid");
        // Should the benchmark be killed, the kernel stops what it started.
        setsid.args(["setpriv", "--pdeathsig", "INT"]);
        setsid.args(command).stdin(Stdio::null()).stdout(output).stderr(errors);
        become_user(&mut setsid, user);
        let child = setsid.spawn().map_err(|error| format!("{name}: {error}"))?;
        Ok(Self { child, name: name.to_owned() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status as text if it has ended.
    pub(crate) fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten().map(|status| format!("{} ended: {status}", self.name))
    }

    /// Asks it to stop by a signal, insists after ten seconds.
    pub(crate) fn stop(&mut self, signal: &str) {
        let _by_itself = self.stop_within(Duration::from_secs(10), signal);
    }

    /// Asks it to stop by a signal, insists after `time`; false if that was needed.
    pub(crate) fn stop_within(&mut self, time: Duration, signal: &str) -> bool {
        if self.ended().is_some() {
            return true;
        }
        let asked = Command::new("kill").args([signal, &self.pid().to_string()]).status();
        let patience = Instant::now() + time;
        while asked.is_ok() && Instant::now() < patience && self.ended().is_none() {
            std::thread::sleep(Duration::from_millis(50));
        }
        let has_ended = self.ended().is_some();
        if !has_ended {
            let _killed = self.child.kill();
            let _reaped = self.child.wait();
        }
        has_ended
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop("-INT");
    }
}

/// Runs a program as `user` (ourselves if `None`) and returns what it printed.
pub(crate) fn output(command: &[&str], user: Option<(u32, u32)>) -> Result<String, String> {
    let (program, arguments) = command.split_first().expect("a command has a program");
    let mut builder = Command::new(program);
    builder.args(arguments).stdin(Stdio::null());
    become_user(&mut builder, user);
    let done = builder.output().map_err(|error| format!("{program}: {error}"))?;
    if done.status.success() {
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    } else {
        Err(format!("{}: {}", command.join(" "), String::from_utf8_lossy(&done.stderr).trim()))
    }
}

pub(crate) fn become_user(command: &mut Command, user: Option<(u32, u32)>) {
    use std::os::unix::process::CommandExt;
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid).current_dir("/");
    }
}

/// Uid and gid of `postgres` when we are root, since neither server nor poolers run as root.
pub(crate) fn unprivileged() -> Result<Option<(u32, u32)>, String> {
    if output(&["id", "-u"], None)?.trim() != "0" {
        return Ok(None);
    }
    let id = |option: &str| -> Result<u32, String> {
        let text = output(&["id", option, "postgres"], None)?;
        text.trim().parse().map_err(|error| format!("id {option} postgres: {text}: {error}"))
    };
    Ok(Some((id("-u")?, id("-g")?)))
}

/// Raises the limit of open files to what we may have, for us and all that we start.
pub(crate) fn raise_file_limit(wanted: usize) {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let mut fields = line.unwrap_or_default().split_whitespace();
    let (soft, hard) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
    if soft != hard {
        let pid = std::process::id().to_string();
        let raised = output(&["prlimit", "--pid", &pid, &format!("--nofile={hard}:")], None);
        if let Err(reason) = raised {
            eprintln!("warning: {reason}");
        }
    }
    if hard.parse::<usize>().is_ok_and(|hard| hard < wanted) {
        eprintln!("warning: only {hard} files may be open, {wanted} are wanted: `crowd` may fail");
    }
}

/// Waits until `ready` says so, or the daemon ends, or half a minute has passed.
pub(crate) fn wait_until(
    daemon: &mut Daemon,
    log: &Path,
    mut ready: impl FnMut() -> bool,
) -> Result<(), String> {
    let patience = Instant::now() + Duration::from_secs(30);
    while !ready() {
        let problem = daemon.ended().or_else(|| {
            (Instant::now() > patience).then(|| format!("{} is not ready", daemon.name))
        });
        if let Some(problem) = problem {
            let said = std::fs::read_to_string(log).unwrap_or_default();
            return Err(format!("{problem}\n{}", said.trim()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
