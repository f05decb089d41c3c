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
                let control = node.control.clone();
                executor::spawn_detached(async move {
                    work.await;
                    control.stop(Stop::Drain);
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

fn check(settings: Settings, work: Work) {
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
        provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
    };
    let address = Address::Unix(cluster.directory().join(".s.PGSQL.6432"));
    let clients = App::new("clients", move |_node| Clients { address: address.clone(), work });
    let pool = NodepoolOptions {
        cores: Cores::Count(2),
        pin: false,
        signals: false,
        ..NodepoolOptions::default()
    };
    let done = Nodepool::run(pool, vec![pooler::app(options), clients], Control::new());
    done.expect("the process ends well");
}
