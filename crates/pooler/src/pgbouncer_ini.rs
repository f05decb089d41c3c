//! Reads a PgBouncer user's configuration unchanged.
//!
//! Every option of PgBouncer 1.26 is known by name (`settings::options`). An option without effect
//! here, and one that PgBouncer does not have either, is named in a warning. What would change who
//! can connect if it were ignored is an error: LDAP and PAM, TLS versions that cannot be had,
//! unknown keys of a database or user, and everything that the HBA and user files hold and we do not.

mod entries;
mod syntax;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::limits::INCLUDE_DEPTH_MAX;
use crate::rules::Files;
use crate::settings::file::SettingsError;
use crate::settings::options::{self, Effect};
use crate::settings::{AuthType, Problem, Settings};

use syntax::Statement;

/// What a `pgbouncer.ini` says.
#[derive(Clone, Debug, PartialEq)]
pub struct PgBouncerIni {
    pub settings: Settings,
    /// To be logged: what has no effect here, and what is unwise. `Display` names file and line.
    pub warnings: Vec<SettingsError>,
}

/// Reads a file and those that it includes. Names of files are taken as PgBouncer takes them:
/// relative to the working directory.
///
/// # Errors
/// Everything wrong with them: at least one error.
pub fn parse(file: &str, text: &str, files: Files<'_>) -> Result<PgBouncerIni, Vec<SettingsError>> {
    let mut reading = Reading {
        files,
        settings: Settings::pgbouncer(),
        section: None,
        warnings: Vec::new(),
        errors: Vec::new(),
        places: BTreeMap::new(),
        has_main_section: false,
    };
    reading.file(file, text, 0);
    reading.finish(file)
}

/// The sections that there are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Section {
    PgBouncer,
    Databases,
    Users,
    Peers,
}

struct Reading<'a> {
    files: Files<'a>,
    settings: Settings,
    section: Option<Section>,
    warnings: Vec<SettingsError>,
    errors: Vec<SettingsError>,
    /// Where a key (`listen_port`, `databases.shop`) was set last.
    places: BTreeMap<String, Place>,
    has_main_section: bool,
}

#[derive(Clone, Debug)]
struct Place {
    file: String,
    line: usize,
}

