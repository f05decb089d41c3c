//! The rows of every SHOW, from the rules and the snapshots of all cores.
//!
//! Cores know only their own part of a pool: counts of the same database and user are added up here.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::CONSOLE_DATABASES;
use super::columns::{HELP_ROWS, TOTALS_ROWS};
use super::snapshot::{Connection, HostName, Pool, Replication, Snapshot, State, Target};
use super::statement::Show;
use super::table::{Row, Value};
use crate::rules::Rules;
use crate::settings::options::{Effect, OPTIONS};
use crate::settings::{Database, FALLBACK_DATABASE, Host, LoadBalanceHosts, PoolMode, Settings};
use crate::stats::Counters;

/// The name under which the console itself is listed, as tools expect it.
const CONSOLE_ROW: &str = "pgbouncer";

/// What a SHOW is made from.
pub(super) struct View<'a> {
    pub(super) rules: &'a Rules,
    pub(super) snapshots: &'a [Snapshot],
}

impl View<'_> {
    pub(super) fn rows(&self, show: Show) -> Vec<Row> {
        match show {
            Show::Clients => self.connections(|snapshot| &snapshot.clients, "C"),
            Show::Servers => self.connections(|snapshot| &snapshot.servers, "S"),
            Show::Sockets => {
                let mut rows = self.connections(|snapshot| &snapshot.clients, "C");
                rows.extend(self.connections(|snapshot| &snapshot.servers, "S"));
                rows
            }
            Show::Config => self.config(),
            Show::Databases => self.databases(),
            Show::DnsHosts => self.host_names(),
            Show::DnsZones | Show::PeerPools | Show::Peers => Vec::new(),
            Show::Help => HELP_ROWS
                .iter()
                .map(|&(command, description)| vec![Value::text(command), Value::text(description)])
                .collect(),
            Show::Lists => self.lists(),
            Show::Mem => self.memory(),
            Show::Pools => self.pools(),
            Show::State => self.state(),
            Show::Stats => self.stats(|total, average| {
                total.in_order().into_iter().chain(average.in_order()).collect()
            }),
            Show::StatsTotals => self.stats(|total, _average| total.in_order().to_vec()),
            Show::StatsAverages => self.stats(|_total, average| average.in_order().to_vec()),
            Show::Totals => self.totals(),
            Show::Users => self.users(),
            Show::Version => vec![vec![Value::text(super::version())]],
        }
    }

    fn connections(
        &self,
        of: impl Fn(&Snapshot) -> &Vec<Connection>,
        kind: &'static str,
    ) -> Vec<Row> {
        let mut all: Vec<&Connection> = self.snapshots.iter().flat_map(of).collect();
        all.sort_by_key(|connection| connection.id);
        all.into_iter().map(|connection| connection_row(connection, kind)).collect()
    }

    fn config(&self) -> Vec<Row> {
        let defaults = Settings::default();
        OPTIONS
            .iter()
            .filter_map(|option| match option.effect {
                Effect::Mapped { show, .. } => Some(vec![
                    Value::text(option.name),
                    Value::text(show(&self.rules.settings)),
                    Value::text(show(&defaults)),
                    Value::text(if option.changeable { "yes" } else { "no" }),
                ]),
                Effect::None { .. } => None,
            })
            .collect()
    }

    fn databases(&self) -> Vec<Row> {
        let settings = &self.rules.settings;
        let pools = self.pools_by_database();
        let named = settings.databases.keys().map(String::as_str);
        let automatic = pools.keys().copied();
        let names: BTreeSet<&str> = named.chain(automatic).collect();
        let mut rows: Vec<Row> = names
            .into_iter()
            .filter(|&name| name != FALLBACK_DATABASE && !is_console(name))
            .filter_map(|name| {
                let pools = pools.get(name).map_or(&[][..], Vec::as_slice);
                match pools.iter().find_map(|pool| pool.target.as_ref()) {
                    Some(target) => self.target(name, target, pools),
                    None => Some(self.database(name, settings.database(name)?, pools)),
                }
            })
            .collect();
        rows.push(self.console_database());
        rows
    }

    /// A branch or moment of a database: as the database, but where it is.
    fn target(&self, name: &str, target: &Target, pools: &[Pool]) -> Option<Row> {
        let mut entry = self.rules.settings.database(&target.base)?.clone();
        let (host, port) = target.server.clone().unzip();
        entry.host = host.iter().map(|host| Host::new(host)).collect();
        entry.port = port.unwrap_or_default();
        entry.dbname.get_or_insert_with(|| target.base.clone());
        Some(self.database(name, &entry, pools))
    }

    fn database(&self, name: &str, entry: &Database, pools: &[Pool]) -> Row {
        let settings = &self.rules.settings;
        let hosts: Vec<&str> = entry.host.iter().map(|host| host.as_str()).collect();
        let servers: u64 = pools.iter().map(Pool::servers).sum();
        let clients: u64 = pools.iter().map(|pool| pool.cl_active + pool.cl_waiting).sum();
        let limit = |own: Option<u32>, all: u32| own.filter(|&own| own > 0).unwrap_or(all);
        let states = || self.snapshots.iter().flat_map(|snapshot| &snapshot.databases);
        let of = |state: &&super::snapshot::DatabaseState| state.name == name;
        let paused = states().filter(of).any(|state| state.paused);
        let disabled = states().filter(of).any(|state| state.disabled);
        vec![
            Value::text(name.to_owned()),
            Value::optional((!hosts.is_empty()).then(|| hosts.join(","))),
            Value::count(entry.port),
            Value::text(entry.dbname.as_deref().unwrap_or(name).to_owned()),
            Value::optional(entry.user.clone()),
            Value::count(entry.pool_size.unwrap_or(settings.default_pool_size)),
            Value::count(entry.min_pool_size.unwrap_or(settings.min_pool_size)),
            Value::count(entry.reserve_pool_size.unwrap_or(settings.reserve_pool_size)),
            Value::count(entry.server_lifetime.unwrap_or(settings.server_lifetime).as_secs()),
            Value::optional(entry.pool_mode.map(PoolMode::name)),
            Value::optional(load_balance_hosts(entry)),
            Value::count(limit(entry.max_db_connections, settings.max_db_connections)),
            Value::count(servers),
            Value::count(limit(
                entry.max_db_client_connections,
                settings.max_db_client_connections,
            )),
            Value::count(clients),
            Value::count(u8::from(paused)),
            Value::count(u8::from(disabled)),
        ]
    }

    fn console_database(&self) -> Row {
        let settings = &self.rules.settings;
        vec![
            Value::text(CONSOLE_ROW),
            Value::Null,
            Value::count(settings.listen_port),
            Value::text(CONSOLE_ROW),
            Value::text(CONSOLE_ROW),
            Value::Int(2),
            Value::Int(0),
            Value::Int(0),
            Value::count(settings.server_lifetime.as_secs()),
            Value::text(PoolMode::Statement.name()),
            Value::Null,
            Value::Int(0),
            Value::Int(0),
            Value::Int(0),
            Value::count(self.console_clients()),
            Value::Int(0),
            Value::Int(0),
        ]
    }

    fn lists(&self) -> Vec<Row> {
        let clients: usize = self.snapshots.iter().map(|snapshot| snapshot.clients.len()).sum();
        let servers: usize = self.snapshots.iter().map(|snapshot| snapshot.servers.len()).sum();
        let login: u64 = self.snapshots.iter().map(|snapshot| snapshot.login_clients).sum();
        let lookups: u64 = self.snapshots.iter().map(|snapshot| snapshot.lookups).sum();
        let rows: [(&str, Value); 14] = [
            ("databases", Value::count(self.databases().len())),
            ("users", Value::count(self.rules.users().len())),
            ("peers", Value::Int(0)),
            ("pools", Value::count(self.pools().len())),
            ("peer_pools", Value::Int(0)),
            ("free_clients", Value::Int(0)),
            ("used_clients", Value::count(u64::try_from(clients).unwrap_or(u64::MAX) + login)),
            ("login_clients", Value::count(login)),
            ("free_servers", Value::Int(0)),
            ("used_servers", Value::count(servers)),
            ("dns_names", Value::count(self.names().len())),
            ("dns_zones", Value::Int(0)),
            ("dns_queries", Value::count(lookups)),
            ("dns_pending", Value::Int(0)),
        ];
        rows.into_iter().map(|(name, items)| vec![Value::text(name), items]).collect()
    }

    /// Host names that any core remembers, each as the core that will remember it longest does.
    fn names(&self) -> BTreeMap<&str, &HostName> {
        let mut names: BTreeMap<&str, &HostName> = BTreeMap::new();
        for name in self.snapshots.iter().flat_map(|snapshot| &snapshot.names) {
            let longest = names.entry(&name.name).or_insert(name);
            if name.ttl_seconds > longest.ttl_seconds {
                *longest = name;
            }
        }
        names
    }

    fn host_names(&self) -> Vec<Row> {
        let row = |name: &HostName| {
            vec![
                Value::text(name.name.clone()),
                Value::count(name.ttl_seconds),
                Value::text(name.addresses.join(",")),
            ]
        };
        self.names().into_values().map(row).collect()
    }

    fn memory(&self) -> Vec<Row> {
        let mut sums: BTreeMap<&'static str, (u64, u64, u64)> = BTreeMap::new();
        for memory in self.snapshots.iter().flat_map(|snapshot| &snapshot.memory) {
            let sum = sums.entry(memory.name).or_insert((memory.size, 0, 0));
            sum.1 += memory.used;
            sum.2 += memory.free;
        }
        sums.into_iter()
            .map(|(name, (size, used, free))| {
                let total = size.saturating_mul(used.saturating_add(free));
                let counts = [size, used, free, total].into_iter().map(Value::count);
                std::iter::once(Value::text(name)).chain(counts).collect()
            })
            .collect()
    }

    fn pools(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = self.merged_pools().into_values().map(|p| self.pool(&p)).collect();
        let mut console = Pool::new(CONSOLE_ROW, CONSOLE_ROW, PoolMode::Statement);
        console.cl_active = self.console_clients();
        rows.push(self.pool(&console));
        rows
    }

    fn pool(&self, pool: &Pool) -> Row {
        let entry = self.rules.settings.database(&pool.database);
        let counts = [
            pool.cl_active,
            pool.cl_waiting,
            pool.cl_active_cancel_req,
            pool.cl_waiting_cancel_req,
            pool.sv_active,
            pool.sv_active_cancel,
            pool.sv_being_canceled,
            pool.sv_idle,
            pool.sv_used,
            pool.sv_tested,
            pool.sv_login,
            pool.maxwait_micros / MICROS,
            pool.maxwait_micros % MICROS,
        ];
        let mut row = vec![Value::text(pool.database.clone()), Value::text(pool.user.clone())];
        row.extend(counts.into_iter().map(Value::count));
        row.push(Value::text(pool.mode.name()));
        row.push(Value::optional(entry.and_then(load_balance_hosts)));
        row
    }

    fn state(&self) -> Vec<Row> {
        let state = self.snapshots.iter().map(|snapshot| snapshot.state).max().unwrap_or_default();
        [("active", State::Active), ("paused", State::Paused), ("suspended", State::Suspended)]
            .into_iter()
            .map(|(key, this)| {
                vec![Value::text(key), Value::text(if state == this { "yes" } else { "no" })]
            })
            .collect()
    }

    /// One row for each database, with the console's (which counts nothing) at the end.
    fn stats(&self, numbers: impl Fn(&Counters, &Counters) -> Vec<u64>) -> Vec<Row> {
        let row = |name: Cow<'static, str>, total: &Counters, average: &Counters| {
            let numbers = numbers(total, average).into_iter().map(Value::count);
            std::iter::once(Value::Text(name)).chain(numbers).collect()
        };
        let mut rows: Vec<Row> = Vec::new();
        for (name, pools) in self.pools_by_database() {
            let (total, average) = self.sum(&pools);
            rows.push(row(Cow::Owned(name.to_owned()), &total, &average));
        }
        rows.push(row(Cow::Borrowed(CONSOLE_ROW), &Counters::default(), &Counters::default()));
        rows
    }

    fn totals(&self) -> Vec<Row> {
        let pools: Vec<Pool> = self.merged_pools().into_values().collect();
        let (total, average) = self.sum(&pools);
        let row = |name: &'static str, value: u64| vec![Value::text(name), Value::count(value)];
        let totals = TOTALS_ROWS.iter().zip(total.in_order()).map(|(names, v)| row(names.0, v));
        let averages = TOTALS_ROWS.iter().zip(average.in_order()).map(|(names, v)| row(names.1, v));
        totals.chain(averages).collect()
    }

    fn users(&self) -> Vec<Row> {
        let settings = &self.rules.settings;
        let pools = self.merged_pools();
        let names = self.rules.users();
        names
            .into_iter()
            .map(|name| {
                let user = settings.users.get(name);
                let size = |size: Option<u32>| {
                    Value::text(size.map(|size| size.to_string()).unwrap_or_default())
                };
                let limit = |own: Option<u32>, all: u32| own.filter(|&own| own > 0).unwrap_or(all);
                let servers: u64 =
                    pools.values().filter(|pool| pool.user == name).map(Pool::servers).sum();
                let clients = self
                    .snapshots
                    .iter()
                    .flat_map(|snapshot| &snapshot.clients)
                    .filter(|client| client.user == name)
                    .count();
                vec![
                    Value::text(name.to_owned()),
                    size(user.and_then(|user| user.pool_size)),
                    size(user.and_then(|user| user.reserve_pool_size)),
                    Value::optional(user.and_then(|user| user.pool_mode).map(PoolMode::name)),
                    Value::count(limit(
                        user.and_then(|user| user.max_user_connections),
                        settings.max_user_connections,
                    )),
                    Value::count(servers),
                    Value::count(limit(
                        user.and_then(|user| user.max_user_client_connections),
                        settings.max_user_client_connections,
                    )),
                    Value::count(clients),
                ]
            })
            .collect()
    }

    /// The pools of all cores, those of the same database and user as one.
    fn merged_pools(&self) -> BTreeMap<(&str, &str), Pool> {
        let mut merged: BTreeMap<(&str, &str), Pool> = BTreeMap::new();
        for pool in self.snapshots.iter().flat_map(|snapshot| &snapshot.pools) {
            merged
                .entry((&pool.database, &pool.user))
                .and_modify(|sum| add_pool(sum, pool))
                .or_insert_with(|| pool.clone());
        }
        merged
    }

    fn pools_by_database(&self) -> BTreeMap<&str, Vec<Pool>> {
        let mut found: BTreeMap<&str, Vec<Pool>> = BTreeMap::new();
        for ((database, _user), pool) in self.merged_pools() {
            found.entry(database).or_default().push(pool);
        }
        found
    }

    /// Totals and averages of several pools.
    fn sum(&self, pools: &[Pool]) -> (Counters, Counters) {
        let (mut total, mut before) = (Counters::default(), Counters::default());
        for pool in pools {
            total += pool.stats;
            before += pool.stats_before;
        }
        let covered = self.snapshots.iter().map(|snapshot| snapshot.averages_cover_micros).max();
        let covered = Duration::from_micros(covered.unwrap_or_default());
        (total, total.averages(&before, covered))
    }

    fn console_clients(&self) -> u64 {
        let clients = self.snapshots.iter().flat_map(|snapshot| &snapshot.clients);
        let console = clients.filter(|client| is_console(&client.database)).count();
        u64::try_from(console).unwrap_or(u64::MAX)
    }
}

