//! Whole processes: this test binary runs itself as a child, so that signals, panics and exits are real.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "the child speaks through its standard output, and a surprise in the parent fails the test"
)]

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use runtime::app::{App, Applet, Error, LocalFuture, Node, Stop};
use runtime::clock;
use runtime::nodepool::{Control, Cores, Nodepool, NodepoolOptions, Phase};

/// The variable that tells a child what to be.
const ROLE: &str = "HOWDAH_TEST_ROLE";

/// Says on standard output what happens to it; `mood` decides what goes wrong.
struct Teller {
    name: &'static str,
    node: usize,
    mood: Mood,
    stopping: Rc<Cell<bool>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Good,
    FailsOnLastNode,
    StartsForever,
    DrainsForever,
    PanicsOnLastNode,
    StuckOnLastNode,
}

impl Applet for Teller {
    fn name(&self) -> &'static str {
        self.name
    }

    fn start<'a>(&'a self, node: &'a Node) -> LocalFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            println!("start {} {}", self.name, self.node);
            // The later the node, the longer it takes: a missing barrier shows.
            clock::sleep(Duration::from_millis(10 * self.node as u64)).await;
            let last = self.node + 1 == node.nodes;
            match self.mood {
                Mood::FailsOnLastNode if last => return Err("the disk is on fire".into()),
                Mood::PanicsOnLastNode if last => panic!("on purpose"),
                Mood::StartsForever => std::future::pending().await,
                _ => {}
            }
            println!("started {} {}", self.name, self.node);
            Ok(())
        })
    }

    fn stop<'a>(&'a self, how: Stop) -> LocalFuture<'a, ()> {
        Box::pin(async move {
            println!("stop {} {} {how}", self.name, self.node);
            self.stopping.set(true);
            if self.mood == Mood::DrainsForever && how == Stop::Drain {
                std::future::pending::<()>().await;
            }
            if self.mood == Mood::StuckOnLastNode && self.node == 1 {
                // Deaf and blind, as no applet should be.
                loop {
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
            println!("stopped {} {}", self.name, self.node);
        })
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        println!("dropped {} {}", self.name, self.node);
    }
}

fn teller(name: &'static str, mood: Mood) -> App {
    App::new(name, move |node| Teller { name, node: node.index, mood, stopping: Rc::default() })
}

/// What the child does: runs a pool of two nodes and says how that ended.
fn play(role: &str) {
    let mood = match role {
        "good" | "reload" => Mood::Good,
        "fails" => Mood::FailsOnLastNode,
        "starts-forever" => Mood::StartsForever,
        "drains-forever" | "drain-bound" => Mood::DrainsForever,
        "panics" => Mood::PanicsOnLastNode,
        "stuck" => Mood::StuckOnLastNode,
        other => panic!("unknown role {other}"),
    };
    let control = Control::new();
    let drain = if role == "drain-bound" { Duration::from_millis(50) } else { Duration::MAX / 4 };
    let mut options =
        NodepoolOptions { cores: Cores::Count(2), drain, ..NodepoolOptions::default() };
    if role == "stuck" {
        options.stop_now = Duration::from_millis(50);
    }
    let watcher = App::new("watcher", move |node| Watcher { watches: node.index == 0 });
    let apps = vec![teller("first", Mood::Good), teller("second", mood), watcher];
    let result = Nodepool::run(options, apps, control.clone());
    assert_eq!(control.phase(), Phase::Stopping);
    match result {
        Ok(()) => println!("ended well"),
        Err(error) => println!("ended with: {error}"),
    }
}

/// Starts last, so its line means that everything runs.
struct Watcher {
    watches: bool,
}

impl Applet for Watcher {
    fn name(&self) -> &'static str {
        "watcher"
    }

    fn start<'a>(&'a self, node: &'a Node) -> LocalFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            if !self.watches {
                return Ok(());
            }
            let control = node.control.clone();
            let mut reloads = control.reloads();
            runtime::executor::spawn_detached(async move {
                while control.phase() == Phase::Starting {
                    clock::sleep(Duration::from_millis(1)).await;
                }
                println!("running");
                while reloads.recv().await.is_some() {
                    println!("reload");
                    let nodes = control.nodes().await;
                    let names: Vec<_> = nodes.iter().map(|node| node.thread.as_str()).collect();
                    println!("nodes {}", names.len());
                }
            });
            Ok(())
        })
    }

    fn stop<'a>(&'a self, _how: Stop) -> LocalFuture<'a, ()> {
        Box::pin(async {})
    }
}

/// Not a test of its own: the children of the tests below run it by name.
#[test]
fn child() {
    if let Ok(role) = std::env::var(ROLE) {
        play(&role);
    }
}

struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(role: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "nodepool::child", "--nocapture", "--test-threads", "1"])
            .env(ROLE, role)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// Reads on to this line; what came before it.
    fn wait_for(&mut self, expected: &str) -> Vec<String> {
        let mut before = Vec::new();
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "no {expected} in {before:#?}");
            // The test harness writes its own words in front of our first line.
            let line = line.trim_end().trim_start_matches("test nodepool::child ... ").to_owned();
            if line == expected {
                return before;
            }
            before.push(line);
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn end(mut self) -> std::process::ExitStatus {
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already, as a rule.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn position(lines: &[String], wanted: &str) -> usize {
    lines
        .iter()
        .position(|line| line == wanted)
        .unwrap_or_else(|| panic!("no line {wanted:?} in {lines:#?}"))
}

#[test]
fn apps_start_in_order_on_all_nodes_and_stop_in_reverse() {
    let mut process = Process::start("good");
    let lines = process.wait_for("running");
    for node in 0..2 {
        for other in 0..2 {
            assert!(
                position(&lines, &format!("started first {node}"))
                    < position(&lines, &format!("start second {other}")),
                "{lines:#?}"
            );
        }
    }
    process.signal(rustix::process::Signal::TERM);
    let lines = process.wait_for("ended well");
    for node in 0..2 {
        assert!(
            position(&lines, &format!("dropped second {node}"))
                < position(&lines, "stop first 0 drain"),
            "{lines:#?}"
        );
        position(&lines, &format!("dropped first {node}"));
    }
    assert!(process.end().success());
}

#[test]
fn an_interrupt_stops_now() {
    let mut process = Process::start("good");
    process.wait_for("running");
    process.signal(rustix::process::Signal::INT);
    let lines = process.wait_for("ended well");
    position(&lines, "stop second 0 now");
    position(&lines, "stop first 1 now");
}

#[test]
fn a_failed_start_stops_what_was_started_and_is_returned() {
    let mut process = Process::start("fails");
    let end = "ended with: could not start second on node 1: the disk is on fire";
    let lines = process.wait_for(end);
    position(&lines, "started second 0");
    for node in 0..2 {
        position(&lines, &format!("stopped first {node}"));
    }
    position(&lines, "stopped second 0");
    assert!(!lines.contains(&"stop second 1 now".to_owned()), "it never started: {lines:#?}");
}

#[test]
fn a_signal_while_starting_cuts_the_start_off() {
    let mut process = Process::start("starts-forever");
    process.wait_for("started first 1");
    process.wait_for("start second 1");
    process.signal(rustix::process::Signal::TERM);
    let lines = process.wait_for("ended well");
    for node in 0..2 {
        position(&lines, &format!("stopped second {node}"));
        position(&lines, &format!("stopped first {node}"));
    }
}

#[test]
fn a_second_signal_overtakes_a_drain() {
    for second in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let mut process = Process::start("drains-forever");
        process.wait_for("running");
        process.signal(rustix::process::Signal::TERM);
        process.wait_for("stop second 0 drain");
        process.signal(second);
        let lines = process.wait_for("ended well");
        position(&lines, "stop second 0 now");
        position(&lines, "stopped second 1");
        position(&lines, "stop first 0 now");
    }
}

#[test]
fn a_drain_has_a_bound() {
    let mut process = Process::start("drain-bound");
    process.wait_for("running");
    process.signal(rustix::process::Signal::TERM);
    let lines = process.wait_for("ended well");
    position(&lines, "stop second 0 drain");
    position(&lines, "stopped second 0");
}

#[test]
fn a_hangup_reloads_and_nodes_report() {
    let mut process = Process::start("reload");
    process.wait_for("running");
    for _ in 0..2 {
        process.signal(rustix::process::Signal::HUP);
        process.wait_for("reload");
        process.wait_for("nodes 2");
    }
    process.signal(rustix::process::Signal::INT);
    process.wait_for("ended well");
}

#[test]
fn a_panic_on_a_core_aborts_the_process() {
    use std::os::unix::process::ExitStatusExt;
    let mut process = Process::start("panics");
    process.wait_for("start second 1");
    assert_eq!(process.end().signal(), Some(6), "SIGABRT");
}

#[test]
fn a_stuck_core_does_not_keep_the_process() {
    let mut process = Process::start("stuck");
    process.wait_for("running");
    process.signal(rustix::process::Signal::TERM);
    process.wait_for("stop second 1 drain");
    process.signal(rustix::process::Signal::INT);
    process.wait_for("ended with: 1 cores did not stop in time");
}
