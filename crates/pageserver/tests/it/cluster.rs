//! A stock Postgres cluster of a test's own, with what the tests of the page server want of it.

use std::ops::{Deref, DerefMut};

use cluster::Programs;

pub(crate) use cluster::Folder;

/// A cluster, running or stopped; gone when dropped.
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
    /// Makes a cluster with these settings besides what tests need, and starts it.
    pub(crate) fn start(name: &str, initdb: &[&str], settings: &[&str]) -> Cluster {
        Cluster::start_with(Programs::default(), name, initdb, settings)
    }

    /// The same of another major than 15, if it is here.
    pub(crate) fn start_major(
        major: u32,
        name: &str,
        initdb: &[&str],
        settings: &[&str],
    ) -> Option<Cluster> {
        Some(Cluster::start_with(Programs::of_major(major)?, name, initdb, settings))
    }

    fn start_with(programs: Programs, name: &str, initdb: &[&str], settings: &[&str]) -> Cluster {
        let cluster = cluster::Cluster::create(programs, name, initdb);
        cluster.configure(&[
            "shared_buffers = 8MB",
            "max_connections = 40",
            "autovacuum_naptime = 1s",
        ]);
        cluster.configure(settings);
        let mut cluster = Cluster(cluster);
        cluster.run();
        cluster
    }

    /// Starts the server again.
    pub(crate) fn run(&mut self) {
        self.serve(&[]);
    }

    /// The address of its socket, as the page server's setting has it.
    pub(crate) fn socket(&self) -> String {
        self.0.socket().display().to_string()
    }

    /// Runs statements one after another in one session, each in a transaction of its own.
    pub(crate) fn sql_each(&self, statements: &[&str]) {
        let mut arguments = vec!["-d", "postgres", "-XqAt", "-v", "ON_ERROR_STOP=1"];
        for statement in statements {
            arguments.extend(["-c", statement]);
        }
        self.0.run("psql", &arguments);
    }

    /// Runs pgbench on the database `postgres`.
    pub(crate) fn pgbench(&self, arguments: &[&str]) {
        self.0.run("pgbench", &[&["-n"], arguments, &["postgres"]].concat());
    }

    /// One of Postgres' clients, towards it.
    pub(crate) fn client(&self, program: &str) -> std::process::Command {
        self.command(program)
    }

    /// Ends the connections of all clients.
    pub(crate) fn end_clients(&self) {
        let others = "backend_type = 'client backend' AND pid <> pg_backend_pid()";
        self.sql(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"));
    }
}