impl Reading<'_> {
    fn file(&mut self, file: &str, text: &str, depth: usize) {
        for (index, line) in text.lines().enumerate() {
            let place = Place { file: file.to_owned(), line: index + 1 };
            let result = match syntax::statement(line) {
                Ok(None) => Ok(()),
                Ok(Some(Statement::Section(name))) => self.section(name),
                Ok(Some(Statement::Include(path))) => self.include(path, depth),
                Ok(Some(Statement::Value { key, value })) => self.value(&place, &key, value),
                Err(message) => Err((None, message)),
            };
            if let Err((key, message)) = result {
                self.errors.push(place.says(key, message));
            }
        }
    }

    fn section(&mut self, name: &str) -> Result<(), Complaint> {
        self.section = Some(match name {
            "pgbouncer" => {
                self.has_main_section = true;
                Section::PgBouncer
            }
            "databases" => Section::Databases,
            "users" => Section::Users,
            "peers" => Section::Peers,
            _ => return Err((None, format!("unknown section [{name}]"))),
        });
        Ok(())
    }

    fn include(&mut self, path: &str, depth: usize) -> Result<(), Complaint> {
        if depth >= INCLUDE_DEPTH_MAX {
            let message = format!("files include each other more than {INCLUDE_DEPTH_MAX} deep");
            return Err((None, message));
        }
        let text = (self.files)(Path::new(path))
            .map_err(|error: io::Error| (None, format!("could not read \"{path}\": {error}")))?;
        self.file(path, &text, depth + 1);
        Ok(())
    }

    fn value(&mut self, place: &Place, key: &str, value: &str) -> Result<(), Complaint> {
        let Some(section) = self.section else {
            return Err((Some(key.to_owned()), "the key stands before any section".to_owned()));
        };
        match section {
            Section::PgBouncer => self.option(place, key, value),
            Section::Databases => {
                let database = entries::database(value)
                    .map_err(|message| (Some(format!("databases.{key}")), message))?;
                self.places.insert(format!("databases.{key}"), place.clone());
                self.settings.databases.insert(key.to_owned(), database);
                Ok(())
            }
            Section::Users => {
                let user = entries::user(value)
                    .map_err(|message| (Some(format!("users.{key}")), message))?;
                self.places.insert(format!("users.{key}"), place.clone());
                self.settings.users.insert(key.to_owned(), user);
                Ok(())
            }
            Section::Peers => {
                entries::peer(value).map_err(|message| (Some(format!("peers.{key}")), message))?;
                let because = "has no effect: all cores are in one process";
                self.warn(place, format!("peers.{key}"), because);
                Ok(())
            }
        }
    }

    fn option(&mut self, place: &Place, key: &str, value: &str) -> Result<(), Complaint> {
        let Some(option) = options::find(key) else {
            self.warn(place, key, "is not an option of PgBouncer 1.26, it has no effect");
            return Ok(());
        };
        match option.effect {
            Effect::None { because } => {
                self.warn(place, key, format!("has no effect: {because}"));
            }
            Effect::Mapped { set, show: _ } => {
                if key == "auth_type" && matches!(value, "ldap" | "pam") {
                    let message = format!("authentication by \"{value}\" is not supported");
                    return Err((Some(key.to_owned()), message));
                }
                set(&mut self.settings, value)
                    .map_err(|message| (Some(key.to_owned()), message))?;
                self.places.insert(key.to_owned(), place.clone());
            }
        }
        Ok(())
    }

    fn warn(&mut self, place: &Place, key: impl Into<String>, message: impl Into<String>) {
        self.warnings.push(place.says(Some(key.into()), message.into()));
    }

    fn finish(mut self, file: &str) -> Result<PgBouncerIni, Vec<SettingsError>> {
        let whole = Place { file: file.to_owned(), line: 0 };
        if self.errors.is_empty() && !self.has_main_section {
            self.errors.push(whole.says(None, "the section [pgbouncer] is missing".to_owned()));
        }
        if self.errors.is_empty() {
            self.errors = self
                .settings
                .problems()
                .into_iter()
                .map(|problem| self.locate(problem, &whole))
                .collect();
        }
        if !self.errors.is_empty() {
            return Err(self.errors);
        }
        self.warn_of_open_doors(&whole);
        Ok(PgBouncerIni { settings: self.settings, warnings: self.warnings })
    }

    /// PgBouncer lets a pooler be reached without TLS, so the file works; but nobody should do so unknowingly.
    fn warn_of_open_doors(&mut self, whole: &Place) {
        if !self.settings.listens_off_loopback() {
            return;
        }
        let place = self.places.get("listen_addr").unwrap_or(whole).clone();
        if !self.settings.client_tls_sslmode.is_required() {
            let message = "clients of other machines need no TLS (client_tls_sslmode)";
            self.warn(&place, "listen_addr", message);
        }
        if matches!(self.settings.auth_type, AuthType::Trust | AuthType::Any) {
            let message = format!(
                "clients of other machines need no password (auth_type = {})",
                self.settings.auth_type
            );
            self.warn(&place, "listen_addr", message);
        }
    }

    /// `databases.shop.port` is on the line of `databases.shop`.
    fn locate(&self, problem: Problem, whole: &Place) -> SettingsError {
        let mut key = problem.key.as_str();
        loop {
            if let Some(place) = self.places.get(key) {
                return place.says(Some(problem.key.clone()), problem.message);
            }
            match key.rsplit_once('.') {
                Some((shorter, _field)) => key = shorter,
                None => return whole.says(Some(problem.key.clone()), problem.message),
            }
        }
    }
}

/// A key, if there is one, and what is wrong.
type Complaint = (Option<String>, String);

impl Place {
    /// Line 0 is the file as a whole.
    fn says(&self, key: Option<String>, message: String) -> SettingsError {
        SettingsError {
            file: self.file.clone(),
            line: (self.line > 0).then_some(self.line),
            key,
            message,
        }
    }
}
