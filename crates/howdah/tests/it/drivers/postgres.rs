//! Each driver's suite against one `howdah up` with a pool of four servers.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::tokio_driver;
use crate::instance::{Folder, Instance, program};

/// Against hangs only.
const PATIENCE: Duration = Duration::from_secs(150);
/// What `tests/drivers/run` ends with if the driver's runtime is absent.
const NOT_HERE: i32 = 77;

const POOL: &str =
    "pool_mode = \"transaction\"\ndefault_pool_size = 4\nquery_wait_timeout = \"60s\"\n";

fn start(folder: &Folder) -> Instance {
    Instance::start(folder, POOL)
}

/// Host and port of the pooler.
fn address(instance: &Instance) -> (String, String) {
    let text = instance.facts["pooler"].as_str().expect("the pooler listens");
    let (host, port) = text.rsplit_once(':').expect("an address has a port");
    (host.to_owned(), port.to_owned())
}

/// Runs the suite in `tests/drivers`; it must pass, unless its runtime is absent.
#[expect(
    clippy::print_stdout,
    reason = "a suite that is not run must not look like one that passed"
)]
fn passes(driver: &str) {
    let folder = Folder::new();
    let mut instance = start(&folder);
    let (host, port) = address(&instance);
    let run = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/drivers/run");
    let output = folder.path().join("suite");
    let said = std::fs::File::create(&output).expect("the folder is ours");
    let mut path = std::env::var("PATH").unwrap_or_default();
    // psql may only be where the server's programs are.
    if let Some((folder, _)) = program("psql").rsplit_once('/') {
        path.push(':');
        path.push_str(folder);
    }
    let mut child = Command::new(run)
        .arg(driver)
        .env("PATH", path)
        .env("PGHOST", host)
        .env("PGPORT", port)
        .env("PGUSER", "postgres")
        .env("PGDATABASE", "postgres")
        .env("PGCONNECT_TIMEOUT", "30")
        .env_remove("PGPASSWORD")
        .env_remove("PGOPTIONS")
        .env_remove("PGAPPNAME")
        .env_remove("PGTZ")
        .stdin(Stdio::null())
        .stdout(said.try_clone().expect("a file"))
        .stderr(said)
        .spawn()
        .expect("the suite starts");
    let said = || std::fs::read_to_string(&output).unwrap_or_default();
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().expect("it is our child") {
            break status;
        }
        if Instant::now() > deadline {
            let _killed = child.kill();
            let _reaped = child.wait();
            instance.fail(&format!("{driver} hangs:\n{}", said()));
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    match status.code() {
        Some(0) => {}
        Some(NOT_HERE) => println!("not run: {}", said().trim()),
        _ => instance.fail(&format!("{driver} fails:\n{}", said())),
    }
}

#[test]
fn psycopg_passes_its_suite() {
    passes("psycopg");
}

#[test]
fn node_postgres_passes_its_suite() {
    passes("node");
}

#[test]
fn psql_passes_its_suite() {
    passes("psql");
}

#[test]
fn tokio_postgres_passes_its_suite() {
    let folder = Folder::new();
    let mut instance = start(&folder);
    let (host, port) = address(&instance);
    let url = format!("host={host} port={port} user=postgres dbname=postgres connect_timeout=30");
    if let Err(failures) = tokio_driver::suite(&url, PATIENCE) {
        instance.fail(&failures);
    }
}
