//! `main` as a compute: the one that plain database names lead to. It is started with Howdah, never idle, and replaced at
//! the end of what the page server has received when it dies.
//!
//! Its server has what a data directory's server would have: the unix socket in the instance's run folder and the TCP
//! port besides the compute's own socket, `[postgres] settings`, and a `pg_hba.conf` that is the user's to change.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use pageserver::api::Phase as PagesPhase;
use runtime::clock;
use runtime::fs;
use runtime::fs::blocking::{self, Lock};
use runtime::process::Stranger;
use runtime::signal::Signal;

use super::manager::{LOCK, Manager};
use super::refusal::Refusal;
use crate::error::{Error, Result, While};
use crate::limits::{COMPUTE_KILL_WAIT, PRIMARY_OLD_WAIT, PRIMARY_POLL, PRIMARY_RETRY};
use crate::postgres::files;
use crate::postgres::place::{Record, Stage};

/// The branch.
pub(super) const MAIN: &str = "main";

/// How `main` is served.
#[derive(Clone, Debug)]
pub struct Primary {
    /// `[postgres] settings`.
    pub settings: BTreeMap<String, toml::Value>,
    /// Folder of its unix socket, besides the compute's own.
    pub run: PathBuf,
    /// TCP port on loopback; 0 for none.
    pub port: u16,
    /// Who may log in; the user's to change.
    pub hba: PathBuf,
    /// What ALTER SYSTEM writes.
    pub altered: PathBuf,
    /// Replication slots and statistics between its servers.
    pub carried: PathBuf,
    /// The data directory that `main` lived in before.
    pub old: PathBuf,
    pub record: Record,
}

/// What a data directory is called that `main` has left and that was not made for that.
const ASIDE: &str = "before-mount";

impl Primary {
    /// Of `howdah compute run`, besides those of any compute; `place` is its directory.
    pub(super) fn arguments(&self, place: &Path) -> Result<Vec<String>> {
        let folders = format!("{},{}", listed(place), listed(&self.run));
        let listen = if self.port == 0 { "" } else { "127.0.0.1" };
        let mut settings = vec![
            ("unix_socket_directories".to_owned(), folders),
            ("listen_addresses".to_owned(), listen.to_owned()),
            ("hba_file".to_owned(), self.hba.display().to_string()),
        ];
        for (name, value) in &self.settings {
            settings.push((name.clone(), files::plain(name, value)?));
        }
        let port = ["--port".to_owned(), files::server_port(self.port).to_string()];
        let altered = ["--altered".to_owned(), self.altered.display().to_string()];
        let carried = ["--carried".to_owned(), self.carried.display().to_string()];
        let settings = settings.iter().map(|(name, value)| format!("{name}={value}"));
        let settings = settings.flat_map(|setting| ["--set".to_owned(), setting]);
        Ok(port.into_iter().chain(altered).chain(carried).chain(settings).collect())
    }

    /// The files that are the user's, as the old data directory has them if it is there. What exists stays.
    pub(super) fn write_files(&self) -> Result<()> {
        let written = |path: &Path, bytes: &[u8]| {
            let written = blocking::write_atomic(path, bytes);
            written.or_fail(format_args!("could not write \"{}\"", path.display()))
        };
        if !blocking::exists(&self.hba) {
            let old = blocking::read(self.old.join("pg_hba.conf"));
            written(&self.hba, &old.unwrap_or_else(|_none| files::HBA.as_bytes().to_vec()))?;
        }
        match blocking::read(self.old.join("postgresql.auto.conf")) {
            Ok(old) if !blocking::exists(&self.altered) => written(&self.altered, &old),
            _ => Ok(()),
        }
    }

    /// Waits for the server of the compute before, which is on its way down, and kills it if it takes its time: it has
    /// the socket and the port, and nothing that it does counts any more.
    pub async fn old_server_gone(&self) {
        let lock = self.run.join(format!(".s.PGSQL.{}.lock", files::server_port(self.port)));
        let Some(process) = server_of(&lock) else { return };
        for (signal, patience) in [
            (None, PRIMARY_OLD_WAIT),
            (Some(Signal::Quit), PRIMARY_OLD_WAIT),
            (Some(Signal::Kill), COMPUTE_KILL_WAIT),
        ] {
            if let Some(signal) = signal {
                tracing::warn!(%signal, "the server before is still there");
                // It has ended meanwhile, or the next start will say what is wrong.
                let _sent = process.signal(signal);
            }
            if clock::timeout(patience, process.end()).await.is_ok() {
                return;
            }
        }
    }

