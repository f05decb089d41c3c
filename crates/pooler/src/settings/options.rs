//! The options of PgBouncer's `[pgbouncer]` section by name: how each is read into and shown from
//! [`Settings`], or why it has no effect here.
//!
//! One table serves `pgbouncer.ini`, SHOW CONFIG and SET. Names and units: PgBouncer's `config.md`.

use std::path::PathBuf;
use std::time::Duration;

use super::{Settings, TlsProtocols, units};

/// One option that PgBouncer 1.26 has.
#[derive(Clone, Copy, Debug)]
pub struct PgOption {
    pub name: &'static str,
    /// Whether RELOAD and SET can change it while the pooler runs.
    pub changeable: bool,
    pub effect: Effect,
}

/// What setting an option does.
#[derive(Clone, Copy, Debug)]
pub enum Effect {
    Mapped {
        /// The value as PgBouncer's SHOW CONFIG writes it (seconds without a unit, 0 and 1).
        show: fn(&Settings) -> String,
        /// Reads PgBouncer's notation; the error is a sentence that fits after the key.
        set: fn(&mut Settings, &str) -> Result<(), String>,
    },
    /// Accepted so that the file works, and named in a warning that says why nothing happens.
    None { because: &'static str },
}

/// The option of that name, if PgBouncer has it.
#[must_use]
pub fn find(name: &str) -> Option<&'static PgOption> {
    OPTIONS.iter().find(|option| option.name == name)
}

macro_rules! option {
    ($name:ident, $changeable:expr, $show:expr, $set:expr) => {
        PgOption {
            name: stringify!($name),
            changeable: $changeable,
            effect: Effect::Mapped { show: $show, set: $set },
        }
    };
}
macro_rules! int {
    ($name:ident $(, $changeable:expr)?) => {
        option!($name, changeable!($($changeable)?), |s| s.$name.to_string(), |s, v| {
            s.$name = whole_number(v)?;
            Ok(())
        })
    };
}
macro_rules! flag {
    ($name:ident $(, $changeable:expr)?) => {
        option!($name, changeable!($($changeable)?), |s| u8::from(s.$name).to_string(), |s, v| {
            s.$name = yes_or_no(v)?;
            Ok(())
        })
    };
}
macro_rules! seconds {
    ($name:ident $(, $changeable:expr)?) => {
        option!($name, changeable!($($changeable)?), |s| show_seconds(s.$name), |s, v| {
            s.$name = units::parse_seconds(v)?;
            Ok(())
        })
    };
}
macro_rules! text {
    ($name:ident $(, $changeable:expr)?) => {
        option!($name, changeable!($($changeable)?), |s| s.$name.clone(), |s, v| {
            s.$name = v.to_owned();
            Ok(())
        })
    };
}
macro_rules! optional_text {
    ($name:ident $(, $changeable:expr)?) => {
        option!(
            $name,
            changeable!($($changeable)?),
            |s| s.$name.clone().unwrap_or_default(),
            |s, v| {
                s.$name = (!v.is_empty()).then(|| v.to_owned());
                Ok(())
            }
        )
    };
}
macro_rules! path {
    ($name:ident) => {
        option!($name, true, |s| show_path(s.$name.as_ref()), |s, v| {
            s.$name = (!v.is_empty()).then(|| PathBuf::from(v));
            Ok(())
        })
    };
}
macro_rules! list {
    ($name:ident $(, $changeable:expr)?) => {
        option!($name, changeable!($($changeable)?), |s| s.$name.join(", "), |s, v| {
            s.$name = names(v);
            Ok(())
        })
    };
}
macro_rules! choice {
    ($name:ident) => {
        option!($name, true, |s| s.$name.to_string(), |s, v| {
            s.$name = v.parse()?;
            Ok(())
        })
    };
}
macro_rules! protocols {
    ($name:ident) => {
        option!($name, true, |s| s.$name.to_string(), |s, v| {
            s.$name = tls_protocols(v)?;
            Ok(())
        })
    };
}
macro_rules! no_effect {
    ($name:literal, $because:literal) => {
        PgOption { name: $name, changeable: false, effect: Effect::None { because: $because } }
    };
}
macro_rules! changeable {
    () => {
        true
    };
    ($changeable:expr) => {
        $changeable
    };
}

