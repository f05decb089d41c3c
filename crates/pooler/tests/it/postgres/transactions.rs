//! Transaction mode: servers change hands between transactions, clients notice nothing.

use pg::wire::startup;
use pooler::settings::{PoolMode, Settings};
use runtime::executor;
use runtime::net::Stream;

use super::session::Session;
use super::{Setting, run, settings};

#[test]
fn more_clients_than_servers_all_get_their_own_answers() {
    run(settings(), async |setting: &Setting| {
        let mut tasks = Vec::new();
        for client in 0..20 {
            let mut session = setting.session().await;
            tasks.push(executor::spawn(async move {
                for number in 0..25 {
                    let sql = format!("select {client}, {number}, pg_sleep(0.001)");
                    assert_eq!(session.query(&sql).await, format!("T({client}|{number}|)Z"));
                }
            }));
        }
        for task in tasks {
            task.await.expect("no client fails");
        }
        assert_eq!(setting.servers().await, 2);
        assert_eq!(setting.in_use().await, (0, 0));
    });
}

#[test]
fn a_transaction_keeps_its_server_and_others_wait_for_it() {
    let one = Settings { default_pool_size: 1, ..settings() };
    run(one, async |setting: &Setting| {
        let (mut one, mut other) = (setting.session().await, setting.session().await);
        assert_eq!(one.query("begin").await, "TZ");
        one.query("create temp table t (i int) on commit drop").await;
        other.add_query("select 'other'").send();
        setting.until("the other waits", async || setting.in_use().await == (1, 1)).await;
        assert_eq!(one.query("insert into t values (1)").await, "TZ");
        assert_eq!(one.query("commit").await, "Z");
        assert_eq!(other.answer().await, "T(other)Z");
    });
}

#[test]
fn what_no_sync_has_ended_is_not_shared_with_another_client() {
    const FLUSH: &[u8] = b"H\0\0\0\x04";
    let one = Settings { default_pool_size: 1, ..settings() };
    run(one, async |setting: &Setting| {
        let (mut one, mut other) = (setting.session().await, setting.session().await);
        one.query("create table t (i int)").await;
        one.parse("", "insert into t values (1)").bind("", &[]).execute().raw(FLUSH).send();
        assert_eq!(one.answer_up_to(b'C').await, "12");
        // It would end the transaction of the first, and undo what that has been told is done.
        other.add_query("select 1/0").send();
        setting.until("the other waits", async || setting.in_use().await == (1, 1)).await;
        assert_eq!(one.sync().flush().await, "Z");
        assert_eq!(other.answer().await, "E(22012)Z");
        assert_eq!(other.query("select count(*) from t").await, "T(1)Z");
        // After an error the server skips everything up to the Sync, a query of another client too.
        one.parse("", "nonsense").raw(FLUSH).send();
        assert_eq!(one.answer_up_to(b'E').await, "E(42601)");
        other.add_query("select 'other'").send();
        setting.until("the other waits", async || setting.in_use().await == (1, 1)).await;
        assert_eq!(one.sync().flush().await, "Z");
        assert_eq!(other.answer().await, "T(other)Z");
    });
}

#[test]
fn errors_are_the_clients_own_and_leave_the_server_usable() {
    run(settings(), async |setting: &Setting| {
        let mut session = setting.session().await;
        assert_eq!(session.query("select 1/0").await, "E(22012)Z");
        assert_eq!(session.query("begin; select 1/0").await, "E(22012)EZ");
        assert_eq!(session.query("select 1").await, "E(25P02)EZ");
        assert_eq!(session.query("rollback").await, "Z");
        assert_eq!(session.query("select 1; select 2").await, "T(1)T(2)Z");
        assert_eq!(session.query("").await, "IZ");
        assert_eq!(setting.servers().await, 1);
    });
}

#[test]
fn pipelined_queries_are_answered_in_order() {
    run(settings(), async |setting: &Setting| {
        let mut session = setting.session().await;
        for number in 0..50 {
            session.add_query(&format!("select {number}"));
        }
        session.send();
        for number in 0..50 {
            assert_eq!(session.answer().await, format!("T({number})Z"));
        }
    });
}

#[test]
fn large_requests_and_replies_pass_in_pieces() {
    run(settings(), async |setting: &Setting| {
        let mut session = setting.session().await;
        let text = "x".repeat(3_000_000);
        let answer = session.query(&format!("select length('{text}')")).await;
        assert_eq!(answer, "T(3000000)Z");
        let answer = session.query("select repeat('y', 5000000)").await;
        assert_eq!(answer.len(), "T()Z".len() + 5_000_000);
        let answer = session.query("select i from generate_series(1, 30000) i").await;
        assert!(answer.starts_with("T(1)(2)") && answer.ends_with("(30000)Z"));
    });
}

