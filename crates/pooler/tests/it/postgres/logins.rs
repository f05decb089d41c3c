//! Logging in: clients to us, we to Postgres, by every method.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use pooler::settings::{AuthType, Secret, Settings, SslMode, User};
use runtime::net::Address;
use runtime::tls::{ClientTls, ClientTlsOptions};

use super::cluster::Cluster;
use super::session::Session;
use super::{Setting, run_with, settings};

/// Servers that take nobody but `postgres` without this proof.
fn cluster(method: &str, encryption: &str) -> Cluster {
    let hba = format!("local all postgres trust\nlocal all all {method}\n");
    let cluster = Cluster::start(&[&format!("password_encryption={encryption}")], &hba);
    cluster.sql("create role ann login password 'apple'");
    cluster
}

fn knowing(auth_type: AuthType, secret: &str) -> Settings {
    let ann = User { password: Some(Secret::new(secret)), ..User::default() };
    Settings { auth_type, users: [("ann".to_owned(), ann)].into(), ..settings() }
}

/// A client that knows the password gets in, all the way to the server; one that does not doesn't.
fn check(cluster: Cluster, settings: Settings, expected: &str) {
    run_with(cluster, settings, async |setting: &Setting| {
        for _time in 0..2 {
            let mut session = Session::connect(&setting.address).await;
            assert_eq!(session.log_in("ann", "apple", &[]).await, expected);
            assert_eq!(session.query("select current_user").await, "T(ann)Z");
        }
        let mut session = Session::connect(&setting.address).await;
        let answer = session.log_in("ann", "orange", &[]).await;
        assert!(answer.ends_with("E(28P01)."), "{answer}");
        let mut session = Session::connect(&setting.address).await;
        let answer = session.log_in("nobody", "apple", &[]).await;
        assert!(answer.ends_with("E(28P01)."), "{answer}");
    });
}

const BY_SCRAM: &str = "R10 SCRAM-SHA-256 R11 R12 R0 Z";

#[test]
fn scram_passes_through_without_a_stored_password() {
    let cluster = cluster("scram-sha-256", "scram-sha-256");
    let secret = cluster.sql("select rolpassword from pg_authid where rolname = 'ann'");
    check(cluster, knowing(AuthType::ScramSha256, &secret), BY_SCRAM);
}

#[test]
fn scram_works_with_a_plain_password_on_file() {
    check(
        cluster("scram-sha-256", "scram-sha-256"),
        knowing(AuthType::ScramSha256, "apple"),
        BY_SCRAM,
    );
}

#[test]
fn md5_works_with_either_secret_on_file() {
    check(cluster("md5", "md5"), knowing(AuthType::Md5, "apple"), "R5 R0 Z");
    let cluster = cluster("md5", "md5");
    let secret = cluster.sql("select rolpassword from pg_authid where rolname = 'ann'");
    check(cluster, knowing(AuthType::Md5, &secret), "R5 R0 Z");
}

#[test]
fn a_password_in_the_clear_works_against_every_secret() {
    check(cluster("password", "scram-sha-256"), knowing(AuthType::Plain, "apple"), "R3 R0 Z");
}

#[test]
fn a_server_that_refuses_us_is_its_clients_to_hear_of() {
    let settings = Settings {
        server_login_retry: std::time::Duration::from_millis(10),
        ..knowing(AuthType::Trust, "wrong")
    };
    run_with(cluster("scram-sha-256", "scram-sha-256"), settings, async |setting: &Setting| {
        let mut session = Session::connect(&setting.address).await;
        assert_eq!(session.log_in("ann", "", &[]).await, "E(28P01).");
    });
}

/// A certificate for `localhost` that signs itself, and its key, in files of this cluster's folder.
fn certificate(cluster: &Cluster) -> (std::path::PathBuf, std::path::PathBuf) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a pair");
    let files = ("server.crt", "server.key");
    let (certificate, key) = (cluster.directory().join(files.0), cluster.directory().join(files.1));
    let write = runtime::fs::blocking::write_atomic;
    write(&certificate, made.cert.pem().as_bytes()).expect("a writable folder");
    write(&key, made.signing_key.serialize_pem().as_bytes()).expect("a writable folder");
    (certificate, key)
}

#[test]
fn tls_binds_scram_to_its_certificate() {
    let cluster = cluster("scram-sha-256", "scram-sha-256");
    let (certificate, key) = certificate(&cluster);
    let settings = Settings {
        client_tls_sslmode: SslMode::Require,
        client_tls_cert_file: Some(certificate),
        client_tls_key_file: Some(key),
        ..knowing(AuthType::ScramSha256, "apple")
    };
    run_with(cluster, settings, async |setting: &Setting| {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let options = ClientTlsOptions::new(runtime::tls::SslMode::Require);
        let tls = ClientTls::new(&options, provider).expect("good options");
        let mut session = Session::connect(&setting.address).await.encrypt(&tls).await;
        let answer = session.log_in("ann", "apple", &[]).await;
        assert_eq!(answer, "R10 SCRAM-SHA-256-PLUS R11 R12 R0 Z");
        assert_eq!(session.query("select 1").await, "T(1)Z");
        let long = session.query("select repeat('x', 200000)").await;
        assert_eq!(long.len(), "T()Z".len() + 200_000);
        // Without TLS there is no way in.
        let mut session = Session::connect(&setting.address).await;
        assert_eq!(session.log_in("ann", "apple", &[]).await, "E(28000).");
    });
}

#[test]
fn a_unix_socket_belongs_to_the_group_that_is_named() {
    let cluster = Cluster::start(&[], "");
    // As root, this is not our own group.
    let group = std::fs::metadata(cluster.directory()).expect("it is there").gid();
    let settings = Settings {
        listen_addr: Vec::new(),
        listen_port: 6432,
        unix_socket_dir: cluster.directory().display().to_string(),
        unix_socket_group: Some(group.to_string()),
        ..settings()
    };
    run_with(cluster, settings, async |setting: &Setting| {
        let Address::Unix(path) = &setting.address else { panic!("it listens on no TCP") };
        assert_eq!(std::fs::metadata(path).expect("it is there").gid(), group);
        assert_eq!(setting.session().await.query("select 1").await, "T(1)Z");
    });
}
