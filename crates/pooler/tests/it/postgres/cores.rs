//! Several cores in one process: one pool, exact limits, nobody starves.

use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pooler::rules::Rules;
use pooler::settings::{Database, Host, Settings, User};
use pooler::{Load, PoolerOptions};
use runtime::app::{App, Applet, Error, LocalFuture, Node, Stop};
use runtime::net::Address;
use runtime::nodepool::{Control, Cores, Nodepool, NodepoolOptions};
use runtime::{clock, executor};

use super::cluster::Cluster;
use super::session::Session;
use super::settings;

/// What the clients of a test do.
type Work = fn(Address) -> Pin<Box<dyn Future<Output = ()>>>;

/// Clients of one test, on core 0; when they are done the process stops.
struct Clients {
    address: Address,
    work: Work,
    /// The work itself sees to it that the process stops.
    stops_itself: bool,
}

const CLIENTS: usize = 12;

impl Applet for Clients {
    fn name(&self) -> &'static str {
        "clients"
    }

    fn start<'a>(&'a self, node: &'a Node) -> LocalFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            if node.index == 0 {
                let work = (self.work)(self.address.clone());
                let (control, stops_itself) = (node.control.clone(), self.stops_itself);
                executor::spawn_detached(async move {
                    work.await;
                    if !stops_itself {
                        control.stop(Stop::Drain);
                    }
                });
            }
            Ok(())
        })
    }

    fn stop<'a>(&'a self, _how: Stop) -> LocalFuture<'a, ()> {
        Box::pin(async {})
    }
}

/// More clients than servers on both cores; some hold theirs for long. Each must be served.
async fn work(address: &Address, servers: usize) {
    let mut tasks = Vec::new();
    let busy = Rc::new(std::cell::Cell::new(0_usize));
    for client in 0..CLIENTS {
        let mut session = Session::connect(address).await;
        assert!(session.log_in("postgres", "", &[]).await.ends_with('Z'));
        session.parse("s", "select $1::int").sync();
        assert_eq!(session.flush().await, "1Z");
        let busy = Rc::clone(&busy);
        tasks.push(executor::spawn(async move {
            for number in 0..40_usize {
                assert_eq!(session.query("begin").await, "TZ");
                busy.set(busy.get() + 1);
                assert!(busy.get() <= servers, "more transactions than servers");
                let value = (client * 100 + number).to_string();
                session.bind("s", &[&value]).execute().sync();
                assert_eq!(session.flush().await, format!("2({value})TZ"));
                busy.set(busy.get() - 1);
                assert_eq!(session.query("commit").await, "Z");
            }
        }));
    }
    for task in tasks {
        task.await.expect("no client fails");
    }
}

#[test]
fn two_cores_share_a_pool_of_two() {
    let settings = Settings { default_pool_size: 2, ..settings() };
    check(settings, |address| Box::pin(async move { work(&address, 2).await }));
}

#[test]
fn a_single_server_goes_from_core_to_core() {
    let settings = Settings { default_pool_size: 1, ..settings() };
    check(settings, |address| Box::pin(async move { work(&address, 1).await }));
}

#[test]
fn statements_are_prepared_anew_where_a_server_has_moved_to() {
    let settings = Settings { default_pool_size: 1, ..settings() };
    check(settings, |address| {
        Box::pin(async move {
            let mut tasks = Vec::new();
            for client in 0..4 {
                let mut session = session(&address).await;
                session.parse("s", "select $1::int").sync();
                assert_eq!(session.flush().await, "1Z");
                tasks.push(executor::spawn(async move {
                    for number in 0..20 {
                        let value = (client * 100 + number).to_string();
                        // All of it waits for the server, and is sent on as soon as that arrives.
                        session.add_query("begin").bind("s", &[&value]).execute().sync().send();
                        assert_eq!(session.answer().await, "TZ");
                        assert_eq!(session.answer().await, format!("2({value})TZ"));
                        session.bind("s", &[&value]).execute().sync();
                        assert_eq!(session.flush().await, format!("2({value})TZ"));
                        assert_eq!(session.query("commit").await, "Z");
                    }
                }));
            }
            for task in tasks {
                task.await.expect("no client fails");
            }
        })
    });
}

/// As many clients as get in; the unix socket deals them out to the cores in turn.
async fn crowd(address: &Address, user: &str, database: &str) -> Vec<Session> {
    let mut inside = Vec::new();
    for _client in 0..CLIENTS {
        let mut session = Session::connect(address).await;
        let answer = session.log_in(user, "", &[("database", database)]).await;
        if answer.ends_with('Z') {
            inside.push(session);
        } else {
            assert_eq!(answer, "E(53300).", "turned away for the limit alone");
        }
    }
    inside
}

/// Until one more gets in.
async fn until_let_in(address: &Address, user: &str, database: &str) -> Session {
    for _attempt in 0..2000 {
        let mut session = Session::connect(address).await;
        if session.log_in(user, "", &[("database", database)]).await.ends_with('Z') {
            return session;
        }
        clock::sleep(Duration::from_millis(5)).await;
    }
    panic!("a place does not come free");
}

#[test]
fn the_clients_of_a_database_and_a_user_are_limited_over_all_cores() {
    let limited = User { max_user_client_connections: Some(2), ..User::default() };
    let mut settings = Settings { max_db_client_connections: 5, ..settings() };
    settings.users.insert("ann".to_owned(), limited);
    check(settings, |address| {
        Box::pin(async move {
            let mut everybody = crowd(&address, "postgres", "postgres").await;
            assert_eq!(everybody.len(), 5, "of one database");
            assert_eq!(crowd(&address, "ann", "postgres").await.len(), 0, "it is full");
            let anns = crowd(&address, "ann", "template1").await;
            assert_eq!(anns.len(), 2, "of one user");
            drop(everybody.remove(3));
            let next = until_let_in(&address, "postgres", "postgres").await;
            assert_eq!(crowd(&address, "postgres", "postgres").await.len(), 0, "full again");
            drop((everybody, anns, next));
        })
    });
}

