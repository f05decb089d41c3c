//! `howdah.toml`: every setting of every part, typed, with its default; read once, at start and on reload.
//!
//! A key that nobody knows, a value of the wrong type, settings that contradict each other: each is an error
//! that names file, line and key.

pub mod environment;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use pooler::settings::Problem;
use pooler::settings::file::read_toml;
use runtime::fs::blocking as fs;
use runtime::io::BackendChoice;
use runtime::log;
use runtime::nodepool::Cores;
use serde::{Deserialize, Deserializer};

use crate::computes;
use crate::error::{Error, Result, While};

/// The whole file. Every section and every key may be left out.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub node: Node,
    pub log: Log,
    pub api: Api,
    pub postgres: Postgres,
    pub pooler: pooler::settings::Settings,
    pub pageserver: pageserver::settings::Settings,
    pub compute: computes::settings::Settings,
}

/// `[node]`: the nodepool, which is this process.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Cores to run on, one thread each.
    #[serde(deserialize_with = "cores")]
    pub cores: Cores,
    /// Bind each thread to its core.
    pub pin: bool,
    /// How to do I/O.
    #[serde(deserialize_with = "parsed")]
    pub ev_backend: BackendChoice,
    /// What `howdah node` runs; `howdah up` runs everything.
    pub applets: Vec<AppletName>,
}

/// A part that can run in a node.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum AppletName {
    Postgres,
    PageServer,
    Pooler,
    Computes,
}

/// `[log]`: what goes to standard error.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    #[serde(deserialize_with = "parsed")]
    pub format: log::Format,
    /// A level, or levels by target: `info,pooler=debug`.
    pub level: String,
}

/// `[api]`: JSON over HTTP.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Api {
    /// Off: no API, and the commands that need it do not work.
    pub enabled: bool,
    pub listen: SocketAddr,
    /// File with the bearer token that callers must present, mode 0600.
    pub token_file: Option<PathBuf>,
}

/// `[postgres]`: the server that Howdah initialises and supervises.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Postgres {
    /// Folder of the programs. Empty: HOWDAH_PG_BIN, else the usual places.
    pub bin_dir: PathBuf,
    /// Empty: `postgres` in the instance's folder.
    pub data_dir: PathBuf,
    /// Where `howdah up` has `main`.
    pub place: Place,
    /// TCP port on loopback, and the number in the name of the unix socket. 0: no TCP.
    pub port: u16,
    /// Settings for `postgresql.conf`; they win over those that Howdah writes.
    pub settings: BTreeMap<String, toml::Value>,
}

/// Where `main` lives.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// As it is on record; at the first start a mount if this machine lets us, else a directory.
    #[default]
    Auto,
    /// Its server is a compute on a mount over the page server, and replaced when it dies.
    Mount,
    /// A plain data directory.
    Directory,
}

impl Default for Node {
    fn default() -> Self {
        let applets = vec![AppletName::Pooler];
        Self { cores: Cores::Auto, pin: true, ev_backend: BackendChoice::default(), applets }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: log::Format::Text, level: "info".to_owned() }
    }
}

impl Default for Api {
    fn default() -> Self {
        let listen = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), API_PORT);
        Self { enabled: true, listen, token_file: None }
    }
}

/// The API's port unless it is configured.
pub const API_PORT: u16 = 6480;

impl Default for Postgres {
    fn default() -> Self {
        let (bin_dir, data_dir, place, settings) = Default::default();
        Self { bin_dir, data_dir, place, port: 5433, settings }
    }
}

impl Config {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let text = fs::read_to_string(path).or_fail(format_args!("could not read \"{name}\""))?;
        Self::parse(&name, &text)
    }

    /// `file` is the name for messages.
    pub fn parse(file: &str, text: &str) -> Result<Self> {
        let config: Self = read_toml(file, text).map_err(|error| Error::new(error.to_string()))?;
        let problems = config.problems();
        let Some(((section, problem), more)) = problems.split_first() else { return Ok(config) };
        let error = Error::new(problem.in_toml(file, text, section).to_string());
        if more.is_empty() {
            return Err(error);
        }
        let others: Vec<String> = more
            .iter()
            .map(|(section, problem)| problem.in_toml(file, text, section).to_string())
            .collect();
        Err(error.detail(format!("and {}", others.join("; "))))
    }

    /// What no single value can say, by section.
    fn problems(&self) -> Vec<(&'static str, Problem)> {
        let mut found: Vec<_> =
            self.pooler.problems().into_iter().map(|problem| ("pooler", problem)).collect();
        if let Err(message) = self.pageserver.check() {
            let (key, message) = message.split_once(": ").unwrap_or(("pageserver", &message));
            let key = key.trim_start_matches("pageserver.").to_owned();
            found.push(("pageserver", Problem { key, message: message.to_owned() }));
        }
        if !self.api.listen.ip().is_loopback() {
            let message = "the API has no TLS yet, so it listens on loopback only".to_owned();
            found.push(("api", Problem { key: "listen".to_owned(), message }));
        }
        if let Err(error) = log::check_levels(&self.log.level) {
            found.push(("log", Problem { key: "level".to_owned(), message: error.to_string() }));
        }
        if let Some((key, message)) = self.compute.problem() {
            found.push(("compute", Problem { key: key.to_owned(), message }));
        }
        let empty = |name: &&String| name.is_empty() || !name.chars().all(is_setting_character);
        let places = [
            ("postgres", "settings", &self.postgres.settings),
            ("compute", "postgres", &self.compute.postgres),
        ];
        for (section, key, settings) in places {
            if let Some(name) = settings.keys().find(empty) {
                let message = format!("\"{name}\" is not the name of a setting");
                found.push((section, Problem { key: key.to_owned(), message }));
            }
        }
        found
    }
}

/// Names of PostgreSQL's settings; a dot belongs to those of extensions.
fn is_setting_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_' || character == '.'
}

/// A value written as text, by its own parser.
fn parsed<'de, D, T>(input: D) -> std::result::Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    let text = String::deserialize(input)?;
    text.parse().map_err(serde::de::Error::custom)
}

/// `"auto"`, `2`, `"0,2-3"` or `[0, 2, 3]`.
fn cores<'de, D: Deserializer<'de>>(input: D) -> std::result::Result<Cores, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Count(usize),
        Text(String),
        List(Vec<usize>),
    }
    let text = match Written::deserialize(input)? {
        Written::Count(count) => count.to_string(),
        Written::Text(text) => text,
        Written::List(list) if list.is_empty() => {
            return Err(serde::de::Error::custom("no core is named"));
        }
        Written::List(list) => {
            list.iter().map(|core| format!("{core}-{core}")).collect::<Vec<_>>().join(",")
        }
    };
    text.parse().map_err(serde::de::Error::custom)
}