#[test]
fn copy_goes_both_ways() {
    run(settings(), async |setting: &Setting| {
        let mut session = setting.session().await;
        session.query("create table c (i int)").await;
        session.add_query("copy c from stdin").send();
        session.raw(b"d\0\0\0\x061\n").raw(b"d\0\0\0\x062\n").raw(b"c\0\0\0\x04");
        assert_eq!(session.flush().await, "GZ");
        assert_eq!(session.query("copy c to stdout").await, "HddcZ");
        // Data behind a COPY that has failed belongs to nothing.
        session.add_query("copy c from stdin").raw(b"d\0\0\0\x06x\n");
        assert_eq!(session.flush().await, "GE(22P02)Z");
        session.raw(b"d\0\0\0\x063\n").raw(b"c\0\0\0\x04");
        assert_eq!(session.query("select count(*) from c").await, "T(2)Z");
        // By the extended protocol, with a Sync that the COPY swallows.
        session.parse("", "copy c from stdin").bind("", &[]).execute().sync().send();
        session.raw(b"d\0\0\0\x063\n").raw(b"c\0\0\0\x04").sync();
        assert_eq!(session.flush().await, "12GZ");
        assert_eq!(session.query("select count(*) from c").await, "T(3)Z");
        assert_eq!(setting.in_use().await, (0, 0));
    });
}

#[test]
fn data_behind_a_copy_that_has_failed_holds_no_server() {
    let one = Settings { default_pool_size: 1, ..settings() };
    run(one, async |setting: &Setting| {
        let (mut one, mut other) = (setting.session().await, setting.session().await);
        one.query("create table c (i int)").await;
        one.add_query("copy c from stdin").raw(b"d\0\0\0\x06x\nd\0\0\0\x06");
        assert_eq!(one.flush().await, "GE(22P02)Z");
        one.raw(b"1\nc\0\0\0\x04").send();
        assert_eq!(other.query("select 'other'").await, "T(other)Z");
        assert_eq!(one.query("select 'one'").await, "T(one)Z");
    });
}

/// A cancel that reaches the server before the query is for nothing.
const SLEEPING: &str = "select count(*) from pg_stat_activity \
                        where query = 'select pg_sleep(60)' and state = 'active'";

#[test]
fn a_cancel_request_reaches_the_query_it_is_for() {
    run(settings(), async |setting: &Setting| {
        let (mut slow, mut other) = (setting.session().await, setting.session().await);
        slow.add_query("select pg_sleep(60)").send();
        other.add_query("select pg_sleep(0.3), 'other'").send();
        setting.until("both have servers", async || setting.in_use().await.0 == 2).await;
        setting.until("it runs", async || setting.cluster.sql(SLEEPING) == "1").await;
        let canceler = Stream::connect(&setting.address).await.expect("the pooler accepts");
        let mut out = Vec::new();
        startup::write_cancel_request(&mut out, slow.cancel.0, &slow.cancel.1);
        canceler.queue(&out);
        assert!(canceler.recv().await.expect("a clean close").is_empty());
        assert_eq!(slow.answer().await, "TE(57014)Z");
        assert_eq!(other.answer().await, "T(|other)Z");
        // A request for a client that runs nothing hits nobody.
        let canceler = Stream::connect(&setting.address).await.expect("the pooler accepts");
        canceler.queue(&out);
        assert_eq!(other.query("select pg_sleep(0.2), 'safe'").await, "T(|safe)Z");
    });
}

#[test]
fn long_cancel_keys_are_for_clients_that_know_them() {
    run(settings(), async |setting: &Setting| {
        for (version, bytes) in
            [(startup::ProtocolVersion::V3_0, 4), (startup::ProtocolVersion::V3_2, 16)]
        {
            let mut session = Session::connect(&setting.address).await;
            session.log_in_with(version, "postgres", "", &[]).await;
            assert_eq!(session.cancel.1.len(), bytes);
            session.add_query("select pg_sleep(60)").send();
            setting.until("it runs", async || setting.cluster.sql(SLEEPING) == "1").await;
            for short in [true, false] {
                let key = &session.cancel.1;
                let key = if short { &key[..bytes - 1] } else { key };
                let canceler = Stream::connect(&setting.address).await.expect("it accepts");
                let mut out = Vec::new();
                startup::write_cancel_request(&mut out, session.cancel.0, key);
                canceler.queue(&out);
                assert!(canceler.recv().await.expect("a clean close").is_empty());
            }
            assert_eq!(session.answer().await, "TE(57014)Z");
        }
    });
}

#[test]
fn who_vanishes_in_the_middle_of_a_query_has_it_canceled() {
    run(settings(), async |setting: &Setting| {
        let mut session = setting.session().await;
        session.query("create table gone (i int)").await;
        session.query("begin").await;
        session.query("insert into gone values (1)").await;
        session.add_query("select pg_sleep(600) -- vanishing").send();
        let running = "select count(*) from pg_stat_activity where query like '%-- vanish%' \
                       and query not like '%activity%'";
        setting.until("it runs", async || setting.cluster.sql(running) == "1").await;
        drop(session);
        setting.until("it is canceled", async || setting.cluster.sql(running) == "0").await;
        let mut other = setting.session().await;
        assert_eq!(other.query("select count(*) from gone").await, "T(0)Z");
    });
}

#[test]
fn statement_mode_refuses_transactions() {
    let statement = Settings { pool_mode: PoolMode::Statement, ..settings() };
    run(statement, async |setting: &Setting| {
        let mut session = setting.session().await;
        assert_eq!(session.query("select 1").await, "T(1)Z");
        let answer = session.query("begin").await + &session.answer().await;
        assert!(answer.contains("E(08P01)") && answer.ends_with('.'), "{answer}");
        assert_eq!(setting.session().await.query("select 1").await, "T(1)Z");
    });
}
