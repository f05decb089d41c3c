//! Settings, files on the disk and the manual agree with each other.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use pooler::rules::{Rules, disk};
use pooler::settings::file::read_pooler;
use pooler::settings::{Secret, Settings};
use pooler::{pgbouncer_ini, userlist};
use runtime::fs::blocking as fs;

const MANUAL: &str = include_str!("../../../../docs/configuration.md");
const COMMENTED: &str = include_str!("../../../../howdah.toml");

/// Rows `| key | default | meaning |` of the manual's part between two headings.
fn manual_rows(from: &str, to: &str) -> Vec<(String, String)> {
    let part = MANUAL.split_once(from).unwrap_or_else(|| panic!("no {from}")).1;
    let part = part.split_once(to).unwrap_or_else(|| panic!("no {to}")).0;
    part.lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.splitn(3, " | ");
            let key = cells.next()?.trim_end_matches('`').to_owned();
            Some((key, cells.next()?.trim_matches('`').to_owned()))
        })
        .collect()
}

/// Every key with a default, as TOML.
fn toml(rows: &[(String, String)]) -> String {
    let set = rows.iter().filter(|(_key, default)| default != "none");
    set.map(|(key, default)| format!("{key} = {default}\n")).collect()
}

#[test]
fn the_manual_shows_the_defaults() {
    let rows = manual_rows("## `[pooler]`", "### `[pooler.databases.NAME]`");
    assert!(rows.len() > 70, "{rows:?}");
    let text = format!("[pooler]\n{}", toml(&rows));
    assert_eq!(read_pooler("docs/configuration.md", &text), Ok(Settings::default()));
}

#[test]
fn the_manual_shows_the_defaults_of_databases_and_users() {
    let databases = manual_rows("### `[pooler.databases.NAME]`", "### `[pooler.users.NAME]`");
    let users = manual_rows("### `[pooler.users.NAME]`", "### Safety off loopback");
    let text =
        format!("[pooler.databases.a]\n{}[pooler.users.b]\n{}", toml(&databases), toml(&users));
    let settings = read_pooler("docs/configuration.md", &text).expect("the defaults are good");
    assert_eq!(settings.databases["a"], Default::default());
    assert_eq!(settings.users["b"], Default::default());
}

/// Keys that a table knows, by asking for one that it does not.
fn known_keys(table: &str) -> BTreeSet<String> {
    let text = format!("[pooler]\n[{table}]\nno_such_key = 1\n").replacen(
        "[pooler]\n[pooler]",
        "[pooler]",
        1,
    );
    let errors = read_pooler("f", &text).expect_err("an unknown key");
    let list = errors[0].message.split_once("expected one of ").expect("a list of keys").1;
    list.split(", ").map(|key| key.trim_matches('`').to_owned()).collect()
}

#[test]
fn the_manual_names_every_key() {
    for (table, from, to) in [
        ("pooler", "## `[pooler]`", "### `[pooler.databases.NAME]`"),
        ("pooler.databases.a", "### `[pooler.databases.NAME]`", "### `[pooler.users.NAME]`"),
        ("pooler.users.a", "### `[pooler.users.NAME]`", "### Safety off loopback"),
    ] {
        let mut named: BTreeSet<String> =
            manual_rows(from, to).into_iter().map(|(key, _default)| key).collect();
        if table == "pooler" {
            named.extend(["databases".to_owned(), "users".to_owned()]);
        }
        assert_eq!(named, known_keys(table), "{table}");
    }
}

#[test]
fn the_commented_file_can_be_read_as_it_is() {
    assert_eq!(read_pooler("howdah.toml", COMMENTED), Ok(Settings::default()));
}

/// A folder of its own that disappears with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("howdah-settings-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder for the test");
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write_atomic(&path, text.as_bytes()).expect("a file for the test");
        path.display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone: std::io::Result<()> = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_users_whole_configuration_is_read_from_the_disk() {
    let folder = Folder::new("whole");
    let users = folder.write("userlist.txt", "\"ann\" \"SCRAM-SHA-256$4096:c2FsdA==$a:b\"\n");
    let more = folder.write("databases.ini", "[databases]\nshop = host=/run/postgresql\n");
    folder.write("staff", "ann bob\n");
    let ident = folder.write("ident.conf", "m root ann\n");
    let hba = folder.write("hba.conf", "local all @staff peer map=m\nhost all all samehost md5\n");
    let main = folder.write(
        "pgbouncer.ini",
        &format!(
            "%include {more}\n[pgbouncer]\nauth_type = hba\nauth_file = {users}\n\
             auth_hba_file = {hba}\nauth_ident_file = {ident}\n"
        ),
    );
    let text = disk(Path::new(&main)).expect("it was written");
    let ini = pgbouncer_ini::parse(&main, &text, &disk).expect("a good configuration");
    assert_eq!(ini.warnings, []);
    let rules = Rules::load(1, ini.settings, &disk).expect("good rules");
    assert_eq!(rules.secret("ann"), Some(&Secret::new("SCRAM-SHA-256$4096:c2FsdA==$a:b")));
    assert!(rules.route("shop", "ann").is_some());

    folder.write("hba.conf", "local all @staff ldap\n");
    let errors = Rules::load(2, rules.settings, &disk).expect_err("a broken file");
    assert_eq!(
        errors[0].to_string(),
        format!("{hba}:1: authentication method \"ldap\" is not supported")
    );
}

#[test]
fn a_file_that_is_not_text_is_an_error() {
    let folder = Folder::new("binary");
    let path = folder.0.join("userlist.txt");
    fs::write_atomic(&path, b"\"a\" \"\xff\xfe\"").expect("a file for the test");
    assert!(disk(&path).is_err());
    assert!(userlist::parse("f", "\"a\" \"\u{fffd}\"").is_ok(), "odd text is text");
}
