//! Computes that are stopped, too many at once, deleted under their users, managed twice.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::{SetAtEnd, another, branch, computes, moment, psql, start_in, together, until};
use crate::instance::{Folder, HOWDAH, Instance, free_port};

fn send(signal: &str, pid: &str) {
    assert!(Command::new("kill").args([signal, pid]).status().expect("kill runs").success());
}

#[test]
#[cfg(target_os = "linux")]
fn a_compute_that_is_stopped_is_replaced() {
    let folder = Folder::new();
    let instance = start_in("auto", &folder, "");
    instance.sql("CREATE TABLE t (a int)");
    branch(&instance, "feature");
    let count = "SELECT count(*) FROM t";
    // The process that serves the mount, then the server on it.
    for (expected, of) in (1..).zip(["pid", "postgres_pid"]) {
        psql(&instance, "postgres@feature", "INSERT INTO t VALUES (1)").expect("it is written");
        let line = super::compute(&instance, "feature").expect("it runs");
        let before = line["pid"].as_u64().expect("a process");
        send("-STOP", &line[of].as_u64().expect("a process").to_string());
        // One that is asked waits, is told that its server is gone, and gets another.
        until("another answers", || {
            let found = psql(&instance, "postgres@feature", count).ok()?;
            assert_eq!(found, expected.to_string(), "{}", instance.log());
            let line = super::compute(&instance, "feature")?;
            (line["pid"].as_u64()? != before).then_some(())
        });
        let server = line["postgres_pid"].as_u64().expect("a process");
        until("the stopped one is gone", || {
            (!crate::compute::is_alive(Some(server))).then_some(())
        });
    }
    assert_eq!(instance.log().matches("a compute is stopped").count(), 2, "{}", instance.log());
}

/// How many clients of as many moments come at once.
const CROWD: usize = 100;
/// How many computes may run at a time.
const PLACES: usize = 4;

#[test]
fn a_hundred_computes_woken_together_get_their_places_in_turn_or_are_told() {
    let folder = Folder::new();
    let text = format!(
        "[compute]\nmode = \"auto\"\nstart_timeout = \"25s\"\nmax_running = {PLACES}\nstart_concurrency = 2\n"
    );
    let instance = Instance::start(&folder, &text);
    instance.sql("CREATE TABLE t (a int)");
    let mut lsns: Vec<String> = (0..CROWD)
        .map(|number| {
            instance.sql(&format!("INSERT INTO t VALUES ({number})"));
            instance.sql("SELECT pg_current_wal_flush_lsn()")
        })
        .collect();
    // So that the page server has all of it.
    moment(&instance);
    assert_eq!(lsns.iter().collect::<BTreeSet<_>>().len(), CROWD);
    let over = AtomicBool::new(false);
    let began = Instant::now();
    let answers = std::thread::scope(|scope| {
        let _end = SetAtEnd(&over);
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                let all = computes(&instance);
                // The one that serves `main` has a place of its own.
                let others = all.iter().filter(|line| line["name"] != "main");
                let busy = others.filter(|line| line["phase"] != "queued").count();
                assert!(busy <= PLACES, "{busy} run at once: {all:?}");
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        });
        together(CROWD, |number| {
            psql(&instance, &format!("postgres@{}", lsns[number]), "SELECT count(*) FROM t")
        })
    });
    let took = began.elapsed();
    let (mut served, mut refused) = (0, 0);
    for (number, answer) in answers.into_iter().enumerate() {
        match answer {
            Ok(count) => {
                assert_eq!(count, (number + 1).to_string());
                served += 1;
            }
            Err(said) => {
                let is_told = said.contains("too many computes are running")
                    && said.contains("compute.max_running")
                    || said.contains("did not start in time");
                assert!(is_told, "{said}");
                refused += 1;
            }
        }
    }
    println!("{served} served, {refused} told so, in {took:?}");
    assert!(served >= PLACES, "{served} of {CROWD}: {}", instance.log());
    let last = lsns.pop().expect("there are some");
    let again = psql(&instance, &format!("postgres@{last}"), "SELECT count(*) FROM t");
    assert_eq!(again, Ok(CROWD.to_string()), "afterwards there is room: {}", instance.log());
}

#[test]
fn a_branch_deleted_under_its_users_is_an_error_to_them_and_to_nobody_else() {
    let folder = Folder::new();
    let instance = start_in("auto", &folder, "");
    instance.sql("CREATE TABLE t (a int)");
    branch(&instance, "feature");
    branch(&instance, "other");
    psql(&instance, "postgres@other", "INSERT INTO t VALUES (1)").expect("it is written");
    let inside = std::thread::scope(|scope| {
        let user = scope.spawn(|| {
            psql(&instance, "postgres@feature", "SELECT pg_sleep(600) FROM pg_class LIMIT 1")
        });
        until("somebody uses it", || {
            let line = super::compute(&instance, "feature")?;
            (line["clients"].as_u64()? > 0).then_some(())
        });
        let refused = instance.howdah(&["branch", "delete", "feature"]).expect_err("it is in use");
        assert!(refused.contains("in use"), "{refused}");
        instance.howdah(&["branch", "delete", "feature", "--force"]).expect("it is deleted");
        user.join().expect("it does not panic")
    });
    let said = inside.expect_err("its server is gone");
    assert!(!said.is_empty());
    let gone = psql(&instance, "postgres@feature", "SELECT 1").expect_err("it is deleted");
    assert!(gone.contains("branch \"feature\" does not exist"), "{gone}");
    assert_eq!(psql(&instance, "postgres@other", "SELECT count(*) FROM t").as_deref(), Ok("1"));
    assert_eq!(instance.sql("SELECT count(*) FROM t"), "0");
}

#[test]
fn a_second_manager_does_not_end_the_computes_of_the_first() {
    let folder = Folder::new();
    let instance = start_in("auto", &folder, "");
    branch(&instance, "feature");
    psql(&instance, "postgres@feature", "CREATE TABLE t (a int)").expect("it is written");
    let before = another(&instance, "");
    let place = folder.path().join("data/computes");
    let config = folder.path().join("second.toml");
    let text = format!(
        "[api]\nlisten = \"127.0.0.1:0\"\n[pageserver]\nlisten = \"127.0.0.1:0\"\n[postgres]\nport = 0\n\
         [pooler]\nlisten_port = {}\n[compute]\ndirectory = \"{}\"\n",
        free_port(),
        place.display()
    );
    std::fs::write(&config, text).expect("the folder is ours");
    let second = Command::new(HOWDAH)
        .args(["up", "--cores", "1", "--dir"])
        .arg(folder.path().join("second"))
        .arg("--config")
        .arg(&config)
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && said.contains("another howdah runs computes"), "{said}");
    assert_eq!(another(&instance, ""), before, "it was left alone");
    let count = psql(&instance, "postgres@feature", "SELECT count(*) FROM t");
    assert_eq!(count.as_deref(), Ok("0"));
}
