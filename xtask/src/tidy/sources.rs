//! Rules about Rust files: head comment, length, names, unsafe code, leftovers, reachability.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::report;
use crate::{lexer, tree};

/// Lines of a file that are not tests.
const LINES_MAX: usize = 1000;

/// Names that say nothing about what is inside.
const BANNED_NAMES: &[&str] =
    &["util", "utils", "common", "misc", "helper", "helpers", "types", "stuff"];

fn sources() -> Vec<PathBuf> {
    tree::files(&tree::root(), "rs")
}

#[test]
fn the_first_line_of_a_file_says_what_it_is_for() {
    let mut findings = Vec::new();
    for path in sources() {
        let text = tree::text(&path);
        let first = text.lines().next().unwrap_or_default();
        if !first.starts_with("//! ") || first.len() < 20 || first.contains("placeholder") {
            findings.push(tree::shown(&path));
        }
    }
    report("the first line of a file is //! and says what the file is for", &findings);
}

#[test]
fn files_are_short_enough_to_be_read() {
    let mut findings = Vec::new();
    for path in sources() {
        let lines = lines_without_tests(&path, &tree::text(&path));
        if lines > LINES_MAX {
            findings.push(format!("{}: {lines} lines", tree::shown(&path)));
        }
    }
    report("at most 1000 lines that are not tests", &findings);
}

fn lines_without_tests(path: &Path, text: &str) -> usize {
    if is_test(path) {
        return 0;
    }
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| {
        pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
    });
    tests.unwrap_or(lines.len())
}

fn is_test(path: &Path) -> bool {
    let shown = tree::shown(path);
    shown.contains("/tests/") || shown.ends_with("/tests.rs")
}

#[test]
fn unsafe_code_stays_under_sys() {
    let word = concat!("un", "safe");
    let mut findings = Vec::new();
    for path in sources() {
        let shown = tree::shown(&path);
        if shown.starts_with("crates/runtime/src/sys") {
            continue;
        }
        let text = tree::text(&path);
        // A benchmark may compare with a raw loop if it says why at its head.
        let argued = shown.contains("/benches/") && expects_unsafe(&text);
        for (number, line) in lexer::code(&text).lines().enumerate() {
            if words(line).any(|found| found == word) && !argued {
                findings.push(format!("{shown}:{}", number + 1));
            }
        }
    }
    report("unsafe code outside of crates/runtime/src/sys", &findings);
}

fn expects_unsafe(text: &str) -> bool {
    let flat: String = text.split_whitespace().collect();
    flat.contains(concat!("#![expect(un", "safe_code,reason="))
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

#[test]
fn nothing_is_left_to_do_in_a_comment() {
    let marks = [concat!("FIX", "ME"), concat!("TO", "DO"), concat!("XX", "X")];
    let mut findings = Vec::new();
    for extension in ["rs", "md", "toml"] {
        for path in tree::files(&tree::root(), extension) {
            for (number, line) in tree::text(&path).lines().enumerate() {
                if words(line).any(|word| marks.contains(&word)) {
                    findings.push(format!("{}:{}", tree::shown(&path), number + 1));
                }
            }
        }
    }
    report("a leftover mark; do it, or write it into the issue", &findings);
}

#[test]
fn names_say_what_is_inside() {
    let mut findings = Vec::new();
    for path in sources() {
        for part in Path::new(&tree::shown(&path)).with_extension("").components() {
            let part = part.as_os_str().to_string_lossy().into_owned();
            if BANNED_NAMES.contains(&part.as_str()) {
                findings.push(tree::shown(&path));
            }
        }
    }
    report("a name that says nothing", &findings);
}

#[test]
fn lints_are_suppressed_with_a_reason() {
    let mut findings = Vec::new();
    for path in sources() {
        for (number, line) in lexer::code(&tree::text(&path)).lines().enumerate() {
            if line.trim_start().starts_with("#[allow(") || line.starts_with("#![allow(") {
                findings.push(format!("{}:{}", tree::shown(&path), number + 1));
            }
        }
    }
    report("suppress with #[expect(lint, reason = \"...\")]", &findings);
}

#[test]
fn every_file_is_reachable() {
    let mut findings = Vec::new();
    for member in tree::crates() {
        let mut reached = BTreeSet::new();
        for root in compilation_roots(&member) {
            reach(&root, true, &mut reached);
        }
        for path in tree::files(&member.folder, "rs") {
            if !reached.contains(&path) {
                findings.push(tree::shown(&path));
            }
        }
    }
    report("a file that no `mod` names", &findings);
}

/// Files that cargo compiles by themselves.
fn compilation_roots(member: &tree::Crate) -> Vec<PathBuf> {
    let mut roots = vec![
        member.folder.join("build.rs"),
        member.folder.join("src/lib.rs"),
        member.folder.join("src/main.rs"),
    ];
    for folder in ["src/bin", "tests", "benches", "examples", "fuzz_targets"] {
        let folder = member.folder.join(folder);
        for path in tree::files(&folder, "rs") {
            let direct = path.parent() == Some(folder.as_path());
            let nested = path.ends_with("main.rs")
                && path.parent().and_then(Path::parent) == Some(folder.as_path());
            if direct || nested {
                roots.push(path);
            }
        }
    }
    roots.retain(|path| path.is_file());
    roots
}

/// Follows `mod name;` and `#[path = "..."]` from one file.
fn reach(path: &Path, root: bool, reached: &mut BTreeSet<PathBuf>) {
    if !reached.insert(path.to_path_buf()) {
        return;
    }
    let folder = path.parent().expect("a file has a folder");
    let stem = path.file_stem().expect("a file has a name");
    let below = if root || stem == "mod" { folder.to_path_buf() } else { folder.join(stem) };
    let mut named = None;
    for line in tree::text(path).lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("#[path = \"") {
            named = rest.split_once('"').map(|(file, _)| folder.join(file));
            continue;
        }
        let Some(name) = module(line) else { continue };
        let candidates = match named.take() {
            Some(file) => vec![file],
            None => vec![below.join(format!("{name}.rs")), below.join(name).join("mod.rs")],
        };
        for file in candidates.into_iter().filter(|file| file.is_file()) {
            reach(&normal(&file), false, reached);
        }
    }
}

/// The name in `[pub[(...)]] mod name;`.
fn module(line: &str) -> Option<&str> {
    let name = line.split_once("mod ")?;
    let before = name.0.trim();
    let plain = before.is_empty() || before == "pub" || before.starts_with("pub(");
    let name = name.1.strip_suffix(';')?.trim();
    (plain && name.chars().all(|c| c.is_alphanumeric() || c == '_')).then_some(name)
}

/// `a/../b` as `b`, so that paths compare.
fn normal(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
}

#[test]
fn a_module_line_is_told_from_a_sentence() {
    assert_eq!(module("mod wire;"), Some("wire"));
    assert_eq!(module("pub(crate) mod wire;"), Some("wire"));
    assert_eq!(module("// one mod wire;"), None);
    assert_eq!(module("mod tests {"), None);
}

#[test]
fn tests_do_not_count_as_lines() {
    let text = "//! x\nfn a() {}\n#[cfg(test)]\nmod tests {\n}\n";
    assert_eq!(lines_without_tests(Path::new("src/a.rs"), text), 2);
    assert_eq!(lines_without_tests(Path::new("src/a/tests.rs"), text), 0);
}
