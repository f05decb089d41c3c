//! Users that no file names: the server is asked for their secrets.

use std::time::Duration;

use pooler::settings::{AuthType, Database, Host, Settings};

use super::cluster::Cluster;
use super::session::Session;
use super::{Setting, run_with, settings};

/// Servers that let `postgres` and `asker` in without a proof, and all others by `method`.
fn cluster(method: &str, encryption: &str) -> Cluster {
    let hba = format!("local all postgres trust\nlocal all asker trust\nlocal all all {method}\n");
    let cluster = Cluster::start(&[&format!("password_encryption={encryption}")], &hba);
    cluster.sql("create role ann login password 'apple'");
    cluster.sql("create role asker login");
    cluster
}

fn asking(auth_type: AuthType, as_user: &str) -> Settings {
    Settings {
        auth_type,
        auth_user: Some(as_user.to_owned()),
        server_login_retry: Duration::from_millis(10),
        users: [].into(),
        ..settings()
    }
}

async fn log_in(setting: &Setting, user: &str, password: &str) -> (Session, String) {
    let mut session = Session::connect(&setting.address).await;
    let answer = session.log_in(user, password, &[]).await;
    (session, answer)
}

/// Who has the password gets in, all the way to the server; a new password counts at once.
async fn check(setting: &Setting, welcome: &str) {
    for _time in 0..2 {
        let (mut session, answer) = log_in(setting, "ann", "apple").await;
        assert_eq!(answer, welcome);
        assert_eq!(session.query("select current_user").await, "T(ann)Z");
    }
    for (user, password) in [("ann", "orange"), ("nobody", "apple"), ("asker", "")] {
        let (_session, answer) = log_in(setting, user, password).await;
        assert!(answer.ends_with("E(28P01)."), "{user}: {answer}");
    }
    setting.cluster.sql("alter role ann password 'cherry'");
    let (_session, answer) = log_in(setting, "ann", "apple").await;
    assert!(answer.ends_with("E(28P01)."), "{answer}");
    let (mut session, answer) = log_in(setting, "ann", "cherry").await;
    assert_eq!(answer, welcome);
    assert_eq!(session.query("select current_user").await, "T(ann)Z");
    setting.cluster.sql("alter role ann nologin");
    let (_session, answer) = log_in(setting, "ann", "cherry").await;
    assert!(answer.ends_with("E(28P01)."), "{answer}");
}

const BY_SCRAM: &str = "R10 SCRAM-SHA-256 R11 R12 R0 Z";

#[test]
fn a_scram_secret_of_the_server_lets_its_user_through() {
    let cluster = cluster("scram-sha-256", "scram-sha-256");
    let settings = asking(AuthType::ScramSha256, "postgres");
    run_with(cluster, settings, async |setting: &Setting| check(setting, BY_SCRAM).await);
}

#[test]
fn md5_asks_for_scram_where_the_secret_is_one() {
    let cluster = cluster("scram-sha-256", "scram-sha-256");
    let settings = asking(AuthType::Md5, "postgres");
    run_with(cluster, settings, async |setting: &Setting| {
        let (mut session, answer) = log_in(setting, "ann", "apple").await;
        assert_eq!(answer, BY_SCRAM);
        assert_eq!(session.query("select 1").await, "T(1)Z");
    });
}

#[test]
fn an_md5_secret_of_the_server_lets_its_user_through() {
    let settings = asking(AuthType::Md5, "postgres");
    run_with(cluster("md5", "md5"), settings, async |setting: &Setting| {
        check(setting, "R5 R0 Z").await;
    });
}

#[test]
fn a_plain_password_that_has_changed_counts_at_once() {
    let cluster = cluster("trust", "scram-sha-256");
    cluster.sql("create table secrets as select 'ann' as name, 'apple' as secret");
    let query = "select name, secret from secrets where name = $1";
    let settings =
        Settings { auth_query: query.to_owned(), ..asking(AuthType::ScramSha256, "postgres") };
    run_with(cluster, settings, async |setting: &Setting| {
        for (old, new) in [("none before", "apple"), ("apple", "cherry")] {
            setting.cluster.sql(&format!("update secrets set secret = '{new}'"));
            let (_session, answer) = log_in(setting, "ann", old).await;
            assert!(answer.ends_with("E(28P01)."), "{old}: {answer}");
            let (_session, answer) = log_in(setting, "ann", new).await;
            assert_eq!(answer, BY_SCRAM, "{new}");
        }
    });
}

