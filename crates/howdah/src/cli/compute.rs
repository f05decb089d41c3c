//! `howdah compute`: computes of a running Howdah started, listed, stopped; and the process of one.

use std::path::PathBuf;

use clap::{Subcommand, ValueHint};
use pageserver::replica;
use pageserver::timeline::MAIN;
use pg::lsn::Lsn;
use serde_json::{Value, from_value};

use crate::api::client::{Api, escaped};
use crate::computes::settings::Mode;
use crate::computes::{Line, Phase};
use crate::computes::{directory, mounted, starter};
use crate::config::environment::Environment;
use crate::error::{Result, While};
use crate::output;
use crate::postgres::binaries::Binaries;

#[derive(Debug, Subcommand)]
pub enum ComputeCommand {
    /// Start a server on a branch or a moment, unless it runs
    #[command(after_help = START_EXAMPLE)]
    Start {
        /// A branch, an LSN or time of `main`, or BRANCH@LSN, BRANCH@TIME
        #[arg(value_name = "TARGET")]
        target: String,
        /// A copy to write to, which is thrown away when it stops
        #[arg(long)]
        ephemeral: bool,
        /// A copy to read, which follows the branch
        #[arg(long, conflicts_with = "ephemeral")]
        replica: bool,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Stop one; who needs it starts it again
    #[command(after_help = "Example:\n  howdah compute stop feature")]
    Stop {
        /// As `compute list` shows it
        name: String,
    },
    /// List what runs or waits
    #[command(after_help = "Example:\n  howdah compute list --json")]
    List {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Be a compute: serve a branch in the foreground until SIGTERM
    #[command(after_help = RUN_EXAMPLE)]
    Run(RunOptions),
    /// Start computes for a process that is not root (howdah up makes it)
    #[command(hide = true, after_help = STARTER_EXAMPLE)]
    Starter(starter::Options),
}

const START_EXAMPLE: &str = "Example:
  howdah compute start feature
  howdah compute start feature --ephemeral
  howdah compute start main --replica
  howdah compute start 0/16B3748
  howdah compute start main@2026-11-19T10:00:00Z

The pooler does the same for whoever connects to shop@feature, shop@0/16B3748,
shop@feature?ephemeral, shop@main?replica.";

const RUN_EXAMPLE: &str = "Example:
  howdah compute run --branch main --lsn 0/16B3748 --page-server 127.0.0.1:6430 --dir /srv/compute

Howdah starts its computes by this. One that serves the end of a branch must be attached to it
(POST /v1/branches/NAME/attach): until then its commits wait.
PGUSER, PGPASSWORD, PGPASSFILE, PGSSLMODE and PGSSLROOTCERT say who you are to the page service.";

const STARTER_EXAMPLE: &str = "Example:
  howdah compute starter --parent 4711 --uid 107 --socket /run/howdah/starter --folder /srv/c";

#[derive(Debug, clap::Args)]
pub struct RunOptions {
    /// Branch to serve
    #[arg(long)]
    pub branch: String,
    /// As of this LSN; what is written is thrown away [default: the end, to write the branch]
    #[arg(long)]
    pub lsn: Option<Lsn>,
    /// Throw away what is written, at the branch's end, too
    #[arg(long, conflicts_with = "lsn")]
    pub ephemeral: bool,
    /// Follow the branch from its end on, and be read
    #[arg(long, conflicts_with_all = ["lsn", "ephemeral"])]
    pub replica: bool,
    /// Page service, HOST:PORT
    #[arg(long, value_name = "ADDRESS")]
    pub page_server: String,
    /// Directory of its own: data, socket
    #[arg(long, value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// What its data directory is: a mount or a restored copy
    #[arg(long, value_enum, default_value = "auto")]
    pub mode: Mode,
    /// Number in the name of the unix socket
    #[arg(long, default_value = "5432")]
    pub port: u16,
    /// Who must have received a commit on a branch before it is acknowledged: the page server's application_name
    #[arg(long, value_name = "NAME", default_value = "howdah")]
    pub standby: String,
    /// Remember in this file the pages that a start reads, for the next one with the same file (mounts only)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub boot_set: Option<PathBuf>,
    /// Keep in this file what ALTER SYSTEM writes, for the next one with the same file (mounts only)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub altered: Option<PathBuf>,
    /// Keep in this folder replication slots and statistics when it is shut down, for the next one with the same folder
    /// (mounts only)
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub carried: Option<PathBuf>,
    /// A setting of the server
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    pub settings: Vec<(String, String)>,
    /// Print as JSON; it always is
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(command: &ComputeCommand, api: &Api, environment: &Environment) -> Result<()> {
    match command {
        ComputeCommand::Start { target, ephemeral, replica, json } => {
            let option = match (ephemeral, replica) {
                (true, _) => "?ephemeral",
                (_, true) => "?replica",
                _ => "",
            };
            let target = escaped(&format!("{target}{option}"));
            let value = api.post(&format!("/v1/computes?target={target}"))?;
            if *json {
                output::json(&value);
                return Ok(());
            }
            let compute: Line = from_value(value).or_fail("unexpected answer of the API")?;
            output::line(shown(&compute));
            Ok(())
        }
        ComputeCommand::Stop { name } => {
            let _stopped = api.delete(&format!("/v1/computes/{}", escaped(name)))?;
            output::line(format!("compute \"{name}\" stopped"));
            Ok(())
        }
        ComputeCommand::List { json } => list(api, *json),
        ComputeCommand::Run(options) => serve(options, api, environment),
        ComputeCommand::Starter(options) => starter::run(options, &environment.program),
    }
}

fn list(api: &Api, json: bool) -> Result<()> {
    let value = api.get("/v1/computes")?;
    if json {
        output::json(&value);
        return Ok(());
    }
    let list = value.get("computes").cloned().unwrap_or(Value::Null);
    let computes: Vec<Line> = from_value(list).or_fail("unexpected answer of the API")?;
    computes.iter().map(shown).for_each(output::line);
    Ok(())
}

fn shown(compute: &Line) -> String {
    let phase = match compute.phase {
        Phase::Queued => "waits for a place",
        Phase::Starting => "starts",
        Phase::Running => "runs",
        Phase::Stopping => "stops",
    };
    let kind = match (compute.writes_branch, compute.read_only) {
        (true, _) => "writes the branch",
        _ if compute.replica => "replica",
        (false, true) => "read-only",
        (false, false) => "ephemeral",
    };
    let place = match (&compute.socket_dir, compute.port, &compute.mode) {
        (Some(folder), Some(port), Some(mode)) => {
            format!(", -h {} -p {port} ({mode})", folder.display())
        }
        _ => String::new(),
    };
    let lsn = compute.lsn.as_ref().map_or_else(String::new, |lsn| format!(" from {lsn}"));
    let (name, clients) = (&compute.name, compute.clients);
    let plural = if clients == 1 { "" } else { "s" };
    format!("{name:<24} {phase}{lsn}, {kind}, {clients} client{plural}{place}")
}

fn serve(options: &RunOptions, api: &Api, environment: &Environment) -> Result<()> {
    let database = match options.lsn {
        Some(lsn) => format!("{}@{lsn}", options.branch),
        None if options.replica => format!("{}{}", options.branch, replica::OPTION),
        None => options.branch.clone(),
    };
    let writes = options.lsn.is_none() && !options.ephemeral && !options.replica;
    let absolute = std::path::absolute(&options.dir);
    let run = directory::Options {
        branch: options.branch.clone(),
        follows: options.replica,
        standby: writes.then(|| options.standby.clone()),
        login: api.credentials.login(&options.page_server, &database)?,
        directory: absolute.or_fail(format_args!("\"{}\"", options.dir.display()))?,
        port: options.port,
        binaries: Binaries::find(&PathBuf::new(), environment)?,
        settings: [subscriptions(&options.branch, writes), options.settings.clone()].concat(),
    };
    if mounted::is_wanted(options.mode)? {
        let lasting = mounted::Lasting {
            boot_set: options.boot_set.clone(),
            altered: options.altered.clone(),
            carried: options.carried.clone(),
        };
        mounted::run(run, lasting)
    } else {
        directory::run(&run)
    }
}

/// Subscriptions are received by the one that writes `main`: another compute would take the publisher's slot from it. Whoever
/// wants them on a branch says so by this setting.
fn subscriptions(branch: &str, writes: bool) -> Vec<(String, String)> {
    if writes && branch == MAIN {
        return Vec::new();
    }
    vec![("max_logical_replication_workers".to_owned(), "0".to_owned())]
}

fn setting(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
