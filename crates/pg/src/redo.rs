//! What a record does: to pages (one file per resource manager) and besides (`effects`).
//!
//! Every routine changes one page from the record and that page alone: nothing else is read.

pub mod effects;
