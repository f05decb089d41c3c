//! The pooler's settings: one typed structure that `howdah.toml` (`[pooler]`) and `pgbouncer.ini` both become.
//!
//! Keys have PgBouncer's names and meanings wherever it has the setting, so that its documentation
//! applies; [`Settings::default`] gives Howdah's defaults, [`Settings::pgbouncer`] PgBouncer's.
//! In TOML a duration needs a unit (`"30s"`), a size may have one (`"64kB"`), 0 switches a limit or
//! timeout off unless the key says otherwise.

pub mod file;
pub mod listen;
pub mod mode;
pub mod options;
mod secret;
pub mod units;
mod validate;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

pub use mode::{AuthType, LoadBalanceHosts, PoolMode, SslMode, TlsProtocols};
pub use secret::Secret;
pub use validate::Problem;

/// Everything the pooler can be told. All fields are documented in `docs/configuration.md`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    // Listening.
    /// TCP addresses: numeric, a host name, `localhost` or `*`. Empty: no TCP.
    pub listen_addr: Vec<String>,
    /// The TCP port, and the number in the name of the unix socket. 0: any free port.
    pub listen_port: u16,
    pub listen_backlog: u32,
    /// Folder of the listening unix socket and of local servers; `@name` is the abstract
    /// namespace; empty: no unix socket.
    pub unix_socket_dir: String,
    #[serde(deserialize_with = "units::mode")]
    pub unix_socket_mode: u32,
    /// Group that owns the unix socket.
    pub unix_socket_group: Option<String>,
    /// Lets a listener off loopback go without TLS or without authentication.
    pub insecure_off_loopback: bool,

    // Pools.
    pub pool_mode: PoolMode,
    pub max_client_conn: u32,
    pub default_pool_size: u32,
    pub min_pool_size: u32,
    pub reserve_pool_size: u32,
    #[serde(deserialize_with = "units::duration")]
    pub reserve_pool_timeout: Duration,
    pub max_db_connections: u32,
    pub max_db_client_connections: u32,
    pub max_user_connections: u32,
    pub max_user_client_connections: u32,
    /// Use server connections in turn instead of the most recently used first.
    pub server_round_robin: bool,

    // Authentication.
    pub auth_type: AuthType,
    /// Where nobody has to prove anything, also let in who is not in `auth_file`: the server
    /// decides whether there is such a role.
    pub trust_unknown_users: bool,
    pub auth_file: Option<PathBuf>,
    pub auth_hba_file: Option<PathBuf>,
    pub auth_ident_file: Option<PathBuf>,
    /// Server user that runs `auth_query` for users that are not in `auth_file`.
    pub auth_user: Option<String>,
    pub auth_query: String,
    pub auth_dbname: Option<String>,
    /// Rounds of a SCRAM verifier that is made from a plain password of `auth_file`.
    pub scram_iterations: u32,
    pub admin_users: Vec<String>,
    pub stats_users: Vec<String>,
    /// Refuse the simple query protocol.
    pub disable_pqexec: bool,
    /// System user to become after the listeners are bound.
    pub user: Option<String>,

    // TLS towards clients.
    pub client_tls_sslmode: SslMode,
    pub client_tls_key_file: Option<PathBuf>,
    pub client_tls_cert_file: Option<PathBuf>,
    pub client_tls_ca_file: Option<PathBuf>,
    pub client_tls_protocols: TlsProtocols,

    // TLS towards servers.
    pub server_tls_sslmode: SslMode,
    pub server_tls_ca_file: Option<PathBuf>,
    pub server_tls_key_file: Option<PathBuf>,
    pub server_tls_cert_file: Option<PathBuf>,
    pub server_tls_protocols: TlsProtocols,

    // Server connections.
    /// Query run when a server leaves a client in session mode; empty: none.
    pub server_reset_query: String,
    /// Run it in every pool mode.
    pub server_reset_query_always: bool,
    /// A server idle for longer than this is tested before use. 0: always test.
    #[serde(deserialize_with = "units::duration")]
    pub server_check_delay: Duration,
    /// `<empty>`: the empty query; empty: no test. See [`Settings::server_check`].
    pub server_check_query: String,
    /// On RECONNECT or RELOAD, end session-mode clients at the end of their transaction.
    pub server_fast_close: bool,
    /// 0: a server is used once.
    #[serde(deserialize_with = "units::duration")]
    pub server_lifetime: Duration,
    #[serde(deserialize_with = "units::duration")]
    pub server_idle_timeout: Duration,
    #[serde(deserialize_with = "units::duration")]
    pub server_connect_timeout: Duration,
    /// After a failed connect or log-in, wait this long before the next attempt.
    #[serde(deserialize_with = "units::duration")]
    pub server_login_retry: Duration,

    // Client timeouts.
    #[serde(deserialize_with = "units::duration")]
    pub client_login_timeout: Duration,
    #[serde(deserialize_with = "units::duration")]
    pub client_idle_timeout: Duration,
    #[serde(deserialize_with = "units::duration")]
    pub query_timeout: Duration,
    #[serde(deserialize_with = "units::duration")]
    pub query_wait_timeout: Duration,
    /// Send a notice to a client that has waited this long for a server.
    #[serde(deserialize_with = "units::duration")]
    pub query_wait_notify: Duration,
    #[serde(deserialize_with = "units::duration")]
    pub cancel_wait_timeout: Duration,
    #[serde(deserialize_with = "units::duration")]
    pub idle_transaction_timeout: Duration,
    #[serde(deserialize_with = "units::duration")]
    pub transaction_timeout: Duration,
    #[serde(deserialize_with = "units::duration")]
    pub suspend_timeout: Duration,
    /// Forget an automatic (`*`) database that was unused for this long.
    #[serde(deserialize_with = "units::duration")]
    pub autodb_idle_timeout: Duration,
    /// Forget an empty pool after this long.
    #[serde(deserialize_with = "units::duration")]
    pub pool_idle_timeout: Duration,

    // Protocol.
    /// Largest message accepted from either side, bytes.
    #[serde(deserialize_with = "units::size")]
    pub max_packet_size: u64,
    /// Named statements kept on one server connection; 0: do not track them.
    pub max_prepared_statements: u32,
    /// Reported parameters that follow a client, besides the five that always do.
    pub track_extra_parameters: Vec<String>,
    /// Start-up parameters that are dropped instead of refused.
    pub ignore_startup_parameters: Vec<String>,
    pub application_name_add_host: bool,
    /// Notice sent to each client after log-in.
    pub login_notify_message: String,

    // Sockets.
    pub tcp_keepalive: bool,
    /// 0: the system's value, for this and the two below.
    #[serde(deserialize_with = "units::duration")]
    pub tcp_keepidle: Duration,
    #[serde(deserialize_with = "units::duration")]
    pub tcp_keepintvl: Duration,
    pub tcp_keepcnt: u32,
    #[serde(deserialize_with = "units::duration")]
    pub tcp_user_timeout: Duration,
    /// How long a looked-up host name is good for.
    #[serde(deserialize_with = "units::duration")]
    pub dns_max_ttl: Duration,
    #[serde(deserialize_with = "units::duration")]
    pub dns_nxdomain_ttl: Duration,

    // Logging and statistics.
    pub log_connections: bool,
    pub log_disconnections: bool,
    pub log_pooler_errors: bool,
    pub log_stats: bool,
    #[serde(deserialize_with = "units::duration")]
    pub stats_period: Duration,

    // Routes.
    /// By the name that clients ask for; `*` is the fallback.
    pub databases: BTreeMap<String, Database>,
    pub users: BTreeMap<String, User>,
}

