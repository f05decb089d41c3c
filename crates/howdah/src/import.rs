//! `howdah import`: takes a running cluster in. Its server is looked at, `howdah.toml` is written, the page server takes a
//! base backup and follows until it has all that the server had by then. From there on `howdah node` follows.
//!
//! 1. Nothing is done to the server but making a replication slot and taking a base backup.
//! 2. Whatever stops it, the same command goes on: before the base backup is whole it begins that anew, then it follows on
//!    from where it was. The configuration is written before the slot is made, so that the slot can be told to be ours.
//! 3. Everything is waited for with a limit; a server that is written faster than it can be followed is no reason to wait
//!    for ever: what it had when the following began is enough.

pub mod checks;
pub mod conninfo;
mod file;
mod follow;

use std::path::{Path, PathBuf};

use pageserver::applet::Pageserver;
use pageserver::connection::Login;
use pageserver::settings::Password;
use pageserver::tls::Encryption;
use runtime::executor::block_on;
use runtime::fs::blocking as fs;
use runtime::identity::{User, effective_uid, is_root};
use runtime::io;
use runtime::tls::SslMode;

use crate::config::environment::Environment;
use crate::config::{Config, Log};
use crate::error::{Error, Result, While};
use crate::limits::OPEN_FILES;
use crate::node::{self, CONFIG};
use checks::{Finding, Found, Grade};
use conninfo::Conninfo;
pub use follow::Outcome;

/// Who the servers of computes run as where we are root.
const ACCOUNT: &str = "postgres";

/// What to import, and where to.
#[derive(Clone, Debug)]
pub struct Options {
    /// A connection string.
    pub from: String,
    pub directory: PathBuf,
    pub slot: String,
    /// Look only.
    pub check: bool,
}

/// A server to follow, as the page server knows it.
#[derive(Clone, Debug)]
pub struct Origin {
    pub server: String,
    pub user: String,
    pub password: Password,
    pub database: String,
    pub slot: String,
    pub ssl_mode: SslMode,
    pub ssl_root_certificate: Option<PathBuf>,
    /// For the pooler.
    pub host: String,
    pub port: u16,
}

/// What came of it.
pub struct Imported {
    pub findings: Vec<Finding>,
    pub found: Facts,
    /// The configuration file for `howdah node`.
    pub config: PathBuf,
    pub origin: Origin,
    /// The pooler can be run, too.
    pub with_pooler: bool,
    /// `None`: looked at only.
    pub outcome: Option<Outcome>,
}

/// The cluster as it was seen.
pub struct Facts {
    pub system_identifier: u64,
    pub version: String,
    pub data_checksums: bool,
}

/// Looks, and goes on unless something stands in the way. `say` is told of each finding.
///
/// # Errors
/// What stands in the way, or what went wrong.
pub fn run(
    options: &Options,
    environment: &Environment,
    say: impl Fn(&Finding),
) -> Result<Imported> {
    runtime::net::raise_fd_limit(OPEN_FILES);
    let account = User::with_uid(effective_uid()).or_fail("could not read the accounts")?;
    let account = account.map_or_else(String::new, |user| user.name);
    let conninfo = Conninfo::read(&options.from, &environment.credentials, &account)?;
    let origin = Origin::new(&conninfo, &options.slot)?;
    let directory = &options.directory;
    let config = directory.join(CONFIG);
    let resumes = fs::exists(&config);
    if resumes {
        same(&config, &origin)?;
    }
    let free = free_bytes(directory);
    let looked = block_on(&io::Options::default(), checks::look(&origin, resumes, free));
    let found = looked.or_fail("could not start an I/O loop")??;
    found.findings.iter().for_each(&say);
    if let Some(error) = obstacles(&found.findings) {
        return Err(error);
    }
    let outcome = if options.check { None } else { Some(take_in(directory, &origin, &found)?) };
    let Found { findings, cluster, version, reads_secrets, .. } = found;
    let (system_identifier, data_checksums) = (cluster.system_identifier, cluster.data_checksums);
    let facts = Facts { system_identifier, version, data_checksums };
    Ok(Imported { findings, found: facts, config, origin, with_pooler: reads_secrets, outcome })
}

