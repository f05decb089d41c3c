//! Redo, judged by the page images that a server writes next to its records
//! (`wal_consistency_checking`), and by its files.

mod fixture;
mod postgres;
mod replica;
