//! Commands that need no server: help, errors, checking a configuration, reading WAL.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::instance::{Folder, HOWDAH, program};

struct Outcome {
    success: bool,
    stdout: String,
    stderr: String,
}

fn howdah(arguments: &[&str]) -> Outcome {
    let output = Command::new(HOWDAH)
        .args(arguments)
        .env_remove("HOWDAH_API")
        .output()
        .expect("howdah runs");
    Outcome {
        success: output.status.success(),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

fn write(folder: &Folder, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, text).expect("the folder is ours");
    path.display().to_string()
}

#[test]
fn help_goes_to_standard_output_with_an_example() {
    for command in ["up", "node", "pooler", "check", "page", "verify", "completions"] {
        let outcome = howdah(&[command, "--help"]);
        assert!(outcome.success, "{command}: {}", outcome.stderr);
        assert!(outcome.stdout.contains("Example:"), "{command}: {}", outcome.stdout);
    }
}

#[test]
fn a_wrong_command_line_fails_and_says_so_on_standard_error() {
    for arguments in [
        &["nonsense"][..],
        &["page"],
        &["page", "--rel", "1/2", "--block", "0"],
        &["up", "--cores", "x"],
    ] {
        let outcome = howdah(arguments);
        assert!(!outcome.success, "{arguments:?}");
        assert!(
            outcome.stdout.is_empty() && outcome.stderr.contains("error:"),
            "{arguments:?}: {}",
            outcome.stderr
        );
    }
}

#[test]
fn completions_are_made_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let outcome = howdah(&["completions", shell]);
        assert!(outcome.success && outcome.stdout.contains("howdah"), "{shell}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_of_a_script_is_no_error() {
    let mut howdah = Command::new(HOWDAH)
        .args(["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // Before anything has come.
    drop(howdah.stdout.take());
    let outcome = howdah.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&outcome.stderr), "");
    assert!(outcome.status.success());
}

#[test]
fn a_broken_configuration_is_named_with_file_line_and_key() {
    let folder = Folder::new();
    let file = write(
        &folder,
        "broken.toml",
        "[node]\npin = true\n\n[pooler]\npool_mode = \"sometimes\"\n",
    );
    for arguments in
        [&["check", &file][..], &["pooler", "--config", &file], &["node", "--config", &file]]
    {
        let outcome = howdah(arguments);
        assert!(!outcome.success, "{arguments:?}");
        assert!(
            outcome.stderr.contains("broken.toml:5: pooler.pool_mode"),
            "{arguments:?}: {}",
            outcome.stderr
        );
    }
}

#[test]
fn a_broken_ini_is_named_with_file_line_and_key() {
    let folder = Folder::new();
    let file = write(
        &folder,
        "broken.ini",
        "[databases]\n* = host=127.0.0.1\n[pgbouncer]\npool_mode = sometimes\n",
    );
    let outcome = howdah(&["check", &file]);
    assert!(!outcome.success);
    assert!(
        outcome.stderr.contains("broken.ini:4") && outcome.stderr.contains("pool_mode"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn the_shipped_configuration_is_valid() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../howdah.toml");
    let outcome = howdah(&["check", &file.display().to_string()]);
    assert!(outcome.success, "{}", outcome.stderr);
}

#[test]
fn an_api_that_is_not_there_is_told_with_a_hint() {
    let outcome = howdah(&["--api", "127.0.0.1:1", "timeline", "status"]);
    assert!(!outcome.success);
    assert!(
        outcome.stderr.contains("127.0.0.1:1") && outcome.stderr.contains("hint:"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_file_that_is_no_wal_segment_is_refused() {
    let folder = Folder::new();
    let file = write(&folder, "000000010000000000000001", "hello");
    let outcome = howdah(&["wal", "dump", &file]);
    assert!(!outcome.success);
    assert!(outcome.stderr.contains("is not a WAL segment"), "{}", outcome.stderr);
}

#[test]
fn up_without_programs_says_where_it_looked() {
    let folder = Folder::new();
    let directory = folder.path().join("data").display().to_string();
    let output = Command::new(HOWDAH)
        .args(["up", "--dir", &directory])
        .env("HOWDAH_PG_BIN", folder.path())
        .output()
        .expect("howdah runs");
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(!output.status.success());
    assert!(
        stderr.contains(&folder.path().display().to_string()) && stderr.contains("hint:"),
        "{stderr}"
    );
}

#[test]
fn up_in_a_folder_that_cannot_be_made_says_so() {
    let folder = Folder::new();
    let file = write(&folder, "file", "");
    let outcome = howdah(&["up", "--dir", &format!("{file}/below")]);
    assert!(!outcome.success);
    assert!(outcome.stderr.contains("could not make folder"), "{}", outcome.stderr);
    assert!(
        Path::new(&program("postgres")).is_file(),
        "these tests need PostgreSQL; run make deps"
    );
}
