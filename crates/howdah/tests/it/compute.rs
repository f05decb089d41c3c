//! One `howdah compute run` on a mount: started on a branch of an instance, used over its socket, ended by signals.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::instance::{Folder, HOWDAH, Instance, program};

/// Against hangs only.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running compute.
pub(crate) struct Compute {
    child: Child,
    pub(crate) facts: Value,
    pub(crate) directory: PathBuf,
    log: PathBuf,
}

/// Whether this machine lets us mount; a loud word if it does not.
#[expect(clippy::print_stderr, reason = "a test that is passed over has to say so")]
pub(crate) fn can_mount() -> bool {
    #[cfg(target_os = "linux")]
    let reason = runtime::fuse::is_available();
    #[cfg(not(target_os = "linux"))]
    let reason = Err("mounts need Linux".to_owned());
    match reason {
        Ok(()) => true,
        Err(why) => {
            eprintln!("SKIPPED: no mounts here: {why}");
            false
        }
    }
}

/// Makes a branch of everything that was committed by now.
pub(crate) fn branch(instance: &Instance, name: &str) {
    let lsn = instance.sql("SELECT pg_current_wal_flush_lsn()");
    let deadline = Instant::now() + PATIENCE;
    // The page server may have a part of it still to come.
    while let Err(said) = instance.howdah(&["branch", "create", name, "--at", &lsn]) {
        assert!(Instant::now() < deadline, "{said}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Starts a branch's writer, and has the page server follow it.
pub(crate) fn writer(instance: &Instance, folder: &Folder, branch: &str, name: &str) -> Compute {
    let compute = Compute::start(instance, folder, name, &["--branch", branch]);
    compute.attach(instance, branch);
    compute
}

/// A compute as of an LSN.
pub(crate) fn as_of(instance: &Instance, folder: &Folder, lsn: &str, name: &str) -> Compute {
    Compute::start(instance, folder, name, &["--branch", "main", "--lsn", lsn])
}

impl Compute {
    /// Starts one in the directory `name` of `folder`; returns when it takes connections.
    pub(crate) fn start(
        instance: &Instance,
        folder: &Folder,
        name: &str,
        arguments: &[&str],
    ) -> Self {
        Self::try_start(instance, &folder.path().join(name), arguments)
            .unwrap_or_else(|said| panic!("{said}\n{}", instance.log()))
    }

    /// The same; what it said if it does not start.
    pub(crate) fn try_start(
        instance: &Instance,
        directory: &Path,
        arguments: &[&str],
    ) -> Result<Self, String> {
        let log = directory.with_extension("log");
        let errors = File::options().create(true).append(true).open(&log).expect("it is ours");
        let service = instance.facts["page_service"].as_str().expect("it listens");
        let mut child = Command::new(HOWDAH)
            .args(["compute", "run", "--mode", "fuse", "--page-server", service, "--dir"])
            .arg(directory)
            .args(["--set", "shared_buffers=16MB", "--set", "autovacuum_naptime=1s"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .expect("howdah starts");
        let stdout = child.stdout.take().expect("it is a pipe");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _nobody_reads = sender.send(line);
            }
        });
        let mut compute = Self { child, facts: Value::Null, directory: directory.to_owned(), log };
        match lines.recv_timeout(PATIENCE) {
            Ok(line) => {
                compute.facts = serde_json::from_str(&line).expect("the line is JSON");
                Ok(compute)
            }
            Err(error) => Err(format!("{error}: {}", compute.log())),
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn postgres_pid(&self) -> u64 {
        self.facts["postgres_pid"].as_u64().expect("it says it")
    }

    /// A program of PostgreSQL's, towards it.
    pub(crate) fn command(&self, name: &str) -> Command {
        let mut command = Command::new(program(name));
        command.arg("-h").arg(&self.directory).args(["-p", "5432", "-U", "postgres"]);
        command.env_remove("PGPASSWORD").stdin(Stdio::null());
        command
    }

    pub(crate) fn client(&self, name: &str, arguments: &[&str]) -> Result<String, String> {
        let output = self.command(name).args(arguments).output().expect("the program runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            Err(said)
        }
    }

    pub(crate) fn try_sql(&self, database: &str, statement: &str) -> Result<String, String> {
        let arguments =
            ["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", statement];
        self.client("psql", &arguments)
    }

    pub(crate) fn sql_in(&self, database: &str, statement: &str) -> String {
        self.try_sql(database, statement)
            .unwrap_or_else(|error| panic!("{statement}: {error}\n{}", self.log()))
    }

    pub(crate) fn sql(&self, statement: &str) -> String {
        self.sql_in("postgres", statement)
    }

    pub(crate) fn pgbench(&self, arguments: &[&str]) {
        if let Err(error) = self.client("pgbench", &[arguments, &["postgres"]].concat()) {
            panic!("pgbench {arguments:?}: {error}\n{}", self.log());
        }
    }

    /// That all indexes and tables of all databases fit together.
    pub(crate) fn check(&self) {
        self.sql("CREATE EXTENSION IF NOT EXISTS amcheck");
        let arguments = ["--all", "--install-missing", "--heapallindexed", "--parent-check"];
        if let Err(said) = self.client("pg_amcheck", &arguments) {
            panic!("pg_amcheck: {said}\n{}", self.log());
        }
    }

    /// Has the page server follow it.
    pub(crate) fn attach(&self, instance: &Instance, branch: &str) {
        let body = format!("{{\"host\":\"{}\",\"port\":5432}}", self.directory.display());
        let answer = post(&instance.api(), &format!("/v1/branches/{branch}/attach"), &body);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}\n{}", self.log());
    }

    pub(crate) fn signal(&self, signal: &str) {
        kill(signal, u64::from(self.child.id()));
    }

    /// Ends it as a user would, and expects success.
    pub(crate) fn stop(mut self) -> String {
        self.signal("-TERM");
        let status = self.ended();
        assert!(status.success(), "{status}: {}", self.log());
        self.log()
    }

    pub(crate) fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("it does not end: {}", self.log());
    }
}

impl Drop for Compute {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
        // Its server ends when it sees that; the directory is removed by the test.
        let deadline = Instant::now() + PATIENCE;
        while is_alive(self.facts["postgres_pid"].as_u64()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

pub(crate) fn kill(signal: &str, pid: u64) {
    let sent = Command::new("kill").args([signal, &pid.to_string()]).status();
    assert!(sent.expect("kill runs").success());
}

/// Whether a process is there and no zombie.
pub(crate) fn is_alive(pid: Option<u64>) -> bool {
    let Some(pid) = pid else { return false };
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

pub(crate) fn post(api: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(api).expect("the API listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: {api}\r\nConnection: close\r\n");
    let head = format!("{head}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
    write!(stream, "{head}{body}").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}
