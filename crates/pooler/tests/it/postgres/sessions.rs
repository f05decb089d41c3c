//! What belongs to a session: parameters, session mode, limits, the end.

use std::time::Duration;

use pg::wire::startup;
use pooler::settings::{AuthType, PoolMode, Secret, Settings, User};
use runtime::app::{Applet, Stop};
use runtime::net::Stream;
use runtime::{clock, executor};

use super::session::Session;
use super::{Setting, run, settings};

#[test]
fn parameters_follow_a_client_from_server_to_server() {
    let one = Settings { default_pool_size: 1, ..settings() };
    run(one, async |setting: &Setting| {
        let mut one = setting
            .session_with(&[("application_name", "one"), ("TimeZone", "Europe/Lisbon")])
            .await;
        let mut other = setting.session_with(&[("application_name", "o'ther \\")]).await;
        assert_eq!(one.parameters["application_name"], "one");
        for _round in 0..2 {
            assert_eq!(one.query("show timezone").await, "T(Europe/Lisbon)Z");
            assert_eq!(one.query("show application_name").await, "T(one)Z");
            assert_eq!(other.query("show application_name").await, "T(o'ther \\)Z");
            assert_ne!(other.query("show timezone").await, "T(Europe/Lisbon)Z");
        }
        // SET is noticed because the server reports it.
        assert_eq!(one.query("set datestyle to german").await, "Z");
        assert_eq!(one.parameters["DateStyle"], "German, DMY");
        assert_eq!(other.query("select date '2026-11-21'").await, "T(2026-11-21)Z");
        assert_eq!(one.query("select date '2026-11-21'").await, "T(21.11.2026)Z");
    });
}

#[test]
fn a_date_style_without_an_order_has_the_servers_own_and_not_the_last_clients() {
    let one = Settings { default_pool_size: 1, ..settings() };
    run(one, async |setting: &Setting| {
        let mut one = setting.session_with(&[("DateStyle", "sql, dmy")]).await;
        let mut other = setting.session_with(&[("DateStyle", "ISO")]).await;
        assert_eq!(one.parameters["DateStyle"], "SQL, DMY");
        assert_eq!(other.parameters["DateStyle"], "ISO, MDY");
        for _round in 0..2 {
            assert_eq!(one.query("select date '02/01/2026'").await, "T(02/01/2026)Z");
            assert_eq!(one.query("show datestyle").await, "T(SQL, DMY)Z");
            assert_eq!(other.query("select date '02/01/2026'").await, "T(2026-02-01)Z");
        }
    });
}

#[test]
fn who_asks_for_what_the_server_has_is_told_its_spelling() {
    run(settings(), async |setting: &Setting| {
        let plain = setting.session().await;
        let zone = plain.parameters["TimeZone"].to_ascii_lowercase();
        let asked = [("client_encoding", "'utf-8'"), ("TimeZone", &zone), ("DateStyle", "iso")];
        let mut session = setting.session_with(&asked).await;
        for name in ["client_encoding", "TimeZone", "DateStyle"] {
            assert_eq!(session.parameters[name], plain.parameters[name]);
        }
        assert_eq!(session.query("show client_encoding").await, "T(UTF8)Z");
    });
}

#[test]
fn each_client_is_told_its_own_parameters_whoever_came_before() {
    run(settings(), async |setting: &Setting| {
        for name in ["one", "one", "two", "one"] {
            let mut session = setting.session_with(&[("application_name", name)]).await;
            assert_eq!(session.parameters["application_name"], name);
            assert_eq!(session.query("show application_name").await, format!("T({name})Z"));
            // What one client changes the next is not told.
            assert_eq!(session.query("set datestyle to german").await, "Z");
        }
        let other = setting.session().await;
        assert_eq!(other.parameters["application_name"], "");
        assert!(other.parameters["DateStyle"].starts_with("ISO"));
    });
}

