//! Tests of the rules: what wins over what, what a broken file does, what a reload changes.

use super::*;
use crate::hba::Origin;
use crate::settings::file::read_pooler;

fn files(path: &Path) -> io::Result<String> {
    match path.to_str() {
        Some("users.txt") => Ok("\"ann\" \"apple\"\n\"bob\" \"banana\"".to_owned()),
        Some("broken.txt") => Ok("ann apple".to_owned()),
        Some("hba.conf") => Ok("local all ann trust\nlocal all root peer map=m".to_owned()),
        Some("ident.conf") => Ok("m root root".to_owned()),
        Some("broken.conf") => Ok("lokal".to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

fn load(body: &str) -> Result<Rules, Vec<SettingsError>> {
    let settings = read_pooler("howdah.toml", &format!("[pooler]\n{body}")).expect("good settings");
    Rules::load(1, settings, &files)
}

fn good(body: &str) -> Rules {
    load(body).expect("the rules are good")
}

fn check_bad(body: &str, expected: &[&str]) {
    let errors = load(body).expect_err("the rules are bad");
    let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(shown, expected);
}

#[test]
fn a_user_wins_over_a_database_wins_over_all() {
    let rules = good(
        "pool_mode = \"session\"\ndefault_pool_size = 7\nquery_timeout = \"1s\"\n\
         [pooler.databases.a]\npool_mode = \"statement\"\npool_size = 3\n\
         [pooler.databases.b]\n\
         [pooler.users.ann]\npool_mode = \"transaction\"\npool_size = 5\nquery_timeout = 0",
    );
    let of = |database: &str, user: &str| {
        let route = rules.route(database, user).expect("the database exists");
        (route.pool_mode, route.pool_size, route.query_timeout)
    };
    assert_eq!(of("a", "ann"), (PoolMode::Transaction, 5, None));
    assert_eq!(of("a", "bob"), (PoolMode::Statement, 3, Some(Duration::from_secs(1))));
    assert_eq!(of("b", "bob"), (PoolMode::Session, 7, Some(Duration::from_secs(1))));
}

#[test]
fn limits_of_zero_leave_the_global_one() {
    let rules = good(
        "max_db_connections = 9\nmax_user_connections = 0\n\
         [pooler.databases.a]\nmax_db_connections = 0\n\
         [pooler.users.ann]\nmax_user_connections = 4",
    );
    let route = rules.route("a", "ann").expect("the database exists");
    assert_eq!((route.max_db_connections, route.max_user_connections), (Some(9), Some(4)));
    assert_eq!(rules.route("a", "bob").expect("it exists").max_user_connections, None);
}

#[test]
fn a_forced_user_has_its_own_pool_settings_and_password() {
    let rules = good(
        "auth_file = \"users.txt\"\n\
         [pooler.databases.a]\nuser = \"bob\"\n\
         [pooler.databases.b]\nuser = \"bob\"\npassword = \"berry\"\n\
         [pooler.databases.\"*\"]\n\
         [pooler.users.bob]\npool_size = 2\n\
         [pooler.users.ann]\npool_size = 4\nclient_idle_timeout = \"1min\"",
    );
    let route = rules.route("a", "ann").expect("the database exists");
    assert_eq!((route.server_user.as_str(), route.pool_size), ("bob", 2));
    assert_eq!(route.client_idle_timeout, Some(Duration::from_secs(60)));
    assert_eq!(route.server_secret, Some(Secret::new("banana")));
    assert!(route.forced_user && !route.automatic);
    let route = rules.route("b", "ann").expect("the database exists");
    assert_eq!(route.server_secret, Some(Secret::new("berry")));
    let route = rules.route("anything", "ann").expect("the fallback");
    assert!(route.automatic && !route.forced_user);
    assert_eq!((route.server_user.as_str(), route.server_database.as_str()), ("ann", "anything"));
    assert_eq!(route.server_secret, Some(Secret::new("apple")));
}

#[test]
fn a_password_among_the_users_wins_over_the_user_list() {
    let rules = good(
        "auth_file = \"users.txt\"\n[pooler.users.ann]\npassword = \"wonder\"\n\
         [pooler.users.carl]\n",
    );
    assert_eq!(rules.secret("ann"), Some(&Secret::new("wonder")));
    assert_eq!(rules.secret("bob"), Some(&Secret::new("banana")));
    assert_eq!(rules.secret("carl"), None);
    assert!(rules.knows_user("carl") && rules.knows_user("bob") && !rules.knows_user("dora"));
}

#[test]
fn unknown_databases_have_no_route() {
    assert_eq!(good("[pooler.databases.a]").route("b", "ann"), None);
}

#[test]
fn the_console_is_for_those_who_are_named() {
    let rules = good("admin_users = [\"ann\"]\nstats_users = [\"ann\", \"bob\"]");
    assert_eq!(rules.console_right("ann"), Some(ConsoleRight::Admin));
    assert_eq!(rules.console_right("bob"), Some(ConsoleRight::Stats));
    assert_eq!(rules.console_right("carl"), None);
    assert_eq!(good("").console_right(""), None);
}

#[test]
fn the_hba_file_decides_if_it_is_asked() {
    let rules =
        good("auth_type = \"hba\"\nauth_hba_file = \"hba.conf\"\nauth_ident_file = \"ident.conf\"");
    let attempt = |user: &'static str| Attempt {
        origin: Origin::Unix,
        database: "d",
        user,
        replication: false,
    };
    assert_eq!(rules.demand(&attempt("ann")).expect("a line fits").method, Method::Trust);
    let peer = rules.demand(&attempt("root")).expect("a line fits");
    assert!(peer.method == Method::Peer && peer.permits("root", "root"));
    assert_eq!(
        rules.demand(&attempt("bob")).expect_err("no line fits").to_string(),
        "no pg_hba.conf entry for host \"[local]\", user \"bob\", database \"d\", no encryption"
    );
    let other = good("auth_type = \"md5\"\nauth_hba_file = \"hba.conf\"");
    assert_eq!(other.demand(&attempt("bob")).expect("no file asked").method, Method::Md5);
}

#[test]
fn broken_and_missing_files_are_refused() {
    check_bad(
        "auth_file = \"broken.txt\"",
        &["broken.txt:1: expected a user name in double quotes"],
    );
    check_bad(
        "auth_file = \"gone.txt\"\nauth_type = \"hba\"\nauth_hba_file = \"broken.conf\"",
        &[
            "gone.txt: auth_file: could not read the file: entity not found",
            "broken.conf:1: invalid connection type \"lokal\"",
        ],
    );
}

#[test]
fn the_pooler_runs_as_the_user_that_is_named_or_not_at_all() {
    let own = runtime::identity::User::with_uid(runtime::identity::effective_uid());
    let own = own.expect("the user list can be read").expect("we are somebody").name;
    assert_eq!(good(&format!("user = \"{own}\"")).settings.user, Some(own.clone()));
    check_bad(
        "user = \"no such user\"",
        &["settings: user: there is no system user \"no such user\""],
    );
    let other = if own == "daemon" { "bin" } else { "daemon" };
    check_bad(
        &format!("user = \"{other}\""),
        &[&format!("settings: user: the user is not changed, start the pooler as \"{other}\"")],
    );
}

#[test]
fn a_reserve_without_a_time_to_wait_is_none() {
    let reserve = |timeout: &str| {
        let rules = good(&format!(
            "reserve_pool_size = 3\nreserve_pool_timeout = {timeout}\n[pooler.databases.a]"
        ));
        rules.route("a", "ann").expect("the database exists").reserve_pool_size
    };
    assert_eq!((reserve("\"5s\""), reserve("0")), (3, 0));
}

#[test]
fn settings_that_contradict_each_other_are_refused_however_they_came() {
    let settings = Settings { default_pool_size: 0, ..Settings::default() };
    let errors = Rules::load(1, settings, &files).expect_err("no pool");
    assert_eq!(
        errors[0].to_string(),
        "settings: default_pool_size: a pool needs at least one server connection"
    );
}

#[test]
fn servers_survive_what_does_not_concern_them() {
    let old = good("[pooler.databases.a]\nhost = \"h\"\n[pooler.databases.b]\nhost = \"h\"");
    let new = good(
        "default_pool_size = 3\n[pooler.databases.a]\nhost = \"h\"\npool_size = 9\n\
         [pooler.databases.b]\nhost = \"i\"",
    );
    assert!(old.servers_survive(&new, "a", "ann"));
    assert!(!old.servers_survive(&new, "b", "ann"), "another host");
    assert!(!old.servers_survive(&good(""), "a", "ann"), "the database has gone");
    let tls = good("server_tls_sslmode = \"require\"\n[pooler.databases.a]\nhost = \"h\"");
    assert!(!old.servers_survive(&tls, "a", "ann"), "another TLS mode");
}