#[test]
fn an_idle_server_of_any_core_makes_room_where_a_limit_is_reached() {
    let mut settings = Settings { default_pool_size: 1, max_db_connections: 1, ..settings() };
    settings.users.insert("ann".to_owned(), User::default());
    check(settings, |address| {
        Box::pin(async move {
            let mut all = Vec::new();
            // From core to core in turn, so each finds the server idle on the other one.
            for user in ["postgres", "postgres", "ann", "postgres", "postgres", "ann"] {
                let mut session = Session::connect(&address).await;
                assert_eq!(session.log_in(user, "", &[]).await, "R0 Z");
                assert_eq!(session.query("select current_user").await, format!("T({user})Z"));
                all.push(session);
            }
        })
    });
}

/// The console's SHUTDOWN, typed at a process of two cores; it must end by itself.
fn check_shutdown(work: Work) {
    check_process(Settings { default_pool_size: 1, ..settings() }, work, true);
}

async fn console(address: &Address) -> Session {
    let mut console = Session::connect(address).await;
    let answer = console.log_in("postgres", "", &[("database", "pgbouncer")]).await;
    assert!(answer.ends_with('Z'), "{answer}");
    console
}

async fn session(address: &Address) -> Session {
    let mut session = Session::connect(address).await;
    assert!(session.log_in("postgres", "", &[]).await.ends_with('Z'));
    session
}

#[test]
fn a_client_gets_in_while_another_core_has_all_servers() {
    let settings = Settings { default_pool_size: 1, ..settings() };
    check(settings, |address| {
        Box::pin(async move {
            let mut worker = session(&address).await;
            assert_eq!(worker.query("begin").await, "TZ");
            let others = [session(&address).await, session(&address).await];
            assert_eq!(worker.query("rollback").await, "Z");
            drop(others);
        })
    });
}

#[test]
fn a_shutdown_can_wait_for_clients() {
    check_shutdown(|address| {
        Box::pin(async move {
            let mut both = [session(&address).await, session(&address).await];
            let mut console = console(&address).await;
            assert_eq!(console.query("SHUTDOWN WAIT_FOR_CLIENTS").await, "Z");
            let mut late = Session::connect(&address).await;
            assert_eq!(late.log_in("postgres", "", &[]).await, "E(57P03).");
            let mut other = self::console(&address).await;
            assert_eq!(other.query("RESUME").await, "E(55000)Z", "administrators still get in");
            for client in &mut both {
                assert_eq!(
                    client.query("select 1").await,
                    "T(1)Z",
                    "they stay as long as they like"
                );
            }
            drop(both);
            assert_eq!(other.answer().await, ".", "then it stops");
        })
    });
}

#[test]
fn a_shutdown_can_wait_for_servers() {
    check_shutdown(|address| {
        Box::pin(async move {
            let mut worker = session(&address).await;
            assert_eq!(worker.query("begin").await, "TZ");
            let mut waits = session(&address).await;
            let mut asks_later = session(&address).await;
            waits.add_query("select 1").send();
            let mut console = console(&address).await;
            for _attempt in 0..2000 {
                if console.query("SHOW POOLS").await.contains("postgres|postgres|2|1|") {
                    break;
                }
                clock::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(console.query("SHUTDOWN WAIT_FOR_SERVERS").await, "Z");
            assert_eq!(waits.answer().await, "E(57P01).", "nobody waits any longer");
            assert_eq!(asks_later.query("select 1").await, "E(57P01).");
            assert_eq!(worker.query("select 2").await, "T(2)TZ", "what has begun goes on");
            assert_eq!(worker.query("commit").await, "Z");
            assert_eq!(worker.answer().await, "E(57P01).", "then it stops");
        })
    });
}

#[test]
fn a_shutdown_need_not_wait() {
    check_shutdown(|address| {
        Box::pin(async move {
            let mut worker = session(&address).await;
            assert_eq!(worker.query("begin").await, "TZ");
            let mut console = console(&address).await;
            console.add_query("SHUTDOWN").send();
            assert_eq!(worker.answer().await, "E(57P01).");
        })
    });
}

fn check(settings: Settings, work: Work) {
    check_process(settings, work, false);
}

fn check_process(settings: Settings, work: Work, stops_itself: bool) {
    let cluster = Cluster::start(&[], "");
    cluster.sql("create role ann login");
    let directory = cluster.directory().display().to_string();
    let database = Database { host: vec![Host::Unix(directory.clone())], ..Database::default() };
    let settings = Settings {
        listen_addr: Vec::new(),
        listen_port: 6432,
        unix_socket_dir: directory,
        databases: [("*".to_owned(), database)].into(),
        ..settings
    };
    let files = |path: &Path| runtime::fs::blocking::read_to_string(path);
    let load: Arc<Load> = Arc::new(|_version, _changed| Err(Vec::new()));
    let options = PoolerOptions {
        rules: Arc::new(Rules::load(1, settings, &files).expect("good rules")),
        load,
        resolver: None,
        default_target: None,
        provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
    };
    let address = Address::Unix(cluster.directory().join(".s.PGSQL.6432"));
    let clients =
        App::new("clients", move |_node| Clients { address: address.clone(), work, stops_itself });
    let pool = NodepoolOptions {
        cores: Cores::Count(2),
        pin: false,
        signals: false,
        ..NodepoolOptions::default()
    };
    let done = Nodepool::run(pool, vec![pooler::app(options), clients], Control::new());
    done.expect("the process ends well");
}