#[test]
fn parameters_that_are_not_reported_follow_too_and_do_not_leak() {
    let one = Settings { default_pool_size: 1, ..settings() };
    run(one, async |setting: &Setting| {
        let options = "-c search_path=one,two --work-mem=5MB";
        let mut one =
            setting.session_with(&[("options", options), ("extra_float_digits", "3")]).await;
        let mut other = setting.session().await;
        for _round in 0..2 {
            assert_eq!(one.query("show search_path").await, "T(one,two)Z");
            assert_eq!(one.query("show work_mem").await, "T(5MB)Z");
            assert_eq!(other.query("show work_mem").await, "T(4MB)Z");
            assert_eq!(other.query("show search_path").await, "T(\"$user\", public)Z");
        }
    });
}

#[test]
fn a_client_that_discards_all_keeps_what_it_asked_for_at_its_start() {
    for pool_mode in [PoolMode::Transaction, PoolMode::Session] {
        let one = Settings { default_pool_size: 1, pool_mode, ..settings() };
        run(one, async |setting: &Setting| {
            let mut one = setting.session_with(&[("work_mem", "5MB"), ("geqo", "off")]).await;
            for _round in 0..2 {
                assert_eq!(one.query("set work_mem to '9MB'").await, "Z", "{pool_mode:?}");
                assert_eq!(one.query("discard all").await, "Z", "{pool_mode:?}");
                assert_eq!(one.query("show work_mem").await, "T(5MB)Z", "{pool_mode:?}");
                assert_eq!(one.query("show geqo").await, "T(off)Z", "{pool_mode:?}");
            }
            one.raw(b"X\0\0\0\x04").send();
            assert_eq!(one.answer().await, ".");
            let mut other = setting.session().await;
            assert_eq!(other.query("discard all").await, "Z", "{pool_mode:?}");
            assert_eq!(other.query("show work_mem").await, "T(4MB)Z", "{pool_mode:?}");
            assert_eq!(setting.servers().await, 1, "{pool_mode:?}");
        });
    }
}

#[test]
fn a_parameter_that_the_server_refuses_ends_its_client_before_any_query() {
    run(settings(), async |setting: &Setting| {
        let mut session = setting.session_with(&[("TimeZone", "Nowhere/Land")]).await;
        assert_eq!(session.query("create table never (i int)").await, "E(22023).");
        assert_eq!(setting.cluster.sql("select to_regclass('never') is null"), "t");
        assert_eq!(setting.session().await.query("select 1").await, "T(1)Z");
    });
}

#[test]
fn what_a_server_has_refused_is_not_taken_for_set() {
    let one = Settings { default_pool_size: 1, ..settings() };
    run(one, async |setting: &Setting| {
        // The second finds the server as the first has left it, and is told no less.
        for _time in 0..2 {
            let mut session = setting.session_with(&[("work_mem", "1kB")]).await;
            assert_eq!(session.query("select 'not as asked'").await, "E(22023).");
        }
        // Nor is somebody else harmed by a parameter that does not exist.
        let mut session = setting.session_with(&[("no_such_parameter", "1")]).await;
        assert_eq!(session.query("select 1").await, "E(42704).");
        assert_eq!(setting.session().await.query("select 2").await, "T(2)Z");
    });
}

#[test]
fn a_reset_query_resets_what_it_says_and_no_more_is_believed() {
    for query in ["RESET ALL", "SELECT 1", "DISCARD ALL"] {
        let settings = Settings {
            default_pool_size: 1,
            server_reset_query: query.to_owned(),
            server_reset_query_always: true,
            ..settings()
        };
        run(settings, async |setting: &Setting| {
            let mut one = setting.session_with(&[("work_mem", "3MB")]).await;
            let mut other = setting.session().await;
            for session in [&mut one, &mut other] {
                session.parse("s", "select 'prepared'").sync();
                assert_eq!(session.flush().await, "1Z", "{query}");
            }
            for _round in 0..2 {
                for (session, memory) in [(&mut one, "3MB"), (&mut other, "4MB")] {
                    session.bind("s", &[]).execute().sync();
                    assert_eq!(session.flush().await, "2(prepared)Z", "{query}");
                    let shown = session.query("show work_mem").await;
                    assert_eq!(shown, format!("T({memory})Z"), "{query}");
                }
            }
            assert_eq!(setting.servers().await, 1, "{query}");
        });
    }
}

