//! `cargo xtask check-kqueue`: type-checks `runtime` for FreeBSD and macOS on a Debian machine.
//!
//! Nothing here can *run* kqueue. What can be had is a compiler with the standard library's sources:
//! Debian's `rustc-web` and `rust-web-src`, unpacked aside (never installed), build `std` for the
//! two targets, and `cargo check` then reads `io/kqueue.rs` as those systems' compilers would.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The packages whose closure is the compiler; the versioned names behind them are looked up.
const PACKAGES: [&str; 3] = ["rustc-web", "rust-web-src", "libstd-rust-web-dev"];

/// Dependencies of [`PACKAGES`] that hold the compiler's own libraries.
const LIBRARIES: [&str; 2] = ["libstd-rust-web-1", "libllvm"];

const TARGETS: [&str; 2] = ["x86_64-unknown-freebsd", "aarch64-apple-darwin"];

/// Downloads and unpacks the compiler into `target/kqueue` once, then checks every target.
pub(crate) fn run() -> Result<(), String> {
    let folder = std::path::absolute("target/kqueue").map_err(|error| error.to_string())?;
    let root = folder.join("root");
    if !root.join("usr/bin/rustc").exists() {
        unpack(&folder, &root)?;
    }
    for target in TARGETS {
        println!("== runtime for {target}");
        check(&root, &folder.join("build"), target)?;
    }
    Ok(())
}

/// Fetches the packages with `apt-get download`, which needs no root, and unpacks them.
fn unpack(folder: &Path, root: &Path) -> Result<(), String> {
    std::fs::create_dir_all(root).map_err(|error| format!("{}: {error}", root.display()))?;
    let mut download = Command::new("apt-get");
    download.arg("download").args(PACKAGES).args(libraries()?).current_dir(folder);
    succeed(&mut download)?;
    for package in packages_in(folder)? {
        succeed(Command::new("dpkg").arg("-x").arg(package).arg(root))?;
    }
    Ok(())
}

/// The names of the versioned library packages, from apt's own index.
fn libraries() -> Result<Vec<String>, String> {
    let depends = Command::new("apt-cache")
        .args(["depends", "--recurse", "--important"])
        .args(PACKAGES)
        .output()
        .map_err(|error| format!("apt-cache: {error}"))?;
    let names = String::from_utf8_lossy(&depends.stdout);
    let mut found: Vec<String> = names
        .lines()
        .filter(|line| !line.starts_with(' '))
        .filter(|name| LIBRARIES.iter().any(|prefix| name.starts_with(prefix)))
        .map(str::to_owned)
        .collect();
    found.sort();
    found.dedup();
    if found.is_empty() {
        return Err("apt knows no rustc-web here; run `apt-get update` first".to_owned());
    }
    Ok(found)
}

fn packages_in(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(folder).map_err(|error| error.to_string())?;
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    Ok(paths.filter(|path| path.extension().is_some_and(|end| end == "deb")).collect())
}

fn check(root: &Path, build: &Path, target: &str) -> Result<(), String> {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["check", "--quiet", "--package", "runtime", "--lib"])
        .args(["-Zbuild-std=std,panic_abort", "--target", target])
        .env("RUSTC", root.join("usr/bin/rustc"))
        .env("RUSTC_BOOTSTRAP", "1")
        .env("LD_LIBRARY_PATH", root.join("usr/lib/x86_64-linux-gnu"))
        .env("CARGO_TARGET_DIR", build);
    succeed(&mut cargo)
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|error| format!("{command:?}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}")) }
}
