//! The pooler in front of a real Postgres: each test has a server of its own, and everything of the
//! pooler's and the clients' runs on one core.

mod auth_query;
mod cluster;
mod cores;
mod encryption;
mod logins;
mod prepared;
mod replication;
mod session;
mod sessions;
mod transactions;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pooler::rules::Rules;
use pooler::settings::{AuthType, Database, Host, Settings, User};
use pooler::{Load, Pooler, PoolerOptions};
use runtime::app::{Applet, Node, Stop};
use runtime::net::Address;
use runtime::nodepool::Control;
use runtime::{clock, executor, io};

use cluster::Cluster;
use session::Session;

/// Against hangs only; nothing is measured.
const PATIENCE: Duration = Duration::from_secs(50);

/// A pooler that runs, and the server behind it.
pub(crate) struct Setting {
    pub(crate) cluster: Cluster,
    pub(crate) pooler: Pooler,
    pub(crate) address: Address,
}

/// Settings for a pooler that lets user `postgres` in without a password, with two servers a pool.
fn settings() -> Settings {
    Settings {
        listen_port: 0,
        auth_type: AuthType::Trust,
        default_pool_size: 2,
        admin_users: vec!["postgres".to_owned()],
        users: [("postgres".to_owned(), User::default())].into(),
        ..Settings::default()
    }
}

/// Runs a test with a pooler of these settings in front of a fresh Postgres.
fn run(settings: Settings, test: impl AsyncFnOnce(&Setting)) {
    run_with(Cluster::start(&[], ""), settings, test);
}

fn run_with(cluster: Cluster, settings: Settings, test: impl AsyncFnOnce(&Setting)) {
    drop(run_in(cluster, settings, test));
}

/// The same; gives the server back.
fn run_in(cluster: Cluster, mut settings: Settings, test: impl AsyncFnOnce(&Setting)) -> Cluster {
    let database = Database {
        host: vec![Host::Unix(cluster.directory().display().to_string())],
        ..Database::default()
    };
    settings.databases.entry("*".to_owned()).or_insert(database);
    let whole = async {
        let files = |path: &Path| runtime::fs::blocking::read_to_string(path);
        let rules = Rules::load(1, settings, &files).expect("good rules");
        let load: Arc<Load> = Arc::new(|_version, _changed| Err(Vec::new()));
        let pooler = Pooler::alone(PoolerOptions {
            rules: Arc::new(rules),
            load,
            resolver: None,
            default_target: None,
            provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
        });
        let node = Node { index: 0, nodes: 1, cpu: None, control: Control::new() };
        pooler.start(&node).await.expect("the pooler starts");
        let address = pooler.addresses().first().expect("it listens").clone();
        let setting = Setting { cluster, pooler, address };
        test(&setting).await;
        setting.pooler.stop(Stop::Now).await;
        setting.cluster
    };
    let done = executor::block_on(&io::Options::default(), clock::timeout(PATIENCE, whole));
    done.expect("a core").expect("the test hangs")
}

impl Setting {
    /// A client that has logged in as `postgres`.
    async fn session(&self) -> Session {
        self.session_with(&[]).await
    }

    /// The same, with start-up parameters.
    async fn session_with(&self, parameters: &[(&str, &str)]) -> Session {
        let mut session = Session::connect(&self.address).await;
        let answers = session.log_in("postgres", "", parameters).await;
        assert!(answers.ends_with('Z'), "{answers}");
        session
    }

    /// Waits for a condition that must become true.
    async fn until(&self, what: &str, mut condition: impl AsyncFnMut() -> bool) {
        for _attempt in 0..4000 {
            if condition().await {
                return;
            }
            clock::sleep(Duration::from_millis(5)).await;
        }
        panic!("never: {what}");
    }

    /// Servers of all pools that are lent to clients, and clients that wait.
    async fn in_use(&self) -> (u64, u64) {
        let snapshots = self.pooler.snapshots().await;
        let pools = snapshots.iter().flat_map(|snapshot| &snapshot.pools);
        pools.fold((0, 0), |(servers, waiting), pool| {
            (servers + pool.sv_active, waiting + pool.cl_waiting)
        })
    }

    /// All server connections.
    async fn servers(&self) -> u64 {
        let snapshots = self.pooler.snapshots().await;
        snapshots.iter().flat_map(|snapshot| &snapshot.pools).map(|pool| pool.servers()).sum()
    }
}
