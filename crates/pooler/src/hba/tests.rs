//! Tests of host-based authentication: what fits, what is refused, in which words.

use super::*;

fn no_files(path: &Path) -> std::io::Result<String> {
    match path.to_str() {
        Some("/etc/users.txt") => Ok("ann, \"all\"\nbob".to_owned()),
        Some("/etc/more.conf") => Ok("local all carl peer\n".to_owned()),
        Some("/etc/circle.conf") => Ok("include circle.conf\n".to_owned()),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    }
}

fn parse(text: &str) -> Result<Hba, Vec<SettingsError>> {
    let maps = IdentMaps::parse("ident.conf", "m root ann\nm root bob\n").expect("a good map");
    let interfaces = Interfaces::from_proc("|-- 10.9.9.1\n/32 host LOCAL", "", "");
    Hba::parse("/etc/hba.conf", text, &maps, &interfaces, &no_files)
}

fn origin(text: &str) -> Origin {
    match text.split_once('/') {
        None => Origin::Unix,
        Some((address, how)) => {
            Origin::Tcp { address: address.parse().expect("an address"), tls: how == "tls" }
        }
    }
}

/// One attempt, `from/how user database`; the answer is `line method` or the refusal.
fn check(text: &str, attempt: &str, expected: &str) {
    let hba = parse(text).expect("the file is good");
    let words: Vec<&str> = attempt.split(' ').collect();
    let answer = hba.decide(&Attempt {
        origin: origin(words[0]),
        user: words[1],
        database: words[2],
        replication: words.get(3) == Some(&"replication"),
    });
    let shown = match answer {
        Ok(rule) => format!("{} {}", rule.line, rule.method),
        Err(refusal) => refusal.to_string(),
    };
    assert_eq!(shown, expected, "{attempt} by\n{text}");
}

fn check_bad(text: &str, expected: &str) {
    let errors = parse(text).expect_err("the file is bad");
    assert_eq!(errors[0].to_string(), expected);
}

#[test]
fn the_first_line_that_fits_decides() {
    let text = "local all all peer\n\
        host all all 127.0.0.1/32 trust\n\
        host shop ann 10.0.0.0/8 md5\n\
        host all all 10.0.0.0 255.255.0.0 scram-sha-256\n\
        host all all 0.0.0.0/0 reject\n";
    check(text, "unix ann shop", "1 peer");
    check(text, "127.0.0.1/plain ann shop", "2 trust");
    check(text, "10.1.0.1/plain ann shop", "3 md5");
    check(text, "10.0.7.1/plain bob shop", "4 scram-sha-256");
    check(
        text,
        "10.1.7.1/plain bob shop",
        "pg_hba.conf rejects connection for host \"10.1.7.1\", user \"bob\", \
         database \"shop\", no encryption",
    );
    check(
        text,
        "fe80::1/tls bob shop",
        "no pg_hba.conf entry for host \"fe80::1\", user \"bob\", \
         database \"shop\", SSL encryption",
    );
}

#[test]
fn nobody_gets_in_by_an_empty_file() {
    check(
        "",
        "unix ann shop",
        "no pg_hba.conf entry for host \"[local]\", user \"ann\", database \"shop\", no encryption",
    );
}

#[test]
fn encryption_is_told_apart() {
    let text = "hostssl a all all cert\nhostnossl b all all md5\nhostgssenc c all all trust\n\
        hostnogssenc d all all md5";
    check(text, "1.2.3.4/tls u a", "1 cert");
    check(text, "1.2.3.4/plain u b", "2 md5");
    check(text, "1.2.3.4/tls u d", "4 md5");
    for attempt in ["1.2.3.4/plain u a", "1.2.3.4/tls u b", "1.2.3.4/tls u c", "unix u d"] {
        let words: Vec<&str> = attempt.split(' ').collect();
        let hba = parse(text).expect("the file is good");
        let (origin, user, database) = (origin(words[0]), words[1], words[2]);
        let answer = hba.decide(&Attempt { origin, user, database, replication: false });
        assert!(answer.is_err(), "{attempt}");
    }
}

#[test]
fn names_are_lists_keywords_and_files() {
    let text = "local sameuser,other @users.txt,\"x y\" trust\nlocal \"sameuser\" all md5";
    check(text, "unix ann ann", "1 trust");
    check(text, "unix bob other", "1 trust");
    check(text, "unix all other", "1 trust");
    check(text, "unix bob sameuser", "2 md5");
    check(
        text,
        "unix carl carl",
        "no pg_hba.conf entry for host \"[local]\", user \"carl\", database \"carl\", no encryption",
    );
}

