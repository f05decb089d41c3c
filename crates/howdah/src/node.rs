//! A nodepool of this process: which applets run in it, and its life from the log to the last stop.

use std::path::Path;

use pageserver::applet::Pageserver;
use pooler::settings::Settings;
use runtime::app::App;
use runtime::fs::blocking::{self as fs, Lock};
use runtime::log;
use runtime::metrics::Registry;
use runtime::nodepool::{Control, Nodepool, NodepoolOptions};

use crate::api;
use crate::cli::CoreOptions;
use crate::computes;
use crate::config::environment::Environment;
use crate::config::{self, AppletName, Config, Log, Node};
use crate::error::{Error, Result, While};
use crate::limits::{OPEN_FILES, STOP_WAIT};
use crate::pooling::{self, Reread};
use crate::postgres::binaries::Binaries;
use crate::postgres::cluster::Cluster;
use crate::postgres::place::Choice;
use crate::postgres::{self, Postgres};

/// Handles to what runs here; `None` for what does not.
#[derive(Clone, Default)]
pub struct Parts {
    pub pages: Option<pageserver::api::Handle>,
    pub postgres: Option<postgres::Handle>,
    pub pooler: Option<pooling::Handle>,
    pub computes: Option<computes::Handle>,
    pub api: Option<api::Address>,
    /// Where `main` lives, of `howdah up`.
    pub place: Option<Choice>,
}

impl Parts {
    /// Where clients connect.
    #[must_use]
    pub fn pooler_address(&self) -> String {
        self.pooler.as_ref().and_then(pooling::Handle::address).unwrap_or_else(|| "off".to_owned())
    }

    /// Where the API is; `None` if it is off.
    #[must_use]
    pub fn api_address(&self) -> Option<String> {
        self.api.as_ref().and_then(api::Address::get)
    }
}

/// The configuration file of a folder.
pub const CONFIG: &str = "howdah.toml";
/// In a page server's folder, held while somebody writes there.
const LOCK: &str = "howdah.lock";

/// Makes sure that nobody else uses a page server's folder, until it is dropped. Makes the folder if it is not there.
pub fn lock(folder: &Path) -> Result<Lock> {
    let shown = folder.display();
    fs::create_dir_all(folder).or_fail(format_args!("could not make folder \"{shown}\""))?;
    let lock =
        Lock::take(folder.join(LOCK)).or_fail(format_args!("could not lock folder \"{shown}\""))?;
    lock.ok_or_else(|| {
        Error::new(format!("another Howdah uses \"{shown}\"")).hint("stop that one first")
    })
}

/// `howdah node`: the applets that the file names.
pub fn run(path: &Path, cores: &CoreOptions, environment: &Environment) -> Result<()> {
    let mut config = Config::read(path)?;
    cores.apply(&mut config.node);
    runtime::net::raise_fd_limit(OPEN_FILES);
    start_log(&config.log)?;
    let runs = |name: AppletName| config.node.applets.contains(&name);
    let mut parts = Parts::default();
    let mut apps = Vec::new();
    let mut locked = None;
    if runs(AppletName::PageServer) {
        if config.pageserver.directory.as_os_str().is_empty() {
            return Err(Error::new("pageserver.directory is not set")
                .hint("a node has no folder of its own"));
        }
        locked = Some(lock(&config.pageserver.directory)?);
        let (app, handle) = Pageserver::app(config.pageserver.clone());
        apps.push(app);
        parts.pages = Some(handle);
    }
    if runs(AppletName::Postgres) {
        let (app, handle) = Postgres::app(cluster(&config, environment)?);
        apps.push(app);
        parts.postgres = Some(handle);
    }
    if runs(AppletName::Computes) {
        let folder = &config.compute.directory;
        if folder.as_os_str().is_empty() {
            return Err(
                Error::new("compute.directory is not set").hint("a node has no folder of its own")
            );
        }
        let site = computes::Site { folder: folder.clone(), starter: None, primary: None };
        add_computes(&mut apps, &mut parts, &config, site, environment)?;
    }
    if runs(AppletName::Pooler) {
        let reread = pooling::from_toml(path.to_owned(), |_settings| {});
        add_pooler(&mut apps, &mut parts, config.pooler.clone(), reread)?;
    }
    add_api(&mut apps, &mut parts, &config.api);
    let ended = run_pool(&config.node, apps);
    drop(locked);
    ended
}

