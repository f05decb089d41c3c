//! The rules of STYLE.md and ARCHITECTURE.md that neither the compiler nor clippy can state, as tests.
//! Each file of `tidy/` holds the rules for one kind of thing.

mod documents;
mod manifests;
mod sources;

/// Fails with every finding at once: one run shows all that is to be done.
fn report(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}
