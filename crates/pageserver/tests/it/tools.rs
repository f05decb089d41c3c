//! Postgres' own programs, run against a page service and against what they restored.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use runtime::clock;

use crate::cluster::Cluster;
use crate::service::block_on;

/// Debian's place of PostgreSQL 15.
pub(crate) const BIN: &str = "/usr/lib/postgresql/15/bin";

/// Runs programs as the user that a cluster's server runs as.
pub(crate) struct Tools {
    user: Option<(u32, u32)>,
}

impl Tools {
    pub(crate) fn of(cluster: &Cluster) -> Tools {
        let owner = std::fs::metadata(cluster.data()).expect("the cluster is there");
        let own = std::fs::metadata("/proc/self").expect("we are a process");
        Tools { user: (own.uid() != owner.uid()).then_some((owner.uid(), owner.gid())) }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a test starts Postgres' own programs and waits for them"
    )]
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(Path::new(BIN).join(program));
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        for name in ["PGDATA", "PGOPTIONS", "PGPASSWORD", "PGPASSFILE", "PGSSLMODE"] {
            command.env_remove(name);
        }
        command
            .env("TZ", "UTC")
            .env("HOME", "/")
            .env("PGUSER", "postgres")
            .stdin(Stdio::null())
            .current_dir("/");
        command
    }

    /// A program of the system, as the user that we are.
    #[expect(clippy::disallowed_methods, reason = "a test runs a program and waits for it")]
    pub(crate) fn as_ourselves(&self, program: &str) -> Command {
        Command::new(program)
    }

    /// A shell script.
    pub(crate) fn shell(&self, script: &str) -> Command {
        let mut command = self.command("/bin/sh");
        command.args(["-c", script]);
        command
    }

    /// The same, towards a page service.
    pub(crate) fn towards(&self, program: &str, service: SocketAddr) -> Command {
        let mut command = self.command(program);
        command.args(["-h", &service.ip().to_string(), "-p", &service.port().to_string()]);
        command
    }

    /// psql towards the restored server with these files, which may be gone.
    pub(crate) fn psql_at(&self, data: &Path) -> Command {
        let mut psql = self.command("psql");
        psql.arg("-h").arg(data.parent().expect("it is in a folder")).args(["-p", "5499"]);
        psql
    }

    /// Runs a program that must succeed; answers what it prints.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = self.command(program);
        command.args(arguments);
        succeed(command)
    }
}

pub(crate) fn succeed(mut command: Command) -> String {
    let output = command.output().expect("the program is installed");
    let text = text(&output);
    assert!(output.status.success(), "{command:?} failed: {text}");
    text
}

/// Runs a program that must fail; answers what it prints.
pub(crate) fn fail(mut command: Command) -> String {
    let output = command.output().expect("the program is installed");
    let text = text(&output);
    assert!(!output.status.success(), "{command:?} succeeded: {text}");
    text
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// A server on a data directory that something restored; stopped when dropped.
pub(crate) struct Restored<'t> {
    tools: &'t Tools,
    pub(crate) data: PathBuf,
    running: bool,
}

impl<'t> Restored<'t> {
    /// Starts it on a socket in its own folder.
    pub(crate) fn start(tools: &'t Tools, data: &Path, settings: &str) -> Restored<'t> {
        let mut restored = Restored { tools, data: data.to_owned(), running: true };
        let socket = data.parent().expect("it is in a folder").display().to_string();
        let options = format!(
            "-c listen_addresses= -c unix_socket_directories={socket} -c port=5499 -c fsync=off \
             -c autovacuum=off {settings}"
        );
        let mut start = tools.command("pg_ctl");
        start.arg("-D").arg(data).args(["-w", "-t", "120", "-o", &options, "start"]);
        start.arg("-l").arg(restored.log_file()).stdout(Stdio::null()).stderr(Stdio::null());
        let started = start.status().expect("pg_ctl is installed").success();
        restored.running = started;
        assert!(started, "the restored cluster did not start: {}", restored.log());
        restored
    }

    fn log_file(&self) -> PathBuf {
        self.data.with_extension("log")
    }

    pub(crate) fn log(&self) -> String {
        #[expect(clippy::disallowed_methods, reason = "a test reads the server's log")]
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// One of Postgres' clients, towards it.
    pub(crate) fn client(&self, program: &str) -> Command {
        let mut command = self.tools.command(program);
        command.arg("-h").arg(self.data.parent().expect("it is in a folder")).args(["-p", "5499"]);
        command
    }

    pub(crate) fn sql(&self, sql: &str) -> String {
        let mut psql = self.client("psql");
        psql.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", sql]);
        succeed(psql).trim_end().to_owned()
    }

    /// The address of its socket.
    pub(crate) fn socket(&self) -> String {
        let folder = self.data.parent().expect("it is in a folder");
        folder.join(".s.PGSQL.5499").display().to_string()
    }

    /// Ends it by SIGKILL; its other processes go when they see that.
    pub(crate) fn kill(mut self) {
        #[expect(clippy::disallowed_methods, reason = "a test reads the server's pid")]
        let pid = std::fs::read_to_string(self.data.join("postmaster.pid")).expect("it runs");
        let pid = pid.lines().next().expect("a pid").to_owned();
        succeed(self.tools.shell(&format!("kill -9 {pid}")));
        self.running = false;
    }

    pub(crate) fn wait_for_promotion(&self) {
        for _attempt in 0..600 {
            if self.sql("SELECT pg_is_in_recovery()") == "f" {
                return;
            }
            block_on(async { clock::sleep(Duration::from_millis(100)).await });
        }
        panic!("recovery does not end: {}", self.log());
    }

    /// The contents of all databases as SQL.
    pub(crate) fn dump(&self) -> String {
        let mut dump = self.client("pg_dumpall");
        dump.args(["--no-role-passwords"]);
        // Each dump has a random word in these two.
        let is_random = |line: &&str| line.contains("\\restrict") || line.contains("\\unrestrict");
        let text = succeed(dump);
        text.lines().filter(|line| !is_random(line)).collect::<Vec<_>>().join("\n")
    }

    /// What amcheck and, once stopped, the checksums say.
    pub(crate) fn check(mut self) {
        self.sql("CREATE EXTENSION IF NOT EXISTS amcheck");
        let mut check = self.client("pg_amcheck");
        check.args(["--all", "--install-missing", "--heapallindexed", "--parent-check"]);
        succeed(check);
        self.sql("CHECKPOINT");
        self.stop();
        let data = self.data.display().to_string();
        let said = self.tools.run("pg_controldata", &[&data]);
        if said.contains("Data page checksum version:           1") {
            self.tools.run("pg_checksums", &["--check", "-D", &data]);
        }
    }

    pub(crate) fn stop(&mut self) {
        if self.running {
            let data = self.data.display().to_string();
            self.tools.run("pg_ctl", &["-D", &data, "-m", "fast", "-w", "-t", "120", "stop"]);
            self.running = false;
        }
    }
}

impl Drop for Restored<'_> {
    fn drop(&mut self) {
        if self.running {
            let mut stop = self.tools.command("pg_ctl");
            stop.arg("-D").arg(&self.data).args(["-m", "immediate", "-w", "stop"]);
            let _stopped = stop.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}
