//! A throw-away Postgres for one test: own directory, unix socket only, gone when dropped.
//!
//! Postgres 15 is the installed one; other majors are those that `cargo xtask postgres` put into target/postgres.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test harness around real server processes; `pg` itself has no I/O"
)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use pg::wal::segment::WalVersion;

const BINARIES: &str = "/usr/lib/postgresql/15/bin";

/// The programs of a major other than 15; `None`, and a loud word, if they are not here.
pub(crate) fn programs(major: u32) -> Option<PathBuf> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = checkout.join(format!("target/postgres/{major}/bin"));
    if folder.join("postgres").exists() {
        return folder.canonicalize().ok();
    }
    let skipped =
        format!("SKIPPED: no PostgreSQL {major}; `cargo xtask postgres {major}` fetches it");
    let _said = writeln!(std::io::stderr(), "{skipped}");
    None
}

/// A running server.
pub(crate) struct Cluster {
    binaries: PathBuf,
    directory: PathBuf,
    server: Option<Child>,
    owner: Option<(u32, u32)>,
}

impl Cluster {
    /// Runs initdb (with extra arguments) and starts the server with extra `name=value` settings.
    pub(crate) fn start(initdb: &[&str], settings: &[&str]) -> Cluster {
        let mut cluster = Cluster::create(initdb);
        cluster.serve(settings);
        cluster
    }

    /// Runs initdb and starts nothing.
    pub(crate) fn create(initdb: &[&str]) -> Cluster {
        Cluster::create_with(PathBuf::from(BINARIES), initdb)
    }

    /// The same with the [`programs`] of another major.
    pub(crate) fn create_with(binaries: PathBuf, initdb: &[&str]) -> Cluster {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("howdah-pg-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let owner = server_user();
        if let Some((uid, gid)) = owner {
            chown(&directory, Some(uid), Some(gid)).unwrap();
        }
        let cluster = Cluster { binaries, directory, server: None, owner };
        let data = cluster.data();
        let mut arguments = vec!["-D", data.to_str().unwrap(), "-A", "trust", "-U", "postgres"];
        arguments.extend(["--no-sync", "--no-locale", "-E", "UTF8"]);
        arguments.extend(initdb);
        cluster.run("initdb", &arguments);
        cluster
    }

    /// Starts the server on the existing directory.
    pub(crate) fn serve(&mut self, settings: &[&str]) {
        let data = self.data();
        let mut command = self.command("postgres");
        command.arg("-D").arg(&data);
        let socket = format!("unix_socket_directories={}", self.directory.display());
        for setting in ["listen_addresses=", "fsync=off", &socket].iter().chain(settings) {
            command.args(["-c", setting]);
        }
        let log = fs::File::create(self.directory.join("log")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.server = Some(child);
        self.wait_until_ready();
    }

    /// The data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// The major version of the data directory.
    pub(crate) fn version(&self) -> WalVersion {
        let major = fs::read_to_string(self.data().join("PG_VERSION")).unwrap();
        WalVersion::from_major(major.trim().parse().unwrap()).unwrap()
    }

    /// The unix socket it listens on.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join(".s.PGSQL.5432")
    }

    /// Runs SQL in the database `postgres`; answers unaligned rows.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.sql_in("postgres", sql)
    }

    pub(crate) fn sql_in(&self, database: &str, sql: &str) -> String {
        self.run("psql", &["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql])
    }

    /// Runs one of Postgres' programs against this server; it must succeed.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {text}{errors}");
        text
    }

    /// Runs a shell script as the server's user; answers what it prints.
    pub(crate) fn shell(&self, script: &str) -> String {
        self.run("/bin/sh", &["-c", script])
    }

    /// Shuts down cleanly, with a checkpoint.
    pub(crate) fn stop(&mut self) {
        let data = self.data();
        self.run("pg_ctl", &["stop", "-m", "fast", "-w", "-D", data.to_str().unwrap()]);
        if let Some(mut server) = self.server.take() {
            server.wait().unwrap();
        }
    }

    /// The cluster's WAL: the first segment's start and all segments' bytes in order.
    pub(crate) fn wal(&self) -> (u64, Vec<u8>) {
        let mut names: Vec<PathBuf> = fs::read_dir(self.data().join("pg_wal"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.file_name().unwrap().len() == 24)
            .collect();
        names.sort();
        let first = names.first().unwrap().file_name().unwrap().to_str().unwrap();
        let length = fs::metadata(names.first().unwrap()).unwrap().len();
        let number = u64::from_str_radix(first.get(16..).unwrap(), 16).unwrap();
        let bytes = names.iter().flat_map(|name| fs::read(name).unwrap()).collect();
        (number * length, bytes)
    }

    /// All files of the data directory: path relative to it, and contents.
    pub(crate) fn files(&self) -> Vec<(String, Vec<u8>)> {
        let mut files = Vec::new();
        let mut directories = vec![self.data()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    let name = path.strip_prefix(self.data()).unwrap().to_str().unwrap().to_owned();
                    files.push((name, fs::read(&path).unwrap()));
                }
            }
        }
        files
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.program(program));
        command.env("PGHOST", &self.directory).env("PGUSER", "postgres").env("PGPORT", "5432");
        command.env_remove("PGDATABASE").env("TZ", "UTC").current_dir(&self.directory);
        if let Some((uid, gid)) = self.owner {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// A program's path; clients of 15 serve where a major came without them.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        let own = self.binaries.join(name);
        let client = matches!(name, "psql" | "pgbench" | "pg_isready");
        if client && !own.exists() { Path::new(BINARIES).join(name) } else { own }
    }

    fn wait_until_ready(&mut self) {
        for _attempt in 0..1200 {
            if self.command("pg_isready").stdout(Stdio::null()).status().unwrap().success() {
                return;
            }
            let exited = self.server.as_mut().unwrap().try_wait().unwrap();
            assert!(exited.is_none(), "server did not start: {}", self.log());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("server is not ready after a minute: {}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _stopped = self
                .command("pg_ctl")
                .args(["stop", "-m", "immediate", "-D"])
                .arg(self.data())
                .stdout(Stdio::null())
                .status();
            let _reaped = server.wait();
        }
        let _removed = fs::remove_dir_all(&self.directory);
    }
}

/// Postgres refuses to run as root: then, the user that its package made.
fn server_user() -> Option<(u32, u32)> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with("postgres:"));
    let fields: Vec<&str> = line.expect("user postgres exists").split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}
