//! Rules about manifests: who may depend on whom, on what, and how much of it.

use super::report;
use crate::tree::{self, Kind};

/// The arrows between our own crates. A new arrow is an edit here and in ARCHITECTURE.md in one commit.
const ARROWS: &[(&str, &[&str])] = &[
    ("cluster", &[]),
    ("pg", &[]),
    ("runtime", &[]),
    ("storage", &["runtime"]),
    ("pooler", &["pg", "runtime"]),
    ("pageserver", &["pg", "runtime", "storage"]),
    ("compute", &["pg", "runtime", "pageserver"]),
    ("howdah", &["pg", "runtime", "pooler", "pageserver", "compute"]),
    ("xtask", &[]),
    ("fuzz", &["pg", "pooler", "howdah"]),
];

/// Crates of ours that are for tests alone, whoever's.
const FOR_TESTS: &[&str] = &["cluster"];

/// Libraries that only the named crates may use outside of tests.
const CONFINED: &[(&str, &[&str])] = &[
    ("tokio", &["runtime"]),
    ("axum", &["runtime"]),
    ("io-uring", &["runtime"]),
    ("object_store", &["storage"]),
    ("rustix", &["runtime"]),
    ("signal-hook", &["runtime"]),
    ("clap", &["howdah"]),
    ("indicatif", &["howdah"]),
];

/// Packages in Cargo.lock, ours included. Raise it on purpose, with the reason in the commit.
const PACKAGE_BUDGET: usize = 354;

#[test]
fn crates_depend_only_along_the_arrows() {
    let ours: Vec<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    let mut findings = Vec::new();
    for member in tree::crates() {
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == member.name) else {
            findings.push(format!("crate {} has no row in ARROWS", member.name));
            continue;
        };
        for (dependency, kind) in member.dependencies() {
            if FOR_TESTS.contains(&dependency.as_str()) && kind == Kind::Development {
                continue;
            }
            if ours.contains(&dependency.as_str()) && !allowed.contains(&dependency.as_str()) {
                findings.push(format!("{} -> {dependency} is not an arrow", member.name));
            }
        }
    }
    report("the arrows of ARCHITECTURE.md", &findings);
}

#[test]
fn confined_libraries_stay_where_they_belong() {
    let mut findings = Vec::new();
    for member in tree::crates() {
        for (dependency, kind) in member.dependencies() {
            let rule = CONFINED.iter().find(|(name, _)| *name == dependency);
            let Some((_, users)) = rule else { continue };
            if kind != Kind::Development && !users.contains(&member.name.as_str()) {
                findings.push(format!("{} uses {dependency}", member.name));
            }
        }
    }
    report("libraries confined to one crate", &findings);
}

#[test]
fn members_take_versions_lints_and_licence_from_the_workspace() {
    let mut findings = Vec::new();
    for member in tree::crates() {
        if matches!(member.name.as_str(), "fuzz" | "extension") {
            continue; // workspaces of their own
        }
        if !table(&member.manifest, "lints").is_some_and(inherits) {
            findings.push(format!("{}: [lints] workspace = true is missing", member.name));
        }
        let package = table(&member.manifest, "package").expect("a manifest has a [package]");
        for key in ["edition", "rust-version", "license", "publish"] {
            let value = package.get(key).and_then(|value| value.as_table());
            if !value.is_some_and(inherits) {
                findings.push(format!("{}: {key}.workspace = true is missing", member.name));
            }
        }
        if member.manifest.contains_key("features") {
            findings.push(format!("{}: our crates have no features", member.name));
        }
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, value) in table(&member.manifest, section).into_iter().flatten() {
                if !value.as_table().is_some_and(inherits) {
                    findings.push(format!("{}: {name} has a version of its own", member.name));
                }
            }
        }
    }
    report("manifests inherit from the workspace", &findings);
}

fn table<'a>(manifest: &'a toml::Table, key: &str) -> Option<&'a toml::Table> {
    manifest.get(key).and_then(|value| value.as_table())
}

fn inherits(value: &toml::Table) -> bool {
    value.get("workspace").and_then(|value| value.as_bool()) == Some(true)
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest: toml::Table =
        toml::from_str(&tree::text(&tree::root().join("Cargo.toml"))).expect("TOML");
    let names = table(&manifest, "workspace")
        .and_then(|workspace| table(workspace, "dependencies"))
        .expect("the workspace names its dependencies");
    let architecture = tree::text(&tree::root().join("ARCHITECTURE.md"));
    let mut findings = Vec::new();
    for (name, value) in names {
        let ours = value.as_table().is_some_and(|value| value.contains_key("path"));
        let row = format!("| `{name}` | ");
        let reason = architecture.lines().find_map(|line| line.strip_prefix(&row));
        if !ours && reason.is_none_or(|reason| reason.trim_end_matches(['|', ' ']).len() < 10) {
            findings.push(format!("{name}: no row {row}reason | in ARCHITECTURE.md"));
        }
    }
    for line in architecture.lines() {
        let name = line.strip_prefix("| `").and_then(|rest| rest.split_once('`'));
        let Some((name, _)) = name else { continue };
        let known = names.contains_key(name) || ARROWS.iter().any(|(ours, _)| *ours == name);
        if !known {
            findings.push(format!("{name}: a reason for a dependency that is not there"));
        }
    }
    report("a reason for each dependency", &findings);
}

#[test]
fn the_lock_file_keeps_to_its_budget() {
    let lock = tree::text(&tree::root().join("Cargo.lock"));
    let packages = lock.lines().filter(|line| *line == "[[package]]").count();
    assert!(
        packages <= PACKAGE_BUDGET,
        "{packages} packages in Cargo.lock, the budget is {PACKAGE_BUDGET}"
    );
}
