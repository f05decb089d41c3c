//! The only place that prints: results to standard output, everything else to standard error.
#![expect(clippy::print_stderr, reason = "this is where the program prints")]

use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::error::Error;

/// One line of a result.
pub fn line(text: impl AsRef<str>) {
    // `println!` panics when the reader has gone away, as `head` does when it has seen enough.
    let _reader_gone = writeln!(std::io::stdout(), "{}", text.as_ref());
}

/// A result that is a file.
pub fn bytes(bytes: &[u8]) {
    let _reader_gone = std::io::stdout().write_all(bytes);
    flush();
}

/// A result as JSON: one line if nobody watches, laid out on a terminal.
pub fn json(value: &Value) {
    if std::io::stdout().is_terminal() {
        line(format!("{value:#}"));
    } else {
        line(value.to_string());
    }
    flush();
}

/// Makes what was printed visible to a program that reads it line by line.
pub fn flush() {
    // A reader that has gone away is not an error of ours.
    let _reader_gone = std::io::stdout().flush();
}

/// An error as PostgreSQL's programs print them.
pub fn error(error: &Error) {
    eprintln!("howdah: error: {error}");
}

/// A remark for a person.
pub fn note(text: impl AsRef<str>) {
    eprintln!("{}", text.as_ref());
}

/// A bar for long work, on a terminal only. `unit` is a plural: "blocks".
#[must_use]
pub fn progress(total: u64, what: &str, unit: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total);
    let template = format!("{what} {{wide_bar}} {{human_pos}}/{{human_len}} {unit}, {{eta}} left");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar
}
