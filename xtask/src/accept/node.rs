//! The page server under test: `howdah node` in a process of its own, and `howdah`'s commands towards it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::server::{Programs, last_lines, succeed};
use super::store::Store;
use crate::bench::process::Daemon;
use crate::bench::server::free_port;

/// Longest wait for the page server to come as far as the server it follows: it may be a slow machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// The page server of a run, running or not.
pub(crate) struct Node<'p> {
    pub(crate) programs: &'p Programs,
    howdah: PathBuf,
    pub(crate) store: &'p Store,
    folder: PathBuf,
    api: u16,
    pub(crate) pages: u16,
    daemon: Option<Daemon>,
}

impl<'p> Node<'p> {
    /// Writes its configuration: it follows the server on this socket.
    pub(crate) fn new(
        programs: &'p Programs,
        howdah: &Path,
        folder: PathBuf,
        store: &'p Store,
        server: &Path,
    ) -> Result<Node<'p>, String> {
        programs.make_folder(&folder)?;
        let (api, pages) = (free_port()?, free_port()?);
        let (directory, server) = (folder.join("pages"), server.display());
        let settings = format!(
            "[node]\napplets = [\"pageserver\"]\ncores = 1\npin = false\n\
             [api]\nlisten = \"127.0.0.1:{api}\"\n\
             [pageserver]\ndirectory = \"{}\"\nlisten = \"127.0.0.1:{pages}\"\nserver = \"{server}\"\n\
             checkpoint_bytes = 16777216\nwait_lsn_timeout_ms = 120000\n{}",
            directory.display(),
            store.settings(),
        );
        let file = folder.join("howdah.toml");
        fs::write(&file, settings).map_err(|error| format!("{}: {error}", file.display()))?;
        let howdah = match programs.user {
            None => howdah.to_owned(),
            // It may have been built where the user cannot go, as in root's home.
            Some(_) => {
                let copy = folder.join("howdah");
                let copied = fs::copy(howdah, &copy);
                copied.map_err(|error| format!("{}: {error}", copy.display()))?;
                copy
            }
        };
        Ok(Node { programs, howdah, store, folder, api, pages, daemon: None })
    }

    pub(crate) fn start(&mut self) -> Result<(), String> {
        let howdah = self.howdah.display().to_string();
        let config = self.folder.join("howdah.toml").display().to_string();
        let mut command = self.store.environment();
        command.extend([howdah, "node".to_owned(), "--config".to_owned(), config]);
        let log = self.log();
        self.daemon = Some(Daemon::start("howdah", &command, self.programs.user, &log)?);
        self.wait("the API", |_status| true).map(drop)
    }

    pub(crate) fn stop(&mut self) -> Result<(), String> {
        match self.daemon.take() {
            Some(mut daemon) => match daemon.stop_within(Duration::from_secs(120), "-TERM") {
                true => Ok(()),
                false => Err("howdah does not stop".to_owned()),
            },
            None => Ok(()),
        }
    }

    fn log(&self) -> PathBuf {
        self.folder.join("howdah.log")
    }

    /// Runs a command of `howdah`; answers what it prints.
    pub(crate) fn howdah(&self, arguments: &[&str]) -> Result<String, String> {
        let environment = self.store.environment();
        let mut command: Command = match environment.split_first() {
            Some((env, variables)) => {
                let mut command = self.programs.command(env);
                command.args(variables).arg(&self.howdah);
                command
            }
            None => self.programs.command(&self.howdah.display().to_string()),
        };
        command.args(arguments).env("HOWDAH_API", format!("127.0.0.1:{}", self.api));
        succeed(command)
    }

    pub(crate) fn status(&self) -> Result<Value, String> {
        let said = self.howdah(&["timeline", "status", "--json"])?;
        let value: Value = serde_json::from_str(&said).map_err(|error| error.to_string())?;
        Ok(value["timelines"][0].clone())
    }

    /// Waits until the status is as it should be; the last one is told otherwise.
    pub(crate) fn wait(
        &mut self,
        what: &str,
        expected: impl Fn(&Value) -> bool,
    ) -> Result<Value, String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if let Ok(status) = &status
                && expected(status)
            {
                return Ok(status.clone());
            }
            let ended = self.daemon.as_mut().and_then(Daemon::ended);
            if ended.is_some() || Instant::now() > until {
                let log = fs::read_to_string(self.log()).unwrap_or_default();
                let log = last_lines(&log, 20);
                let ended = ended.unwrap_or_default();
                return Err(format!("{what} does not come: {ended} {status:?}\n{log}"));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits until everything up to `lsn` is here, and in the store.
    pub(crate) fn wait_stored(&mut self, lsn: u64) -> Result<Value, String> {
        let reaches = move |value: &Value| value.as_str().and_then(position) >= Some(lsn);
        self.wait("the upload", move |status| {
            let store = &status["store"];
            reaches(&status["ingested_lsn"])
                && reaches(&store["uploaded_lsn"])
                && store["waiting_bytes"] == 0
                && store["waiting_ms"] == 0
        })
    }

    /// Everything that this machine has of it goes; comes back from the store.
    pub(crate) fn lose_and_recover(&mut self) -> Result<(), String> {
        self.stop()?;
        let directory = self.folder.join("pages");
        fs::remove_dir_all(&directory).map_err(|error| error.to_string())?;
        let directory = directory.display().to_string();
        let store = self.store.options();
        let store: Vec<&str> = store.iter().map(String::as_str).collect();
        let said = self.howdah(&[&["recover", "--dir", &directory], &store[..]].concat())?;
        println!("{}", said.trim_end());
        self.start()?;
        self.wait("the timeline", |status| status["ingested_lsn"].is_string()).map(drop)
    }
}

/// `0/16B3748` as a number.
pub(crate) fn position(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let (high, low) = (u64::from_str_radix(high, 16).ok()?, u64::from_str_radix(low, 16).ok()?);
    Some(high << 32 | low)
}

pub(crate) fn shown(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF)
}
