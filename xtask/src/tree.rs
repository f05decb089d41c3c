//! The checkout as data: its root, its files, its crates and their manifests.

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) use crate::root;

/// Folders that are not ours to judge: build output, version control, local state.
const SKIPPED: &[&str] = &["target", ".git", "node_modules", "data", "artifacts", "corpus"];

/// The text of a file below the root. Panics with the path: every caller names a file that must exist.
pub(crate) fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files below `folder` whose name ends in `.extension`, sorted, without build output.
pub(crate) fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![folder.to_path_buf()];
    while let Some(folder) = todo.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if !SKIPPED.contains(&name.as_str()) {
                    todo.push(path);
                }
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Path relative to the root, for messages.
pub(crate) fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// One crate of the checkout, satellites included.
pub(crate) struct Crate {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) manifest: toml::Table,
}

impl Crate {
    /// Names under `[dependencies]`, `[dev-dependencies]`, `[build-dependencies]`, for any target.
    pub(crate) fn dependencies(&self) -> Vec<(String, Kind)> {
        let mut found = Vec::new();
        collect(&self.manifest, &mut found);
        if let Some(targets) = self.manifest.get("target").and_then(|value| value.as_table()) {
            for target in targets.values().filter_map(|value| value.as_table()) {
                collect(target, &mut found);
            }
        }
        found.sort();
        found.dedup();
        found
    }
}

/// Which table of the manifest names the dependency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Normal,
    Development,
    Build,
}

fn collect(table: &toml::Table, found: &mut Vec<(String, Kind)>) {
    let sections = [
        ("dependencies", Kind::Normal),
        ("dev-dependencies", Kind::Development),
        ("build-dependencies", Kind::Build),
    ];
    for (section, kind) in sections {
        if let Some(names) = table.get(section).and_then(|value| value.as_table()) {
            found.extend(names.keys().map(|name| (name.clone(), kind)));
        }
    }
}

/// Every crate: the members, and the satellites that are workspaces of their own.
pub(crate) fn crates() -> Vec<Crate> {
    let root = root();
    let mut folders = vec![root.join("xtask"), root.join("fuzz"), root.join("extension")];
    if let Ok(entries) = fs::read_dir(root.join("crates")) {
        folders.extend(entries.flatten().map(|entry| entry.path()));
    }
    folders.sort();
    folders.retain(|folder| folder.join("Cargo.toml").is_file());
    folders.into_iter().map(load).collect()
}

fn load(folder: PathBuf) -> Crate {
    let manifest: toml::Table =
        toml::from_str(&text(&folder.join("Cargo.toml"))).expect("a manifest is TOML");
    let name = folder.file_name().expect("a folder has a name").to_string_lossy().into_owned();
    Crate { name, folder, manifest }
}
