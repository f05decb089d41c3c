//! `howdah compute run` without a mount: the branch is restored into a directory, a stock server runs on it, and at the
//! end it is thrown away. What the branch keeps is the WAL that the page server has received.
//!
//! 1. Everything is under the compute's own directory, which is its alone.
//! 2. One line on standard output says that it takes connections; it ends with status 0 only when it was told to.

use std::path::{Path, PathBuf};

use compute::settings::{inherited, quoted};
use pageserver::connection::Login;
use pageserver::replica;
use pageserver::restore::restore;
use pg::datadir::control::ControlFile;
use runtime::clock;
use runtime::executor::block_on;
use runtime::fs::blocking as fs;
use runtime::identity::{User, is_root};
use runtime::io;
use runtime::process::{Child, Command};
use runtime::signal::{Signal, Signals};
use serde_json::json;

use super::latch::{First, first};
use super::process::Ready;
use crate::error::{Error, Result, While};
use crate::limits::{POSTGRES_FAST_WAIT, POSTGRES_IMMEDIATE_WAIT};
use crate::output;
use crate::postgres::binaries::Binaries;
use crate::postgres::readiness;

/// The account that root becomes: PostgreSQL refuses to run as root.
const ACCOUNT: &str = "postgres";
/// Who may log in: whoever may enter the directory, which is its owner alone.
const HBA: &str = "local all all trust\nlocal replication all trust\n";

/// What to run.
#[derive(Debug)]
pub struct Options {
    pub branch: String,
    /// What it is written by; `None`: nobody follows, and all is thrown away at the end.
    pub standby: Option<String>,
    /// It follows the branch.
    pub follows: bool,
    /// Who we are to the page service, and at which moment of which branch.
    pub login: Login,
    pub directory: PathBuf,
    /// Number in the name of the unix socket.
    pub port: u16,
    pub binaries: Binaries,
    /// Settings of the server, by name.
    pub settings: Vec<(String, String)>,
}

/// Runs until a signal asks it to stop.
pub fn run(options: &Options) -> Result<()> {
    become_ordinary(&options.directory)?;
    let done = block_on(&io::Options::default(), serve(options));
    done.or_fail("could not start an I/O loop")?
}

fn become_ordinary(directory: &Path) -> Result<()> {
    let shown = directory.display();
    fs::create_dir_all(directory).or_fail(format_args!("could not make \"{shown}\""))?;
    if !is_root() {
        return Ok(());
    }
    let found = User::named(ACCOUNT).or_fail("could not read the accounts")?;
    let account = found.ok_or_else(|| Error::new(format!("there is no user \"{ACCOUNT}\"")))?;
    let given = fs::set_owner(directory, account.uid, account.gid);
    given.or_fail(format_args!("could not give \"{shown}\" to user {ACCOUNT}"))?;
    account.assume().or_fail(format_args!("could not become user {ACCOUNT}"))
}

async fn serve(options: &Options) -> Result<()> {
    let signals = Signals::new(&[Signal::Terminate, Signal::Interrupt]);
    let mut signals = signals.or_fail("could not handle signals")?;
    let up = async {
        let lsn = prepare(options).await?;
        let child = spawn(options)?;
        let data = options.data();
        readiness::ready(&data, &child).await?;
        Ok::<_, Error>((lsn, child))
    };
    let (lsn, child) = match first(up, signals.next()).await {
        First::A(up) => up?,
        First::B(_signal) => return Ok(()),
    };
    say(options, lsn, &child);
    let ended = match first(child.wait(), signals.next()).await {
        First::A(exit) => {
            let exit = exit.or_fail("could not wait for the server")?;
            Err(Error::new(format!("the server ended: {exit}")))
        }
        First::B(_signal) => {
            end(&child).await;
            Ok(())
        }
    };
    // Whoever started us clears the directory away as well; nobody else may.
    let _left = runtime::fs::remove_dir_all(options.data()).await;
    ended
}

impl Options {
    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn password(&self) -> PathBuf {
        self.directory.join("pgpass")
    }
}

