//! One `howdah up`: a folder and ports of its own, started, used through psql and pgbench, stopped by signals.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cluster::Programs;
use serde_json::Value;

pub(crate) const HOWDAH: &str = env!("CARGO_BIN_EXE_howdah");

/// Against hangs only: nothing here takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(180);

/// A program of PostgreSQL.
pub(crate) fn program(name: &str) -> String {
    let folder = std::env::var("HOWDAH_PG_BIN")
        .unwrap_or_else(|_unset| "/usr/lib/postgresql/15/bin".to_owned());
    format!("{folder}/{name}")
}

/// A folder that vanishes.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // A process of this number may have been killed and have left some behind.
        let path = loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            // Short: a unix socket's path must fit into 103 bytes.
            let name = format!("howdah-it-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match fs::create_dir(&path) {
                Ok(()) => break path,
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("there is room for temporary files: {error}"),
            }
        };
        // Whoever runs the server must be able to enter.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

/// A port for the pooler, whose cores all listen on it. Not from the range that the system hands out to clients:
/// one of thousands of short connections could take it before the pooler does.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number =
            NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id().wrapping_mul(37));
        let port = 12_000 + u16::try_from(number % 18_000).expect("it is small");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A running `howdah up`.
pub(crate) struct Instance {
    child: Child,
    /// What it said when everything ran.
    pub(crate) facts: Value,
    log: PathBuf,
}

impl Instance {
    /// Starts one in `folder`, on free ports, with these additions to the pooler's configuration.
    pub(crate) fn start(folder: &Folder, more: &str) -> Self {
        Self::start_at(folder, more, "127.0.0.1:0")
    }

    /// The same with `main` in a plain data directory.
    pub(crate) fn in_directory(folder: &Folder, more: &str) -> Self {
        Self::start_as(folder, "directory", more, "127.0.0.1:0")
    }

    /// The same where `main` is wherever this machine has it, with the page service at this address.
    pub(crate) fn start_at(folder: &Folder, more: &str, page_service: &str) -> Self {
        let place = std::env::var("HOWDAH_TEST_PLACE").unwrap_or_else(|_unset| "auto".to_owned());
        Self::start_as(folder, &place, more, page_service)
    }

    pub(crate) fn start_as(folder: &Folder, place: &str, more: &str, page_service: &str) -> Self {
        Self::start_program(Path::new(HOWDAH), folder, place, more, page_service)
    }

    /// One with the server and the computes of another major, if that is here.
    pub(crate) fn of_major(major: u32, folder: &Folder, place: &str) -> Option<Self> {
        let postgres = Programs::of_major(major)?.path("postgres");
        let programs = postgres.parent().expect("it is in a folder").display();
        let server = format!("place = \"{place}\"\nbin_dir = \"{programs}\"");
        let more = "[compute]\nstart_timeout = \"3min\"\n";
        Some(Self::configured(Path::new(HOWDAH), folder, &server, more, "127.0.0.1:0"))
    }

    /// The same by another copy of the program.
    pub(crate) fn start_program(
        program: &Path,
        folder: &Folder,
        place: &str,
        more: &str,
        page_service: &str,
    ) -> Self {
        let server = format!("place = \"{place}\"");
        Self::configured(program, folder, &server, more, page_service)
    }

    /// With these settings of the server's.
    fn configured(
        program: &Path,
        folder: &Folder,
        server: &str,
        more: &str,
        page_service: &str,
    ) -> Self {
        let port = free_port();
        let config = folder.path().join("test.toml");
        let text = format!(
            "[api]\nlisten = \"127.0.0.1:0\"\n[pageserver]\nlisten = \"{page_service}\"\n\
             [postgres]\n{server}\nport = 0\nsettings.shared_buffers = \"16MB\"\nsettings.fsync = false\n\
             [pooler]\nlisten_port = {port}\n{more}"
        );
        fs::write(&config, text).expect("the folder is ours");
        Self::start_with(program, folder, &config)
    }

