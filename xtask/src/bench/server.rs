//! The PostgreSQL behind the poolers: a throw-away cluster on tmpfs, filled by `pgbench -i`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::client;
use super::options::Options;
use super::process::{self, Daemon};

/// The password of the measured role; the cluster lives for one benchmark on loopback.
pub(crate) const PASSWORD: &str = "measured";

pub(crate) struct Server {
    /// Folder of everything that the benchmark makes, poolers' files included.
    pub(crate) folder: PathBuf,
    pub(crate) bin: PathBuf,
    pub(crate) port: u16,
    pub(crate) user: Option<(u32, u32)>,
    pub(crate) version: String,
    daemon: Daemon,
}

impl Server {
    pub(crate) fn start(options: &Options) -> Result<Self, String> {
        let bin = binaries()?;
        let user = process::unprivileged()?;
        let folder = folder()?;
        own(&folder, user)?;
        let data = folder.join("data");
        let program = |name: &str| bin.join(name).display().to_string();
        let data_text = data.display().to_string();
        eprintln!("starting PostgreSQL in {}", folder.display());
        process::output(
            &[
                &program("initdb"),
                "-D",
                &data_text,
                "-U",
                "postgres",
                "-A",
                "trust",
                "--no-sync",
                "-E",
                "UTF8",
                "--no-locale",
            ],
            user,
        )?;
        let port = free_port()?;
        let mut command = vec![program("postgres"), "-D".to_owned(), data_text];
        for setting in settings(&folder, port, options) {
            command.extend(["-c".to_owned(), setting]);
        }
        let log = folder.join("postgres.log");
        let mut daemon = Daemon::start("postgres", &command, user, &log)?;
        process::wait_until(&mut daemon, &log, || {
            client::Client::open(port, "postgres", "postgres").is_ok()
        })?;
        let version = process::output(&[&program("postgres"), "-V"], None)?.trim().to_owned();
        let server = Self { folder, bin, port, user, version, daemon };
        server.fill(options.scale)?;
        Ok(server)
    }

    fn fill(&self, scale: usize) -> Result<(), String> {
        let mut session = client::Client::open(self.port, "postgres", "postgres")?;
        session.run(&format!("CREATE ROLE bench LOGIN SUPERUSER PASSWORD '{PASSWORD}'"))?;
        session.run("CREATE DATABASE bench OWNER bench")?;
        let pgbench = self.program("pgbench");
        let (port, scale) = (self.port.to_string(), scale.to_string());
        eprintln!("pgbench -i -s {scale}");
        process::output(
            &[
                &pgbench,
                "-i",
                "-q",
                "-s",
                &scale,
                "-h",
                "127.0.0.1",
                "-p",
                &port,
                "-U",
                "bench",
                "bench",
            ],
            None,
        )?;
        Ok(())
    }

    /// The stored SCRAM secret of the measured role, for the poolers' auth_file.
    pub(crate) fn secret(&self) -> Result<String, String> {
        let mut session = client::Client::open(self.port, "bench", "bench")?;
        session.value("SELECT rolpassword FROM pg_authid WHERE rolname = 'bench'")
    }

    pub(crate) fn program(&self, name: &str) -> String {
        self.bin.join(name).display().to_string()
    }

    pub(crate) fn socket_folder(&self) -> PathBuf {
        self.folder.join("run")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.daemon.stop("-INT");
        let _removed = fs::remove_dir_all(&self.folder);
    }
}

fn settings(folder: &Path, port: u16, options: &Options) -> Vec<String> {
    let connections = 64
        + 4 * options.pool
        + options.clients.iter().copied().filter(|n| *n <= 100).max().unwrap_or(0);
    vec![
        format!("port={port}"),
        "listen_addresses=127.0.0.1".to_owned(),
        format!("unix_socket_directories={}", folder.join("run").display()),
        "unix_socket_permissions=0777".to_owned(),
        format!("max_connections={connections}"),
        "shared_buffers=1GB".to_owned(),
        "fsync=off".to_owned(),
        "synchronous_commit=off".to_owned(),
        "full_page_writes=off".to_owned(),
        "max_wal_size=8GB".to_owned(),
        "autovacuum=off".to_owned(),
        "jit=off".to_owned(),
    ]
}

/// tmpfs if there is one with room, else the folder for temporary files.
fn folder() -> Result<PathBuf, String> {
    let name = format!("howdah-bench-{}", std::process::id());
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    sweep(&base);
    let folder = base.join(name);
    for part in ["", "run", "log"] {
        let part = folder.join(part);
        fs::create_dir_all(&part).map_err(|error| format!("{}: {error}", part.display()))?;
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&part, open).map_err(|error| error.to_string())?;
    }
    Ok(folder)
}

/// Removes what benchmarks left behind that were killed.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix("howdah-bench-").map(|pid| Path::new("/proc").join(pid));
        if pid.is_some_and(|process| !process.exists()) {
            let _not_ours = fs::remove_dir_all(entry.path());
        }
    }
}

fn own(folder: &Path, user: Option<(u32, u32)>) -> Result<(), String> {
    let Some((uid, gid)) = user else { return Ok(()) };
    for part in ["", "run", "log"] {
        chown(folder.join(part), Some(uid), Some(gid)).map_err(|error| error.to_string())?;
    }
    Ok(())
}

pub(crate) fn binaries() -> Result<PathBuf, String> {
    let named = std::env::var_os("HOWDAH_PG_BIN").map(PathBuf::from);
    let folder = named.unwrap_or_else(|| PathBuf::from("/usr/lib/postgresql/15/bin"));
    if folder.join("postgres").is_file() && folder.join("pgbench").is_file() {
        Ok(folder)
    } else {
        Err(format!("no PostgreSQL in {}; run make deps, or set HOWDAH_PG_BIN", folder.display()))
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16, String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    listener.local_addr().map(|address| address.port()).map_err(|error| error.to_string())
}