/// One entry of `databases`: where its servers are, and what differs from the global settings.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    /// Empty: the unix socket in `unix_socket_dir`. In TOML a text (commas allowed) or a list.
    #[serde(deserialize_with = "hosts")]
    pub host: Vec<Host>,
    pub port: u16,
    /// The server's database; `None`: the name that the client asked for.
    pub dbname: Option<String>,
    /// Log in to the server as this user; `None`: as the client's user.
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub pool_size: Option<u32>,
    pub min_pool_size: Option<u32>,
    pub reserve_pool_size: Option<u32>,
    pub pool_mode: Option<PoolMode>,
    pub max_db_connections: Option<u32>,
    pub max_db_client_connections: Option<u32>,
    #[serde(deserialize_with = "units::optional_duration")]
    pub server_lifetime: Option<Duration>,
    #[serde(deserialize_with = "units::optional_duration")]
    pub query_wait_timeout: Option<Duration>,
    pub load_balance_hosts: LoadBalanceHosts,
    /// Query run on each new server connection.
    pub connect_query: Option<String>,
    pub auth_user: Option<String>,
    pub auth_dbname: Option<String>,
    pub auth_query: Option<String>,
    pub client_encoding: Option<String>,
    pub datestyle: Option<String>,
    pub timezone: Option<String>,
    pub application_name: Option<String>,
}

