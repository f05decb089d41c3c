//! Looks whether the ports are free before anything is made or started: a clear error early.

use std::net::SocketAddr;

use runtime::net::{Address, ListenOptions, Listener};

use crate::config::Config;
use crate::error::{Error, Result};

/// Must run on a core.
pub(super) fn check(config: &Config) -> Result<()> {
    let mut wanted: Vec<(&str, SocketAddr, &str)> =
        vec![("the page service", config.pageserver.listen, "pageserver.listen")];
    if config.api.enabled {
        wanted.push(("the API", config.api.listen, "api.listen"));
    }
    if config.postgres.port != 0 {
        wanted.push(("PostgreSQL", ([127, 0, 0, 1], config.postgres.port).into(), "postgres.port"));
    }
    for name in &config.pooler.listen_addr {
        // Names and `*` are the pooler's to resolve; it reports them by itself.
        if let Ok(ip) = name.parse() {
            wanted.push((
                "the pooler",
                SocketAddr::new(ip, config.pooler.listen_port),
                "pooler.listen_port",
            ));
        }
    }
    for (who, address, key) in wanted {
        if let Err(error) = Listener::bind(&Address::Tcp(address), &ListenOptions::default()) {
            return Err(Error::new(format!("{who} cannot listen on {address}: {error}"))
                .hint(format!("stop what listens there, or set {key} in the configuration file")));
        }
    }
    Ok(())
}