#[test]
fn replication_needs_its_keyword() {
    let text = "local all all trust\nhost replication all all reject";
    check(
        text,
        "unix ann shop replication",
        "no pg_hba.conf entry for replication connection from host \"[local]\", user \"ann\", \
         no encryption",
    );
    check(
        text,
        "1.2.3.4/plain ann shop replication",
        "pg_hba.conf rejects replication connection for host \"1.2.3.4\", user \"ann\", \
         no encryption",
    );
    check("local \"replication\" all md5", "unix ann replication", "1 md5");
}

#[test]
fn own_machine_and_own_network() {
    let text = "host all all samehost trust\nhost all all samenet md5";
    check(text, "10.9.9.1/plain u d", "1 trust");
    check(text, "127.0.0.5/plain u d", "1 trust");
    check(text, "::ffff:127.0.0.5/plain u d", "1 trust");
}

#[test]
fn address_ranges_of_both_families() {
    let text = "host all all 10.1.2.3/8 md5\nhost all all fd00::/8 trust\nhost all all \
        fe80:: ffff:: password\nhost a all ::/0 reject\nhost b all 0.0.0.0/0 trust";
    check(text, "10.255.0.1/plain u d", "1 md5");
    check(text, "fdff::1/plain u d", "2 trust");
    check(text, "fe80::9/plain u d", "3 password");
    check(text, "9.9.9.9/plain u b", "5 trust");
    check(
        text,
        "2000::1/plain u a",
        "pg_hba.conf rejects connection for host \"2000::1\", user \"u\", database \"a\", \
         no encryption",
    );
}

#[test]
fn maps_say_who_may_be_whom() {
    let hba = parse("local all all peer map=m\nhostssl all all all cert").expect("it is good");
    let [mapped, direct] = hba.rules() else { panic!("two rules") };
    assert!(mapped.permits("root", "ann") && mapped.permits("root", "bob"));
    assert!(!mapped.permits("ann", "ann"), "a map replaces equality");
    assert!(direct.permits("ann", "ann") && !direct.permits("root", "ann"));
}

#[test]
fn files_are_included() {
    let text = "include more.conf\ninclude_if_exists none.conf\nlocal all all reject";
    check(text, "unix carl d", "1 peer");
    check_bad(
        "include none.conf",
        "/etc/hba.conf:1: could not read \"/etc/none.conf\": entity not found",
    );
    check_bad("include_dir d", "/etc/hba.conf:1: include_dir is not supported");
    check_bad(
        "include circle.conf",
        "/etc/circle.conf:1: files include each other more than 10 deep",
    );
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    for (line, message) in [
        ("lokal all all trust", "invalid connection type \"lokal\""),
        ("local", "the line ends before the database"),
        ("local all", "the line ends before the user"),
        ("local all all", "the line ends before an authentication method"),
        ("local all all thrust", "invalid authentication method \"thrust\""),
        ("local all all ldap", "authentication method \"ldap\" is not supported"),
        ("host all all all ident", "authentication method \"ident\" is not supported"),
        ("host all all all peer", "peer authentication is only supported on local sockets"),
        ("host all all all cert", "cert authentication is only supported on hostssl connections"),
        ("local all +staff trust", "role membership (\"+\") is not supported"),
        ("local samerole all trust", "\"samerole\" is not supported"),
        ("local /^a all trust", "regular expressions are not supported"),
        (
            "host all all db.example.org trust",
            "\"db.example.org\" is not an IP address (host names are not supported)",
        ),
        ("host all all 10.0.0.1/33 trust", "\"10.0.0.1/33\" has an invalid mask length"),
        ("host all all 10.0.0.1 trust", "invalid IP mask \"trust\""),
        ("host all all 10.0.0.1", "\"10.0.0.1\" has no mask"),
        ("host all all 10.0.0.1 255.0.255.0 trust", "invalid IP mask \"255.0.255.0\""),
        ("host all all 10.0.0.1 ffff:: trust", "IP address and mask do not match"),
        ("host all all a,b trust", "expected an address, found a list"),
        ("local all all peer map=x", "the map \"x\" is not in the ident file"),
        ("local all all md5 map=m", "map= is only valid for peer and cert"),
        ("local all all md5 clientcert=1", "option \"clientcert\" is not supported"),
        ("local all all md5 yes", "\"yes\" is not of the form name=value"),
        ("local all @gone md5", "could not read \"/etc/gone\": entity not found"),
        ("local \"all all md5", "a double quote is not closed"),
    ] {
        check_bad(&format!("\n{line}"), &format!("/etc/hba.conf:2: {message}"));
    }
}

#[test]
fn every_bad_line_is_reported() {
    let errors = parse("x\nlocal all all trust\ny").expect_err("two lines are bad");
    assert_eq!(errors.iter().map(|error| error.line).collect::<Vec<_>>(), [Some(1), Some(3)]);
}
