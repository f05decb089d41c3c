//! A stock Postgres cluster of a test's own: on a unix socket in its own folder, so no port is taken.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Debian's place of PostgreSQL 15.
const BIN: &str = "/usr/lib/postgresql/15/bin";

/// The programs of a major other than 15, from `cargo xtask postgres`; `None`, and a loud word, if they are not here.
#[expect(clippy::print_stderr, reason = "a test that is passed over has to say so")]
fn programs(major: u32) -> Option<String> {
    let checkout = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let folder = format!("{checkout}/target/postgres/{major}/bin");
    if Path::new(&folder).join("postgres").exists() {
        // As the user finds it whom servers run as: the folder in `target` may be a link out of a closed home.
        let folder = Path::new(&folder).canonicalize().expect("it was there just now");
        return Some(folder.display().to_string());
    }
    eprintln!("SKIPPED: no PostgreSQL {major} here; `cargo xtask postgres {major}` fetches it");
    None
}

/// A cluster, running or stopped; gone when dropped.
pub(crate) struct Cluster {
    /// Where its programs are.
    bin: String,
    folder: PathBuf,
    /// Whom the server runs as, if not us: Postgres refuses root.
    user: Option<(u32, u32)>,
    running: bool,
}

/// A folder of this test's own; gone when dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Folder {
        Folder(temporary_folder(name))
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.clone()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _removed = std::fs::remove_dir_all(&self.0);
    }
}

fn temporary_folder(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder =
        std::env::temp_dir().join(format!("howdah-ps-{name}-{}-{number}", std::process::id()));
    std::fs::create_dir(&folder).expect("the folder's name is new");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755))
        .expect("the folder is ours");
    folder
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test starts Postgres' own programs and waits for them"
)]
fn command(bin: &str, program: &str, user: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(format!("{bin}/{program}"));
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command.env_remove("PGDATA").stdin(Stdio::null()).current_dir("/");
    command
}

