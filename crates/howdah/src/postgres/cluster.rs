//! The cluster on disk: made by initdb if it is not there, with Howdah's settings written anew at every start.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use runtime::clock;
use runtime::fs::blocking as fs;
use runtime::process::Command;
use runtime::signal::Signal;

use super::binaries::{Binaries, major_of};
use super::files;
use crate::error::{Error, Result, While};
use crate::limits::{INITDB_END_POLL, INITDB_END_WAIT, SOCKET_PATH_BYTES_MAX};

/// A data directory, and how its server is to run.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub binaries: Binaries,
    pub data: PathBuf,
    /// Folder of the unix socket.
    pub run: PathBuf,
    /// TCP port; 0 for none.
    pub port: u16,
    pub settings: BTreeMap<String, toml::Value>,
}

impl Cluster {
    /// Where the server's unix socket is.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run.join(format!(".s.PGSQL.{}", files::server_port(self.port)))
    }

    /// Whether there is a cluster already; an error if programs of this version cannot run it.
    pub fn exists_for(&self, programs: &str) -> Result<bool> {
        if !self.exists()? {
            return Ok(false);
        }
        let (found, major) = (self.major()?, major_of(programs));
        if found == major {
            return Ok(true);
        }
        let shown = self.data.display();
        Err(Error::new(format!("the cluster in \"{shown}\" is of PostgreSQL {found}"))
            .hint(format!("the programs are of PostgreSQL {major}; choose others by postgres.bin_dir, or another folder, or upgrade the cluster with pg_upgrade")))
    }

    fn major(&self) -> Result<String> {
        let path = self.data.join("PG_VERSION");
        let text = fs::read_to_string(&path);
        let text = text.or_fail(format_args!("could not read \"{}\"", path.display()))?;
        Ok(text.trim().to_owned())
    }

    /// Whether there is a cluster already; an error if something else is there.
    pub fn exists(&self) -> Result<bool> {
        let shown = self.data.display();
        let version = self.data.join("PG_VERSION");
        if !fs::exists(&version) {
            let empty = !fs::exists(&self.data)
                || fs::read_dir(&self.data)
                    .or_fail(format_args!("could not read \"{shown}\""))?
                    .is_empty();
            let error = Error::new(format!("\"{shown}\" is not empty and holds no cluster"));
            return if empty {
                Ok(false)
            } else {
                Err(error.hint("choose another folder by --dir or postgres.data_dir"))
            };
        }
        Ok(true)
    }

    /// Asks the programs for their version, and refuses one that we do not know.
    pub async fn version(&self) -> Result<String> {
        let program = self.binaries.program("postgres");
        let doing = format!("could not run \"{}\"", program.display());
        let finished = Command::new(&program).arg("-V").run().await.or_fail(doing)?;
        self.binaries.check_version(&finished.stdout)
    }

    /// Makes the cluster. It appears under its name only when it is complete.
    pub async fn create(&self) -> Result<()> {
        let unfinished = self.data.with_extension("new");
        let shown = unfinished.display().to_string();
        let deadline = clock::now() + INITDB_END_WAIT;
        while fs::exists(&unfinished) {
            match fs::remove_dir_all(&unfinished) {
                // The server of an initdb that was killed a moment ago still writes.
                Err(error)
                    if error.kind() == ErrorKind::DirectoryNotEmpty && clock::now() < deadline =>
                {
                    clock::sleep(INITDB_END_POLL).await;
                }
                removed => removed.or_fail(format_args!("could not remove \"{shown}\""))?,
            }
        }
        let finished = Command::new(self.binaries.program("initdb"))
            .args(["--username=postgres", "--auth=trust", "--data-checksums", "--encoding=UTF8"])
            .args(["--locale=C.UTF-8", "--no-instructions", "-D", &shown])
            // One that went on without us would be in the way of the next.
            .death_signal(Signal::Kill)
            .run()
            .await
            .or_fail("could not run initdb")?;
        if !finished.status.success() {
            let said = last_lines(&finished.stderr);
            return Err(Error::new(format!("initdb failed: {}", finished.status)).detail(said));
        }
        let conf = unfinished.join("postgresql.conf");
        let doing = || format!("could not write into \"{shown}\"");
        let text = fs::read_to_string(&conf).or_fail(doing())?;
        fs::write_atomic(&conf, format!("{text}{}", files::INCLUDE).as_bytes()).or_fail(doing())?;
        fs::write_atomic(unfinished.join("pg_hba.conf"), files::HBA.as_bytes()).or_fail(doing())?;
        if fs::exists(&self.data) {
            // It is empty, or `exists` would have refused.
            fs::remove_dir_all(&self.data).or_fail(doing())?;
        }
        fs::rename(&unfinished, &self.data).or_fail(doing())?;
        fs::sync_dir(self.data.parent().unwrap_or(Path::new("/"))).or_fail(doing())
    }

    /// Whether the path of the server's unix socket is one that the system can have.
    pub fn check_socket(&self) -> Result<()> {
        let socket = self.socket();
        if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Err(Error::new(format!(
                "the unix socket's path \"{}\" is too long",
                socket.display()
            ))
            .detail(format!(
                "it has {} bytes, the system allows {SOCKET_PATH_BYTES_MAX}",
                socket.as_os_str().len()
            ))
            .hint("choose a folder with a shorter path by --dir"));
        }
        Ok(())
    }

    /// Writes Howdah's settings, so that a changed configuration takes effect with this start.
    pub fn configure(&self) -> Result<()> {
        self.check_socket()?;
        let text = files::conf(self.port, &self.run, &self.settings)?;
        let path = self.data.join(files::CONF_NAME);
        fs::write_atomic(&path, text.as_bytes())
            .or_fail(format_args!("could not write \"{}\"", path.display()))
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.trim().lines().collect();
    lines[lines.len().saturating_sub(5)..].join("; ")
}