#[test]
fn session_mode_keeps_the_server_and_resets_it_afterwards() {
    let session_mode =
        Settings { pool_mode: PoolMode::Session, default_pool_size: 1, ..settings() };
    run(session_mode, async |setting: &Setting| {
        let mut one = setting.session().await;
        assert_eq!(one.query("create temp table mine (i int)").await, "Z");
        one.parse("s", "select 'mine'").sync();
        assert_eq!(one.flush().await, "1Z");
        assert_eq!(one.query("set work_mem to '9MB'").await, "Z");
        let mut other = setting.session().await;
        other.add_query("show work_mem").send();
        setting.until("the other waits", async || setting.in_use().await == (1, 1)).await;
        one.bind("s", &[]).execute().sync();
        assert_eq!(one.flush().await, "2(mine)Z");
        one.raw(b"X\0\0\0\x04").send();
        assert_eq!(one.answer().await, ".");
        assert_eq!(other.answer().await, "T(4MB)Z");
        assert_eq!(other.query("select count(*) from mine").await, "E(42P01)Z");
        other.bind("s", &[]).sync();
        assert_eq!(other.flush().await, "E(26000)Z");
        assert_eq!(setting.servers().await, 1);
    });
}

#[test]
fn a_describe_that_comes_in_two_pieces_is_answered() {
    let untracked = Settings { max_prepared_statements: 0, ..settings() };
    let session_mode = Settings { pool_mode: PoolMode::Session, ..settings() };
    for settings in [untracked, session_mode] {
        run(settings, async |setting: &Setting| {
            let mut session = setting.session().await;
            session.parse("s", "select $1::int").raw(b"D\0\0\0\x07").send();
            setting.until("the first is read", async || setting.in_use().await == (1, 0)).await;
            session.raw(b"Ss\0").sync();
            assert_eq!(session.flush().await, "1tTZ");
        });
    }
}

#[test]
fn the_time_that_clients_let_pass_is_nobodys_query_or_transaction() {
    let both: [(PoolMode, &[&str]); 2] =
        [(PoolMode::Transaction, &["one", "two"]), (PoolMode::Session, &["one"])];
    for (pool_mode, names) in both {
        let one = Settings { default_pool_size: 1, pool_mode, ..settings() };
        run(one, async |setting: &Setting| {
            let mut sessions = Vec::new();
            for name in names {
                sessions.push(setting.session_with(&[("application_name", name)]).await);
            }
            let mut waited = 0;
            for _round in 0..2 {
                clock::sleep(Duration::from_millis(100)).await;
                for session in &mut sessions {
                    let began = clock::precise();
                    for _query in 0..3 {
                        session.add_query("select pg_sleep(0.05)");
                    }
                    assert_eq!(session.flush().await, "T()Z", "{pool_mode:?}");
                    assert_eq!(session.answer().await, "T()Z", "{pool_mode:?}");
                    assert_eq!(session.answer().await, "T()Z", "{pool_mode:?}");
                    waited += (clock::precise() - began).as_micros();
                }
            }
            let snapshots = setting.pooler.snapshots().await;
            let pools = snapshots.iter().flat_map(|snapshot| &snapshot.pools);
            for stats in pools.map(|pool| pool.stats).filter(|stats| stats.query_count > 0) {
                assert!(u128::from(stats.query_time) <= waited, "{pool_mode:?}: {stats:?}");
                assert!(u128::from(stats.xact_time) <= waited, "{pool_mode:?}: {stats:?}");
                assert!(stats.query_time > 150_000 && stats.xact_time > 150_000, "{stats:?}");
            }
        });
    }
}

#[test]
fn who_waits_or_idles_too_long_is_told_and_let_go() {
    let short = Duration::from_millis(100);
    let limits = Settings {
        default_pool_size: 1,
        query_wait_timeout: short,
        idle_transaction_timeout: 5 * short,
        ..settings()
    };
    run(limits, async |setting: &Setting| {
        let (mut one, mut other) = (setting.session().await, setting.session().await);
        one.query("begin").await;
        assert_eq!(other.query("select 1").await, "E(53300).");
        assert_eq!(one.answer().await, "E(25P03).");
        // A busy machine may take longer to open the next server than anybody here waits.
        let served = async || setting.session().await.query("select 1").await == "T(1)Z";
        setting.until("the place is free", served).await;
    });
}

