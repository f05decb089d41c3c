//! What goes wrong with a compute as a whole. What goes wrong with one file is answered to Postgres.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use pageserver::client::ClientError;

#[derive(Debug)]
pub enum Error {
    /// The user whom root is to become.
    Account {
        name: String,
        source: io::Error,
    },
    /// A local file or directory.
    File {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The kernel's side of the mount.
    Mount {
        mountpoint: PathBuf,
        source: io::Error,
    },
    /// The boot image makes no sense.
    Image(String),
    /// Another compute has the directory.
    InUse {
        directory: PathBuf,
    },
    PageServer(ClientError),
    /// The kernel speaks another protocol.
    Protocol {
        major: u32,
        minor: u32,
    },
    /// Postgres does not run (any more).
    Server(String),
    /// More files than we hold in memory.
    TooManyFiles {
        limit: usize,
    },
}

impl Error {
    pub(crate) fn file(what: &'static str, path: &Path, source: io::Error) -> Error {
        Error::File { what, path: path.to_owned(), source }
    }

    /// What an operator can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Error::Mount { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some(
                    "mounting needs /dev/fuse, and root or user namespaces; --mode directory restores the branch instead",
                )
            }
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::File { what, path, source } => {
                write!(f, "could not {what} \"{}\": {source}", path.display())
            }
            Error::Mount { mountpoint, source } => {
                write!(f, "could not serve the mount at \"{}\": {source}", mountpoint.display())
            }
            Error::Account { name, source } => {
                write!(f, "could not become user \"{name}\": {source}")
            }
            Error::Image(what) => write!(f, "the boot image cannot be used: {what}"),
            Error::InUse { directory } => {
                write!(f, "another compute runs in \"{}\"", directory.display())
            }
            Error::PageServer(error) => fmt::Display::fmt(error, f),
            Error::Server(what) => f.write_str(what),
            Error::Protocol { major, minor } => {
                write!(f, "the kernel speaks version {major}.{minor} of its file system protocol")
            }
            Error::TooManyFiles { limit } => write!(f, "there are more than {limit} files"),
        }
    }
}

impl std::error::Error for Error {}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Error {
        Error::PageServer(error)
    }
}
