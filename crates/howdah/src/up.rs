//! `howdah up`: everything on one machine, in one process, from one folder.
//!
//! 1. The folder: chosen, made, owned by an unprivileged user whom the process becomes, locked.
//! 2. The cluster: found or made by initdb, configured.
//! 3. The nodepool: server, page server, computes, pooler, API start in this order. Pooler and API stop first, then
//!    computes, then the server, and last the page server, when the server has sent it the shutdown checkpoint.
//! 4. Once all are healthy: what runs where, and what to try.

mod banner;
mod directory;
mod fill;
mod ports;

use pageserver::applet::Pageserver;
use runtime::app::{self, App, Applet, LocalFuture, Node, Stop};
use runtime::executor::block_on;
use runtime::io;

use crate::cli::UpOptions;
use crate::config::Config;
use crate::config::environment::Environment;
use crate::error::{Result, While};
use crate::limits::OPEN_FILES;
use crate::node::{self, Parts};
use crate::output;
use crate::pooling;
use crate::postgres::Postgres;
use crate::postgres::binaries::Binaries;
use crate::postgres::cluster::Cluster;
use directory::Directory;

/// Runs until it is asked to stop.
pub fn run(options: UpOptions, environment: &Environment) -> Result<()> {
    runtime::net::raise_fd_limit(OPEN_FILES);
    let directory = Directory::choose(options.dir.as_deref(), environment)?;
    let starter = directory.settle(&environment.program)?;
    let (mut config, said, file) = directory.configuration(options.config.as_deref())?;
    options.cores.apply(&mut config.node);
    node::start_log(&config.log)?;
    let lock = directory.lock()?;
    let cluster = cluster(&config, &directory, environment)?;
    let fill = fill::Fill::new(&said, &directory, &cluster);
    fill.pageserver(&mut config.pageserver);
    fill.pooler(&mut config.pooler);
    let version = block_on(&io::Options::default(), prepare(&config, &cluster, &directory))
        .or_fail("could not start an I/O loop")??;
    let (pageserver, pages) = Pageserver::app(config.pageserver.clone());
    let (server, postgres) = Postgres::app(cluster.clone());
    let mut apps = vec![followed(server, pageserver)];
    let mut parts = Parts { pages: Some(pages), postgres: Some(postgres), ..Parts::default() };
    let folder = match config.compute.directory.as_os_str().is_empty() {
        true => directory.computes(),
        false => config.compute.directory.clone(),
    };
    // It starts them in our own folder and nowhere else.
    let starter = starter.filter(|_socket| folder == directory.computes());
    node::add_computes(&mut apps, &mut parts, &config, &folder, starter, environment)?;
    let reread = match file {
        Some(file) => pooling::from_toml(file, move |settings| fill.pooler(settings)),
        None => pooling::always(config.pooler.clone()),
    };
    node::add_pooler(&mut apps, &mut parts, config.pooler.clone(), reread)?;
    node::add_api(&mut apps, &mut parts, &config.api);
    apps.push(banner::app(banner::Facts {
        directory: directory.path().to_owned(),
        version,
        socket: cluster.run.clone(),
        port: cluster.port,
        json: options.json,
        parts,
    }));
    let ended = node::run_pool(&config.node, apps);
    drop(lock);
    ended
}

fn cluster(config: &Config, directory: &Directory, environment: &Environment) -> Result<Cluster> {
    let binaries = Binaries::find(&config.postgres.bin_dir, environment)?;
    let configured = &config.postgres.data_dir;
    let data = if configured.as_os_str().is_empty() {
        directory.path().join("postgres")
    } else {
        configured.clone()
    };
    let settings = config.postgres.settings.clone();
    Ok(Cluster {
        binaries,
        data,
        run: directory.path().join("run"),
        port: config.postgres.port,
        settings,
    })
}

/// Server and page server as one App: both start in this order, and both stop in this order.
fn followed(server: App, pageserver: App) -> App {
    App::new("postgres", move |node| Followed {
        parts: [(server.make)(node), (pageserver.make)(node)],
    })
}

struct Followed {
    parts: [Box<dyn Applet>; 2],
}

impl Applet for Followed {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn start<'a>(&'a self, node: &'a Node) -> LocalFuture<'a, std::result::Result<(), app::Error>> {
        Box::pin(async {
            for (index, part) in self.parts.iter().enumerate() {
                if let Err(error) = part.start(node).await {
                    // A start that fails leaves nothing behind.
                    for started in &self.parts[..index] {
                        started.stop(Stop::Now).await;
                    }
                    return Err(error);
                }
            }
            Ok(())
        })
    }

    fn stop<'a>(&'a self, how: Stop) -> LocalFuture<'a, ()> {
        Box::pin(async move {
            for part in &self.parts {
                part.stop(how).await;
            }
        })
    }
}

/// Everything that can go wrong before something runs. Returns the server's version.
async fn prepare(config: &Config, cluster: &Cluster, directory: &Directory) -> Result<String> {
    let version = cluster.version().await?;
    ports::check(config)?;
    if !cluster.exists_for(&version)? {
        output::note(format!(
            "making a PostgreSQL {version} cluster in {}",
            cluster.data.display()
        ));
        cluster.create().await?;
    }
    directory.make_run_folder(&cluster.run)?;
    cluster.configure()?;
    Ok(version)
}
