//! Settings of the page server: `[pageserver]` in `howdah.toml`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use runtime::tls::SslMode;
use serde::{Deserialize, Serialize};
use storage::bucket::{Address, AddressError};

use crate::error::Error;

/// The section `[pageserver]`; a key left out has its default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where base backup and WAL are kept. Empty: `pageserver` in the instance's directory.
    pub directory: PathBuf,
    /// Address of the page service; off loopback only with TLS and users.
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
    /// Certificate and key (PEM) of the page service; without them it offers no TLS.
    pub tls_cert_file: PathBuf,
    pub tls_key_file: PathBuf,
    /// Authorities (PEM) that must have signed clients' certificates, for `verify-ca`.
    pub tls_ca_file: PathBuf,
    /// TLS of the page service's clients: `disable`, `prefer` (theirs to decide), `require` or `verify-ca`.
    pub tls_sslmode: String,
    /// TLS towards Postgres, as libpq's `sslmode`; `prefer` leaves out connections within the machine.
    pub server_tls_sslmode: String,
    /// Authorities (PEM) that must have signed Postgres' certificate, for `verify-ca` and `verify-full`.
    pub server_tls_ca_file: PathBuf,
    /// Memory for the index of WAL that is not in layers yet, in bytes. When it is full, WAL waits in Postgres' slot
    /// until some is.
    pub index_memory_max: usize,
    /// WAL gathered before its records are sorted into a layer, in bytes; as much is read again after a crash.
    pub checkpoint_bytes: u64,
    /// WAL gathered for so many milliseconds is sorted into a layer however little it is.
    pub checkpoint_timeout_ms: u64,
    /// Memory for rebuilt pages, in bytes.
    pub page_cache_bytes: usize,
    /// Object store that everything is copied to: a directory or `s3://`, `gs://`, `az://` with bucket and prefix. Empty: none.
    pub store: String,
    /// URL of an S3 store that is not Amazon's, and its region; empty: as the environment says.
    pub store_endpoint: String,
    pub store_region: String,
    /// WAL that does not fill a segment is copied when it has waited this long, in milliseconds: what is lost with this
    /// machine is no older.
    pub store_wal_interval_ms: u64,
    /// WAL that may wait for the object store, in bytes; then Postgres has to wait. 0: any amount.
    pub store_backlog_bytes_max: u64,
    /// Layers to keep on the local disk, in bytes, once the object store has them; 0: all.
    pub local_layer_bytes_max: u64,
    /// Moments of the last so many seconds can be asked for, and of the last so many bytes of WAL: what is older by either
    /// is let go, except at branch points and leases. 0: no limit.
    pub retention_seconds: u64,
    pub retention_bytes: u64,
    /// Received WAL that stays on disk although all of it is in layers, in bytes, for those who come back to receive it.
    pub wal_keep_bytes: u64,
    /// WAL to keep at most, in bytes; 0 for no limit but the disk's. At the limit no more comes in.
    pub wal_bytes_max: u64,
    /// The same of WAL and layers together. Making room may take somewhat more for a while.
    pub disk_bytes_max: u64,
    /// How often the page server looks for what can go, in milliseconds.
    pub collection_interval_ms: u64,
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
            tls_cert_file: PathBuf::new(),
            tls_key_file: PathBuf::new(),
            tls_ca_file: PathBuf::new(),
            tls_sslmode: "prefer".to_owned(),
            server_tls_sslmode: "prefer".to_owned(),
            server_tls_ca_file: PathBuf::new(),
            index_memory_max: 256 << 20,
            checkpoint_bytes: 64 << 20,
            checkpoint_timeout_ms: 600_000,
            page_cache_bytes: 64 << 20,
            retention_seconds: 7 * 24 * 3600,
            retention_bytes: 0,
            wal_keep_bytes: 1 << 30,
            store: String::new(),
            store_endpoint: String::new(),
            store_region: String::new(),
            store_wal_interval_ms: 5_000,
            store_backlog_bytes_max: 16 << 30,
            local_layer_bytes_max: 0,
            wal_bytes_max: 0,
            disk_bytes_max: 0,
            collection_interval_ms: 10_000,
            wait_lsn_timeout_ms: 10_000,
            status_interval_ms: 10_000,
        }
    }
}

impl Settings {
    pub fn wait_lsn_timeout(&self) -> Duration {
        Duration::from_millis(self.wait_lsn_timeout_ms)
    }

    pub fn checkpoint_timeout(&self) -> Duration {
        Duration::from_millis(self.checkpoint_timeout_ms)
    }

    pub fn collection_interval(&self) -> Duration {
        Duration::from_millis(self.collection_interval_ms)
    }

    pub fn store_wal_interval(&self) -> Duration {
        Duration::from_millis(self.store_wal_interval_ms)
    }