    /// `main` runs on a mount and is attached, so what the old directory had is in the page server: away with it.
    async fn leave_old(&self) -> Result<()> {
        let (path, shown) = (&self.old, self.old.display());
        match self.record.read()? {
            Some(Stage::Founded) if blocking::exists(path) => {
                let removed = fs::remove_dir_all(path).await;
                removed.or_fail(format_args!("could not remove \"{shown}\""))?;
                tracing::info!(path = %shown, "removed the directory that main was made in");
            }
            Some(Stage::Moved) if blocking::exists(path) => {
                let aside = path.with_extension(ASIDE);
                let renamed = fs::rename(path, &aside).await;
                renamed.or_fail(format_args!("could not rename \"{shown}\""))?;
                tracing::info!(path = %aside.display(), "main has left its data directory; remove it when you like");
            }
            Some(Stage::Founded | Stage::Moved) => {}
            _ => return Ok(()),
        }
        self.record.write(Stage::Mount)
    }
}

/// A folder in `unix_socket_directories`, whose elements may be quoted (`SplitDirectoriesString`).
fn listed(folder: &Path) -> String {
    format!("\"{}\"", folder.display().to_string().replace('"', "\"\""))
}

/// The server that a socket's lock file names (its first line, `miscinit.c`), if it runs and is ours to wait for.
fn server_of(lock: &Path) -> Option<Stranger> {
    let text = blocking::read_to_string(lock).ok()?;
    let pid = text.lines().next()?.trim().parse().ok()?;
    let process = Stranger::with_pid(pid).ok()??;
    // Looked at after the handle was made: from here on it is this one.
    let command = blocking::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    command.contains("postgres").then_some(process)
}

impl Manager {
    /// Takes `main` over if nobody has yet, and starts its server. Returns when it takes connections.
    ///
    /// # Errors
    /// When it does not start.
    pub(super) async fn raise_main(self: &Rc<Self>, primary: &Primary) -> Result<()> {
        primary.write_files()?;
        self.take_over().await?;
        let started = self.start(MAIN, None).await;
        started.map_err(|refusal| refusal.error)?;
        if let Err(error) = primary.leave_old().await {
            tracing::warn!(%error, "main's old data directory is left behind");
        }
        Ok(())
    }

    /// Keeps `main` running, for as long as the core runs.
    pub(super) async fn keep_main(self: Rc<Self>) {
        loop {
            match self.start(MAIN, None).await {
                Ok((compute, _ready)) => compute.left.wait().await,
                // Said where it happened.
                Err(Refusal { .. }) => clock::sleep(PRIMARY_RETRY).await,
            }
        }
    }

    /// From here on the page server follows computes alone: the directory's server has been shut down, and the page
    /// server has all of its WAL.
    async fn take_over(&self) -> Result<()> {
        let gone = || Error::new("the page server does not run");
        let branches = loop {
            if let Some(branches) = self.pages.branches().await {
                break branches;
            }
            let status = self.pages.status().await.ok_or_else(gone)?;
            if matches!(status.phase, PagesPhase::Failed | PagesPhase::Stopped) {
                let why = status.error.map_or_else(String::new, |problem| problem.message);
                return Err(Error::new("the page server cannot serve \"main\"").detail(why));
            }
            clock::sleep(PRIMARY_POLL).await;
        };
        let main = branches.iter().find(|branch| branch.name == MAIN);
        let epoch = main.and_then(|main| main.writer.as_ref()).map_or(0, |writer| writer.epoch);
        if epoch > 0 {
            return Ok(());
        }
        let released = self.pages.release_main().await.ok_or_else(gone)?;
        let released = released.map_err(|problem| Error::new(problem.message))?;
        tracing::info!(end = released.end, "computes write main from here on");
        Ok(())
    }
}

/// Ends what an earlier run left of `main` in the folder of computes, at once: nothing of it counts, and it has the
/// port. Before the ports are looked at.
pub async fn end_orphans(folder: &Path, primary: &Primary) -> Result<()> {
    if blocking::exists(folder)
        // What somebody else runs there is none; the start of our own will say so.
        && let Ok(Some(_lock)) = Lock::take(folder.join(LOCK))
    {
        super::orphans::clean(folder, Duration::ZERO).await?;
    }
    primary.old_server_gone().await;
    Ok(())
}
