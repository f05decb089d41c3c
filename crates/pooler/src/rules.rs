//! Rules: settings together with the files they name, checked, numbered and never changed again.
//!
//! A reload makes new [`Rules`] with the next version or fails and changes nothing. Each core holds
//! the current ones in an `Arc`; a client keeps those that it logged in by until it is released, so
//! the old ones disappear with their last client.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::census::ClientLimits;
use crate::console::CONSOLE_DATABASES;
use crate::hba::{Attempt, Hba, HbaRule, IdentMaps, Interfaces, Method, Refusal};
use crate::settings::file::SettingsError;
use crate::settings::{
    AuthType, Database, LoadBalanceHosts, PoolMode, Secret, ServerAddress, Settings, User, enabled,
    limited,
};
use crate::userlist;

/// How files are read: from the disk, or out of a test's hand.
pub type Files<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

/// [`Files`] of the disk. Blocks; for start-up, reload and the command line.
///
/// # Errors
/// Those of reading, and text that is not UTF-8.
pub fn disk(path: &Path) -> io::Result<String> {
    runtime::fs::blocking::read_to_string(path)
}

/// One version of the rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// 1 at start, more with each reload.
    pub version: u64,
    pub settings: Settings,
    /// Secrets of `auth_file`.
    credentials: BTreeMap<String, Secret>,
    /// Empty, so that it fits nobody, unless `auth_type = hba`.
    hba: Hba,
}

/// What a client of (database, user) gets: the settings of its pool and of itself, with what is set
/// for the user, the database and everybody already weighed against each other.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteRule {
    /// From the `*` entry, not one of its own.
    pub automatic: bool,

    // How to reach the server.
    pub servers: Vec<ServerAddress>,
    pub load_balance_hosts: LoadBalanceHosts,
    pub server_database: String,
    pub server_user: String,
    /// The database entry names the server user, whoever the client is.
    pub forced_user: bool,
    /// What the pooler knows about `server_user`: plain text or a verifier to pass through.
    pub server_secret: Option<Secret>,
    pub startup_parameters: Vec<(&'static str, String)>,
    pub connect_query: Option<String>,

    // Its pool.
    pub pool_mode: PoolMode,
    pub pool_size: u32,
    pub min_pool_size: u32,
    pub reserve_pool_size: u32,
    pub server_lifetime: Duration,
    /// Server connections of the database, and of the server user, over all pools.
    pub max_db_connections: Option<u32>,
    pub max_user_connections: Option<u32>,

    // The client.
    pub query_wait_timeout: Option<Duration>,
    pub query_timeout: Option<Duration>,
    pub transaction_timeout: Option<Duration>,
    pub idle_transaction_timeout: Option<Duration>,
    pub client_idle_timeout: Option<Duration>,
}

/// How the secret of a user is found out.
#[derive(Clone, Debug, PartialEq)]
pub struct Lookup {
    /// As clients would name it.
    pub database: String,
    pub query: String,
    /// Of the pool that the query is run in: `auth_user`'s.
    pub rule: RouteRule,
}

/// What a client has to show.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'a> {
    pub method: Method,
    rule: Option<&'a HbaRule>,
}

/// What a console client may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ConsoleRight {
    /// Every command.
    Admin,
    /// SHOW only.
    Stats,
}

impl Rules {
    /// Checks settings and reads the files they name.
    ///
    /// # Errors
    /// Everything wrong with settings or files. Nothing has happened then.
    pub fn load(
        version: u64,
        settings: Settings,
        files: Files<'_>,
    ) -> Result<Self, Vec<SettingsError>> {
        let mut errors: Vec<SettingsError> = settings
            .problems()
            .into_iter()
            .map(|problem| SettingsError {
                file: "settings".to_owned(),
                line: None,
                key: Some(problem.key),
                message: problem.message,
            })
            .collect();
        if let Some(message) = settings.user.as_deref().and_then(cannot_be) {
            errors.push(SettingsError {
                file: "settings".to_owned(),
                line: None,
                key: Some("user".to_owned()),
                message,
            });
        }
        let credentials = collect(read_userlist(&settings, files), &mut errors);
        let hba = collect(read_hba(&settings, files), &mut errors);
        match (credentials, hba) {
            (Some(credentials), Some(hba)) if errors.is_empty() => {
                Ok(Self { version, settings, credentials, hba })
            }
            _ => Err(errors),
        }
    }

