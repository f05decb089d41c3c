//! The process of a compute: `howdah compute run`, from its start to its end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pageserver::connection::Login;
use pooler::settings::ServerAddress;
use runtime::clock;
use runtime::fs::{OpenOptions, blocking as fs};
use runtime::mailbox;
use runtime::process::{Child, Command, Output};
use runtime::signal::Signal;
use serde::{Deserialize, Serialize};

use super::orphans;
use super::settings::Settings;
use crate::error::{Error, Result, While};
use crate::limits::{COMPUTE_KILL_WAIT, COMPUTE_LOG_BYTES_MAX, COMPUTE_LOG_LINES};
use crate::postgres::files;

/// What a compute says on standard output once it takes connections: one line of JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    pub branch: String,
    /// Where it began.
    pub lsn: String,
    pub port: u16,
    pub socket_dir: PathBuf,
    /// Of the compute itself, and of its server.
    pub pid: u32,
    pub postgres_pid: u32,
    /// `fuse` or `directory`.
    pub mode: String,
}

impl Ready {
    /// The server's unix socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.socket_dir.join(format!(".s.PGSQL.{}", self.port))
    }

    pub(super) fn address(&self) -> ServerAddress {
        ServerAddress::Unix(self.socket())
    }
}

/// What a compute serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) branch: String,
    /// `None`: the end, to go on writing the branch from there.
    pub(super) lsn: Option<String>,
}

/// How computes are started here.
#[derive(Clone, Debug)]
pub(super) struct Launcher {
    /// This program.
    pub(super) program: PathBuf,
    /// Folder of PostgreSQL's programs.
    pub(super) binaries: PathBuf,
    pub(super) directory: PathBuf,
    /// Who must have received a commit on a branch.
    pub(super) standby: String,
    pub(super) settings: Settings,
}

/// A running compute. Dropped, it is told to stop.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) child: Child,
    pub(super) ready: Ready,
    place: PathBuf,
}

impl Launcher {
    /// Where the log of a compute is. Names of branches are letters, digits and `-_.`; LSNs have a slash.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{}.log", name.replace('/', "-").replace('?', ".")))
    }

    /// Starts one in a directory of [`Launcher::place`]; returns when it takes connections. Whoever gives up clears that.
    pub(super) async fn start(
        &self,
        place: PathBuf,
        name: &str,
        spec: &Spec,
        service: &str,
    ) -> Result<Process> {
        let log = self.log(name);
        make_room(&log);
        let (said, mut lines) = mailbox::channel(1);
        let each = move |line: &str| {
            // One line is expected; whatever else it may print is nobody's business.
            let _more = said.try_send(line.to_owned());
        };
        let login = Login::within_process(service);
        let command = Command::new(&self.program)
            .args(self.arguments(spec, service, &place)?)
            .env("PGUSER", &login.user)
            .env("PGPASSWORD", &login.password.0)
            .env("HOWDAH_PG_BIN", &self.binaries)
            .current_dir(&place)
            .new_session()
            .death_signal(Signal::Terminate)
            .signal_on_drop(Signal::Terminate)
            .stdout(Output::lines(each))
            .stderr(Output::Append(log.clone()));
        let child = command.spawn().or_fail("could not start a compute")?;
        orphans::remember(&place, child.pid())?;
        match lines.recv().await {
            Some(line) => {
                let ready = serde_json::from_str(&line);
                let ready = ready.or_fail(format_args!("a compute said \"{line}\""))?;
                Ok(Process { child, ready, place })
            }
            None => {
                let exit = child.wait().await.or_fail("could not wait for a compute")?;
                Err(Error::new(format!("the compute ended while it started: {exit}"))
                    .detail(last_lines(&log)))
            }
        }
    }

    fn arguments(&self, spec: &Spec, service: &str, place: &Path) -> Result<Vec<String>> {
        let place = place.display().to_string();
        let mut arguments = vec!["compute", "run", "--json", "--branch", &spec.branch];
        if let Some(lsn) = &spec.lsn {
            arguments.extend(["--lsn", lsn]);
        }
        let mode = self.settings.mode.name();
        arguments.extend(["--page-server", service, "--dir", &place, "--mode", mode]);
        arguments.extend(["--standby", &self.standby]);
        let mut arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        for (name, value) in &self.settings.postgres {
            let value = files::plain(name, value)?;
            arguments.extend(["--set".to_owned(), format!("{name}={value}")]);
        }
        Ok(arguments)
    }

    /// A new directory, named by the first number that is free: sockets must have short paths, branches may have
    /// long names.
    pub(super) fn place(&self) -> Result<PathBuf> {
        let taken = |number: &u32| fs::exists(self.directory.join(number.to_string()));
        let number = (1..).find(|number| !taken(number)).expect("there are many numbers");
        let place = self.directory.join(number.to_string());
        fs::create_dir_all(&place)
            .or_fail(format_args!("could not make \"{}\"", place.display()))?;
        Ok(place)
    }
}

impl Process {
    /// Shuts it down, or kills it if that takes too long; returns when it is gone.
    pub(super) async fn stop(&self, patience: Duration) {
        let steps = [(Signal::Terminate, patience), (Signal::Kill, COMPUTE_KILL_WAIT)];
        for (signal, patience) in steps {
            if let Err(error) = self.child.signal(signal) {
                tracing::error!(pid = self.child.pid(), %signal, %error, "could not signal a compute");
            }
            if clock::timeout(patience, self.child.wait()).await.is_ok() {
                return;
            }
            tracing::warn!(pid = self.child.pid(), %signal, ?patience, "a compute did not stop in time");
        }
    }

    /// Removes what it leaves. It has ended.
    pub(super) async fn clean(&self) {
        orphans::remove(&self.place).await;
    }
}

/// A log that has become long is begun anew; one older is kept.
fn make_room(log: &Path) {
    let open = fs::File::open(log, OpenOptions::default());
    let long = open.and_then(|file| file.len()).is_ok_and(|bytes| bytes > COMPUTE_LOG_BYTES_MAX);
    if long && let Err(error) = fs::rename(log, log.with_extension("log.old")) {
        tracing::warn!(%error, log = %log.display(), "a compute's log cannot be begun anew");
    }
}

fn last_lines(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(COMPUTE_LOG_LINES)..].join("; ")
}
