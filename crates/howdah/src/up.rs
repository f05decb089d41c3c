//! `howdah up`: everything on one machine, in one process, from one folder.
//!
//! 1. The folder: chosen, made, owned by an unprivileged user whom the process becomes, locked.
//! 2. Where `main` lives: a data directory, or a mount over the page server, where its server is a compute.
//! 3. The cluster: found or made by initdb, configured; on the first start of a mount, too.
//! 4. The nodepool: server, page server, computes, pooler, API start in this order. Pooler and API stop first, then
//!    computes, then the server, and last the page server, when the server has sent it the shutdown checkpoint.
//! 5. Once all are healthy: what runs where, and what to try.

mod banner;
mod directory;
mod fill;
mod handover;
mod ports;

use std::path::PathBuf;

use pageserver::applet::Pageserver;
use runtime::app::{self, App, Applet, LocalFuture, Node, Stop};
use runtime::executor::block_on;
use runtime::io;

use crate::cli::UpOptions;
use crate::computes::mounted::availability;
use crate::computes::settings::Mode;
use crate::computes::{self, Primary};
use crate::config::environment::Environment;
use crate::config::{Config, Place};
use crate::error::{Result, While};
use crate::limits::OPEN_FILES;
use crate::node::{self, Parts};
use crate::output;
use crate::pooling;
use crate::postgres::Postgres;
use crate::postgres::binaries::Binaries;
use crate::postgres::cluster::Cluster;
use crate::postgres::place::{Choice, Question, Record, Stage};
use directory::Directory;
use handover::Handover;

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
    let folder = match config.compute.directory.as_os_str().is_empty() {
        true => directory.computes(),
        false => config.compute.directory.clone(),
    };
    // It starts them in our own folder and nowhere else.
    let own_folder = folder == directory.computes();
    let starter = if own_folder { starter } else { Err("compute.directory is set".to_owned()) };
    let record = Record::of(directory.path());
    let choice = choose(&config, &said, &cluster, &record, &starter)?;
    let primary = choice.stage.map(|_stage| Primary {
        settings: config.postgres.settings.clone(),
        run: cluster.run.clone(),
        port: cluster.port,
        hba: directory.path().join("pg_hba.conf"),
        altered: directory.path().join("postgresql.auto.conf"),
        carried: directory.path().join("carried"),
        old: cluster.data.clone(),
        record: record.clone(),
    });
    fill.pageserver(&mut config.pageserver);
    let fill = fill.leading_to_main(primary.is_some());
    fill.pooler(&mut config.pooler);
    let site = computes::Site { folder, starter: starter.ok(), primary };
    let prepared = prepare(&config, &cluster, &directory, &choice, &site);
    let version =
        block_on(&io::Options::default(), prepared).or_fail("could not start an I/O loop")??;
    let mut parts = Parts { place: Some(choice.clone()), ..Parts::default() };
    let mut apps = vec![store(&config, &cluster, &choice, record, &mut parts)];
    node::add_computes(&mut apps, &mut parts, &config, site, environment)?;
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
        choice,
        json: options.json,
        parts,
    }));
    let ended = node::run_pool(&config.node, apps);
    drop(lock);
    ended
}

/// Where `main` is to live.
fn choose(
    config: &Config,
    said: &toml::Table,
    cluster: &Cluster,
    record: &Record,
    starter: &std::result::Result<PathBuf, String>,
) -> Result<Choice> {
    let has = |section: &str, key: &str| {
        let section = said.get(section).and_then(toml::Value::as_table);
        section.is_some_and(|section| section.contains_key(key))
    };
    let tied = if has("pageserver", "server") {
        Some("pageserver.server")
    } else {
        Some("postgres.data_dir").filter(|_| !config.postgres.data_dir.as_os_str().is_empty())
    };
    let can_mount = match starter {
        _ if config.compute.mode == Mode::Directory => Err("compute.mode is \"directory\""),
        // An ordinary user has to ask for it.
        Err(_) if config.postgres.place == Place::Mount && availability().is_ok() => Ok(()),
        Err(why) => Err(why.as_str()),
        Ok(_socket) => Ok(()),
    };
    let stage = record.read()?;
    let has_directory = cluster.exists()?;
    let question =
        Question { wanted: config.postgres.place, stage, has_directory, tied, can_mount };
    let choice = question.answer()?;
    match choice.stage {
        Some(chosen) if stage != Some(chosen) => record.write(chosen)?,
        None if stage.is_some() => record.remove()?,
        _ => {}
    }
    tracing::info!(place = choice.place(), why = choice.why, "where main lives");
    Ok(choice)
}

/// The page server and, unless `main` has left it, the server of the data directory.
fn store(
    config: &Config,
    cluster: &Cluster,
    choice: &Choice,
    record: Record,
    parts: &mut Parts,
) -> App {
    let (pageserver, pages) = Pageserver::app(config.pageserver.clone());
    parts.pages = Some(pages.clone());
    match choice.stage {
        None => {
            let (server, postgres) = Postgres::app(cluster.clone());
            parts.postgres = Some(postgres);
            followed(server, pageserver)
        }
        Some(stage) if stage.is_mount() => pageserver,
        Some(stage) => {
            let (server, _postgres) = Postgres::app(cluster.clone());
            let data = cluster.data.clone();
            handover::app(server, pageserver, Handover { data, pages, record, stage })
        }
    }
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
async fn prepare(
    config: &Config,
    cluster: &Cluster,
    directory: &Directory,
    choice: &Choice,
    site: &computes::Site,
) -> Result<String> {
    let version = cluster.version().await?;
    directory.make_run_folder(&cluster.run)?;
    let is_mount = choice.stage.is_some_and(Stage::is_mount);
    if let Some(primary) = site.primary.as_ref().filter(|_| is_mount) {
        computes::primary::end_orphans(&site.folder, primary).await?;
    }
    ports::check(config)?;
    if is_mount {
        cluster.check_socket()?;
        return Ok(version);
    }
    if !cluster.exists_for(&version)? {
        output::note(format!(
            "making a PostgreSQL {version} cluster in {}",
            cluster.data.display()
        ));
        cluster.create().await?;
    }
    cluster.configure()?;
    Ok(version)
}
