//! What is measured: Howdah's pooler, PgBouncer, or the server itself, each behind a port.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use super::client;
use super::options::Options;
use super::pgbouncer;
use super::process::{self, Daemon};
use super::server::{self, Server};
use crate::howdah;

/// How clients get in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Plain TCP, no password.
    Trust,
    /// TLS and SCRAM-SHA-256.
    Secure,
}

/// One thing to measure.
#[derive(Debug)]
pub(crate) struct Target {
    name: String,
    /// What the report says about it.
    pub(crate) description: String,
    /// How it reaches the server: a unix socket, or loopback TCP.
    unix_link: bool,
    /// The command line before the configuration file; `None`: the server itself.
    command: Option<Vec<String>>,
    after: Vec<String>,
    folder: PathBuf,
    user: Option<(u32, u32)>,
    trust: Running,
    secure: Running,
}

#[derive(Debug)]
struct Running {
    port: u16,
    daemon: Option<Daemon>,
}

/// Finds or builds every target that the options name; starts none.
pub(crate) fn prepare(options: &Options, server: &Server) -> Result<Vec<Target>, String> {
    let wants_howdah = options.targets.iter().any(|name| name.starts_with("howdah"));
    if wants_howdah && options.build {
        howdah::build()?;
    }
    let secret = server.secret()?;
    let certificate = certificate(&server.folder, server.user);
    if let Err(reason) = &certificate {
        eprintln!("no certificate, so no `connect`: {reason}");
    }
    let own = howdah::built();
    let mut named: Vec<(String, PathBuf)> =
        options.targets.iter().map(|name| (name.clone(), own.clone())).collect();
    named.extend(options.binaries.iter().cloned());
    let mut targets = Vec::new();
    for (name, binary) in named {
        let target = Target::new(&name, &binary, options, server)?;
        target.configure(options, server, &secret, certificate.is_ok())?;
        targets.push(target);
    }
    Ok(targets)
}

