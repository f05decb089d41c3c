//! Administrators' orders, carried out on one core, and what a core tells of itself.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pg::sqlstate::SqlState;
use pg::wire::error::Report;
use runtime::clock;
use runtime::mailbox::oneshot;
use runtime::net::Address;
use runtime::tls::{TlsStream, Transport};

use crate::client::{Client, ClientState, End};
use crate::command::{Answer, Command, Finish, Order};
use crate::console::Host;
use crate::console::snapshot::{
    Connection, ConnectionState, DatabaseState, Memory, Pool, Snapshot, State,
};
use crate::relay::reply::micros;
use crate::route::Route;
use crate::router::links::Message;
use crate::router::{Phase, Router};
use crate::server::{Server, ServerState};
use crate::target::Target;
use crate::tls::TlsConfigs;

/// The console's way to all cores.
pub(crate) fn host(router: &Rc<Router>) -> Host {
    let asking = Rc::clone(router);
    let rules = Rc::clone(router);
    let reloading = Rc::clone(router);
    let replacing = Rc::clone(router);
    let stopping = Rc::clone(router);
    Host {
        ask: Box::new(move |command| {
            let router = Rc::clone(&asking);
            Box::pin(async move { ask_all(&router, &command).await })
        }),
        rules: Box::new(move || rules.rules()),
        reload: Box::new(move || {
            let router = Rc::clone(&reloading);
            Box::pin(async move { crate::control::reload(&router, None).await })
        }),
        replace: Box::new(move |settings| {
            let router = Rc::clone(&replacing);
            Box::pin(async move { crate::control::reload(&router, Some(settings)).await })
        }),
        shutdown: Box::new(move |how| crate::control::shutdown(&stopping, how)),
    }
}

/// Sends an order to every core and waits for all answers, in the order of cores.
pub(crate) async fn ask_all(router: &Rc<Router>, command: &Command) -> Vec<Answer> {
    let mut answers = Vec::new();
    let mut pending = Vec::new();
    for core in 0..router.cores() {
        let (reply, answer) = oneshot();
        if core == router.core {
            let (router, command) = (Rc::clone(router), command.clone());
            runtime::executor::spawn_detached(async move {
                // Nobody waits for the answer any longer: then it does not matter.
                let _unwanted = reply.send(router.carry_out(command).await);
            });
        } else {
            router.post_surely(core, Message::Command(command.clone(), reply));
        }
        pending.push(answer);
    }
    for answer in pending {
        // A core that is gone has nothing to say.
        answers.push(answer.await.unwrap_or(Answer::Done));
    }
    answers
}

impl Router {
    /// Carries out an order on this core; waits until it is done.
    pub(crate) async fn carry_out(self: &Rc<Router>, command: Command) -> Answer {
        match command {
            Command::Order(order) => self.carry_out_order(order).await,
            Command::Finish(what) => self.finish(what).await,
            Command::Reload { rules } => {
                // Loaded once before by whoever sent the order, so it does not fail now.
                match TlsConfigs::load(&rules.settings, &self.options.provider) {
                    Ok(tls) => self.reload(rules, Arc::new(tls)),
                    Err(error) => tracing::error!(%error, "the settings are not changed"),
                }
                Answer::Done
            }
            Command::Snapshot => Answer::Snapshot(Box::new(self.snapshot())),
            Command::Targets => Answer::Targets(self.targets_in_use()),
            Command::TargetLost { target } => {
                self.target_lost(&target);
                Answer::Done
            }
            Command::ReleaseTarget { target } => match self.release_target(&target) {
                true => Answer::Done,
                false => Answer::Busy,
            },
        }
    }

