//! Who is let in, and how: users, passwords and TLS, with Postgres' own programs and with our client.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use pageserver::client::Client;
use pageserver::connection::Login;
use pageserver::restore::restore;
use pageserver::settings::{Password, User};
use pageserver::tls::Encryption;
use pg::auth::md5::Stored;
use runtime::net::{Address, ListenOptions, Listener};
use runtime::tls::SslMode;

use crate::cluster::{Cluster, Folder};
use crate::postgres::current_lsn;
use crate::service::{Service, block_on, settings};
use crate::tools::{Restored, Tools, fail, succeed};

fn write(path: &Path, text: &str) {
    runtime::fs::blocking::write_atomic(path, text.as_bytes()).expect("the folder is ours");
    let readable = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(path, readable).expect("the file is ours");
}

#[test]
fn users_need_their_password_and_tls_where_it_is_demanded() {
    let cluster = Cluster::start("access", &[], &[]);
    let (tools, folder) = (Tools::of(&cluster), Folder::new("access-ps"));
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]);
    let made = made.expect("a certificate can be made");
    let place = cluster.make_folder("certificate");
    let (certificate, key) = (place.join("server.crt"), place.join("server.key"));
    write(&certificate, &made.cert.pem());
    write(&key, &made.signing_key.serialize_pem());
    let mut settings = settings(folder.path(), cluster.socket());
    let user =
        |name: &str, secret: String| User { name: name.to_owned(), secret: Password(secret) };
    settings.users = vec![
        user("ann", "right".to_owned()),
        user("old", Stored::of(b"right", b"old").to_string()),
    ];
    settings.tls_cert_file.clone_from(&certificate);
    settings.tls_key_file = key;
    settings.tls_sslmode = "require".to_owned();
    let service = Service::start(settings);
    service.wait_streaming();
    service.wait_lsn(current_lsn(&cluster));
    let try_as = |user: &str, password: &str, mode: &str| {
        let mut receive = tools.towards("pg_basebackup", service.address);
        receive.args(["-U", user, "-D", "-", "-F", "tar", "-X", "none"]);
        receive.env("PGPASSWORD", password).env("PGSSLMODE", mode);
        receive.env("PGSSLROOTCERT", &certificate);
        receive.stdout(std::process::Stdio::null());
        receive
    };
    for user in ["ann", "old"] {
        succeed(try_as(user, "right", "verify-full"));
        let said = fail(try_as(user, "wrong", "require"));
        assert!(said.contains("password authentication failed"), "{said}");
        let said = fail(try_as(user, "right", "disable"));
        assert!(said.contains("takes encrypted connections only"), "{said}");
    }
    let said = fail(try_as("nobody", "right", "require"));
    assert!(said.contains("password authentication failed"), "{said}");
    let address = service.address.to_string();
    let login = |user: &str, password: &str, mode| Login {
        server: address.clone(),
        user: user.to_owned(),
        password: Password(password.to_owned()),
        application_name: "tester".to_owned(),
        database: String::new(),
        encryption: Encryption::new(mode, Some(&certificate)).expect("the file is there"),
    };
    for (login, message) in [
        (login("ann", "right", SslMode::VerifyFull), ""),
        (login("old", "right", SslMode::Require), ""),
        (login("ann", "wrong", SslMode::Require), "password authentication failed"),
        (login("ann", "right", SslMode::Disable), "encrypted connections only"),
    ] {
        let connected = block_on(async move { Client::log_in(&login).await.map(|_client| ()) });
        let said = connected.err().map_or_else(String::new, |error| error.to_string());
        assert!(said.contains(message) && said.is_empty() == message.is_empty(), "{said}");
    }
    service.stop();
}

