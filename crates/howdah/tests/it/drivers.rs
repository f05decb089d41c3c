//! Real drivers through the pooler in transaction mode, with fewer servers than clients: psycopg,
//! node-postgres and psql (`/tests/drivers`), and tokio-postgres.

mod postgres;
mod tokio_driver;
