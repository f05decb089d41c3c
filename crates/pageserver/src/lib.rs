//! WAL in, page versions kept, GetPage@LSN out.
//!
//! In reading order: [`follower`] keeps in step with Postgres by way of [`basebackup`] and [`walreceiver`]; [`ingest`]
//! fills the [`index`] of a [`timeline`]; [`get_page`] rebuilds pages; [`page_service`] and [`client`] are the two
//! ends of the wire; [`verify`] compares with a stopped cluster.
//!
//! It knows nothing of pooling, and of SQL only the commands of a replication connection.

mod answers;
pub mod api;
pub mod applet;
pub mod archive;
pub mod attachment;
pub mod base_files;
pub mod basebackup;
pub mod boot_image;
pub mod boundary;
pub mod branches;
pub mod bytes;
pub mod catalog;
pub mod client;
pub mod connection;
pub mod error;
pub mod flush;
pub mod follower;
pub mod get_page;
pub mod history;
pub mod identity;
pub mod images;
pub mod import;
pub mod index;
pub mod ingest;
pub mod keys;
pub mod leases;
pub mod limits;
pub mod lineage;
pub mod link;
pub mod login;
pub mod maintenance;
pub mod manifest;
pub mod messages;
pub mod metrics;
pub mod moment;
pub mod page_cache;
pub mod page_service;
pub mod payload;
pub mod promotion;
pub mod remote;
pub mod replica;
pub mod restore;
pub mod retention;
pub mod scrub;
mod sealed;
pub mod server;
pub mod settings;
pub mod state;
pub mod time;
pub mod timeline;
pub mod tls;
pub mod verify;
pub mod versions;
pub mod wal_store;
pub mod walreceiver;
pub mod watch;
