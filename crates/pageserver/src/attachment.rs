//! Who writes a branch: a compute, as an attachment with its epoch, on disk.
//!
//! Invariant: epochs of a branch only grow, and one is on disk before the first byte of WAL of its compute is received.
//! So of two computes only the one attached last can have anything acknowledged, whatever crashes in between.

use std::path::{Path, PathBuf};

use runtime::fs;
use serde::{Deserialize, Serialize};

use crate::connection::Login;
use crate::error::Error;
use crate::sealed;
use crate::settings::{Password, Settings};
use crate::tls::Encryption;

/// Name of the file in a branch's directory.
const FILE_NAME: &str = "attachment";
const TITLE: &str = "howdah attachment 1";

/// A compute to be followed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    pub server: Server,
    /// An epoch that it had before, or above all before; `None` for the next one.
    pub epoch: Option<u64>,
}

/// Where a compute is, and as whom to connect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// `host:port` with a numeric host, or the path of a unix socket.
    pub address: String,
    /// Role with the REPLICATION attribute; empty for that of the settings.
    #[serde(default)]
    pub user: String,
    /// A file whose first line is its password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
}

impl Server {
    /// The server that libpq means by host (a directory for a unix socket) and port.
    pub fn at(host: &str, port: u16) -> Server {
        let address = match host {
            directory if directory.starts_with('/') => {
                format!("{}/.s.PGSQL.{port}", directory.trim_end_matches('/'))
            }
            "localhost" => format!("127.0.0.1:{port}"),
            host if host.contains(':') => format!("[{host}]:{port}"),
            host => format!("{host}:{port}"),
        };
        Server { address, ..Server::default() }
    }

    /// How to log in there.
    ///
    /// # Errors
    /// When the file with the password cannot be read.
    pub async fn login(&self, settings: &Settings) -> Result<Login, Error> {
        let password = match &self.password_file {
            None => Password::default(),
            Some(path) => {
                let read = fs::read(path).await;
                let bytes = read.map_err(|source| Error::file("read", path, source))?;
                let text = String::from_utf8_lossy(&bytes);
                Password(text.lines().next().unwrap_or_default().to_owned())
            }
        };
        let user = if self.user.is_empty() { &settings.user } else { &self.user };
        Ok(Login {
            server: self.address.clone(),
            user: user.clone(),
            password,
            application_name: settings.application_name.clone(),
            database: String::new(),
            encryption: Encryption::of(settings)?,
        })
    }
}

/// What is on disk of a branch's attachments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The newest epoch; 0 if there has been none.
    pub epoch: u64,
    /// `None`: detached.
    pub server: Option<Server>,
}

impl Record {
    /// Reads that of a branch from its `directory`.
    pub async fn read(directory: &Path) -> Result<Record, Error> {
        let path = directory.join(FILE_NAME);
        match fs::read(&path).await {
            Ok(bytes) => sealed::open(TITLE, &bytes).ok_or_else(|| {
                Error::Damaged(format!("attachment \"{}\" is damaged", path.display()))
            }),
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(Record::default()),
            Err(source) => Err(Error::file("read", &path, source)),
        }
    }

    /// Makes it durable.
    pub async fn write(&self, directory: &Path) -> Result<(), Error> {
        let path = directory.join(FILE_NAME);
        let written = fs::write_atomic(&path, sealed::seal(TITLE, self)).await;
        written.map_err(|source| Error::file("write", &path, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_with_any_byte_changed_is_refused() {
        let record = Record { epoch: 7, server: Some(Server::at("/run/x", 5499)) };
        let bytes = sealed::seal(TITLE, &record);
        assert_eq!(sealed::open(TITLE, &bytes), Some(record));
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            assert_eq!(sealed::open::<Record>(TITLE, &changed), None, "byte {place}");
        }
    }

    #[test]
    fn hosts_are_meant_as_libpq_means_them() {
        for (host, address) in [
            ("/run/x/", "/run/x/.s.PGSQL.5499"),
            ("localhost", "127.0.0.1:5499"),
            ("10.0.0.1", "10.0.0.1:5499"),
            ("::1", "[::1]:5499"),
        ] {
            assert_eq!(Server::at(host, 5499).address, address);
        }
    }
}
