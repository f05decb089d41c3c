//! `howdah pooler`: the pooler alone, from `howdah.toml` or a PgBouncer user's ini.

use std::path::Path;

use pooler::pgbouncer_ini::{self, PgBouncerIni};
use runtime::fs::blocking as fs;

use super::CoreOptions;
use crate::config::Config;
use crate::error::{Result, While};
use crate::limits::OPEN_FILES;
use crate::node::{self, Parts};
use crate::pooling;

pub(super) fn run(path: &Path, cores: &CoreOptions) -> Result<()> {
    runtime::net::raise_fd_limit(OPEN_FILES);
    let (mut config, warnings, reread) = if is_ini(path) {
        let ini = read_ini(path)?;
        let mut config = Config { pooler: ini.settings, ..Config::default() };
        // The ini says nothing of an API, so nobody expects a port more.
        config.api.enabled = false;
        (config, ini.warnings, pooling::from_ini(path.to_owned()))
    } else {
        let reread = pooling::from_toml(path.to_owned(), |_settings| {});
        (Config::read(path)?, Vec::new(), reread)
    };
    cores.apply(&mut config.node);
    node::start_log(&config.log)?;
    for warning in warnings {
        tracing::warn!(target: "pooler", "{warning}");
    }
    let (mut apps, mut parts) = (Vec::new(), Parts::default());
    node::add_pooler(&mut apps, &mut parts, config.pooler.clone(), reread)?;
    node::add_api(&mut apps, &mut parts, &config.api);
    node::run_pool(&config.node, apps)
}

/// PgBouncer's files end in `.ini`; ours in `.toml`.
pub(super) fn is_ini(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "ini")
}

pub(super) fn read_ini(path: &Path) -> Result<PgBouncerIni> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path).or_fail(format_args!("could not read \"{name}\""))?;
    pgbouncer_ini::parse(&name, &text, &|path: &Path| fs::read_to_string(path))
        .map_err(|errors| pooling::refused(&errors))
}
