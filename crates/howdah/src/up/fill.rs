//! What `howdah up` knows better than the general defaults: its own server, its own folder, this one machine.
//! A key that the configuration file has is never touched.

use std::path::PathBuf;

use pooler::settings::{AuthType, Database, FALLBACK_DATABASE, Host};

use super::directory::Directory;
use crate::limits::SERVER_RETRY;
use crate::postgres::cluster::Cluster;
use crate::postgres::files;

/// The superuser that initdb makes.
const SUPERUSER: &str = "postgres";

/// Fills in settings, at the start and again on each reload.
pub(super) struct Fill {
    /// The file as it was written at the start.
    said: toml::Table,
    pages: PathBuf,
    socket: PathBuf,
    run: String,
    port: u16,
    /// Our server is a compute: the pooler asks where it is.
    has_primary: bool,
}

impl Fill {
    pub(super) fn new(said: &toml::Table, directory: &Directory, cluster: &Cluster) -> Self {
        Self {
            said: said.clone(),
            pages: directory.path().join("pageserver"),
            socket: cluster.socket(),
            run: cluster.run.display().to_string(),
            port: files::server_port(cluster.port),
            has_primary: false,
        }
    }

    /// For a server that is a compute, if it is.
    pub(super) fn leading_to_main(self, has_primary: bool) -> Self {
        Self { has_primary, ..self }
    }

    fn says(&self, section: &str, key: &str) -> bool {
        let section = self.said.get(section).and_then(toml::Value::as_table);
        section.is_some_and(|section| section.contains_key(key))
    }

    /// It follows our server, through the unix socket, and keeps its files in our folder.
    pub(super) fn pageserver(&self, settings: &mut pageserver::settings::Settings) {
        if settings.directory.as_os_str().is_empty() {
            settings.directory.clone_from(&self.pages);
        }
        if !self.says("pageserver", "server") {
            settings.server = self.socket.display().to_string();
        }
    }

    /// It leads to our server, through the unix socket.
    pub(super) fn pooler(&self, settings: &mut pooler::settings::Settings) {
        if !self.says("pooler", "auth_type") && !settings.listens_off_loopback() {
            // The server trusts whoever reaches its socket, initdb's own default; see docs/operating.md.
            settings.auth_type = AuthType::Trust;
            settings.trust_unknown_users = true;
        }
        if !self.says("pooler", "server_login_retry") {
            // The server is ours and on this machine: after a restart it is back within moments.
            settings.server_login_retry = SERVER_RETRY;
        }
        if !self.says("pooler", "admin_users") {
            settings.admin_users = vec![SUPERUSER.to_owned()];
        }
        if settings.databases.is_empty() {
            settings.databases.insert(FALLBACK_DATABASE.to_owned(), Database::default());
        }
        if self.has_primary {
            return;
        }
        for database in settings.databases.values_mut().filter(|database| database.host.is_empty())
        {
            database.host = vec![Host::Unix(self.run.clone())];
            database.port = self.port;
        }
    }
}