#[test]
fn a_function_may_answer_for_who_cannot_read_the_secrets() {
    let cluster = cluster("scram-sha-256", "scram-sha-256");
    cluster.sql("create database directory");
    let function = "create function lookup(wanted text, out name text, out secret text) \
        language sql security definer \
        as 'select rolname, rolpassword from pg_authid where rolname = $1'";
    cluster.sql_in("directory", function);
    let host = vec![Host::Unix(cluster.directory().display().to_string())];
    // The forced user of the entry is not who asks.
    let shop = Database {
        host,
        user: Some("postgres".to_owned()),
        auth_user: Some("asker".to_owned()),
        auth_dbname: Some("directory".to_owned()),
        auth_query: Some("select * from lookup($1)".to_owned()),
        ..Database::default()
    };
    let mut settings = asking(AuthType::ScramSha256, "no such role");
    settings.databases.insert("postgres".to_owned(), shop);
    run_with(cluster, settings, async |setting: &Setting| {
        let (mut session, answer) = log_in(setting, "ann", "apple").await;
        assert_eq!(answer, BY_SCRAM);
        assert_eq!(session.query("select current_user").await, "T(postgres)Z");
        for (user, password) in [("ann", "orange"), ("nobody", "apple")] {
            let (_session, answer) = log_in(setting, user, password).await;
            assert!(answer.ends_with("E(28P01)."), "{user}: {answer}");
        }
    });
}

#[test]
fn many_log_ins_share_one_connection_that_asks() {
    let cluster = cluster("scram-sha-256", "scram-sha-256");
    let mut settings = asking(AuthType::ScramSha256, "postgres");
    settings.default_pool_size = 1;
    run_with(cluster, settings, async |setting: &Setting| {
        let address = setting.address.clone();
        let sessions = (0..20).map(|_| {
            let address = address.clone();
            runtime::executor::spawn(async move {
                let mut session = Session::connect(&address).await;
                assert_eq!(session.log_in("ann", "apple", &[]).await, BY_SCRAM);
                assert_eq!(session.query("select 1").await, "T(1)Z");
            })
        });
        let sessions: Vec<_> = sessions.collect();
        for session in sessions {
            session.await.expect("it is served");
        }
        assert_eq!(setting.servers().await, 2, "one that asks, one that works");
    });
}

#[test]
fn a_query_that_fails_lets_nobody_in_and_harms_nobody() {
    for query in [
        "select rolname from pg_authid where rolname = $1",
        "select $1::text, rolpassword from pg_authid",
        "select 'postgres'::text, rolpassword from pg_authid where rolname = $1",
        "select nothing, $1::text",
        "copy pg_class to stdout",
    ] {
        let cluster = cluster("scram-sha-256", "scram-sha-256");
        let mut settings = asking(AuthType::ScramSha256, "postgres");
        settings.auth_query = query.to_owned();
        settings.default_pool_size = 1;
        run_with(cluster, settings, async |setting: &Setting| {
            for _time in 0..3 {
                let (_session, answer) = log_in(setting, "ann", "apple").await;
                assert_eq!(answer, "E(08006).", "{query}");
            }
            setting.until("no connection hangs", async || setting.in_use().await == (0, 0)).await;
        });
    }
}

#[test]
fn without_a_server_to_ask_clients_hear_of_it() {
    let cluster = cluster("scram-sha-256", "scram-sha-256");
    run_with(cluster, asking(AuthType::ScramSha256, "ghost"), async |setting: &Setting| {
        let (_session, answer) = log_in(setting, "ann", "apple").await;
        assert_eq!(answer, "E(08004).", "nothing is known of who should ask");
    });
}