#[test]
fn follows_a_server_over_tls_and_checks_its_certificate() {
    let cluster = Cluster::start("tls", &[], &[]);
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]);
    let made = made.expect("a certificate can be made");
    let tools = Tools::of(&cluster);
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let data = cluster.data();
    succeed(tools.shell(&format!(
        "umask 077; cat > {0}/server.crt <<'X'\n{certificate}X\ncat > {0}/server.key <<'X'\n{key}X\n",
        data.display()
    )));
    cluster.sql("ALTER SYSTEM SET ssl = on");
    cluster.allow("hostssl replication postgres 127.0.0.1/32 trust");
    let place = Folder::new("tls-authority");
    let authority = place.path().join("authority.crt");
    write(&authority, &certificate);
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]);
    let other_authority = place.path().join("other.crt");
    write(&other_authority, &other.expect("a certificate can be made").cert.pem());
    let port = free_port();
    cluster.sql("ALTER SYSTEM SET listen_addresses = '127.0.0.1'");
    cluster.sql(&format!("ALTER SYSTEM SET port = {port}"));
    let mut cluster = cluster;
    cluster.stop("fast");
    let options = format!("-D {}", data.display());
    succeed(tools.shell(&format!(
        "sed -i '/^listen_addresses/d' {}/postgresql.auto.conf; echo \"listen_addresses='127.0.0.1'\" >> {}/postgresql.auto.conf; \
         {} {options} -w -t 60 -l {}/../tls.log start > /dev/null 2>&1",
        data.display(),
        data.display(),
        "/usr/lib/postgresql/15/bin/pg_ctl",
        data.display()
    )));
    let folder = Folder::new("tls-ps");
    let mut settings = settings(folder.path(), format!("127.0.0.1:{port}"));
    settings.server_tls_sslmode = "verify-full".to_owned();
    settings.server_tls_ca_file = other_authority;
    let service = Service::start(settings.clone());
    let status = service.wait("the refusal", |status| status.error.is_some());
    let message = status.error.expect("it says why").message;
    assert!(message.contains("certificate"), "{message}");
    service.stop();
    settings.server_tls_ca_file = authority;
    let service = Service::start(settings);
    service.wait_streaming();
    service.stop();
    succeed(tools.shell(&format!(
        "/usr/lib/postgresql/15/bin/pg_ctl {options} -m immediate -w stop > /dev/null"
    )));
}

/// A port that was free just now.
fn free_port() -> u16 {
    block_on(async {
        let any = Address::Tcp("127.0.0.1:0".parse().expect("an address"));
        let listener = Listener::bind(&any, &ListenOptions::default()).expect("there are ports");
        match listener.local_address() {
            Address::Tcp(address) => address.port(),
            other => panic!("not TCP: {other}"),
        }
    })
}

#[test]
fn a_restored_directory_starts_with_its_tablespaces() {
    let cluster = Cluster::start("restore", &["-k"], &[]);
    let (tools, folder) = (Tools::of(&cluster), Folder::new("restore-ps"));
    let space = cluster.make_folder("space");
    let service = Service::start(settings(folder.path(), cluster.socket()));
    service.wait_streaming();
    cluster.sql(&format!("CREATE TABLESPACE s LOCATION '{}'", space.display()));
    cluster.sql("CREATE TABLE t TABLESPACE s AS SELECT i FROM generate_series(1, 3000) i");
    let lsn = current_lsn(&cluster);
    service.wait_lsn(lsn);
    cluster.sql("DROP TABLE t");
    let target = cluster.make_folder("restored").join("data");
    let login = Login {
        database: format!("main@{lsn}"),
        ..Login::within_process(&service.address.to_string())
    };
    // A path as one types it: its links hold nevertheless.
    let here = std::env::current_dir().expect("there is one");
    let up = "../".repeat(here.components().count() - 1);
    let to = Path::new(&up).join(target.strip_prefix("/").expect("it is absolute"));
    let again = target.clone();
    let (restored, refused) = block_on(async move {
        let restored = restore(&login, &to, |_progress| {}).await;
        (restored, restore(&login, &again, |_progress| {}).await)
    });
    let restored = restored.expect("there is room");
    assert_eq!(restored.tablespaces.len(), 1);
    let (oid, tablespace) = &restored.tablespaces[0];
    let linked = std::fs::read_link(target.join(format!("pg_tblspc/{oid}"))).expect("a link");
    assert_eq!(&linked, tablespace);
    assert_eq!(linked, std::fs::canonicalize(&linked).expect("it is there"), "no step up");
    assert!(refused.expect_err("it is there").to_string().contains("is not empty"));
    let reference = cluster.data();
    let mut own = tools.as_ourselves("chown");
    own.arg("-R").arg("--reference").arg(reference).arg(target.parent().expect("a folder"));
    succeed(own);
    succeed(tools.shell(&format!("chmod 700 {}", target.display())));
    tools.run("pg_verifybackup", &[&target.display().to_string()]);
    let server = Restored::start(&tools, &target, "");
    assert_eq!(server.sql("SELECT count(*) FROM t"), "3000");
    server.check();
    service.stop();
}
