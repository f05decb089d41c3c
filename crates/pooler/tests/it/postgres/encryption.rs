//! TLS on both sides, with a server that speaks it and an authority of our own.

use std::path::PathBuf;
use std::sync::Arc;

use pg::wire::startup::ProtocolVersion;
use pooler::settings::{AuthType, Database, Host, Secret, Settings, SslMode, User};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use runtime::net::Stream;
use runtime::tls::{ClientTls, ClientTlsOptions, Identity, Pem, Transport};

use super::cluster::Cluster;
use super::session::Session;
use super::{Setting, run_in, run_with, settings};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut parameters = CertificateParams::new(Vec::new()).expect("no names are good names");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, "test authority");
        let key = KeyPair::generate().expect("a key");
        Authority(CertifiedIssuer::self_signed(parameters, key).expect("a certificate"))
    }

    /// A certificate of this common name, and its key.
    fn issue(&self, name: &str) -> (String, String) {
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.signed_by(&key, &self.0).expect("it may sign");
        (certificate.pem(), key.serialize_pem())
    }
}

const HBA: &str = "local all postgres trust\n\
    host all postgres 127.0.0.1/32 trust\n\
    hostssl all ann 127.0.0.1/32 scram-sha-256\n\
    hostssl all cora 127.0.0.1/32 cert\n";

/// A server whose certificate is for `localhost`.
fn server(authority: &Authority, ssl: bool) -> Cluster {
    let (certificate, key) = authority.issue("localhost");
    let cluster = Cluster::start_tls(HBA, &certificate, &key, &authority.0.pem(), ssl);
    cluster.sql("create role ann login password 'apple'");
    cluster.sql("create role cora login");
    cluster
}

fn file(cluster: &Cluster, name: &str, text: &str) -> Option<PathBuf> {
    let path = cluster.directory().join(name);
    runtime::fs::blocking::write_atomic(&path, text.as_bytes()).expect("a writable folder");
    Some(path)
}

/// Servers are reached by TCP as `host`.
fn reaching(cluster: &Cluster, host: &str, mode: SslMode) -> Settings {
    let database = Database {
        host: vec![Host::Tcp(host.to_owned())],
        port: cluster.port(),
        ..Database::default()
    };
    let users = ["ann", "cora"].map(|name| (name.to_owned(), User::default()));
    let mut settings = Settings { server_tls_sslmode: mode, ..settings() };
    settings.users.extend(users);
    settings.databases.insert("*".to_owned(), database);
    settings
}

const IS_ENCRYPTED: &str = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";

/// Whether a connection to the server is encrypted, or how it failed.
async fn encrypted(setting: &Setting) -> String {
    let mut session = Session::connect(&setting.address).await;
    let answer = session.log_in("postgres", "", &[]).await;
    if answer.ends_with('Z') { session.query(IS_ENCRYPTED).await } else { answer }
}

#[test]
fn servers_are_asked_for_as_much_as_the_mode_says() {
    let (ours, other) = (Authority::new(), Authority::new());
    let mut cluster = server(&ours, true);
    let known = file(&cluster, "known.crt", &ours.0.pem());
    let stranger = file(&cluster, "stranger.crt", &other.0.pem());
    let (plain, tls, refused) = ("T(f)Z", "T(t)Z", "E(08006).");
    for (mode, host, authority, expected) in [
        (SslMode::Disable, "127.0.0.1", &None, plain),
        (SslMode::Allow, "127.0.0.1", &None, tls),
        (SslMode::Prefer, "127.0.0.1", &None, tls),
        (SslMode::Require, "127.0.0.1", &None, tls),
        (SslMode::VerifyCa, "127.0.0.1", &known, tls),
        (SslMode::VerifyCa, "127.0.0.1", &stranger, refused),
        (SslMode::VerifyFull, "localhost", &known, tls),
        (SslMode::VerifyFull, "127.0.0.1", &known, refused),
        (SslMode::VerifyFull, "localhost", &stranger, refused),
    ] {
        let settings =
            Settings { server_tls_ca_file: authority.clone(), ..reaching(&cluster, host, mode) };
        cluster = run_in(cluster, settings, async |setting: &Setting| {
            assert_eq!(encrypted(setting).await, expected, "{mode:?} {host}");
        });
    }
}

#[test]
fn a_server_without_tls_is_good_enough_for_some() {
    let mut cluster = server(&Authority::new(), false);
    for (mode, expected) in
        [(SslMode::Allow, "T(f)Z"), (SslMode::Prefer, "T(f)Z"), (SslMode::Require, "E(08006).")]
    {
        let settings = reaching(&cluster, "127.0.0.1", mode);
        cluster = run_in(cluster, settings, async |setting: &Setting| {
            assert_eq!(encrypted(setting).await, expected, "{mode:?}");
        });
    }
}