fn checked(mut command: Command) -> Output {
    let output = command.output().expect("the program is installed");
    assert!(
        output.status.success(),
        "{command:?} failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

impl Cluster {
    /// Makes a cluster with these settings besides what tests need, and starts it.
    pub(crate) fn start(name: &str, initdb: &[&str], settings: &[&str]) -> Cluster {
        Cluster::start_with(BIN.to_owned(), name, initdb, settings)
    }

    /// The same of another major than 15, if it is here.
    pub(crate) fn start_major(
        major: u32,
        name: &str,
        initdb: &[&str],
        settings: &[&str],
    ) -> Option<Cluster> {
        Some(Cluster::start_with(programs(major)?, name, initdb, settings))
    }

    fn start_with(bin: String, name: &str, initdb: &[&str], settings: &[&str]) -> Cluster {
        let folder = temporary_folder(name);
        let own = std::fs::metadata(&folder).expect("the folder is there");
        let user = (own.uid() == 0).then(postgres_user);
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(&folder, Some(uid), Some(gid)).expect("we are root");
        }
        let mut cluster = Cluster { bin, folder, user, running: false };
        let mut make = command(&cluster.bin, "initdb", user);
        make.arg("-D").arg(cluster.data()).args(["-A", "trust", "-U", "postgres", "--no-sync"]);
        make.args(["--no-locale", "-E", "UTF8"]).args(initdb);
        checked(make);
        let mut lines = vec![
            "listen_addresses = ''".to_owned(),
            format!("unix_socket_directories = '{}'", cluster.folder.display()),
            "fsync = off".to_owned(),
            "shared_buffers = 8MB".to_owned(),
            "max_connections = 40".to_owned(),
            "autovacuum_naptime = 1s".to_owned(),
        ];
        lines.extend(settings.iter().map(|line| (*line).to_owned()));
        let path = cluster.data().join("postgresql.auto.conf");
        append(&path, &lines.join("\n"));
        cluster.run();
        cluster
    }

    /// Starts the server again.
    pub(crate) fn run(&mut self) {
        let mut start = command(&self.bin, "pg_ctl", self.user);
        start.arg("-D").arg(self.data()).arg("-l").arg(self.folder.join("log"));
        start.args(["-w", "-t", "60", "start"]).stdout(Stdio::null()).stderr(Stdio::null());
        let status = start.status().expect("pg_ctl is installed");
        assert!(status.success(), "Postgres did not start: {}", self.log());
        self.running = true;
    }

    pub(crate) fn log(&self) -> String {
        #[expect(clippy::disallowed_methods, reason = "a test reads the server's log")]
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Stops it: `fast`, `immediate`.
    pub(crate) fn stop(&mut self, mode: &str) {
        if self.running {
            let mut stop = command(&self.bin, "pg_ctl", self.user);
            stop.arg("-D").arg(self.data()).args(["-m", mode, "-w", "-t", "60", "stop"]);
            checked(stop);
            self.running = false;
        }
    }

    /// Puts a line at the top of `pg_hba.conf`; it counts after a reload.
    pub(crate) fn allow(&self, line: &str) {
        let path = self.data().join("pg_hba.conf");
        #[expect(clippy::disallowed_methods, reason = "a test changes the server's rules")]
        let before = std::fs::read_to_string(&path).expect("initdb made it");
        #[expect(clippy::disallowed_methods, reason = "a test changes the server's rules")]
        std::fs::write(&path, format!("{line}\n{before}")).expect("the file is ours");
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The address of its socket, as the page server's setting has it.
    pub(crate) fn socket(&self) -> String {
        self.folder.join(".s.PGSQL.5432").display().to_string()
    }

    /// Runs SQL; answers what psql prints unaligned.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.sql_in("postgres", sql)
    }

    pub(crate) fn sql_in(&self, database: &str, sql: &str) -> String {
        let mut psql = command(&self.bin, "psql", self.user);
        psql.arg("-h")
            .arg(&self.folder)
            .args(["-U", "postgres", "-d", database, "-X", "-q", "-A", "-t"]);
        psql.args(["-v", "ON_ERROR_STOP=1", "-c", sql]);
        let output = checked(psql);
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Runs pgbench on the database `postgres`.
    pub(crate) fn pgbench(&self, arguments: &[&str]) {
        let mut bench = command(&self.bin, "pgbench", self.user);
        bench.arg("-h").arg(&self.folder).args(["-U", "postgres", "-n"]).args(arguments);
        bench.arg("postgres");
        checked(bench);
    }

    /// One of Postgres' clients, towards it.
    pub(crate) fn client(&self, program: &str) -> Command {
        let mut client = command(&self.bin, program, self.user);
        client.arg("-h").arg(&self.folder).args(["-U", "postgres"]);
        client
    }

    /// Ends the connections of all clients.
    pub(crate) fn end_clients(&self) {
        let others = "backend_type = 'client backend' AND pid <> pg_backend_pid()";
        self.sql(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"));
    }

    /// Where everything of it is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Receives its WAL into a folder with PostgreSQL's own program.
    #[allow(dead_code, reason = "for the benchmark, which shares this file")]
    pub(crate) fn receivewal(&self, target: &Path, arguments: &[&str]) {
        let mut receive = command(&self.bin, "pg_receivewal", self.user);
        receive.arg("-h").arg(&self.folder).args(["-U", "postgres", "-D"]).arg(target);
        receive.args(arguments);
        checked(receive);
    }

    /// Makes a folder that the server may write to.
    pub(crate) fn make_folder(&self, name: &str) -> PathBuf {
        let path = self.folder.join(name);
        std::fs::create_dir(&path).expect("the folder is new");
        if let Some((uid, gid)) = self.user {
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).expect("we are root");
        }
        path
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.running {
            let mut stop = command(&self.bin, "pg_ctl", self.user);
            stop.arg("-D").arg(self.data()).args(["-m", "immediate", "-w", "stop"]);
            stop.stdout(Stdio::null()).stderr(Stdio::null());
            let _stopped = stop.status();
        }
        let _removed = std::fs::remove_dir_all(&self.folder);
    }
}

/// The user and group that Debian's package made.
fn postgres_user() -> (u32, u32) {
    #[expect(clippy::disallowed_methods, reason = "a test looks up the user that Postgres runs as")]
    let passwd = std::fs::read_to_string("/etc/passwd").expect("there are users");
    let line = passwd.lines().find(|line| line.starts_with("postgres:"));
    let fields: Vec<&str> = line.expect("there is a user postgres").split(':').collect();
    (fields[2].parse().expect("a user id"), fields[3].parse().expect("a group id"))
}

fn append(path: &Path, text: &str) {
    #[expect(clippy::disallowed_methods, reason = "a test writes the server's settings")]
    let before = std::fs::read_to_string(path).unwrap_or_default();
    #[expect(clippy::disallowed_methods, reason = "a test writes the server's settings")]
    std::fs::write(path, format!("{before}\n{text}\n")).expect("the file is ours");
}