/// One entry of `users`: a secret (if it is not in `auth_file`) and what differs for this user.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct User {
    /// Plain text, `md5…` or `SCRAM-SHA-256$…`; wins over `auth_file`.
    pub password: Option<Secret>,
    pub pool_mode: Option<PoolMode>,
    pub pool_size: Option<u32>,
    pub reserve_pool_size: Option<u32>,
    pub max_user_connections: Option<u32>,
    pub max_user_client_connections: Option<u32>,
    #[serde(deserialize_with = "units::optional_duration")]
    pub query_timeout: Option<Duration>,
    #[serde(deserialize_with = "units::optional_duration")]
    pub query_wait_timeout: Option<Duration>,
    #[serde(deserialize_with = "units::optional_duration")]
    pub idle_transaction_timeout: Option<Duration>,
    #[serde(deserialize_with = "units::optional_duration")]
    pub transaction_timeout: Option<Duration>,
    #[serde(deserialize_with = "units::optional_duration")]
    pub client_idle_timeout: Option<Duration>,
}

/// Where a server listens.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Host {
    /// A folder with unix sockets (`/run/postgresql`) or an abstract prefix (`@name`).
    Unix(String),
    /// A numeric address or a host name.
    Tcp(String),
}

/// PgBouncer's `auth_query`: a secret only while the role may log in and has not expired.
pub const AUTH_QUERY: &str = "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL \
     ELSE rolpassword END FROM pg_authid WHERE rolname=$1 AND rolcanlogin";

/// The name of the fallback entry in `databases`.
pub const FALLBACK_DATABASE: &str = "*";

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen_addr: vec!["127.0.0.1".to_owned()],
            unix_socket_dir: String::new(),
            insecure_off_loopback: false,
            pool_mode: PoolMode::Transaction,
            max_client_conn: 10_000,
            auth_type: AuthType::ScramSha256,
            client_tls_sslmode: SslMode::Prefer,
            unix_socket_mode: 0o770,
            listen_backlog: 4096,
            // Every JDBC client sends it; servers since Postgres 12 print floats exactly anyway.
            ignore_startup_parameters: vec!["extra_float_digits".to_owned()],
            // Postgres' own bound of a message is 1 GiB.
            max_packet_size: 1 << 30,
            ..Self::pgbouncer()
        }
    }
}

