//! A throw-away Postgres for one test, with what the tests of this crate want of it: its files, and its WAL.
//!
//! Postgres 15 is the installed one; other majors are those that `cargo xtask postgres` put into target/postgres.
#![expect(
    clippy::disallowed_methods,
    reason = "a test harness around real server processes; `pg` itself has no I/O"
)]

use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;

use cluster::Programs;
use pg::wal::segment::WalVersion;

/// The programs of a major other than 15; `None`, and a loud word, if they are not here.
pub(crate) fn programs(major: u32) -> Option<Programs> {
    Programs::of_major(major)
}

pub(crate) struct Cluster(cluster::Cluster);

impl Deref for Cluster {
    type Target = cluster::Cluster;

    fn deref(&self) -> &cluster::Cluster {
        &self.0
    }
}

impl DerefMut for Cluster {
    fn deref_mut(&mut self) -> &mut cluster::Cluster {
        &mut self.0
    }
}

impl Cluster {
    /// Runs initdb (with extra arguments) and starts the server with extra `name=value` settings.
    pub(crate) fn start(initdb: &[&str], settings: &[&str]) -> Cluster {
        let mut cluster = Cluster::create(initdb);
        cluster.serve(settings);
        cluster
    }

    /// Runs initdb and starts nothing.
    pub(crate) fn create(initdb: &[&str]) -> Cluster {
        Cluster::create_with(Programs::default(), initdb)
    }

    /// The same with the [`programs`] of another major.
    pub(crate) fn create_with(programs: Programs, initdb: &[&str]) -> Cluster {
        Cluster(cluster::Cluster::create(programs, "pg", initdb))
    }

    /// Shuts down cleanly, with a checkpoint.
    pub(crate) fn stop(&mut self) {
        self.0.stop("fast");
    }

    /// The major version of the data directory.
    pub(crate) fn version(&self) -> WalVersion {
        let major = fs::read_to_string(self.data().join("PG_VERSION")).unwrap();
        WalVersion::from_major(major.trim().parse().unwrap()).unwrap()
    }

    /// Runs a shell script as the server's user; answers what it prints.
    pub(crate) fn shell(&self, script: &str) -> String {
        self.run("/bin/sh", &["-c", script])
    }

    /// The cluster's WAL: the first segment's start and all segments' bytes in order.
    pub(crate) fn wal(&self) -> (u64, Vec<u8>) {
        let mut names: Vec<PathBuf> = fs::read_dir(self.data().join("pg_wal"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.file_name().unwrap().len() == 24)
            .collect();
        names.sort();
        let first = names.first().unwrap().file_name().unwrap().to_str().unwrap();
        let length = fs::metadata(names.first().unwrap()).unwrap().len();
        let number = u64::from_str_radix(first.get(16..).unwrap(), 16).unwrap();
        let bytes = names.iter().flat_map(|name| fs::read(name).unwrap()).collect();
        (number * length, bytes)
    }

    /// All files of the data directory: path relative to it, and contents.
    pub(crate) fn files(&self) -> Vec<(String, Vec<u8>)> {
        let mut files = Vec::new();
        let mut directories = vec![self.data()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    let name = path.strip_prefix(self.data()).unwrap().to_str().unwrap().to_owned();
                    files.push((name, fs::read(&path).unwrap()));
                }
            }
        }
        files
    }
}
