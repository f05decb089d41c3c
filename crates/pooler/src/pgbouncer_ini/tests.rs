//! Tests of reading `pgbouncer.ini`: a corpus of whole files, single lines, warnings, refusals.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::settings::{Host, LoadBalanceHosts, PoolMode, Secret, SslMode};

fn files(path: &Path) -> io::Result<String> {
    match path.to_str() {
        Some("more.ini") => Ok("[databases]\nlate = host=l\n[pgbouncer]\nlisten_port = 7\n".into()),
        Some("circle.ini") => Ok("%include circle.ini\n".into()),
        Some("bad.ini") => Ok("\n\nlisten_port = x\n".into()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

fn read(text: &str) -> Result<PgBouncerIni, Vec<SettingsError>> {
    parse("pgbouncer.ini", text, &files)
}

fn good(text: &str) -> PgBouncerIni {
    read(text).expect("the file is good")
}

fn check_bad(text: &str, expected: &[&str]) {
    let errors = read(text).expect_err("the file is bad");
    let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(shown, expected);
}

fn check_warnings(text: &str, expected: &[&str]) {
    let shown: Vec<String> = good(text).warnings.iter().map(ToString::to_string).collect();
    assert_eq!(shown, expected);
}

#[test]
fn the_smallest_file_gives_the_defaults_of_pgbouncer() {
    assert_eq!(good("[pgbouncer]").settings, Settings::pgbouncer());
}

#[test]
fn a_web_shop() {
    let ini = good(include_str!("../../test_data/pgbouncer/web_shop.ini"));
    let settings = &ini.settings;
    assert_eq!(settings.pool_mode, PoolMode::Transaction);
    assert_eq!((settings.max_client_conn, settings.default_pool_size), (2000, 25));
    assert_eq!(settings.auth_type, AuthType::ScramSha256);
    assert_eq!(settings.ignore_startup_parameters, ["extra_float_digits", "search_path"]);
    assert_eq!(settings.admin_users, ["postgres", "ops"]);
    assert_eq!(settings.idle_transaction_timeout, Duration::from_secs(30));
    let shop = &settings.databases["shop"];
    assert_eq!((shop.port, shop.pool_size), (5432, Some(40)));
    assert_eq!(shop.host, [Host::Tcp("10.0.4.11".into())]);
    let reports = &settings.databases["reports"];
    assert_eq!(reports.pool_mode, Some(PoolMode::Session));
    assert_eq!(reports.load_balance_hosts, LoadBalanceHosts::RoundRobin);
    assert_eq!(reports.host.len(), 2);
    assert_eq!(settings.users["batch"].max_user_connections, Some(5));
    let warned: Vec<&str> =
        ini.warnings.iter().filter_map(|warning| warning.key.as_deref()).collect();
    assert_eq!(warned, ["logfile", "pidfile", "listen_addr"]);
}

#[test]
fn a_locked_down_gateway() {
    let ini = good(include_str!("../../test_data/pgbouncer/gateway.ini"));
    let settings = &ini.settings;
    assert_eq!(settings.auth_type, AuthType::Hba);
    assert_eq!(settings.client_tls_sslmode, SslMode::VerifyFull);
    assert_eq!(settings.server_tls_sslmode, SslMode::VerifyFull);
    assert_eq!(settings.unix_socket_mode, 0o700);
    assert!(settings.disable_pqexec);
    let ledger = &settings.databases["ledger"];
    assert_eq!(ledger.password, Some(Secret::new("it's a = secret")));
    assert_eq!(ledger.connect_query.as_deref(), Some("SET statement_timeout = '30s'"));
    assert_eq!(ledger.server_lifetime, Some(Duration::from_secs(900)));
    assert!(ini.warnings.is_empty(), "{:?}", ini.warnings);
    assert!(!format!("{settings:?}").contains("it's a"), "the password shows");
}

#[test]
fn a_developer_machine() {
    let ini = good(include_str!("../../test_data/pgbouncer/developer.ini"));
    let settings = &ini.settings;
    assert_eq!(settings.auth_type, AuthType::Any);
    assert_eq!(settings.databases["*"].user.as_deref(), Some("dev"));
    assert_eq!(settings.databases["my app"].host, [Host::Unix("/var/run/postgresql".into())]);
    assert_eq!(settings.unix_socket_dir, "@dev");
    assert_eq!(settings.server_check(), Some("select 1"));
}

#[test]
fn one_of_several_processes() {
    let ini = good(include_str!("../../test_data/pgbouncer/peered.ini"));
    let shown: Vec<String> = ini.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "pgbouncer.ini:5: peers.1: has no effect: all cores are in one process",
            "pgbouncer.ini:6: peers.2: has no effect: all cores are in one process",
            "pgbouncer.ini:9: so_reuseport: has no effect: one process uses all cores",
            "pgbouncer.ini:10: peer_id: has no effect: all cores are in one process, \
             cancel requests find their server",
        ]
    );
}

#[test]
fn every_option_of_pgbouncer_is_known() {
    // From PgBouncer's config.md; kept as text so that a renamed field is noticed.
    let names = "admin_users application_name_add_host auth_dbname auth_file auth_hba_file \
        auth_ident_file auth_ldap_options auth_query auth_type auth_user autodb_idle_timeout \
        cancel_wait_timeout client_idle_timeout client_login_timeout client_tls13_ciphers \
        client_tls_ca_file client_tls_cert_file client_tls_ciphers client_tls_dheparams \
        client_tls_ecdhcurve client_tls_key_file client_tls_protocols client_tls_sslmode conffile \
        default_pool_size disable_pqexec dns_max_ttl dns_nxdomain_ttl dns_zone_check_period \
        idle_transaction_timeout ignore_startup_parameters job_name listen_addr listen_backlog \
        listen_port log_connections log_disconnections log_pooler_errors log_stats logfile \
        login_notify_message max_client_conn max_db_client_connections max_db_connections \
        max_packet_size max_prepared_statements max_user_client_connections max_user_connections \
        min_pool_size peer_id pidfile pkt_buf pool_mode pool_idle_timeout query_timeout \
        query_wait_notify query_wait_timeout reserve_pool_size reserve_pool_timeout resolv_conf \
        sbuf_loopcnt scram_iterations server_check_delay server_check_query \
        server_connect_timeout server_fast_close server_idle_timeout server_lifetime \
        server_login_retry server_reset_query server_reset_query_always server_round_robin \
        server_tls13_ciphers server_tls_ca_file server_tls_cert_file server_tls_ciphers \
        server_tls_key_file server_tls_protocols server_tls_sslmode service_name so_reuseport \
        stats_period stats_users suspend_timeout syslog syslog_facility syslog_ident \
        tcp_defer_accept tcp_keepalive tcp_keepcnt tcp_keepidle tcp_keepintvl tcp_socket_buffer \
        tcp_user_timeout track_extra_parameters transaction_timeout unix_socket_dir \
        unix_socket_group unix_socket_mode user verbose";
    let unknown: Vec<&str> =
        names.split_whitespace().filter(|name| options::find(name).is_none()).collect();
    assert_eq!(unknown, [""; 0]);
    assert_eq!(names.split_whitespace().count(), options::OPTIONS.len());
}

#[test]
fn options_without_effect_are_named_with_their_line() {
    check_warnings(
        "[pgbouncer]\npkt_buf = 8192\n\nshiny_new_option = 1\nclient_tls_ciphers = HIGH\n",
        &[
            "pgbouncer.ini:2: pkt_buf: has no effect: buffers belong to the cores",
            "pgbouncer.ini:4: shiny_new_option: is not an option of PgBouncer 1.26, \
             it has no effect",
            "pgbouncer.ini:5: client_tls_ciphers: has no effect: \
             the cipher suites are those of rustls, all with forward secrecy",
        ],
    );
}

#[test]
fn open_doors_are_pointed_out() {
    check_warnings(
        "[pgbouncer]\nlisten_addr = *\nauth_type = trust",
        &[
            "pgbouncer.ini:2: listen_addr: clients of other machines need no TLS \
             (client_tls_sslmode)",
            "pgbouncer.ini:2: listen_addr: clients of other machines need no password \
             (auth_type = trust)",
        ],
    );
    check_warnings("[pgbouncer]\nlisten_addr = localhost,127.0.0.1,::1\nauth_type = trust", &[]);
}

#[test]
fn what_would_change_security_is_refused() {
    check_bad(
        "[pgbouncer]\nauth_type = pam",
        &["pgbouncer.ini:2: auth_type: authentication by \"pam\" is not supported"],
    );
    check_bad(
        "[pgbouncer]\nauth_type = ldap",
        &["pgbouncer.ini:2: auth_type: authentication by \"ldap\" is not supported"],
    );
    check_bad(
        "[pgbouncer]\nclient_tls_protocols = tlsv1.1",
        &["pgbouncer.ini:2: client_tls_protocols: TLS before version 1.2 is not offered"],
    );
    check_bad(
        "[pgbouncer]\nauth_type = hba",
        &["pgbouncer.ini: auth_hba_file: auth_type \"hba\" needs auth_hba_file"],
    );
    check_bad(
        "[databases]\na = host=h sslmode=verify-full\n[pgbouncer]",
        &["pgbouncer.ini:2: databases.a: sslmode: unrecognized connection parameter"],
    );
    check_bad(
        "[users]\na = password=x\n[pgbouncer]",
        &["pgbouncer.ini:2: users.a: password: unrecognized user parameter"],
    );
}

#[test]
fn every_mistake_is_located() {
    check_bad(
        "listen_port = 1\n[pgbouncer]\ndefault_pool_size = many\n[what]\n[databases]\n\
         a = host\nb = port=x\nc = pool_mode=sometimes\n[users]\nu = pool_size=x\n\
         [peers]\n1 = user=x\n",
        &[
            "pgbouncer.ini:1: listen_port: the key stands before any section",
            "pgbouncer.ini:3: default_pool_size: \"many\" is not a whole number",
            "pgbouncer.ini:4: unknown section [what]",
            "pgbouncer.ini:6: databases.a: syntax error in connection string: \
             expected \"key=value\"",
            "pgbouncer.ini:7: databases.b: port: \"x\" is not a whole number",
            "pgbouncer.ini:8: databases.c: pool_mode: \"sometimes\" is not a pool mode, \
             use one of session, transaction, statement",
            "pgbouncer.ini:10: users.u: pool_size: \"x\" is not a whole number",
            "pgbouncer.ini:12: peers.1: user: unrecognized connection parameter",
        ],
    );
    check_bad("[databases]", &["pgbouncer.ini: the section [pgbouncer] is missing"]);
    check_bad(
        "[databases]\n\npgbouncer = host=h\n[pgbouncer]",
        &["pgbouncer.ini:3: databases.pgbouncer: \
           database name \"pgbouncer\" is reserved for the console"],
    );
    check_bad(
        "[databases]\na.b = host=h pool_size=0\n[pgbouncer]",
        &["pgbouncer.ini:2: databases.a.b.pool_size: \
           a pool needs at least one server connection"],
    );
}

#[test]
fn included_files_count_where_they_stand() {
    let settings = good("%include more.ini\nlisten_backlog = 9").settings;
    assert!(settings.databases.contains_key("late"));
    assert_eq!((settings.listen_port, settings.listen_backlog), (7, 9));
    check_bad(
        "[pgbouncer]\n%include gone.ini\n%include bad.ini",
        &[
            "pgbouncer.ini:2: could not read \"gone.ini\": entity not found",
            "bad.ini:3: listen_port: \"x\" is not a whole number",
        ],
    );
    check_bad(
        "[pgbouncer]\n%include circle.ini",
        &["circle.ini:1: files include each other more than 10 deep"],
    );
}

#[test]
fn zero_means_the_global_setting_where_pgbouncer_says_so() {
    let settings = good(
        "[pgbouncer]\n[databases]\na = server_lifetime=0 query_wait_timeout=0 pool_size=-1\n\
         [users]\nu = query_timeout=0 query_wait_timeout=0",
    )
    .settings;
    let database = &settings.databases["a"];
    assert_eq!((database.server_lifetime, database.pool_size), (None, None));
    assert_eq!(database.query_wait_timeout, Some(Duration::ZERO));
    let user = &settings.users["u"];
    assert_eq!((user.query_timeout, user.query_wait_timeout), (None, Some(Duration::ZERO)));
}

#[test]
fn no_complaint_quotes_a_password() {
    for entry in [
        "a = user=u password='hunter2",
        "a = password=hunter2 x",
        "a = password=hunter2",
        "a = user=u password=hunter2 port=x",
        "a user=u password=hunter2",
    ] {
        let errors = read(&format!("[pgbouncer]\n[databases]\n{entry}")).expect_err("it is bad");
        assert!(!errors[0].to_string().contains("hunter2"), "{}", errors[0]);
    }
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "(?s).{0,400}") {
        drop(read(&text));
    }

    #[test]
    fn text_that_looks_right_never_panics(
        lines in prop::collection::vec(
            "\\[(pgbouncer|databases|users|peers)\\]|%include [a-z]{1,4}|'?[a-z_*\"' ]{0,12}'? ?=? ?[a-z0-9=' ,.*-]{0,30}",
            0..30,
        )
    ) {
        drop(read(&lines.join("\n")));
    }
}
