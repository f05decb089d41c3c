//! New configurations that are broken, and good ones while work goes on.

use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pooler::settings::Settings;
use pooler::settings::file::read_pooler;

use crate::world::{load, run, run_with, settings};

#[test]
fn a_broken_configuration_on_reload_keeps_the_old() {
    let broken = |_version, _first: Settings, _changed: Option<Settings>| {
        Err(read_pooler("howdah.toml", "[pooler]\npool_mode = \"often\"")
            .expect_err("it is broken"))
    };
    run_with(settings(), broken, async |world| {
        let mut client = world.log_in("shop").await;
        client.query("before").await;
        assert_eq!(client.answers().await, ["row before", "SELECT 1", "ready I"]);
        for _time in 0..3 {
            assert_eq!(
                world.console("RELOAD").await,
                ["ERROR F0000 RELOAD failed, the old configuration stays", "ready I"]
            );
        }
        client.query("after").await;
        assert_eq!(client.answers().await, ["row after", "SELECT 1", "ready I"]);
    });
}

#[test]
fn of_two_changes_at_once_the_one_begun_last_counts() {
    let (begun, go_on) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (begins, waits) = (Arc::clone(&begun), Arc::clone(&go_on));
    let slow_if_5 = move |version, first, changed: Option<Settings>| {
        let settings = changed.unwrap_or(first);
        if settings.default_pool_size == 5 {
            begins.store(true, Ordering::SeqCst);
            while !waits.load(Ordering::SeqCst) {
                hint::spin_loop();
            }
        }
        load(version, settings)
    };
    run_with(settings(), slow_if_5, async |world| {
        let mut slow = world.log_in("howdah").await;
        slow.query("SET default_pool_size = 5").await;
        world.until("it has begun", async || begun.load(Ordering::SeqCst)).await;
        let set = world.console("SET default_pool_size = 7").await;
        go_on.store(true, Ordering::SeqCst);
        assert_eq!(set, ["SET default_pool_size=7", "ready I"]);
        assert_eq!(slow.answers().await, ["SET default_pool_size=5", "ready I"]);
        let config = world.console("SHOW CONFIG").await;
        assert!(config.contains(&"row default_pool_size|7|20|yes".to_owned()), "{config:?}");
    });
}

#[test]
fn a_setting_that_cannot_be_is_refused_and_changes_nothing() {
    run(settings(), async |world| {
        assert_eq!(
            world.console("SET default_pool_size = many").await,
            [
                "ERROR 22023 invalid value for parameter \"default_pool_size\": \
              \"many\" is not a whole number",
                "ready I"
            ]
        );
        assert_eq!(
            world.console("SET default_pool_size = 0").await,
            ["ERROR 22023 SET failed", "ready I"]
        );
        let config = world.console("SHOW CONFIG").await;
        assert!(config.contains(&"row default_pool_size|2|20|yes".to_owned()), "{config:?}");
    });
}

#[test]
fn a_reload_that_takes_a_database_away_leaves_clients_what_they_have_begun() {
    let without = |version, mut settings: Settings, _changed: Option<Settings>| {
        let entry = settings.databases.remove("*").expect("the fallback");
        settings.databases.insert("other".to_owned(), entry);
        load(version, settings)
    };
    run_with(settings(), without, async |world| {
        let (mut old, mut idle) = (world.log_in("shop").await, world.log_in("shop").await);
        idle.query("before").await;
        assert_eq!(idle.answers().await, ["row before", "SELECT 1", "ready I"]);
        old.query("begin").await;
        assert_eq!(old.answers().await, ["BEGIN", "ready T"]);
        assert_eq!(world.console("RELOAD").await, ["RELOAD", "ready I"]);
        let mut new = world.connect().await;
        new.start("ann", "shop").await;
        assert_eq!(new.answers().await, ["FATAL 3D000 database \"shop\" does not exist", "closed"]);
        old.query("go on").await;
        assert_eq!(old.answers().await, ["row go on", "SELECT 1", "ready I"]);
        world.until("its servers are closed", async || world.server.open.get() == 0).await;
        for mut client in [old, idle] {
            client.query("anew").await;
            let told = ["FATAL 57P01 database configuration changed", "closed"];
            assert_eq!(client.answers().await, told);
        }
    });
}