/// Sorted by name, as SHOW CONFIG lists them.
pub static OPTIONS: &[PgOption] = &[
    list!(admin_users),
    flag!(application_name_add_host),
    optional_text!(auth_dbname),
    path!(auth_file),
    path!(auth_hba_file),
    path!(auth_ident_file),
    no_effect!("auth_ldap_options", "there is no LDAP authentication"),
    text!(auth_query),
    choice!(auth_type),
    optional_text!(auth_user),
    seconds!(autodb_idle_timeout),
    seconds!(cancel_wait_timeout),
    seconds!(client_idle_timeout),
    seconds!(client_login_timeout),
    no_effect!("client_tls13_ciphers", "the cipher suites are those of rustls"),
    path!(client_tls_ca_file),
    path!(client_tls_cert_file),
    no_effect!(
        "client_tls_ciphers",
        "the cipher suites are those of rustls, all with forward secrecy"
    ),
    no_effect!("client_tls_dheparams", "key exchange is by elliptic curves only"),
    no_effect!("client_tls_ecdhcurve", "the curves are those of rustls"),
    path!(client_tls_key_file),
    protocols!(client_tls_protocols),
    choice!(client_tls_sslmode),
    no_effect!("conffile", "the configuration file is the one given at start"),
    int!(default_pool_size),
    flag!(disable_pqexec, false),
    seconds!(dns_max_ttl),
    seconds!(dns_nxdomain_ttl),
    no_effect!("dns_zone_check_period", "DNS zones are not watched"),
    seconds!(idle_transaction_timeout),
    list!(ignore_startup_parameters),
    no_effect!("job_name", "it names a Windows service"),
    list!(listen_addr, false),
    int!(listen_backlog, false),
    int!(listen_port, false),
    flag!(log_connections),
    flag!(log_disconnections),
    flag!(log_pooler_errors),
    flag!(log_stats),
    no_effect!("logfile", "logs go to standard error"),
    text!(login_notify_message),
    int!(max_client_conn),
    int!(max_db_client_connections),
    int!(max_db_connections),
    int!(max_packet_size),
    int!(max_prepared_statements),
    int!(max_user_client_connections),
    int!(max_user_connections),
    int!(min_pool_size),
    no_effect!("peer_id", "all cores are in one process, cancel requests find their server"),
    no_effect!("pidfile", "no process id file is written"),
    no_effect!("pkt_buf", "buffers belong to the cores"),
    seconds!(pool_idle_timeout),
    choice!(pool_mode),
    seconds!(query_timeout),
    seconds!(query_wait_notify),
    seconds!(query_wait_timeout),
    int!(reserve_pool_size),
    seconds!(reserve_pool_timeout),
    no_effect!("resolv_conf", "names are looked up by the system"),
    no_effect!("sbuf_loopcnt", "each connection has its turn by itself"),
    int!(scram_iterations),
    seconds!(server_check_delay),
    text!(server_check_query),
    seconds!(server_connect_timeout),
    flag!(server_fast_close),
    seconds!(server_idle_timeout),
    seconds!(server_lifetime),
    seconds!(server_login_retry),
    text!(server_reset_query),
    flag!(server_reset_query_always),
    flag!(server_round_robin),
    no_effect!("server_tls13_ciphers", "the cipher suites are those of rustls"),
    path!(server_tls_ca_file),
    path!(server_tls_cert_file),
    no_effect!(
        "server_tls_ciphers",
        "the cipher suites are those of rustls, all with forward secrecy"
    ),
    path!(server_tls_key_file),
    protocols!(server_tls_protocols),
    choice!(server_tls_sslmode),
    no_effect!("service_name", "it names a Windows service"),
    no_effect!("so_reuseport", "one process uses all cores"),
    seconds!(stats_period),
    list!(stats_users),
    seconds!(suspend_timeout),
    no_effect!("syslog", "logs go to standard error"),
    no_effect!("syslog_facility", "logs go to standard error"),
    no_effect!("syslog_ident", "logs go to standard error"),
    no_effect!("tcp_defer_accept", "connections are deferred always, for a second at most"),
    flag!(tcp_keepalive),
    int!(tcp_keepcnt),
    seconds!(tcp_keepidle),
    seconds!(tcp_keepintvl),
    no_effect!("tcp_socket_buffer", "the system sizes its buffers"),
    option!(tcp_user_timeout, true, |s| s.tcp_user_timeout.as_millis().to_string(), |s, v| {
        s.tcp_user_timeout = Duration::from_millis(whole_number(v)?);
        Ok(())
    }),
    list!(track_extra_parameters, false),
    seconds!(transaction_timeout),
    option!(unix_socket_dir, false, |s| s.unix_socket_dir.clone(), |s, v| {
        s.unix_socket_dir = v.to_owned();
        Ok(())
    }),
    optional_text!(unix_socket_group, false),
    option!(unix_socket_mode, false, |s| format!("0{:o}", s.unix_socket_mode), |s, v| {
        s.unix_socket_mode = units::parse_mode(v)?;
        Ok(())
    }),
    optional_text!(user, false),
    no_effect!("verbose", "the log level is log.level of howdah.toml"),
];

