//! The process of a compute: `howdah compute run`, from its start to its end.

use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pageserver::connection::Login;
use pooler::settings::ServerAddress;
use runtime::clock;
use runtime::fs::blocking as fs;
use runtime::mailbox;
use runtime::process::{Child, Command, Output};
use runtime::signal::Signal;
use serde::{Deserialize, Serialize};

use super::helped::Helped;
use super::log::{Log, last_lines};
use super::primary::{MAIN, Primary};
use super::settings::{Mode, Settings};
use super::starter::Request;
use super::{health, orphans};
use crate::error::{Error, Result, While};
use crate::limits::COMPUTE_KILL_WAIT;
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
    /// It follows the branch from its end on.
    pub(super) is_replica: bool,
}

impl Spec {
    /// Whether what is written to it stays.
    pub(super) fn writes_branch(&self) -> bool {
        self.lsn.is_none() && !self.is_replica
    }
}

/// How computes are started here.
#[derive(Clone, Debug)]
pub(super) struct Launcher {
    /// This program.
    pub(super) program: PathBuf,
    /// Folder of PostgreSQL's programs.
    pub(super) binaries: PathBuf,
    pub(super) directory: PathBuf,
    /// Socket of what starts computes as root, if there is one.
    pub(super) starter: Option<PathBuf>,
    /// Who must have received a commit on a branch.
    pub(super) standby: String,
    pub(super) settings: Settings,
    /// How `main` is served; `None`: not by computes.
    pub(super) primary: Option<Primary>,
}

/// A running compute. Dropped, it is told to stop.
#[derive(Debug)]
pub(super) struct Process {
    body: Body,
    pub(super) ready: Ready,
    place: PathBuf,
}

/// Who started it.
#[derive(Debug)]
enum Body {
    Own(Child),
    Helped(Helped),
}

impl Body {
    /// Waits for its end; how it ended.
    async fn end(&self) -> String {
        match self {
            Self::Own(child) => {
                let exit = child.wait().await;
                exit.map_or_else(|error| error.to_string(), |exit| exit.to_string())
            }
            Self::Helped(helped) => helped.end().await,
        }
    }

    fn pid(&self) -> u32 {
        match self {
            Self::Own(child) => child.pid(),
            Self::Helped(helped) => helped.pid,
        }
    }

