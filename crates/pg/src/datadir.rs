//! Files of a data directory: what their names and bytes mean.

pub mod backup_label;
pub mod boot;
pub mod control;
pub mod forks;
pub mod layout;
pub mod relation;
pub mod relmap;
pub mod slot;
pub mod slru;