#[test]
fn who_idles_in_a_transaction_after_a_long_query_is_let_go() {
    let limits = Settings { idle_transaction_timeout: Duration::from_millis(300), ..settings() };
    run(limits, async |setting: &Setting| {
        let mut session = setting.session().await;
        assert_eq!(session.query("begin; select pg_sleep(1)").await, "T()TZ");
        assert_eq!(session.answer().await, "E(25P03).");
    });
}

#[test]
fn draining_waits_for_transactions_and_for_nothing_else() {
    run(settings(), async |setting: &Setting| {
        let (mut idle, mut busy) = (setting.session().await, setting.session().await);
        busy.query("create table kept (i int)").await;
        busy.query("begin").await;
        let finishing = executor::spawn(async move {
            let idle = idle.answer().await;
            busy.query("insert into kept values (1)").await;
            let last = busy.query("commit").await;
            (idle, last, busy.answer().await)
        });
        setting.pooler.stop(Stop::Drain).await;
        let (idle, last, end) = finishing.await.expect("it ran");
        assert_eq!(idle, "E(57P01).");
        assert_eq!(last, "Z");
        assert_eq!(end, "E(57P01).");
        assert_eq!(setting.cluster.sql("select count(*) from kept"), "1");
    });
}

#[test]
fn who_gets_in_while_it_drains_is_let_go_too() {
    let ann = User { password: Some(Secret::new("apple")), ..User::default() };
    let by_password = Settings {
        auth_type: AuthType::Plain,
        users: [("postgres".to_owned(), ann)].into(),
        ..settings()
    };
    run(by_password, async |setting: &Setting| {
        // For the end to have something to wait for.
        let mut first = Session::connect(&setting.address).await;
        first.log_in("postgres", "apple", &[]).await;
        first.query("begin").await;
        let mut late = Session::connect(&setting.address).await;
        let names = [(&b"user"[..], &b"postgres"[..]), (b"database", b"postgres")];
        let mut packet = Vec::new();
        startup::write_startup(&mut packet, startup::ProtocolVersion::V3_0, names);
        late.raw(&packet).send();
        late.answer_up_to(b'R').await;
        let address = setting.address.clone();
        let finishing = executor::spawn(async move {
            while Stream::connect(&address).await.is_ok() {
                clock::sleep(Duration::from_millis(5)).await;
            }
            late.raw(b"p\0\0\0\x0aapple\0").send();
            let (welcome, end) = (late.answer().await, late.answer().await);
            (welcome, end, first.query("commit").await)
        });
        setting.pooler.stop(Stop::Drain).await;
        let (welcome, end, last) = finishing.await.expect("it ran");
        assert_eq!((&*welcome, &*end, &*last), ("RZ", "E(57P01).", "Z"));
    });
}

#[test]
fn a_server_that_is_shut_down_is_replaced() {
    run(settings(), async |setting: &Setting| {
        let mut session = setting.session().await;
        assert_eq!(session.query("select 1").await, "T(1)Z");
        let kill = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
                    where pid <> pg_backend_pid() and backend_type = 'client backend'";
        assert_eq!(setting.cluster.sql(kill), "1");
        setting.until("it is noticed", async || setting.servers().await == 0).await;
        assert_eq!(session.query("select 2").await, "T(2)Z");
        session.query("begin").await;
        assert_eq!(setting.cluster.sql(kill), "1");
        assert_eq!(session.answer().await, "E(57P01).", "it says why, and nobody says more");
    });
}

#[test]
fn a_session_can_be_quiet_and_long() {
    run(settings(), async |setting: &Setting| {
        let mut sessions: Vec<Session> = Vec::new();
        for _client in 0..200 {
            sessions.push(setting.session().await);
        }
        assert_eq!(setting.servers().await, 1, "nobody asked for more");
        for session in &mut sessions {
            assert_eq!(session.query("select 1").await, "T(1)Z");
        }
    });
}