    /// Where the object store is; `None` without one.
    ///
    /// # Errors
    /// [`Error::Refused`] when that is no address.
    pub fn store_address(&self) -> Result<Option<Address>, Error> {
        if self.store.is_empty() {
            return Ok(None);
        }
        let refused = |error: AddressError| {
            let message = format!("pageserver.store: {error}");
            Error::Refused {
                message, hint: "a directory, or s3://bucket/prefix, gs://… or az://…"
            }
        };
        let address: Address = self.store.parse().map_err(refused)?;
        let said = |text: &String| (!text.is_empty()).then(|| text.clone());
        Ok(Some(address.at(said(&self.store_endpoint), said(&self.store_region))))
    }

    pub fn status_interval(&self) -> Duration {
        Duration::from_millis(self.status_interval_ms)
    }

    /// What is wrong with the settings, as one sentence that names the key.
    pub fn check(&self) -> Result<(), String> {
        self.check_tls()?;
        self.store_address().map_err(|error| error.to_string())?;
        let slot_character = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if self.slot.is_empty() || self.slot.len() > 63 || !self.slot.chars().all(slot_character) {
            return Err("pageserver.slot: may contain only lower-case letters, digits, and the \
                        underscore"
                .to_owned());
        }
        if self.status_interval_ms == 0 {
            return Err("pageserver.status_interval_ms: must be above 0".to_owned());
        }
        if self.checkpoint_bytes < 1 << 20 {
            return Err("pageserver.checkpoint_bytes: must be at least 1048576".to_owned());
        }
        if self.collection_interval_ms == 0 {
            return Err("pageserver.collection_interval_ms: must be above 0".to_owned());
        }
        if self.checkpoint_timeout_ms == 0 {
            return Err("pageserver.checkpoint_timeout_ms: must be above 0".to_owned());
        }
        if let Some(user) = self.users.iter().find(|user| user.secret.0.is_empty()) {
            return Err(format!("pageserver.users: user \"{}\" has no secret", user.name));
        }
        Ok(())
    }

    /// Whether clients must be encrypted.
    pub fn requires_tls(&self) -> bool {
        matches!(self.tls_sslmode.as_str(), "require" | "verify-ca")
    }

    fn check_tls(&self) -> Result<(), String> {
        let has = |path: &PathBuf| !path.as_os_str().is_empty();
        let has_identity = has(&self.tls_cert_file) && has(&self.tls_key_file);
        if has(&self.tls_cert_file) != has(&self.tls_key_file) {
            return Err("pageserver.tls_key_file: certificate and key need each other".to_owned());
        }
        if !["disable", "prefer", "require", "verify-ca"].contains(&self.tls_sslmode.as_str()) {
            let mode = &self.tls_sslmode;
            return Err(format!("pageserver.tls_sslmode: \"{mode}\" is not a mode of a server"));
        }
        if self.requires_tls() && !has_identity {
            return Err("pageserver.tls_sslmode: needs a certificate and a key".to_owned());
        }
        if self.tls_sslmode == "verify-ca" && !has(&self.tls_ca_file) {
            return Err("pageserver.tls_sslmode: verify-ca needs tls_ca_file".to_owned());
        }
        let is_safe = self.requires_tls() && !self.users.is_empty();
        if !self.listen.ip().is_loopback() && !is_safe {
            return Err(format!(
                "pageserver.listen: {} is not a loopback address, which takes users and tls_sslmode \"require\"",
                self.listen
            ));
        }
        match self.server_tls_sslmode.parse::<SslMode>() {
            Ok(mode) if mode.verifies() && !has(&self.server_tls_ca_file) => {
                Err(format!("pageserver.server_tls_sslmode: {mode} needs server_tls_ca_file"))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(format!("pageserver.server_tls_sslmode: {error}")),
        }
    }
}

/// Someone who may use the page service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    pub name: String,
    /// A password, or `SCRAM-SHA-256$…` or `md5…` as `pg_authid` has it.
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
        let secret = Password("geheim".to_owned());
        let settings = Settings {
            users: vec![User { name: "u".to_owned(), secret }],
            tls_cert_file: "cert".into(),
            tls_key_file: "key".into(),
            tls_sslmode: "require".to_owned(),
            ..settings
        };
        assert_eq!(settings.check(), Ok(()));
    }

    #[test]
    fn refuses_modes_of_tls_without_their_files() {
        let with = |mode: &str, server_mode: &str| Settings {
            tls_sslmode: mode.to_owned(),
            server_tls_sslmode: server_mode.to_owned(),
            ..Settings::default()
        };
        for (settings, key) in [
            (with("allow", "prefer"), "pageserver.tls_sslmode"),
            (with("require", "prefer"), "pageserver.tls_sslmode"),
            (with("prefer", "sometimes"), "pageserver.server_tls_sslmode"),
            (with("prefer", "verify-full"), "pageserver.server_tls_sslmode"),
        ] {
            assert!(settings.check().expect_err("it is wrong").starts_with(key), "{settings:?}");
        }
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