/// Writes the configuration unless it is there, and follows.
fn take_in(directory: &Path, origin: &Origin, found: &Found) -> Result<Outcome> {
    make_folders(directory)?;
    let path = directory.join(CONFIG);
    if !fs::exists(&path) {
        let text = file::text(directory, origin, found);
        // Its mode is 0600: it may hold a password.
        fs::write_atomic(&path, text.as_bytes())
            .or_fail(format_args!("could not write \"{}\"", path.display()))?;
    }
    let mut config = Config::read(&path)?;
    let _lock = node::lock(&config.pageserver.directory)?;
    if config.log == Log::default() {
        // Its progress is shown otherwise.
        "warn".clone_into(&mut config.log.level);
    }
    node::start_log(&config.log)?;
    // The page service and the rest are up to `howdah node`; nobody is to be disturbed by ours.
    config.pageserver.listen.set_port(0);
    let (pageserver, pages) = Pageserver::app(config.pageserver.clone());
    let (watch, outcome) = follow::app(pages, origin.clone());
    let ran = node::run_pool(&config.node, vec![pageserver, watch]);
    match outcome.get() {
        Some(outcome) => outcome.clone(),
        None => Err(ran.err().unwrap_or_else(|| {
            Error::new("stopped before it was done").hint("the same command goes on")
        })),
    }
}

/// Makes the folder with that of its computes. Where we are root the server of a compute is not, and must be able to enter.
fn make_folders(directory: &Path) -> Result<()> {
    let folder = directory.join(file::COMPUTES);
    let missing: Vec<&Path> = folder.ancestors().take_while(|path| !fs::exists(path)).collect();
    fs::create_dir_all(&folder)
        .or_fail(format_args!("could not make folder \"{}\"", folder.display()))?;
    let account = User::named(ACCOUNT).or_fail("could not read the accounts")?;
    let (true, Some(account)) = (is_root(), account) else { return Ok(()) };
    for path in missing {
        let doing = format!("could not give \"{}\" to user {ACCOUNT}", path.display());
        fs::set_owner(path, account.uid, account.gid).or_fail(doing)?;
    }
    Ok(())
}

/// A directory that is there must have been imported from the same server.
fn same(path: &Path, origin: &Origin) -> Result<()> {
    let config = Config::read(path)?.pageserver;
    for (key, has, wanted) in [
        ("server", &config.server, &origin.server),
        ("user", &config.user, &origin.user),
        ("slot", &config.slot, &origin.slot),
    ] {
        if has != wanted {
            return Err(Error::new(format!(
                "\"{}\" has pageserver.{key} = \"{has}\", not \"{wanted}\"",
                path.display()
            ))
            .hint("name another folder by --dir, or the same server, user and slot"));
        }
    }
    Ok(())
}

/// All that stands in the way, as one error.
fn obstacles(findings: &[Finding]) -> Option<Error> {
    let mut bad = findings.iter().filter(|finding| finding.grade == Grade::Bad);
    let first = bad.next()?;
    let error =
        Error::new(format!("the server cannot be followed: {}: {}", first.what, first.text));
    let error = match &first.hint {
        Some(hint) => error.hint(hint.clone()),
        None => error,
    };
    let more: Vec<String> =
        bad.map(|finding| format!("{}: {}", finding.what, finding.text)).collect();
    Some(if more.is_empty() { error } else { error.detail(format!("and {}", more.join("; "))) })
}

/// Where the folder is, or will be.
fn free_bytes(directory: &Path) -> u64 {
    let there = directory.ancestors().find(|path| fs::exists(path));
    there.and_then(|path| fs::free_bytes(path).ok()).unwrap_or(u64::MAX)
}

/// An error of the page server's as one of ours.
fn failed(error: &pageserver::error::Error) -> Error {
    let hint = error.hint();
    let error = Error::new(error.to_string());
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

impl Origin {
    fn new(conninfo: &Conninfo, slot: &str) -> Result<Self> {
        let authorities = conninfo.ssl_root_certificate.as_deref();
        // It goes into a file that is read elsewhere.
        let authorities = authorities.map(std::path::absolute).transpose();
        Ok(Self {
            server: conninfo.server(),
            user: conninfo.user.clone(),
            password: conninfo.password.clone(),
            database: conninfo.database.clone(),
            slot: slot.to_owned(),
            ssl_mode: conninfo.ssl_mode,
            ssl_root_certificate: authorities.or_fail("sslrootcert is no path")?,
            host: conninfo.host.clone(),
            port: conninfo.port,
        })
    }

    /// A log-in for replication; to a database where SQL is to be run.
    fn login(&self, database: &str) -> Result<Login> {
        let encryption = Encryption::new(self.ssl_mode, self.ssl_root_certificate.as_deref())
            .map_err(|error| {
                Error::new(error.to_string()).hint(
                    "sslrootcert in the connection string, or PGSSLROOTCERT, names a file of authorities",
                )
            })?;
        Ok(Login {
            server: self.server.clone(),
            user: self.user.clone(),
            password: self.password.clone(),
            application_name: "howdah import".to_owned(),
            database: database.to_owned(),
            encryption,
        })
    }
}
