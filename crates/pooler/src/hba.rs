//! Host-based authentication: which method a client must pass, by `pg_hba.conf`.
//!
//! Format and order of evaluation: PostgreSQL documentation, section 21.1; the first line that fits
//! decides. A line that Howdah cannot honour (other methods, `+role`, host names, unknown options) is
//! an error, never skipped: a skipped `reject` would let somebody in.

mod address;
mod ident;
mod interfaces;
mod parse;
#[cfg(test)]
mod tests;
mod tokens;

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

pub use ident::{IdentMap, IdentMaps};
pub use interfaces::Interfaces;

use address::Addresses;

use crate::settings::file::SettingsError;

/// The lines of one HBA file, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hba {
    rules: Vec<HbaRule>,
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct HbaRule {
    /// For the log: where the rule stands.
    pub file: String,
    pub line: usize,
    pub method: Method,
    connection: ConnectionKind,
    databases: Names,
    users: Names,
    addresses: Addresses,
    map: Option<IdentMap>,
}

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Method {
    Trust,
    Reject,
    /// MD5, or SCRAM for a user whose stored secret is SCRAM.
    Md5,
    /// The password in clear text.
    Password,
    ScramSha256,
    /// The common name of the TLS client certificate, through the line's map.
    Cert,
    /// The system user at the other end of a unix socket, through the line's map.
    Peer,
}

/// A client that asks to log in.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    pub origin: Origin,
    pub database: &'a str,
    pub user: &'a str,
    /// A physical replication connection: only lines with the keyword `replication` fit.
    pub replication: bool,
}

/// Where a client comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    Unix,
    Tcp { address: IpAddr, tls: bool },
}

/// Why a client may not even try; `Display` is Postgres' message, its SQLSTATE is 28000.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal(String);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ConnectionKind {
    Local,
    Host,
    HostSsl,
    HostNoSsl,
    /// `hostgssenc`: there is no GSS encryption, so it fits nobody.
    Never,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Names {
    all: bool,
    same_user: bool,
    replication: bool,
    names: Vec<String>,
}

impl Hba {
    /// Reads a file. `files` gives the text of included files, whose names are relative to the
    /// folder of the file that names them; `maps` are those of the ident file.
    ///
    /// # Errors
    /// Every line that cannot be honoured.
    pub fn parse(
        file: &str,
        text: &str,
        maps: &IdentMaps,
        interfaces: &Interfaces,
        files: &dyn Fn(&Path) -> std::io::Result<String>,
    ) -> Result<Self, Vec<SettingsError>> {
        parse::parse(file, text, &parse::Context { maps, interfaces, files })
    }

    /// The first line that fits.
    ///
    /// # Errors
    /// Postgres' words for: no line fits, or the one that fits rejects.
    pub fn decide(&self, attempt: &Attempt<'_>) -> Result<&HbaRule, Refusal> {
        match self.rules.iter().find(|rule| rule.fits(attempt)) {
            Some(rule) if rule.method == Method::Reject => Err(Refusal::new(true, attempt)),
            Some(rule) => Ok(rule),
            None => Err(Refusal::new(false, attempt)),
        }
    }

    #[must_use]
    pub fn rules(&self) -> &[HbaRule] {
        &self.rules
    }
}

impl HbaRule {
    fn fits(&self, attempt: &Attempt<'_>) -> bool {
        let connection = match (self.connection, attempt.origin) {
            (ConnectionKind::Local, Origin::Unix) => true,
            (ConnectionKind::Host, Origin::Tcp { address, .. })
            | (ConnectionKind::HostSsl, Origin::Tcp { address, tls: true })
            | (ConnectionKind::HostNoSsl, Origin::Tcp { address, tls: false }) => {
                self.addresses.contain(address)
            }
            _ => false,
        };
        connection && self.databases.fit_database(attempt) && self.users.fit_user(attempt.user)
    }

    /// Whether a proven system user or certificate name may log in as `user`: through the line's
    /// map, or by being the same.
    #[must_use]
    pub fn permits(&self, proven: &str, user: &str) -> bool {
        match &self.map {
            Some(map) => map.permits(proven, user),
            None => proven == user,
        }
    }
}

impl Names {
    fn fit_database(&self, attempt: &Attempt<'_>) -> bool {
        if attempt.replication {
            return self.replication;
        }
        self.all
            || (self.same_user && attempt.database == attempt.user)
            || self.names.iter().any(|name| name == attempt.database)
    }

    fn fit_user(&self, user: &str) -> bool {
        self.all || self.names.iter().any(|name| name == user)
    }
}

impl Refusal {
    /// The texts of `ClientAuthentication` in Postgres' `auth.c`.
    fn new(rejected: bool, attempt: &Attempt<'_>) -> Self {
        let what = match (rejected, attempt.replication) {
            (true, true) => "pg_hba.conf rejects replication connection for",
            (true, false) => "pg_hba.conf rejects connection for",
            (false, true) => "no pg_hba.conf entry for replication connection from",
            (false, false) => "no pg_hba.conf entry for",
        };
        let (host, encryption) = match attempt.origin {
            Origin::Unix => ("[local]".to_owned(), "no encryption"),
            Origin::Tcp { address, tls: true } => (address.to_string(), "SSL encryption"),
            Origin::Tcp { address, tls: false } => (address.to_string(), "no encryption"),
        };
        let database = if attempt.replication {
            String::new()
        } else {
            format!("database \"{}\", ", attempt.database)
        };
        let user = attempt.user;
        Self(format!("{what} host \"{host}\", user \"{user}\", {database}{encryption}"))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Method {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Trust => "trust",
            Self::Reject => "reject",
            Self::Md5 => "md5",
            Self::Password => "password",
            Self::ScramSha256 => "scram-sha-256",
            Self::Cert => "cert",
            Self::Peer => "peer",
        })
    }
}
