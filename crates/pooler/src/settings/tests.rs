//! Tests of the settings: reading TOML, defaults, validation, messages.

use super::file::read_pooler;
use super::*;

/// Reads the body of a `[pooler]` table.
fn good(body: &str) -> Settings {
    read_pooler("howdah.toml", &format!("[pooler]\n{body}")).expect("the settings are good")
}

/// The first complaint about the body of a `[pooler]` table, which begins on line 2.
fn check_bad(body: &str, expected: &str) {
    let errors =
        read_pooler("howdah.toml", &format!("[pooler]\n{body}")).expect_err("the settings are bad");
    assert_eq!(errors[0].to_string(), expected, "of {errors:#?}");
}

#[test]
fn nothing_gives_the_defaults() {
    assert_eq!(good(""), Settings::default());
    assert_eq!(Settings::default().problems(), []);
}

#[test]
fn defaults_of_pgbouncer_differ_where_documented() {
    let (ours, theirs) = (Settings::default(), Settings::pgbouncer());
    assert_eq!(ours.pool_mode, PoolMode::Transaction);
    assert_eq!(theirs.pool_mode, PoolMode::Session);
    assert_eq!(theirs.max_client_conn, 100);
    assert_eq!(theirs.default_pool_size, ours.default_pool_size);
}

#[test]
fn reads_a_whole_configuration() {
    let settings = good(
        r#"
        listen_addr = ["127.0.0.1", "::1"]
        listen_port = 7000
        unix_socket_dir = "/run/howdah"
        unix_socket_mode = "0750"
        pool_mode = "session"
        query_wait_timeout = "2min"
        client_idle_timeout = 0
        max_packet_size = "64MB"
        admin_users = ["root"]

        [pooler.databases.shop]
        host = "10.0.0.1,10.0.0.2"
        port = 5433
        pool_size = 5
        user = "shopkeeper"
        password = "s3cret"
        server_lifetime = "10min"

        [pooler.databases."*"]
        host = ["/run/postgresql"]

        [pooler.users.alice]
        password = "wonder"
        pool_mode = "transaction"
        "#,
    );
    assert_eq!(settings.unix_socket_mode, 0o750);
    assert_eq!(settings.query_wait_timeout, Duration::from_secs(120));
    assert_eq!(settings.max_packet_size, 64 << 20);
    let shop = &settings.databases["shop"];
    assert_eq!(shop.host, [Host::Tcp("10.0.0.1".to_owned()), Host::Tcp("10.0.0.2".to_owned())]);
    assert_eq!(shop.server_lifetime, Some(Duration::from_secs(600)));
    assert_eq!(
        settings.database("other").map(|database| database.servers("")),
        Some(vec![ServerAddress::Unix("/run/postgresql/.s.PGSQL.5432".into())])
    );
    assert_eq!(settings.users["alice"].pool_mode, Some(PoolMode::Transaction));
}

#[test]
fn a_database_without_host_is_local() {
    let database = Database::default();
    let socket = |path: &str| vec![ServerAddress::Unix(path.into())];
    assert_eq!(database.servers("/run/pg"), socket("/run/pg/.s.PGSQL.5432"));
    assert_eq!(database.servers(""), socket("/tmp/.s.PGSQL.5432"));
}

#[test]
fn the_fallback_cannot_be_asked_for_by_its_name() {
    let settings = good("[pooler.databases.\"*\"]\nhost = \"h\"");
    assert!(settings.database("*").is_none());
    assert!(settings.database("anything").is_some());
}

#[test]
fn secrets_are_in_no_debug_output() {
    let settings = good(
        "[pooler.databases.a]\nuser = \"u\"\npassword = \"hunter2\"\n\
         [pooler.users.b]\npassword = \"hunter3\"",
    );
    let shown = format!("{settings:#?}");
    assert!(!shown.contains("hunter"), "{shown}");
}

