//! The command line: what it accepts, and which function does it.

mod branch;
mod check;
mod compute;
mod import;
mod lease;
pub(crate) mod page;
mod pooler;
mod recover;
mod restore;
mod scrub;
mod status;
mod verify;
mod wal;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueHint};
use clap_complete::Shell;
use pg::datadir::relation::{Fork, RelNode};
use pg::lsn::Lsn;
use runtime::io::BackendChoice;
use runtime::nodepool::Cores;

use crate::api::client::Api;
use crate::config::environment::Environment;
use crate::error::Result;
use crate::{node, output, up};

/// Howdah: a stock PostgreSQL with a pooler in front and a page server behind it.
#[derive(Debug, Parser)]
#[command(name = "howdah", version, arg_required_else_help = true, max_term_width = HELP_COLUMNS)]
pub struct Cli {
    /// Address of a running Howdah's API, for the commands that talk to one [default: HOWDAH_API, else 127.0.0.1:6480]
    #[arg(long, global = true, value_name = "ADDRESS", help_heading = API_HEADING)]
    pub api: Option<String>,
    /// File with the API's bearer token, mode 0600 [default: HOWDAH_API_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = API_HEADING)]
    pub api_token_file: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

/// Help is no wider; examples are broken by hand.
const HELP_COLUMNS: usize = 100;

/// Apart from a command's own options, for they mean nothing to those that ask no API.
const API_HEADING: &str = "Asking a running Howdah";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything on one machine: PostgreSQL, pooler, page server and API
    #[command(after_help = UP_EXAMPLE)]
    Up(UpOptions),
    /// Run one nodepool with the applets that a configuration file names
    #[command(after_help = "Example:\n  howdah node --config /etc/howdah.toml")]
    Node {
        /// Configuration file
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        config: PathBuf,
        #[command(flatten)]
        cores: CoreOptions,
    },
    /// Run the pooler alone
    #[command(after_help = POOLER_EXAMPLE)]
    Pooler {
        /// howdah.toml, or a pgbouncer.ini with the files it names
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        config: PathBuf,
        #[command(flatten)]
        cores: CoreOptions,
    },
    /// Validate a configuration file; errors name line and key
    #[command(after_help = "Example:\n  howdah check howdah.toml")]
    Check {
        /// howdah.toml or pgbouncer.ini
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Print a block of a relation as of any LSN seen so far
    #[command(after_help = PAGE_EXAMPLE)]
    Page(PageOptions),
    /// Restore a branch as of a moment into a data directory
    #[command(after_help = RESTORE_EXAMPLE)]
    Restore(RestoreOptions),
    /// Make a page server's directory out of its object store
    #[command(after_help = RECOVER_EXAMPLE)]
    Recover(RecoverOptions),
    /// Take in a running cluster: base backup, then following it
    #[command(after_help = import::EXAMPLE)]
    Import(import::ImportOptions),
    /// Compare a stopped cluster's files with the page versions, block by block
    #[command(after_help = "Example:\n  howdah verify --data-dir /var/lib/howdah/postgres")]
    Verify(VerifyOptions),
    /// Read WAL files
    #[command(subcommand)]
    Wal(WalCommand),
    /// Computes: servers on branches and moments
    #[command(subcommand)]
    Compute(compute::ComputeCommand),
    /// Branches: make one at any moment that is kept, list, delete
    #[command(subcommand)]
    Branch(BranchCommand),
    /// Leases: moments kept readable for a while, whatever the retention
    #[command(subcommand)]
    Lease(lease::LeaseCommand),
    /// Print the LSN of a time: of the last commit at or before it, to the second
    #[command(after_help = "Example:\n  howdah lsn-at 2026-11-19T10:00:00Z")]
    LsnAt {
        /// A time (RFC 3339), or the name of a restore point
        time: String,
        /// Branch to look at
        #[arg(long, default_value = "main")]
        branch: String,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Compare all checksums of what the page server keeps
    #[command(after_help = "Example:\n  howdah scrub")]
    Scrub {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Timelines of the page server
    #[command(subcommand)]
    Timeline(TimelineCommand),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  howdah completions bash > /etc/bash_completion.d/howdah")]
    Completions {
        /// Which shell is to read it
        shell: Shell,
    },
}

const UP_EXAMPLE: &str = "Example:
  howdah up
  howdah up --dir /srv/howdah --config howdah.toml --cores 0,1

The folder is made if it is not there; started as root, everything in it belongs to user postgres,
and the program becomes that user.";

const POOLER_EXAMPLE: &str = "Example:
  howdah pooler --config howdah.toml
  howdah pooler --config /etc/pgbouncer/pgbouncer.ini";

const PAGE_EXAMPLE: &str = "Example:
  howdah page --rel 1663/5/16385 --block 0
  howdah page --rel 1663/5/16385 --fork vm --block 0 --lsn 0/16B3748 --out page.bin

SPC/DB/REL are the oids of tablespace and database and the relfilenode; in psql:
  SELECT coalesce(nullif(reltablespace, 0), dattablespace) || '/' || d.oid || '/' ||
         pg_relation_filenode(c.oid)
    FROM pg_class c, pg_database d WHERE relname = 'mytable' AND datname = current_database()";

#[derive(Debug, clap::Args)]
pub struct UpOptions {
    /// Folder of all data [default: /var/lib/howdah for root, else ~/.local/share/howdah]
    #[arg(long, value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
    /// Configuration file [default: howdah.toml in the folder, if it is there]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub cores: CoreOptions,
    /// Print the addresses as one line of JSON once everything runs
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct RecoverOptions {
    /// The object store: a directory, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix
    #[arg(long, value_name = "URL")]
    pub store: String,
    /// Directory to make: `pageserver.directory` of who is to run on it; empty, or not there
    #[arg(long, value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// URL of an S3 store that is not Amazon's [default: as the environment says]
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// Region of an S3 store [default: as the environment says]
    #[arg(long)]
    pub region: Option<String>,
    /// Fetch all layers now, not when they are read
    #[arg(long)]
    pub all: bool,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

const RECOVER_EXAMPLE: &str = "Example:
  howdah recover --store s3://backups/shop --dir /srv/howdah/pageserver

Credentials come from the environment, under the names that the provider's own tools use
(AWS_ACCESS_KEY_ID, ...).
The page server that starts on the directory needs the same pageserver.store; it takes over, and
the one that wrote the store until then stops. Nothing is changed in the store before that.";

/// What may be said about cores on the command line; it wins over the file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CoreOptions {
    /// How to do I/O: auto, io_uring, epoll or kqueue
    #[arg(long, value_name = "NAME")]
    pub ev_backend: Option<BackendChoice>,
    /// Cores to run on: "auto", a count ("2") or a list ("0,2-3")
    #[arg(long, value_name = "LIST")]
    pub cores: Option<Cores>,
}

#[derive(Debug, clap::Args)]
pub struct PageOptions {
    /// Branch to read
    #[arg(long, default_value = "main")]
    pub branch: String,
    /// Tablespace, database and relation: oid/oid/relfilenode
    #[arg(long, value_name = "SPC/DB/REL", value_parser = page::relation)]
    pub rel: RelNode,
    /// main, fsm, vm or init
    #[arg(long, default_value = "main", value_parser = page::fork)]
    pub fork: Fork,
    /// Number of the block, from 0
    #[arg(long)]
    pub block: u32,
    /// As of this LSN [default: the newest]
    #[arg(long)]
    pub lsn: Option<Lsn>,
    /// Write the 8192 bytes into a file instead
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub out: Option<PathBuf>,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct RestoreOptions {
    /// Branch to restore
    #[arg(long, default_value = "main")]
    pub branch: String,
    /// As of this LSN [default: now]
    #[arg(long, conflicts_with = "at")]
    pub lsn: Option<Lsn>,
    /// As of an LSN, a time (RFC 3339) or the name of a restore point; the API is asked which LSN that is
    #[arg(long, value_name = "MOMENT")]
    pub at: Option<String>,
    /// Data directory to make: one that is empty or does not exist
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub target: PathBuf,
    /// Page service, HOST:PORT [default: the one of the running Howdah]
    #[arg(long, value_name = "ADDRESS")]
    pub server: Option<String>,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

const RESTORE_EXAMPLE: &str = "Example:
  howdah restore --lsn 0/16B3748 --target /srv/restored
  howdah restore --at 2026-11-20T18:00:00Z --target /srv/yesterday
  howdah restore --at 'before the release' --target /srv/before
  pg_ctl -D /srv/restored -o '-p 5439' start

Run it as the user that the server will run as; PostgreSQL refuses root.
PGUSER, PGPASSWORD, PGPASSFILE, PGSSLMODE and PGSSLROOTCERT say who you are to the page service.
Any pg_basebackup does the same:
  PGOPTIONS='-c howdah.lsn=0/16B3748' pg_basebackup -h HOST -p PORT -D DIR";

#[derive(Debug, clap::Args)]
pub struct VerifyOptions {
    /// Branch to compare
    #[arg(long, default_value = "main")]
    pub branch: String,
    /// Data directory of the stopped cluster
    #[arg(long, value_hint = ValueHint::DirPath)]
    pub data_dir: PathBuf,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum WalCommand {
    /// Print the records of WAL segments, one a line
    #[command(after_help = "Example:\n  howdah wal dump pg_wal/000000010000000000000001")]
    Dump {
        /// Segment files, in order
        #[arg(required = true, value_hint = ValueHint::FilePath)]
        segments: Vec<PathBuf>,
        /// Print as JSON, one record a line
        #[arg(long)]
        json: bool,
    },
    /// Redo every record and compare with the images that Postgres put beside them
    #[command(after_help = WAL_VERIFY_EXAMPLE)]
    Verify(WalVerifyOptions),
    /// Follow transaction logs, relation maps, sizes and counters by the WAL, and compare with the files
    #[command(after_help = WAL_STATE_EXAMPLE)]
    State(WalStateOptions),
}

/// What to hold the WAL against.
#[derive(Debug, clap::Args)]
pub struct WalVerifyOptions {
    /// Directory of WAL segments: pg_wal or an archive
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub directory: PathBuf,
    /// Data directory to start from: a copy of the stopped cluster from before the WAL was written
    #[arg(long, value_hint = ValueHint::DirPath)]
    pub base: Option<PathBuf>,
    /// Data directory of the stopped cluster to compare the outcome with; needs --base
    #[arg(long, requires = "base", value_hint = ValueHint::DirPath)]
    pub against: Option<PathBuf>,
    /// Give up when the pages take more memory than this, in megabytes
    #[arg(long, value_name = "MB", default_value_t = crate::limits::VERIFY_MEMORY_MEGABYTES)]
    pub max_memory: u64,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// From where to where the WAL leads.
#[derive(Debug, clap::Args)]
pub struct WalStateOptions {
    /// Directory of WAL segments: pg_wal or an archive
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub directory: PathBuf,
    /// Data directory to start from: a copy of the stopped cluster from before the WAL was written
    #[arg(long, value_hint = ValueHint::DirPath)]
    pub base: PathBuf,
    /// Data directory of the stopped cluster to compare with
    #[arg(long, value_hint = ValueHint::DirPath)]
    pub against: PathBuf,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

const WAL_STATE_EXAMPLE: &str = "Example:
  howdah wal state after/pg_wal --base before --against after";

const WAL_VERIFY_EXAMPLE: &str = "Example:
  howdah wal verify /var/lib/postgresql/15/main/pg_wal
  howdah wal verify archive --base before --against after

The server must have written the WAL with wal_consistency_checking = all. With
full_page_writes = off every change of a page is checked, else only those that are not restored
from an image.
Without --base a page counts from its first image on.";

#[derive(Debug, Subcommand)]
pub enum BranchCommand {
    /// Make a branch
    #[command(after_help = BRANCH_EXAMPLE)]
    Create {
        /// Its name: letters, digits, dots, and - _
        name: String,
        /// Branch that it comes from
        #[arg(long, default_value = "main")]
        from: String,
        /// An LSN, a time (RFC 3339) or the name of a restore point [default: the latest moment]
        #[arg(long, value_name = "MOMENT")]
        at: Option<String>,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// List all branches as a tree
    #[command(after_help = "Example:\n  howdah branch list --json")]
    List {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete a branch that no other comes from
    #[command(after_help = "Example:\n  howdah branch delete feature")]
    Delete {
        /// As `branch list` shows it
        name: String,
        /// Stop the computes that serve it
        #[arg(long)]
        force: bool,
    },
}

const BRANCH_EXAMPLE: &str = "Example:
  howdah branch create feature
  howdah branch create before --at 0/16B3748
  howdah branch create yesterday --from main --at 2026-11-19T10:00:00Z
  howdah branch create release --at 'before the release'";

#[derive(Debug, Subcommand)]
pub enum TimelineCommand {
    /// Show what the page server has and how far it is behind
    #[command(after_help = "Example:\n  howdah timeline status --json")]
    Status {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command of the process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let environment = Environment::read();
    let api = Api {
        address: environment.api_address(cli.api.as_deref()),
        token_file: cli.api_token_file.or_else(|| environment.api_token_file.clone()),
        credentials: environment.credentials.clone(),
    };
    match cli.command {
        Command::Up(options) => up::run(options, &environment),
        Command::Node { config, cores } => node::run(&config, &cores, &environment),
        Command::Pooler { config, cores } => pooler::run(&config, &cores),
        Command::Check { file } => check::run(&file),
        Command::Page(options) => page::run(&options, &api),
        Command::Import(options) => import::run(&options, &environment),
        Command::Recover(options) => recover::run(&options),
        Command::Restore(options) => restore::run(&options, &api),
        Command::Verify(options) => verify::run(&options, &api),
        Command::Wal(WalCommand::Dump { segments, json }) => wal::dump::run(&segments, json),
        Command::Wal(WalCommand::Verify(options)) => wal::verify::run(&options),
        Command::Wal(WalCommand::State(options)) => wal::state::run(&options),
        Command::Branch(command) => branch::run(&command, &api),
        Command::Compute(command) => compute::run(&command, &api, &environment),
        Command::Lease(command) => lease::run(&command, &api),
        Command::LsnAt { time, branch, json } => branch::lsn_at(&branch, &time, json, &api),
        Command::Scrub { json } => scrub::run(json, &api),
        Command::Timeline(TimelineCommand::Status { json }) => status::run(&api, json),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "howdah", &mut script);
            output::bytes(&script);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        fn check(command: &mut clap::Command, path: &str) {
            let names: Vec<String> =
                command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
            if names.is_empty() {
                assert!(command.render_long_help().to_string().contains("Example"), "{path}");
                let example = command.get_after_help().map(ToString::to_string);
                for line in example.unwrap_or_default().lines() {
                    assert!(line.len() <= HELP_COLUMNS, "it would be broken: {line}");
                }
            }
            for name in names.iter().filter(|name| *name != "help") {
                let sub = command.find_subcommand_mut(name).expect("it was listed");
                check(sub, &format!("{path} {name}"));
            }
        }
        check(&mut Cli::command(), "howdah");
    }
}