    /// What the pooler knows of a user's password. `users` wins over `auth_file`.
    #[must_use]
    pub fn secret(&self, user: &str) -> Option<&Secret> {
        let listed = self.settings.users.get(user).and_then(|user| user.password.as_ref());
        listed.or_else(|| self.credentials.get(user))
    }

    /// Whether anything in the rules names this user.
    #[must_use]
    pub fn knows_user(&self, user: &str) -> bool {
        self.credentials.contains_key(user) || self.settings.users.contains_key(user)
    }

    /// The names of all users that the rules know, for SHOW USERS.
    #[must_use]
    pub fn users(&self) -> BTreeSet<&str> {
        let listed = self.settings.users.keys().map(String::as_str);
        listed.chain(self.credentials.keys().map(String::as_str)).collect()
    }

    /// Which method a client must pass.
    ///
    /// # Errors
    /// The HBA file turns the client away: SQLSTATE 28000 with these words.
    pub fn demand(&self, attempt: &Attempt<'_>) -> Result<Demand<'_>, Refusal> {
        let method = match self.settings.auth_type {
            AuthType::Trust | AuthType::Any => Method::Trust,
            AuthType::Plain => Method::Password,
            AuthType::Md5 => Method::Md5,
            AuthType::ScramSha256 => Method::ScramSha256,
            AuthType::Cert => Method::Cert,
            AuthType::Hba => {
                let rule = self.hba.decide(attempt)?;
                return Ok(Demand { method: rule.method, rule: Some(rule) });
            }
        };
        Ok(Demand { method, rule: None })
    }

    /// What a user may do on the console; `None`: not even connect.
    #[must_use]
    pub fn console_right(&self, user: &str) -> Option<ConsoleRight> {
        let named = |list: &[String]| list.iter().any(|name| name == user);
        if self.settings.auth_type == AuthType::Any || named(&self.settings.admin_users) {
            Some(ConsoleRight::Admin)
        } else if named(&self.settings.stats_users) {
            Some(ConsoleRight::Stats)
        } else {
            None
        }
    }

    /// How to find out the secret of a user whom no file names, for a client of `database`; `None`:
    /// nobody is to be asked.
    #[must_use]
    pub fn lookup(&self, database: &str) -> Option<Lookup> {
        let settings = &self.settings;
        let entry = settings.database(database).filter(|_| !CONSOLE_DATABASES.contains(&database));
        let own = |of: fn(&Database) -> Option<&String>| entry.and_then(of);
        let user = own(|entry| entry.auth_user.as_ref()).or(settings.auth_user.as_ref())?;
        let place = own(|entry| entry.auth_dbname.as_ref()).or(settings.auth_dbname.as_ref());
        // The console has no server to ask.
        let place = place.map(String::as_str).or(entry.map(|_| database))?;
        let query = own(|entry| entry.auth_query.as_ref()).unwrap_or(&settings.auth_query);
        let rule = self.rule(place, user, user)?;
        Some(Lookup { database: place.to_owned(), query: query.clone(), rule })
    }

    /// The rule for clients that ask for `database` as `user`; `None`: there is no such database.
    #[must_use]
    pub fn route(&self, database: &str, user: &str) -> Option<RouteRule> {
        let entry = self.settings.database(database)?;
        self.rule(database, user, entry.user.as_deref().unwrap_or(user))
    }

    /// How many clients the database, and the user that clients log in as, may have. As for servers, a 0
    /// of their own leaves the global setting.
    #[must_use]
    pub(crate) fn client_limits(&self, database: &str, user: &str) -> ClientLimits {
        let settings = &self.settings;
        let of_database = |entry: &Database| entry.max_db_client_connections.and_then(limited);
        let of_user = |user: &User| user.max_user_client_connections.and_then(limited);
        ClientLimits {
            database: settings
                .database(database)
                .and_then(of_database)
                .or_else(|| limited(settings.max_db_client_connections)),
            user: settings
                .users
                .get(user)
                .and_then(of_user)
                .or_else(|| limited(settings.max_user_client_connections)),
        }
    }

    /// The rule for the pool of servers that are logged in to as `server_user`.
    #[must_use]
    pub fn pool(&self, database: &str, server_user: &str) -> Option<RouteRule> {
        self.rule(database, server_user, server_user)
    }

    fn rule(&self, database: &str, user: &str, server_user: &str) -> Option<RouteRule> {
        let settings = &self.settings;
        let entry = settings.database(database)?;
        let is_forced = entry.user.as_deref() == Some(server_user);
        let for_client = settings.users.get(user);
        let for_pool = settings.users.get(server_user);
        let client_timeout = |of: fn(&User) -> Option<Duration>, all: Duration| {
            enabled(for_client.and_then(of).unwrap_or(all))
        };
        // PgBouncer: a user's 0 means that the global limit holds, as a database's does.
        let limit = |own: Option<u32>, all: u32| own.and_then(limited).or_else(|| limited(all));
        // A reserve that nobody ever waits long enough for is none.
        let has_reserve = !settings.reserve_pool_timeout.is_zero();
        Some(RouteRule {
            automatic: !settings.databases.contains_key(database),
            servers: entry.servers(&settings.unix_socket_dir),
            load_balance_hosts: entry.load_balance_hosts,
            server_database: entry.dbname.as_deref().unwrap_or(database).to_owned(),
            server_user: server_user.to_owned(),
            forced_user: is_forced,
            server_secret: entry
                .password
                .as_ref()
                .filter(|_| is_forced)
                .or_else(|| self.secret(server_user))
                .cloned(),
            startup_parameters: startup_parameters(entry),
            connect_query: entry.connect_query.clone(),
            pool_mode: for_pool
                .and_then(|user| user.pool_mode)
                .or(entry.pool_mode)
                .unwrap_or(settings.pool_mode),
            pool_size: for_pool
                .and_then(|user| user.pool_size)
                .or(entry.pool_size)
                .unwrap_or(settings.default_pool_size),
            min_pool_size: entry.min_pool_size.unwrap_or(settings.min_pool_size),
            reserve_pool_size: for_pool
                .and_then(|user| user.reserve_pool_size)
                .or(entry.reserve_pool_size)
                .or(Some(settings.reserve_pool_size))
                .filter(|_size| has_reserve)
                .unwrap_or(0),
            server_lifetime: entry.server_lifetime.unwrap_or(settings.server_lifetime),
            max_db_connections: limit(entry.max_db_connections, settings.max_db_connections),
            max_user_connections: limit(
                for_pool.and_then(|user| user.max_user_connections),
                settings.max_user_connections,
            ),
            query_wait_timeout: client_timeout(
                |user| user.query_wait_timeout,
                entry.query_wait_timeout.unwrap_or(settings.query_wait_timeout),
            ),
            query_timeout: client_timeout(|user| user.query_timeout, settings.query_timeout),
            transaction_timeout: client_timeout(
                |user| user.transaction_timeout,
                settings.transaction_timeout,
            ),
            idle_transaction_timeout: client_timeout(
                |user| user.idle_transaction_timeout,
                settings.idle_transaction_timeout,
            ),
            client_idle_timeout: client_timeout(
                |user| user.client_idle_timeout,
                settings.client_idle_timeout,
            ),
        })
    }

    /// Whether servers opened by these rules are still good under newer ones.
    #[must_use]
    pub fn servers_survive(&self, newer: &Self, database: &str, user: &str) -> bool {
        let tls = |rules: &Self| {
            let settings = &rules.settings;
            (
                settings.server_tls_sslmode,
                settings.server_tls_protocols,
                settings.server_tls_ca_file.clone(),
                settings.server_tls_cert_file.clone(),
                settings.server_tls_key_file.clone(),
            )
        };
        match (self.pool(database, user), newer.pool(database, user)) {
            (Some(old), Some(new)) => old.reaches_like(&new) && tls(self) == tls(newer),
            _ => false,
        }
    }
}

impl RouteRule {
    /// Whether a server connection made by one rule could have been made by the other.
    #[must_use]
    pub fn reaches_like(&self, other: &Self) -> bool {
        self.servers == other.servers
            && self.load_balance_hosts == other.load_balance_hosts
            && self.server_database == other.server_database
            && self.server_user == other.server_user
            && self.startup_parameters == other.startup_parameters
            && self.connect_query == other.connect_query
    }
}

impl Demand<'_> {
    /// For cert and peer: whether the proven name may log in as `user`.
    #[must_use]
    pub fn permits(&self, proven: &str, user: &str) -> bool {
        match self.rule {
            Some(rule) => rule.permits(proven, user),
            None => proven == user,
        }
    }
}