#[test]
fn a_complaint_names_file_line_and_key() {
    check_bad(
        "pool_mode = \"transactional\"",
        "howdah.toml:2: pooler.pool_mode: \"transactional\" is not a pool mode, \
         use one of session, transaction, statement",
    );
    check_bad(
        "\n\nquery_timeout = 30",
        "howdah.toml:4: pooler.query_timeout: \"30\" has no unit, write for example \"30s\"",
    );
    check_bad(
        "max_packet_size = \"1XB\"",
        "howdah.toml:2: pooler.max_packet_size: \"1XB\" is not a size, \
         write for example \"64kB\" (B, kB, MB, GB, TB)",
    );
    check_bad(
        "max_client_conn = -1",
        "howdah.toml:2: pooler.max_client_conn: invalid value: integer `-1`, expected u32",
    );
    check_bad(
        "[pooler.databases.shop]\nport = \"x\"",
        "howdah.toml:3: pooler.databases.shop.port: invalid type: string \"x\", expected u16",
    );
    check_bad(
        "[pooler.databases.shop]\nhost = 5",
        "howdah.toml:3: pooler.databases.shop.host: a host is a text or a list of texts",
    );
}

#[test]
fn an_unknown_key_is_refused_by_name() {
    let errors = read_pooler("howdah.toml", "[pooler]\npool_mod = 1").expect_err("it is unknown");
    let text = errors[0].to_string();
    assert!(
        text.starts_with(
            "howdah.toml:2: pooler.pool_mod: unknown field `pool_mod`, expected one of"
        ),
        "{text}"
    );
}

#[test]
fn broken_toml_names_the_line() {
    let errors = read_pooler("howdah.toml", "[pooler]\nlisten_port 6432").expect_err("no =");
    assert_eq!((errors[0].line, errors[0].file.as_str()), (Some(2), "howdah.toml"));
}

#[test]
fn no_complaint_quotes_a_password() {
    for body in [
        "[pooler.users.a]\npassword = 4711",
        "[pooler.users.a]\npassword = \"4711",
        "[pooler.users.a]\npassword = [\"4711\"]",
        "[pooler.users.a]\npassword = { x = \"4711\" }",
        "[pooler.databases.a]\nuser = 1\npassword = \"4711\"",
        "[pooler.databases.a]\npassword = \"4711\"",
    ] {
        let errors = read_pooler("f", &format!("[pooler]\n{body}")).expect_err("it is bad");
        for error in &errors {
            assert!(!error.to_string().contains("4711"), "{error}");
            assert!(error.line.is_some(), "{error}");
        }
    }
}

#[test]
fn contradictions_are_found_and_located() {
    check_bad(
        "listen_addr = []",
        "howdah.toml:2: pooler.listen_addr: there is nothing to listen on",
    );
    check_bad(
        "auth_type = \"hba\"",
        "howdah.toml:1: pooler.auth_hba_file: auth_type \"hba\" needs auth_hba_file",
    );
    check_bad(
        "client_tls_sslmode = \"require\"",
        "howdah.toml:1: pooler.client_tls_cert_file: \
         client_tls_sslmode \"require\" needs client_tls_cert_file",
    );
    check_bad(
        "[pooler.databases.pgbouncer]\nport = 1",
        "howdah.toml:2: pooler.databases.pgbouncer: \
         database name \"pgbouncer\" is reserved for the console",
    );
    check_bad(
        "[pooler.databases.\"a.b\"]\npool_size = 0",
        "howdah.toml:3: pooler.databases.a.b.pool_size: \
         a pool needs at least one server connection",
    );
    check_bad(
        "server_tls_cert_file = \"c\"",
        "howdah.toml:1: pooler.server_tls_key_file: \
         server_tls_cert_file needs server_tls_key_file",
    );
}

#[test]
fn off_loopback_needs_tls_and_authentication() {
    check_bad(
        "listen_addr = [\"*\"]",
        "howdah.toml:1: pooler.client_tls_sslmode: listening off loopback needs \
         client_tls_sslmode = \"require\" or stricter (or insecure_off_loopback = true)",
    );
    check_bad(
        "listen_addr = [\"*\"]\nauth_type = \"trust\"\nclient_tls_sslmode = \"require\"\n\
         client_tls_cert_file = \"c\"\nclient_tls_key_file = \"k\"",
        "howdah.toml:3: pooler.auth_type: listening off loopback with auth_type \"trust\" \
         lets anybody in (insecure_off_loopback = true would allow it)",
    );
    good("listen_addr = [\"*\"]\ninsecure_off_loopback = true");
}

#[test]
fn the_check_query_can_be_empty_absent_or_ours() {
    let with =
        |query: &str| Settings { server_check_query: query.to_owned(), ..Default::default() };
    assert_eq!(with("<empty>").server_check(), Some(""));
    assert_eq!(with("").server_check(), None);
    assert_eq!(with("select 1").server_check(), Some("select 1"));
}
