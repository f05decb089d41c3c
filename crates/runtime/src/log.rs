//! Structured log lines to standard error, as text for people or JSON for machines.
//!
//! Other crates log with the `tracing` macros; this module only decides what a line looks like, which lines
//! are written, and what happens when nobody reads them: a stalled or closed standard error costs lines, never
//! a stopped core.

mod format;
mod sink;

use std::cell::Cell;
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use format::{JsonLine, TextLine};
use sink::Sink;

/// What a log line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `2026-11-21 03:10:11.123456 UTC [node 0] INFO  pooler: message key=value`
    #[default]
    Text,
    /// One JSON object a line: timestamp, level, node, target, message, fields.
    Json,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

impl FromStr for Format {
    type Err = LogError;

    fn from_str(name: &str) -> Result<Self, LogError> {
        match name {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(LogError::Format(other.to_owned())),
        }
    }
}

/// Why logging could not be set up as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogError {
    /// Neither `text` nor `json`.
    Format(String),
    /// The level filter is not one; the reason.
    Levels(String),
    /// [`init`] was called before in this process, or another subscriber is installed.
    AlreadyInitialised,
    /// [`set_levels`] was called before [`init`].
    NotInitialised,
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format(name) => {
                write!(f, "unknown log format \"{name}\": expected \"text\" or \"json\"")
            }
            Self::Levels(reason) => write!(f, "invalid log level filter: {reason}"),
            Self::AlreadyInitialised => f.write_str("logging is already set up in this process"),
            Self::NotInitialised => f.write_str("logging is not set up in this process"),
        }
    }
}

impl std::error::Error for LogError {}

static LEVELS: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Sets up logging for the whole process and sends panics through it as well.
///
/// `levels` is a list like `info,pooler=debug`: a default level, then levels per target.
///
/// # Errors
/// [`LogError`] when the filter does not parse or logging is set up already.
pub fn init(format: Format, levels: &str) -> Result<(), LogError> {
    let (filter, handle) = reload::Layer::new(parse_levels(levels)?);
    let sink = Sink::stderr();
    let subscriber = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(sink);
    match format {
        Format::Text => subscriber.with(layer.event_format(TextLine)).try_init(),
        Format::Json => subscriber.with(layer.event_format(JsonLine)).try_init(),
    }
    .map_err(|_installed| LogError::AlreadyInitialised)?;
    LEVELS.set(handle).map_err(|_handle| LogError::AlreadyInitialised)?;
    log_panics();
    Ok(())
}

/// Replaces the level filter, for a reload.
///
/// # Errors
/// [`LogError::Levels`] when it does not parse (the old one stays), [`LogError::NotInitialised`] before [`init`].
pub fn set_levels(levels: &str) -> Result<(), LogError> {
    let filter = parse_levels(levels)?;
    let handle = LEVELS.get().ok_or(LogError::NotInitialised)?;
    handle.reload(filter).map_err(|error| LogError::Levels(error.to_string()))
}

/// Whether a level filter would be accepted; for checking a configuration before it is used.
///
/// # Errors
/// [`LogError::Levels`] with the reason.
pub fn check_levels(levels: &str) -> Result<(), LogError> {
    parse_levels(levels).map(|_filter| ())
}

fn parse_levels(levels: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(levels)
        .map_err(|error| LogError::Levels(error.to_string()))
}

thread_local! {
    static NODE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Marks the lines of this thread with a node's index; the nodepool does it for its cores.
pub fn set_node(index: Option<usize>) {
    NODE.set(index);
}

/// The node whose thread this is, if any.
#[must_use]
pub fn node() -> Option<usize> {
    NODE.get()
}

fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        let message = panic.payload_as_str().unwrap_or("no message");
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(
            target: "panic", thread = name, location, backtrace = %backtrace, "{message}"
        );
    }));
}

#[cfg(test)]
mod tests;
