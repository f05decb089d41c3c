//! Moments: `howdah restore` as of a time and of a restore point, with PostgreSQL on what was restored; `howdah lease`.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::instance::{Folder, Instance, program};

/// Longer than the page server's clock of commits, which has one mark a second.
const NEXT_MARK: Duration = Duration::from_millis(1200);

/// A moment of which everything committed before it is known.
fn time(instance: &Instance) -> String {
    std::thread::sleep(NEXT_MARK);
    instance
        .sql("CREATE TABLE IF NOT EXISTS moments (); ALTER TABLE moments SET (fillfactor = 90)");
    let format = r#"YYYY-MM-DD"T"HH24:MI:SS.US"Z""#;
    instance.sql(&format!("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', '{format}')"))
}

/// What a server on the restored files says, which starts as the owner of `reference`.
fn rows(data: &Path, reference: &Path) -> String {
    let own = Command::new("chown")
        .args(["-R", "--reference"])
        .args([reference, data])
        .status()
        .expect("chown runs");
    assert!(own.success());
    std::fs::set_permissions(data, std::fs::Permissions::from_mode(0o700)).expect("it is ours");
    let mut server = Command::new(program("postgres"));
    let owner = std::fs::metadata(reference).expect("it is there");
    let we = std::fs::metadata("/proc/self").expect("we are a process").uid();
    if owner.uid() != we {
        server.uid(owner.uid()).gid(owner.gid());
    }
    let mut server = server
        .args(["--single", "-D"])
        .args([data, Path::new("postgres")])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("PostgreSQL runs");
    let mut input = server.stdin.take().expect("it is a pipe");
    input.write_all(b"SELECT count(*) FROM t\n").expect("it reads");
    drop(input);
    let output = server.wait_with_output().expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    let counted = out.split_once("count = \"").and_then(|(_, rest)| rest.split_once('"'));
    counted.unwrap_or_else(|| panic!("{out}{err}")).0.to_owned()
}

#[test]
fn a_time_and_a_restore_point_are_restored() {
    let folder = Folder::new();
    let instance = Instance::in_directory(&folder, "");
    let reference = folder.path().join("data/postgres");
    let place = |name: &str| folder.path().join(name).display().to_string();
    instance.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 10) i");
    let then = time(&instance);
    instance.sql("INSERT INTO t VALUES (11)");
    let marked = instance.sql("SELECT pg_create_restore_point('before the deletion')");
    instance.sql("DELETE FROM t");

    let (at_time, at_point, at_lsn) = (place("time"), place("point"), place("lsn"));
    let restore = |at: &str, target: &str| {
        instance.howdah(&["restore", "--json", "--at", at, "--target", target])
    };
    let done = |at: &str, target: &str| {
        let said = restore(at, target);
        said.unwrap_or_else(|error| panic!("{at}: {error}\n{}", instance.log()))
    };
    done(&then, &at_time);
    assert_eq!(rows(Path::new(&at_time), &reference), "10");
    let said = done("before the deletion", &at_point);
    assert!(said.contains(&marked), "{marked}: {said}");
    assert_eq!(rows(Path::new(&at_point), &reference), "11");
    let said = done(&marked, &at_lsn);
    assert!(said.contains(&marked), "{marked}: {said}");

    for (at, message) in [
        ("before the creation", "there is no restore point \"before the creation\""),
        ("2001-01-01T00:00:00Z", "nothing is known of that time"),
        ("2999-01-01T00:00:00Z", "2999-01-01T00:00:00.000000Z is still to come"),
        ("F/FFFFFFFF", "F/FFFFFFFF"),
    ] {
        let target = place("none");
        let refused = restore(at, &target).expect_err(at);
        assert!(refused.contains(message), "{at}: {refused}");
    }
    let both = instance.howdah(&["restore", "--at", &then, "--lsn", &marked, "--target", "x"]);
    assert!(both.expect_err("one of them").contains("cannot be used with"));
    for name in ["none", "x"] {
        assert!(!folder.path().join(name).join("PG_VERSION").exists(), "{name}");
    }
}

#[test]
fn a_lease_is_made_listed_prolonged_and_released() {
    let folder = Folder::new();
    let instance = Instance::in_directory(&folder, "");
    let lsn = instance.sql("SELECT pg_create_restore_point('before the change')");
    // The server flushes a restore point with the next commit, or a moment later by itself.
    instance.sql("CREATE TABLE change ()");
    let lease = |arguments: &[&str]| instance.howdah(&[&["lease"], arguments].concat());
    let named = ["create", "before the change", "--for", "2d", "--holder", "team", "--json"];
    let made = lease(&named).unwrap_or_else(|error| panic!("{error}\n{}", instance.log()));
    let made: serde_json::Value = serde_json::from_str(&made).expect("JSON");
    assert_eq!((&made["lsn"], &made["holder"]), (&lsn.as_str().into(), &"team".into()), "{made}");
    lease(&["create", &lsn, "--for", "1h"]).expect("another holder's");
    let prolonged = lease(&["create", &lsn, "--for", "1d"]).expect("it is prolonged");
    let listed = lease(&["list"]).expect("it answers");
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(listed.contains(prolonged.trim()) && listed.contains("for team"), "{listed}");
    lease(&["release", "before the change", "--holder", "team"]).expect("there is one");
    let left = lease(&["list", "--branch", "main", "--json"]).expect("it answers");
    let left: serde_json::Value = serde_json::from_str(&left).expect("JSON");
    assert_eq!(left["leases"].as_array().map(Vec::len), Some(1), "{left}");
    assert_eq!(left["leases"][0]["holder"], "operator", "{left}");
    for (arguments, message) in [
        (&["release", &lsn, "--holder", "team"][..], "has no such lease"),
        (&["create", "never made", "--for", "1d"], "there is no restore point \"never made\""),
        (&["create", &lsn, "--for", "900d"], "a year at most"),
        (&["create", &lsn, "--for", "7"], "has no unit"),
        (&["create", "F/FFFFFFFF", "--for", "1d"], "has not arrived yet"),
        (&["list", "--branch", "none"], "there is no branch \"none\""),
    ] {
        let refused = lease(arguments).expect_err(message);
        assert!(refused.contains(message), "{arguments:?}: {refused}");
    }
}
