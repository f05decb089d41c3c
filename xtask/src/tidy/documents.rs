//! Rules about Markdown: crate READMEs list their files, links lead somewhere.

use std::collections::BTreeSet;
use std::path::Path;

use super::report;
use crate::tree;

#[test]
fn a_crate_readme_lists_every_file() {
    let mut findings = Vec::new();
    for member in tree::crates() {
        if member.name == "fuzz" {
            continue;
        }
        let readme = member.folder.join("README.md");
        if !readme.is_file() {
            findings.push(format!("{}: no README.md", member.name));
            continue;
        }
        let listed = listed_files(&tree::text(&readme));
        let source = member.folder.join("src");
        for path in tree::files(&source, "rs") {
            let name = path.strip_prefix(&source).expect("below src").display().to_string();
            if !listed.contains(&name) {
                findings.push(format!("{}: README.md does not list {name}", member.name));
            }
        }
        for name in listed {
            let exists = source.join(&name).is_file() || member.folder.join(&name).is_file();
            if !exists {
                findings
                    .push(format!("{}: README.md lists {name}, which is not there", member.name));
            }
        }
    }
    report("each crate's README.md lists the files of src", &findings);
}

/// Files named at the head of a table row or list item, with `{a,b}` expanded.
fn listed_files(readme: &str) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    for line in readme.lines() {
        let line = line.trim_start();
        let Some(row) = line.strip_prefix("| ").or_else(|| line.strip_prefix("- ")) else {
            continue;
        };
        let cell = row.split(" | ").next().unwrap_or_default();
        let cell = cell.split(": ").next().unwrap_or_default();
        for span in cell.split('`').skip(1).step_by(2) {
            for word in span.split_whitespace().filter(|word| word.ends_with(".rs")) {
                files.extend(expand(word.strip_prefix("src/").unwrap_or(word)));
            }
        }
    }
    files
}

/// `a/{b,c}.rs` as `a/b.rs` and `a/c.rs`.
fn expand(pattern: &str) -> Vec<String> {
    let Some((before, rest)) = pattern.split_once('{') else { return vec![pattern.to_owned()] };
    let Some((inside, after)) = rest.split_once('}') else { return vec![pattern.to_owned()] };
    inside.split(',').map(|part| format!("{before}{}{after}", part.trim())).collect()
}

#[test]
fn links_in_documents_lead_somewhere() {
    let mut findings = Vec::new();
    for path in tree::files(&tree::root(), "md") {
        let text = tree::text(&path);
        for target in links(&text) {
            let file = target.split('#').next().unwrap_or_default();
            let external = target.contains("://") || target.starts_with("mailto:");
            if external || file.is_empty() {
                continue;
            }
            let folder = path.parent().expect("a file has a folder");
            if !folder.join(file).exists() {
                findings.push(format!("{}: {target}", tree::shown(&path)));
            }
        }
    }
    report("a link to something that is not there", &findings);
}

/// Targets of `[text](target)` outside of code blocks.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        for piece in line.split("](").skip(1).filter(|_| !fenced) {
            if let Some((target, _)) = piece.split_once(')') {
                found.push(target.trim().to_owned());
            }
        }
    }
    found
}

#[test]
fn the_documents_of_the_root_are_there() {
    let names =
        ["README.md", "ARCHITECTURE.md", "STYLE.md", "CHANGELOG.md", "LICENSE", "howdah.toml"];
    let missing: Vec<String> = names
        .into_iter()
        .filter(|name| !Path::new(&tree::root()).join(name).is_file())
        .map(str::to_owned)
        .collect();
    report("a document of the root is missing", &missing);
}

#[test]
fn braces_stand_for_several_files() {
    let listed = listed_files("| `a.rs`, `b/{c,d}.rs` | text with `x.rs` |\n- `src/e.rs`: job\n");
    let expected = ["a.rs", "b/c.rs", "b/d.rs", "e.rs"].map(str::to_owned);
    assert_eq!(listed, BTreeSet::from(expected));
}

#[test]
fn links_are_found_outside_of_code() {
    assert_eq!(links("see [a](b.md) and [c](d.md#e)\n```\n[x](y)\n```\n"), ["b.md", "d.md#e"]);
}