impl Target {
    fn new(name: &str, binary: &Path, options: &Options, server: &Server) -> Result<Self, String> {
        let mut after = Vec::new();
        let (command, description) = match name {
            "direct" => (None, format!("{} itself", server.version)),
            "pgbouncer" | "pgbouncer-unix" => {
                let program = pgbouncer::newest()?;
                (Some(program.command), program.version)
            }
            "pgbouncer-debian" => {
                let program = pgbouncer::installed()?;
                (Some(program.command), program.version)
            }
            _ => {
                let backend = name.split_once('-').map_or("auto", |(_, backend)| backend);
                let known =
                    ["epoll", "io_uring"].into_iter().find(|known| backend.ends_with(known));
                after = [
                    "--ev-backend",
                    known.unwrap_or("auto"),
                    "--cores",
                    &options.cores.to_string(),
                ]
                .map(str::to_owned)
                .to_vec();
                let command =
                    vec![binary.display().to_string(), "pooler".to_owned(), "--config".to_owned()];
                (
                    Some(command),
                    format!("Howdah ({}, {} core)", known.unwrap_or("auto"), options.cores),
                )
            }
        };
        let port = || -> Result<Running, String> {
            Ok(Running { port: server::free_port()?, daemon: None })
        };
        let (mut trust, secure) = (port()?, port()?);
        if command.is_none() {
            trust.port = server.port;
        }
        let unix_link = match name {
            "pgbouncer" | "pgbouncer-debian" | "direct" => false,
            "pgbouncer-unix" => true,
            _ => options.unix_link,
        };
        let link = if unix_link { "unix socket" } else { "loopback TCP" };
        Ok(Self {
            name: name.to_owned(),
            description: format!("{description}; server by {link}"),
            unix_link,
            command,
            after,
            folder: server.folder.clone(),
            user: server.user,
            trust,
            secure,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether there is a process between client and server.
    pub(crate) fn is_pooler(&self) -> bool {
        self.command.is_some()
    }

    fn file(&self, entry: Entry, extension: &str) -> PathBuf {
        let kind = if entry == Entry::Trust { "trust" } else { "secure" };
        self.folder.join(format!("{}-{kind}.{extension}", self.name))
    }

    /// Writes the two ini files; both PgBouncer and Howdah read them.
    fn configure(
        &self,
        options: &Options,
        server: &Server,
        secret: &str,
        tls: bool,
    ) -> Result<(), String> {
        let users = self.folder.join("users.txt");
        write(&users, &format!("\"bench\" \"{secret}\"\n"), self.user)?;
        let host = if self.unix_link {
            server.socket_folder().display().to_string()
        } else {
            "127.0.0.1".to_owned()
        };
        for (entry, running) in [(Entry::Trust, &self.trust), (Entry::Secure, &self.secure)] {
            let mut ini = format!(
                "[databases]\nbench = host={host} port={} dbname=bench user=bench\n[pgbouncer]\n\
                 listen_addr = 127.0.0.1\nlisten_port = {}\nunix_socket_dir =\nauth_file = {}\n\
                 pool_mode = transaction\ndefault_pool_size = {}\nmax_client_conn = 12000\n\
                 listen_backlog = 4096\nadmin_users = bench\nlog_connections = 0\nlog_disconnections = 0\nlog_stats = 0\n",
                server.port,
                running.port,
                users.display(),
                options.pool,
            );
            if !self.description.contains("1.18") {
                ini.push_str("max_prepared_statements = 200\n");
            }
            match entry {
                Entry::Trust => ini.push_str("auth_type = trust\n"),
                Entry::Secure if tls => ini.push_str(&format!(
                    "auth_type = scram-sha-256\nclient_tls_sslmode = require\nclient_tls_key_file = {0}/key.pem\n\
                     client_tls_cert_file = {0}/certificate.pem\nclient_tls_ca_file = {0}/certificate.pem\n",
                    self.folder.display()
                )),
                Entry::Secure => {}
            }
            write(&self.file(entry, "ini"), &ini, self.user)?;
        }
        Ok(())
    }

    /// The port to connect to; starts the process if it does not run.
    pub(crate) fn open(&mut self, entry: Entry) -> Result<u16, String> {
        let (ini, log) = (self.file(entry, "ini"), self.file(entry, "log"));
        let running = if entry == Entry::Trust { &mut self.trust } else { &mut self.secure };
        let ended = running.daemon.as_mut().and_then(Daemon::ended);
        if let Some(problem) = ended {
            running.daemon = None;
            let said = fs::read_to_string(&log).unwrap_or_default();
            return Err(format!("{problem}: {}", said.lines().last().unwrap_or_default()));
        }
        let Some(command) = &self.command else { return Ok(running.port) };
        if running.daemon.is_none() {
            let mut line = command.clone();
            line.push(ini.display().to_string());
            line.extend(self.after.iter().cloned());
            let mut daemon = Daemon::start(&self.name, &line, self.user, &log)?;
            let port = running.port;
            // Through the pooler once, so that its pool is not empty when the first window opens.
            process::wait_until(&mut daemon, &log, || match entry {
                Entry::Trust => client::Client::open(port, "bench", "bench")
                    .is_ok_and(|mut client| client.run("SELECT 1").is_ok()),
                Entry::Secure => std::net::TcpStream::connect(("127.0.0.1", port)).is_ok(),
            })?;
            running.daemon = Some(daemon);
        }
        Ok(running.port)
    }

    /// The pooler's process; `None` for the server itself or before [`Target::open`].
    pub(crate) fn pid(&self, entry: Entry) -> Option<u32> {
        let running = if entry == Entry::Trust { &self.trust } else { &self.secure };
        running.daemon.as_ref().map(Daemon::pid)
    }

    /// Stops its processes; the next [`Target::open`] starts afresh.
    pub(crate) fn stop(&mut self) {
        self.trust.daemon = None;
        self.secure.daemon = None;
    }
}

fn write(path: &Path, text: &str, user: Option<(u32, u32)>) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    own(path, user)
}

fn own(path: &Path, user: Option<(u32, u32)>) -> Result<(), String> {
    let Some((uid, gid)) = user else { return Ok(()) };
    chown(path, Some(uid), Some(gid)).map_err(|error| error.to_string())
}

/// A self-signed certificate for `localhost` (ECDSA P-256), valid for a day.
fn certificate(folder: &Path, user: Option<(u32, u32)>) -> Result<(), String> {
    let (key, certificate) = (folder.join("key.pem"), folder.join("certificate.pem"));
    let (key_text, certificate_text) =
        (key.display().to_string(), certificate.display().to_string());
    process::output(
        &[
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=localhost",
            "-keyout",
            &key_text,
            "-out",
            &certificate_text,
        ],
        None,
    )?;
    own(&key, user)?;
    own(&certificate, user)
}
