//! `cargo xtask bench`: measures Howdah's pooler and PgBouncer side by side on one machine.

/// Runs the benchmark named by the arguments.
pub(crate) fn run(_arguments: Vec<String>) -> Result<(), String> {
    Err("the benchmark is being written".to_owned())
}
