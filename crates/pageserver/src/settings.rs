//! Settings of the page server: `[pageserver]` in `howdah.toml`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The section `[pageserver]`; a key left out has its default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where base backup and WAL are kept. Empty: `pageserver` in the instance's directory.
    pub directory: PathBuf,
    /// Address of the page service; off loopback it is refused until it has TLS.
    pub listen: SocketAddr,
    /// Postgres to follow: `host:port` or the path of a unix socket.
    pub server: String,
    /// Role with the REPLICATION attribute.
    pub user: String,
    /// Password of that role; empty if the server asks for none.
    pub password: Password,
    /// Name of the physical replication slot, created if it is not there.
    pub slot: String,
    /// `application_name` of our connections: what `synchronous_standby_names` can list.
    pub application_name: String,
    /// Users who may use the page service, with password or SCRAM secret. None: anyone on this
    /// machine may (the service listens on loopback only).
    pub users: Vec<User>,
    /// Memory for the index of page versions, in bytes. When it is full, the page server stops
    /// taking in WAL; Postgres keeps it in the slot.
    pub index_memory_max: usize,
    /// Memory for rebuilt pages, in bytes.
    pub page_cache_bytes: usize,
    /// WAL to keep at most, in bytes; 0 for no limit but the disk's.
    pub wal_bytes_max: u64,
    /// A request for an LSN that has not arrived waits this long, in milliseconds.
    pub wait_lsn_timeout_ms: u64,
    /// Longest pause between status messages to Postgres, in milliseconds.
    pub status_interval_ms: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            directory: PathBuf::new(),
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6430),
            server: "127.0.0.1:5433".to_owned(),
            user: "postgres".to_owned(),
            password: Password::default(),
            slot: "howdah".to_owned(),
            application_name: "howdah".to_owned(),
            users: Vec::new(),
            index_memory_max: 1 << 30,
            page_cache_bytes: 64 << 20,
            wal_bytes_max: 0,
            wait_lsn_timeout_ms: 10_000,
            status_interval_ms: 10_000,
        }
    }
}

impl Settings {
    pub fn wait_lsn_timeout(&self) -> Duration {
        Duration::from_millis(self.wait_lsn_timeout_ms)
    }

    pub fn status_interval(&self) -> Duration {
        Duration::from_millis(self.status_interval_ms)
    }

    /// What is wrong with the settings, as one sentence that names the key.
    pub fn check(&self) -> Result<(), String> {
        if !self.listen.ip().is_loopback() {
            return Err(format!(
                "pageserver.listen: {} is not a loopback address, and the page service has no TLS yet",
                self.listen
            ));
        }
        let slot_character = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if self.slot.is_empty() || self.slot.len() > 63 || !self.slot.chars().all(slot_character) {
            return Err("pageserver.slot: may contain only lower-case letters, digits, and the \
                        underscore"
                .to_owned());
        }
        if self.status_interval_ms == 0 {
            return Err("pageserver.status_interval_ms: must be above 0".to_owned());
        }
        if let Some(user) = self.users.iter().find(|user| user.secret.0.is_empty()) {
            return Err(format!("pageserver.users: user \"{}\" has no secret", user.name));
        }
        Ok(())
    }
}

/// Someone who may use the page service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    pub name: String,
    /// A password, or `SCRAM-SHA-256$…` as `pg_authid` has it.
    pub secret: Password,
}

/// A secret: never shown, not in debug output either.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Password(pub String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_empty() { "(none)" } else { "(hidden)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_pass_their_own_check() {
        assert_eq!(Settings::default().check(), Ok(()));
    }

    #[test]
    fn refuses_a_page_service_off_loopback() {
        let settings =
            Settings { listen: "0.0.0.0:6430".parse().expect("an address"), ..Settings::default() };
        assert!(settings.check().expect_err("not loopback").contains("pageserver.listen"));
    }

    #[test]
    fn refuses_a_slot_name_that_postgres_refuses() {
        for slot in ["", "Howdah", "how-dah", "a\"b"] {
            let settings = Settings { slot: slot.to_owned(), ..Settings::default() };
            assert!(settings.check().is_err(), "{slot}");
        }
    }

    #[test]
    fn debug_output_hides_secrets() {
        let mut settings =
            Settings { password: Password("geheim".to_owned()), ..Settings::default() };
        settings.users.push(User { name: "u".to_owned(), secret: Password("geheim".to_owned()) });
        assert!(!format!("{settings:?}").contains("geheim"));
    }
}