impl Settings {
    /// PgBouncer's defaults (its documentation `config.md`, version 1.26), for `pgbouncer.ini`.
    #[must_use]
    pub fn pgbouncer() -> Self {
        let seconds = Duration::from_secs;
        Self {
            listen_addr: Vec::new(),
            listen_port: 6432,
            listen_backlog: 128,
            unix_socket_dir: "/tmp".to_owned(),
            unix_socket_mode: 0o777,
            unix_socket_group: None,
            insecure_off_loopback: true,
            pool_mode: PoolMode::Session,
            max_client_conn: 100,
            default_pool_size: 20,
            min_pool_size: 0,
            reserve_pool_size: 0,
            reserve_pool_timeout: seconds(5),
            max_db_connections: 0,
            max_db_client_connections: 0,
            max_user_connections: 0,
            max_user_client_connections: 0,
            server_round_robin: false,
            auth_type: AuthType::Md5,
            trust_unknown_users: false,
            auth_file: None,
            auth_hba_file: None,
            auth_ident_file: None,
            auth_user: None,
            auth_query: AUTH_QUERY.to_owned(),
            auth_dbname: None,
            scram_iterations: 4096,
            admin_users: Vec::new(),
            stats_users: Vec::new(),
            disable_pqexec: false,
            user: None,
            client_tls_sslmode: SslMode::Disable,
            client_tls_key_file: None,
            client_tls_cert_file: None,
            client_tls_ca_file: None,
            client_tls_protocols: TlsProtocols::Secure,
            server_tls_sslmode: SslMode::Prefer,
            server_tls_ca_file: None,
            server_tls_key_file: None,
            server_tls_cert_file: None,
            server_tls_protocols: TlsProtocols::Secure,
            server_reset_query: "DISCARD ALL".to_owned(),
            server_reset_query_always: false,
            server_check_delay: seconds(30),
            server_check_query: "<empty>".to_owned(),
            server_fast_close: false,
            server_lifetime: seconds(3600),
            server_idle_timeout: seconds(600),
            server_connect_timeout: seconds(15),
            server_login_retry: seconds(15),
            client_login_timeout: seconds(60),
            client_idle_timeout: Duration::ZERO,
            query_timeout: Duration::ZERO,
            query_wait_timeout: seconds(120),
            query_wait_notify: seconds(5),
            cancel_wait_timeout: seconds(10),
            idle_transaction_timeout: Duration::ZERO,
            transaction_timeout: Duration::ZERO,
            suspend_timeout: seconds(10),
            autodb_idle_timeout: seconds(3600),
            pool_idle_timeout: Duration::ZERO,
            max_packet_size: 2_147_483_647,
            max_prepared_statements: 200,
            track_extra_parameters: vec!["IntervalStyle".to_owned()],
            ignore_startup_parameters: Vec::new(),
            application_name_add_host: false,
            login_notify_message: String::new(),
            tcp_keepalive: true,
            tcp_keepidle: Duration::ZERO,
            tcp_keepintvl: Duration::ZERO,
            tcp_keepcnt: 0,
            tcp_user_timeout: Duration::ZERO,
            dns_max_ttl: seconds(15),
            dns_nxdomain_ttl: seconds(15),
            log_connections: true,
            log_disconnections: true,
            log_pooler_errors: true,
            log_stats: true,
            stats_period: seconds(60),
            databases: BTreeMap::new(),
            users: BTreeMap::new(),
        }
    }

    /// The query that tests an idle server; `None`: do not test.
    #[must_use]
    pub fn server_check(&self) -> Option<&str> {
        match self.server_check_query.as_str() {
            "" => None,
            "<empty>" => Some(""),
            query => Some(query),
        }
    }

    /// The entry for a database that a client asks for: its own, or the fallback.
    #[must_use]
    pub fn database(&self, name: &str) -> Option<&Database> {
        if name == FALLBACK_DATABASE {
            return None;
        }
        self.databases.get(name).or_else(|| self.databases.get(FALLBACK_DATABASE))
    }
}

/// The timeout as an option: zero means that there is none.
#[must_use]
pub fn enabled(timeout: Duration) -> Option<Duration> {
    (!timeout.is_zero()).then_some(timeout)
}

/// The timeout as a time that passes: zero, which means that there is none, becomes ten years.
#[must_use]
pub fn or_forever(timeout: Duration) -> Duration {
    const FOREVER: Duration = Duration::from_secs(10 * 365 * 86_400);
    enabled(timeout).unwrap_or(FOREVER)
}

