//! The columns of every SHOW, in PgBouncer's order (1.26, `usage.md`): exporters rely on them.

use super::statement::Show;
use super::table::{Column, int, text};

/// The columns of a SHOW.
pub(super) fn columns(show: Show) -> &'static [Column] {
    match show {
        Show::Clients | Show::Servers | Show::Sockets => &CONNECTIONS,
        Show::Config => &CONFIG,
        Show::Databases => &DATABASES,
        Show::DnsHosts => &DNS_HOSTS,
        Show::DnsZones => &DNS_ZONES,
        Show::Help => &HELP,
        Show::Lists => &LISTS,
        Show::Mem => &MEM,
        Show::PeerPools => &PEER_POOLS,
        Show::Peers => &PEERS,
        Show::Pools => &POOLS,
        Show::State => &STATE,
        Show::Stats => &STATS,
        Show::StatsAverages => &STATS_AVERAGES,
        Show::StatsTotals => &STATS_TOTALS,
        Show::Totals => &TOTALS,
        Show::Users => &USERS,
        Show::Version => &VERSION,
    }
}

static CONNECTIONS: [Column; 21] = [
    text("type"),
    text("user"),
    text("database"),
    text("replication"),
    text("state"),
    text("addr"),
    int("port"),
    text("local_addr"),
    int("local_port"),
    text("connect_time"),
    text("request_time"),
    int("wait"),
    int("wait_us"),
    int("close_needed"),
    text("ptr"),
    text("link"),
    int("remote_pid"),
    text("tls"),
    text("application_name"),
    int("prepared_statements"),
    int("id"),
];

static CONFIG: [Column; 4] = [text("key"), text("value"), text("default"), text("changeable")];

static DATABASES: [Column; 17] = [
    text("name"),
    text("host"),
    int("port"),
    text("database"),
    text("force_user"),
    int("pool_size"),
    int("min_pool_size"),
    int("reserve_pool_size"),
    int("server_lifetime"),
    text("pool_mode"),
    text("load_balance_hosts"),
    int("max_connections"),
    int("current_connections"),
    int("max_client_connections"),
    int("current_client_connections"),
    int("paused"),
    int("disabled"),
];

static DNS_HOSTS: [Column; 3] = [text("hostname"), int("ttl"), text("addrs")];
static DNS_ZONES: [Column; 3] = [text("zonename"), int("serial"), int("count")];
static HELP: [Column; 2] = [text("command"), text("description")];
static LISTS: [Column; 2] = [text("list"), int("items")];
static MEM: [Column; 5] = [text("name"), int("size"), int("used"), int("free"), int("memtotal")];
static PEERS: [Column; 4] = [int("peer_id"), text("host"), int("port"), int("pool_size")];
static PEER_POOLS: [Column; 5] = [
    int("peer_id"),
    int("cl_active_cancel_req"),
    int("cl_waiting_cancel_req"),
    int("sv_active_cancel"),
    int("sv_login"),
];

static POOLS: [Column; 17] = [
    text("database"),
    text("user"),
    int("cl_active"),
    int("cl_waiting"),
    int("cl_active_cancel_req"),
    int("cl_waiting_cancel_req"),
    int("sv_active"),
    int("sv_active_cancel"),
    int("sv_being_canceled"),
    int("sv_idle"),
    int("sv_used"),
    int("sv_tested"),
    int("sv_login"),
    int("maxwait"),
    int("maxwait_us"),
    text("pool_mode"),
    text("load_balance_hosts"),
];

static STATE: [Column; 2] = [text("key"), text("value")];

static STATS: [Column; 25] = [
    text("database"),
    int("total_server_assignment_count"),
    int("total_xact_count"),
    int("total_query_count"),
    int("total_received"),
    int("total_sent"),
    int("total_xact_time"),
    int("total_query_time"),
    int("total_wait_time"),
    int("total_client_parse_count"),
    int("total_server_parse_count"),
    int("total_bind_count"),
    int("total_client_login_count"),
    int("avg_server_assignment_count"),
    int("avg_xact_count"),
    int("avg_query_count"),
    int("avg_recv"),
    int("avg_sent"),
    int("avg_xact_time"),
    int("avg_query_time"),
    int("avg_wait_time"),
    int("avg_client_parse_count"),
    int("avg_server_parse_count"),
    int("avg_bind_count"),
    int("avg_client_login_count"),
];

