//! From the lines of `pg_hba.conf` to rules.

use std::path::Path;

use super::address::Addresses;
use super::tokens::{self, Field, Token};
use super::{ConnectionKind, Hba, HbaRule, IdentMap, IdentMaps, Interfaces, Method, Names};
use crate::limits::INCLUDE_DEPTH_MAX;
use crate::settings::file::SettingsError;

/// What lines may refer to.
pub(super) struct Context<'a> {
    pub(super) maps: &'a IdentMaps,
    pub(super) interfaces: &'a Interfaces,
    pub(super) files: &'a dyn Fn(&Path) -> std::io::Result<String>,
}

pub(super) fn parse(
    file: &str,
    text: &str,
    context: &Context<'_>,
) -> Result<Hba, Vec<SettingsError>> {
    let mut reading = Reading { context, rules: Vec::new(), errors: Vec::new() };
    reading.file(file, text, 0);
    if reading.errors.is_empty() { Ok(Hba { rules: reading.rules }) } else { Err(reading.errors) }
}

struct Reading<'a> {
    context: &'a Context<'a>,
    rules: Vec<HbaRule>,
    errors: Vec<SettingsError>,
}

impl Reading<'_> {
    fn file(&mut self, file: &str, text: &str, depth: usize) {
        let lines = match tokens::lines(text) {
            Ok(lines) => lines,
            Err((line, message)) => return self.error(file, line, message),
        };
        for line in lines {
            let result = match directive(&line.fields) {
                Some(Directive::Include { path, optional }) => {
                    self.include(file, path, optional, depth)
                }
                Some(Directive::IncludeDir) => Err("include_dir is not supported".to_owned()),
                None => self.rule(file, &line),
            };
            if let Err(message) = result {
                self.error(file, line.number, message);
            }
        }
    }

    fn include(
        &mut self,
        file: &str,
        path: &str,
        optional: bool,
        depth: usize,
    ) -> Result<(), String> {
        if depth >= INCLUDE_DEPTH_MAX {
            return Err(format!("files include each other more than {INCLUDE_DEPTH_MAX} deep"));
        }
        let path = beside(file, path);
        match (self.context.files)(Path::new(&path)) {
            Ok(text) => self.file(&path, &text, depth + 1),
            Err(error) if optional && error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("could not read \"{path}\": {error}")),
        }
        Ok(())
    }

    fn rule(&mut self, file: &str, line: &tokens::Line) -> Result<(), String> {
        let mut fields = line.fields.iter();
        let connection = connection_kind(one(fields.next(), "a connection type")?)?;
        let databases = fields.next().ok_or("the line ends before the database")?;
        let databases = self.names(file, databases, true)?;
        let users = fields.next().ok_or("the line ends before the user")?;
        let users = self.names(file, users, false)?;
        let addresses = if connection == ConnectionKind::Local {
            Addresses::All
        } else {
            let address = one(fields.next(), "an address")?;
            let mut rest = fields.clone();
            let parsed = Addresses::parse(
                &address.text,
                || rest.next().and_then(|field| field.first()).map(|mask| mask.text.as_str()),
                self.context.interfaces,
            )?;
            fields = rest;
            parsed
        };
        let method = method(&one(fields.next(), "an authentication method")?.text, connection)?;
        let map = self.options(fields, method)?;
        self.rules.push(HbaRule {
            file: file.to_owned(),
            line: line.number,
            method,
            connection,
            databases,
            users,
            addresses,
            map,
        });
        Ok(())
    }

    fn names(&self, file: &str, field: &Field, databases: bool) -> Result<Names, String> {
        let mut names = Names::default();
        for token in field {
            self.name(file, token, databases, &mut names, 0)?;
        }
        Ok(names)
    }

    fn name(
        &self,
        file: &str,
        token: &Token,
        databases: bool,
        names: &mut Names,
        depth: usize,
    ) -> Result<(), String> {
        if token.quoted {
            names.names.push(token.text.clone());
            return Ok(());
        }
        match token.text.as_str() {
            "all" => names.all = true,
            "sameuser" if databases => names.same_user = true,
            "replication" if databases => names.replication = true,
            "samerole" | "samegroup" if databases => {
                return Err(format!("\"{}\" is not supported", token.text));
            }
            text if text.starts_with('+') => {
                return Err("role membership (\"+\") is not supported".to_owned());
            }
            text if text.starts_with('/') => {
                return Err("regular expressions are not supported".to_owned());
            }
            text => match text.strip_prefix('@') {
                Some(path) => self.name_file(&beside(file, path), databases, names, depth)?,
                None => names.names.push(text.to_owned()),
            },
        }
        Ok(())
    }

    /// `@file`: names separated by spaces, commas or line ends.
    fn name_file(
        &self,
        path: &str,
        databases: bool,
        names: &mut Names,
        depth: usize,
    ) -> Result<(), String> {
        if depth >= INCLUDE_DEPTH_MAX {
            return Err(format!("files include each other more than {INCLUDE_DEPTH_MAX} deep"));
        }
        let text = (self.context.files)(Path::new(path))
            .map_err(|error| format!("could not read \"{path}\": {error}"))?;
        let lines = tokens::lines(&text)
            .map_err(|(line, message)| format!("in \"{path}\", line {line}: {message}"))?;
        for token in lines.iter().flat_map(|line| line.fields.iter().flatten()) {
            self.name(path, token, databases, names, depth + 1)?;
        }
        Ok(())
    }

    fn options<'f>(
        &self,
        fields: impl Iterator<Item = &'f Field>,
        method: Method,
    ) -> Result<Option<IdentMap>, String> {
        let mut map = None;
        for field in fields {
            let option = one(Some(field), "an option")?;
            match option.text.split_once('=') {
                Some(("map", name)) if matches!(method, Method::Peer | Method::Cert) => {
                    let found = self.context.maps.get(name);
                    map =
                        Some(found.ok_or_else(|| {
                            format!("the map \"{name}\" is not in the ident file")
                        })?);
                }
                Some(("map", _name)) => {
                    return Err("map= is only valid for peer and cert".to_owned());
                }
                Some((name, _value)) => return Err(format!("option \"{name}\" is not supported")),
                None => return Err(format!("\"{}\" is not of the form name=value", option.text)),
            }
        }
        Ok(map.cloned())
    }

    fn error(&mut self, file: &str, line: usize, message: String) {
        self.errors.push(SettingsError {
            file: file.to_owned(),
            line: Some(line),
            key: None,
            message,
        });
    }
}

