//! PostgreSQL's programs of one major, and servers on data directories: each in a folder of its own, with its socket.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::bench::process;

/// The number in the socket's name; folders keep servers apart.
const PORT: &str = "5432";
/// The variables of Postgres' clients that a caller may have set.
const VARIABLES: [&str; 6] =
    ["PGDATA", "PGOPTIONS", "PGPASSWORD", "PGHOST", "PGDATABASE", "PGSSLMODE"];

/// PostgreSQL's programs, and the user that they run as.
pub(crate) struct Programs {
    pub(crate) bin: PathBuf,
    pub(crate) user: Option<(u32, u32)>,
}

/// What a program said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) succeeded: bool,
    pub(crate) output: String,
    pub(crate) errors: String,
}

impl Programs {
    pub(crate) fn path(&self, program: &str) -> String {
        self.bin.join(program).display().to_string()
    }

    /// One of PostgreSQL's programs, or any other by its path.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(match program.starts_with('/') {
            true => program.to_owned(),
            false => self.path(program),
        });
        process::become_user(&mut command, self.user);
        for name in VARIABLES {
            command.env_remove(name);
        }
        command.env("PGUSER", "postgres").env("TZ", "UTC").stdin(Stdio::null());
        command
    }

    /// Runs a program that must succeed; answers what it prints.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        let mut command = self.command(program);
        command.args(arguments);
        succeed(command)
    }

    /// Makes a folder that belongs to the user.
    pub(crate) fn make_folder(&self, folder: &Path) -> Result<(), String> {
        let failed = |error| format!("{}: {error}", folder.display());
        fs::create_dir_all(folder).map_err(failed)?;
        let Some((uid, gid)) = self.user else { return Ok(()) };
        std::os::unix::fs::chown(folder, Some(uid), Some(gid)).map_err(failed)
    }
}

/// Runs a command to its end.
pub(crate) fn outcome(mut command: Command) -> Result<Said, String> {
    let done = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (output, errors) = (text(&done.stdout), text(&done.stderr));
    Ok(Said { succeeded: done.status.success(), output, errors })
}

/// The same where it must succeed.
pub(crate) fn succeed(command: Command) -> Result<String, String> {
    let shown = format!("{command:?}");
    let said = outcome(command)?;
    match said.succeeded {
        true => Ok(said.output),
        false => Err(format!("{shown}: {}{}", said.output, said.errors)),
    }
}

/// A server on `FOLDER/data`; stopped when dropped.
pub(crate) struct Server<'p> {
    programs: &'p Programs,
    folder: PathBuf,
    running: bool,
}

impl<'p> Server<'p> {
    pub(crate) fn at(programs: &'p Programs, folder: PathBuf) -> Server<'p> {
        Server { programs, folder, running: false }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The address of its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join(format!(".s.PGSQL.{PORT}"))
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Starts it with these settings and waits until it takes connections.
    pub(crate) fn start(&mut self, settings: &[&str]) -> Result<(), String> {
        let (folder, data) = (self.folder.display(), self.data());
        let own = ["listen_addresses=", "fsync=off", "max_connections=60"];
        let mut options = format!("-c unix_socket_directories='{folder}' -c port={PORT}");
        own.iter().chain(settings).for_each(|setting| options.push_str(&format!(" -c {setting}")));
        let mut start = self.programs.command("pg_ctl");
        start.arg("-D").arg(data).args(["-w", "-t", "600", "-o", &options, "start"]);
        // A pipe would be held open by the server.
        start.arg("-l").arg(self.folder.join("log")).stdout(Stdio::null()).stderr(Stdio::null());
        let started = start.status().map_err(|error| format!("pg_ctl: {error}"))?;
        self.running = true;
        match started.success() {
            true => Ok(()),
            false => Err(format!("no server starts in {folder}:\n{}", last_lines(&self.log(), 20))),
        }
    }

    /// One of PostgreSQL's clients, towards it.
    pub(crate) fn client(&self, program: &str) -> Command {
        let mut command = self.programs.command(program);
        command.arg("-h").arg(&self.folder).args(["-p", PORT]);
        command
    }

    pub(crate) fn sql(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut psql = self.client("psql");
        psql.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql]);
        Ok(succeed(psql)?.trim_end().to_owned())
    }

    pub(crate) fn stop(&mut self) -> Result<(), String> {
        if self.running {
            self.control(&["-m", "fast", "-w", "-t", "600", "stop"])?;
            self.running = false;
        }
        Ok(())
    }

    fn control(&self, arguments: &[&str]) -> Result<(), String> {
        let mut control = self.programs.command("pg_ctl");
        control.arg("-D").arg(self.data()).args(arguments);
        succeed(control).map(drop)
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        if self.running {
            // It may not have started.
            let _stopped = self.control(&["-m", "immediate", "-w", "stop"]);
        }
    }
}

pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let from = text.lines().count().saturating_sub(count);
    text.lines().skip(from).collect::<Vec<_>>().join("\n")
}