static STATS_TOTALS: [Column; 13] = [
    text("database"),
    int("server_assignment_count"),
    int("xact_count"),
    int("query_count"),
    int("bytes_received"),
    int("bytes_sent"),
    int("xact_time"),
    int("query_time"),
    int("wait_time"),
    int("client_parse_count"),
    int("server_parse_count"),
    int("bind_count"),
    int("client_login_count"),
];

/// PgBouncer prefixes the last four here, and only here.
static STATS_AVERAGES: [Column; 13] = [
    text("database"),
    int("server_assignment_count"),
    int("xact_count"),
    int("query_count"),
    int("bytes_received"),
    int("bytes_sent"),
    int("xact_time"),
    int("query_time"),
    int("wait_time"),
    int("avg_client_parse_count"),
    int("avg_server_parse_count"),
    int("avg_bind_count"),
    int("avg_client_login_count"),
];

static TOTALS: [Column; 2] = [text("name"), int("value")];

/// The rows of TOTALS: twelve with `total_` before, then twelve with `avg_`.
pub(super) const TOTALS_ROWS: [(&str, &str); 12] = [
    ("total_server_assignment_count", "avg_server_assignment_count"),
    ("total_xact_count", "avg_xact_count"),
    ("total_query_count", "avg_query_count"),
    ("total_client_bytes", "avg_client_bytes"),
    ("total_server_bytes", "avg_server_bytes"),
    ("total_xact_time", "avg_xact_time"),
    ("total_query_time", "avg_query_time"),
    ("total_wait_time", "avg_wait_time"),
    ("total_ps_client_parse_count", "avg_ps_client_parse_count"),
    ("total_ps_server_parse_count", "avg_ps_server_parse_count"),
    ("total_ps_bind_count", "avg_ps_bind_count"),
    ("total_client_login_count", "avg_client_login_count"),
];

static USERS: [Column; 8] = [
    text("name"),
    text("pool_size"),
    text("reserve_pool_size"),
    text("pool_mode"),
    int("max_user_connections"),
    int("current_connections"),
    int("max_user_client_connections"),
    int("current_client_connections"),
];

static VERSION: [Column; 1] = [text("version")];

/// SHOW HELP.
pub(super) const HELP_ROWS: [(&str, &str); 20] = [
    (
        "SHOW HELP|VERSION|CONFIG|STATE",
        "this list, the version, the settings, whether all is paused",
    ),
    ("SHOW DATABASES|USERS|LISTS|MEM", "what is configured and how much of it is in use"),
    ("SHOW POOLS", "clients and servers by database and user"),
    ("SHOW CLIENTS|SERVERS|SOCKETS", "one row for each connection"),
    ("SHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS", "what has been done, by database or in all"),
    ("SHOW DNS_HOSTS", "host names of servers that are remembered"),
    ("SHOW PEERS|PEER_POOLS|DNS_ZONES", "always empty, for existing tools"),
    ("SET key = value", "change a setting until the next RELOAD"),
    ("RELOAD", "read the configuration again; a broken one changes nothing"),
    ("PAUSE [db]", "wait until servers are free, close them, let clients wait"),
    ("RESUME [db]", "end PAUSE, KILL and SUSPEND"),
    ("DISABLE db", "refuse new clients"),
    ("ENABLE db", "end DISABLE"),
    ("RECONNECT [db]", "replace every server connection when it is free"),
    ("WAIT_CLOSE [db]", "wait until RECONNECT or RELOAD have replaced them"),
    ("KILL [db]", "drop clients and servers at once, then as after PAUSE"),
    ("KILL_CLIENT id", "drop one client, by its id in SHOW CLIENTS"),
    ("SUSPEND", "stop reading from clients and servers, between messages"),
    ("SHUTDOWN", "stop at once"),
    (
        "SHUTDOWN WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS",
        "take no new clients, stop when all servers are free, or all clients gone",
    ),
];
