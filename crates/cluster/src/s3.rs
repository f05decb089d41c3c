//! An S3 server of a test's own: the one in `/tests/s3`, which keeps everything in memory.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The names by which whoever connects finds credentials in the environment; the server takes any.
pub const S3_CREDENTIALS: [(&str, &str); 2] =
    [("AWS_ACCESS_KEY_ID", "testing"), ("AWS_SECRET_ACCESS_KEY", "testing")];

/// The server, on a free port of loopback; it is killed with the value.
pub struct S3Server {
    process: Child,
    endpoint: String,
}

impl S3Server {
    /// `None`, and a loud word, where Python or the package cannot be had; with `CI` set that is an error.
    pub fn start() -> Option<S3Server> {
        let place = install()?;
        let mut process = Command::new("python3")
            .arg(folder().join("server.py"))
            .env("PYTHONPATH", place)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 starts");
        let mut port = String::new();
        let printed = process.stdout.take().expect("it is a pipe");
        BufReader::new(printed).read_line(&mut port).expect("the server prints its port");
        let port: u16 = port.trim().parse().expect("the server's port");
        Some(S3Server { process, endpoint: format!("http://127.0.0.1:{port}") })
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub fn address(&self) -> SocketAddr {
        let address = self.endpoint.strip_prefix("http://").expect("it is ours");
        address.parse().expect("it is an address")
    }

    /// Makes a bucket, which S3 itself does not do by itself.
    pub fn make_bucket(&self, name: &str) {
        let made = Command::new("curl")
            .args(["--silent", "--fail", "--request", "PUT"])
            .arg(format!("{}/{name}", self.endpoint))
            .stdout(Stdio::null())
            .status()
            .expect("curl runs");
        assert!(made.success(), "the bucket is not made");
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/s3")
}

fn install() -> Option<String> {
    let installed = Command::new(folder().join("install")).output().expect("the script runs");
    let printed = String::from_utf8_lossy(&installed.stdout).trim().to_owned();
    match installed.status.code() {
        Some(0) => Some(printed),
        Some(77) => {
            let _said = writeln!(std::io::stderr(), "SKIPPED: {printed}");
            None
        }
        _ => panic!("{printed}{}", String::from_utf8_lossy(&installed.stderr)),
    }
}
