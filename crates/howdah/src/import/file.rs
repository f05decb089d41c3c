//! The `howdah.toml` of an imported cluster: for `howdah node`, which follows it, starts computes on its branches and, where
//! the pooler can look up secrets, takes clients.

use std::path::Path;

use runtime::tls::SslMode;

use super::Origin;
use super::checks::Found;

/// The folder of the computes' scratch and logs.
pub(super) const COMPUTES: &str = "computes";

/// The whole file. It has no key that merely repeats a default.
pub(super) fn text(directory: &Path, origin: &Origin, found: &Found) -> String {
    let mut out = String::new();
    out.push_str(&format!(
        "# Follows PostgreSQL {} (system {}) at {}: howdah node --config {}\n\
         # Written by howdah import; yours to change. docs/configuration.md explains every key.\n\n",
        found.version,
        found.cluster.system_identifier,
        origin.server,
        directory.join(crate::node::CONFIG).display(),
    ));
    let pooler = found.reads_secrets;
    let applets: &[&str] =
        if pooler { &["pageserver", "computes", "pooler"] } else { &["pageserver", "computes"] };
    let applets: Vec<String> = applets.iter().map(|name| quoted(name)).collect();
    out.push_str(&format!("[node]\napplets = [{}]\n", applets.join(", ")));
    page_server(&mut out, directory, origin);
    computes(&mut out, directory, found);
    if pooler {
        self::pooler(&mut out, origin);
    } else {
        out.push_str(&format!(
            "\n# No pooler: user {} may not read pg_authid, so who clients are must come from elsewhere. With an auth_file\n\
             # (or another auth_user) add \"pooler\" to node.applets; psql to shop@feature goes through it.\n",
            quoted(&origin.user)
        ));
    }
    out
}

fn page_server(out: &mut String, directory: &Path, origin: &Origin) {
    out.push_str("\n[pageserver]\n");
    line(out, "directory", &path(&directory.join("pageserver")));
    line(out, "server", &origin.server);
    line(out, "user", &origin.user);
    if !origin.password.0.is_empty() {
        line(out, "password", &origin.password.0);
    }
    line(out, "slot", &origin.slot);
    if origin.ssl_mode != SslMode::Prefer {
        line(out, "server_tls_sslmode", &origin.ssl_mode.to_string());
    }
    if let Some(authorities) = &origin.ssl_root_certificate {
        line(out, "server_tls_ca_file", &path(authorities));
    }
}

fn computes(out: &mut String, directory: &Path, found: &Found) {
    out.push_str("\n[compute]\n");
    line(out, "directory", &path(&directory.join(COMPUTES)));
    if !found.settings.is_empty() {
        out.push_str(
            "# As the server's own files have it; those need not be part of the base backup.\n",
        );
    }
    for (name, value) in &found.settings {
        line(out, &format!("postgres.{}", quoted_unless_plain(name)), value);
    }
}

fn pooler(out: &mut String, origin: &Origin) {
    out.push_str("\n[pooler]\n# Looks up secrets in the server when somebody logs in.\n");
    line(out, "auth_type", "scram-sha-256");
    line(out, "auth_user", &origin.user);
    line(out, "auth_dbname", &origin.database);
    if origin.ssl_mode != SslMode::Prefer {
        line(out, "server_tls_sslmode", &origin.ssl_mode.to_string());
    }
    if let Some(authorities) = &origin.ssl_root_certificate {
        line(out, "server_tls_ca_file", &path(authorities));
    }
    out.push_str("\n[pooler.databases.\"*\"]\n");
    line(out, "host", &origin.host);
    out.push_str(&format!("port = {}\n", origin.port));
    if !origin.password.0.is_empty() {
        out.push_str(&format!("\n[pooler.users.{}]\n", quoted(&origin.user)));
        line(out, "password", &origin.password.0);
    }
}

fn line(out: &mut String, key: &str, value: &str) {
    out.push_str(&format!("{key} = {}\n", quoted(value)));
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

/// A text of TOML.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A key of TOML: settings of extensions have a dot, which stands for a table there.
fn quoted_unless_plain(key: &str) -> String {
    let plain = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain { key.to_owned() } else { quoted(key) }
}

#[cfg(test)]
mod tests {
    use pageserver::basebackup::Cluster;
    use pageserver::settings::Password;

    use super::*;
    use crate::config::Config;

    fn origin() -> Origin {
        Origin {
            server: "db.example:5432".to_owned(),
            user: "re\"p".to_owned(),
            password: Password("a\\b\"c\nd".to_owned()),
            database: "shop".to_owned(),
            slot: "mine".to_owned(),
            ssl_mode: SslMode::VerifyFull,
            ssl_root_certificate: Some("/etc/ca.pem".into()),
            host: "db.example".to_owned(),
            port: 5432,
        }
    }

    fn found(reads_secrets: bool) -> Found {
        Found {
            findings: Vec::new(),
            cluster: Cluster {
                system_identifier: 7,
                timeline: 1,
                wal_segment_bytes: 1 << 24,
                server_version: 150_000,
                data_checksums: true,
            },
            version: "15.18".to_owned(),
            reads_secrets,
            settings: vec![("max_connections".to_owned(), "200".to_owned())],
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let text = text(Path::new("/srv/it"), &origin(), &found(true));
        let config = Config::parse("howdah.toml", &text).expect(&text);
        assert_eq!(config.pageserver.server, "db.example:5432");
        assert_eq!(config.pageserver.user, "re\"p");
        assert_eq!(config.pageserver.password, origin().password);
        assert_eq!(config.pageserver.server_tls_sslmode, "verify-full");
        assert_eq!(config.pageserver.directory, Path::new("/srv/it/pageserver"));
        assert_eq!(config.compute.postgres["max_connections"].as_str(), Some("200"));
        assert_eq!(config.pooler.databases["*"].port, 5432);
        assert!(config.pooler.users.contains_key("re\"p"));
        assert_eq!(config.node.applets.len(), 3);
    }

    #[test]
    fn without_secrets_there_is_no_pooler() {
        let plain = Origin {
            password: Password::default(),
            ssl_mode: SslMode::Prefer,
            ssl_root_certificate: None,
            ..origin()
        };
        let text = text(Path::new("/srv/it"), &plain, &found(false));
        let config = Config::parse("howdah.toml", &text).expect(&text);
        assert_eq!(config.node.applets.len(), 2);
        assert!(config.pooler.databases.is_empty() && config.pageserver.password.0.is_empty());
    }
}