/// A node supervises a cluster that is there; it makes none.
fn cluster(config: &Config, environment: &Environment) -> Result<Cluster> {
    let data = config.postgres.data_dir.clone();
    if data.as_os_str().is_empty() {
        return Err(
            Error::new("postgres.data_dir is not set").hint("a node has no folder of its own")
        );
    }
    let binaries = Binaries::find(&config.postgres.bin_dir, environment)?;
    let run = data.clone();
    let (port, settings) = (config.postgres.port, config.postgres.settings.clone());
    let cluster = Cluster { binaries, data, run, port, settings };
    if !cluster.exists()? {
        return Err(Error::new(format!("there is no cluster in \"{}\"", cluster.data.display())));
    }
    cluster.configure()?;
    Ok(cluster)
}

/// The parts that face clients come last, so that they stop first.
pub fn add_pooler(
    apps: &mut Vec<App>,
    parts: &mut Parts,
    settings: Settings,
    reread: Reread,
) -> Result<()> {
    let computes = parts.computes.as_ref();
    let targets = pooling::Targets {
        resolver: computes.map(computes::Handle::resolver),
        default: computes.and_then(computes::Handle::default_target),
    };
    let handle = parts.pooler.get_or_insert_default();
    apps.push(pooling::app(settings, reread, targets, handle)?);
    Ok(())
}

/// Computes of the page server of this process; before the pooler, which asks for them.
pub fn add_computes(
    apps: &mut Vec<App>,
    parts: &mut Parts,
    config: &Config,
    site: computes::Site,
    environment: &Environment,
) -> Result<()> {
    let Some(pages) = parts.pages.clone() else {
        return Err(Error::new("there are no computes without a page server")
            .hint("add \"pageserver\" to node.applets"));
    };
    let handle = computes::Handle::new(site.primary.is_some());
    parts.computes = Some(handle.clone());
    let options = computes::Options {
        program: environment.program.clone(),
        binaries: Binaries::find(&config.postgres.bin_dir, environment)?.folder().to_owned(),
        directory: site.folder,
        starter: site.starter,
        settings: config.compute.clone(),
        primary: site.primary,
        standby: config.pageserver.application_name.clone(),
        pages,
        pooler: parts.pooler.get_or_insert_default().clone(),
    };
    apps.push(computes::app(options, handle));
    Ok(())
}

/// The API, if it is on. After everything that it asks about.
pub fn add_api(apps: &mut Vec<App>, parts: &mut Parts, settings: &config::Api) {
    if !settings.enabled {
        return;
    }
    let registry = Registry::new();
    registry.collect_process();
    parts.api = Some(api::Address::default());
    let (listen, token_file) = (settings.listen, settings.token_file.clone());
    apps.push(api::app(api::Options { listen, token_file, registry, parts: parts.clone() }));
}

/// Sets up the log of the process.
pub fn start_log(settings: &Log) -> Result<()> {
    log::init(settings.format, &settings.level).or_fail("could not set up the log")
}

/// Runs the apps until somebody asks to stop.
pub fn run_pool(node: &Node, apps: Vec<App>) -> Result<()> {
    let options = NodepoolOptions {
        cores: node.cores.clone(),
        pin: node.pin,
        io: runtime::io::Options { backend: node.ev_backend, ..runtime::io::Options::default() },
        stop_now: STOP_WAIT,
        ..NodepoolOptions::default()
    };
    Nodepool::run(options, apps, Control::new()).map_err(|error| Error::new(error.to_string()))
}

impl CoreOptions {
    /// What the command line says wins.
    pub fn apply(&self, node: &mut Node) {
        if let Some(cores) = &self.cores {
            node.cores = cores.clone();
        }
        if let Some(backend) = self.ev_backend {
            node.ev_backend = backend;
        }
    }
}
