//! What no single value can say: settings that contradict each other.

use super::{AuthType, FALLBACK_DATABASE, Settings, SslMode};
use crate::console::CONSOLE_DATABASES;

/// A setting that cannot be accepted. The caller adds file and line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// The key below `[pooler]`, with dots: `databases.shop.min_pool_size`.
    pub key: String,
    /// A sentence in Postgres' style.
    pub message: String,
}

impl Settings {
    /// Everything wrong with these settings that reading them could not see. Empty: good.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Problems(Vec::new());
        self.check_listening(&mut problems);
        self.check_authentication(&mut problems);
        self.check_tls(&mut problems);
        self.check_databases(&mut problems);
        self.check_numbers(&mut problems);
        problems.0
    }

    fn check_listening(&self, problems: &mut Problems) {
        if self.listen_addr.is_empty() && self.unix_socket_dir.is_empty() {
            problems.add("listen_addr", "there is nothing to listen on");
        }
        if self.insecure_off_loopback || !self.listens_off_loopback() {
            return;
        }
        if !self.client_tls_sslmode.is_required() {
            problems.add(
                "client_tls_sslmode",
                "listening off loopback needs client_tls_sslmode = \"require\" or stricter \
                 (or insecure_off_loopback = true)",
            );
        }
        if matches!(self.auth_type, AuthType::Trust | AuthType::Any) {
            problems.add(
                "auth_type",
                format!(
                    "listening off loopback with auth_type \"{}\" lets anybody in \
                     (insecure_off_loopback = true would allow it)",
                    self.auth_type
                ),
            );
        }
    }

    fn check_authentication(&self, problems: &mut Problems) {
        if self.auth_type == AuthType::Hba && self.auth_hba_file.is_none() {
            problems.add("auth_hba_file", "auth_type \"hba\" needs auth_hba_file");
        }
        if self.auth_type == AuthType::Cert && !self.client_tls_sslmode.verifies() {
            problems.add(
                "client_tls_sslmode",
                "auth_type \"cert\" needs client_tls_sslmode = \"verify-ca\" or \"verify-full\"",
            );
        }
        if self.auth_type == AuthType::Any {
            for (name, database) in &self.databases {
                if database.user.is_none() {
                    problems.add(
                        format!("databases.{name}.user"),
                        "auth_type \"any\" needs a server user for every database",
                    );
                }
            }
        }
    }

    fn check_tls(&self, problems: &mut Problems) {
        let client = self.client_tls_sslmode;
        if client.is_required() {
            if self.client_tls_cert_file.is_none() {
                problems.add(
                    "client_tls_cert_file",
                    format!("client_tls_sslmode \"{client}\" needs client_tls_cert_file"),
                );
            }
            if self.client_tls_key_file.is_none() {
                problems.add(
                    "client_tls_key_file",
                    format!("client_tls_sslmode \"{client}\" needs client_tls_key_file"),
                );
            }
        }
        if client.verifies() && self.client_tls_ca_file.is_none() {
            problems.add(
                "client_tls_ca_file",
                format!("client_tls_sslmode \"{client}\" needs client_tls_ca_file"),
            );
        }
        for (side, cert, key) in [
            ("client", &self.client_tls_cert_file, &self.client_tls_key_file),
            ("server", &self.server_tls_cert_file, &self.server_tls_key_file),
        ] {
            match (cert, key) {
                (Some(_), None) if client.is_required() && side == "client" => {}
                (None, Some(_)) if client.is_required() && side == "client" => {}
                (Some(_), None) => problems.add(
                    format!("{side}_tls_key_file"),
                    format!("{side}_tls_cert_file needs {side}_tls_key_file"),
                ),
                (None, Some(_)) => problems.add(
                    format!("{side}_tls_cert_file"),
                    format!("{side}_tls_key_file needs {side}_tls_cert_file"),
                ),
                _ => {}
            }
        }
        if matches!(self.server_tls_sslmode, SslMode::VerifyCa | SslMode::VerifyFull)
            && self.server_tls_ca_file.is_none()
        {
            problems.add(
                "server_tls_ca_file",
                format!(
                    "server_tls_sslmode \"{}\" needs server_tls_ca_file",
                    self.server_tls_sslmode
                ),
            );
        }
    }

    fn check_databases(&self, problems: &mut Problems) {
        for (name, database) in &self.databases {
            let key = |field: &str| format!("databases.{name}.{field}");
            if CONSOLE_DATABASES.contains(&name.as_str()) {
                problems.add(
                    format!("databases.{name}"),
                    format!("database name \"{name}\" is reserved for the console"),
                );
            }
            if name.is_empty() {
                problems.add("databases", "a database needs a name");
            }
            if database.port == 0 {
                problems.add(key("port"), "a server's port cannot be 0");
            }
            if database.pool_size == Some(0) {
                problems.add(key("pool_size"), "a pool needs at least one server connection");
            }
            if database.password.is_some() && database.user.is_none() {
                problems.add(key("password"), "a password needs a user");
            }
            if name == FALLBACK_DATABASE && database.auth_dbname.as_deref() == Some("*") {
                problems.add(key("auth_dbname"), "auth_dbname must name a database");
            }
        }
        for (name, user) in &self.users {
            if user.pool_size == Some(0) {
                problems.add(
                    format!("users.{name}.pool_size"),
                    "a pool needs at least one server connection",
                );
            }
        }
    }

    fn check_numbers(&self, problems: &mut Problems) {
        if self.default_pool_size == 0 {
            problems.add("default_pool_size", "a pool needs at least one server connection");
        }
        if self.max_client_conn == 0 {
            problems.add("max_client_conn", "at least one client must be allowed");
        }
        if self.listen_backlog == 0 {
            problems.add("listen_backlog", "the backlog must be at least 1");
        }
        if self.scram_iterations == 0 {
            problems.add("scram_iterations", "SCRAM needs at least one iteration");
        }
        if self.stats_period.is_zero() {
            problems.add("stats_period", "the period must be longer than 0");
        }
        // A start-up packet may have 10000 bytes (PostgreSQL, MAX_STARTUP_PACKET_LENGTH).
        if self.max_packet_size < 10_000 {
            problems.add("max_packet_size", "at least 10000 bytes are needed for a log-in");
        }
    }
}

struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem { key: key.into(), message: message.into() });
    }
}
