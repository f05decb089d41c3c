//! The object store of a run: a directory, or a bucket of an S3 server (`tests/s3`, or another one's endpoint).

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::ceph::{self, Ceph};
use crate::root;

/// Credentials of Ceph's user ([`ceph::KEY`]); the S3 server in `tests/s3` takes any.
const CREDENTIALS: [&str; 2] = ["AWS_ACCESS_KEY_ID=testing", "AWS_SECRET_ACCESS_KEY=testing"];
const BUCKET: &str = "accept";

pub(crate) enum Store {
    Directory(String),
    S3 {
        server: Child,
        endpoint: String,
    },
    Ceph(Ceph),
    /// A server that is there already, with the credentials of the environment.
    Elsewhere {
        url: String,
        endpoint: String,
    },
}

impl Store {
    pub(crate) fn directory(folder: &Path) -> Store {
        Store::Directory(folder.display().to_string())
    }

    /// Starts the S3 server of the tests.
    pub(crate) fn s3() -> Result<Store, String> {
        let folder = root().join("tests/s3");
        let failed = |error| format!("{}: {error}", folder.display());
        let installed = Command::new(folder.join("install")).output().map_err(failed)?;
        let said = String::from_utf8_lossy(&installed.stdout).trim().to_owned();
        if !installed.status.success() {
            return Err(said);
        }
        let mut server = Command::new("python3")
            .arg(folder.join("server.py"))
            .env("PYTHONPATH", said)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let mut port = String::new();
        let printed = server.stdout.take().ok_or("the S3 server says nothing")?;
        BufReader::new(printed).read_line(&mut port).map_err(failed)?;
        let endpoint = format!("http://127.0.0.1:{}", port.trim());
        let store = Store::S3 { server, endpoint: endpoint.clone() };
        let mut make = Command::new("curl");
        make.args(["--silent", "--fail", "--request", "PUT", &format!("{endpoint}/{BUCKET}")]);
        super::server::succeed(make)?;
        Ok(store)
    }

    /// Part of the store is lost, in the midst of writing.
    pub(crate) fn suffer(&self) -> Result<(), String> {
        match self {
            Store::Ceph(ceph) => {
                println!("an OSD is killed");
                ceph.kill_osd()
            }
            Store::Directory(_) | Store::S3 { .. } | Store::Elsewhere { .. } => Ok(()),
        }
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Store::Directory(_) => "a directory",
            Store::S3 { .. } => "an S3 server (moto)",
            Store::Ceph(_) => {
                "Ceph's object gateway with three OSDs, one of them killed under load"
            }
            Store::Elsewhere { endpoint, .. } => endpoint,
        }
    }

    fn url(&self) -> String {
        match self {
            Store::Directory(path) => path.clone(),
            Store::S3 { .. } => format!("s3://{BUCKET}/shop"),
            Store::Ceph(_) => format!("s3://{}/shop", ceph::BUCKET),
            Store::Elsewhere { url, .. } => url.clone(),
        }
    }

    fn endpoint(&self) -> Option<&str> {
        match self {
            Store::Directory(_) => None,
            Store::Ceph(ceph) => Some(&ceph.endpoint),
            Store::S3 { endpoint, .. } | Store::Elsewhere { endpoint, .. } => Some(endpoint),
        }
    }

    /// Lines of `[pageserver]`.
    pub(crate) fn settings(&self) -> String {
        let mut lines = format!("store = \"{}\"\nstore_wal_interval_ms = 500\n", self.url());
        if let Some(endpoint) = self.endpoint() {
            let region = "store_region = \"us-east-1\"\n";
            lines.push_str(&format!("store_endpoint = \"{endpoint}\"\n{region}"));
        }
        lines
    }

    /// Options of `howdah recover`.
    pub(crate) fn options(&self) -> Vec<String> {
        let mut options = vec!["--store".to_owned(), self.url()];
        if let Some(endpoint) = self.endpoint() {
            options.extend(["--endpoint", endpoint, "--region", "us-east-1"].map(str::to_owned));
        }
        options
    }

    /// What a command that needs credentials begins with.
    pub(crate) fn environment(&self) -> Vec<String> {
        match self {
            Store::S3 { .. } | Store::Ceph(_) => {
                let env = ["/usr/bin/env"].into_iter().chain(CREDENTIALS);
                env.map(str::to_owned).collect()
            }
            Store::Directory(_) | Store::Elsewhere { .. } => Vec::new(),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Store::S3 { server, .. } = self {
            let _ended = server.kill();
            let _reaped = server.wait();
        }
    }
}
