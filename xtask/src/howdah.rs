//! The program that is measured and judged: its release build, and a running `howdah up`, told what to do by its own
//! commands.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::bench::process::{self, Daemon};
use crate::root;

/// Where the release build is.
pub(crate) fn built() -> PathBuf {
    root().join("target/release/howdah")
}

/// Builds it, as a user would.
pub(crate) fn build() -> Result<PathBuf, String> {
    eprintln!("building howdah");
    let built = Command::new("cargo")
        .args(["build", "--quiet", "--release", "--package", "howdah"])
        .current_dir(root())
        .status()
        .map_err(|error| format!("cargo: {error}"))?;
    if built.success() { Ok(self::built()) } else { Err("the release build failed".to_owned()) }
}

/// Stopped when dropped.
#[derive(Debug)]
pub(crate) struct Howdah {
    pub(crate) program: PathBuf,
    /// What it said when everything ran: addresses and folders.
    pub(crate) facts: Value,
    config: PathBuf,
    daemon: Daemon,
}

impl Howdah {
    /// Starts one with PostgreSQL's programs from `binaries`; its data, its configuration and its log go to `folder`.
    pub(crate) fn start(
        program: &Path,
        binaries: &Path,
        folder: &Path,
        configuration: &str,
    ) -> Result<Self, String> {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let (config, log) = (folder.join("howdah.toml"), folder.join("howdah.log"));
        fs::write(&config, configuration).map_err(|error| error.to_string())?;
        let shown = |path: &Path| path.display().to_string();
        let command = [
            "env".to_owned(),
            format!("HOWDAH_PG_BIN={}", binaries.display()),
            shown(program),
            "up".to_owned(),
            "--json".to_owned(),
            "--dir".to_owned(),
            shown(&folder.join("howdah")),
            "--config".to_owned(),
            shown(&config),
        ];
        let mut daemon = Daemon::start("howdah", &command, None, &log)?;
        let mut facts = Value::Null;
        process::wait_until(&mut daemon, &log, || {
            let said = fs::read_to_string(&log).unwrap_or_default();
            let line = said.lines().find(|line| line.starts_with('{') && line.contains("pooler"));
            facts = line.and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
            !facts.is_null()
        })?;
        Ok(Self { program: program.to_owned(), facts, config, daemon })
    }

    /// Runs a command of ours against it; what that prints.
    pub(crate) fn tell(&self, words: &[&str]) -> Result<String, String> {
        let api = self.facts["api"].as_str().ok_or("no API")?;
        let program = self.program.display().to_string();
        process::output(&[&[program.as_str(), "--api", api][..], words].concat(), None)
    }

    /// Has it read this configuration instead.
    pub(crate) fn reload(&self, configuration: &str) -> Result<(), String> {
        fs::write(&self.config, configuration).map_err(|error| error.to_string())?;
        process::output(&["kill", "-HUP", &self.daemon.pid().to_string()], None).map(drop)
    }

    /// Host and port of the pooler.
    pub(crate) fn pooler(&self) -> Result<(String, u16), String> {
        let address = self.facts["pooler"].as_str().ok_or("no pooler")?;
        let (host, port) = address.rsplit_once(':').ok_or("no port")?;
        Ok((host.to_owned(), port.parse().map_err(|_not_one| "no port")?))
    }

    /// Starts a compute on a mount, unless it runs; folder and number of its server's socket.
    pub(crate) fn compute(&self, name: &str) -> Result<(String, u16), String> {
        self.tell(&["compute", "start", name])?;
        let list: Value = serde_json::from_str(&self.tell(&["compute", "list", "--json"])?)
            .map_err(|error| error.to_string())?;
        let all = list["computes"].as_array().or(list.as_array()).ok_or("no list of computes")?;
        let line = all.iter().find(|line| line["name"] == name);
        let line = line.ok_or_else(|| format!("\"{name}\" does not run: {list}"))?;
        if line["mode"] != "fuse" {
            return Err(format!("no mount: {line}"));
        }
        let port = line["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        let host = line["socket_dir"].as_str().ok_or("no socket")?;
        Ok((host.to_owned(), port.ok_or("no port")?))
    }

    pub(crate) fn stop(&mut self) {
        self.daemon.stop("-INT");
    }
}
