//! A throw-away Postgres for one test, with the rules and certificates that the tests of the pooler want.

use std::ops::{Deref, DerefMut};
use std::path::Path;

use cluster::Programs;

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
    /// Starts a server with extra `name=value` settings and, if not empty, this pg_hba.conf.
    pub(crate) fn start(settings: &[&str], hba: &str) -> Cluster {
        let mut cluster = Cluster::prepare(hba);
        cluster.serve(settings);
        cluster
    }

    /// The same, reachable by TCP and, if asked for, TLS with this certificate and key and the authority
    /// of clients' certificates.
    pub(crate) fn start_tls(
        hba: &str,
        certificate: &str,
        key: &str,
        authority: &str,
        ssl: bool,
    ) -> Cluster {
        let mut cluster = Cluster::prepare(hba);
        for (name, text) in
            [("server.crt", certificate), ("server.key", key), ("ca.crt", authority)]
        {
            cluster.make_file(name, text);
        }
        let ssl = if ssl { "ssl=on" } else { "ssl=off" };
        cluster.serve_tcp(&[ssl, "ssl_ca_file=ca.crt"]);
        cluster
    }

    fn prepare(hba: &str) -> Cluster {
        let cluster = cluster::Cluster::create(Programs::default(), "pooler", &[]);
        if !hba.is_empty() {
            cluster.make_file("pg_hba.conf", hba);
        }
        Cluster(cluster)
    }

    /// Where its unix socket is.
    pub(crate) fn directory(&self) -> &Path {
        self.folder()
    }
}
