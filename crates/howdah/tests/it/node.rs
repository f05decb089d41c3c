//! One `howdah node`: started on a configuration file, asked through its API, stopped or killed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::instance::HOWDAH;

/// Against hangs only.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running `howdah node`; killed when dropped.
pub(crate) struct Node {
    child: Child,
    log: PathBuf,
    api: String,
}

impl Node {
    /// Starts it with this file, which has this address of the API; returns when that answers.
    pub(crate) fn start(config: &Path, api: &str, environment: &[(&str, &str)]) -> Self {
        let log = config.with_extension("log");
        let errors = File::options().create(true).append(true).open(&log).expect("ours");
        let child = Command::new(HOWDAH)
            .args(["node", "--cores", "1", "--config"])
            .arg(config)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .expect("howdah starts");
        let mut node = Self { child, log, api: api.to_owned() };
        node.wait("the API", |node| node.howdah(&["timeline", "status", "--json"]).ok());
        node
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// A command of ours that asks it.
    pub(crate) fn howdah(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(HOWDAH)
            .args(["--api", &self.api])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("howdah runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// The same; it must succeed.
    pub(crate) fn must(&self, arguments: &[&str]) -> String {
        self.howdah(arguments)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{}", self.log()))
    }

    /// How its page server is.
    pub(crate) fn status(&self) -> Value {
        let text = self.must(&["timeline", "status", "--json"]);
        let answer: Value = serde_json::from_str(&text).expect("JSON");
        answer["timelines"][0].clone()
    }

    /// Waits until there is an answer.
    pub(crate) fn wait<T>(&mut self, what: &str, look: impl Fn(&Node) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            let ended = self.child.try_wait().expect("our child").is_some();
            assert!(!ended && Instant::now() < deadline, "never: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn wait_streaming(&mut self) {
        self.wait("streaming", |node| (node.status()["phase"] == "streaming").then_some(()));
    }

    /// Stops it as a user would.
    pub(crate) fn stop(mut self) {
        let sent = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
        assert!(self.child.wait().expect("our child").success(), "{}", self.log());
    }

    /// Ends it by SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("our child");
        self.child.wait().expect("our child");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ended_before = self.child.kill();
        let _reaped = self.child.wait();
    }
}
