//! Tests of SHOW: every row has the columns of its table, cores are added up, exporters find theirs.

use std::path::Path;

use super::super::columns::columns;
use super::super::snapshot::{ConnectionState, DatabaseState, Memory};
use super::super::statement::SHOWS;
use super::super::table::Kind;
use super::*;
use crate::settings::file::read_pooler;

fn rules(body: &str) -> Rules {
    let settings = read_pooler("f", &format!("[pooler]\n{body}")).expect("good settings");
    let files = |_path: &Path| Ok("\"ann\" \"apple\"".to_owned());
    Rules::load(3, settings, &files).expect("good rules")
}

fn pool(database: &str, user: &str, first: u64) -> Pool {
    Pool {
        cl_active: first,
        cl_waiting: 2,
        sv_active: 3,
        sv_idle: 4,
        maxwait_micros: first * 1_500_000,
        stats: Counters { xact_count: 100 * first, xact_time: 1000, ..Counters::default() },
        stats_before: Counters { xact_count: 40 * first, ..Counters::default() },
        ..Pool::new(database, user, PoolMode::Transaction)
    }
}

fn snapshots() -> Vec<Snapshot> {
    let client = |id: u64, database: &str| Connection {
        id,
        user: "ann".to_owned(),
        database: database.to_owned(),
        addr: "127.0.0.1".to_owned(),
        connect_time_micros: 1_795_231_858_000_000,
        wait_micros: 2_000_003,
        link: Some(255),
        ..Connection::default()
    };
    vec![
        Snapshot {
            core: 0,
            pools: vec![pool("shop", "ann", 1), pool("shop", "bob", 5), pool("auto", "ann", 7)],
            clients: vec![client(9, "shop"), client(2, "howdah")],
            servers: vec![Connection { state: ConnectionState::Idle, ..client(255, "shop") }],
            login_clients: 3,
            databases: vec![DatabaseState { name: "shop".into(), paused: true, disabled: false }],
            memory: vec![Memory { name: "chunk", size: 4096, used: 2, free: 3 }],
            averages_cover_micros: 10_000_000,
            ..Snapshot::default()
        },
        Snapshot {
            core: 1,
            state: State::Paused,
            pools: vec![pool("shop", "ann", 2)],
            clients: vec![client(3, "shop")],
            memory: vec![Memory { name: "chunk", size: 4096, used: 1, free: 0 }],
            ..Snapshot::default()
        },
    ]
}

const BODY: &str = "[pooler.databases.shop]\nhost = \"a,b\"\nmax_db_connections = 6\n\
    [pooler.databases.\"*\"]\nuser = \"bob\"\n[pooler.users.bob]\npool_size = 3";

fn show(show: Show) -> Vec<Row> {
    let rules = rules(BODY);
    let snapshots = snapshots();
    View { rules: &rules, snapshots: &snapshots }.rows(show)
}

/// The values of one column, as text.
fn column(of: Show, name: &str) -> Vec<String> {
    let index = columns(of).iter().position(|column| column.name == name).expect("a column");
    show(of)
        .into_iter()
        .map(|row| match &row[index] {
            Value::Null => "NULL".to_owned(),
            Value::Int(number) => number.to_string(),
            Value::Text(text) => text.to_string(),
        })
        .collect()
}

#[test]
fn every_row_fits_its_columns() {
    for (name, of) in SHOWS {
        for row in show(of) {
            assert_eq!(row.len(), columns(of).len(), "{name}");
            for (value, column) in row.iter().zip(columns(of)) {
                let fits = match value {
                    Value::Null => true,
                    Value::Int(_) => column.kind == Kind::Int,
                    Value::Text(_) => column.kind == Kind::Text,
                };
                assert!(fits, "{name}.{}: {value:?}", column.name);
            }
        }
    }
}

#[test]
fn pools_of_all_cores_are_one() {
    assert_eq!(column(Show::Pools, "database"), ["auto", "shop", "shop", "pgbouncer"]);
    assert_eq!(column(Show::Pools, "user"), ["ann", "ann", "bob", "pgbouncer"]);
    assert_eq!(column(Show::Pools, "cl_active"), ["7", "3", "5", "1"]);
    assert_eq!(column(Show::Pools, "sv_idle"), ["4", "8", "4", "0"]);
    assert_eq!(column(Show::Pools, "maxwait"), ["10", "3", "7", "0"]);
    assert_eq!(column(Show::Pools, "maxwait_us"), ["500000", "0", "500000", "0"]);
    assert_eq!(
        column(Show::Pools, "load_balance_hosts"),
        ["NULL", "round-robin", "round-robin", "NULL"]
    );
}

#[test]
fn databases_are_those_of_the_file_and_those_in_use() {
    assert_eq!(column(Show::Databases, "name"), ["auto", "shop", "pgbouncer"]);
    assert_eq!(column(Show::Databases, "host"), ["NULL", "a,b", "NULL"]);
    assert_eq!(column(Show::Databases, "force_user"), ["bob", "NULL", "pgbouncer"]);
    assert_eq!(column(Show::Databases, "current_connections"), ["7", "21", "0"]);
    assert_eq!(column(Show::Databases, "max_connections"), ["0", "6", "0"]);
    assert_eq!(column(Show::Databases, "current_client_connections"), ["9", "14", "1"]);
    assert_eq!(column(Show::Databases, "paused"), ["0", "1", "0"]);
}