    fn start_with(program: &Path, folder: &Folder, config: &Path) -> Self {
        let log = folder.path().join("log");
        let errors = File::create(&log).expect("the folder is ours");
        let mut child = Command::new(program)
            .args(["up", "--json", "--cores", "2", "--dir"])
            .arg(folder.path().join("data"))
            .arg("--config")
            .arg(config)
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
        let line = lines.recv_timeout(PATIENCE);
        let mut instance = Self { child, facts: Value::Null, log };
        let line = line
            .unwrap_or_else(|error| instance.fail(&format!("nothing on standard output: {error}")));
        instance.facts =
            serde_json::from_str(&line).unwrap_or_else(|error| instance.fail(&error.to_string()));
        instance
    }

    /// What it logged, and the end of the test.
    pub(crate) fn fail(&mut self, what: &str) -> ! {
        let _killed = self.child.kill();
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        panic!("{what}\n{said}");
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn address(&self, name: &str) -> (String, String) {
        let text =
            self.facts[name].as_str().unwrap_or_else(|| panic!("no {name} in {}", self.facts));
        let (host, port) = text.rsplit_once(':').expect("an address has a port");
        (host.to_owned(), port.to_owned())
    }

    pub(crate) fn api(&self) -> String {
        self.facts["api"].as_str().expect("the API runs").to_owned()
    }

    /// A program of PostgreSQL, through the pooler.
    pub(crate) fn client(&self, name: &str, arguments: &[&str]) -> Result<String, String> {
        let (host, port) = self.address("pooler");
        let output = Command::new(program(name))
            .args(["-h", &host, "-p", &port, "-U", "postgres"])
            .args(arguments)
            .env("PGCONNECT_TIMEOUT", "60")
            .env_remove("PGPASSWORD")
            .stdin(Stdio::null())
            .output()
            .expect("the program of PostgreSQL runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let failed = !output.status.success() || said.contains("ERROR") || said.contains("aborted");
        if failed {
            Err(said)
        } else {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
    }

    /// The result of a statement, as psql prints it without decoration.
    pub(crate) fn sql(&self, statement: &str) -> String {
        let arguments =
            ["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", statement];
        self.client("psql", &arguments)
            .unwrap_or_else(|error| panic!("{statement}: {error}\n{}", self.log()))
    }

    pub(crate) fn pgbench(&self, arguments: &[&str]) {
        if let Err(error) = self.client("pgbench", &[arguments, &["postgres"]].concat()) {
            panic!("pgbench {arguments:?}: {error}\n{}", self.log());
        }
    }

    /// A command of ours that asks this instance.
    pub(crate) fn howdah(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(HOWDAH)
            .args(["--api", &self.api()])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("howdah runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stdout) + &text(&output.stderr))
        }
    }

    /// An order to the API; returns its answer.
    pub(crate) fn post(&self, path: &str) -> String {
        self.http("POST", path)
    }

    pub(crate) fn get(&self, path: &str) -> String {
        self.http("GET", path)
    }

    /// The body of an answer with status 200.
    fn http(&self, method: &str, path: &str) -> String {
        let answer = self.answer(method, path);
        let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
        assert!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {answer}");
        body.to_owned()
    }

    /// The same, if it has that status.
    pub(crate) fn try_get(&self, path: &str) -> Option<String> {
        let answer = self.answer("GET", path);
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
    }

    pub(crate) fn answer(&self, method: &str, path: &str) -> String {
        let api = self.api();
        let mut stream = TcpStream::connect(&api).expect("the API listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: {api}\r\nConnection: close\r\n\r\n")
            .expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer
    }

    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    pub(crate) fn wait_for_log(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            assert!(Instant::now() < deadline, "the log has no \"{text}\": {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops it by a signal, and returns how it ended and what it logged.
    pub(crate) fn stop(self, signal: &str) -> (ExitStatus, String) {
        self.signal(signal);
        self.ended()
    }

    /// Waits for its end; how it ended and what it logged.
    pub(crate) fn ended(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return (status, self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.fail("it does not stop")
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.signal("-INT");
            let deadline = Instant::now() + Duration::from_secs(60);
            while Instant::now() < deadline
                && self.child.try_wait().is_ok_and(|ended| ended.is_none())
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _killed = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}