    async fn carry_out_order(self: &Rc<Router>, order: Order) -> Answer {
        match order {
            Order::Pause { database } => return self.pause(database).await,
            Order::Resume { database } => self.resume(database.as_deref()),
            Order::Disable { database } => drop(self.disabled.borrow_mut().insert(database)),
            Order::Enable { database } => drop(self.disabled.borrow_mut().remove(&database)),
            Order::Reconnect { database } => {
                self.matching(database.as_deref()).iter().for_each(Route::reconnect);
                self.end_replications(|session| session.is_in(database.as_deref()));
            }
            Order::Kill { database } => {
                self.mark_paused(database.as_deref(), true);
                let clients = self.clients.all();
                for route in self.matching(database.as_deref()) {
                    route.kill(&clients);
                }
                self.end_replications(|session| session.is_in(database.as_deref()));
            }
            Order::KillClient { id } => return self.kill_client(id),
            Order::WaitClose { database } => {
                self.until(|router| {
                    router.matching(database.as_deref()).iter().all(|route| {
                        let generation = route.pool.generation.get();
                        route.pool.servers().iter().all(|server| server.generation == generation)
                    })
                })
                .await;
            }
            Order::Suspend => return self.suspend().await,
        }
        Answer::Done
    }

    /// The routes of a database, or all.
    fn matching(&self, database: Option<&str>) -> Vec<Rc<Route>> {
        let wanted = |route: &Rc<Route>| database.is_none_or(|name| *route.key.database == *name);
        self.routes().into_iter().filter(wanted).collect()
    }

    fn mark_paused(&self, database: Option<&str>, paused: bool) {
        match (database, paused) {
            (Some(name), true) => drop(self.paused.borrow_mut().insert(name.to_owned())),
            (Some(name), false) => drop(self.paused.borrow_mut().remove(name)),
            (None, _) => {
                self.all_paused.set(paused);
                self.paused.borrow_mut().clear();
            }
        }
    }

    async fn pause(self: &Rc<Router>, database: Option<String>) -> Answer {
        self.mark_paused(database.as_deref(), true);
        for route in self.matching(database.as_deref()) {
            route.pool.paused.set(true);
            route.close_idle("PAUSE");
        }
        self.until(|router| {
            let routes = router.matching(database.as_deref());
            routes.iter().for_each(|route| route.close_idle("PAUSE"));
            routes.iter().all(|route| route.pool.total() == 0) || !router.still_paused(&database)
        })
        .await;
        Answer::Done
    }

    fn still_paused(&self, database: &Option<String>) -> bool {
        match database {
            Some(name) => self.is_paused(name),
            None => self.all_paused.get(),
        }
    }

    fn resume(self: &Rc<Router>, database: Option<&str>) {
        self.mark_paused(database, false);
        if database.is_none() {
            self.end_suspension();
        }
        for route in self.matching(database) {
            route.resume();
        }
        self.wake_waiting_for_end();
    }

    /// But for administrators.
    pub(crate) fn has_no_clients(&self) -> bool {
        self.clients.len() == self.administrators.borrow().len()
    }

    /// Whether it stops when somebody has gone.
    pub(crate) fn is_finishing(&self) -> bool {
        matches!(self.phase.get(), Phase::Draining | Phase::Releasing)
    }

    /// Takes no new clients; waits until those, or the servers, that are to go first have gone.
    async fn finish(self: &Rc<Router>, what: Finish) -> Answer {
        self.end_suspension();
        self.listeners.borrow_mut().close_tcp();
        match what {
            Finish::Clients => {
                self.phase.set(Phase::Draining);
                self.until(|router| router.has_no_clients()).await;
            }
            Finish::Servers => {
                self.phase.set(Phase::Releasing);
                for route in self.routes() {
                    route.fail_waiters(&releasing());
                }
                self.pause(None).await;
                self.until(|router| router.replications.borrow().is_empty()).await;
            }
        }
        Answer::Done
    }

    fn kill_client(&self, id: u64) -> Answer {
        let Some(client) = self.clients.all().into_iter().find(|client| client.id == id) else {
            if let Some(administrator) = self.administrators.borrow().get(&id) {
                administrator.end();
                return Answer::Done;
            }
            let ended = self.end_replications(|session| session.id == id);
            return if ended > 0 { Answer::Done } else { Answer::Unknown };
        };
        client.end(End::Told(Report::fatal(
            SqlState::ADMIN_SHUTDOWN,
            "terminating connection due to administrator command",
        )));
        Answer::Done
    }

