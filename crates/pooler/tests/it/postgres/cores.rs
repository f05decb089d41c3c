//! Several cores in one process: one pool, exact limits, nobody starves.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use pooler::rules::Rules;
use pooler::settings::{Database, Host, Settings};
use pooler::{Load, PoolerOptions};
use runtime::app::{App, Applet, Error, LocalFuture, Node, Stop};
use runtime::executor;
use runtime::net::Address;
use runtime::nodepool::{Control, Cores, Nodepool, NodepoolOptions};

use super::cluster::Cluster;
use super::session::Session;
use super::settings;

/// Clients of one test, on core 0; when they are done the process stops.
struct Clients {
    address: Address,
    servers: usize,
}

const CLIENTS: usize = 12;

impl Applet for Clients {
    fn name(&self) -> &'static str {
        "clients"
    }

    fn start<'a>(&'a self, node: &'a Node) -> LocalFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            if node.index == 0 {
                let (address, servers) = (self.address.clone(), self.servers);
                let control = node.control.clone();
                executor::spawn_detached(async move {
                    work(&address, servers).await;
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
    check(2);
}

#[test]
fn a_single_server_goes_from_core_to_core() {
    check(1);
}

fn check(servers: u32) {
    let cluster = Cluster::start(&[], "");
    let directory = cluster.directory().display().to_string();
    let database = Database { host: vec![Host::Unix(directory.clone())], ..Database::default() };
    let settings = Settings {
        listen_addr: Vec::new(),
        listen_port: 6432,
        unix_socket_dir: directory,
        default_pool_size: servers,
        databases: [("*".to_owned(), database)].into(),
        ..settings()
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
    let clients = App::new("clients", move |_node| Clients {
        address: address.clone(),
        servers: servers as usize,
    });
    let pool = NodepoolOptions {
        cores: Cores::Count(2),
        pin: false,
        signals: false,
        ..NodepoolOptions::default()
    };
    let done = Nodepool::run(pool, vec![pooler::app(options), clients], Control::new());
    done.expect("the process ends well");
}