/// A comma-separated list of names.
#[must_use]
pub fn names(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// A non-negative whole number.
///
/// # Errors
/// A sentence that fits after the key.
pub fn whole_number<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let number: u64 = text.parse().map_err(|_error| format!("\"{text}\" is not a whole number"))?;
    T::try_from(number).map_err(|_error| format!("\"{text}\" is out of range"))
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "on" | "yes" | "true" => Ok(true),
        "0" | "off" | "no" | "false" => Ok(false),
        _ => Err(format!("\"{text}\" is neither 0 nor 1")),
    }
}

/// PgBouncer takes a list of versions or a shortcut; versions before 1.2 cannot be had.
fn tls_protocols(text: &str) -> Result<TlsProtocols, String> {
    let (mut old, mut tls12, mut tls13) = (false, false, false);
    for name in names(text) {
        match name.to_ascii_lowercase().as_str() {
            "secure" | "all" | "legacy" => (tls12, tls13) = (true, true),
            "tlsv1.0" | "tlsv1.1" => old = true,
            "tlsv1.2" => tls12 = true,
            "tlsv1.3" => tls13 = true,
            _ => return Err(format!("\"{name}\" is not a TLS version")),
        }
    }
    match (tls12, tls13) {
        (true, true) => Ok(TlsProtocols::Secure),
        (true, false) => Ok(TlsProtocols::Tls12),
        (false, true) => Ok(TlsProtocols::Tls13),
        (false, false) if old => Err("TLS before version 1.2 is not offered".to_owned()),
        (false, false) => Err("no TLS version is named".to_owned()),
    }
}

fn show_seconds(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 {
        duration.as_secs().to_string()
    } else {
        duration.as_secs_f64().to_string()
    }
}

fn show_path(path: Option<&PathBuf>) -> String {
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_has_no_repetitions() {
        for pair in OPTIONS.windows(2) {
            assert!(pair[0].name < pair[1].name, "{} before {}", pair[0].name, pair[1].name);
        }
    }

    #[test]
    fn what_is_shown_can_be_set_again() {
        for defaults in [Settings::default(), Settings::pgbouncer()] {
            let mut copy = Settings::pgbouncer();
            for option in OPTIONS {
                if let Effect::Mapped { show, set } = option.effect {
                    set(&mut copy, &show(&defaults)).expect("its own notation");
                }
            }
            // The only global setting that PgBouncer has no name for.
            copy.insecure_off_loopback = defaults.insecure_off_loopback;
            copy.trust_unknown_users = defaults.trust_unknown_users;
            assert_eq!(copy, defaults);
        }
    }

    fn check_set(name: &str, value: &str, expected: Result<&str, &str>) {
        let mut settings = Settings::pgbouncer();
        let Effect::Mapped { show, set } = find(name).expect("a known option").effect else {
            panic!("{name} has no effect");
        };
        let result = set(&mut settings, value).map(|()| show(&settings));
        assert_eq!(result.as_deref().map_err(String::as_str), expected, "{name} = {value}");
    }

    #[test]
    fn values_are_read_in_the_notation_of_pgbouncer() {
        check_set("query_wait_timeout", "0.25", Ok("0.25"));
        check_set("tcp_user_timeout", "1500", Ok("1500"));
        check_set("unix_socket_mode", "0700", Ok("0700"));
        check_set("admin_users", " a, b ,,c", Ok("a, b, c"));
        check_set("log_stats", "off", Ok("0"));
        check_set("client_tls_protocols", "tlsv1.0,tlsv1.3", Ok("tlsv1.3"));
        check_set("client_tls_protocols", "all", Ok("secure"));
    }

    #[test]
    fn a_bad_value_is_explained() {
        check_set("default_pool_size", "many", Err("\"many\" is not a whole number"));
        check_set("default_pool_size", "99999999999", Err("\"99999999999\" is out of range"));
        check_set("listen_port", "70000", Err("\"70000\" is out of range"));
        check_set("log_stats", "2", Err("\"2\" is neither 0 nor 1"));
        check_set("server_tls_protocols", "tlsv1.1", Err("TLS before version 1.2 is not offered"));
        check_set(
            "auth_type",
            "ldap",
            Err("\"ldap\" is not an authentication type, use one of trust, any, plain, md5, \
                 scram-sha-256, cert, hba"),
        );
    }
}