/// Restores; the LSN at which the server will begin.
async fn prepare(options: &Options) -> Result<String> {
    let data = options.data();
    if fs::exists(&data) {
        let removed = runtime::fs::remove_dir_all(&data).await;
        removed.or_fail(format_args!("could not remove \"{}\"", data.display()))?;
    }
    let restored = restore(&options.login, &data, |_progress| {}).await;
    let restored = restored.map_err(crate::cli::page::refused)?;
    let hba = options.directory.join("pg_hba.conf");
    fs::write_atomic(&hba, HBA.as_bytes())
        .or_fail(format_args!("could not write \"{}\"", hba.display()))?;
    // Where a packager keeps it elsewhere it is not in the backup, and the server wants one.
    let conf = data.join("postgresql.conf");
    if !fs::exists(&conf) {
        fs::write_atomic(&conf, b"")
            .or_fail(format_args!("could not write \"{}\"", conf.display()))?;
    }
    if options.follows {
        let password = options.password();
        fs::write_atomic(&password, replica::password_line(&options.login).as_bytes())
            .or_fail(format_args!("could not write \"{}\"", password.display()))?;
        // A replica that replays CREATE TABLESPACE would make a link to the directory of the server that it follows.
        let spaces = data.join("pg_tblspc");
        let closed = fs::set_mode(&spaces, 0o500);
        closed.or_fail(format_args!("could not close \"{}\"", spaces.display()))?;
    }
    Ok(restored.lsn.to_string())
}

fn spawn(options: &Options) -> Result<Child> {
    let program = options.binaries.program("postgres");
    let folder = options.directory.display().to_string();
    let mut settings: Vec<(&str, String)> = vec![
        ("listen_addresses", String::new()),
        ("port", options.port.to_string()),
        ("unix_socket_directories", folder.clone()),
        ("unix_socket_permissions", "0700".to_owned()),
        ("hba_file", format!("{folder}/pg_hba.conf")),
        ("log_destination", "stderr".to_owned()),
        ("logging_collector", "off".to_owned()),
        ("log_line_prefix", "%m [%p] ".to_owned()),
        ("archive_mode", "off".to_owned()),
        // The directory is scratch: after a crash it is thrown away, not recovered.
        ("fsync", "off".to_owned()),
        ("full_page_writes", "off".to_owned()),
        ("restart_after_crash", "off".to_owned()),
        ("synchronous_commit", "on".to_owned()),
        ("synchronous_standby_names", options.standby.as_deref().map_or_else(String::new, quoted)),
    ];
    let control = control(options)?;
    // Those that were prepared were so under the limit that the control file has.
    settings.extend(inherited(&control, 0));
    if options.follows {
        settings.extend(replica::settings(&options.login, &options.branch, &options.password()));
    }
    let own = options.settings.iter().map(|(name, value)| (name.as_str(), value.clone()));
    settings.extend(own);
    let minimums = if options.follows {
        replica::minimums(&control.parameters, &options.settings)
    } else {
        Vec::new()
    };
    settings.extend(minimums.iter().map(|(name, value)| (name.as_str(), value.clone())));
    let mut command = Command::new(&program)
        .arg("-D")
        .arg(options.data())
        .env("PGPASSWORD", "")
        .current_dir(&options.directory)
        .new_session()
        .death_signal(Signal::Quit)
        .signal_on_drop(Signal::Quit);
    for (name, value) in settings {
        command = command.arg("-c").arg(format!("{name}={value}"));
    }
    command.spawn().or_fail(format_args!("could not start \"{}\"", program.display()))
}

/// What the restored directory says of its last server.
fn control(options: &Options) -> Result<ControlFile> {
    let path = options.data().join("global/pg_control");
    let bytes = fs::read(&path).or_fail(format_args!("could not read \"{}\"", path.display()))?;
    let control = ControlFile::parse(&bytes);
    control.or_fail(format_args!("could not read \"{}\"", path.display()))
}

fn say(options: &Options, lsn: String, child: &Child) {
    let ready = Ready {
        branch: options.branch.clone(),
        lsn,
        port: options.port,
        socket_dir: options.directory.clone(),
        pid: std::process::id(),
        postgres_pid: child.pid(),
        mode: "directory".to_owned(),
    };
    output::line(json!(ready).to_string());
    output::flush();
}

/// Fast shutdown, so that whoever follows gets everything; then what it takes.
async fn end(child: &Child) {
    let steps = [
        (Signal::Interrupt, POSTGRES_FAST_WAIT),
        (Signal::Quit, POSTGRES_IMMEDIATE_WAIT),
        (Signal::Kill, POSTGRES_IMMEDIATE_WAIT),
    ];
    for (signal, patience) in steps {
        if child.signal(signal).is_ok() && clock::timeout(patience, child.wait()).await.is_ok() {
            return;
        }
    }
}
