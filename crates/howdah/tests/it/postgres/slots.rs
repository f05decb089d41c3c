//! Replication slots of a `main` that lives on a mount: they outlast a server that was shut down, and no other. Without
//! the right to mount there is nothing to test here.

use std::fs;
use std::time::Duration;

use super::primary::{kill, main_of, start, until};
use crate::instance::{Folder, Instance};

const CHANGES: &str = "SELECT data FROM pg_logical_slot_get_changes('feed', NULL, NULL) WHERE data LIKE 'table public.t:%'";

fn slots(instance: &Instance) -> String {
    instance
        .sql("SELECT slot_name FROM pg_replication_slots WHERE slot_name <> 'howdah' ORDER BY 1")
}

/// One with a logical slot that has seen nothing yet, and a physical one.
fn with_slots(folder: &Folder) -> Option<Instance> {
    let instance = start(folder, "")?;
    instance.sql("ALTER SYSTEM SET wal_level = 'logical'");
    instance.howdah(&["compute", "stop", "main"]).expect("it runs");
    assert_eq!(instance.sql("SHOW wal_level"), "logical", "what ALTER SYSTEM says is had");
    instance.sql("CREATE TABLE t (a int)");
    instance.sql("SELECT pg_create_logical_replication_slot('feed', 'test_decoding')");
    instance.sql("SELECT pg_create_physical_replication_slot('standby', true)");
    Some(instance)
}

fn row(number: u32) -> String {
    format!("table public.t: INSERT: a[integer]:{number}")
}

#[test]
fn slots_go_on_where_they_were_when_the_server_is_shut_down() {
    let folder = Folder::new();
    let Some(first) = with_slots(&folder) else { return };
    first.sql("INSERT INTO t VALUES (1)");
    // What they hold lies in segments that no server is started with.
    for _segment in 0..3 {
        first.sql("SELECT pg_switch_wal()");
        first.sql("CREATE TABLE filler AS SELECT 1 AS a");
        first.sql("DROP TABLE filler");
    }
    first.howdah(&["compute", "stop", "main"]).expect("it runs");
    first.sql("INSERT INTO t VALUES (2)");
    assert_eq!(slots(&first), "feed\nstandby");
    let (status, log) = first.stop("-TERM");
    assert!(status.success(), "{log}");
    let second = Instance::start(&folder, "");
    second.sql("INSERT INTO t VALUES (3)");
    assert_eq!(second.sql(CHANGES), [row(1), row(2), row(3)].join("\n"));
    second.howdah(&["compute", "stop", "main"]).expect("it runs");
    assert_eq!(second.sql(CHANGES), "", "each change comes once");
    let counted = "SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 't'";
    assert_eq!(second.sql(counted), "3", "statistics are kept, too");
}

#[test]
fn a_server_that_does_not_start_leaves_its_slots_to_the_next() {
    let folder = Folder::new();
    let Some(instance) = with_slots(&folder) else { return };
    instance.sql("INSERT INTO t VALUES (1)");
    let altered = folder.path().join("data/postgresql.auto.conf");
    let good = fs::read_to_string(&altered).expect("ALTER SYSTEM made it");
    fs::write(&altered, format!("{good}shared_preload_libraries = 'none'\n")).expect("root may");
    instance.howdah(&["compute", "stop", "main"]).expect("it runs");
    instance.wait_for_log("could not access file \"none\"");
    fs::write(&altered, &good).expect("root may");
    until("main runs again", &instance, || {
        main_of(&instance).filter(|main| main["phase"] == "running")
    });
    assert_eq!(slots(&instance), "feed\nstandby");
    assert_eq!(instance.sql(CHANGES), row(1));
}

#[test]
fn a_server_that_is_stopped_while_it_starts_leaves_its_slots_to_the_next() {
    let folder = Folder::new();
    let Some(mut instance) = with_slots(&folder) else { return };
    instance.sql("INSERT INTO t VALUES (1)");
    let kept = folder.path().join("data/carried/end");
    // Before the server is there, in its recovery, and when it is about to take connections, more or less.
    for pause in [0, 60, 120, 240] {
        instance.howdah(&["compute", "stop", "main"]).expect("it runs");
        until("the next one has taken them", &instance, || (!kept.exists()).then_some(()));
        std::thread::sleep(Duration::from_millis(pause));
        let (status, log) = instance.stop("-TERM");
        assert!(status.success(), "{log}");
        instance = Instance::start(&folder, "");
        let said = fs::read_to_string(folder.path().join("data/computes/main.log"));
        assert_eq!(slots(&instance), "feed\nstandby", "after {pause} ms: {said:?}");
    }
    assert_eq!(instance.sql(CHANGES), row(1));
}

#[test]
fn slots_that_may_be_wrong_are_dropped() {
    let folder = Folder::new();
    let Some(first) = with_slots(&folder) else { return };
    let (status, log) = first.stop("-TERM");
    assert!(status.success(), "{log}");
    // What was kept at an earlier shutdown than the last.
    let (kept, aside) = (folder.path().join("data/carried"), folder.path().join("aside"));
    fs::rename(&kept, &aside).expect("they are kept");
    let second = Instance::start(&folder, "");
    assert_eq!(slots(&second), "", "nobody knows of any");
    second.sql("INSERT INTO t VALUES (1)");
    let (status, log) = second.stop("-TERM");
    assert!(status.success(), "{log}");
    fs::remove_dir_all(&kept).expect("root may");
    fs::rename(&aside, &kept).expect("root may");
    let third = Instance::start(&folder, "");
    assert_eq!(slots(&third), "");
    let main = folder.path().join("data/computes/main.log");
    let said = fs::read_to_string(&main).expect("it has a log");
    assert!(said.contains("slots are dropped") && said.contains("feed, howdah, standby"), "{said}");
    // And those of a server that died.
    third.sql("SELECT pg_create_logical_replication_slot('feed', 'test_decoding')");
    let before = main_of(&third).expect("it runs")["postgres_pid"].clone();
    kill(before.as_u64().expect("a process"));
    until("another server is there", &third, || {
        main_of(&third).filter(|main| main["phase"] == "running" && main["postgres_pid"] != before)
    });
    assert_eq!(slots(&third), "");
}