#[test]
fn statistics_are_by_database_and_averages_by_time() {
    assert_eq!(column(Show::Stats, "database"), ["auto", "shop", "pgbouncer"]);
    assert_eq!(column(Show::Stats, "total_xact_count"), ["700", "800", "0"]);
    assert_eq!(column(Show::Stats, "avg_xact_count"), ["42", "48", "0"]);
    assert_eq!(column(Show::StatsTotals, "xact_count"), ["700", "800", "0"]);
    assert_eq!(column(Show::StatsAverages, "xact_count"), ["42", "48", "0"]);
    let totals: Vec<(String, String)> =
        column(Show::Totals, "name").into_iter().zip(column(Show::Totals, "value")).collect();
    assert_eq!(totals.len(), 24);
    assert!(totals.contains(&("total_xact_count".into(), "1500".into())), "{totals:?}");
    assert!(totals.contains(&("avg_xact_count".into(), "90".into())), "{totals:?}");
}

#[test]
fn connections_come_in_the_order_of_their_numbers() {
    assert_eq!(column(Show::Clients, "id"), ["2", "3", "9"]);
    assert_eq!(column(Show::Clients, "database"), ["howdah", "shop", "shop"]);
    assert_eq!(column(Show::Clients, "wait_us"), ["3", "3", "3"]);
    assert_eq!(column(Show::Clients, "link"), ["0xff", "0xff", "0xff"]);
    assert_eq!(column(Show::Servers, "ptr"), ["0xff"]);
    assert_eq!(column(Show::Servers, "state"), ["idle"]);
    assert_eq!(column(Show::Servers, "connect_time"), ["2026-11-21 03:30:58 UTC"]);
    assert_eq!(column(Show::Servers, "request_time"), ["NULL"]);
    assert_eq!(column(Show::Sockets, "type"), ["C", "C", "C", "S"]);
}

#[test]
fn lists_users_memory_and_state() {
    let lists: Vec<(String, String)> =
        column(Show::Lists, "list").into_iter().zip(column(Show::Lists, "items")).collect();
    for (list, items) in [
        ("databases", "3"),
        ("users", "1"),
        ("pools", "4"),
        ("used_clients", "6"),
        ("login_clients", "3"),
        ("used_servers", "1"),
    ] {
        assert!(lists.contains(&(list.into(), items.into())), "{list} of {lists:?}");
    }
    assert_eq!(column(Show::Users, "name"), ["bob"]);
    assert_eq!(column(Show::Users, "pool_size"), ["3"]);
    assert_eq!(column(Show::Users, "current_connections"), ["7"]);
    assert_eq!(column(Show::Mem, "memtotal"), [(4096 * 6).to_string()]);
    assert_eq!(column(Show::State, "value"), ["no", "yes", "no"], "one core is paused");
}

#[test]
fn the_configuration_shows_values_and_defaults_but_no_secret() {
    let keys = column(Show::Config, "key");
    assert!(keys.contains(&"max_client_conn".to_owned()), "the exporter reads it");
    let rules = rules("[pooler.databases.a]\nuser = \"u\"\npassword = \"hunter2\"");
    let view = View { rules: &rules, snapshots: &[] };
    for (_name, of) in SHOWS {
        assert!(!format!("{:?}", view.rows(of)).contains("hunter2"), "{of:?}");
    }
}

#[test]
fn exporters_find_their_columns() {
    // What prometheus-community/pgbouncer_exporter reads, by SHOW.
    for (of, names) in [
        (
            Show::Databases,
            "name host port database force_user pool_size pool_mode max_connections \
             current_connections paused disabled",
        ),
        (
            Show::StatsTotals,
            "database query_count query_time bytes_received bytes_sent wait_time xact_count \
             xact_time client_parse_count server_parse_count bind_count",
        ),
        (
            Show::Pools,
            "database user cl_active cl_active_cancel_req cl_waiting cl_waiting_cancel_req \
             sv_active sv_active_cancel sv_being_canceled sv_idle sv_used sv_tested sv_login \
             maxwait",
        ),
        (Show::Lists, "list items"),
        (Show::Config, "key value default changeable"),
    ] {
        for name in names.split_whitespace() {
            assert!(columns(of).iter().any(|column| column.name == name), "{of:?}.{name}");
        }
    }
}

#[test]
fn dates_are_right_around_leap_days() {
    for (days, expected) in [
        (0, (1970, 1, 1)),
        (-1, (1969, 12, 31)),
        (11_016, (2000, 2, 29)),
        (11_017, (2000, 3, 1)),
        (20_778, (2026, 11, 21)),
        (47_540, (2100, 2, 28)),
        (47_541, (2100, 3, 1)),
    ] {
        assert_eq!(civil_from_days(days), expected, "{days}");
    }
}
