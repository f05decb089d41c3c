//! The program as its users see it: command line, files, signals, and a real PostgreSQL behind it.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests are another process: they start programs, open sockets and wait by themselves"
)]

// What needs no server.
mod cli;
// One `howdah compute run` on a mount.
mod compute;
// Real drivers, each with its suite.
mod drivers;
// One `howdah up` in a folder of its own, and the programs to use it with.
mod instance;
// One `howdah node` with a file of the test's own.
mod node;
// What needs a server: nextest runs modules of this name two at a time.
mod postgres;
