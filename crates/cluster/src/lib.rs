//! Throw-away servers for tests: PostgreSQL clusters with a folder and a unix socket of their own, and an S3 server, gone
//! when dropped.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a harness around real server processes, outside of the core that is tested"
)]

mod folder;
mod programs;
mod s3;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

pub use folder::{Account, Folder, give, server_account};
pub use programs::Programs;
pub use s3::{S3_CREDENTIALS, S3Server};

/// The number in the name of the unix socket.
const PORT: u16 = 5432;

/// A cluster, running or stopped. Its superuser is `postgres`, who needs no password.
pub struct Cluster {
    programs: Programs,
    account: Option<Account>,
    server: Option<Child>,
    port: u16,
    /// Last, for it goes last.
    folder: Folder,
}

impl Cluster {
    /// Runs initdb, with these arguments besides the usual ones; starts nothing.
    pub fn create(programs: Programs, name: &str, initdb: &[&str]) -> Cluster {
        let usual = ["-A", "trust", "-U", "postgres", "--no-sync", "--no-locale", "-E", "UTF8"];
        Cluster::make(programs, name, "initdb", &[&usual, initdb].concat())
    }

    /// A copy of another, or of what a page service has: runs pg_basebackup with a connection string and these arguments
    /// besides; starts nothing.
    pub fn copy(programs: Programs, name: &str, source: &str, arguments: &[&str]) -> Cluster {
        Cluster::make(programs, name, "pg_basebackup", &[&["-d", source], arguments].concat())
    }

    fn make(programs: Programs, name: &str, program: &str, arguments: &[&str]) -> Cluster {
        let folder = Folder::new(name);
        let account = server_account();
        give(&folder.0, account);
        let cluster = Cluster { programs, account, server: None, port: PORT, folder };
        let data = cluster.data();
        let target = ["-D", data.to_str().expect("a path of ours")];
        cluster.run(program, &[&target, arguments].concat());
        let socket = format!("unix_socket_directories = '{}'", cluster.folder().display());
        cluster.configure(&["listen_addresses = ''", "fsync = off", &socket]);
        cluster
    }

    /// Adds lines to the configuration, for the next start. ALTER SYSTEM overrides them.
    pub fn configure(&self, lines: &[&str]) {
        let path = self.data().join("postgresql.auto.conf");
        let before = fs::read_to_string(&path).expect("initdb made it");
        fs::write(&path, format!("{before}{}\n", lines.join("\n"))).expect("the file is ours");
    }

    /// Adds lines in front of all others of `pg_hba.conf`; they count after a start or reload.
    pub fn allow(&self, lines: &str) {
        let path = self.data().join("pg_hba.conf");
        let before = fs::read_to_string(&path).expect("initdb made it");
        fs::write(&path, format!("{lines}\n{before}")).expect("the file is ours");
    }

    /// Starts the server, with `name=value` settings that win over all others; waits until it answers.
    ///
    /// # Panics
    /// If it does not, with its log.
    pub fn serve(&mut self, settings: &[&str]) {
        assert!(self.try_serve(settings), "the server did not start: {}", self.log());
    }

