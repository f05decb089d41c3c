//! `[compute]` of `howdah.toml`: where computes run, how many, and for how long.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use pooler::settings::units::duration;
use serde::{Deserialize, Serialize};

/// How computes are run.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Scratch of computes and their logs. Empty: `computes` in the instance's folder; without one there are no computes.
    pub directory: PathBuf,
    pub mode: Mode,
    /// Computes at a time; who asks for one more waits until one is idle.
    pub max_running: usize,
    /// Computes that start at the same time.
    pub start_concurrency: usize,
    /// How long a client waits at most.
    #[serde(deserialize_with = "duration")]
    pub start_timeout: Duration,
    /// A compute that no client of the pooler is connected to is stopped after this. 0: never.
    #[serde(deserialize_with = "duration")]
    pub idle_timeout: Duration,
    /// How long it has to shut down before it is killed.
    #[serde(deserialize_with = "duration")]
    pub stop_timeout: Duration,
    /// Settings of their servers; they win over those of the branch and over Howdah's own.
    pub postgres: BTreeMap<String, toml::Value>,
}

/// What a compute's data directory is.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A mount where this machine allows it, else a restored directory.
    #[default]
    Auto,
    /// A mount over the page server: starts at once, whatever the size.
    Fuse,
    /// A directory, restored before each start.
    Directory,
}

impl Mode {
    /// As the command line has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fuse => "fuse",
            Self::Directory => "directory",
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            directory: PathBuf::new(),
            mode: Mode::Auto,
            max_running: 8,
            start_concurrency: 4,
            start_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(300),
            stop_timeout: Duration::from_secs(30),
            postgres: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// What is wrong with them: key and message.
    #[must_use]
    pub fn problem(&self) -> Option<(&'static str, String)> {
        let zero = |key: &'static str| Some((key, "at least 1".to_owned()));
        match self {
            Self { max_running: 0, .. } => zero("max_running"),
            Self { start_concurrency: 0, .. } => zero("start_concurrency"),
            Self { start_timeout: Duration::ZERO, .. } => Some((
                "start_timeout",
                "clients cannot wait without end, nor not at all".to_owned(),
            )),
            _ => None,
        }
    }
}
