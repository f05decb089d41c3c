//! Logging in to Postgres by every method it has for us.

use pageserver::api::Phase;
use pageserver::settings::Password;

use crate::cluster::{Cluster, Folder};
use crate::service::{Service, settings};

#[test]
fn logs_in_with_password_md5_and_scram() {
    let cluster = Cluster::start("login", &[], &[]);
    for (role, method, stored_as) in [
        ("clear", "password", "scram-sha-256"),
        ("hashed", "md5", "md5"),
        ("scram", "scram-sha-256", "scram-sha-256"),
    ] {
        cluster.sql(&format!(
            "SET password_encryption = '{stored_as}'; CREATE ROLE {role} REPLICATION LOGIN PASSWORD 'sésame'"
        ));
        cluster.allow(&format!("local replication {role} {method}"));
    }
    cluster.sql("SELECT pg_reload_conf()");
    for role in ["clear", "hashed", "scram"] {
        let folder = Folder::new("login-ps");
        let mut settings = settings(folder.path(), cluster.socket());
        settings.user = role.to_owned();
        settings.slot = role.to_owned();
        settings.password = Password("wrong".to_owned());
        let service = Service::start(settings.clone());
        let status = service.wait("the refusal", |status| status.error.is_some());
        let message = status.error.expect("it says why").message;
        assert!(message.contains("password authentication failed"), "{message}");
        service.stop();
        settings.password = Password("sésame".to_owned());
        let service = Service::start(settings);
        service.wait("streaming", |status| status.phase == Phase::Streaming);
        service.stop();
    }
}