    fn signal(&self, signal: Signal) {
        match self {
            Self::Own(child) => {
                if let Err(error) = child.signal(signal) {
                    tracing::error!(pid = child.pid(), %signal, %error, "could not signal a compute");
                }
            }
            Self::Helped(helped) => helped.signal(signal),
        }
    }
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
        let writer = Log::open(&log)?;
        let login = Login::within_process(service);
        let environment = vec![
            ("PGUSER".to_owned(), login.user),
            ("PGPASSWORD".to_owned(), login.password.0),
            ("HOWDAH_PG_BIN".to_owned(), self.binaries.display().to_string()),
        ];
        let arguments = self.arguments(&place, spec, service)?;
        let (mut body, line) = match &self.starter {
            Some(socket) if self.settings.mode != Mode::Directory => {
                let number = place.file_name().and_then(|name| name.to_str()?.parse().ok());
                let request = Request { place: number.unwrap_or_default(), arguments, environment };
                let helped = Helped::start(socket, &request, writer).await?;
                orphans::remember(&place, helped.pid)?;
                let line = poll_fn(|cx| helped.output.borrow_mut().poll_recv(cx)).await;
                (Body::Helped(helped), line)
            }
            _ => self.start_own(&place, arguments, environment, writer).await?,
        };
        if let Some(line) = line {
            let ready = serde_json::from_str(&line);
            let ready = ready.or_fail(format_args!("a compute said \"{line}\""))?;
            return Ok(Process { body, ready, place });
        }
        let exit = body.end().await;
        if let Body::Own(child) = &mut body {
            child.output_end().await;
        }
        Err(Error::new(format!("the compute ended while it started: {exit}"))
            .detail(last_lines(&log)))
    }

    /// A child of this process, and the first line that it prints.
    async fn start_own(
        &self,
        place: &Path,
        arguments: Vec<String>,
        environment: Vec<(String, String)>,
        log: Log,
    ) -> Result<(Body, Option<String>)> {
        let (said, mut lines) = mailbox::channel(1);
        let each = move |line: &str| {
            // One line is expected; whatever else it may print is nobody's business.
            let _more = said.try_send(line.to_owned());
        };
        let mut command = Command::new(self.program_for(place)?)
            .args(["compute", "run", "--dir"])
            .arg(place)
            .args(arguments)
            .current_dir(place)
            .new_session()
            .death_signal(Signal::Terminate)
            .signal_on_drop(Signal::Terminate)
            .stdout(Output::lines(each))
            .stderr(Output::lines(move |line| log.write(line)));
        for (name, value) in environment {
            command = command.env(name, value);
        }
        let child = command.spawn().or_fail("could not start a compute")?;
        orphans::remember(place, child.pid())?;
        Ok((Body::Own(child), lines.recv().await))
    }

    /// This program. Started by root, it may be where the user who we have become cannot go (root's home): then it goes
    /// by what runs already, under a name of its own in a compute's directory.
    fn program_for(&self, place: &Path) -> Result<PathBuf> {
        if fs::exists(&self.program) {
            return Ok(self.program.clone());
        }
        let link = place.join("howdah");
        let made = fs::symlink("/proc/self/exe", &link);
        made.or_fail(format_args!("could not make \"{}\"", link.display()))?;
        Ok(link)
    }

    /// Of `howdah compute run`, but for the directory.
    fn arguments(&self, place: &Path, spec: &Spec, service: &str) -> Result<Vec<String>> {
        let mut arguments = vec!["--json", "--branch", &spec.branch];
        if let Some(lsn) = &spec.lsn {
            arguments.extend(["--lsn", lsn]);
        }
        if spec.is_replica {
            arguments.push("--replica");
        }
        let mode = self.settings.mode.name();
        arguments.extend(["--page-server", service, "--mode", mode]);
        arguments.extend(["--standby", &self.standby]);
        let mut arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        let boot_set = self.directory.join("boot-set").display().to_string();
        arguments.extend(["--boot-set".to_owned(), boot_set]);
        // Where `main` is a compute no data directory has them: they are every compute's, and the others' own win.
        let general = self.primary.as_ref().map(|primary| &primary.settings);
        for (name, value) in general.into_iter().flatten().chain(&self.settings.postgres) {
            let value = files::plain(name, value)?;
            arguments.extend(["--set".to_owned(), format!("{name}={value}")]);
        }
        if let Some(primary) = self.primary_of(spec) {
            arguments.append(&mut primary.arguments(place)?);
        }
        Ok(arguments)
    }

    /// How it is served, if it is `main` to be written.
    pub(super) fn primary_of(&self, spec: &Spec) -> Option<&Primary> {
        self.primary.as_ref().filter(|_| spec.writes_branch() && spec.branch == MAIN)
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
            self.body.signal(signal);
            if clock::timeout(patience, self.body.end()).await.is_ok() {
                return;
            }
            tracing::warn!(pid = self.body.pid(), %signal, ?patience, "a compute did not stop in time");
        }
    }

    /// Ends one that is stopped, with its server; returns when it is gone, or there is nothing more to be done.
    pub(super) async fn kill(&self) {
        self.body.signal(Signal::Kill);
        health::kill_server(&self.ready);
        let _it_may_be_stuck = clock::timeout(COMPUTE_KILL_WAIT, self.body.end()).await;
    }

    /// Waits for its end; how it ended.
    pub(super) async fn end(&self) -> String {
        self.body.end().await
    }

    /// Removes what it leaves. It has ended.
    pub(super) async fn clean(&self) {
        // Nothing but the starter's end could have left it running.
        orphans::clear(&self.place, COMPUTE_KILL_WAIT).await;
    }
}
