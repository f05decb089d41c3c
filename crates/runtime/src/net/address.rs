//! Where a socket is.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use rustix::net::{AddressFamily, SocketAddrAny, SocketAddrUnix};

/// A TCP or a Unix socket's address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    Tcp(SocketAddr),
    /// An empty path is a socket without a name, as a connecting one has.
    Unix(PathBuf),
}

impl Address {
    pub(crate) fn of(any: &SocketAddrAny) -> io::Result<Self> {
        if any.address_family() == AddressFamily::UNIX {
            let name = SocketAddrUnix::try_from(any.clone())?;
            let path = name.path_bytes().unwrap_or_default();
            return Ok(Self::Unix(PathBuf::from(std::ffi::OsStr::from_bytes(path))));
        }
        Ok(Self::Tcp(SocketAddr::try_from(any.clone())?))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Neither `host:port` with a numeric host nor a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadAddress(String);

impl fmt::Display for BadAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "\"{}\" is neither an IP address with a port nor the path of a Unix socket",
            self.0
        )
    }
}

impl std::error::Error for BadAddress {}

impl FromStr for Address {
    type Err = BadAddress;

    /// `127.0.0.1:6432`, `[::1]:6432`, `unix:/path` or `/path`.
    fn from_str(text: &str) -> Result<Self, BadAddress> {
        match text.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Ok(Self::Unix(path.into())),
            None if text.starts_with('/') => Ok(Self::Unix(text.into())),
            _ => match text.parse() {
                Ok(address) => Ok(Self::Tcp(address)),
                Err(_unsaid) => Err(BadAddress(text.to_owned())),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_prints() {
        for text in ["127.0.0.1:6432", "[::1]:1", "unix:/run/a b.sock"] {
            let address = text.parse::<Address>().expect("an address");
            assert_eq!(address.to_string(), text);
        }
        assert_eq!("/tmp/s".parse(), Ok(Address::Unix("/tmp/s".into())));
    }

    #[test]
    fn refuses_names_and_ports_alone() {
        for text in ["", "localhost:1", "1234", "unix:", "127.0.0.1"] {
            assert_eq!(text.parse::<Address>(), Err(BadAddress(text.to_owned())));
        }
    }
}
