//! Coming up, serving, dying, stopping, coming up again.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::instance::{Folder, HOWDAH, Instance};

#[test]
fn pgbench_runs_in_every_protocol_and_a_second_up_finds_the_data() {
    let folder = Folder::new();
    let first = Instance::in_directory(&folder, "");
    first.pgbench(&["-i", "-q", "-s", "1"]);
    for protocol in ["simple", "extended", "prepared"] {
        first.pgbench(&["-n", "-M", protocol, "-c", "8", "-j", "2", "-t", "50"]);
    }
    assert_eq!(first.sql("SELECT count(*) FROM pgbench_history"), "1200");
    let (status, log) = first.stop("-INT");
    assert!(status.success(), "{log}");
    assert!(log.contains("database system is shut down"), "a fast shutdown: {log}");
    // Nothing moves unasked.
    let second = Instance::start(&folder, "");
    assert_eq!(second.facts["postgres"]["place"], "directory");
    assert_eq!(second.sql("SELECT count(*) FROM pgbench_history"), "1200");
    let (status, log) = second.stop("-TERM");
    assert!(status.success(), "{log}");
    assert!(!log.contains("not properly shut down"), "no recovery was needed: {log}");
}

#[test]
fn a_second_howdah_on_the_folder_is_refused() {
    let folder = Folder::new();
    let first = Instance::start(&folder, "");
    let second = Command::new(HOWDAH)
        .args(["up", "--dir"])
        .arg(folder.path().join("data"))
        .output()
        .expect("howdah runs");
    let stderr = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success());
    assert!(stderr.contains("another howdah runs") && stderr.contains("hint:"), "{stderr}");
    assert_eq!(first.sql("SELECT 1"), "1");
}

#[test]
fn a_port_that_is_taken_is_named_with_its_key() {
    let folder = Folder::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound");
    let config = folder.path().join("taken.toml");
    let text = format!(
        "[api]\nlisten = \"{address}\"\n[postgres]\nport = 0\n[pooler]\nlisten_port = 0\n[pageserver]\nlisten = \"127.0.0.1:0\"\n"
    );
    std::fs::write(&config, text).expect("the folder is ours");
    let output = Command::new(HOWDAH)
        .args(["up", "--dir"])
        .arg(folder.path().join("data"))
        .arg("--config")
        .arg(&config)
        .output()
        .expect("howdah runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(stderr.contains(&address.to_string()) && stderr.contains("api.listen"), "{stderr}");
}

#[test]
fn a_server_that_dies_is_started_again() {
    let folder = Folder::new();
    let instance = Instance::in_directory(&folder, "");
    instance.sql("CREATE TABLE survivor AS SELECT 1 AS one");
    let pid = std::fs::read_to_string(folder.path().join("data/postgres/postmaster.pid"))
        .expect("it runs");
    let pid = pid.lines().next().expect("the first line is the pid").to_owned();
    let killed = Command::new("kill").args(["-KILL", &pid]).status().expect("kill runs");
    assert!(killed.success());
    let deadline = Instant::now() + Duration::from_secs(120);
    let query = ["-X", "-A", "-t", "-d", "postgres", "-c", "SELECT one FROM survivor"];
    while instance.client("psql", &query) != Ok("1".to_owned()) {
        assert!(Instant::now() < deadline, "{}", instance.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(instance.log().contains("it will be started again"));
}

#[test]
fn the_api_stops_everything() {
    let folder = Folder::new();
    let instance = Instance::in_directory(&folder, "");
    let refused = instance.answer("POST", "/v1/shutdown?mode=soon");
    assert!(refused.starts_with("HTTP/1.1 400") && refused.contains("not a mode"), "{refused}");
    instance.post("/v1/shutdown?mode=now");
    let (status, log) = instance.ended();
    assert!(status.success(), "{log}");
    assert!(log.contains("database system is shut down"), "{log}");
}

#[test]
fn a_reload_with_a_mistake_keeps_the_old_settings() {
    let folder = Folder::new();
    let instance = Instance::start(&folder, "");
    let config = folder.path().join("test.toml");
    let good = std::fs::read_to_string(&config).expect("it was written");
    std::fs::write(&config, format!("{good}pool_mode = \"sometimes\"\n"))
        .expect("the folder is ours");
    instance.signal("-HUP");
    instance.wait_for_log("the settings are not changed");
    assert!(instance.log().contains("pooler.pool_mode"), "{}", instance.log());
    assert_eq!(instance.sql("SELECT 1"), "1");
    std::fs::write(&config, format!("{good}default_pool_size = 3\n")).expect("the folder is ours");
    instance.post("/v1/reload");
    instance.wait_for_log("new settings are in force");
    assert_eq!(instance.sql("SELECT 1"), "1");
}

#[test]
fn the_api_tells_what_runs() {
    let folder = Folder::new();
    let instance = Instance::start(&folder, "");
    let status = instance.howdah(&["timeline", "status", "--json"]).expect("the page server runs");
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!(status["timelines"][0]["phase"], "streaming", "{status}");
    instance.sql("SELECT 1");
    let pools: serde_json::Value = serde_json::from_str(&instance.get("/v1/pools")).expect("JSON");
    assert!(pools["pools"].as_array().is_some_and(|pools| !pools.is_empty()), "{pools}");
    let health: serde_json::Value = serde_json::from_str(&instance.get("/healthz")).expect("JSON");
    assert_eq!(health["status"], "ok");
    let metrics = instance.get("/metrics");
    assert!(metrics.contains("# EOF"));
    let value = |name: &str| {
        let prefix = format!("howdah_pooler_{name}{{database=\"postgres\",user=");
        let line = metrics.lines().find(|line| line.starts_with(&prefix));
        let line = line.unwrap_or_else(|| panic!("{name} is missing in\n{metrics}"));
        line.rsplit_once(' ').and_then(|(_, value)| value.parse::<u64>().ok()).expect("a number")
    };
    assert!(value("queries_total") >= 1 && value("client_logins_total") >= 1, "{metrics}");
    assert!(value("received_bytes_total") > 0 && value("sent_bytes_total") > 0, "{metrics}");
    assert!(value("servers_idle") >= 1 && value("clients_waiting") == 0, "{metrics}");
    let text = instance.howdah(&["timeline", "status"]).expect("the page server runs");
    assert!(text.contains("newest LSN"), "{text}");
}
