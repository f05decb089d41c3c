//! What the fuzz targets do, each a function of its input: libFuzzer calls them without end, the tests of `pooler` over the
//! corpus and what a little damage makes of it.

pub mod config;
pub mod datadir;
pub mod page;
pub mod redo;
pub mod replay;
pub mod scram;
pub mod seeds;
pub mod splitter;
pub mod sql;
pub mod startup;
pub mod state;
pub mod wal;
pub mod wire_backend;
pub mod wire_frontend;

/// What a target does with one input: it panics if anything is wrong.
pub type Target = fn(&[u8]);

/// Every target: its name, which is that of its corpus, and what it does.
pub const TARGETS: [(&str, Target); 13] = [
    ("config", config::run),
    ("datadir", datadir::run),
    ("page", page::run),
    ("redo", redo::run),
    ("replay", replay::run),
    ("scram", scram::run),
    ("splitter", splitter::run),
    ("sql", sql::run),
    ("startup", startup::run),
    ("state", state::run),
    ("wal", wal::run),
    ("wire_backend", wire_backend::run),
    ("wire_frontend", wire_frontend::run),
];
