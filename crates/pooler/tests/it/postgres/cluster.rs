//! A throw-away Postgres for one test: own directory, unix socket only, gone when dropped.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "a harness around a real server process, before and after the core that is tested runs"
)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

const BINARIES: &str = "/usr/lib/postgresql/15/bin";

pub(crate) struct Cluster {
    directory: PathBuf,
    server: Option<Child>,
    owner: Option<(u32, u32)>,
    port: u16,
}

impl Cluster {
    /// Starts a server with extra `name=value` settings and, if not empty, this pg_hba.conf.
    pub(crate) fn start(settings: &[&str], hba: &str) -> Cluster {
        let mut cluster = Cluster::prepare(hba);
        cluster.serve(settings);
        cluster
    }

    /// The same, reachable by TCP and, if asked for, TLS with this certificate and key and the authority
    /// of clients' certificates.
    pub(crate) fn start_tls(
        hba: &str,
        certificate: &str,
        key: &str,
        authority: &str,
        ssl: bool,
    ) -> Cluster {
        let mut cluster = Cluster::prepare(hba);
        for (name, text) in
            [("server.crt", certificate), ("server.key", key), ("ca.crt", authority)]
        {
            let path = cluster.data().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            if let Some((uid, gid)) = cluster.owner {
                chown(&path, Some(uid), Some(gid)).unwrap();
            }
        }
        // Free a moment ago; another test may have taken it since.
        for attempt in 0.. {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            cluster.port = free.local_addr().unwrap().port();
            drop(free);
            let port = format!("port={}", cluster.port);
            let ssl = if ssl { "ssl=on" } else { "ssl=off" };
            let settings = ["listen_addresses=127.0.0.1", &port, ssl, "ssl_ca_file=ca.crt"];
            if cluster.try_serve(&settings) {
                break;
            }
            assert!(attempt < 5, "no free port");
        }
        cluster
    }

    fn prepare(hba: &str) -> Cluster {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("howdah-pooler-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let owner = server_user();
        if let Some((uid, gid)) = owner {
            chown(&directory, Some(uid), Some(gid)).unwrap();
        }
        let cluster = Cluster { directory, server: None, owner, port: 5432 };
        let data = cluster.data();
        cluster.run(
            "initdb",
            &[
                "-D",
                data.to_str().unwrap(),
                "-A",
                "trust",
                "-U",
                "postgres",
                "--no-sync",
                "-E",
                "UTF8",
            ],
        );
        if !hba.is_empty() {
            fs::write(data.join("pg_hba.conf"), hba).unwrap();
        }
        cluster
    }

    fn serve(&mut self, settings: &[&str]) {
        assert!(self.try_serve(settings), "server is not ready after a minute");
    }

    /// False if it does not come up.
    fn try_serve(&mut self, settings: &[&str]) -> bool {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data());
        let socket = format!("unix_socket_directories={}", self.directory.display());
        for setting in ["listen_addresses=", "fsync=off", &socket].iter().chain(settings) {
            command.args(["-c", setting]);
        }
        let log = fs::File::create(self.directory.join("log")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.server = Some(child);
        for _attempt in 0..1200 {
            if self.command("pg_isready").stdout(Stdio::null()).status().unwrap().success() {
                return true;
            }
            let ended =
                self.server.as_mut().is_some_and(|server| server.try_wait().unwrap().is_some());
            if ended {
                return false;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        false
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Where its unix socket is.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Runs SQL, past the pooler; answers unaligned rows.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.sql_in("postgres", sql)
    }

    pub(crate) fn sql_in(&self, database: &str, sql: &str) -> String {
        self.run("psql", &["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql])
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {text}{errors}");
        text
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(Path::new(BINARIES).join(program));
        command
            .env("PGHOST", &self.directory)
            .env("PGUSER", "postgres")
            .env("PGPORT", self.port.to_string());
        command.env_remove("PGDATABASE").env("TZ", "UTC").current_dir(&self.directory);
        if let Some((uid, gid)) = self.owner {
            command.uid(uid).gid(gid);
        }
        command
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