    /// What SHOW prints, as it is now.
    fn snapshot(&self) -> Snapshot {
        let clients = self.clients.all();
        let state = match self.phase.get() {
            Phase::Suspended => State::Suspended,
            _ if self.all_paused.get() => State::Paused,
            _ => State::Active,
        };
        let routes = self.routes();
        let mut snapshot = Snapshot {
            core: self.core,
            rules_version: self.rules().version,
            state,
            finishing: self.is_finishing(),
            pools: routes.iter().map(|route| pool(route, &clients)).collect(),
            clients: clients.iter().map(|client| client_line(client)).collect(),
            servers: routes
                .iter()
                .flat_map(|route| {
                    let servers = route.pool.servers();
                    servers.iter().map(|server| server_line(route, server)).collect::<Vec<_>>()
                })
                .collect(),
            login_clients: self.logins.get() as u64,
            databases: self.database_states(),
            memory: vec![Memory {
                name: "prepared_statement",
                size: 0,
                used: self.per_core.statements.len() as u64,
                free: 0,
            }],
            names: self.names.lines(clock::now()),
            lookups: self.names.lookups.get(),
            failures: self.per_core.failures.counts(),
            averages_cover_micros: micros(self.period.get().covered(now_micros())),
        };
        let administrators = self.administrators.borrow();
        snapshot.clients.extend(administrators.values().map(|one| one.line.clone()));
        self.add_replications(&mut snapshot);
        snapshot
    }

    fn add_replications(&self, snapshot: &mut Snapshot) {
        for session in self.replications.borrow().values() {
            let ours = |pool: &&mut Pool| {
                pool.database == session.database() && pool.user == session.user()
            };
            if let Some(pool) = snapshot.pools.iter_mut().find(ours) {
                pool.cl_active += 1;
                pool.sv_active += 1;
            }
            let (client, server) = session.lines.clone();
            snapshot.clients.push(client);
            snapshot.servers.push(server);
        }
    }

    /// Turns the averages' period, for as long as the core runs.
    pub(crate) async fn run_statistics(self: Rc<Router>) {
        loop {
            clock::sleep(self.rules().settings.stats_period.max(Duration::from_secs(1))).await;
            let mut period = self.period.get();
            period.turn(now_micros());
            self.period.set(period);
            self.routes().iter().for_each(|route| route.stats.turn());
        }
    }

    fn database_states(&self) -> Vec<DatabaseState> {
        let (paused, disabled) = (self.paused.borrow(), self.disabled.borrow());
        let rules = self.rules();
        let mut names: std::collections::BTreeSet<&String> = paused.union(&disabled).collect();
        if self.all_paused.get() {
            names.extend(rules.settings.databases.keys());
        }
        let state = |name: &String| DatabaseState {
            name: name.clone(),
            paused: self.is_paused(name),
            disabled: disabled.contains(name),
        };
        names.into_iter().map(state).collect()
    }
}

/// What clients are told who would have to wait for a server that SHUTDOWN waits for.
pub(crate) fn releasing() -> Report {
    Report::fatal(SqlState::ADMIN_SHUTDOWN, "server shutting down")
}

pub(crate) fn now_micros() -> u64 {
    clock::now().0 / 1000
}

