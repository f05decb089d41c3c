//! Reading settings from TOML text so that every complaint names file, line and key.

use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Problem, Settings};

/// A complaint about a configuration file: `howdah.toml:12: pooler.pool_mode: …`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SettingsError {
    pub file: String,
    /// Counted from 1. `None`: the file as a whole.
    pub line: Option<usize>,
    /// With dots; `None` where the text is not even `key = value`.
    pub key: Option<String>,
    pub message: String,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(formatter, ":{line}")?;
        }
        if let Some(key) = &self.key {
            write!(formatter, ": {key}")?;
        }
        write!(formatter, ": {}", self.message)
    }
}

impl std::error::Error for SettingsError {}

/// Reads a whole TOML file into any configuration type. `file` is its name for messages.
///
/// # Errors
/// The first thing wrong with it. No message quotes the source line, which may hold a password.
pub fn read_toml<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, SettingsError> {
    toml::from_str(text).map_err(|error| {
        let span = error.span();
        let line = span.as_ref().map(|span| line_of(text, span.start));
        SettingsError {
            file: file.to_owned(),
            line,
            key: span.and_then(|span| key_at(text, &span)),
            message: error.message().trim().replace('\n', ", "),
        }
    })
}

/// Reads the `[pooler]` table of a TOML file and checks it; other tables are left to others.
///
/// # Errors
/// Everything wrong with it: at least one error.
pub fn read_pooler(file: &str, text: &str) -> Result<Settings, Vec<SettingsError>> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        pooler: Settings,
    }
    let File { pooler } = read_toml(file, text).map_err(|error| vec![error])?;
    let errors: Vec<_> =
        pooler.problems().iter().map(|problem| problem.in_toml(file, text, "pooler")).collect();
    if errors.is_empty() { Ok(pooler) } else { Err(errors) }
}

impl Problem {
    /// The complaint with its place in a TOML file; `table` is where the settings live in it.
    #[must_use]
    pub fn in_toml(&self, file: &str, text: &str, table: &str) -> SettingsError {
        let key = if table.is_empty() { self.key.clone() } else { format!("{table}.{}", self.key) };
        SettingsError {
            file: file.to_owned(),
            line: locate(text, &key),
            key: Some(key),
            message: self.message.clone(),
        }
    }
}

/// The line on which a key (with dots) is set, or that of the innermost table around it.
#[must_use]
pub fn locate(text: &str, key: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    let mut rest = key;
    let mut line = None;
    loop {
        // A key may itself hold a dot (a database called `a.b`), so match by prefix.
        let (name, value) = table.iter().find(|(name, _value)| {
            rest.strip_prefix(name.get_ref().as_ref())
                .is_some_and(|tail| tail.is_empty() || tail.starts_with('.'))
        })?;
        line = Some(line_of(text, name.span().start)).or(line);
        rest = rest.strip_prefix(name.get_ref().as_ref()).unwrap_or_default();
        rest = rest.strip_prefix('.').unwrap_or(rest);
        match value.get_ref() {
            DeValue::Table(inner) if !rest.is_empty() => {
                let found_inside = inner.iter().any(|(name, _value)| {
                    rest.strip_prefix(name.get_ref().as_ref())
                        .is_some_and(|tail| tail.is_empty() || tail.starts_with('.'))
                });
                if !found_inside {
                    return line;
                }
                table = inner;
            }
            _ => return line,
        }
    }
}

/// The key (with dots) whose name or value covers a place of the text.
fn key_at(text: &str, span: &Range<usize>) -> Option<String> {
    let (document, _errors) = DeTable::parse_recoverable(text);
    deepest(document.get_ref(), span)
}

fn deepest(table: &DeTable<'_>, span: &Range<usize>) -> Option<String> {
    for (name, value) in table {
        let inner = match value.get_ref() {
            DeValue::Table(inner) => deepest(inner, span),
            _ => None,
        };
        if let Some(inner) = inner {
            return Some(format!("{}.{inner}", name.get_ref()));
        }
        if covers(&name.span(), span) || (!is_table(value) && covers(&value.span(), span)) {
            return Some(name.get_ref().to_string());
        }
    }
    None
}

fn is_table(value: &Spanned<DeValue<'_>>) -> bool {
    matches!(value.get_ref(), DeValue::Table(_))
}

fn covers(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.start < outer.end
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count()
}