/// The limit as an option: zero means that there is none.
#[must_use]
pub fn limited(limit: u32) -> Option<u32> {
    (limit != 0).then_some(limit)
}

impl Default for Database {
    fn default() -> Self {
        Self {
            host: Vec::new(),
            port: 5432,
            dbname: None,
            user: None,
            password: None,
            pool_size: None,
            min_pool_size: None,
            reserve_pool_size: None,
            pool_mode: None,
            max_db_connections: None,
            max_db_client_connections: None,
            server_lifetime: None,
            query_wait_timeout: None,
            load_balance_hosts: LoadBalanceHosts::RoundRobin,
            connect_query: None,
            auth_user: None,
            auth_dbname: None,
            auth_query: None,
            client_encoding: None,
            datestyle: None,
            timezone: None,
            application_name: None,
        }
    }
}

impl Database {
    /// The servers in order: each host, or the unix socket in `unix_socket_dir` if there is none.
    #[must_use]
    pub fn servers(&self, unix_socket_dir: &str) -> Vec<ServerAddress> {
        if self.host.is_empty() {
            let directory = if unix_socket_dir.is_empty() { "/tmp" } else { unix_socket_dir };
            return vec![ServerAddress::unix(directory, self.port)];
        }
        let address = |host: &Host| match host {
            Host::Unix(directory) => ServerAddress::unix(directory, self.port),
            Host::Tcp(name) => ServerAddress::Tcp { host: name.clone(), port: self.port },
        };
        self.host.iter().map(address).collect()
    }

    /// Start-up parameters that this entry sets on its server connections: (name, value).
    #[must_use]
    pub fn startup_parameters(&self) -> Vec<(&'static str, &str)> {
        [
            ("client_encoding", &self.client_encoding),
            ("DateStyle", &self.datestyle),
            ("TimeZone", &self.timezone),
            ("application_name", &self.application_name),
        ]
        .into_iter()
        .filter_map(|(name, value)| value.as_deref().map(|value| (name, value)))
        .collect()
    }
}

/// One place to connect to.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum ServerAddress {
    /// The socket itself: `/run/postgresql/.s.PGSQL.5432`, or `@name` for the abstract namespace.
    Unix(PathBuf),
    /// `host` is numeric or a name that has yet to be looked up.
    Tcp { host: String, port: u16 },
}

impl ServerAddress {
    /// As settings name it: a socket by its folder.
    pub(crate) fn host_and_port(&self) -> (String, u16) {
        match self {
            Self::Tcp { host, port } => (host.clone(), *port),
            Self::Unix(path) => {
                let port = path.extension().and_then(|port| port.to_str()?.parse().ok());
                let folder = path.parent().unwrap_or(path).display().to_string();
                (folder, port.unwrap_or_default())
            }
        }
    }

    fn unix(directory: &str, port: u16) -> Self {
        Self::Unix(listen::socket_path(directory, port))
    }
}

impl Host {
    /// `/folder` and `@name` are unix sockets, the rest is a host.
    #[must_use]
    pub fn new(text: &str) -> Self {
        if text.starts_with(['/', '@']) {
            Self::Unix(text.to_owned())
        } else {
            Self::Tcp(text.to_owned())
        }
    }

    /// A list with commas between, as in PgBouncer's `host=`.
    #[must_use]
    pub fn list(text: &str) -> Vec<Self> {
        text.split(',').map(str::trim).filter(|host| !host.is_empty()).map(Self::new).collect()
    }

    /// The text it was made from.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Unix(text) | Self::Tcp(text) => text,
        }
    }
}

fn hosts<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<Host>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a host is a text or a list of texts")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(input)? {
        OneOrMany::One(text) => Host::list(&text),
        OneOrMany::Many(list) => list.iter().map(|text| Host::new(text)).collect(),
    })
}

#[cfg(test)]
mod tests;
