//! The pooler as `howdah` runs it: from which file its rules come at start and on reload, and where it listens.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use pooler::rules::Rules;
use pooler::settings::Settings;
use pooler::settings::file::SettingsError;
use pooler::{Links, Pooler, PoolerOptions};
use runtime::app::{App, Applet, Error as AppError, LocalFuture, Node, Stop};
use runtime::fs::blocking as fs;

use crate::error::{Error, Result};

/// Reads the pooler's settings again, for a reload; what `howdah up` fills in is filled in again.
pub type Reread = Arc<dyn Fn() -> std::result::Result<Settings, Vec<SettingsError>> + Send + Sync>;

/// Where it listens, once it does.
#[derive(Clone, Debug, Default)]
pub struct Addresses(Arc<OnceLock<Vec<String>>>);

impl Addresses {
    /// The first one, a TCP address if there is one; `None` before the pooler has started.
    #[must_use]
    pub fn first(&self) -> Option<String> {
        self.0.get()?.first().cloned()
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<String> {
        self.0.get().cloned().unwrap_or_default()
    }
}

/// The app; its settings and the files that they name are checked here.
pub fn app(settings: Settings, reread: Reread) -> Result<(App, Addresses)> {
    let rules = Rules::load(1, settings, &read).map_err(|errors| refused(&errors))?;
    let load = move |version: u64, replaced: Option<Settings>| {
        let settings = match replaced {
            Some(settings) => settings,
            None => reread()?,
        };
        Rules::load(version, settings, &read)
    };
    let options = PoolerOptions {
        rules: Arc::new(rules),
        load: Arc::new(load),
        provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
    };
    let (links, addresses) = (Links::new(), Addresses::default());
    let shared = addresses.clone();
    let make = move |_node: &Node| Reporting {
        pooler: Pooler::new(options.clone(), Arc::clone(&links)),
        addresses: shared.clone(),
    };
    Ok((App::new("pooler", make), addresses))
}

/// The complaints of a configuration as one error.
#[must_use]
pub fn refused(errors: &[SettingsError]) -> Error {
    let mut errors = errors.iter().map(ToString::to_string);
    let first = errors.next().unwrap_or_else(|| "the settings are not valid".to_owned());
    let rest: Vec<String> = errors.collect();
    let error = Error::new(first);
    if rest.is_empty() { error } else { error.detail(format!("and {}", rest.join("; "))) }
}

fn read(path: &Path) -> std::io::Result<String> {
    fs::read_to_string(path)
}

/// A reader for settings that come from no file.
#[must_use]
pub fn always(settings: Settings) -> Reread {
    Arc::new(move || Ok(settings.clone()))
}

/// A reader of `[pooler]` in a `howdah.toml`, with what `fill` adds.
#[must_use]
pub fn from_toml(path: PathBuf, fill: impl Fn(&mut Settings) + Send + Sync + 'static) -> Reread {
    Arc::new(move || {
        let name = path.display().to_string();
        let text = read(&path).map_err(|error| vec![unreadable(&name, &error)])?;
        // The whole file must be valid, or the operator would learn of a mistake only at the next start.
        let _whole: crate::config::Config =
            pooler::settings::file::read_toml(&name, &text).map_err(|error| vec![error])?;
        let mut settings = pooler::settings::file::read_pooler(&name, &text)?;
        fill(&mut settings);
        Ok(settings)
    })
}

/// A reader of a `pgbouncer.ini`.
#[must_use]
pub fn from_ini(path: PathBuf) -> Reread {
    Arc::new(move || {
        let name = path.display().to_string();
        let text = read(&path).map_err(|error| vec![unreadable(&name, &error)])?;
        let ini = pooler::pgbouncer_ini::parse(&name, &text, &read)?;
        for warning in ini.warnings {
            tracing::warn!(target: "pooler", "{warning}");
        }
        Ok(ini.settings)
    })
}

fn unreadable(file: &str, error: &std::io::Error) -> SettingsError {
    SettingsError {
        file: file.to_owned(),
        line: None,
        key: None,
        message: format!("could not read: {error}"),
    }
}

/// A pooler that tells where it listens.
struct Reporting {
    pooler: Pooler,
    addresses: Addresses,
}

impl Applet for Reporting {
    fn name(&self) -> &'static str {
        self.pooler.name()
    }

    fn start<'a>(&'a self, node: &'a Node) -> LocalFuture<'a, std::result::Result<(), AppError>> {
        Box::pin(async {
            self.pooler.start(node).await?;
            if node.index == 0 {
                let addresses = self.pooler.addresses().iter().map(ToString::to_string).collect();
                // Only the first core tells, once.
                let _told = self.addresses.0.set(addresses);
            }
            Ok(())
        })
    }

    fn stop<'a>(&'a self, how: Stop) -> LocalFuture<'a, ()> {
        self.pooler.stop(how)
    }
}
