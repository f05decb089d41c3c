//! Integration tests of the pooler, one binary.

mod bad_input;
mod console;
#[cfg(test)]
mod fuzz;
mod postgres;
mod settings;
mod targets;
mod world;
