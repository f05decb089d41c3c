//! The README's session in a shell, line by line, against an instance of its own: what it prints is what the README says.

use std::process::Command;

use crate::instance::{Folder, HOWDAH, Instance, program};

const README: &str = include_str!("../../../../../README.md");

/// A line after a prompt, and what follows it up to the next.
struct Step {
    command: String,
    printed: Vec<String>,
}

fn steps() -> Vec<Step> {
    let (_before, session) = README.split_once("```console\n").expect("the README has a session");
    let (session, _after) = session.split_once("```").expect("which ends");
    let mut steps: Vec<Step> = Vec::new();
    for line in session.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => {
                steps.push(Step { command: command.to_owned(), printed: Vec::new() });
            }
            (None, Some(step)) => step.printed.push(line.to_owned()),
            (None, None) => panic!("the session begins with {line:?}"),
        }
    }
    steps
}

/// The first LSN in a text.
fn lsn(text: &str) -> Option<String> {
    text.split([' ', '"', '@', '\n'])
        .find(|word| word.starts_with("0/"))
        .map(|word| word.trim_end_matches(|last: char| !last.is_ascii_hexdigit()).to_owned())
}

/// Numbers differ from run to run; everything else does not.
fn without_numbers(text: &str) -> String {
    let words = text
        .split(' ')
        .map(|word| if word.bytes().all(|byte| byte.is_ascii_digit()) { "N" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_readme_prints_what_happens() {
    let folder = Folder::new();
    let instance = Instance::start(&folder, "");
    let (_host, port) = instance.address("pooler");
    let target = folder.path().join("pets").display().to_string();
    let psql = program("psql");
    let (tools, _name) = psql.rsplit_once('/').expect("a folder");
    let (ours, _name) = HOWDAH.rsplit_once('/').expect("a folder");
    let path = format!("{tools}:{ours}:{}", std::env::var("PATH").unwrap_or_default());
    let written = README.split_once("branch \"before\" of \"main\" at ").expect("a branch").1;
    let written = lsn(written).expect("it is at an LSN");
    let (mut exports, mut at) = (String::new(), written.clone());
    for step in steps() {
        let ours = |text: &str| text.replace(&written, &at).replace("/tmp/pets", &target);
        let command = ours(&step.command).replace("PGPORT=6432", &format!("PGPORT={port}"));
        if command.starts_with("export ") {
            exports = command;
            continue;
        }
        let script = format!("{exports}\nexec 2>&1\n{command}");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).env("PATH", &path).env("HOWDAH_API", instance.api());
        let output = shell.output().expect("a shell runs");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{command}: {printed}\n{}", instance.log());
        if command.contains("branch create") {
            at = lsn(&printed).expect("a branch is at an LSN");
        }
        let expected = step.printed.iter().map(|line| line.replace(&written, &at));
        let expected: Vec<String> =
            expected.map(|line| without_numbers(&line.replace("/tmp/pets", &target))).collect();
        let printed: Vec<String> = printed.lines().map(without_numbers).collect();
        assert_eq!(printed, expected, "{command}");
    }
}