#[test]
fn scram_passes_through_over_tls() {
    let cluster = server(&Authority::new(), true);
    let secret = cluster.sql("select rolpassword from pg_authid where rolname = 'ann'");
    let mut settings = reaching(&cluster, "127.0.0.1", SslMode::Require);
    settings.auth_type = AuthType::ScramSha256;
    let ann = User { password: Some(Secret::new(&*secret)), ..User::default() };
    settings.users.insert("ann".to_owned(), ann);
    run_with(cluster, settings, async |setting: &Setting| {
        let mut session = Session::connect(&setting.address).await;
        assert!(session.log_in("ann", "apple", &[]).await.ends_with('Z'));
        assert_eq!(session.query(IS_ENCRYPTED).await, "T(t)Z");
    });
}

#[test]
fn a_server_takes_our_certificate_for_a_proof() {
    let authority = Authority::new();
    let mut cluster = server(&authority, true);
    let (certificate, key) = authority.issue("cora");
    let shown = (file(&cluster, "cora.crt", &certificate), file(&cluster, "cora.key", &key));
    for ((certificate, key), expected) in [(shown, "R0 Z"), ((None, None), "E(28000).")] {
        let settings = Settings {
            server_tls_cert_file: certificate,
            server_tls_key_file: key,
            ..reaching(&cluster, "127.0.0.1", SslMode::Require)
        };
        cluster = run_in(cluster, settings, async |setting: &Setting| {
            let mut session = Session::connect(&setting.address).await;
            assert_eq!(session.log_in("cora", "", &[]).await, expected);
        });
    }
}

/// Settings of a pooler that shows a certificate to clients.
fn showing(cluster: &Cluster, authority: &Authority, mode: SslMode) -> Settings {
    let (certificate, key) = authority.issue("localhost");
    Settings {
        client_tls_sslmode: mode,
        client_tls_cert_file: file(cluster, "pooler.crt", &certificate),
        client_tls_key_file: file(cluster, "pooler.key", &key),
        client_tls_ca_file: file(cluster, "clients.crt", &authority.0.pem()),
        ..settings()
    }
}

fn client(alpn: &[&[u8]], identity: Option<(String, String)>) -> ClientTls {
    let pem = |name: &str, text: String| Pem { name: name.to_owned(), text: text.into_bytes() };
    let options = ClientTlsOptions {
        alpn: alpn.iter().map(|protocol| protocol.to_vec()).collect(),
        identity: identity.map(|(certificate, key)| Identity {
            certificates: pem("client.crt", certificate),
            key: pem("client.key", key),
        }),
        ..ClientTlsOptions::new(runtime::tls::SslMode::Require)
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientTls::new(&options, provider).expect("good options")
}

/// TLS from the first byte on, without a request before.
async fn direct(setting: &Setting, tls: &ClientTls) -> Result<Session, runtime::tls::TlsError> {
    let stream = Stream::connect(&setting.address).await.expect("the pooler accepts");
    let stream = tls.connect(stream, "localhost").await?;
    Ok(Session::over(Transport::Tls(stream)))
}

#[test]
fn clients_may_begin_with_tls_if_they_say_what_they_speak() {
    let cluster = Cluster::start(&[], "");
    let settings = showing(&cluster, &Authority::new(), SslMode::Require);
    run_with(cluster, settings, async |setting: &Setting| {
        let postgres = client(&[b"postgresql"], None);
        let mut session = direct(setting, &postgres).await.expect("a handshake");
        let answer = session.log_in_with(ProtocolVersion::V3_2, "postgres", "", &[]).await;
        assert!(answer.ends_with('Z'), "{answer}");
        assert_eq!(session.cancel.1.len(), 16, "the long key of protocol 3.2");
        assert_eq!(session.query("select 1").await, "T(1)Z");
        // Who says nothing may be anybody that was led here.
        let silent = client(&[], None);
        if let Ok(mut session) = direct(setting, &silent).await {
            assert_eq!(session.log_in("postgres", "", &[]).await, ".");
        }
        assert!(direct(setting, &client(&[b"http/1.1"], None)).await.is_err());
        let mut session = Session::connect(&setting.address).await.encrypt(&silent).await;
        let answer = session.log_in("postgres", "", &[]).await;
        assert!(answer.ends_with('Z'), "who has asked need not name it: {answer}");
    });
}

#[test]
fn a_certificate_lets_the_user_in_whose_name_it_bears() {
    let authority = Authority::new();
    let cluster = Cluster::start(&[], "");
    let settings = Settings {
        auth_type: AuthType::Cert,
        ..showing(&cluster, &authority, SslMode::VerifyFull)
    };
    run_with(cluster, settings, async |setting: &Setting| {
        let log_in = async |identity: Option<(String, String)>| {
            let tls = client(&[b"postgresql"], identity);
            match direct(setting, &tls).await {
                Ok(mut session) => session.log_in("postgres", "", &[]).await,
                Err(_refused) => ".".to_owned(),
            }
        };
        assert_eq!(log_in(Some(authority.issue("postgres"))).await, "R0 Z");
        assert_eq!(log_in(Some(authority.issue("ann"))).await, "E(28000).");
        assert_eq!(log_in(Some(Authority::new().issue("postgres"))).await, ".");
        assert_eq!(log_in(None).await, ".");
    });
}
