//! Prepared statements in transaction mode: a client's name works on whatever server it gets.

use pg::oid::Oid;
use pooler::settings::Settings;

use super::session::Session;
use super::{Setting, run, settings};

/// Has the session run on a server that it has not used yet: others hold those it has.
async fn occupy(setting: &Setting) -> Session {
    let mut other = setting.session().await;
    assert_eq!(other.query("begin").await, "TZ");
    other
}

#[test]
fn a_named_statement_works_on_every_server() {
    run(settings(), async |setting: &Setting| {
        let mut session = setting.session().await;
        session.parse("s", "select $1::int + 1").describe("s").sync();
        assert_eq!(session.flush().await, "1tTZ");
        session.bind("s", &["41"]).execute().sync();
        assert_eq!(session.flush().await, "2(42)Z");
        let _first = occupy(setting).await;
        session.bind("s", &["1"]).execute().sync();
        assert_eq!(session.flush().await, "2(2)Z");
        session.describe("s").sync();
        assert_eq!(session.flush().await, "tTZ");
        assert_eq!(setting.servers().await, 2);
    });
}

#[test]
fn the_same_name_means_each_clients_own_statement() {
    let one = Settings { default_pool_size: 1, ..settings() };
    run(one, async |setting: &Setting| {
        let (mut one, mut other) = (setting.session().await, setting.session().await);
        one.parse("s", "select 'one'").sync();
        other.parse("s", "select 'other'").sync();
        assert_eq!((one.flush().await, other.flush().await), ("1Z".into(), "1Z".into()));
        for _round in 0..3 {
            one.bind("s", &[]).execute().sync();
            other.bind("s", &[]).execute().sync();
            assert_eq!(one.flush().await, "2(one)Z");
            assert_eq!(other.flush().await, "2(other)Z");
        }
    });
}

#[test]
fn an_unnamed_statement_is_never_anothers() {
    let one = Settings { default_pool_size: 1, ..settings() };
    run(one, async |setting: &Setting| {
        let (mut one, mut other) = (setting.session().await, setting.session().await);
        one.parse("", "select 'one'").sync();
        assert_eq!(one.flush().await, "1Z");
        other.parse("", "select 'other'").describe("").sync();
        assert_eq!(other.flush().await, "1tTZ");
        one.bind("", &[]).execute().sync();
        assert_eq!(one.flush().await, "2(one)Z");
        // A simple query drops it, as in Postgres; then there is none, whatever others prepare.
        assert_eq!(one.query("select 1").await, "T(1)Z");
        other.bind("", &[]).execute().sync();
        assert_eq!(other.flush().await, "2(other)Z");
        one.bind("", &[]).execute().sync();
        assert_eq!(one.flush().await, "E(26000)Z");
    });
}

#[test]
fn an_error_in_a_pipeline_skips_to_its_sync() {
    run(settings(), async |setting: &Setting| {
        let mut session = setting.session().await;
        session.parse("good", "select 1").parse("bad", "select no_such_column").bind("good", &[]);
        session.execute().parse("later", "select 2").sync();
        session.bind("good", &[]).execute().sync();
        assert_eq!(session.flush().await, "1E(42703)Z");
        assert_eq!(session.answer().await, "2(1)Z");
        for name in ["bad", "later"] {
            session.bind(name, &[]).execute().sync();
            assert_eq!(session.flush().await, "E(26000)Z", "{name} was not prepared");
        }
        // The names are free again.
        session.parse("later", "select 3").bind("later", &[]).execute().sync();
        assert_eq!(session.flush().await, "12(3)Z");
    });
}

#[test]
fn a_statement_that_stops_working_fails_where_it_is_used() {
    run(settings(), async |setting: &Setting| {
        let mut session = setting.session().await;
        session.query("create table going (i int)").await;
        session.parse("s", "select i from going").sync();
        assert_eq!(session.flush().await, "1Z");
        session.query("drop table going").await;
        let _first = occupy(setting).await;
        // On another server it has to be prepared anew, unseen; the error belongs to the Bind.
        session.bind("s", &[]).execute().sync();
        assert_eq!(session.flush().await, "E(42P01)Z");
        session.query("create table going (i int)").await;
        session.bind("s", &[]).execute().sync();
        assert_eq!(session.flush().await, "2Z");
    });
}

