//! The values of `[databases]`, `[users]` and `[peers]`: connection strings and their keys.
//!
//! Unknown keys are errors, as in PgBouncer: one of them might be about security.

use std::time::Duration;

use super::syntax::pairs;
use crate::settings::options::whole_number;
use crate::settings::{Database, Host, Secret, User, units};

/// Reads the value of a `[databases]` entry.
///
/// # Errors
/// A sentence that fits after the entry's name.
pub(super) fn database(text: &str) -> Result<Database, String> {
    let mut database = Database::default();
    for (key, value) in pairs(text)? {
        set_database(&mut database, key, value).map_err(|message| with_key(key, &message))?;
    }
    Ok(database)
}

fn set_database(database: &mut Database, key: &str, value: String) -> Result<(), String> {
    match key {
        "host" => database.host = Host::list(&value),
        "port" => database.port = whole_number(&value)?,
        "dbname" => database.dbname = Some(value),
        "user" => database.user = Some(value),
        "password" => database.password = Some(Secret::new(value)),
        "auth_user" => database.auth_user = Some(value),
        "auth_dbname" => database.auth_dbname = Some(value),
        "auth_query" => database.auth_query = Some(value),
        "pool_size" => database.pool_size = inherited(&value)?,
        "min_pool_size" => database.min_pool_size = inherited(&value)?,
        "reserve_pool" | "reserve_pool_size" => database.reserve_pool_size = inherited(&value)?,
        "max_db_connections" => database.max_db_connections = inherited(&value)?,
        "max_db_client_connections" => database.max_db_client_connections = inherited(&value)?,
        // 0 means the global setting here, unlike in [pgbouncer].
        "server_lifetime" => {
            let lifetime = units::parse_seconds(&value)?;
            database.server_lifetime = (lifetime > Duration::ZERO).then_some(lifetime);
        }
        "query_wait_timeout" => {
            database.query_wait_timeout = Some(units::parse_seconds(&value)?);
        }
        "load_balance_hosts" => database.load_balance_hosts = value.parse()?,
        "pool_mode" => database.pool_mode = Some(value.parse()?),
        "connect_query" => database.connect_query = Some(value),
        "client_encoding" => database.client_encoding = Some(value),
        "datestyle" => database.datestyle = Some(value),
        "timezone" => database.timezone = Some(value),
        "application_name" => database.application_name = Some(value),
        _ => return Err("unrecognized connection parameter".to_owned()),
    }
    Ok(())
}

/// Reads the value of a `[users]` entry.
///
/// # Errors
/// A sentence that fits after the entry's name.
pub(super) fn user(text: &str) -> Result<User, String> {
    let mut user = User::default();
    for (key, value) in pairs(text)? {
        set_user(&mut user, key, &value).map_err(|message| with_key(key, &message))?;
    }
    Ok(user)
}

fn set_user(user: &mut User, key: &str, value: &str) -> Result<(), String> {
    // Of a user's timeouts PgBouncer lets 0 mean the global setting, except for the wait.
    let timeout = || {
        let timeout = units::parse_seconds(value)?;
        Ok::<_, String>((timeout > Duration::ZERO).then_some(timeout))
    };
    match key {
        "pool_mode" => user.pool_mode = Some(value.parse()?),
        "pool_size" => user.pool_size = inherited(value)?,
        "reserve_pool_size" => user.reserve_pool_size = inherited(value)?,
        "max_user_connections" => user.max_user_connections = inherited(value)?,
        "max_user_client_connections" => user.max_user_client_connections = inherited(value)?,
        "query_timeout" => user.query_timeout = timeout()?,
        "query_wait_timeout" => user.query_wait_timeout = Some(units::parse_seconds(value)?),
        "idle_transaction_timeout" => user.idle_transaction_timeout = timeout()?,
        "transaction_timeout" => user.transaction_timeout = timeout()?,
        "client_idle_timeout" => user.client_idle_timeout = timeout()?,
        _ => return Err("unrecognized user parameter".to_owned()),
    }
    Ok(())
}

/// Checks the value of a `[peers]` entry.
///
/// # Errors
/// A sentence that fits after the entry's name.
pub(super) fn peer(text: &str) -> Result<(), String> {
    for (key, _value) in pairs(text)? {
        if !matches!(key, "host" | "port" | "pool_size") {
            return Err(with_key(key, "unrecognized connection parameter"));
        }
    }
    Ok(())
}

/// -1 is PgBouncer's way to say that the global setting holds.
fn inherited(value: &str) -> Result<Option<u32>, String> {
    if value == "-1" {
        return Ok(None);
    }
    whole_number(value).map(Some)
}

fn with_key(key: &str, message: &str) -> String {
    format!("{key}: {message}")
}