/// Why the process is not that system user. It does not change its user by itself, and to go on as
/// root when somebody has asked for less would be the wrong surprise.
fn cannot_be(name: &str) -> Option<String> {
    let now = runtime::identity::effective_uid();
    match runtime::identity::User::named(name) {
        Ok(Some(user)) if user.uid == now => None,
        Ok(Some(_)) => Some(format!("the user is not changed, start the pooler as \"{name}\"")),
        Ok(None) => Some(format!("there is no system user \"{name}\"")),
        Err(error) => Some(format!("could not look up the system user \"{name}\": {error}")),
    }
}

fn startup_parameters(entry: &Database) -> Vec<(&'static str, String)> {
    entry.startup_parameters().into_iter().map(|(name, value)| (name, value.to_owned())).collect()
}

fn read_userlist(
    settings: &Settings,
    files: Files<'_>,
) -> Result<BTreeMap<String, Secret>, Vec<SettingsError>> {
    let Some(path) = &settings.auth_file else { return Ok(BTreeMap::new()) };
    let text = read("auth_file", path, files).map_err(|error| vec![error])?;
    userlist::parse(&path.display().to_string(), &text).map_err(|error| vec![error])
}

fn read_hba(settings: &Settings, files: Files<'_>) -> Result<Hba, Vec<SettingsError>> {
    let (AuthType::Hba, Some(path)) = (settings.auth_type, &settings.auth_hba_file) else {
        return Ok(Hba::default());
    };
    let maps = match &settings.auth_ident_file {
        Some(path) => {
            let text = read("auth_ident_file", path, files).map_err(|error| vec![error])?;
            IdentMaps::parse(&path.display().to_string(), &text).map_err(|error| vec![error])?
        }
        None => IdentMaps::default(),
    };
    let proc = |name: &str| files(&Path::new("/proc/net").join(name)).unwrap_or_default();
    let interfaces = Interfaces::from_proc(&proc("fib_trie"), &proc("route"), &proc("if_inet6"));
    let text = read("auth_hba_file", path, files).map_err(|error| vec![error])?;
    Hba::parse(&path.display().to_string(), &text, &maps, &interfaces, files)
}

fn read(key: &str, path: &Path, files: Files<'_>) -> Result<String, SettingsError> {
    files(path).map_err(|error| SettingsError {
        file: path.display().to_string(),
        line: None,
        key: Some(key.to_owned()),
        message: format!("could not read the file: {error}"),
    })
}

fn collect<T>(result: Result<T, Vec<SettingsError>>, errors: &mut Vec<SettingsError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(more) => {
            errors.extend(more);
            None
        }
    }
}

#[cfg(test)]
mod tests;