enum Directive<'a> {
    Include { path: &'a str, optional: bool },
    IncludeDir,
}

/// The directives of Postgres 16.
fn directive(fields: &[Field]) -> Option<Directive<'_>> {
    let [keyword, path] = fields else { return None };
    let ([keyword], [path]) = (keyword.as_slice(), path.as_slice()) else { return None };
    match keyword.text.as_str() {
        "include" => Some(Directive::Include { path: &path.text, optional: false }),
        "include_if_exists" => Some(Directive::Include { path: &path.text, optional: true }),
        "include_dir" => Some(Directive::IncludeDir),
        _ => None,
    }
}

fn connection_kind(token: &Token) -> Result<ConnectionKind, String> {
    match token.text.as_str() {
        "local" => Ok(ConnectionKind::Local),
        "host" | "hostnogssenc" => Ok(ConnectionKind::Host),
        "hostssl" => Ok(ConnectionKind::HostSsl),
        "hostnossl" => Ok(ConnectionKind::HostNoSsl),
        "hostgssenc" => Ok(ConnectionKind::Never),
        other => Err(format!("invalid connection type \"{other}\"")),
    }
}

fn method(text: &str, connection: ConnectionKind) -> Result<Method, String> {
    let local = connection == ConnectionKind::Local;
    match text {
        "trust" => Ok(Method::Trust),
        "reject" => Ok(Method::Reject),
        "md5" => Ok(Method::Md5),
        "password" => Ok(Method::Password),
        "scram-sha-256" => Ok(Method::ScramSha256),
        // Postgres reads ident on a unix socket as peer.
        "peer" | "ident" if local => Ok(Method::Peer),
        "peer" => Err("peer authentication is only supported on local sockets".to_owned()),
        "cert" if connection == ConnectionKind::HostSsl => Ok(Method::Cert),
        "cert" => Err("cert authentication is only supported on hostssl connections".to_owned()),
        "gss" | "sspi" | "ident" | "ldap" | "radius" | "pam" | "bsd" | "oauth" => {
            Err(format!("authentication method \"{text}\" is not supported"))
        }
        other => Err(format!("invalid authentication method \"{other}\"")),
    }
}

fn one<'a>(field: Option<&'a Field>, what: &str) -> Result<&'a Token, String> {
    match field.map(Vec::as_slice) {
        Some([token]) => Ok(token),
        Some(_) => Err(format!("expected {what}, found a list")),
        None => Err(format!("the line ends before {what}")),
    }
}

/// A path as the file that names it means it.
fn beside(file: &str, path: &str) -> String {
    match Path::new(file).parent() {
        Some(folder) => folder.join(path).display().to_string(),
        None => path.to_owned(),
    }
}