    /// The same; false if the server ends instead, or does not answer.
    pub fn try_serve(&mut self, settings: &[&str]) -> bool {
        const ATTEMPTS: u32 = 1200;
        const PAUSE: Duration = Duration::from_millis(50);
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data());
        for setting in settings {
            command.args(["-c", setting]);
        }
        let log = fs::File::create(self.log_file()).expect("the folder is ours");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.server = Some(child.expect("postgres is installed"));
        for _attempt in 0..ATTEMPTS {
            let mut ask = self.command("pg_isready");
            let answers = ask.stdout(Stdio::null()).stderr(Stdio::null()).status();
            if answers.expect("pg_isready is installed").success() {
                return true;
            }
            if !self.is_running() {
                self.server = None;
                return false;
            }
            std::thread::sleep(PAUSE);
        }
        false
    }

    /// The same by TCP as well, on a port that is free.
    pub fn serve_tcp(&mut self, settings: &[&str]) {
        const ATTEMPTS: u32 = 5;
        for _attempt in 0..ATTEMPTS {
            // Free a moment ago; another test may have taken it since.
            let free = std::net::TcpListener::bind("127.0.0.1:0").expect("there are ports");
            self.port = free.local_addr().expect("it is bound").port();
            drop(free);
            let port = format!("port={}", self.port);
            let all = [&["listen_addresses=127.0.0.1", &port], settings].concat();
            if self.try_serve(&all) {
                return;
            }
        }
        panic!("no free port: {}", self.log());
    }

    /// Whether the server process is there.
    pub fn is_running(&mut self) -> bool {
        let ended = |server: &mut Child| server.try_wait().expect("it is our child").is_some();
        self.server.as_mut().is_some_and(|server| !ended(server))
    }

    /// Shuts the server down, `fast` or `immediate`. Nothing if it does not run.
    pub fn stop(&mut self, mode: &str) {
        if self.is_running() {
            let data = self.data();
            let data = data.to_str().expect("a path of ours");
            self.run("pg_ctl", &["stop", "-m", mode, "-w", "-t", "60", "-D", data]);
        }
        if let Some(mut server) = self.server.take() {
            server.wait().expect("it is our child");
        }
    }

    /// Runs SQL in the database `postgres`, as psql prints unaligned rows; it must succeed.
    pub fn sql(&self, sql: &str) -> String {
        self.sql_in("postgres", sql)
    }

    /// The same in another database.
    pub fn sql_in(&self, database: &str, sql: &str) -> String {
        self.run("psql", &["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql])
    }

    /// Runs a program towards the server; it must succeed. Answers what it prints.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = self.command(program);
        let output: Output = command.args(arguments).output().expect("the program is installed");
        let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {text}{errors}");
        text
    }

    /// Receives its WAL into a folder with PostgreSQL's own program.
    pub fn receivewal(&self, target: &Path, arguments: &[&str]) {
        let target = target.to_str().expect("a path of ours");
        self.run("pg_receivewal", &[&["-D", target], arguments].concat());
    }

    /// A program (of PostgreSQL, if it has no path) that finds the server by its environment, and runs as its user.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.path(program));
        for name in ["PGDATA", "PGDATABASE", "PGOPTIONS", "PGPASSWORD", "PGPASSFILE", "PGSSLMODE"] {
            command.env_remove(name);
        }
        command.env("PGHOST", self.folder()).env("PGPORT", self.port.to_string());
        command.env("PGUSER", "postgres").env("TZ", "UTC");
        command.stdin(Stdio::null()).current_dir(self.folder());
        if let Some((uid, gid)) = self.account {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// A program's path.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.path(name)
    }

    /// Makes a folder that the server may write to.
    pub fn make_folder(&self, name: &str) -> PathBuf {
        let path = self.folder().join(name);
        fs::create_dir(&path).expect("the folder is new");
        give(&path, self.account);
        path
    }

    /// Makes a file that the server alone may read, in its data directory.
    pub fn make_file(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.data().join(name);
        fs::write(&path, text).expect("the folder is ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
        give(&path, self.account);
    }

    /// Where everything of it is, its socket for one.
    pub fn folder(&self) -> &Path {
        &self.folder.0
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    /// The unix socket it listens on.
    pub fn socket(&self) -> PathBuf {
        self.folder().join(format!(".s.PGSQL.{}", self.port))
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What the server has logged since its last start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.folder().join("log")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.is_running() {
            return;
        }
        let mut stop = self.command("pg_ctl");
        stop.args(["stop", "-m", "immediate", "-D"]).arg(self.data());
        let _stopped = stop.stdout(Stdio::null()).stderr(Stdio::null()).status();
        if let Some(mut server) = self.server.take() {
            let _reaped = server.wait();
        }
    }
}