#[test]
fn names_can_be_closed_and_used_again_but_not_twice() {
    run(settings(), async |setting: &Setting| {
        let mut session = setting.session().await;
        session.parse("s", "select 1").sync();
        assert_eq!(session.flush().await, "1Z");
        session.parse("s", "select 2").sync();
        assert_eq!(session.flush().await, "E(42P05)Z");
        session.close("s").sync();
        assert_eq!(session.flush().await, "3Z");
        session.parse("s", "select 2").bind("s", &[]).execute().close("s").sync();
        assert_eq!(session.flush().await, "12(2)3Z");
        session.bind("s", &[]).sync();
        assert_eq!(session.flush().await, "E(26000)Z");
        session.query("begin").await;
        session.close("never there").close("s").sync();
        assert_eq!(session.flush().await, "33TZ");
    });
}

#[test]
fn more_statements_than_a_server_may_keep_are_prepared_again() {
    let few = Settings { max_prepared_statements: 3, default_pool_size: 1, ..settings() };
    run(few, async |setting: &Setting| {
        let mut session = setting.session().await;
        for number in 0..10 {
            session.parse(&format!("s{number}"), &format!("select {number}"));
        }
        session.sync();
        assert_eq!(session.flush().await, "1111111111Z");
        for round in 0..3 {
            for number in 0..10 {
                let number = (number * 7 + round) % 10;
                session.bind(&format!("s{number}"), &[]).execute();
                session.sync();
                assert_eq!(session.flush().await, format!("2({number})Z"));
            }
        }
        let kept = "select count(*) from pg_prepared_statements";
        assert_eq!(session.query(kept).await, "T(3)Z");
    });
}

#[test]
fn deallocate_all_is_understood() {
    let one = Settings { default_pool_size: 1, ..settings() };
    for command in ["discard all", "deallocate all", "DEALLOCATE PREPARE ALL"] {
        run(one.clone(), async |setting: &Setting| {
            let (mut one, mut other) = (setting.session().await, setting.session().await);
            one.parse("s", "select 1").sync();
            other.parse("s", "select 1").sync();
            assert_eq!((one.flush().await, other.flush().await), ("1Z".into(), "1Z".into()));
            assert_eq!(one.query(command).await, "Z");
            one.bind("s", &[]).sync();
            assert_eq!(one.flush().await, "E(26000)Z");
            one.parse("s", "select 2").bind("s", &[]).execute().sync();
            assert_eq!(one.flush().await, "12(2)Z");
            other.bind("s", &[]).execute().sync();
            assert_eq!(other.flush().await, "2(1)Z", "another's is not gone");
        });
    }
}

#[test]
fn parameter_types_are_part_of_a_statement() {
    run(settings(), async |setting: &Setting| {
        let mut session = setting.session().await;
        session.parse_typed("i", "select pg_typeof($1)", &[Oid(23)]);
        session.parse_typed("t", "select pg_typeof($1)", &[Oid(25)]).sync();
        assert_eq!(session.flush().await, "11Z");
        session.bind("i", &["1"]).execute().bind("t", &["1"]).execute().sync();
        assert_eq!(session.flush().await, "2(integer)2(text)Z");
    });
}

#[test]
fn a_known_statement_is_prepared_without_a_server() {
    let one = Settings { default_pool_size: 1, ..settings() };
    run(one, async |setting: &Setting| {
        let mut other = setting.session().await;
        other.parse("s", "select 7").sync();
        assert_eq!(other.flush().await, "1Z");
        assert_eq!(other.query("begin").await, "TZ");
        let mut session = setting.session().await;
        session.parse("mine", "select 7").sync();
        assert_eq!(session.flush().await, "1Z");
        session.bind("mine", &[]).execute().sync().send();
        other.query("commit").await;
        assert_eq!(session.answer().await, "2(7)Z");
    });
}

#[test]
fn messages_in_pieces_are_rewritten_all_the_same() {
    run(settings(), async |setting: &Setting| {
        let mut session = setting.session().await;
        let long = "l".repeat(100_000);
        session.parse("name", "select length($1), $2").bind("name", &[&long, "b"]).execute();
        session.describe("name").close("name").sync();
        session.send_in_pieces().await;
        assert_eq!(session.answer().await, "12(100000|b)tT3Z");
    });
}
