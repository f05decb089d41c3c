//! Where to listen: from `listen_addr`, `listen_port` and `unix_socket_dir` to socket addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use super::Settings;

/// One address to bind.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ListenAddress {
    Tcp(SocketAddr),
    /// Also counts as found when it is the IPv6 half of `*` or `localhost`: a machine may lack IPv6.
    TcpOptional(SocketAddr),
    /// The path of the socket; `@…` is the abstract namespace.
    Unix(PathBuf),
}

impl Settings {
    /// The addresses to bind, in the order of the settings, without repetitions.
    ///
    /// # Errors
    /// A host name that cannot be looked up, as a sentence that names it.
    pub fn listeners(&self) -> Result<Vec<ListenAddress>, String> {
        let mut found = Vec::new();
        let mut add = |address: ListenAddress| {
            if !found.contains(&address) {
                found.push(address);
            }
        };
        for name in &self.listen_addr {
            for address in resolve(name, self.listen_port)? {
                add(address);
            }
        }
        if !self.unix_socket_dir.is_empty() {
            add(ListenAddress::Unix(socket_path(&self.unix_socket_dir, self.listen_port)));
        }
        Ok(found)
    }

    /// Whether any TCP address can be reached from another machine.
    #[must_use]
    pub fn listens_off_loopback(&self) -> bool {
        self.listen_addr.iter().any(|name| !is_loopback(name))
    }
}

/// The socket in a folder: `/tmp` and 6432 give `/tmp/.s.PGSQL.6432` (libpq's rule).
#[must_use]
pub fn socket_path(directory: &str, port: u16) -> PathBuf {
    if directory.starts_with('@') {
        return PathBuf::from(format!("{directory}/.s.PGSQL.{port}"));
    }
    Path::new(directory).join(format!(".s.PGSQL.{port}"))
}

fn resolve(name: &str, port: u16) -> Result<Vec<ListenAddress>, String> {
    let tcp = |ip: IpAddr| ListenAddress::Tcp(SocketAddr::new(ip, port));
    let optional = |ip: IpAddr| ListenAddress::TcpOptional(SocketAddr::new(ip, port));
    match name {
        "*" => Ok(vec![tcp(Ipv4Addr::UNSPECIFIED.into()), optional(Ipv6Addr::UNSPECIFIED.into())]),
        "localhost" => {
            Ok(vec![tcp(Ipv4Addr::LOCALHOST.into()), optional(Ipv6Addr::LOCALHOST.into())])
        }
        _ => {
            if let Some(ip) = numeric(name) {
                return Ok(vec![tcp(ip)]);
            }
            let addresses = (name, port)
                .to_socket_addrs()
                .map_err(|error| format!("could not look up \"{name}\": {error}"))?;
            Ok(addresses.map(ListenAddress::Tcp).collect())
        }
    }
}

/// Accepts brackets around an IPv6 address, because people write them.
fn numeric(name: &str) -> Option<IpAddr> {
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    bare.parse().ok()
}

/// A name other than `localhost` counts as reachable: looking it up here would prove nothing.
fn is_loopback(name: &str) -> bool {
    name == "localhost" || numeric(name).is_some_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(listen_addr: &[&str], unix_socket_dir: &str, expected: &[&str]) {
        let settings = Settings {
            listen_addr: listen_addr.iter().map(|&name| name.to_owned()).collect(),
            unix_socket_dir: unix_socket_dir.to_owned(),
            ..Settings::default()
        };
        let found: Vec<String> = settings
            .listeners()
            .expect("all names are numeric")
            .iter()
            .map(|address| match address {
                ListenAddress::Tcp(tcp) => tcp.to_string(),
                ListenAddress::TcpOptional(tcp) => format!("{tcp}?"),
                ListenAddress::Unix(path) => path.display().to_string(),
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn star_means_both_families_and_ipv6_may_be_missing() {
        check(&["*"], "", &["0.0.0.0:6432", "[::]:6432?"]);
        check(&["localhost"], "", &["127.0.0.1:6432", "[::1]:6432?"]);
    }

    #[test]
    fn lists_keep_their_order_and_lose_repetitions() {
        check(
            &["10.0.0.1", "::1", "[::1]", "10.0.0.1"],
            "/tmp",
            &["10.0.0.1:6432", "[::1]:6432", "/tmp/.s.PGSQL.6432"],
        );
    }

    #[test]
    fn a_unix_socket_can_be_abstract_or_absent() {
        check(&[], "@howdah", &["@howdah/.s.PGSQL.6432"]);
        check(&[], "", &[]);
    }

    #[test]
    fn knows_what_others_can_reach() {
        let with = |names: &[&str]| Settings {
            listen_addr: names.iter().map(|&name| name.to_owned()).collect(),
            ..Settings::default()
        };
        assert!(!with(&["127.0.0.1", "localhost", "::1", "127.8.8.8"]).listens_off_loopback());
        assert!(!with(&[]).listens_off_loopback());
        assert!(with(&["127.0.0.1", "*"]).listens_off_loopback());
        assert!(with(&["db.example.org"]).listens_off_loopback());
    }
}