fn pool(route: &Route, clients: &[Rc<Client>]) -> Pool {
    let mut pool = Pool::new(&*route.key.database, &*route.key.user, route.config().pool_mode);
    let waiting = route.pool.queue.len() as u64;
    let ours = clients.iter().filter(|client| std::ptr::eq(&*client.route, route)).count() as u64;
    pool.cl_active = ours.saturating_sub(waiting);
    pool.cl_waiting = waiting;
    for server in route.pool.servers() {
        *match server.state.get() {
            ServerState::Active => &mut pool.sv_active,
            ServerState::Idle => &mut pool.sv_idle,
            ServerState::Tested => &mut pool.sv_tested,
            ServerState::BeingCanceled => &mut pool.sv_being_canceled,
            ServerState::Closed => continue,
        } += 1;
    }
    pool.sv_login = u64::from(route.pool.opening.get());
    pool.maxwait_micros = route.waiting_since().map_or(0, |since| micros(clock::now() - since));
    pool.target = route.target.as_ref().map(Target::line);
    pool.stats = route.stats.counters();
    pool.stats_before = route.stats.counters_before();
    pool
}

fn client_line(client: &Client) -> Connection {
    let now = clock::now();
    let waits = client.state.get() == ClientState::Waiting;
    let mut line = Connection {
        id: client.id,
        user: client.user.to_string(),
        database: client.route.key.database.to_string(),
        state: match client.state.get() {
            ClientState::Idle => ConnectionState::Idle,
            ClientState::Waiting => ConnectionState::Waiting,
            ClientState::Active => ConnectionState::Active,
        },
        connect_time_micros: client.connected_wall_micros,
        request_time_micros: wall(client.requested.get()),
        wait_micros: if waits { micros(now - client.since.get()) } else { 0 },
        link: client.server.borrow().as_ref().map(|server| server.id),
        remote_pid: client.stream.stream().peer_credentials().map_or(0, |peer| peer.pid),
        application_name: client
            .parameters
            .borrow()
            .get("application_name")
            .map(|name| name.to_string())
            .unwrap_or_default(),
        prepared_statements: client
            .statements
            .borrow()
            .as_ref()
            .map_or(0, |statements| statements.len() as u64),
        ..Connection::default()
    };
    describe(&mut line, &client.stream);
    line
}

fn server_line(route: &Route, server: &Server) -> Connection {
    let mut line = Connection {
        id: server.id,
        user: route.key.user.to_string(),
        database: route.key.database.to_string(),
        state: match server.state.get() {
            ServerState::Active if server.cancels.get() > 0 => ConnectionState::ActiveCancel,
            ServerState::Active => ConnectionState::Active,
            ServerState::Idle | ServerState::Closed => ConnectionState::Idle,
            ServerState::Tested => ConnectionState::Tested,
            ServerState::BeingCanceled => ConnectionState::BeingCanceled,
        },
        connect_time_micros: server.connected_wall_micros,
        request_time_micros: wall(server.since.get()),
        close_needed: server.close_needed.get() || server.generation != route.pool.generation.get(),
        link: server.lent_to().map(|client| client.id),
        remote_pid: server.process_id,
        application_name: server
            .parameters
            .borrow()
            .get("application_name")
            .map(|name| name.to_string())
            .unwrap_or_default(),
        prepared_statements: server.statements.borrow().len() as u64,
        ..Connection::default()
    };
    describe(&mut line, &server.stream);
    line
}

/// Both addresses of a connection, and how it is encrypted.
pub(crate) fn describe(line: &mut Connection, stream: &Transport) {
    let encryption = |tls: &TlsStream| format!("{}/{}", tls.version(), tls.cipher());
    line.tls = stream.tls().map_or_else(String::new, encryption);
    let stream = stream.stream();
    addresses(line, stream.peer_address().ok(), stream.local_address().ok());
}

fn addresses(line: &mut Connection, peer: Option<Address>, local: Option<Address>) {
    let split = |address: Option<Address>| match address {
        Some(Address::Tcp(address)) => (address.ip().to_string(), address.port()),
        Some(Address::Unix(_)) => ("unix".to_owned(), 0),
        None => (String::new(), 0),
    };
    (line.addr, line.port) = split(peer);
    (line.local_addr, line.local_port) = split(local);
}

/// A moment by the wall clock, µs.
fn wall(at: clock::Instant) -> i64 {
    let ago = i64::try_from(micros(clock::now() - at)).unwrap_or(i64::MAX);
    clock::wall_micros() - ago
}