const MICROS: u64 = 1_000_000;

fn is_console(database: &str) -> bool {
    CONSOLE_DATABASES.contains(&database)
}

/// Shown only where there is a choice.
fn load_balance_hosts(entry: &Database) -> Option<&'static str> {
    (entry.host.len() > 1).then(|| LoadBalanceHosts::name(entry.load_balance_hosts))
}

fn add_pool(sum: &mut Pool, pool: &Pool) {
    sum.cl_active += pool.cl_active;
    sum.cl_waiting += pool.cl_waiting;
    sum.cl_active_cancel_req += pool.cl_active_cancel_req;
    sum.cl_waiting_cancel_req += pool.cl_waiting_cancel_req;
    sum.sv_active += pool.sv_active;
    sum.sv_active_cancel += pool.sv_active_cancel;
    sum.sv_being_canceled += pool.sv_being_canceled;
    sum.sv_idle += pool.sv_idle;
    sum.sv_used += pool.sv_used;
    sum.sv_tested += pool.sv_tested;
    sum.sv_login += pool.sv_login;
    sum.maxwait_micros = sum.maxwait_micros.max(pool.maxwait_micros);
    sum.stats += pool.stats;
    sum.stats_before += pool.stats_before;
}

fn connection_row(connection: &Connection, kind: &'static str) -> Row {
    let replication = match connection.replication {
        Replication::None => "none",
        Replication::Logical => "logical",
        Replication::Physical => "physical",
    };
    let or = |text: &str, instead: &'static str| {
        if text.is_empty() { Value::text(instead) } else { Value::text(text.to_owned()) }
    };
    vec![
        Value::text(kind),
        or(&connection.user, "(nouser)"),
        or(&connection.database, "(nodb)"),
        Value::text(replication),
        Value::text(connection.state.name()),
        Value::text(connection.addr.clone()),
        Value::count(connection.port),
        Value::text(connection.local_addr.clone()),
        Value::count(connection.local_port),
        time(connection.connect_time_micros),
        time(connection.request_time_micros),
        Value::count(connection.wait_micros / MICROS),
        Value::count(connection.wait_micros % MICROS),
        Value::count(u8::from(connection.close_needed)),
        Value::text(format!("0x{:x}", connection.id)),
        Value::text(connection.link.map(|id| format!("0x{id:x}")).unwrap_or_default()),
        Value::count(connection.remote_pid),
        Value::text(connection.tls.clone()),
        Value::text(connection.application_name.clone()),
        Value::count(connection.prepared_statements),
        Value::count(connection.id),
    ]
}

/// `2026-11-21 03:30:58 UTC`; nothing for 0.
fn time(micros: i64) -> Value {
    const DAY_SECONDS: i64 = 86_400;
    if micros == 0 {
        return Value::Null;
    }
    let seconds = micros.div_euclid(1_000_000);
    let (year, month, day) = civil_from_days(seconds.div_euclid(DAY_SECONDS));
    let clock = seconds.rem_euclid(DAY_SECONDS);
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    Value::text(format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC"))
}

/// Days since 1970-01-01 to year, month, day of the Gregorian calendar. Counts in eras of 400 years
/// that begin on 1 March, so that the leap day is the last of its year.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests;
