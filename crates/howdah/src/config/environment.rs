//! The environment variables that Howdah knows, read in one place.
#![expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]

use std::env;
use std::path::PathBuf;

use pageserver::settings::Password;

use super::API_PORT;
use crate::api::credentials::Credentials;

/// What the environment says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// `HOWDAH_PG_BIN`: folder of PostgreSQL's programs.
    pub pg_bin: Option<PathBuf>,
    /// `HOWDAH_API`: address of a running Howdah's API.
    pub api: Option<String>,
    /// `HOWDAH_API_TOKEN_FILE`: file with its bearer token.
    pub api_token_file: Option<PathBuf>,
    /// Where a user's programs keep their data: `XDG_DATA_HOME`, else `~/.local/share`.
    pub data_home: Option<PathBuf>,
    /// `PGUSER` and the like.
    pub credentials: Credentials,
    /// The file that this program was started from.
    pub program: PathBuf,
    /// `PATH`.
    pub path: Vec<PathBuf>,
}

impl Environment {
    #[must_use]
    pub fn read() -> Self {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let home = || set("HOME").map(|home| PathBuf::from(home).join(".local/share"));
        Self {
            pg_bin: set("HOWDAH_PG_BIN").map(PathBuf::from),
            api: set("HOWDAH_API").map(|value| value.to_string_lossy().into_owned()),
            api_token_file: set("HOWDAH_API_TOKEN_FILE").map(PathBuf::from),
            data_home: set("XDG_DATA_HOME").map(PathBuf::from).or_else(home),
            credentials: credentials(),
            // Without /proc nothing but computes is missing, and their start says so.
            program: env::current_exe().unwrap_or_default(),
            path: set("PATH").map_or_else(Vec::new, |value| env::split_paths(&value).collect()),
        }
    }

    /// Where the API of a running Howdah is: the option, else the environment, else the default.
    #[must_use]
    pub fn api_address(&self, option: Option<&str>) -> String {
        let named = option.map(str::to_owned).or_else(|| self.api.clone());
        named.unwrap_or_else(|| format!("127.0.0.1:{API_PORT}"))
    }
}

/// As libpq's programs read it.
fn credentials() -> Credentials {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let text = |name: &str| set(name).map(|value| value.to_string_lossy().into_owned());
    let home = || set("HOME").map(|home| PathBuf::from(home).join(".pgpass"));
    Credentials {
        user: text("PGUSER"),
        password: text("PGPASSWORD").map(Password),
        password_file: set("PGPASSFILE").map(PathBuf::from).or_else(home),
        ssl_mode: text("PGSSLMODE"),
        ssl_root_certificate: set("PGSSLROOTCERT").map(PathBuf::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_wins_over_the_environment() {
        let environment = Environment { api: Some("a:1".to_owned()), ..Environment::default() };
        assert_eq!(environment.api_address(Some("b:2")), "b:2");
        assert_eq!(environment.api_address(None), "a:1");
        assert_eq!(Environment::default().api_address(None), "127.0.0.1:6480");
    }
}
